"""train: base model and reference."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(round_uri: str) -> str:
    from apportion import logs, stages

    logs.to_terminal()
    return stages.run("train", round_uri)  # type: ignore[return-value]
