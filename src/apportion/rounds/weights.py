"""The training runs of a round: which weights its coalitions are sampled from, and what those cost that are
part of mixtures."""

from collections import defaultdict
from dataclasses import dataclass, field

from apportion.config.removal import Part, RemovalOptions, TrainingRun
from apportion.records import Cost, Recipe, Wanted
from apportion.rounds.cost import read_cost
from apportion.rounds.round import Round
from apportion.store.layout import weights_key


@dataclass
class Weights:
    """One set of weights that a round needs, made by a training run. users: the evaluations whose images are
    sampled from it. shared: whether it is part of mixtures, rather than the whole model of one coalition."""

    recipe: Recipe
    run: TrainingRun
    users: list[Wanted] = field(default_factory=list)
    shared: bool = False


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
    pending = {item.key for item in this_round.ledger.pending(this_round.wanted)}
    sampled: dict[str, bool] = {}

    def needed(item: Wanted) -> bool:
        if item.key not in pending:
            return False
        if item.key not in sampled:
            sampled[item.key] = this_round.store.exists(this_round.samples_key(item))
        return not sampled[item.key]

    weights = all_weights(this_round)
    own = this_round.part(list(weights), shard)
    return {key: weights[key] for key in own if any(needed(item) for item in weights[key].users)}


def shared_costs(this_round: Round) -> dict[str, list[Cost]]:
    """What the weights cost that are part of mixtures, by the id of their game. The records of coalitions do
    not contain it. Weights that have expired are left out."""
    costs: dict[str, list[Cost]] = defaultdict(list)
    for key, weights in all_weights(this_round).items():
        if weights.shared and this_round.store.exists(key):
            cost = read_cost(this_round.store.get(key), this_round.store.where(key))
            costs[weights.users[0].game].append(cost)
    return costs
