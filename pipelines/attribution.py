"""The attribution pipeline, built from the table of stages (`apportion.config.stages.STAGES`): plan, then the
stages that make models, then the weights and the coalitions shard by shard, then credits, evidence and
publication."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_task import PipelineTask

from apportion.config.cluster import Cluster
from apportion.config.stages import of_phase
from pipelines.cluster import equip


def attribution(cluster: Cluster | None = None) -> GraphComponent:
    """The pipeline for a cluster, whose configuration decides what each task gets, or for this machine, where
    tasks get none of it."""

    def task(stage: str, **inputs: Any) -> PipelineTask:
        """The task of a stage. It never uses KFP's cache, which does not know the store: a stage whose
        outputs are in the store returns at once."""
        component = getattr(import_module(f"components.{stage}"), stage)
        new: PipelineTask = component(**inputs).set_caching_options(False)
        return new if cluster is None else equip(new, stage, cluster)

    def chain(
        stages: Sequence[str], before: Sequence[PipelineTask] = (), **inputs: Any
    ) -> Sequence[PipelineTask]:
        """A task for each stage, the first after the tasks `before`, each other after the previous one.
        Returns the last task, or `before` where there are no stages."""
        for stage in stages:
            before = [task(stage, **inputs).after(*before)]
        return before

    (plan,) = of_phase("plan")
    (close,) = of_phase("exit")

    @dsl.pipeline(
        name="apportion-attribution",
        description="Credits the contributors of a diffusion model's training data.",
    )
    def pipeline(config: str, shards: list) -> None:
        """config: a round's configuration as JSON text; shards: the numbers of the shards, each with its part
        of the training runs and of the coalitions."""
        job = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        with dsl.ExitHandler(task(close, config=config, job=job)):
            round_uri = task(plan, config=config, job=job).output
            with dsl.If(round_uri != "", name="work"):
                models = chain(of_phase("models"), round_uri=round_uri)
                with dsl.ParallelFor(shards, name="weights") as shard:
                    fitted = chain(of_phase("weights"), models, round_uri=round_uri, shard=shard)
                with dsl.ParallelFor(shards, name="coalitions") as shard:
                    evaluated = chain(of_phase("coalitions"), fitted, round_uri=round_uri, shard=shard)
                (credited,) = chain(of_phase("credits"), evaluated, round_uri=round_uri)
                with dsl.If(credited.output > 0, name="counterfactuals"):
                    with dsl.ParallelFor(shards, name="removal-weights") as shard:
                        fitted = chain(of_phase("weights"), round_uri=round_uri, shard=shard)
                    with dsl.ParallelFor(shards, name="removals") as shard:
                        evaluated = chain(of_phase("coalitions"), fitted, round_uri=round_uri, shard=shard)
                    chain(of_phase("results"), evaluated, round_uri=round_uri)
                with dsl.Else(name="no-counterfactuals"):
                    chain(of_phase("results"), round_uri=round_uri)

    return pipeline
