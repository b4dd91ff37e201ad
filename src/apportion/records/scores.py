"""How much each contributor's samples influenced the model, by an influence method."""

from apportion.config.hashing import digest
from apportion.records.base import Finite, Hash, Record


class ContributorScores(Record):
    """The influence of one contributor's samples: mean, maximum and sum over the samples."""

    mean: Finite
    max: Finite
    sum: Finite


class Scores(Record):
    """The scores of one influence method, by the data hash of each contributor. base: the id of the base
    model that was influenced."""

    method: str
    base: Hash
    scores: dict[Hash, ContributorScores]


def scores_address(method: str, base: str, data: tuple[str, ...]) -> str:
    """Address of the scores of a method for a base model and contributors with these data hashes."""
    return digest({"method": method, "base": base, "data": sorted(data)})
