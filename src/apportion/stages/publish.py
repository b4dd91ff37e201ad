"""publish: the statement, the report, the tracking run; then the round's commit record, and the project's head moved to it."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from apportion.evaluation.lds import spearman
from apportion.evaluation.verdict import verdict, weakest_score
from apportion.records import Commit, Credit, Credits, Evaluation, Score, Wanted
from apportion.report.page import figures, render
from apportion.stages import heads
from apportion.stages.attribute import cell, numbers, published, standing
from apportion.stages.pages import PURPOSES, outline, page
from apportion.stages.round import Round, round_key
from apportion.tracking import Tracker, open_tracker
from apportion.version import code


def run(round_uri: str) -> str:
    """Publishes a round; returns where its report is."""
    round = Round.open(round_uri)
    last = heads.read(round.store, round.config.project)
    before = heads.previous(round.store, round.config.project, last, round.id)
    round.write("statement.csv", lambda: statement(round).encode())
    round.write("report.html", lambda: render(page(round, before)).encode())
    tracker = open_tracker(round.config.tracking)
    tracking_run = track(round, before, tracker)
    if not round.has("round.json"):
        commit = Commit(
            round=round.id,
            previous=None if before is None else before.round,
            project=round.config.project,
            tracking_run=tracking_run,
            seconds=seconds(evaluation for _, evaluation in everything(round)),
            code=code(),
        )
        round.write("round.json", commit.dump)
    heads.move(round.store, round.config.project, last, round.id)
    if tracking_run is not None:
        tracker.finish(tracking_run)
    return round.store.where(round_key(round.id, "report.html"))


def everything(round: Round) -> list[tuple[Wanted, Evaluation]]:
    return round.evaluations(*PURPOSES)


def statement(round: Round) -> str:
    """What each contributor is credited with, whether it may be paid by, and the weakest score of these credits.

    One row per property and contributor.
    """
    judged = {j.property: [verdict(j), *_bounds(weakest_score(j.scores))] for j in round.evidence.judgements}
    samples = {row.name: row.samples for row in round.manifest.contributors}
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    columns = ["credit", "se", "low", "high", "share", "interval", "best", "worst", "verdict", "lds", "lds_low", "lds_high", "covers"]
    rows.writerow(["property", "contributor", "images", "method", "game", *columns])
    for name in sorted(round.config.properties):
        for c in published(round.credits, name):
            whose = [name, cell(c.contributor), samples[c.contributor], c.method, c.game]
            rows.writerow([*whose, *numbers(c), *standing(c), *judged[name], round.credits.covered(c)])
    return out.getvalue()


def _bounds(score: Score | None) -> list[str]:
    """A score and its interval as cells; empty where there is none."""
    values = (None,) * 3 if score is None else (score.lds, score.low, score.high)
    return ["" if value is None else repr(value) for value in values]


def seconds(evaluations: Iterable[Evaluation]) -> dict[str, float]:
    """Compute of all evaluations of a round, by step."""
    total: dict[str, float] = defaultdict(float)
    for evaluation in evaluations:
        total["finetune"] += evaluation.cost.finetune
        total["sample"] += evaluation.cost.sample
        total["score"] += evaluation.cost.score
    return {step: float(f"{value:.3f}") for step, value in total.items()}


def track(round: Round, before: Credits | None, tracker: Tracker) -> str | None:
    """One run for the round and one nested run for each method."""
    # What may change before a round is finished is tags: MLflow takes each parameter once.
    tags = {
        **_flat({"apportion": {"compute": round.config.compute.model_dump(mode="json"), "network": round.config.network}}),
        "apportion.project": round.config.project,
        "apportion.manifest": round.plan.manifest,
        "apportion.code": code(),
        "apportion.estimator": published(round.credits, sorted(round.config.properties)[0])[0].method,
        "apportion.previous": "" if before is None else before.round,
    }
    run = tracker.start(round.id, None, tags)
    if run is None:
        return None
    tracker.params(run, _flat({**round.config.told(), "data": {"resolution": round.config.data.resolution}}))
    tracker.metrics(run, metrics(round, before))
    for name in round.config.properties:
        values = [evaluation.values[name] for _, evaluation in round.evaluations("design")]
        tracker.stepped(run, f"value/{name}", values)
    tracker.table(run, "credits.json", _columns([c.model_dump() for c in round.credits.credits]))
    tracker.table(run, "evaluations.json", _evaluations(round))
    for name in ("report.html", "credits.csv", "statement.csv", "evidence.json", "plan.json", "config.json"):
        tracker.artifact(run, name, round.store.get(round_key(round.id, name)))
    for name, svg in figures(outline(round, before)).items():
        tracker.artifact(run, f"figures/{name}.svg", svg.encode())
    for method in dict.fromkeys(c.method for c in round.credits.credits):
        own = _phi(c for c in round.credits.credits if c.method == method)
        tracker.child(run, method, {"apportion.estimator": method}, {"method": method}, own)
    return run


def metrics(round: Round, before: Credits | None) -> dict[str, float]:
    """The round's numbers under stable names, so that rounds compare in the tracking server."""
    main = {name: published(round.credits, name) for name in round.config.properties}
    first = {name: credits[0].method for name, credits in main.items()}
    found = _phi(credit for credits in main.values() for credit in credits)
    for judgement in round.evidence.judgements:
        for score in judgement.scores:
            if score.lds is not None and score.method == first[judgement.property]:
                found[f"lds/alpha_{score.alpha:g}/{judgement.property}"] = score.lds
        for faith in judgement.faithfulness:
            if faith.rho is not None:
                found[f"faithfulness/alpha_{faith.alpha:g}/{judgement.property}"] = faith.rho
    spent = seconds(evaluation for _, evaluation in everything(round))
    found |= {f"seconds/{step}": value for step, value in spent.items()}
    found["gpu_seconds"] = sum(e.cost.finetune + e.cost.sample for _, e in everything(round) if not e.cost.device.startswith("cpu"))
    return found | _rank_correlations(round, before)


def _phi(credits: Iterable[Credit]) -> dict[str, float]:
    found = {}
    for c in credits:
        found[f"phi/{c.property}/{c.contributor}"] = c.phi
        if c.se is not None:
            found[f"phi_se/{c.property}/{c.contributor}"] = c.se
    return found


def _rank_correlations(round: Round, before: Credits | None) -> dict[str, float]:
    """Of this round's published credits with the previous round's by the same method, over the contributors of both."""
    if before is None:
        return {}
    found = {}
    for name in sorted(round.config.properties):
        main = published(round.credits, name)
        now = {c.contributor: c.phi for c in main}
        then = {c.contributor: c.phi for c in before.credits if (c.property, c.method) == (name, main[0].method)}
        both = sorted(now.keys() & then.keys())
        a, b = [now[who] for who in both], [then[who] for who in both]
        if len(both) >= 3 and np.ptp(a) and np.ptp(b):
            found[f"rank_correlation/{name}"] = spearman(a, b)
    return found


def _evaluations(round: Round) -> dict[str, list[Any]]:
    rows = [
        {"purpose": wanted.purpose, "seed": wanted.seed, "members": wanted.members, "key": wanted.key, **evaluation.values}
        for wanted, evaluation in everything(round)
    ]
    return _columns(rows)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, item in value.items():
        found |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": json.dumps(item, ensure_ascii=False)}
    return found
