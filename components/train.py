"""train: the base model, and what properties are measured against."""
# Written by `make generate` from apportion.config.stages: change the table there, not this file.

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(round_uri: str) -> str:
    from apportion import logs, stages

    logs.to_terminal()
    return stages.run("train", round_uri)  # type: ignore[return-value]
