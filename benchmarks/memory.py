"""The most memory that a command and all its processes use at one time.

    .venv/bin/python benchmarks/memory.py make demo

Once a second the memory of all processes of the command is added up. A page that several processes share
counts in equal parts for each of them. Needs Linux (/proc).
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

INTERVAL = 1.0
"""Seconds between two measurements."""


def used(session: int) -> int:
    """Bytes of memory that the processes of a session use (the proportional set size of smaps_rollup)."""
    total = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) != session:
                continue
            lines = (folder / "smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # the process has ended meanwhile
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", help="the command to run …")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="… and its arguments")
    command = parser.parse_args()
    process = subprocess.Popen([command.program, *command.arguments], start_new_session=True)
    most = 0
    while process.poll() is None:
        most = max(most, used(process.pid))
        time.sleep(INTERVAL)
    print(f"at most {most / 2**30:.2f} GiB at one time", file=sys.stderr)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
