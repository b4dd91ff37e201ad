"""finetune: weights that coalitions are sampled from, one shard's."""
# Written by `make generate` from apportion.config.stages: change the table there, not this file.

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def finetune(round_uri: str, shard: int) -> int:
    from apportion import logs, stages

    logs.to_terminal()
    return stages.run("finetune", round_uri, shard)  # type: ignore[return-value]
