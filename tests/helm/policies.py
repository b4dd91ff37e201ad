"""checkov on the objects that the chart renders in every situation, and on the Dockerfiles: no check may
fail, and each check that is skipped needs a reason.

It uses an environment of its own, which `python tests/helm/tools.py checkov` creates.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from chart import ROOT, SITUATIONS, situation
from tools import CHECKOV


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        for name in SITUATIONS:
            text = yaml.safe_dump_all(situation(name))
            (Path(scratch) / f"{name}.yaml").write_text(text, encoding="utf-8")
        reports = {"kubernetes": scan("kubernetes", Path(scratch))}
    if any((ROOT / "images").glob("*Dockerfile*")):
        reports["dockerfile"] = scan("dockerfile", ROOT / "images")
    return min(1, sum(failures(framework, report) for framework, report in reports.items()))


def scan(framework: str, folder: Path) -> Any:
    """checkov's report. Raises RuntimeError if it makes none."""
    command: list[str | Path] = [
        CHECKOV / "bin" / "checkov",
        "--directory",
        folder,
        "--framework",
        framework,
        "--output",
        "json",
        "--soft-fail",
        "--skip-download",
    ]
    environment = os.environ | {"LOG_LEVEL": "ERROR"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise RuntimeError(
            "found no report of checkov, expected JSON; install checkov with "
            f"`python tests/helm/tools.py checkov`: {done.stderr[-2000:]}"
        ) from error


def failures(framework: str, report: Any) -> int:
    """Prints the failures and returns their number. A report on nothing is a failure, and so is a check that
    is skipped without a reason."""
    summary = report["summary"]
    results = report.get("results", {})
    unexplained = [
        check
        for check in results.get("skipped_checks", [])
        if len(check["check_result"].get("suppress_comment", "")) < 20
    ]
    for check in results.get("failed_checks", []) + unexplained:
        name = f"{check['check_id']} {check['check_name']}"
        sys.stdout.write(f"{name}: {check['resource']} ({check['file_path']})\n")
    counts = {key: summary[key] for key in ("passed", "failed", "skipped", "parsing_errors")}
    sys.stdout.write(f"checkov {framework}: {', '.join(f'{count} {key}' for key, count in counts.items())}\n")
    empty = counts["passed"] == 0
    return int(counts["failed"] + counts["parsing_errors"] + len(unexplained) + empty)


if __name__ == "__main__":
    sys.exit(main())
