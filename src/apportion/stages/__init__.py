"""One module per stage of a round: read records, call the maths, commit records."""

import logging
import time
from importlib import import_module

log = logging.getLogger(__name__)

SHARDED = ("finetune", "sample", "score")
STAGES = ("train", "prune", *SHARDED, "attribute", "evaluate", "publish")
"""Those that are told a round's address; `plan` makes it and `close` ends its tracking."""


def run(stage: str, round_uri: str, shard: int = 0) -> int | str:
    """Runs one stage and says how long it took. Stages are imported when they run: planning needs no diffusion library."""
    start = time.perf_counter()
    arguments = (round_uri, shard) if stage in SHARDED else (round_uri,)
    value: int | str = import_module(f"apportion.stages.{stage}").run(*arguments)
    suffix = f" {shard}" if stage in SHARDED else ""
    log.info("stage %s%s: %.1f s", stage, suffix, time.perf_counter() - start)
    return value
