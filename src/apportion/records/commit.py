"""The last record of a round."""

from apportion.records.base import Hash, Record, Seconds


class Commit(Record):
    """Says that a round is complete. seconds: of each step, over all its evaluations and the weights that
    they share."""

    round: Hash
    previous: Hash | None
    project: str
    tracking_run: str | None
    seconds: dict[str, Seconds]
    code: str
