"""What the tests of the doctor share: a configuration, and how a finding is checked."""

from pathlib import Path

from apportion.doctor import Finding

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"


def check_finding(finding: Finding, result: str, *words: str) -> None:
    """The finding has this result, and each of the words is in its message or in its fix."""
    text = f"{finding.message} → {finding.fix}"
    assert finding.result == result, text
    assert not [word for word in words if word not in text], text
