"""plan: checks everything that can be checked, decides which evaluations a round needs, and says so before any compute is spent."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import comb
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from apportion import datasets
from apportion.config import Config, Valuation, digest, parse
from apportion.datasets.contribution import Contribution
from apportion.errors import ConfigError, ValuationError
from apportion.evaluation.counterfactual import without_random, without_top
from apportion.ledger import Ledger
from apportion.properties import PROPERTIES
from apportion.properties import check as check_properties
from apportion.properties.network import load as load_network
from apportion.properties.network import network_hash, read_network
from apportion.records import CREDITS, Game, Looked, Manifest, Plan, Property, Purpose, Recipe, Wanted
from apportion.stages import collection, heads, intact, networks
from apportion.stages.round import DATAMODEL_SEEDS, ENDPOINT_SEEDS, PAIRED_SEEDS, Round, round_key
from apportion.store import Store, open_store
from apportion.tracking import open_tracker
from apportion.valuation import coalitions, intervals, multifidelity, semivalues, sequential, shapley
from apportion.version import code

log = logging.getLogger(__name__)

FORECAST_FROM = 20
"""Evaluations of a game whose cost a forecast is made from."""


@dataclass(frozen=True)
class Planned:
    """What `plan` found: the round's address and how many evaluations it lacks. `work` is False where the round is already committed."""

    round_uri: str
    work: bool
    pending: int
    reason: str


def run_text(config: str, job: str | None = None) -> Planned:
    """As `run`, from the JSON text of a configuration: what a pipeline passes."""
    start = time.perf_counter()
    planned = run(parse(json.loads(config), "the pipeline's configuration"), job)
    log.info("%s: %s", "round " + planned.round_uri if planned.work else "nothing to do", planned.reason)
    log.info("stage plan: %.1f s", time.perf_counter() - start)
    return planned


def run(config: Config, job: str | None = None) -> Planned:
    """Plans a round. Raises an ApportionError that names the option to change for anything that would fail later."""
    check_properties(config.properties)
    check_names(config)
    store = open_store(config.store)
    store.probe()
    network = _network(config)
    tracker = open_tracker(config.tracking)
    tracker.check()
    contributions = datasets.load(config.data)
    for warning in datasets.duplicates(contributions):
        log.warning(warning)
    manifest = collection.manifest_of(contributions)
    check_budget(config, manifest.n)
    plan, games, before = next_look(store, config, manifest, None if network is None else network_hash(network))
    for round_id in before:
        tracker.finish_round(round_id)  # a publication killed at its very end has left it running
    uri = f"{store.uri.rstrip('/')}/rounds/{plan.round}"
    last = heads.read(store, config.project)
    if last is not None and heads.named(last) == plan.round and store.exists(round_key(plan.round, "round.json")):
        made_by = intact.read_committed(uri).code
        tracker.finish_round(plan.round)  # a publication killed at its very end has left it running
        return Planned(uri, work=False, pending=0, reason=_unchanged(uri, made_by, Round.open(uri).credits.looked))
    heads.previous(store, config.project, last, plan.round)  # what `publish` reads at the end is read before anything is computed
    _keep(store, contributions, network)
    return _commit(store, config, plan, games, tracker, job)


def _commit(store: Store, config: Config, plan: Plan, games: list[Game], tracker: Any, job: str | None) -> Planned:
    ledger = Ledger(store)
    for game in games:
        ledger.open_game(game)
    _remember(store, plan, config)
    store.ensure(round_key(plan.round, "plan.json"), plan.dump)
    pending, unique = ledger.pending(plan.wanted), {item.key: item for item in plan.wanted}
    for key in unique.keys() - {item.key for item in pending}:
        ledger.read(unique[key])  # what is damaged stops the round here, not after hours of compute
    uri = f"{store.uri.rstrip('/')}/rounds/{plan.round}"
    intact.read_materials(Round.open(uri), pending)
    tracker.start(plan.round, job, {"apportion.project": config.project, "apportion.manifest": plan.manifest, "apportion.code": plan.code})
    reason = f"{len(pending)} of {len(unique)} evaluations are not in the ledger{forecast(ledger, pending, config.compute.shards)}"
    return Planned(uri, work=True, pending=len(pending), reason=reason)


def next_look(store: Store, config: Config, manifest: Manifest, network: str | None) -> tuple[Plan, list[Game], list[str]]:
    """The plan of the round and its games; of rounds that are topped up the first that is not committed, or the last, or the one that said
    to stop, and the committed rounds before it."""
    looks = len(config.valuation.stop.looks) if config.valuation.stop else 1
    before: list[str] = []
    while True:
        plan, games = draw_up(config, manifest, network, look=len(before))
        if plan.look + 1 == looks or not store.exists(round_key(plan.round, "round.json")):
            return plan, games, before
        looked = intact.read_credits(f"{store.uri.rstrip('/')}/rounds/{plan.round}").looked
        if looked is not None and looked.stop:
            return plan, games, before
        before.append(plan.round)


def _unchanged(uri: str, made_by: str, looked: Looked | None) -> str:
    """Why there is nothing to do. Other code alone makes no new round: what is committed stays, and can be compared with what it gives."""
    if looked is not None:
        enough = "its rule to stop holds" if looked.stop else "it is the last"
        return f"manifest and configuration are those of look {looked.look} of {len(looked.looks)}, and {enough} ({looked.reason})"
    if made_by == code():
        return "manifest, configuration and code are those of the last committed round"
    return (
        f"manifest and configuration are those of the last committed round, which code {made_by} made; "
        f"`apportion verify {uri}` says whether {code()} gives the same"
    )


def _remember(store: Store, plan: Plan, config: Config) -> None:
    """Keeps what the round is told. The last told holds: tracking, compute and where the network was name no round, so they may change
    before a re-run."""
    key, text = round_key(plan.round, "config.json"), _json(config.model_dump(mode="json"))
    if not store.put_if_absent(key, text) and (known := store.read_pointer(key)) and known.data != text:
        store.swap(key, known.tag, text)


def forecast(ledger: Ledger, pending: list[Wanted], shards: int) -> str:
    """What the pending evaluations should take (not the base model), by what others of their games took; nothing where none did."""
    hours = 0.0
    if not pending:
        return ""
    for game in sorted({item.game for item in pending}):
        known = sorted(ledger.keys(game))[:FORECAST_FROM]
        if not known:
            return ""
        costs = [ledger.at(game, key).cost.total for key in known]
        hours += sum(item.game == game for item in pending) * float(np.mean(costs)) / 3600
    return f"; they should take {hours:.2g} device hours, {60 * hours / shards:.2g} minutes on {shards} shards"


def draw_up(config: Config, manifest: Manifest, network: str | None, look: int = 0) -> tuple[Plan, list[Game]]:
    """The plan of a round and its two games: a pure function of what the round is told, so the same question has the same round."""
    precision = resolve_precision(config)
    base = recipe(config, "retrain", None, precision).address(config.seed, manifest.everybody)
    pruned = (
        None
        if config.removal.pruning is None
        else digest({"base": base, "pruning": config.removal.pruning.model_dump(), "seed": config.seed})
    )
    sampling = config.sampling.model_dump(mode="json")
    reference = digest({"data": manifest.everybody, "base": base, "sampling": sampling, "network": network})
    start = {"retrain": None, "finetune": base, "sparsified_finetune": pruned}[config.removal.method]
    credit = game(config, recipe(config, config.removal.method, start, precision), reference, network)
    truth = game(config, recipe(config, "retrain", None, precision), reference, network)
    wanted = tuple(want(config, manifest, credit, truth, look))
    asked = [item.model_dump() for item in wanted]
    round_id = digest({"told": config.told(), "manifest": manifest.id, "wanted": asked, "credits": CREDITS})
    plan = Plan(
        round=round_id, manifest=manifest.id, base=base, pruned=pruned, reference=reference,
        credit_game=credit.id, truth_game=truth.id, wanted=wanted, code=code(), look=look, credits=CREDITS,
    )  # fmt: skip
    return plan, [credit, truth]


def recipe(config: Config, method: str, base: str | None, precision: Literal["fp32", "bf16"]) -> Recipe:
    """`retrain` is the same recipe whether it makes the base model, the truth or the credits' own game."""
    fitting = config.train if method == "retrain" else config.removal.fitting
    assert fitting is not None  # Removal refuses a fine-tuning method without one
    removal = {"method": method, "fitting": fitting.model_dump(mode="json")}
    model = config.model.model_dump(mode="json")
    return Recipe(base=base, removal=removal, model=model, resolution=config.data.resolution, precision=precision)


def game(config: Config, made: Recipe, reference: str, network: str | None) -> Game:
    """A game has a reference where a property is measured against one: without, nobody who joins changes the values of the others."""
    against = reference if any(PROPERTIES[name].needs_reference for name in config.properties) else None
    properties = tuple(
        Property(name=name, network=network if PROPERTIES[name].needs_network else None) for name in sorted(config.properties)
    )
    return Game(recipe=made, sampling=config.sampling.model_dump(mode="json"), properties=properties, reference=against)


def want(config: Config, manifest: Manifest, credit: Game, truth: Game, look: int = 0) -> Iterator[Wanted]:
    """Every evaluation of the round, in the order of its plan."""
    evaluation = config.evaluation
    yield from _ends(config, manifest, credit, config.valuation.endpoint_seeds, "v0", "v1")
    yield from _designed(config, manifest, credit, truth, look)
    yield from _baselines(config, manifest, credit)
    for mask in held_out(config, manifest.n):
        yield Wanted.of(truth, manifest, evaluation.seed, mask, "held_out")
        yield Wanted.of(credit, manifest, PAIRED_SEEDS + evaluation.seed, mask, "paired")


def _ends(config: Config, manifest: Manifest, game: Game, seeds: int, v0: Purpose, v1: Purpose) -> Iterator[Wanted]:
    nobody, everybody = np.zeros(manifest.n, bool), np.ones(manifest.n, bool)
    stated = set(config.valuation.stated_v0) >= set(config.properties)  # then nothing asks for nobody's model
    for r in range(seeds):
        if not stated:
            yield Wanted.of(game, manifest, ENDPOINT_SEEDS + r, nobody, v0)
        yield Wanted.of(game, manifest, ENDPOINT_SEEDS + r, everybody, v1)


def _designed(config: Config, manifest: Manifest, credit: Game, truth: Game, look: int) -> Iterator[Wanted]:
    """The coalitions of the design up to this look, and the first of them by retraining too where credits for it are asked for."""
    valuation, Z = config.valuation, design(config, manifest.n)
    Z = Z[: valuation.stop.looks[look]] if valuation.stop else Z
    seeds = [valuation.seed + row // (2 if valuation.design == "leverage" else 1) for row in range(len(Z))]  # pairs share their noise
    for seed, mask in zip(seeds, Z, strict=True):
        yield Wanted.of(credit, manifest, seed, mask, "design")
    if valuation.exact:
        yield from _ends(config, manifest, truth, valuation.exact.endpoint_seeds, "exact_v0", "exact_v1")
        for seed, mask in zip(seeds[: valuation.exact.coalitions], Z, strict=False):
            yield Wanted.of(truth, manifest, seed, mask, "exact")


def _baselines(config: Config, manifest: Manifest, credit: Game) -> Iterator[Wanted]:
    """Coalitions that only one method needs."""
    for method, Z in baselines(config, manifest.n).items():
        for row, mask in enumerate(Z):
            seed = DATAMODEL_SEEDS + row if method == "datamodel" else ENDPOINT_SEEDS
            yield Wanted.of(credit, manifest, seed, mask, method)


def design(config: Config, n: int) -> NDArray[np.bool_]:
    """Coalitions that credits are computed from, (m, n), at the last look where there are several."""
    return coalitions.draw(config.valuation.design, n, budget(config.valuation, n), config.valuation.seed)


def baselines(config: Config, n: int) -> dict[Purpose, NDArray[np.bool_]]:
    """Coalitions (k, n) of the methods that have their own: everybody but one, one alone, and as many of one size as are asked for."""
    asked, found = config.valuation, dict[Purpose, NDArray[np.bool_]]()
    if "loo" in asked.chosen:
        found["loo"] = ~np.eye(n, dtype=bool)
    if "aoi" in asked.chosen:
        found["aoi"] = np.eye(n, dtype=bool)
    if asked.datamodel:
        found["datamodel"] = coalitions.draw("datamodel", n, asked.datamodel.coalitions, asked.seed, alpha=asked.datamodel.alpha)
    return found


def budget(asked: Valuation, n: int) -> int:
    """How many coalitions are drawn: `leverage` draws none twice, so no more than there are beside nobody and everybody."""
    return min(asked.coalitions, 2**n - 2) if asked.design == "leverage" else asked.coalitions


def held_out(config: Config, n: int) -> NDArray[np.bool_]:
    """Coalitions that credits are judged by, (alphas · held_out, n): of each size first those that no credit is computed from, then those
    that none is computed from by retraining."""
    asked, exact = config.evaluation, config.valuation.exact
    if asked.held_out == 0:
        return np.empty((0, n), bool)
    Z = design(config, n)
    seen, retrained = np.concatenate([Z, *baselines(config, n).values()]), Z[: exact.coalitions if exact else 0]
    return np.concatenate([_unseen(n, asked.held_out, asked.seed + i, alpha, seen, retrained) for i, alpha in enumerate(asked.alphas)])


def _unseen(n: int, count: int, seed: int, alpha: float, seen: NDArray[np.bool_], retrained: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`count` coalitions of one size, (count, n), as drawn but for those of `seen`, which come last, and of these those `retrained`: few
    contributors leave no others."""
    size = int(coalitions.draw("datamodel", n, 1, seed, alpha=alpha).sum())
    enough = min(comb(n, size), count + int((seen.sum(axis=1) == size).sum()))
    drawn = coalitions.draw("datamodel", n, max(count, enough), seed, alpha=alpha)
    late = coalitions.among(drawn, seen).astype(int) + coalitions.among(drawn, retrained)
    return drawn[np.argsort(late, kind="stable")[:count]]


def check_budget(config: Config, n: int) -> None:
    """Raises ConfigError where the coalitions cannot carry an estimate or, for the leverage design, an interval, or are too few to draw."""
    valuation, Z = config.valuation, np.empty((0, n), bool)
    with _refused(n, "change valuation.coalitions or valuation.seed"):
        Z = design(config, n)
        if valuation.design == "shapley_kernel":
            _tells_apart(Z)
        else:
            _carries(Z, valuation.level)
    if (m := budget(valuation, n)) < valuation.coalitions:
        log.info("all %d proper coalitions of %d contributors are evaluated, not %d", m, n, valuation.coalitions)
    _check_parts(config, Z)
    with _refused(n, "change evaluation.held_out or evaluation.alphas"):
        check_sizes(config.evaluation.alphas, held_out(config, n))
    if asked := config.evaluation.counterfactual:
        with _refused(n, "lower evaluation.counterfactual.random"):
            without_random(n, asked.share, asked.random, config.evaluation.seed, other_than=without_top(np.zeros(n), asked.share))


def _check_parts(config: Config, Z: NDArray[np.bool_]) -> None:
    """The same of the parts of a design Z (m, n) that a look or a method is from, at the first look, which has the fewest coalitions."""
    valuation, n = config.valuation, Z.shape[1]
    if valuation.stop:
        with _refused(n, "change valuation.stop.looks"):
            _enough("at the last look", valuation.stop.looks[-1], len(Z))
            levels = sequential.levels(valuation.stop.looks, valuation.level, valuation.stop.spending)
            Z = Z[: valuation.stop.looks[0]]
            _carries(Z, float(levels[0]))
        with _refused(n, "change valuation.stop.target"):
            sequential.check(valuation.stop.rule, valuation.stop.target, n)
    y = _measured(2, len(Z))
    with _refused(n, "change valuation.coalitions, the first of valuation.stop.looks, or valuation.methods"):
        if "banzhaf" in valuation.chosen:
            semivalues.banzhaf(Z, y[0], 0.0, 1.0)
        if "beta_shapley" in valuation.chosen:
            semivalues.beta_shapley(Z, y[0], 0.0, 1.0, *valuation.beta)
    if valuation.exact:
        with _refused(n, "change valuation.exact.coalitions"):
            k = valuation.exact.coalitions
            _enough("in valuation.exact", k, len(Z))
            multifidelity.combine(Z, y[0], Z[:k], y[1, :k], y[0, :k], 0.0, 1.0, valuation.level)
    if valuation.datamodel:
        with _refused(n, "change valuation.datamodel"):
            drawn = baselines(config, n)["datamodel"]
            semivalues.datamodel(drawn, np.zeros(len(drawn)))
    if valuation.interactions:
        with _refused(n, "raise valuation.coalitions or switch valuation.interactions off"):
            shapley.interactions(Z, y[0], 0.0, 1.0)


def _measured(k: int, m: int) -> NDArray[np.float64]:
    """Stand-ins (k, m) for values that are measured, of which nothing is alike and none fits a model exactly."""
    return np.random.default_rng(0).standard_normal((k, m))


def _enough(where: str, asked: int, there: int) -> None:
    if asked > there:
        raise ValuationError(f"found {asked} coalitions {where}, expected at most the {there} there are")


def _carries(Z: NDArray[np.bool_], level: float) -> None:
    """Raises ValuationError where coalitions of the leverage design tell not all contributors apart or leave one without an interval.

    Credits of all proper coalitions are exact: those of two contributors are published without an interval."""
    y = _measured(1, len(Z))[0]
    shapley.leverage(Z, y, 0.0, 0.0)
    if Z.shape[1] < intervals.FEWEST:
        return
    low, _ = intervals.hc3(Z, y, 0.0, 0.0, level)
    if not np.isfinite(low).all():
        raise ValuationError("found contributors told apart by a single pair of coalitions, so with no interval")


def _tells_apart(Z: NDArray[np.bool_]) -> None:
    """KernelSHAP itself takes the smallest credits that fit, whoever they then go to: nothing to pay by. Raises ValuationError."""
    rank, n = int(np.linalg.matrix_rank(Z.astype(np.float64))), Z.shape[1]
    if rank < n:
        raise ValuationError(f"found {len(Z)} coalitions of rank {rank}, expected rank {n}, which tells all contributors apart")


def check_sizes(alphas: list[float], Z: NDArray[np.bool_]) -> None:
    """Raises ValuationError where two of alphas keep the same number of contributors: one size would be judged as if it were two."""
    sizes = Z[:: len(Z) // len(alphas)].sum(axis=1).tolist() if len(Z) else []
    twice = [f"{alpha:g}" for alpha, size in zip(alphas, sizes, strict=False) if sizes.count(size) > 1]
    if twice:
        raise ValuationError(f"found shares {', '.join(twice)} that keep as many contributors as another, expected one for each size")


def check_names(config: Config) -> None:
    """Raises ConfigError where an option speaks of a property that the round does not measure."""
    asked = {"valuation.stated_v0": list(config.valuation.stated_v0)}
    if config.valuation.stop:
        asked["valuation.stop.properties"] = config.valuation.stop.properties
    if config.evaluation.counterfactual:
        asked["evaluation.counterfactual.property"] = [config.evaluation.counterfactual.property]
    for option, names in asked.items():
        for name in set(names) - set(config.properties):
            raise ConfigError(f"found {name!r} in {option}, expected one of properties: {', '.join(config.properties)}")


@contextmanager
def _refused(n: int, mend: str) -> Iterator[None]:
    try:
        yield
    except ValuationError as error:
        raise ConfigError(f"{error}; {n} contributors: {mend}") from error


def resolve_precision(config: Config) -> Literal["fp32", "bf16"]:
    """`auto` is bf16 where the device asked for multiplies it fast; the workers that have that device need not be where this runs.

    The answer is part of the game: values of two precisions never mix.
    """
    if config.compute.precision != "auto":
        return config.compute.precision
    from apportion.diffusion.compute import fast_bf16

    return "bf16" if fast_bf16(config.compute.device) else "fp32"


def _network(config: Config) -> bytes | None:
    """The feature network as it is now, None where no property needs one. Raises PropertyError where it is none."""
    if not any(PROPERTIES[name].needs_network for name in config.properties):
        return None
    data = read_network(config.network)
    load_network(data, config.network)
    return data


def _keep(store: Store, contributions: list[Contribution], network: bytes | None) -> None:
    """Copies images and network into the store, where the other stages read them: files may change or be out of their reach.

    Raises Damaged where the manifest or the network that is there already is.
    """
    manifest = collection.write(store, contributions)
    collection.read_manifest(store, manifest.id)
    if names := collection.outdated(store, contributions):
        log.warning("labels or dates of joining of %s are not those that the stored manifest has: it stays as it is", ", ".join(names))
    if network is not None:
        networks.keep(store, network)


def _json(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()
