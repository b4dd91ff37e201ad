"""How much of a local run is spent outside the stages' own work.

    make demo 2>&1 | tee demo.log
    .venv/bin/python benchmarks/overhead.py demo.log

Shards run side by side, so of each loop only the slower shard counts.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

STAGE = re.compile(r"stage ([a-z]+)(?: (\d+))?: ([\d.]+) s")
WALL = re.compile(r"pipeline: ([\d.]+) s")


def own_work(log: str) -> float:
    """Seconds of stages on the longest path: one after the other, but shards of one loop at once."""
    total, shards = 0.0, defaultdict(float)
    for _, shard, seconds in STAGE.findall(log):
        if shard:
            shards[shard] += float(seconds)
        else:
            total += max(shards.values(), default=0.0) + float(seconds)
            shards.clear()
    return total


def main() -> None:
    log = Path(sys.argv[1]).read_text(encoding="utf-8")
    wall, own = float(WALL.findall(log)[-1]), own_work(log)
    print(f"wall {wall:.1f} s, stages {own:.1f} s, orchestration {wall - own:.1f} s ({(wall - own) / wall:.1%})")


if __name__ == "__main__":
    main()
