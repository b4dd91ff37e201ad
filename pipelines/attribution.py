"""The attribution pipeline: plan, then everything a round lacks, shard by shard, then credits, evidence and publication."""

from kfp import dsl
from kfp.dsl.pipeline_task import PipelineTask

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

RETRIES = 2
"""Of a task whose process or node was lost: what it had stored is not made again."""


def fresh(task: PipelineTask) -> PipelineTask:
    """Never from KFP's cache, which cannot see the store: every stage returns at once where its outputs are there."""
    return task.set_caching_options(False)


def work(task: PipelineTask) -> PipelineTask:
    """A stage of a planned round: fresh, and tried again."""
    return fresh(task).set_retry(num_retries=RETRIES)


def evaluated(round_uri: str, shard: int, *before: PipelineTask) -> PipelineTask:
    """The three tasks that bring a shard's pending coalitions into the ledger; returns the last."""
    made = work(finetune(round_uri=round_uri, shard=shard)).after(*before)
    sampled = work(sample(round_uri=round_uri, shard=shard)).after(made)
    return work(score(round_uri=round_uri, shard=shard)).after(sampled)


def concluded(round_uri: str, *before: PipelineTask) -> None:
    judged = work(evaluate(round_uri=round_uri)).after(*before)
    work(publish(round_uri=round_uri)).after(judged)


@dsl.pipeline(name="apportion-attribution", description="Credits the contributors of a diffusion model's training data.")
def attribution(config: str, shards: list) -> None:
    """config: a round's configuration as JSON text; shards: the numbers of the workers, each of which takes its share of coalitions."""
    job = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    with dsl.ExitHandler(fresh(close(config=config, job=job))):
        round_uri = fresh(plan(config=config, job=job)).output
        with dsl.If(round_uri != "", name="work"):
            base = work(train(round_uri=round_uri))
            pruned = work(prune(round_uri=round_uri)).after(base)
            with dsl.ParallelFor(shards, name="coalitions") as shard:
                last = evaluated(round_uri, shard, pruned)
            credited = work(attribute(round_uri=round_uri)).after(last)
            with dsl.If(credited.output > 0, name="counterfactuals"):
                with dsl.ParallelFor(shards, name="removals") as shard:
                    last = evaluated(round_uri, shard)
                concluded(round_uri, last)
            with dsl.Else(name="no-counterfactuals"):
                concluded(round_uri)
