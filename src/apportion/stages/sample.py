"""sample: seeded images of every pending coalition's model."""

from functools import partial

from apportion.diffusion.compute import Compute, prepare
from apportion.diffusion.train import Ticker
from apportion.progress import bar
from apportion.records import Wanted
from apportion.stages.generated import dump_samples
from apportion.stages.models import generate, load_model
from apportion.stages.round import Round


def run(round_uri: str, shard: int = 0) -> int:
    """Makes what is absent; returns how many sets of images were made."""
    round = Round.open(round_uri)
    return make(round, round.pending(shard), shard)


def make(round: Round, todo: list[Wanted], shard: int = 0) -> int:
    """As `run`, for coalitions of the caller's choice."""
    compute = prepare(round.config.compute.device, round.credit_game.recipe.precision, round.config.compute.threads)
    made, images = 0, round.config.sampling.images
    with bar(len(todo) * images, f"sample {shard}", "image") as progress:
        for item in todo:
            done = round.store.ensure(round.samples_key(item), partial(_images, round, item, compute, progress.update))
            if not done:
                progress.update(images)
            made += done
    return made


def _images(round: Round, wanted: Wanted, compute: Compute, tick: Ticker) -> bytes:
    unet, spent = load_model(round.store, round.weights_key(wanted), compute)
    return dump_samples(*generate(unet, round.config, wanted.seed, compute, spent, tick))
