"""publish: the statement, the report, the tracking run; then the round's commit record, and the project's
head moved to it."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from apportion.evaluation.lds import spearman
from apportion.properties import PROPERTIES
from apportion.records import Commit, Cost, Credit, Credits
from apportion.report.page import figures, render
from apportion.report.sections import network_text
from apportion.report.spreadsheets import statement_csv
from apportion.rounds import heads
from apportion.rounds.report_data import outline, page
from apportion.rounds.round import Round
from apportion.rounds.weights import shared_costs
from apportion.store import layout
from apportion.tracking import Tracker, contributor_keys, open_tracker
from apportion.version import code

ARTIFACTS = (
    layout.REPORT_FILE,
    layout.CREDITS_CSV,
    layout.STATEMENT_FILE,
    layout.EVIDENCE_FILE,
    layout.PLAN_FILE,
    layout.CONFIG_FILE,
)
"""Files of a round that its tracking run gets a copy of."""


def run(round_uri: str) -> str:
    """Publishes a round; returns where its report is."""
    this_round = Round.open(round_uri)
    store, project = this_round.store, this_round.config.project
    last = heads.read(store, project)
    before = heads.previous(store, project, last, this_round.id)
    this_round.write(layout.STATEMENT_FILE, lambda: statement(this_round).encode())
    this_round.write(layout.REPORT_FILE, lambda: render(page(this_round, before)).encode())
    tracker = open_tracker(this_round.config.tracking, store)
    tracking_run = track(this_round, before, tracker)
    if not this_round.has(layout.COMMIT_FILE):
        commit = Commit(
            round=this_round.id,
            previous=None if before is None else before.round,
            project=project,
            tracking_run=tracking_run,
            seconds=seconds(costs(this_round)),
            code=code(),
            date=datetime.now(tz=UTC).date().isoformat(),
        )
        this_round.write(layout.COMMIT_FILE, commit.dump)
    heads.move(store, project, last, this_round.id)
    if tracking_run is not None:
        tracker.finish(tracking_run)
    return this_round.where(layout.REPORT_FILE)


def statement(this_round: Round) -> str:
    """The text of statement.csv."""
    measured_with = network_text(this_round.plan.networks)
    networks = {
        name: measured_with if PROPERTIES[name].needs_network else "" for name in this_round.config.properties
    }
    return statement_csv(networks, this_round.credits, this_round.evidence, this_round.manifest)


def costs(this_round: Round) -> list[Cost]:
    """What each evaluation of a round cost, and each set of weights that coalitions share."""
    shared = [cost for costs in shared_costs(this_round).values() for cost in costs]
    return shared + [evaluation.cost for _, evaluation in this_round.all_evaluations()]


def seconds(costs: Iterable[Cost]) -> dict[str, float]:
    """The compute of all costs together, by step."""
    total: dict[str, float] = defaultdict(float)
    for cost in costs:
        total["finetune"] += cost.finetune
        total["sample"] += cost.sample
        total["score"] += cost.score
    return {step: float(f"{value:.3f}") for step, value in total.items()}


def track(this_round: Round, before: Credits | None, tracker: Tracker) -> str | None:
    """One run for the round and one nested run for each method; returns the round's run."""
    config = this_round.config
    # What may change before a round is finished is a tag: MLflow takes each parameter only once.
    tags = {
        **_flat({"apportion": config.model_dump(mode="json", include={"compute", "network"})}),
        "apportion.project": config.project,
        "apportion.manifest": this_round.plan.manifest,
        "apportion.code": code(),
        "apportion.estimator": this_round.credits.published[sorted(config.properties)[0]],
        "apportion.previous": "" if before is None else before.round,
    }
    run = tracker.start(this_round.id, None, tags)
    if run is None:
        return None
    options = config.model_dump(mode="json", exclude={"store", "data", "tracking", "compute", "network"})
    tracker.params(run, _flat({**options, "data": {"resolution": config.data.resolution}}))
    tracker.metrics(run, metrics(this_round, before))
    for name in config.properties:
        values = [evaluation.values[name] for _, evaluation in this_round.evaluations("design")]
        tracker.stepped(run, f"value/{name}", values)
    tracker.table(run, "credits.json", _columns([c.model_dump() for c in this_round.credits.credits]))
    tracker.table(run, "evaluations.json", _evaluations(this_round))
    for name in ARTIFACTS:
        tracker.artifact(run, name, this_round.read(name))
    for name, svg in figures(outline(this_round, before)).items():
        tracker.artifact(run, f"figures/{name}.svg", svg.encode())
    keys = contributor_keys(this_round.manifest.names)
    for method in dict.fromkeys(c.method for c in this_round.credits.credits):
        own = _phi((c for c in this_round.credits.credits if c.method == method), keys)
        tracker.child(run, method, {"apportion.estimator": method}, {"method": method}, own)
    return run


def metrics(this_round: Round, before: Credits | None) -> dict[str, float]:
    """The round's numbers under stable names, so that rounds can be compared in the tracking server."""
    credits = this_round.credits
    published = (credit for name in this_round.config.properties for credit in credits.of(name))
    numbers = _phi(published, contributor_keys(this_round.manifest.names))
    for judgement in this_round.evidence.judgements:
        for score in judgement.scores:
            if score.lds is not None and score.method == judgement.published:
                numbers[f"lds/alpha_{score.alpha:g}/{judgement.property}"] = score.lds
        for faith in judgement.faithfulness:
            if faith.rho is not None:
                numbers[f"faithfulness/alpha_{faith.alpha:g}/{judgement.property}"] = faith.rho
    spent = costs(this_round)
    numbers |= {f"seconds/{step}": value for step, value in seconds(spent).items()}
    on_gpu = [cost.finetune + cost.sample for cost in spent if not cost.device.startswith("cpu")]
    on_gpu += [cost.score for cost in spent if cost.scored_on and not cost.scored_on.startswith("cpu")]
    numbers["gpu_seconds"] = sum(on_gpu)
    return numbers | _rank_correlations(this_round, before)


def _phi(credits: Iterable[Credit], keys: Mapping[str, str]) -> dict[str, float]:
    numbers = {}
    for c in credits:
        numbers[f"phi/{c.property}/{keys[c.contributor]}"] = c.phi
        if c.se is not None:
            numbers[f"phi_se/{c.property}/{keys[c.contributor]}"] = c.se
    return numbers


def _rank_correlations(this_round: Round, before: Credits | None) -> dict[str, float]:
    """Of this round's published credits with the previous round's by the same method, over the contributors
    of both."""
    if before is None:
        return {}
    correlations = {}
    for name in sorted(this_round.config.properties):
        method = this_round.credits.published[name]
        now = {c.contributor: c.phi for c in this_round.credits.of(name)}
        then = {c.contributor: c.phi for c in before.credits if (c.property, c.method) == (name, method)}
        both = sorted(now.keys() & then.keys())
        a, b = [now[who] for who in both], [then[who] for who in both]
        if len(both) >= 3 and np.ptp(a) and np.ptp(b):
            correlations[f"rank_correlation/{name}"] = spearman(a, b)
    return correlations


def _evaluations(this_round: Round) -> dict[str, list[Any]]:
    rows = [
        {
            "purpose": wanted.purpose,
            "seed": wanted.seed,
            "members": wanted.members,
            "key": wanted.key,
            **evaluation.values,
        }
        for wanted, evaluation in this_round.all_evaluations()
    ]
    return _columns(rows)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested options as one level of names joined by dots, with values as JSON."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        flat |= (
            _flat(item, f"{name}.")
            if isinstance(item, dict)
            else {name: json.dumps(item, ensure_ascii=False)}
        )
    return flat
