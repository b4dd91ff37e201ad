"""Evidence that a round cites from another round of the same game and contributors, so that a round which
retrains nothing can still say how its game agrees with retraining."""

import hashlib
from collections.abc import Mapping

from apportion.errors import ApportionError, ConfigError, Damaged, StoreError
from apportion.records import Citation, Commit, ComparedEvaluations, GameEvidence, Manifest, Purpose, Role
from apportion.rounds.places import read_place
from apportion.rounds.round import Round
from apportion.store import Store
from apportion.store.layout import COMMIT_FILE, evidence_key


def evidence_to_cite(this_round: Round, date: str | None = None) -> GameEvidence:
    """What a round measured of its game, with the date of its commit. date: YYYY-MM-DD, for a round that
    earlier code committed, which did not record it. Raises ApportionError where the round has no held-out
    coalitions of its own or is not committed, and where there is no date, or there are two that differ."""
    plan = this_round.plan
    if not this_round.evaluations("held_out"):
        raise ApportionError(
            f"found no held-out coalitions in round {this_round.id}, expected some: only a round that "
            "retrains (evaluation.held_out) measures how its game agrees with retraining"
        )
    measured_on = _date_of_commit(this_round, date)
    project = this_round.config.project
    return GameEvidence(
        citation=Citation(round=this_round.id, project=project, date=measured_on, code=plan.code),
        manifest=plan.manifest,
        credit=plan.games["credit"],
        truth=plan.games["truth"],
        held_out=held_out_of(this_round),
        by_size=by_size_of(this_round),
    )


def _date_of_commit(this_round: Round, given: str | None) -> str:
    where = this_round.where(COMMIT_FILE)
    if not this_round.has(COMMIT_FILE):
        raise ApportionError(f"found no {where}, expected a committed round: run publish for this round")
    commit = Commit.parse(this_round.read(COMMIT_FILE), where)
    date = commit.date or given
    if date is None:
        raise ApportionError(
            f"found no date in {where}, which Apportion {commit.code} wrote without one, expected the date "
            "on which the round was committed (--date)"
        )
    if given not in (None, date):
        raise ApportionError(f"found --date {given}, expected {date}, the date of the commit in {where}")
    return date


def held_out_of(this_round: Round) -> ComparedEvaluations:
    """A round's own held-out coalitions. Raises NotFound where one is not evaluated."""
    return _compared(this_round, "held_out", "paired", "baseline")


def by_size_of(this_round: Round) -> ComparedEvaluations:
    """A round's own coalitions of further sizes. Raises NotFound where one is not evaluated."""
    return _compared(this_round, "by_size", "by_size_paired", "by_size_baseline")


def _compared(this_round: Round, *purposes: Purpose) -> ComparedEvaluations:
    retrained, paired, own_images = (
        tuple(evaluation for _, evaluation in this_round.evaluations(purpose)) for purpose in purposes
    )
    return ComparedEvaluations(retrained=retrained, paired=paired, own_images=own_images)


def read_evidence(uri: str) -> bytes:
    """The text of the evidence at a URI: "openmoji" (embedded), a local path, file:///… or s3://bucket/key.
    Raises ConfigError where it cannot be read or is no evidence."""
    try:
        data = read_place(uri, "evidence.json", "evaluation.evidence")
        GameEvidence.parse(data, uri)
    except (OSError, StoreError, ValueError) as error:  # ValueError: a null byte in the path
        raise ConfigError(f"cannot read the evidence {uri!r} (evaluation.evidence): {error}") from error
    return data


def mismatch(evidence: GameEvidence, manifest: Manifest, games: Mapping[Role, str]) -> str:
    """Why evidence says nothing of a round with this manifest and these games, in words; empty where it
    does. Raises ConfigError where its records are not of those games and contributors."""
    pairs = {
        "contributors and their data": (evidence.manifest, manifest.id),
        "game of the credits": (evidence.credit, games["credit"]),
        "game of retraining": (evidence.truth, games["truth"]),
    }
    differing = [name for name, (found, expected) in pairs.items() if found != expected]
    if differing:
        return (
            f"the evidence of round {evidence.citation.round} ({evidence.citation.date}) is of another "
            f"{' and another '.join(differing)}, so it says nothing of this round (evaluation.evidence)"
        )
    for part in (evidence.held_out, evidence.by_size):
        _check(part, evidence, set(manifest.all_data), games)
    return ""


def _check(
    part: ComparedEvaluations, evidence: GameEvidence, data: set[str], games: Mapping[Role, str]
) -> None:
    k = len(part.retrained)
    repeats = len(part.paired) // k if k else 0
    expected = [record.members for record in part.retrained]
    fits = (
        len(part.own_images) == k
        and len(part.paired) == repeats * k
        and (repeats > 0 or not k)
        and all(record.game == games["truth"] for record in part.retrained)
        and all(record.game == games["credit"] for record in part.paired)
        and all(record.game == games["baseline"] for record in part.own_images)
        and all(set(members) <= data for members in expected)
        and [record.members for record in part.own_images] == expected
        and [record.members for record in part.paired] == [m for m in expected for _ in range(repeats)]
    )
    if not fits:
        raise ConfigError(
            f"found evidence of round {evidence.citation.round} whose evaluations are not of the same "
            "coalitions, games and contributors, expected what `apportion evidence` prints "
            "(evaluation.evidence)"
        )


def evidence_hash(data: bytes) -> str:
    """How a plan names the evidence that its round cites."""
    return hashlib.sha256(data).hexdigest()[:32]


def keep_evidence(store: Store, data: bytes) -> None:
    """Stores evidence under its hash, once."""
    store.ensure(evidence_key(evidence_hash(data)), lambda: data)


def cited(this_round: Round) -> GameEvidence | None:
    """The evidence that a round cites; None where it cites none. Raises NotFound or Damaged."""
    address = this_round.plan.evidence
    if address is None:
        return None
    key = evidence_key(address)
    data, where = this_round.store.get(key), this_round.store.where(key)
    if evidence_hash(data) != address:
        raise Damaged(
            f"found other evidence in {where}, expected that of hash {address}; it is left as it is"
        )
    return GameEvidence.parse(data, where)
