"""One ledger record: the value of a coalition, and the cost of measuring it."""

from pydantic import model_validator

from apportion.records.base import Finite, Hash, Record, RecordedSeed, Seconds
from apportion.records.game import evaluation_key


class Cost(Record):
    """Seconds of each step of making a model, its images or its values, and the device they were spent on.
    scored_on: the device of scoring, which may be another one."""

    finetune: Seconds = 0.0
    sample: Seconds = 0.0
    score: Seconds = 0.0
    device: str
    scored_on: str = ""

    @property
    def total(self) -> float:
        return self.finetune + self.sample + self.score


class Evaluation(Record):
    """Every property of the model of one coalition in one game with one seed."""

    key: Hash
    game: Hash
    seed: RecordedSeed
    members: tuple[Hash, ...]
    values: dict[str, Finite]
    cost: Cost
    code: str

    @model_validator(mode="after")
    def _addressed(self) -> "Evaluation":
        expected = evaluation_key(self.game, self.seed, self.members)
        if self.key != expected:
            raise ValueError(f"found key {self.key}, expected {expected} from its game, seed and members")
        return self
