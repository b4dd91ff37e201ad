"""attribute: credits, and how many more evaluations they call for."""
# Written by `make generate` from apportion.config.stages: change the table there, not this file.

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def attribute(round_uri: str) -> int:
    from apportion import logs, stages

    logs.to_terminal()
    return stages.run("attribute", round_uri)  # type: ignore[return-value]
