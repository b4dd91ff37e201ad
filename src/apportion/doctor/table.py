"""Findings as a table for people, and as JSON for programs."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from apportion.doctor.checking import Finding, Result

STYLES: dict[Result, str] = {
    "ok": "green",
    "warning": "yellow",
    "unknown": "yellow",
    "failed": "bold red",
    "skipped": "dim",
}


def table(findings: Sequence[Finding]) -> Table:
    """One row for each check, with the fix below the message; and how many findings each result has."""
    numbers = Counter(finding.result for finding in findings)
    counts = []
    for result in STYLES:
        if number := numbers[result]:
            plural = "s" if result == "warning" and number > 1 else ""
            counts.append(f"{number} {result}{plural}")
    rows = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1),
        caption=", ".join(counts),
        caption_justify="left",
    )
    rows.add_column("check", max_width=24, overflow="fold")
    rows.add_column("result", no_wrap=True)
    rows.add_column("what was found, and → how to fix it", overflow="fold")
    for finding in findings:
        text = Text(finding.message)
        if finding.fix:
            text.append(f"\n→ {finding.fix}", style="" if finding.result == "skipped" else "bold")
        rows.add_row(finding.check, Text(finding.result, style=STYLES[finding.result]), text)
    return rows


def to_json(findings: Sequence[Finding]) -> str:
    """`failed`, the number of failed checks, and `checks`, each with check, result, message and fix."""
    failed = sum(finding.result == "failed" for finding in findings)
    checks = [asdict(finding) for finding in findings]
    return json.dumps({"failed": failed, "checks": checks}, indent=2, ensure_ascii=False)
