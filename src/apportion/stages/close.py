"""close: the pipeline's exit handler. A tracking run that its pipeline left open is ended with the pipeline's
own status."""

import json

from apportion.config.loading import parse
from apportion.config.round import Config
from apportion.tracking import open_tracker

STATUS = {"SUCCEEDED": "FINISHED", "SUCCESS": "FINISHED", "CANCELLED": "KILLED", "CANCELED": "KILLED"}
"""MLflow's status for each status of a pipeline; any other is FAILED."""


def run_text(config: str, job: str, status: str) -> list[str]:
    """As `run`, from the JSON text of a configuration, as a pipeline passes it."""
    return run(parse(json.loads(config), "the pipeline's configuration"), job, status)


def run(config: Config, job: str, status: str) -> list[str]:
    """Ends what `job` left running; returns the tracking runs that were ended."""
    return open_tracker(config.tracking).close_job(job, STATUS.get(status.upper(), "FAILED"))
