"""prune: the pruned model that fine-tuning starts from."""
# Written by `make generate` from apportion.config.stages: change the table there, not this file.

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prune(round_uri: str) -> str:
    from apportion import logs, stages

    logs.to_terminal()
    return stages.run("prune", round_uri)  # type: ignore[return-value]
