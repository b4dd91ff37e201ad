"""The most memory that a command and all its processes held at once: the sum of their proportional shares, looked at each second.

.venv/bin/python benchmarks/memory.py make demo
"""

import subprocess
import sys
import time
from pathlib import Path

LOOK = 1.0
"""Seconds between two looks."""


def held(session: int) -> int:
    """Bytes held by the processes of a session; a page that several share counts in equal parts (Linux: smaps_rollup)."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                    lines = (folder / "smaps_rollup").read_text().splitlines()
                    total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
            except (FileNotFoundError, ProcessLookupError):  # it has ended since
                continue
    return total


def main() -> int:
    process, most = subprocess.Popen(sys.argv[1:], start_new_session=True), 0
    while process.poll() is None:
        most = max(most, held(process.pid))
        time.sleep(LOOK)
    print(f"at most {most / 2**30:.2f} GiB at once", file=sys.stderr)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
