"""The ledger on a folder: records are written once, read back only whole and in their place, and damage is
left as it is."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from tiny import SMALLER, fill, planned

from apportion import stages
from apportion.config.family import DdpmOptions
from apportion.config.fitting import Fitting
from apportion.config.hashing import digest
from apportion.config.removal import Retrain
from apportion.config.sampling import Sampling
from apportion.errors import Damaged, NotFound
from apportion.ledger import Ledger
from apportion.records import Cost, Evaluation, Game, Measurement, Recipe, Wanted, evaluation_key
from apportion.rounds.round import Round
from apportion.rounds.weights import keep_cost
from apportion.store import FileStore, open_store
from apportion.store.layout import cost_key, game_key, ledger_prefix, record_key

RECIPE = Recipe(
    version=2,
    model=DdpmOptions(),
    resolution=16,
    precision="fp32",
    removal=Retrain(method="retrain"),
    train=Fitting(steps=1, lr=1e-05),
    start=None,
)
FID = Measurement(property="fid", reference=digest("reference"))
GAME = Game(recipe=RECIPE, sampling=Sampling(steps=4), properties=(FID,))
OTHER = Game(recipe=RECIPE, sampling=Sampling(steps=5), properties=(FID,))


def evaluation(seed: int = 0, value: float = 1.0, game: Game = GAME) -> Evaluation:
    members = (digest("ada"),)
    cost = Cost(finetune=1.0, sample=1.0, score=1.0, device="cpu")
    key = evaluation_key(game.id, seed, members)
    return Evaluation(
        key=key, game=game.id, seed=seed, members=members, values={"fid": value}, cost=cost, code="1.0"
    )


def wanted(seed: int = 0, game: Game = GAME) -> Wanted:
    return Wanted(key=evaluation(seed, game=game).key, game=game.id, seed=seed, members="1", purpose="design")


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(open_store((tmp_path / "a store").as_uri()))


def file(ledger: Ledger, key: str) -> Path:
    return Path(unquote(ledger.store.uri.removeprefix("file://"))) / key


def record(ledger: Ledger, seed: int = 0) -> Path:
    return file(ledger, record_key(GAME.id, evaluation(seed).key))


def test_a_record_is_committed_once_and_the_first_stands(ledger):
    assert ledger.commit(evaluation(value=1.0)) is True
    before = record(ledger).read_bytes()
    assert ledger.commit(evaluation(value=2.0)) is False
    assert record(ledger).read_bytes() == before
    assert ledger.read(wanted()) == evaluation(value=1.0)
    assert Ledger(open_store(ledger.store.uri)).read(wanted()) == evaluation(value=1.0)


def test_of_many_writers_one_wins(ledger):
    with ThreadPoolExecutor(8) as threads:
        won = list(
            threads.map(lambda i: Ledger(open_store(ledger.store.uri)).commit(evaluation(value=i)), range(8))
        )
    assert won.count(True) == 1
    assert ledger.read(wanted()).values == {"fid": won.index(True)}


def test_what_is_pending_keeps_its_order_and_is_told_once(ledger):
    ask = [
        wanted(3),
        wanted(1),
        wanted(1, OTHER),
        wanted(2),
        wanted(1),
        wanted(3).model_copy(update={"purpose": "v1"}),
    ]
    assert [(item.game, item.seed) for item in ledger.pending(ask)] == [
        (GAME.id, 3),
        (GAME.id, 1),
        (OTHER.id, 1),
        (GAME.id, 2),
    ]
    ledger.commit(evaluation(1))
    assert [(item.game, item.seed) for item in ledger.pending(ask)] == [
        (GAME.id, 3),
        (OTHER.id, 1),
        (GAME.id, 2),
    ]
    ledger.commit(evaluation(1, game=OTHER))
    ledger.commit(evaluation(3))
    ledger.commit(evaluation(2))
    ledger.commit(evaluation(9))
    assert ledger.pending(ask) == []
    assert ledger.pending([]) == []


def test_the_keys_of_a_game_are_its_own(ledger):
    assert ledger.keys(GAME.id) == set()
    ledger.open_game(GAME)  # lies beside the records and is none
    for seed in (0, 1):
        ledger.commit(evaluation(seed))
    ledger.commit(evaluation(7, game=OTHER))
    assert ledger.keys(GAME.id) == {evaluation(0).key, evaluation(1).key}
    assert ledger.keys(OTHER.id) == {evaluation(7, game=OTHER).key}


def test_all_are_read_in_the_order_asked_for(ledger):
    for seed in (0, 1, 2):
        ledger.commit(evaluation(seed))
    assert [found.seed for found in ledger.read_all([wanted(2), wanted(0), wanted(2)])] == [2, 0, 2]
    assert list(ledger.read_all([])) == []


def test_what_is_missing_says_what_to_run(ledger):
    ledger.commit(evaluation(0))
    reading = ledger.read_all([wanted(0), wanted(1)])
    assert next(reading).seed == 0
    with pytest.raises(
        NotFound,
        match=rf"{evaluation(1).key}\.json: nothing is stored there; run finetune, sample and score for this",
    ):
        next(reading)


def flipped(data: bytes) -> bytes:
    """One bit of the value of the property: still a record, of another value."""
    at = data.index(b'"fid": 1.0') + 7
    return data[:at] + bytes([data[at] ^ 2]) + data[at + 1 :]


SPOILT = {
    "truncated": lambda data: data[:-20],
    "empty": lambda data: b"",
    "one bit": flipped,
    "another record": lambda data: evaluation(5).dump(),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_damaged_record_is_told_and_left_as_it_is(spoil, ledger):
    ledger.commit(evaluation())
    path = record(ledger)
    path.write_bytes(spoil(path.read_bytes()))
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(Damaged, match=evaluation().key):
            ledger.read(wanted())
        with pytest.raises(Damaged):
            list(ledger.read_all([wanted()]))
    assert ledger.pending([wanted()]) == []  # not evaluated again behind the user's back
    assert ledger.commit(evaluation()) is False
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (evaluation().dump().replace(b"1.0", b"NaN"), "found a damaged Evaluation"),
        (evaluation().dump().replace(b'"seed": 0', b'"seed": 1'), "from its game, seed and members"),
        (b"{}", "found a damaged Evaluation"),
        (
            evaluation(5).dump(),
            f"found evaluation {evaluation(5).key} in .*, expected {evaluation(0).key}; it is left as it is",
        ),
        (evaluation(0, game=OTHER).dump(), f"expected {evaluation(0).key}; it is left as it is"),
    ],
)
def test_a_record_stored_whole_but_wrong_is_damage(data, says, ledger):
    """Its checksum is right: somebody wrote another thing there."""
    ledger.store.put_if_absent(record_key(GAME.id, evaluation().key), data)
    with pytest.raises(Damaged, match=says):
        ledger.read(wanted())
    assert record(ledger).read_bytes() == data


@pytest.mark.parametrize("suffix", [".damaged", ".json.bad", ".json.1", ".bad.json"])
def test_moved_away_it_is_pending_again(suffix, ledger):
    ledger.commit(evaluation())
    record(ledger).write_bytes(b"x")
    record(ledger).rename(record(ledger).with_suffix(suffix))
    assert ledger.keys(GAME.id) == set()
    assert ledger.pending([wanted()]) == [wanted()]
    assert ledger.commit(evaluation(value=3.0)) is True
    assert ledger.read(wanted()).values == {"fid": 3.0}


def test_a_game_is_written_once_and_read_back(ledger):
    with pytest.raises(NotFound):
        ledger.game(GAME.id)
    for _ in range(2):
        ledger.open_game(GAME)
    assert ledger.game(GAME.id) == GAME
    assert ledger.game(GAME.id).id == GAME.id


def test_a_game_under_another_id_is_damage(ledger):
    ledger.store.put_if_absent(game_key(GAME.id), OTHER.dump())
    with pytest.raises(
        Damaged, match=f"found game {OTHER.id} in .*, expected {GAME.id}; it is left as it is"
    ):
        ledger.game(GAME.id)


def test_a_damaged_game_is_told(ledger):
    ledger.open_game(GAME)
    path = file(ledger, game_key(GAME.id))
    path.write_bytes(path.read_bytes().replace(b"1e-05", b"2e-05"))
    with pytest.raises(Damaged, match=GAME.id):
        ledger.game(GAME.id)


# What a round does not want


def test_the_first_keys_are_those_of_the_listing(ledger):
    for seed in range(5):
        ledger.commit(evaluation(seed))
    ledger.store.put_if_absent(f"{ledger_prefix(GAME.id)}0.bad", b"no record")
    assert ledger.first_keys(GAME.id, 3) == sorted(ledger.keys(GAME.id))[:3]
    assert ledger.first_keys(GAME.id, 9) == sorted(ledger.keys(GAME.id))
    assert ledger.first_keys(OTHER.id, 3) == []


def test_no_more_of_a_ledger_is_listed_than_its_first_keys(tmp_path):
    """A listing of a bucket is a request for every 1,000 keys."""
    listed = []

    class Lazy(FileStore):
        def list(self, prefix=""):
            for key in super().list(prefix):
                listed.append(key)
                yield key

    ledger = Ledger(Lazy(tmp_path))
    for seed in range(9):
        ledger.commit(evaluation(seed))
    assert len(ledger.first_keys(GAME.id, 3)) == len(listed) == 3


def test_it_has_what_is_there_intact_or_damaged(ledger):
    assert not ledger.has(wanted())
    ledger.commit(evaluation())
    assert ledger.has(wanted())
    record(ledger).write_bytes(b"x")
    assert ledger.has(wanted())


@pytest.fixture
def partly_filled(tmp_path) -> Round:
    """A round whose first evaluation is not known."""
    this_round = planned(tmp_path, *SMALLER, "properties=[fid]", "evaluation.counterfactual=null")
    fill_all_but(this_round, this_round.plan.wanted[:1])
    return this_round


def fill_all_but(this_round: Round, items) -> None:
    known = tuple(item for item in this_round.plan.wanted if item not in items)
    fill(replace(this_round, plan=this_round.plan.model_copy(update={"wanted": known})), lambda *_: 1.0)


STRAY = {
    "without a checksum": lambda ledger, key: file(ledger, key).write_bytes(b"{}"),
    "no record": lambda ledger, key: ledger.store.put_if_absent(key, b"{}"),
    "another record": lambda ledger, key: ledger.store.put_if_absent(key, evaluation(5).dump()),
}


@pytest.mark.parametrize("leave", STRAY.values(), ids=STRAY)
def test_a_record_that_the_round_does_not_want_does_not_stop_its_plan(leave, partly_filled, caplog):
    game = partly_filled.plan.wanted[0].game
    key = record_key(game, "0" * 32)  # the first of the listing
    leave(partly_filled.ledger, key)
    planned = stages.plan.run(partly_filled.config)
    assert planned.pending == 1
    assert f"; they should take {3.5 / 3600:.2g} device hours" in planned.reason  # as each of the others
    (warning,) = [entry.getMessage() for entry in caplog.records if "forecast" in entry.getMessage()]
    assert warning.startswith("the forecast leaves out a record: ")
    assert key in warning


def test_one_that_the_round_wants_stops_it(partly_filled):
    known = partly_filled.plan.wanted[1]
    file(partly_filled.ledger, record_key(known.game, known.key)).write_bytes(b"{}")
    with pytest.raises(Damaged, match=known.key):
        stages.plan.run(partly_filled.config)


def test_a_damaged_cost_of_shared_weights_does_not_stop_the_plan(tmp_path, caplog):
    experts = "removal={method: experts, fitting: {steps: 2, lr: 1e-3, batch: 8}, sets: 3}"
    more = ("data.contributors=4", "valuation.coalitions=12", "evaluation.counterfactual=null", experts)
    this_round = planned(tmp_path, *SMALLER, "properties=[fid]", *more)
    fill_all_but(this_round, [item for item in this_round.plan.wanted if item.purpose == "v1"])
    game = this_round.plan.games["credit"]
    keep_cost(this_round.store, game, "b", Cost(finetune=3600, device="cpu"))
    this_round.store.put_if_absent(cost_key(game, "a"), b"{}")
    assert (
        "models that coalitions share should take 8 device hours" in stages.plan.run(this_round.config).reason
    )
    assert cost_key(game, "a") in caplog.text
