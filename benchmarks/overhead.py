"""How much of the time of a local run is spent outside the stages.

    make demo 2>&1 | tee demo.log
    .venv/bin/python benchmarks/overhead.py demo.log

The shards of one loop run at the same time, so of each loop only the slowest shard counts. The time that a
stage logs includes the import of its libraries, which every task repeats in its own process. To measure this
part, each stage is imported once more; the last line gives the result.
"""

import argparse
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path

STAGE = re.compile(r"stage ([a-z]+)(?: (\d+))?: ([\d.]+) s")
WALL = re.compile(r"pipeline: ([\d.]+) s")


def longest_path(log: str, seconds: Callable[[str, float], float]) -> float:
    """The sum of `seconds` over the stages on the longest path through a run. Stages run one after the other;
    of the shards of one loop, which run at the same time, the slowest counts.

    seconds: what counts for a stage, from its name and the seconds that it logged.
    """
    total = 0.0
    shards: dict[str, float] = defaultdict(float)
    for stage, shard, logged in STAGE.findall(log):
        if shard:
            shards[shard] += seconds(stage, float(logged))
        else:
            total += max(shards.values(), default=0.0) + seconds(stage, float(logged))
            shards.clear()
    return total


@cache
def import_seconds(stage: str) -> float:
    """Seconds that a new process takes to import a stage."""
    script = (
        "import time; start = time.perf_counter(); "
        f"import apportion.stages.{stage}; print(time.perf_counter() - start)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path, help="what a local run printed")
    log = parser.parse_args().log.read_text(encoding="utf-8")
    runs = WALL.findall(log)
    if not runs:
        parser.error("found no line `pipeline: … s`, expected the output of a run that ended well")
    wall = float(runs[-1])
    stages = longest_path(log, lambda _, logged: logged)
    outside = wall - stages
    print(
        f"wall {wall:.1f} s, stages {stages:.1f} s, outside the stages {outside:.1f} s ({outside / wall:.1%})"
    )
    imports = longest_path(log, lambda stage, _: import_seconds(stage))
    print(f"of the stages' time, imports {imports:.1f} s ({imports / wall:.1%} of the wall time)")


if __name__ == "__main__":
    main()
