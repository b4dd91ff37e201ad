"""finetune: the weights that coalitions are sampled from, by the removal method of their game. Shards divide
the training runs among themselves, so weights that several coalitions share are made once."""

from collections.abc import Callable
from functools import partial

from apportion.diffusion.compute import Compute, prepare
from apportion.diffusion.removal import Case, remove
from apportion.errors import DiffusionError
from apportion.progress import Ticker, bar
from apportion.records import Cost
from apportion.rounds.cost import timed
from apportion.rounds.models import dump_model, load_model
from apportion.rounds.round import Round
from apportion.rounds.training_data import training_images
from apportion.rounds.weights import Weights, missing_weights
from apportion.store.layout import weights_key
from apportion.store.leases import in_turn


def run(round_uri: str, shard: int = 0) -> int:
    """Makes what is missing; returns how many sets of weights were made."""
    return make(Round.open(round_uri), shard)


def make(this_round: Round, shard: int = 0, stop: Callable[[], bool] = lambda: False) -> int:
    """As `run`, for a round that is open; it ends before the next training run once `stop` is true."""
    todo, options = missing_weights(this_round, shard), this_round.config.compute
    made = 0
    with bar(sum(map(_steps, todo.values())), f"finetune {shard}", "step") as progress:
        for key in in_turn(this_round.store, todo, stop):
            weights = todo[key]
            compute = prepare(options.device, weights.recipe.precision, options.threads)
            stored = this_round.store.ensure(
                key, partial(_trained, this_round, weights, compute, progress.update)
            )
            if not stored:
                progress.update(_steps(weights))
            made += stored
    return made


def _trained(this_round: Round, weights: Weights, compute: Compute, tick: Ticker) -> bytes:
    recipe, training = weights.recipe, weights.run
    start = None
    if recipe.start is not None:
        start, _ = load_model(this_round.store, recipe, weights_key(recipe.start.id), compute)
    kept = training_images(this_round.store, training.data, recipe.resolution)
    try:
        with timed() as clock:
            model = remove(Case(recipe, start, kept, training.seed, compute, tick))
    except DiffusionError as error:
        names = [who.name for who in this_round.manifest.contributors if who.data in set(training.data)]
        of = f"{names[0]!r} alone" if len(names) == 1 else f"{len(names)} contributors"
        raise DiffusionError(f"{error} (model of {of}, seed {training.seed})") from error
    return dump_model(recipe, model, Cost(finetune=clock.seconds, device=compute.name))


def _steps(weights: Weights) -> int:
    return weights.recipe.steps if weights.run.data else 0
