"""What a round measured of its game, in a form that other rounds of the same game and data can cite."""

from apportion.records.base import Hash, Record
from apportion.records.evaluation import Evaluation
from apportion.records.evidence import Citation


class ComparedEvaluations(Record):
    """The same coalitions, those of one size together: by retraining; in the game of the credits, equally
    often each, in the order of the first; and by their own images, in that order."""

    retrained: tuple[Evaluation, ...] = ()
    paired: tuple[Evaluation, ...] = ()
    own_images: tuple[Evaluation, ...] = ()


class GameEvidence(Record):
    """Measured in the round of `citation`. manifest: of its contributors. credit, truth: the games that were
    compared. held_out: the coalitions that judge credits; by_size: those of further sizes. Whoever cites it
    computes correlations and verdicts from these values."""

    citation: Citation
    manifest: Hash
    credit: Hash
    truth: Hash
    held_out: ComparedEvaluations
    by_size: ComparedEvaluations
