"""plan: checks everything that can be checked, decides which evaluations a round needs, and says so before
any compute is spent."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apportion import datasets
from apportion.config.hashing import digest
from apportion.config.loading import parse
from apportion.config.round import Config
from apportion.datasets.contribution import Contribution
from apportion.ledger import Ledger
from apportion.planning.checks import check_coalitions, check_options, check_own_images
from apportion.planning.coalitions import wanted_evaluations
from apportion.planning.features import check_features, warn_of_properties
from apportion.planning.forecast import forecast
from apportion.planning.games import base_of, games_of
from apportion.planning.networks import EMBEDDED_HASH, choice_of, network_description, network_of
from apportion.planning.precision import resolve
from apportion.properties import PROPERTIES
from apportion.records import (
    CREDITS,
    Game,
    GameEvidence,
    Manifest,
    NetworkDescription,
    Plan,
    Role,
    StoppingStatus,
)
from apportion.rounds import heads, integrity, training_data
from apportion.rounds.citing import evidence_hash, keep_evidence, mismatch, read_evidence
from apportion.rounds.networks import keep_network
from apportion.rounds.round import Round
from apportion.store import Store, layout, open_store
from apportion.store.layout import round_key, round_uri
from apportion.tracking import Tracker, expected_size, open_tracker
from apportion.valuation.methods import chosen
from apportion.version import code

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """The round's address and how many evaluations it lacks. `work` is False where the round is already
    committed."""

    round_uri: str
    work: bool
    pending: int
    reason: str


def run_text(config: str, job: str | None = None) -> Planned:
    """As `run`, from the JSON text of a configuration, as a pipeline passes it."""
    start = time.perf_counter()
    planned = run(parse(json.loads(config), "the pipeline's configuration"), job)
    log.info("%s: %s", "round " + planned.round_uri if planned.work else "nothing to do", planned.reason)
    log.info("stage plan: %.1f s", time.perf_counter() - start)
    return planned


def run(config: Config, job: str | None = None) -> Planned:
    """Plans a round. Raises an ApportionError that names the option to change for anything that would fail
    later."""
    check_options(config)
    store = open_store(config.store)
    store.probe()
    tracker = open_tracker(config.tracking, store, brief=True)
    tracker.check(size=0)
    contributions = datasets.load(config.data, config.model.condition)
    log.info(datasets.found(contributions))
    for warning in datasets.duplicates(contributions):
        log.warning(warning)
    manifest = training_data.manifest_of(contributions)
    tracker.check_names(manifest.names)
    check_coalitions(config, manifest.n)
    network, description = checked_network(config, store, contributions) or (None, None)
    warn_of_properties(config.properties, contributions, 0 if description is None else description.classes)
    evidence = None if config.evaluation.evidence is None else read_evidence(config.evaluation.evidence)
    plan, games, earlier = next_look(store, config, manifest, description, evidence)
    check_own_images(config, manifest, games)
    for round_id in earlier:
        tracker.finish_round(round_id)  # a publication that was killed at its very end left its run open
    uri = round_uri(store, plan.round)
    last = heads.read(store, config.project)
    is_head = last is not None and heads.round_of(last) == plan.round
    if is_head and store.exists(round_key(plan.round, layout.COMMIT_FILE)):
        made_by = integrity.read_committed(uri).code
        tracker.finish_round(plan.round)
        reason = unchanged(uri, made_by, Round.open(uri).credits.stopping)
        return Planned(uri, work=False, pending=0, reason=reason)
    # `publish` needs the previous credits: where they cannot be read, this fails now rather than at the end.
    heads.previous(store, config.project, last, plan.round)
    tracker.check_size(expected_size(manifest.n, len(plan.wanted)))  # for the same reason
    keep_inputs(store, contributions, network)
    if evidence is not None and plan.evidence is not None:
        keep_evidence(store, evidence)
    return _commit(store, config, plan, games, tracker, job)


def _commit(
    store: Store, config: Config, plan: Plan, games: Mapping[Role, Game], tracker: Tracker, job: str | None
) -> Planned:
    ledger = Ledger(store)
    for game in games.values():
        ledger.open_game(game)
    keep_config(store, plan, config)
    store.ensure(round_key(plan.round, layout.PLAN_FILE), plan.dump)
    pending, unique = ledger.pending(plan.wanted), {item.key: item for item in plan.wanted}
    for key in unique.keys() - {item.key for item in pending}:
        ledger.read(unique[key])  # a damaged record stops the round here, not after hours of compute
    uri = round_uri(store, plan.round)
    this_round = Round.open(uri)
    integrity.read_inputs(this_round, pending)
    tags = {
        "apportion.project": config.project,
        "apportion.manifest": plan.manifest,
        "apportion.code": plan.code,
    }
    tracker.start(plan.round, job, tags)
    expected = forecast(this_round, pending)
    reason = f"{len(pending)} of {len(unique)} evaluations are not in the ledger{expected}"
    return Planned(uri, work=True, pending=len(pending), reason=reason)


def next_look(
    store: Store,
    config: Config,
    manifest: Manifest,
    network: NetworkDescription | None,
    evidence: bytes | None = None,
) -> tuple[Plan, dict[Role, Game], list[str]]:
    """The plan of the round, its games, and the ids of the committed rounds of earlier looks.

    Where rounds are topped up, the round is that of the first look that is not committed, or of a committed
    look at which the stopping rule holds, or of the last look.
    """
    looks = len(config.valuation.stop.looks) if config.valuation.stop else 1
    earlier: list[str] = []
    while True:
        plan, games = draw_up(config, manifest, network, look=len(earlier), evidence=evidence)
        if plan.look + 1 == looks or not store.exists(round_key(plan.round, layout.COMMIT_FILE)):
            return plan, games, earlier
        stopping = integrity.read_credits(round_uri(store, plan.round)).stopping
        if stopping is not None and stopping.stop:
            return plan, games, earlier
        earlier.append(plan.round)


def draw_up(
    config: Config,
    manifest: Manifest,
    network: NetworkDescription | None,
    look: int = 0,
    evidence: bytes | None = None,
) -> tuple[Plan, dict[Role, Game]]:
    """The plan of a round and its games: a pure function of configuration, manifest, feature network and the
    text of cited evidence, so the same input always gives the same round."""
    precision = resolve(config.compute)
    base = base_of(config, manifest, precision)
    games = games_of(config, base, None if network is None else network.network, precision)
    wanted = tuple(wanted_evaluations(config, manifest, games, look))
    methods = chosen(config.valuation)
    identity = {
        "config": config.identity(),
        "manifest": manifest.id,
        "methods": methods,
        "wanted": [item.model_dump() for item in wanted],
        "credits": CREDITS,
    }
    applies = None
    if evidence is not None:
        ids = {role: game.id for role, game in games.items()}
        reason = mismatch(GameEvidence.parse(evidence, "evaluation.evidence"), manifest, ids)
        if reason:
            log.warning(reason)
        else:
            applies = evidence_hash(evidence)
            identity["evidence"] = applies
    plan = Plan(
        round=digest(identity),
        manifest=manifest.id,
        base=base,
        games={role: game.id for role, game in games.items()},
        methods=tuple(methods),
        wanted=wanted,
        code=code(),
        look=look,
        credits=CREDITS,
        evidence=applies,
        networks=() if network is None else (network,),
    )
    return plan, games


def unchanged(uri: str, made_by: str, stopping: StoppingStatus | None) -> str:
    """Why there is nothing to do. A change of code alone makes no new round: the committed round stays, and
    can be verified."""
    if stopping is not None:
        enough = "its stopping rule holds" if stopping.stop else "it is the last"
        look = f"look {stopping.look} of {len(stopping.looks)}"
        return f"manifest and configuration are those of {look}, and {enough} ({stopping.reason})"
    if made_by == code():
        return "manifest, configuration and code are those of the last committed round"
    return (
        f"manifest and configuration are those of the last committed round, which code {made_by} made; "
        f"`apportion verify {uri}` says whether {code()} gives the same"
    )


def keep_config(store: Store, plan: Plan, config: Config) -> None:
    """Stores the configuration of a round in place of an earlier one: tracking, compute and the place of the
    network are not part of a round's id, so they may change before a re-run."""
    key, text = round_key(plan.round, layout.CONFIG_FILE), _json(config.model_dump(mode="json"))
    if not store.put_if_absent(key, text) and (known := store.read_pointer(key)) and known.data != text:
        store.swap(key, known.tag, text)


def checked_network(
    config: Config, store: Store, contributions: Sequence[Contribution]
) -> tuple[bytes, NetworkDescription] | None:
    """The feature network of a round and what it is; None where no property needs one. Raises PropertyError
    or DataError where it does not fit the properties and the images."""
    names = [name for name in config.properties if PROPERTIES[name].needs_network]
    if not names:
        return None
    choice = choice_of(config)
    data = network_of(choice, store, contributions)
    origin = choice if isinstance(choice, str) else f"{choice.architecture} of {choice.weights}"
    description = network_description(data, origin)
    embedded = description.network == EMBEDDED_HASH
    if not (embedded and config.data.source == "openmoji"):  # these are known to fit, so no torch is needed
        check_features(data, origin, names, contributions)
    log.info("feature network: %s, trained on %s", description.name, description.trained_on)
    if embedded and config.data.source != "openmoji":
        log.warning(
            "the feature network knows only drawings of OpenMoji, and can rate images of another kind, and "
            "noise, wrongly: `network: train` trains one on your images (option network)"
        )
    return data, description


def keep_inputs(store: Store, contributions: Sequence[Contribution], network: bytes | None) -> None:
    """Copies images and networks into the store, where the other stages read them: files may change, or the
    other stages may not be able to read them.

    Raises Damaged where the stored manifest or network is damaged.
    """
    manifest = training_data.write(store, contributions)
    training_data.read_manifest(store, manifest.id)
    if names := training_data.outdated(store, contributions):
        log.warning(
            "labels or dates of joining of %s differ from those of the stored manifest, which stays as it is",
            ", ".join(names),
        )
    if network is not None:
        keep_network(store, network)


def _json(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()
