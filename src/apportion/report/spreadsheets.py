"""Credits as CSV: `credits.csv` and `statement.csv`. Numbers are the shortest text that reads back to the
same number, so equal credits are equal bytes."""

import csv
import io
from collections.abc import Mapping, Sequence

from apportion.evaluation.verdict import verdict_text, weakest_score
from apportion.records import Credit, Credits, Evidence, LdsScore, Manifest

NUMBERS = ["se", "low", "high", "share", "interval", "best", "worst"]


def credits_csv(credits: Credits) -> str:
    """credits.csv: the credits of every property, method and contributor."""
    columns = ["property", "method", "game", "contributor", "phi", *NUMBERS]
    rows = [[c.property, c.method, c.game, cell(c.contributor), *_numbers(c)] for c in credits.credits]
    return _csv(columns, rows)


def statement_csv(
    networks: Mapping[str, str], credits: Credits, evidence: Evidence, manifest: Manifest
) -> str:
    """statement.csv: what each contributor is credited with for each property, the verdict on these credits
    and their weakest score; one row per property and contributor. networks: by property, the feature network
    that measures it in words, empty where none does."""
    judgements = {judgement.property: judgement for judgement in evidence.judgements}
    samples = {contributor.name: contributor.samples for contributor in manifest.contributors}
    columns = ["property", "contributor", "images", "method", "game", "credit", *NUMBERS]
    columns += ["verdict", "lds", "lds_low", "lds_high", "covers", "network"]
    rows = []
    for name in sorted(networks):
        judged = [verdict_text(judgements[name]), *_bounds(weakest_score(judgements[name]))]
        for c in credits.of(name):
            own = [name, cell(c.contributor), str(samples[c.contributor]), c.method, c.game, *_numbers(c)]
            rows.append([*own, *judged, credits.covered(c), networks[name]])
    return _csv(columns, rows)


def cell(name: str) -> str:
    """A name that a spreadsheet would take for a formula gets a quote mark in front.

    So does a name that starts with a quote mark. Then no two names have the same cell, and a cell without one
    leading quote mark is the name.
    """
    return "'" + name if name.startswith(("=", "+", "-", "@", "\t", "\r", "'")) else name


def _numbers(c: Credit) -> list[str]:
    """Credit, standard error, bounds, share, method of the interval, best and worst rank; empty where there
    is none."""
    values = ["" if value is None else repr(value) for value in (c.phi, c.se, c.low, c.high, c.share)]
    return values + ["" if value is None else str(value) for value in (c.interval, c.best, c.worst)]


def _bounds(score: LdsScore | None) -> list[str]:
    """A score and its interval; empty where there is none."""
    values = (None,) * 3 if score is None else (score.lds, score.low, score.high)
    return ["" if value is None else repr(value) for value in values]


def _csv(columns: list[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
