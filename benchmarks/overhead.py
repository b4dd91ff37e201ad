"""How much of a local run is spent outside the stages' own work.

    make demo 2>&1 | tee demo.log
    .venv/bin/python benchmarks/overhead.py demo.log

Shards run side by side, so of each loop only the slower shard counts. A stage's clock includes the import of its libraries, which each
task's process does anew; the last line says how much of the stages' work that was, by importing each stage once more now.
"""

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
    """Sum over the stages on the longest path, one after the other but shards of one loop at once, of what each counts for."""
    total, shards = 0.0, defaultdict(float)
    for stage, shard, logged in STAGE.findall(log):
        if shard:
            shards[shard] += seconds(stage, float(logged))
        else:
            total += max(shards.values(), default=0.0) + seconds(stage, float(logged))
            shards.clear()
    return total


@cache
def importing(stage: str) -> float:
    """Seconds that a fresh process takes to import a stage."""
    script = f"import time; t = time.perf_counter(); import apportion.stages.{stage}; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    log = Path(sys.argv[1]).read_text(encoding="utf-8")
    wall, own = float(WALL.findall(log)[-1]), longest_path(log, lambda _, logged: logged)
    print(f"wall {wall:.1f} s, stages {own:.1f} s, orchestration {wall - own:.1f} s ({(wall - own) / wall:.1%})")
    imports = longest_path(log, lambda stage, _: importing(stage))
    print(f"of the stages' work, imports {imports:.1f} s ({imports / wall:.1%})")


if __name__ == "__main__":
    main()
