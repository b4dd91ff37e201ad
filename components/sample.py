"""sample: images of one shard's coalitions."""
# Written by `make generate` from apportion.config.stages: change the table there, not this file.

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def sample(round_uri: str, shard: int) -> int:
    from apportion import logs, stages

    logs.to_terminal()
    return stages.run("sample", round_uri, shard)  # type: ignore[return-value]
