"""The parameters of a run on a cluster. Options that its pods could not use are refused before anything is
sent."""

import logging
from typing import Any

from apportion import submission
from apportion.config.round import Config

log = logging.getLogger(__name__)


def parameters(config: Config) -> dict[str, Any]:
    """The parameters of a run, after logging remarks on the configuration. Raises ConfigError where pods
    could not use an option, or where KFP could not carry the parameters."""
    values = submission.run_parameters(config)
    for level, remark in submission.remarks(config, values):
        log.log(level, "%s", remark)
    return values
