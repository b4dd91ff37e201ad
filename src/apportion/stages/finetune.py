"""finetune: the model of every pending coalition of a shard, by the removal method of its game."""

from functools import partial

from apportion.config import Fitting
from apportion.diffusion.compute import Compute, prepare
from apportion.diffusion.removal import Case, remove
from apportion.diffusion.train import Ticker
from apportion.progress import bar
from apportion.records import Wanted
from apportion.stages.collection import training_images
from apportion.stages.models import dump_model, load_model
from apportion.stages.round import Round, weights_key
from apportion.stages.spent import timed


def run(round_uri: str, shard: int = 0) -> int:
    """Makes what is absent; returns how many models were made."""
    round = Round.open(round_uri)
    return make(round, round.pending(shard), shard)


def make(round: Round, pending: list[Wanted], shard: int = 0) -> int:
    """As `run`, for coalitions of the caller's choice."""
    todo = [item for item in pending if not round.store.exists(round.samples_key(item))]
    compute = prepare(round.config.compute.device, round.credit_game.recipe.precision, round.config.compute.threads)
    made = 0
    with bar(sum(_steps(round, item) for item in todo), f"finetune {shard}", "step") as progress:
        for item in todo:
            done = round.store.ensure(round.weights_key(item), partial(_model, round, item, compute, progress.update))
            if not done:
                progress.update(_steps(round, item))
            made += done
    return made


def _model(round: Round, wanted: Wanted, compute: Compute, tick: Ticker) -> bytes:
    config, recipe = round.config, round.game(wanted).recipe
    base = None if recipe.base is None else load_model(round.store, weights_key(recipe.base), compute)[0]
    kept = training_images(round.store, round.data(wanted), recipe.resolution)
    fitting = Fitting.model_validate(recipe.removal["fitting"])
    with timed() as clock:
        case = Case(base, config.model, recipe.resolution, kept, fitting, wanted.seed, compute, tick)
        unet = remove(recipe.removal["method"], case)
    return dump_model(unet, clock.seconds, compute)


def _steps(round: Round, wanted: Wanted) -> int:
    return int(round.game(wanted).recipe.removal["fitting"]["steps"]) if round.data(wanted) else 0
