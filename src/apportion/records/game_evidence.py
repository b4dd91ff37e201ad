"""What a round measured of its game, in a form that other rounds of the same game and data can cite."""

from apportion.records.base import Hash, Record
from apportion.records.evaluation import Evaluation
from apportion.records.evidence import Citation, Faith


class PropertyEvidence(Record):
    """The agreement of a game with retraining for one property, as in `Judgement`."""

    property: str
    faithfulness: tuple[Faith, ...]
    baseline: tuple[Faith, ...] = ()
    by_size: tuple[Faith, ...] = ()
    by_size_baseline: tuple[Faith, ...] = ()


class GameEvidence(Record):
    """Measured in the round of `citation`. manifest: of its contributors. credit, truth: the games that were
    compared. retrained: the held-out coalitions by retraining, for the scores of other rounds' credits."""

    citation: Citation
    manifest: Hash
    credit: Hash
    truth: Hash
    properties: tuple[PropertyEvidence, ...]
    retrained: tuple[Evaluation, ...]
