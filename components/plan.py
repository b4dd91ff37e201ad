"""plan: what a round evaluates, or that there is nothing to do."""
# Written by `make generate` from apportion.config.stages: change the table there, not this file.

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan(config: str, job: str) -> str:
    """The round's address, or nothing where it is already committed."""
    from apportion import logs
    from apportion.stages import plan

    logs.to_terminal()
    planned = plan.run_text(config, job)
    return planned.round_uri if planned.work else ""
