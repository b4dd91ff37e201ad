"""Findings for people, as a table, and for programs, as JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from apportion.doctor.checking import Finding, Result

STYLES: dict[Result, str] = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def table(findings: Sequence[Finding]) -> Table:
    """One row for each check, below what was found the mend; below all how many of each result there are."""
    numbers = Counter(finding.result for finding in findings)
    counts = ", ".join(
        f"{numbers[result]} {result}{'s' * (result == 'warning' and numbers[result] > 1)}" for result in STYLES if numbers[result]
    )
    shown = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), caption=counts, caption_justify="left")
    shown.add_column("check", max_width=24, overflow="fold")
    shown.add_column("result", no_wrap=True)
    shown.add_column("what was found, and → what to do", overflow="fold")
    for finding in findings:
        said = Text(finding.found)
        if finding.mend:
            said.append(f"\n→ {finding.mend}", style="" if finding.result == "skipped" else "bold")
        shown.add_row(finding.check, Text(finding.result, style=STYLES[finding.result]), said)
    return shown


def to_json(findings: Sequence[Finding]) -> str:
    failed = sum(finding.result == "failed" for finding in findings)
    return json.dumps({"failed": failed, "checks": [asdict(finding) for finding in findings]}, indent=2, ensure_ascii=False)
