"""Which game is worth its compute? Candidates, each a change of the configuration, are measured on coalitions
that are retrained once for all of them (docs/methods.md, "Faithfulness").

What is compared is one evaluation of a coalition: credits are computed from such evaluations, and the seconds
are those of one. Where a game has several sets of weights that coalitions share (`experts`), every coalition
is evaluated with each set, and the correlation is the mean over sets of the correlation of one set alone. The
correlation of the mean over sets, which a round has as its evidence, is higher, because the mean has less
noise; but it costs as many evaluations as there are sets.

Everything is kept in the ledger, so what was measured before, by an earlier calibration or by a round, is not
measured again, and a calibration that is stopped continues where it was.
"""

import logging
import shlex
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from apportion.config.loading import load
from apportion.config.removal import Experts, Finetune, SparsifiedFinetune
from apportion.config.round import Config
from apportion.errors import ApportionError, ConfigError, DiffusionError, PropertyError
from apportion.evaluation.lds import bootstrap, rank_correlations
from apportion.planning.coalitions import repeats
from apportion.records import Evaluation, Wanted
from apportion.rounds.round import Round
from apportion.rounds.weights import shared_cost_per_coalition
from apportion.stages import plan

log = logging.getLogger(__name__)

FEWEST_COALITIONS = 5
"""Coalitions that are compared, at least: fewer have no order to speak of."""

RESAMPLES = 1000
"""Bootstrap resamples of a standard error and of an interval."""

COMPARED = ("held_out", "paired", "baseline")
"""Purposes of the evaluations of a coalition that is compared."""


@dataclass(frozen=True)
class Candidate:
    """A change of the configuration: overrides as of `--set`."""

    name: str
    overrides: tuple[str, ...]


class Correlation(NamedTuple):
    """Spearman correlation of a game with retraining, the mean over sets of weights, and its bootstrap
    interval over coalitions and sets. A set whose values are all equal counts as 0."""

    rho: float
    low: float
    high: float


@dataclass(frozen=True)
class CandidateResult:
    """What was measured of a candidate. coalitions: how many were compared. seconds: of one evaluation, with
    its part of what coalitions share; nan where that is not known. faithfulness, baseline: the correlation
    with retraining of each property, and that of the coalitions' own images. mean, error: the mean over
    properties of the correlation with retraining, and its bootstrap standard error; nan where too few
    coalitions were compared. rejected: why it was not measured or not chosen; empty for the chosen one."""

    candidate: Candidate
    config: Config
    coalitions: int = 0
    seconds: float = float("nan")
    faithfulness: dict[str, Correlation] | None = None
    baseline: dict[str, Correlation] | None = None
    mean: float = float("nan")
    error: float = float("nan")
    rejected: str = ""


def candidates(config: Config) -> list[Candidate]:
    """The candidates where none are named: the configuration as it is, experts with the same training for
    half as many, as many and twice as many steps, plain fine-tuning, and a faster sampler."""
    found = [Candidate("as configured", ())]
    removal = config.removal
    if isinstance(removal, Finetune | SparsifiedFinetune | Experts):
        fitting = removal.fitting.model_dump(mode="json")
        for factor in (0.5, 1, 2):
            steps = max(1, round(factor * fitting["steps"]))
            section = {"method": "experts", "fitting": fitting | {"steps": steps}}
            found.append(Candidate(f"experts of {steps} steps", (_override("removal", section),)))
        section = {"method": "finetune", "fitting": fitting}
        found.append(Candidate(f"finetune of {fitting['steps']} steps", (_override("removal", section),)))
    if config.sampling.sampler == "ddim":
        sampling = config.sampling.model_dump(mode="json") | {"sampler": "dpm_solver"}
        sampling["steps"] = max(5, round(0.6 * config.sampling.steps))
        name = f"as configured, {sampling['steps']} steps of dpm_solver"
        found.append(Candidate(name, (_override("sampling", sampling),)))
    return found


def _override(section: str, value: dict[str, Any]) -> str:
    return f"{section}={yaml.safe_dump(value, default_flow_style=True, width=1000).strip()}"


def calibrate(
    path: Path,
    overrides: Sequence[str],
    workdir: Path,
    tries: Sequence[Candidate],
    coalitions: int,
    minutes: float,
) -> list[CandidateResult]:
    """Measures candidates on so many coalitions, for at most about so many minutes; what runs out of time is
    rejected. The chosen one is the first of the results, the others follow by faithfulness.

    Raises ConfigError, before anything is computed, for a candidate that is not a valid configuration.
    """
    deadline = time.monotonic() + 60 * minutes
    configured = load(path, overrides, workdir)
    if coalitions < FEWEST_COALITIONS:
        raise ConfigError(f"found --coalitions {coalitions}, expected at least {FEWEST_COALITIONS}")
    held_out = [
        "evaluation.evidence=null",
        "evaluation.counterfactual=null",
        "evaluation.by_size=0",
        f"evaluation.held_out={coalitions}",
        f"evaluation.alphas=[{configured.evaluation.alphas[0]}]",
        "tracking.uri=null",
    ]
    tries = list(tries) or candidates(configured)
    for item in tries:
        _check_sections(item)
    configs = [load(path, [*overrides, *item.overrides, *held_out], workdir) for item in tries]
    results = [compare(item, config, deadline, minutes) for item, config in zip(tries, configs, strict=True)]
    return choose(results)


def _check_sections(candidate: Candidate) -> None:
    """Raises ConfigError for a candidate that changes more than what is printed of the chosen one."""
    others = [text for text in candidate.overrides if not text.startswith(("removal", "sampling"))]
    if others:
        raise ConfigError(
            f"found --try with {', '.join(others)}, expected options of removal and sampling: change others "
            "with --set, for all candidates"
        )


def compare(candidate: Candidate, config: Config, deadline: float, minutes: float) -> CandidateResult:
    """One candidate, from the ledger and from what is evaluated until the deadline (of time.monotonic)."""
    result = CandidateResult(candidate, config)
    try:
        uri = plan.run(config).round_uri
        log.info("%s: %s", candidate.name, uri)
        planned = Round.open(uri)
        if not planned.ledger.pending(compared_alone(planned).plan.wanted):
            return summary(result, planned, minutes)
        for stage in ("train", "prune"):
            _stage(stage).run(uri)
        shards = config.compute.shards
        with ProcessPoolExecutor(shards, get_context("spawn")) as pool:
            for stage in ("finetune", "sample", "score"):
                left = max(0.0, deadline - time.monotonic())
                list(pool.map(_evaluate, [stage] * shards, [uri] * shards, range(shards), [left] * shards))
    except (ConfigError, PropertyError) as error:
        return replace(result, rejected=f"it cannot be evaluated: {error}")
    except DiffusionError as error:
        return replace(result, rejected=f"it diverged: {error}")
    return summary(result, Round.open(uri), minutes)


def _stage(name: str) -> Any:
    return import_module(f"apportion.stages.{name}")


def compared_alone(this_round: Round) -> Round:
    """The same round without the evaluations that credits are computed from."""
    wanted = tuple(item for item in this_round.plan.wanted if item.purpose in COMPARED)
    return replace(this_round, plan=this_round.plan.model_copy(update={"wanted": wanted}))


def _evaluate(stage: str, uri: str, shard: int, seconds: float) -> None:
    """One shard's part of a stage. Training stops at the first model that would start after so many seconds;
    coalitions without a model are then left out."""
    deadline = time.monotonic() + seconds
    this_round = compared_alone(Round.open(uri))
    if stage == "finetune":
        _stage(stage).make(this_round, shard, lambda: time.monotonic() > deadline)
        return
    ready = [item for item in this_round.plan.wanted if _has_weights(this_round, item)]
    subset = this_round.plan.model_copy(update={"wanted": tuple(ready)})
    _stage(stage).make(replace(this_round, plan=subset), shard)


def _has_weights(this_round: Round, item: Wanted) -> bool:
    store = this_round.store
    if not this_round.generates(item) or not this_round.ledger.pending([item]):
        return True
    if store.exists(this_round.samples_key(item)):
        return True
    return all(store.exists(key) for key in this_round.weights_keys(item))


def summary(result: CandidateResult, planned: Round, minutes: float) -> CandidateResult:
    """The result of a candidate from what the ledger has of it. planned: its whole round, whose design has
    the coalitions that shared weights are for."""
    this_round, times = compared_alone(planned), repeats(planned.config)
    by_purpose = {p: [w for w in this_round.plan.wanted if w.purpose == p] for p in COMPARED}
    truth, cheap, own = by_purpose["held_out"], by_purpose["paired"], by_purpose["baseline"]
    pending = {item.key for item in this_round.ledger.pending(this_round.plan.wanted)}
    rows = [
        i
        for i in range(len(truth))
        if not pending & {truth[i].key, own[i].key, *(w.key for w in cheap[i * times : (i + 1) * times])}
    ]
    reason = f"the budget of {minutes:g} minutes was used after {len(rows)} of {len(truth)} coalitions"
    if len(rows) < 3:
        return replace(result, coalitions=len(rows), rejected=reason)
    retrained = list(this_round.ledger.read_all(truth[i] for i in rows))
    game = list(this_round.ledger.read_all(w for i in rows for w in cheap[i * times : (i + 1) * times]))
    images = list(this_round.ledger.read_all(own[i] for i in rows))
    names, level = sorted(this_round.config.properties), this_round.config.valuation.level
    y, v, own_v = _values(retrained, names)[:, 0], _values(game, names, times), _values(images, names)
    shared = shared_cost_per_coalition(planned, planned.plan.games["credit"])
    mean, error = mean_correlation(v, y)
    return replace(
        result,
        coalitions=len(rows),
        seconds=float(np.mean([record.cost.total for record in game])) + shared,
        faithfulness={name: _correlation(v[:, :, k], y[:, k], level) for k, name in enumerate(names)},
        baseline={name: _correlation(own_v[:, :, k], y[:, k], level) for k, name in enumerate(names)},
        mean=mean,
        error=error,
        rejected=reason if len(rows) < len(truth) else "",
    )


def _values(records: Sequence[Evaluation], names: Sequence[str], times: int = 1) -> NDArray[np.float64]:
    """(coalitions, times, properties)."""
    values = np.array([[record.values[name] for name in names] for record in records])
    return values.reshape(-1, times, len(names))


def _correlation(v: NDArray[np.float64], y: NDArray[np.float64], level: float) -> Correlation:
    """Of values v (coalitions, sets) with those by retraining, y (coalitions,)."""
    rho = float(np.mean([rank_correlations(of_set[None], y[None]) for of_set in v.T]))
    return Correlation(rho, *bootstrap(v, y, level, 0, RESAMPLES))


def mean_correlation(v: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Mean over sets and properties of the correlations of v (coalitions, sets, properties), one set and
    property at a time, with y (coalitions, properties); and its bootstrap standard error over coalitions and
    sets. Where all values of a set are equal, it counts as 0."""
    (k, sets, properties), rng = v.shape, np.random.default_rng(0)
    rows = np.vstack([np.arange(k), rng.integers(k, size=(RESAMPLES, k))])
    drawn = np.vstack([np.arange(sets), rng.integers(sets, size=(RESAMPLES, sets))])
    each = [
        rank_correlations(v[rows, drawn[:, [s]], p], y[rows, p])
        for s in range(sets)
        for p in range(properties)
    ]
    mean = np.mean(each, axis=0)
    return float(mean[0]), float(np.std(mean[1:], ddof=1))


def choose(results: Sequence[CandidateResult]) -> list[CandidateResult]:
    """The results, the chosen one first, the others by faithfulness with the reason why they were rejected.

    Candidates within one standard error of the best count as equally faithful, and the cheapest of them is
    chosen (the rule of Breiman, Friedman, Olshen & Stone 1984, section 3.4.3). Those of unknown cost are left
    out of this comparison; the most faithful of them is chosen where the cost of none is known. Raises
    ApportionError where no candidate was measured.
    """
    measured = [result for result in results if not result.rejected]
    if not measured:
        reasons = "; ".join(f"{result.candidate.name}: {result.rejected}" for result in results)
        raise ApportionError(
            f"found no candidate that was measured on all coalitions ({reasons}); raise --minutes, or lower "
            "--coalitions, and run again: what was measured is kept"
        )
    best = max(measured, key=lambda result: result.mean)
    near = [result for result in measured if result.mean >= best.mean - best.error]
    priced = [result for result in near if not np.isnan(result.seconds)]
    chosen = min(priced, key=lambda result: (result.seconds, -result.mean)) if priced else best
    ordered = sorted(results, key=lambda result: -np.nan_to_num(result.mean, nan=-2.0))
    others = []
    for result in ordered:
        if result is chosen:
            continue
        reason = result.rejected
        if not reason and result in near:
            reason = f"as faithful within a standard error, {_compared_cost(result, chosen)}"
        elif not reason:
            reason = f"less faithful: {result.mean:.2f}, expected {best.mean - best.error:.2f} or more"
        others.append(replace(result, rejected=reason))
    return [chosen, *others]


def _compared_cost(result: CandidateResult, chosen: CandidateResult) -> str:
    if np.isnan(result.seconds):
        return "but its cost is unknown"
    return f"at {result.seconds / chosen.seconds:.1f} times the cost"


def described(result: CandidateResult) -> list[str]:
    """Lines for a terminal: the candidate with its mean correlation, its cost and what became of it, then the
    correlation of each property with its interval."""
    verdict = result.rejected or "chosen"
    if np.isnan(result.mean):
        return [f"{result.candidate.name}: {verdict}"]
    cost = f"{result.seconds:.1f} s a coalition, {result.mean / result.seconds:.3f} per second"
    if np.isnan(result.seconds):
        cost = "cost unknown (the weights that coalitions share have expired, and no record has their cost)"
    return [
        f"{result.candidate.name}: mean ρ {result.mean:.2f} ± {result.error:.2f} over {result.coalitions} "
        f"coalitions, {cost}: {verdict}",
        f"    {_each(result.faithfulness or {})}",
    ]


def baseline_line(result: CandidateResult) -> str:
    """The correlations of the coalitions' own images, which need no model."""
    return f"own images, without any model: {_each(result.baseline or {})}"


def _each(correlations: dict[str, Correlation]) -> str:
    return ", ".join(
        f"{name} {rho:.2f} ({low:.2f} … {high:.2f})" for name, (rho, low, high) in correlations.items()
    )


def sections(result: CandidateResult) -> str:
    """The sections of a configuration that a candidate stands for, as YAML."""
    dumped = result.config.model_dump(mode="json")
    kept = {name: dumped[name] for name in ("removal", "sampling")}
    kept["removal"] = {name: value for name, value in kept["removal"].items() if value is not None}
    return yaml.safe_dump(kept, sort_keys=False)


def parsed(text: str) -> Candidate:
    """A candidate from the text of `--try`: overrides separated by blanks, with quotes around those that hold
    blanks. Raises ConfigError where quotes do not match."""
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"found --try {text!r}: {error}") from error
    return Candidate(" ".join(parts) or "as configured", tuple(parts))
