"""The last record of a round."""

from apportion.records.base import Date, Hash, Record, Seconds


class Commit(Record):
    """Says that a round is complete. seconds: of each step, over all its evaluations and the weights that
    they share. date: of the commit, YYYY-MM-DD in UTC; None where earlier code committed the round, which did
    not record it."""

    round: Hash
    previous: Hash | None
    project: str
    tracking_run: str | None
    seconds: dict[str, Seconds]
    code: str
    date: Date | None = None
