"""The training runs of a round: which weights its coalitions are sampled from, and what those cost that are
part of mixtures."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

from apportion.config.removal import Part, RemovalOptions, TrainingRun
from apportion.errors import NotFound
from apportion.records import Cost, Purpose, Recipe, Wanted
from apportion.rounds.cost import read_cost
from apportion.rounds.round import Round
from apportion.store import Store
from apportion.store.layout import cost_key, weights_key


@dataclass
class Weights:
    """One set of weights that a round needs, made by a training run. users: the evaluations whose images are
    sampled from it. shared: whether it is part of mixtures, rather than the whole model of one coalition."""

    recipe: Recipe
    run: TrainingRun
    users: list[Wanted] = field(default_factory=list)
    shared: bool = False

    @cached_property
    def address(self) -> str:
        return self.recipe.weights(Part(self.run))

    @property
    def game(self) -> str:
        """The id of the game that the weights are for."""
        return self.users[0].game


def own_part(this_round: Round, wanted: Wanted) -> Part:
    """The part of a mixture that is trained with the seed and on the data of the coalition itself, for no
    other coalition."""
    return Part(TrainingRun(wanted.seed, this_round.data(wanted)))


def has_own_weights(this_round: Round, wanted: Wanted) -> bool:
    """Whether a coalition is sampled from one model that no other coalition uses. An expert is the model of
    its contributor alone, but belongs to all coalitions of its set."""
    removal = this_round.games[wanted.game].recipe.removal
    alone = this_round.mixture(wanted).parts == (own_part(this_round, wanted),)
    mixed = type(removal).mixture is not RemovalOptions.mixture and this_round.data(wanted) != ()
    return alone and not mixed


def all_weights(this_round: Round) -> dict[str, Weights]:
    """Every set of weights that a round needs and a training run makes, by its key. Weights of retrained
    coalitions come first."""
    weights: dict[str, Weights] = {}
    keys: dict[tuple[str, TrainingRun], str] = {}  # a mixture may have hundreds of parts, the same in each
    for item in this_round.distinct():
        recipe, mixture = this_round.games[item.game].recipe, this_round.mixture(item)
        shared = not has_own_weights(this_round, item)
        for part in mixture.parts:
            if part.run is None:
                continue
            if (item.game, part.run) not in keys:
                keys[item.game, part.run] = weights_key(recipe.weights(part))
            row = weights.setdefault(keys[item.game, part.run], Weights(recipe, part.run))
            row.users.append(item)
            row.shared = row.shared or shared
    return weights


def missing_weights(this_round: Round, shard: int) -> dict[str, Weights]:
    """The weights of one shard that are needed: those with an evaluation that has neither a record nor
    images. Raises ConfigError for a shard that the round does not have."""
    weights = all_weights(this_round)
    own = set(this_round.part(list(weights), shard))
    pending = this_round.ledger.pending(this_round.wanted)
    return _needed(this_round, {key: row for key, row in weights.items() if key in own}, pending)


def untrained_shared_weights(this_round: Round, pending: Iterable[Wanted] | None = None) -> dict[str, int]:
    """How many weights that are part of mixtures have still to be trained for a round, by the id of their
    game; games without any are left out. pending: its evaluations without a record, where they are known;
    else the ledger is listed."""
    if pending is None:
        pending = this_round.ledger.pending(this_round.wanted)
    shared = {row.address: row for row in _shared_weights(this_round)}
    stored = this_round.store.exists
    absent = {address: row for address, row in shared.items() if not stored(weights_key(address))}
    counts: dict[str, int] = defaultdict(int)
    for row in _needed(this_round, absent, pending).values():
        counts[row.game] += 1
    return dict(counts)


def _needed(this_round: Round, weights: dict[str, Weights], pending: Iterable[Wanted]) -> dict[str, Weights]:
    """Those of `weights` with a pending evaluation that has no images."""
    unknown = {item.key for item in pending}
    sampled: dict[str, bool] = {}

    def needed(item: Wanted) -> bool:
        if item.key not in unknown:
            return False
        if item.key not in sampled:
            sampled[item.key] = this_round.store.exists(this_round.samples_key(item))
        return not sampled[item.key]

    return {key: row for key, row in weights.items() if any(needed(item) for item in row.users)}


def _shared_weights(this_round: Round) -> Iterator[Weights]:
    return (row for row in all_weights(this_round).values() if row.shared)


# What shared weights cost


def keep_cost(store: Store, game: str, address: str, cost: Cost) -> None:
    """Records, once, what weights cost that coalitions of a game share: the records of coalitions do not
    contain it, and the weights may expire."""
    store.ensure(cost_key(game, address), cost.dump)


def kept_cost(store: Store, game: str, address: str) -> Cost | None:
    """What weights cost: from its record, or from the weights themselves where no coalition was sampled from
    them yet; None where neither is there. Raises Damaged."""
    record, weights = cost_key(game, address), weights_key(address)
    if store.exists(record):
        return Cost.parse(store.get(record), store.where(record))
    if store.exists(weights):
        return read_cost(store.get(weights), store.where(weights))
    return None


def shared_costs(this_round: Round) -> dict[str, list[Cost]]:
    """What the weights cost that are part of mixtures, by the id of their game. Weights of unknown cost are
    left out: those that were not trained yet, and those of which neither a record nor the weights are
    there."""
    costs: dict[str, list[Cost]] = defaultdict(list)
    for row in _shared_weights(this_round):
        cost = kept_cost(this_round.store, row.game, row.address)
        if cost is not None:
            costs[row.game].append(cost)
    return dict(costs)


def shared_cost_per_coalition(this_round: Round, game: str) -> float:
    """Seconds of training the weights that coalitions of a game share, divided by the coalitions of the
    round's design; 0 where they share none.

    Weights of unknown cost count as the mean of the others: they are trained for as many steps. nan where
    nothing is known of any.
    """
    needed = sum(row.game == game for row in _shared_weights(this_round))
    if not needed:
        return 0.0
    known = [cost.finetune for cost in shared_costs(this_round).get(game, [])]
    design = {item.key for item in this_round.plan.wanted if item.purpose == "design"}
    return needed * fmean(known) / len(design) if known else math.nan


def cost_per_coalition(this_round: Round, purpose: Purpose) -> float:
    """Seconds of one coalition, the mean over the evaluations of a purpose, with its part of what the weights
    cost that coalitions share; nan where that is not known. Raises NotFound where one is not evaluated, or
    the round has none."""
    evaluations = this_round.evaluations(purpose)
    if not evaluations:
        raise NotFound(f"found no evaluations for {purpose!r} in round {this_round.id}, expected some")
    own = fmean(evaluation.cost.total for _, evaluation in evaluations)
    return own + shared_cost_per_coalition(this_round, evaluations[0][0].game)
