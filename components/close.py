"""close: ends the tracking run that a failed or stopped pipeline left running."""
# Written by `make generate` from apportion.config.stages: change the table there, not this file.

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def close(config: str, job: str, status: dsl.PipelineTaskFinalStatus) -> None:
    from apportion import logs
    from apportion.stages import close

    logs.to_terminal()
    close.run_text(config, job, status.state)
