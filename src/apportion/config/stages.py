"""The stages of a round, in the order in which a pipeline runs them.

A new stage is a row here and a module `apportion.stages.<name>`; `make generate` makes the rest from this
table: its component, its place in the pipeline, the import contracts and what the chart lists
(docs/architecture.md).
"""

from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

Phase = Literal["plan", "models", "weights", "coalitions", "credits", "results", "exit"]
"""Where in the pipeline a stage runs. `weights` and `coalitions`: once per shard, and again for the
coalitions that the credits require; first `weights`, each shard on its part of the training runs, then, when
all shards are done, `coalitions`, each shard on its part of the coalitions. `exit`: at the end, also of a
pipeline that failed."""


class StageRow(NamedTuple):
    """accelerated: it computes with models, so it runs on the pool `gpu` unless its own option says
    otherwise; the other stages except `plan` import no deep learning library. tracked: it connects to the
    tracking server."""

    phase: Phase
    summary: str
    accelerated: bool = False
    tracked: bool = False

    @property
    def sharded(self) -> bool:
        return self.phase in ("weights", "coalitions")


STAGES: dict[str, StageRow] = {
    "plan": StageRow("plan", "what a round evaluates, or that there is nothing to do", tracked=True),
    "train": StageRow("models", "the base model, and what properties are measured against", accelerated=True),
    "prune": StageRow("models", "the pruned model that fine-tuning starts from", accelerated=True),
    "finetune": StageRow(
        "weights", "weights that coalitions are sampled from, one shard's", accelerated=True
    ),
    "sample": StageRow("coalitions", "images of one shard's coalitions", accelerated=True),
    "score": StageRow("coalitions", "ledger records of one shard's coalitions", accelerated=True),
    "attribute": StageRow("credits", "credits, and how many more evaluations they call for"),
    "evaluate": StageRow("results", "evidence for and against the credits"),
    "publish": StageRow("results", "statement, report and tracking run of a round", tracked=True),
    "close": StageRow(
        "exit", "ends the tracking run that a failed or stopped pipeline left running", tracked=True
    ),
}


def _known(name: str) -> str:
    if name not in STAGES:
        raise ValueError(f"found stage {name!r}, expected one of {', '.join(STAGES)}")
    return name


Stage = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(STAGES)})]
"""The name of a stage."""


def of_phase(*phases: Phase) -> list[str]:
    """The stages of these phases, in order."""
    return [name for name, row in STAGES.items() if row.phase in phases]
