"""The attribution pipeline: plan, then everything a round lacks, shard by shard, then credits, evidence and publication."""

from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_task import PipelineTask

from apportion.config import Cluster
from components.attribute import attribute
from components.close import close
from components.evaluate import evaluate
from components.finetune import finetune
from components.plan import plan
from components.prune import prune
from components.publish import publish
from components.sample import sample
from components.score import score
from components.train import train
from pipelines.cluster import equip


def attribution(cluster: Cluster | None = None) -> GraphComponent:
    """The pipeline for a cluster, whose tasks have what its configuration says, or for this machine, where they have nothing of it."""

    def task(component: Any, **inputs: Any) -> PipelineTask:
        """Never from KFP's cache, which cannot see the store: every stage returns at once where its outputs are there."""
        made: PipelineTask = component(**inputs).set_caching_options(False)
        return made if cluster is None else equip(made, component.name, cluster)

    def evaluated(round_uri: Any, shard: Any, *before: PipelineTask) -> PipelineTask:
        """The three tasks that bring a shard's pending coalitions into the ledger; returns the last."""
        made = task(finetune, round_uri=round_uri, shard=shard).after(*before)
        sampled = task(sample, round_uri=round_uri, shard=shard).after(made)
        return task(score, round_uri=round_uri, shard=shard).after(sampled)

    def concluded(round_uri: Any, *before: PipelineTask) -> None:
        judged = task(evaluate, round_uri=round_uri).after(*before)
        task(publish, round_uri=round_uri).after(judged)

    @dsl.pipeline(name="apportion-attribution", description="Credits the contributors of a diffusion model's training data.")
    def whole(config: str, shards: list) -> None:
        """config: a round's configuration as JSON text; shards: the numbers of the workers, each of which takes its share of coalitions."""
        job = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        with dsl.ExitHandler(task(close, config=config, job=job)):
            round_uri = task(plan, config=config, job=job).output
            with dsl.If(round_uri != "", name="work"):
                base = task(train, round_uri=round_uri)
                pruned = task(prune, round_uri=round_uri).after(base)
                with dsl.ParallelFor(shards, name="coalitions") as shard:
                    last = evaluated(round_uri, shard, pruned)
                credited = task(attribute, round_uri=round_uri).after(last)
                with dsl.If(credited.output > 0, name="counterfactuals"):
                    with dsl.ParallelFor(shards, name="removals") as shard:
                        last = evaluated(round_uri, shard)
                    concluded(round_uri, last)
                with dsl.Else(name="no-counterfactuals"):
                    concluded(round_uri)

    return whole
