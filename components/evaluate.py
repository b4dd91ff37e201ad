"""evaluate: evidence for and against the credits."""
# Written by `make generate` from apportion.config.stages: change the table there, not this file.

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(round_uri: str) -> int:
    from apportion import logs, stages

    logs.to_terminal()
    return stages.run("evaluate", round_uri)  # type: ignore[return-value]
