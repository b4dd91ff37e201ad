"""What passes between stages: typed records, each with one canonical text and one address."""

from apportion.records.base import Record
from apportion.records.commit import Commit
from apportion.records.credits import (
    CREDITS,
    Credit,
    Credits,
    Endpoint,
    Interaction,
    PilotResult,
    StoppingStatus,
)
from apportion.records.evaluation import Cost, Evaluation
from apportion.records.evidence import Citation, Counterfactual, Evidence, Faith, Judgement, LdsScore, Status
from apportion.records.game import (
    SCHEMA,
    Base,
    Game,
    Measurement,
    Recipe,
    Start,
    evaluation_key,
    samples_address,
)
from apportion.records.game_evidence import ComparedEvaluations, GameEvidence
from apportion.records.manifest import Contributor, Manifest
from apportion.records.plan import Followup, NetworkDescription, Plan, Purpose, Role, Wanted, members_text
from apportion.records.scores import ContributorScores, Scores, scores_address

__all__ = [
    "CREDITS",
    "SCHEMA",
    "Base",
    "Citation",
    "Commit",
    "ComparedEvaluations",
    "Contributor",
    "ContributorScores",
    "Cost",
    "Counterfactual",
    "Credit",
    "Credits",
    "Endpoint",
    "Evaluation",
    "Evidence",
    "Faith",
    "Followup",
    "Game",
    "GameEvidence",
    "Interaction",
    "Judgement",
    "LdsScore",
    "Manifest",
    "Measurement",
    "NetworkDescription",
    "PilotResult",
    "Plan",
    "Purpose",
    "Recipe",
    "Record",
    "Role",
    "Scores",
    "Start",
    "Status",
    "StoppingStatus",
    "Wanted",
    "evaluation_key",
    "members_text",
    "samples_address",
    "scores_address",
]
