"""sample: seeded images of every pending coalition's model. Their time includes that of loading the model, or
of loading and averaging the models that it is a mixture of."""

from functools import cache, partial

from apportion.diffusion.compute import Compute, prepare
from apportion.progress import bar
from apportion.records import Wanted
from apportion.rounds.cost import timed
from apportion.rounds.models import SharedModels, generate, load_sampler
from apportion.rounds.round import Round
from apportion.rounds.samples import dump_samples
from apportion.store.leases import in_turn


def run(round_uri: str, shard: int = 0) -> int:
    """Makes what is missing; returns how many sets of images were made."""
    return make(Round.open(round_uri), shard)


def make(this_round: Round, shard: int = 0) -> int:
    """As `run`, for a round that is open."""
    pending = (item for item in this_round.pending(shard) if this_round.generates(item))
    todo = {this_round.samples_key(item): item for item in pending}
    images = {key: this_round.games[item.game].sampling.images for key, item in todo.items()}

    @cache
    def prepared(precision: str) -> tuple[Compute, SharedModels]:
        options = this_round.config.compute
        compute = prepare(options.device, precision, options.threads)
        return compute, SharedModels(this_round, compute)

    with bar(sum(images.values()), f"sample {shard}", "image") as progress:

        def images_of(item: Wanted) -> bytes:
            game = this_round.games[item.game]
            compute, shared = prepared(game.recipe.precision)
            with timed() as clock:
                sampler, cost = load_sampler(this_round, item, compute, shared)
                images, spent = generate(
                    game.recipe, sampler, game.sampling, item.seed, compute, cost, progress.update
                )
            return dump_samples(images, spent.model_copy(update={"sample": clock.seconds}))

        made = 0
        for key in in_turn(this_round.store, todo):
            stored = this_round.store.ensure(key, partial(images_of, todo[key]))
            if not stored:
                progress.update(images[key])
            made += stored
    return made
