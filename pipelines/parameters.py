"""What a run on a cluster is told. Whatever its pods could not reach is refused here, before anything is sent."""

import logging
from typing import Any

from apportion import shared
from apportion.config import Config

log = logging.getLogger(__name__)


def parameters(config: Config) -> dict[str, Any]:
    """Of a run, after saying what is to be seen to. Raises ConfigError where pods could not use them, or KFP could not carry them."""
    told = shared.parameters(config)
    for level, remark in shared.remarks(config, told):
        log.log(level, "%s", remark)
    return told
