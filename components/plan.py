"""plan: what a round evaluates, or that there is nothing to do."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan(config: str, job: str) -> NamedTuple("Planned", [("round_uri", str), ("work", bool)]):  # type: ignore[valid-type]
    from collections import namedtuple

    from apportion import logs
    from apportion.stages import plan

    logs.to_terminal()
    planned = plan.run_text(config, job)
    return namedtuple("Planned", ["round_uri", "work"])(planned.round_uri, planned.work)
