"""Which evaluations a round needs: coalitions of the design, of single methods and of the evidence, each with
its game, seed and purpose."""

from collections.abc import Iterator, Mapping
from math import comb

import numpy as np
from numpy.typing import NDArray

from apportion.config.round import Config
from apportion.config.valuation import ValuationOptions
from apportion.evaluation.counterfactual import without_random, without_top
from apportion.records import Game, Manifest, Purpose, Role, Wanted
from apportion.valuation import coalitions
from apportion.valuation.methods import own_coalitions

ENDPOINT_SEEDS = 2**40
"""The first seed of the empty and the grand coalition: above every seed of a design (config.strict.Seed)."""

PAIRED_SEEDS = 2**41
"""The first seed of held-out coalitions in the game of the credits. With the seeds of retraining the two
games would share noise, and would seem to agree because of it."""

METHOD_SEEDS = 2**42
"""The first seed of coalitions that only one method needs."""

Games = Mapping[Role, Game]


def wanted_evaluations(config: Config, manifest: Manifest, games: Games, look: int = 0) -> Iterator[Wanted]:
    """Every evaluation of the round, in the order of its plan."""
    credit = games["credit"]
    yield from _endpoints(config, manifest, credit, config.valuation.endpoint_seeds, "v0", "v1")
    yield from _of_design(config, manifest, games, look)
    for method, own in own_coalitions(config.valuation, manifest.n).items():
        for row, mask in enumerate(own.masks):
            seed = ENDPOINT_SEEDS if own.seeds == "endpoint" else METHOD_SEEDS + row
            yield Wanted.of(credit, manifest, seed, mask, method)
    for mask in held_out(config, manifest.n):
        yield from _compared(config, manifest, games, mask, ("held_out", "paired", "baseline"))
    for mask in by_size(config, manifest.n):
        purposes = ("by_size", "by_size_paired", "by_size_baseline")
        yield from _compared(config, manifest, games, mask, purposes)


def _compared(
    config: Config,
    manifest: Manifest,
    games: Games,
    mask: NDArray[np.bool_],
    purposes: tuple[Purpose, Purpose, Purpose],
) -> Iterator[Wanted]:
    """A coalition by retraining, in the game of the credits, and by its own images. Where coalitions share
    sets of weights, it is evaluated with each set."""
    held_out, paired, baseline = purposes
    seed = config.evaluation.seed
    yield Wanted.of(games["truth"], manifest, seed, mask, held_out)
    for repeat in range(repeats(config)):
        yield Wanted.of(games["credit"], manifest, PAIRED_SEEDS + seed + repeat, mask, paired)
    yield Wanted.of(games["baseline"], manifest, 0, mask, baseline)


def repeats(config: Config) -> int:
    """How often a coalition that is compared with retraining is evaluated in the game of the credits."""
    return max(1, config.removal.shared_sets)


def _endpoints(
    config: Config, manifest: Manifest, game: Game, seeds: int, v0: Purpose, v1: Purpose
) -> Iterator[Wanted]:
    empty, grand = np.zeros(manifest.n, bool), np.ones(manifest.n, bool)
    stated = set(config.valuation.stated_v0) >= set(config.properties)  # then no empty coalition is needed
    for r in range(seeds):
        if not stated:
            yield Wanted.of(game, manifest, ENDPOINT_SEEDS + r, empty, v0)
        yield Wanted.of(game, manifest, ENDPOINT_SEEDS + r, grand, v1)


def _of_design(config: Config, manifest: Manifest, games: Games, look: int) -> Iterator[Wanted]:
    """The coalitions of the design up to this look, and the first of them by retraining too where that is
    requested."""
    options = config.valuation
    Z = design(options, manifest.n)
    Z = Z[: options.stop.looks[look]] if options.stop else Z
    seeds = seeds_of(config, Z)
    for seed, mask in zip(seeds, Z, strict=True):
        yield Wanted.of(games["credit"], manifest, seed, mask, "design")
    if options.retrained:
        truth, endpoint_seeds = games["truth"], options.retrained.endpoint_seeds
        yield from _endpoints(config, manifest, truth, endpoint_seeds, "retrained_v0", "retrained_v1")
        for seed, mask in zip(seeds[: options.retrained.coalitions], Z, strict=False):
            yield Wanted.of(truth, manifest, seed, mask, "retrained")
    if options.own_images:
        yield from _of_control(options, manifest, games["baseline"], Z)


def _of_control(
    options: ValuationOptions, manifest: Manifest, game: Game, Z: NDArray[np.bool_]
) -> Iterator[Wanted]:
    """Own images as a control game: a design of its own, and the coalitions Z of the game of the credits."""
    count = min(options.own_images, 2**manifest.n - 2)
    for mask in coalitions.draw("leverage", manifest.n, count, options.seed + 1):
        yield Wanted.of(game, manifest, 0, mask, "control_design")
    for mask in Z:
        yield Wanted.of(game, manifest, 0, mask, "control")


def seeds_of(config: Config, Z: NDArray[np.bool_]) -> list[int]:
    """The seed of each row of a design. A coalition and its complement have the same one, so that they share
    their noise. Where coalitions share sets of weights, the seed also chooses the set: pairs of each size are
    dealt to the sets in turn, from a random start, so that each set has its part of every size."""
    rows_per_seed = 2 if config.valuation.design == "leverage" else 1
    first = [config.valuation.seed + row // rows_per_seed for row in range(len(Z))]
    sets = config.removal.shared_sets
    if sets < 2:
        return first
    n = Z.shape[1]
    size = Z.sum(axis=1)[::rows_per_seed]
    if rows_per_seed == 2:
        size = np.minimum(size, n - size)
    turn = np.random.default_rng([config.valuation.seed, n, sets]).integers(sets, size=n + 1)
    seeds = []
    for pair, k in enumerate(size):
        seeds += [sets * (config.valuation.seed + pair) + int(turn[k] % sets)] * rows_per_seed
        turn[k] += 1
    return seeds[: len(Z)]


def sets_of(config: Config, Z: NDArray[np.bool_]) -> NDArray[np.intp] | None:
    """The set of weights that each row of a design is sampled from, (m,); None where there are no shared
    sets."""
    sets = config.removal.shared_sets
    return np.array(seeds_of(config, Z), dtype=np.intp) % sets if sets else None


def design(options: ValuationOptions, n: int) -> NDArray[np.bool_]:
    """Coalitions that credits are computed from, (m, n), up to the last look where there are several."""
    return coalitions.draw(options.design, n, budget(options, n), options.seed)


def budget(options: ValuationOptions, n: int) -> int:
    """How many coalitions are drawn: `leverage` draws none twice, so at most all of them but the empty and
    the grand one."""
    return min(options.coalitions, 2**n - 2) if options.design == "leverage" else options.coalitions


def held_out(config: Config, n: int) -> NDArray[np.bool_]:
    """Coalitions that credits are judged by, (alphas · held_out, n). Of each size, coalitions that no credit
    is computed from come first, then those that are not retrained for a credit."""
    options, retrained = config.evaluation, config.valuation.retrained
    if options.held_out == 0:
        return np.empty((0, n), bool)
    Z = design(config.valuation, n)
    own = [own.masks for own in own_coalitions(config.valuation, n).values()]
    seen, seen_retrained = np.concatenate([Z, *own]), Z[: retrained.coalitions if retrained else 0]
    parts = [
        _unseen(n, options.held_out, options.seed + i, alpha, seen, seen_retrained)
        for i, alpha in enumerate(options.alphas)
    ]
    return np.concatenate(parts)


def _unseen(
    n: int, count: int, seed: int, alpha: float, seen: NDArray[np.bool_], retrained: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """`count` coalitions of one size, (count, n), in the order drawn, except that those among `seen` come
    later, and those among `retrained` last. With few contributors there may be no others."""
    size = int(coalitions.draw("datamodel", n, 1, seed, alpha=alpha).sum())
    enough = min(comb(n, size), count + int((seen.sum(axis=1) == size).sum()))
    drawn = coalitions.draw("datamodel", n, max(count, enough), seed, alpha=alpha)
    late = coalitions.among(drawn, seen).astype(int) + coalitions.among(drawn, retrained)
    return drawn[np.argsort(late, kind="stable")[:count]]


def by_size(config: Config, n: int) -> NDArray[np.bool_]:
    """`evaluation.by_size` coalitions of each of a few sizes, the smallest first: two contributors, a quarter
    and three quarters of them, and all but one. A size has no more than there are."""
    count = config.evaluation.by_size
    sizes = sorted({2, round(n / 4), round(3 * n / 4), n - 1} & set(range(1, n)))
    parts = [
        coalitions.draw("datamodel", n, min(count, comb(n, size)), config.evaluation.seed, alpha=size / n)
        for size in sizes
        if count
    ]
    return np.concatenate([np.empty((0, n), bool), *parts])


def removals(
    config: Config, manifest: Manifest, games: Games, goodness: NDArray[np.float64]
) -> Iterator[Wanted]:
    """Evaluations for the counterfactual removal: the grand coalition, the grand coalition without the top
    contributors, and without equally many random ones; each with the same seeds.

    goodness: credits (n,) where more is better, whatever the property's direction.
    """
    options, n = config.evaluation.counterfactual, manifest.n
    if options is None:
        return
    top = without_top(goodness, options.share)
    others = without_random(n, options.share, options.random, config.evaluation.seed, other_than=top)
    first = config.seed if options.game == "truth" else ENDPOINT_SEEDS
    for mask in [np.ones(n, bool), top, *others]:
        for seed in range(first, first + options.seeds):
            yield Wanted.of(games[options.game], manifest, seed, mask, "counterfactual")
