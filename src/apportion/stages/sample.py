"""sample: seeded images of every pending coalition's model."""

from functools import partial

from apportion.diffusion.compute import prepare
from apportion.progress import Ticker, bar
from apportion.records import Wanted
from apportion.rounds.models import generate, load_sampler
from apportion.rounds.round import Round
from apportion.rounds.samples import dump_samples


def run(round_uri: str, shard: int = 0) -> int:
    """Makes what is missing; returns how many sets of images were made."""
    this_round = Round.open(round_uri)
    todo = this_round.pending(shard)
    images = [this_round.games[item.game].sampling.images for item in todo]
    made = 0
    with bar(sum(images), f"sample {shard}", "image") as progress:
        for item, count in zip(todo, images, strict=True):
            key = this_round.samples_key(item)
            stored = this_round.store.ensure(key, partial(_images, this_round, item, progress.update))
            if not stored:
                progress.update(count)
            made += stored
    return made


def _images(this_round: Round, wanted: Wanted, tick: Ticker) -> bytes:
    game, options = this_round.games[wanted.game], this_round.config.compute
    compute = prepare(options.device, game.recipe.precision, options.threads)
    sampler, cost = load_sampler(this_round, wanted, compute)
    return dump_samples(*generate(game.recipe, sampler, game.sampling, wanted.seed, compute, cost, tick))
