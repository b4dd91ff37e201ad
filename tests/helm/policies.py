"""checkov over what the chart renders in every situation, and over the Dockerfiles: no failed check, and nothing skipped without a reason.

It takes an environment of its own, which `python tests/helm/tools.py checkov` makes.
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
            (Path(scratch) / f"{name}.yaml").write_text(yaml.safe_dump_all(situation(name)), encoding="utf-8")
        found = {"kubernetes": scan("kubernetes", Path(scratch))}
    if any((ROOT / "images").glob("*Dockerfile*")):
        found["dockerfile"] = scan("dockerfile", ROOT / "images")
    return min(1, sum(failures(framework, report) for framework, report in found.items()))


def scan(framework: str, folder: Path) -> Any:
    """checkov's report. Raises RuntimeError where it makes none."""
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
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LOG_LEVEL": "ERROR"})
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise RuntimeError(f"checkov made no report (is it there? python tests/helm/tools.py checkov): {done.stderr[-2000:]}") from error


def failures(framework: str, report: Any) -> int:
    """Says what failed, and how many did; a report about nothing counts as a failure, and so does a skip without a reason."""
    summary, results = report["summary"], report.get("results", {})
    unreasoned = [check for check in results.get("skipped_checks", []) if len(check["check_result"].get("suppress_comment", "")) < 20]
    for check in results.get("failed_checks", []) + unreasoned:
        sys.stdout.write(f"{check['check_id']} {check['check_name']}: {check['resource']} ({check['file_path']})\n")
    counts = {key: summary[key] for key in ("passed", "failed", "skipped", "parsing_errors")}
    sys.stdout.write(f"checkov {framework}: {', '.join(f'{count} {key}' for key, count in counts.items())}\n")
    return int(counts["failed"] + counts["parsing_errors"] + len(unreasoned) + (counts["passed"] == 0))


if __name__ == "__main__":
    sys.exit(main())
