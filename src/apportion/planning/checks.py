"""What `plan` refuses before any compute is spent. Each check raises an ApportionError that names the option
to change."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from apportion.config.round import Config
from apportion.errors import ConfigError, ValuationError
from apportion.evaluation.counterfactual import without_random, without_top
from apportion.planning.coalitions import Games, budget, design, held_out, sets_of, wanted_evaluations
from apportion.properties import PROPERTIES
from apportion.properties import check as check_properties
from apportion.records import Manifest
from apportion.valuation import interactions, intervals, sequential, set_noise, shapley
from apportion.valuation.methods import METHODS, at_most, check_chosen, chosen, stand_ins

log = logging.getLogger(__name__)

REQUESTS_OWN_IMAGES = {
    "baseline": "evaluation.held_out, evaluation.alphas or evaluation.seed",
    "by_size_baseline": "evaluation.by_size or evaluation.seed",
    "control_design": "valuation.own_images",
    "control": "valuation.own_images",
    "counterfactual": "evaluation.counterfactual",
}
"""Options that ask for the evaluations of a purpose by the coalition's own images. Those of other purposes
are measured so where the removal method is `own_images`."""


def check_options(config: Config) -> None:
    """What can be checked of a configuration without its data: names of properties and methods, and that they
    fit each other. Raises PropertyError or ConfigError."""
    check_properties(config.properties)
    check_chosen(config.valuation)
    unknown_v0 = set(config.properties) - set(config.valuation.stated_v0)
    if not config.removal.generates and unknown_v0:
        raise ConfigError(
            f"found no valuation.stated_v0 of {', '.join(sorted(unknown_v0))} beside removal.method "
            f"{config.removal.method!r}, expected one of every property: the empty coalition has no images"
        )
    named = {"valuation.stated_v0": list(config.valuation.stated_v0)}
    if config.valuation.stop:
        named["valuation.stop.properties"] = config.valuation.stop.properties
    if config.evaluation.counterfactual:
        named["evaluation.counterfactual.property"] = [config.evaluation.counterfactual.property]
    for option, names in named.items():
        for name in set(names) - set(config.properties):
            raise ConfigError(
                f"found {name!r} in {option}, expected one of properties: {', '.join(config.properties)}"
            )


def check_coalitions(config: Config, n: int) -> None:
    """Raises ConfigError where n contributors have too few coalitions to draw, or the coalitions are too few
    for the credits, their intervals, a method, the held-out coalitions or the counterfactual removal."""
    options, Z = config.valuation, np.empty((0, n), bool)
    fix = "change valuation.coalitions or valuation.seed"
    if config.removal.shared_sets >= set_noise.FEWEST_SETS:
        fix += f", or choose fewer than {set_noise.FEWEST_SETS} removal.sets"
    with _refused(n, fix):
        Z = design(options, n)
        if options.design == "shapley_kernel":
            _tells_apart(Z)
        else:
            _gives_intervals(Z, options.level, sets_of(config, Z))
    if (m := budget(options, n)) < options.coalitions:
        log.info(
            "all %d proper coalitions of %d contributors are evaluated, not %d", m, n, options.coalitions
        )
    if options.stop:
        Z = _check_looks(config, Z)
    for row in (METHODS[name] for name in chosen(options)):
        if row.check is not None:
            with _refused(n, row.fix):
                row.check(Z, options)
    if options.interactions and (why := interactions.too_few(len(Z) // 2, n, config.removal.shared_sets)):
        log.info("interactions of contributors will have no intervals: %s (valuation.coalitions)", why)
    with _refused(n, "change evaluation.held_out or evaluation.alphas"):
        check_sizes(config.evaluation.alphas, held_out(config, n))
    if removal := config.evaluation.counterfactual:
        with _refused(n, "lower evaluation.counterfactual.random"):
            top = without_top(np.zeros(n), removal.share)
            without_random(n, removal.share, removal.random, config.evaluation.seed, other_than=top)


def check_own_images(config: Config, manifest: Manifest, games: Games) -> None:
    """Raises ConfigError where a coalition that the round measures by its own images, at this look or at a
    later one, has fewer of them than a property needs."""
    row = max((PROPERTIES[name] for name in config.properties), key=attrgetter("fewest_images"))
    contributors = manifest.contributors
    if min(who.samples for who in contributors) >= row.fewest_images:
        return
    for purpose, mask in _measured_by_own_images(config, manifest, games):
        members = [who for who, kept in zip(contributors, mask, strict=True) if kept]
        images = sum(who.samples for who in members)
        if images < row.fewest_images:
            raise ConfigError(
                f"found {images} image{'' if images == 1 else 's'} of the coalition of "
                f"{', '.join(who.name for who in members)} ({purpose}), which is measured by its own images, "
                f"expected at least {row.fewest_images} for {row.name}: raise data.min_images, or change "
                f"{REQUESTS_OWN_IMAGES.get(purpose, 'removal.method')}"
            )


def _measured_by_own_images(
    config: Config, manifest: Manifest, games: Games
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Purpose and coalition of each evaluation without a model. Of the counterfactual removal, whose
    coalitions depend on the credits, it is the coalition that would keep the fewest images."""
    generated = {game.id: game.recipe.removal.generates for game in games.values()}
    last = len(config.valuation.stop.looks) - 1 if config.valuation.stop else 0
    for item in wanted_evaluations(config, manifest, games, last):
        if not generated[item.game]:
            yield item.purpose, item.mask(manifest.n)
    removal = config.evaluation.counterfactual
    if removal and not games[removal.game].recipe.removal.generates:
        samples = np.array([who.samples for who in manifest.contributors], dtype=np.float64)
        yield "counterfactual", without_top(samples, removal.share)


def _check_looks(config: Config, Z: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The coalitions of the first look, which has the fewest; raises ConfigError where they are too few."""
    options, n = config.valuation, Z.shape[1]
    assert options.stop is not None  # the caller has checked this
    with _refused(n, "change valuation.stop.looks"):
        at_most("at the last look", options.stop.looks[-1], len(Z))
        levels = sequential.levels(options.stop.looks, options.level, options.stop.spending)
        first = Z[: options.stop.looks[0]]
        _gives_intervals(first, float(levels[0]), sets_of(config, first))
    with _refused(n, "change valuation.stop.target"):
        sequential.check(options.stop.rule, options.stop.target, n)
    return first


def _gives_intervals(Z: NDArray[np.bool_], level: float, sets: NDArray[np.intp] | None) -> None:
    """Raises ValuationError where coalitions of the leverage design do not tell all contributors apart, or
    leave one without an interval.

    Two contributors are an exception: all their proper coalitions are one pair, which gives credits and no
    interval.
    """
    y = stand_ins(1, len(Z))[0]
    shapley.leverage(Z, y, 0.0, 0.0)
    if Z.shape[1] < intervals.FEWEST:
        return
    low, _ = intervals.hc3(Z, y, 0.0, 0.0, level, sets)
    if not np.isfinite(low).all():
        raise ValuationError(
            "found contributors told apart by a single pair of coalitions, expected more pairs: a single one "
            "gives no interval"
        )


def _tells_apart(Z: NDArray[np.bool_]) -> None:
    """Raises ValuationError where coalitions do not tell all contributors apart: KernelSHAP would then give
    the smallest credits that fit, which are no basis for payments."""
    rank, n = int(np.linalg.matrix_rank(Z.astype(np.float64))), Z.shape[1]
    if rank < n:
        raise ValuationError(
            f"found {len(Z)} coalitions of rank {rank}, expected rank {n}, which tells all contributors apart"
        )


def check_sizes(alphas: list[float], Z: NDArray[np.bool_]) -> None:
    """Raises ValuationError where two of alphas keep the same number of contributors: one size would be
    judged as if it were two. Z: the held-out coalitions, equally many for each of alphas."""
    if not len(Z):
        return
    sizes = Z[:: len(Z) // len(alphas)].sum(axis=1).tolist()
    repeated = [f"{alpha:g}" for alpha, size in zip(alphas, sizes, strict=False) if sizes.count(size) > 1]
    if repeated:
        raise ValuationError(
            f"found shares {', '.join(repeated)} that keep the same number of contributors, expected one "
            "share for each number"
        )


@contextmanager
def _refused(n: int, fix: str) -> Iterator[None]:
    """Turns a ValuationError into a ConfigError that says what to change."""
    try:
        yield
    except ValuationError as error:
        raise ConfigError(f"{error}; {n} contributors: {fix}") from error
