"""publish: statement, report and tracking run of a round."""
# Written by `make generate` from apportion.config.stages: change the table there, not this file.

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def publish(round_uri: str) -> str:
    from apportion import logs, stages

    logs.to_terminal()
    return stages.run("publish", round_uri)  # type: ignore[return-value]
