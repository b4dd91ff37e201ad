"""One module per stage of a round (`apportion.config.stages.STAGES`): open the round, call the maths, commit
records."""

import logging
import time
from importlib import import_module

from apportion.config.stages import STAGES

log = logging.getLogger(__name__)


def run(stage: str, round_uri: str, shard: int = 0) -> int | str:
    """Runs one stage of a planned round and logs how long it took. The stage is imported here, because
    planning needs no diffusion library."""
    start = time.perf_counter()
    sharded = STAGES[stage].sharded
    arguments = (round_uri, shard) if sharded else (round_uri,)
    result: int | str = import_module(f"apportion.stages.{stage}").run(*arguments)
    log.info("stage %s%s: %.1f s", stage, f" {shard}" if sharded else "", time.perf_counter() - start)
    return result
