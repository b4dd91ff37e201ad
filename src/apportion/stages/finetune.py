"""finetune: the weights that a shard's pending coalitions are sampled from, by the removal method of their
game."""

from functools import partial

from apportion.config.removal import TrainingRun
from apportion.diffusion.compute import Compute, prepare
from apportion.diffusion.removal import Case, remove
from apportion.progress import Ticker, bar
from apportion.records import Cost, Recipe, Wanted
from apportion.rounds.cost import timed
from apportion.rounds.models import dump_model, load_model
from apportion.rounds.round import Round
from apportion.rounds.training_data import training_images
from apportion.store.layout import weights_key


def run(round_uri: str, shard: int = 0) -> int:
    """Makes what is missing; returns how many sets of weights were made."""
    this_round = Round.open(round_uri)
    return make(this_round, this_round.pending(shard), shard)


def make(this_round: Round, pending: list[Wanted], shard: int = 0) -> int:
    """As `run`, for coalitions that the caller chooses."""
    todo = [item for item in pending if not this_round.store.exists(this_round.samples_key(item))]
    options = this_round.config.compute
    runs = _runs(this_round, todo)
    steps = sum(_steps(recipe, training) for recipe, training in runs.values())
    made = 0
    with bar(steps, f"finetune {shard}", "step") as progress:
        for key, (recipe, training) in runs.items():
            compute = prepare(options.device, recipe.precision, options.threads)
            make_weights = partial(_weights, this_round, recipe, training, compute, progress.update)
            stored = this_round.store.ensure(key, make_weights)
            if not stored:
                progress.update(_steps(recipe, training))
            made += stored
    return made


def _runs(this_round: Round, todo: list[Wanted]) -> dict[str, tuple[Recipe, TrainingRun]]:
    """The training runs that the coalitions' mixtures consist of, each once, by the key of their weights."""
    runs = {}
    for item in todo:
        recipe = this_round.games[item.game].recipe
        for part in this_round.mixture(item).parts:
            if part.run is not None:
                runs[weights_key(recipe.weights(part))] = (recipe, part.run)
    return runs


def _weights(
    this_round: Round, recipe: Recipe, training: TrainingRun, compute: Compute, tick: Ticker
) -> bytes:
    start = None
    if recipe.start is not None:
        start, _ = load_model(this_round.store, recipe, weights_key(recipe.start.id), compute)
    kept = training_images(this_round.store, training.data, recipe.resolution)
    with timed() as clock:
        model = remove(Case(recipe, start, kept, training.seed, compute, tick))
    return dump_model(recipe, model, Cost(finetune=clock.seconds, device=compute.name))


def _steps(recipe: Recipe, training: TrainingRun) -> int:
    return recipe.steps if training.data else 0
