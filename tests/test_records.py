"""Records as text and back, what is refused, and what an address depends on."""

import json
import re
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from apportion.config.family import DdpmOptions
from apportion.config.fitting import Fitting
from apportion.config.hashing import digest, identity
from apportion.config.removal import Finetune, Part, Pruning, Retrain, SparsifiedFinetune, TrainingRun
from apportion.config.sampling import Sampling
from apportion.errors import Damaged, StoreError
from apportion.records import (
    SCHEMA,
    Base,
    Commit,
    Contributor,
    Cost,
    Counterfactual,
    Credit,
    Credits,
    Endpoint,
    Evaluation,
    Evidence,
    Faith,
    Followup,
    Game,
    Interaction,
    Judgement,
    LdsScore,
    Manifest,
    Measurement,
    PilotResult,
    Plan,
    Recipe,
    Record,
    Start,
    StoppingStatus,
    Wanted,
    evaluation_key,
    members_text,
    samples_address,
)

A, B, C, D = (digest(letter) for letter in "abcd")
FITTING = Fitting(steps=60, lr=1e-3)
START = Start(base=A, seed=0)
RECIPE = Recipe(
    version=SCHEMA,
    model=DdpmOptions(),
    resolution=16,
    precision="fp32",
    removal=Finetune(method="finetune", fitting=FITTING),
    train=None,
    start=START,
)
RETRAIN = Recipe(
    version=SCHEMA,
    model=DdpmOptions(),
    resolution=16,
    precision="fp32",
    removal=Retrain(method="retrain"),
    train=FITTING,
    start=None,
)
PRUNING = Pruning(ratio=0.25, retune=FITTING)
FID = Measurement(property="fid", network=B, reference=C)
GAME = Game(recipe=RECIPE, sampling=Sampling(images=64, steps=4), properties=(FID,))
BASE = Base(recipe=RETRAIN, seed=7, data=(A, B))
COST = Cost(finetune=1.5, sample=2.5, score=0.25, device="cpu (1 threads), fp32")
WANTED = Wanted(key=A, game=B, seed=3, members="1f", purpose="design")
ENDPOINT = Endpoint(mean=1.5, se=0.5, seeds=3)
MANIFEST = Manifest(
    contributors=(
        Contributor(name="ada", data=A, samples=8),
        Contributor(name="Jäger", data=B, samples=9, joined="2024-01-01"),
    )
)


def evaluation(seed: int = 3, members: tuple[str, ...] = (A, B), /, **values: float) -> Evaluation:
    key = evaluation_key(GAME.id, seed, members)
    return Evaluation(
        key=key,
        game=GAME.id,
        seed=seed,
        members=members,
        values=values or {"fid": 12.25},
        cost=COST,
        code="1.0",
    )


CHANGE = Counterfactual(label="top 2", game=A, removed=("ada",), key=B, change=0.5, se=None, value=3.5)
FAITH = Faith(alpha=0.5, rho=0.75, low=None, high=None, pairs=24, status="faithful")
SCORE = LdsScore(method="kernelshap", alpha=0.5, lds=0.625, low=0.5, high=0.75, held_out=24)
CREDIT = Credit(
    property="fid",
    method="leverage",
    game="finetune",
    contributor="Jäger",
    phi=-1.5,
    low=-2.5,
    high=-0.5,
    se=0.5,
    interval="leverage",
    best=1,
    worst=2,
    share=None,
)
PLAN = Plan(
    round=A,
    manifest=B,
    base=BASE,
    games={"credit": A, "truth": B},
    methods=("leverage",),
    wanted=(WANTED,),
    code="1.0",
    look=1,
    credits=5,
)
PILOT = PilotResult(property="fid", rho=0.75, low=0.5, high=None, use=True, reason="the cheap game is of use")
PAIR = Interaction(
    property="fid", one="ada", other="Jäger", value=-0.25, se=0.1, low=-0.45, high=-0.05, established=True
)
STOPPING = StoppingStatus(look=1, looks=(24, 48), stop=False, reason="the widest interval is 3")
CREDITS = Credits(
    round=A,
    credits=(CREDIT,),
    published={"fid": "leverage"},
    v0={"fid": ENDPOINT},
    v1={},
    coalitions=48,
    level=0.95,
    covers={"leverage": "this game"},
    pilots=(PILOT,),
    retrained_v0={"fid": ENDPOINT},
    retrained_v1={"fid": ENDPOINT},
    interactions=(PAIR,),
    stopping=STOPPING,
)
RECORDS: list[Record] = [
    MANIFEST.contributors[1],
    MANIFEST,
    FID,
    START,
    RECIPE,
    RETRAIN,
    BASE,
    GAME,
    WANTED,
    PLAN,
    Followup(round=A, wanted=(WANTED,)),
    COST,
    evaluation(),
    CREDIT,
    ENDPOINT,
    PILOT,
    PAIR,
    STOPPING,
    CREDITS,
    FAITH,
    SCORE,
    CHANGE,
    Evidence(
        round=A,
        judgements=(
            Judgement(
                property="fid",
                published="leverage",
                faithfulness=(FAITH,),
                scores=(SCORE,),
                counterfactuals=(CHANGE,),
            ),
        ),
    ),
    Commit(round=A, previous=None, project="mine", tracking_run="x", seconds={"plan": 1.5}, code="1.0"),
]
every_record = pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)


def text(value: object) -> bytes:
    return json.dumps(value).encode()


def refused(kind: type[Record], data: bytes, says: str = "") -> None:
    with pytest.raises(
        Damaged,
        match=rf"found a damaged {kind.__name__} in file:///s/x\.json \([^§]*{says}[^§]*\); it is left as",
    ):
        kind.parse(data, "file:///s/x.json")


@every_record
def test_round_trip(record):
    back = type(record).parse(record.dump(), "here")
    assert back == record
    assert back.dump() == record.dump()
    assert list(json.loads(record.dump())) == sorted(json.loads(record.dump()))


@every_record
def test_an_unknown_field_is_damage(record):
    refused(
        type(record),
        text({**json.loads(record.dump()), "colour": 1}),
        "colour: Extra inputs are not permitted",
    )


@every_record
def test_a_missing_field_is_damage(record):
    said = json.loads(record.dump())
    versions = {(Plan, "credits"), (Credits, "published")}  # without them, the record is one of earlier code
    for name, field in type(record).model_fields.items():
        if field.is_required() and (type(record), name) not in versions:
            refused(
                type(record),
                text({key: value for key, value in said.items() if key != name}),
                f"{name}: Field required",
            )


@every_record
def test_a_value_of_another_type_is_damage_and_never_made_to_fit(record):
    said, seen = json.loads(record.dump()), 0
    for name in said:
        for other in (None, True, 1.5, -1, "x", "1", [], [1], {}, {"a": "b"}):
            try:
                found = type(record).parse(text({**said, name: other}), "here")
            except Damaged:
                seen += 1
            else:
                back = json.loads(found.dump())[name]
                if isinstance(back, dict) and isinstance(other, dict):
                    assert other.items() <= back.items()  # options that have a default may be left out
                    continue
                assert back == other
                assert isinstance(back, bool) == isinstance(other, bool)
    assert seen >= 4 * len(said)


@every_record
@pytest.mark.parametrize("infinite", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_not_finite_is_damage(record, infinite):
    said = json.loads(record.dump())
    for name, value in said.items():
        if isinstance(value, float):
            refused(type(record), text({**said, name: "§"}).replace(b'"\\u00a7"', infinite.encode()), name)
            with pytest.raises(ValidationError):
                type(record)(**{**record.model_dump(), name: float(infinite)})


EARLIER = """{
 "coalitions": 6,
 "covers": "ranking only (6 coalitions for 3 players, expected at least 12): Shapley values",
 "credits": [
  {
   "contributor": "Jäger",
   "high": -4.251279705658854,
   "low": -5.748720294341146,
   "method": "leverage",
   "phi": -5.0,
   "property": "fid",
   "se": 0.05892556509887896,
   "share": 0.625
  },
  {
   "contributor": "Jäger",
   "high": null,
   "low": null,
   "method": "banzhaf",
   "phi": -5.000000000000001,
   "property": "fid",
   "se": null,
   "share": null
  }
 ],
 "level": 0.95,
 "round": "ff40e2720312a742e7dd466a62ee5e16",
 "v0": {"fid": {"mean": 30.125, "se": 0.125, "seeds": 2, "stated": false}},
 "v1": {"fid": {"mean": 22.125, "se": 0.125, "seeds": 2, "stated": false}}
}
"""
"""Credits as 0.1.0 wrote them before several methods shared an interval (records.CREDITS 2)."""


def test_credits_that_earlier_code_wrote_are_read_and_nothing_is_made_up():
    found = Credits.parse(EARLIER.encode(), "here")
    leverage, banzhaf = found.credits
    assert (leverage.phi, leverage.low, leverage.high, leverage.se) == (
        -5.0,
        -5.748720294341146,
        -4.251279705658854,
        0.05892556509887896,
    )
    assert (leverage.game, leverage.interval, leverage.best, leverage.worst) == (
        "not recorded",
        "leverage",
        None,
        None,
    )
    assert (banzhaf.phi, banzhaf.interval, banzhaf.share) == (-5.000000000000001, None, None)
    assert found.covers == {"leverage": json.loads(EARLIER)["covers"]}
    assert found.covered(leverage).startswith("ranking only (6 coalitions")
    assert found.covered(banzhaf) == "nothing: there is no interval"
    assert (found.pilots, found.interactions, found.stopping, found.retrained_v0) == ((), (), None, {})
    assert found.published == {"fid": "leverage"}
    assert Credits.parse(found.dump(), "here") == found


def test_an_estimator_without_an_interval_had_none_then_whatever_the_text_said():
    text = (
        EARLIER.replace('"leverage"', '"kernelshap"')
        .replace("-4.251279705658854", "null")
        .replace("-5.748720294341146", "null")
    )
    found = Credits.parse(text.encode(), "here")
    assert found.covers == {}
    assert {credit.interval for credit in found.credits} == {None}


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ('"phi": -5.0,', "", "credits.0.phi: Field required"),
        ('"level": 0.95', '"niveau": 0.95', "level: Field required"),
        ('"credits": [', '"credits": 3, "more": [', "credits: Input should be a valid (tuple|array)"),
        ('"low": -5.748720294341146,', "", "credits.0.low: Field required"),
        ("}\n}", "}", "JSON"),
    ],
)
def test_damage_in_credits_that_earlier_code_wrote_is_damage(was, now, says):
    assert was in EARLIER
    refused(Credits, EARLIER.replace(was, now).encode(), says)


def test_credits_from_before_the_published_method_was_stored_are_read():
    fields = json.loads(CREDITS.dump())
    del fields["published"]
    fields["credits"].insert(0, {**fields["credits"][0], "method": "tree_residual"})
    for old, new in (("exact_v0", "retrained_v0"), ("exact_v1", "retrained_v1"), ("looked", "stopping")):
        fields[old] = fields.pop(new)
    read = Credits.parse(text(fields), "here")
    assert read.published == {"fid": "tree_residual"}
    assert (read.retrained_v0, read.retrained_v1, read.stopping) == (
        CREDITS.retrained_v0,
        CREDITS.retrained_v1,
        STOPPING,
    )
    assert [credit.method for credit in read.of("fid")] == ["tree_residual"]
    assert read.methods("fid") == ["tree_residual", "leverage"]


def test_a_plan_of_an_earlier_form_names_the_version_that_reads_it():
    fields = {"round": A, "credit_game": A, "truth_game": B, "code": "0.1.0", "credits": 4}
    with pytest.raises(StoreError, match=r"found a plan of Apportion 0\.1\.0 in here, whose form") as refused:
        Plan.parse(text(fields), "here")
    assert not isinstance(refused.value, Damaged)
    later = Plan.parse(PLAN.model_copy(update={"credits": 6}).dump(), "here")
    assert later.credits == 6  # it is shown; only its credits are neither made nor verified here


def test_what_is_not_finite_inside_a_mapping_is_damage():
    said = evaluation().dump()
    refused(Evaluation, said.replace(b"12.25", b"NaN"), "values.fid")
    refused(Commit, RECORDS[-1].dump().replace(b"1.5", b"Infinity"), "seconds.plan")


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"7", b'"x"', b"{", b"\xff\xfe", b"{}", evaluation().dump()[:-9], bytes(50)]
)
def test_a_text_that_is_not_a_record_is_damage(data):
    refused(Evaluation, data)


def test_a_record_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        evaluation().seed = 4


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1),
        st.floats(allow_nan=False, allow_infinity=False),
        max_size=5,
    ),
    st.integers(0, 2**70),
)
def test_values_come_back_bit_for_bit(values, seed):
    record = evaluation(seed, **{"fid": 1.0, **values})
    assert Evaluation.parse(record.dump(), "here") == record
    assert repr(Evaluation.parse(record.dump(), "here").values) == repr(
        {k: record.values[k] for k in sorted(record.values)}
    )


@pytest.mark.parametrize(
    "other",
    [{"seed": 4}, {"game": A}, {"members": [A]}, {"members": [A, B, B]}, {"members": [A, C]}, {"key": A}],
)
def test_an_evaluation_under_a_key_that_is_not_its_own_is_damage(other):
    refused(
        Evaluation,
        text({**json.loads(evaluation().dump()), **other}),
        "found key .*, expected .* from its game, seed and members",
    )


def test_a_cost_is_the_sum_of_its_parts_and_never_negative():
    assert COST.total == 4.25
    refused(Cost, COST.dump().replace(b"1.5", b"-1.5"), "finetune")


@pytest.mark.parametrize("members", ["", "g", "-1", "1F", "0x1", " 1", "1\n"])
def test_members_are_hexadecimal(members):
    refused(Wanted, text({**json.loads(WANTED.dump()), "members": members}), "members")


@pytest.mark.parametrize("key", ["", "abc", A.upper(), A + "0", f"../{A}", A[:-1] + "\n"])
def test_addresses_are_hashes(key):
    """They become paths."""
    for field in ("key", "game"):
        refused(Wanted, text({**json.loads(WANTED.dump()), field: key}), field)


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_members_as_text_and_back(kept):
    mask = np.array(kept)
    members = members_text(mask)
    assert re.fullmatch("[0-9a-f]+", members)
    back = WANTED.model_copy(update={"members": members}).mask(len(kept))
    assert back.dtype == np.bool_
    assert back.tolist() == kept


def test_bit_i_is_player_i():
    assert members_text(np.array([True, False, False, False, True])) == "11"
    assert WANTED.model_copy(update={"members": "6"}).mask(4).tolist() == [False, True, True, False]
    assert members_text(np.zeros(7, bool)) == "0"


# Addresses


def manifest(**data: str) -> Manifest:
    return Manifest(
        contributors=tuple(Contributor(name=name, data=data[name], samples=8) for name in sorted(data))
    )


def test_a_manifest_is_its_names_and_their_data():
    whole = manifest(ada=A, bob=B)
    rows = [
        Contributor(name="bob", data=B, samples=99, joined="2020-02-02"),
        Contributor(name="ada", data=A, samples=1),
    ]
    assert Manifest(contributors=tuple(rows)).id == whole.id == digest({"ada": A, "bob": B})
    others = [
        manifest(ada=B, bob=A),
        manifest(ada=A, bob=C),
        manifest(ada=A, eve=B),
        manifest(ada=A),
        manifest(ada=A, bob=B, eve=C),
    ]
    assert len({whole.id, *(other.id for other in others)}) == 6


def test_a_manifest_tells_its_coalitions():
    whole = manifest(ada=C, bob=A, eve=B)
    assert (whole.n, whole.names) == (3, ["ada", "bob", "eve"])
    assert whole.all_data == tuple(sorted([A, B, C])) == whole.data(np.ones(3, bool))
    assert whole.data(np.array([True, False, True])) == tuple(sorted([C, B]))
    assert whole.data(np.zeros(3, bool)) == ()
    with pytest.raises(ValueError, match="shorter"):
        whole.data(np.ones(2, bool))


@given(st.permutations([A, B, C, D]), st.integers(0, 9))
def test_a_key_does_not_depend_on_the_order_of_members(order, seed):
    assert GAME.key(seed, tuple(order)) == GAME.key(seed, (A, B, C, D))
    assert RECIPE.address(seed, tuple(order)) == RECIPE.address(seed, (A, B, C, D))
    assert GAME.samples(seed, tuple(order)) == GAME.samples(seed, (A, B, C, D))


def changed(record: Record, **fields: object) -> Record:
    return type(record)(**{name: getattr(record, name) for name in type(record).model_fields} | fields)


OTHER_RECIPES = [
    changed(RECIPE, start=Start(base=B, seed=0)),
    changed(RECIPE, start=Start(base=A, seed=1)),
    changed(RECIPE, start=Start(base=A, seed=0, pruning=PRUNING)),
    RETRAIN,
    changed(RECIPE, removal=Finetune(method="finetune", fitting=Fitting(steps=61, lr=1e-3))),
    changed(
        RECIPE, removal=SparsifiedFinetune(method="sparsified_finetune", fitting=FITTING, pruning=PRUNING)
    ),
    changed(RECIPE, model=DdpmOptions(channels=[32, 32, 64])),
    changed(RECIPE, resolution=32),
    changed(RECIPE, precision="bf16"),
    changed(RECIPE, version=SCHEMA + 1),
]


def test_a_key_depends_on_seed_members_and_everything_in_the_game():
    colour = Measurement(property="colourfulness_p90")
    games = [
        GAME,
        *(changed(GAME, recipe=recipe) for recipe in OTHER_RECIPES),
        changed(GAME, sampling=Sampling(images=64, steps=5)),
        changed(GAME, properties=()),
        changed(GAME, properties=(changed(FID, network=C),)),
        changed(GAME, properties=(changed(FID, reference=D),)),
        changed(GAME, properties=(FID, colour)),
    ]
    coalitions = [(), (A,), (B,), (A, B), (A, A)]
    keys = [game.key(seed, members) for game in games for seed in (0, 1) for members in coalitions]
    assert len(set(keys)) == len(keys) == 16 * 10


def test_games_that_differ_in_properties_alone_share_models_and_images():
    other = changed(GAME, properties=(Measurement(property="colourfulness_p90"),))
    assert other.id != GAME.id
    assert other.key(1, (A,)) != GAME.key(1, (A,))
    assert (
        other.samples(1, (A,))
        == GAME.samples(1, (A,))
        == samples_address(RECIPE.address(1, (A,)), GAME.sampling)
    )


def test_games_that_differ_in_sampling_share_models_only():
    other = changed(GAME, sampling=Sampling(images=128, steps=4))
    assert other.recipe.address(1, (A,)) == RECIPE.address(1, (A,))
    assert other.samples(1, (A,)) != GAME.samples(1, (A,))


def test_a_start_is_the_base_model_unless_it_is_pruned():
    pruned = Start(base=A, seed=0, pruning=PRUNING)
    assert START.id == Start(base=A, seed=1).id == A
    assert len({A, pruned.id, changed(pruned, seed=1).id, changed(pruned, base=B).id}) == 4


def test_the_base_model_is_a_retrained_grand_coalition():
    assert BASE.id == RETRAIN.address(7, (B, A))


def test_a_coalition_is_sampled_from_one_fit_on_all_its_data():
    whole = manifest(ada=B, bob=A)
    mixture = RECIPE.mixture(3, whole.members(np.ones(2, bool)))
    assert mixture.parts == (Part(TrainingRun(3, tuple(sorted([A, B])))),)
    assert mixture.conditions == ()


def test_models_are_shared_by_nothing_else():
    recipes = [RECIPE, *OTHER_RECIPES]
    addresses = [
        recipe.address(seed, members)
        for recipe in recipes
        for seed in (0, 1)
        for members in [(), (A,), (A, B)]
    ]
    assert len(set(addresses)) == len(addresses) == 11 * 6


def test_a_join_leaves_every_old_key_valid():
    """The new contributor sorts before, between or after the old ones, and only positions change."""
    old = manifest(bob=A, eve=B, max=C)
    for newcomer in ("ada", "dan", "zoe"):
        new = manifest(bob=A, eve=B, max=C, **{newcomer: D})
        for bits in range(8):
            kept = {name for i, name in enumerate(old.names) if bits >> i & 1}
            before, after = (np.array([name in kept for name in of.names]) for of in (old, new))
            assert GAME.key(5, old.data(before)) == GAME.key(5, new.data(after))
            assert GAME.key(5, new.data(after)) != GAME.key(
                5, new.data(after | (np.array(new.names) == newcomer))
            )


def test_a_changed_contributor_invalidates_the_coalitions_that_hold_it_alone():
    old, new = manifest(ada=A, bob=B), manifest(ada=A, bob=C)
    same = [
        GAME.key(0, old.data(mask)) == GAME.key(0, new.data(mask))
        for mask in np.array([[0, 0], [1, 0], [0, 1], [1, 1]], bool)
    ]
    assert same == [True, True, False, False]


def test_equal_data_is_interchangeable_but_counts():
    twins = manifest(ada=A, bob=A)
    one, other, both = (
        GAME.key(0, twins.data(np.array(mask))) for mask in ([True, False], [False, True], [True, True])
    )
    assert one == other != both


def test_a_name_is_not_part_of_a_key():
    assert GAME.key(0, manifest(ada=A).all_data) == GAME.key(0, manifest(bob=A).all_data)


def test_addresses_that_stores_hold():
    """Existing ledgers are found by these: a change here needs a new SCHEMA."""
    assert GAME.key(3, (B, A)) == digest({"game": GAME.id, "seed": 3, "data": sorted([A, B])})
    assert identity(RECIPE) == {
        "version": 2,
        "model": {"family": "ddpm"},
        "resolution": 16,
        "precision": "fp32",
        "removal": {"method": "finetune", "fitting": {"steps": 60, "lr": 0.001}},
        "start": {"base": A, "seed": 0},
        "train": None,
    }
    assert RECIPE.address(3, (B, A)) == digest({**identity(RECIPE), "seed": 3, "data": sorted([A, B])})
    assert Game.parse(GAME.dump(), "here").id == GAME.id == digest(identity(GAME))
    assert GAME.id == "89f5300d7173dba04629805280c65e9b"


class Options(BaseModel):
    """Options of earlier code."""

    kind: Literal["a"] = "a"
    steps: int
    rate: float = 0.5


class MoreOptions(Options):
    """The same with an option that was added later."""

    warmup: int = 0


def test_an_option_that_is_added_with_a_default_changes_no_id():
    assert digest(identity(Options(steps=3))) == digest(identity(MoreOptions(steps=3)))
    assert identity(MoreOptions(steps=3, rate=0.25)) == {"kind": "a", "steps": 3, "rate": 0.25}
    assert identity(MoreOptions(steps=3, warmup=1)) == {"kind": "a", "steps": 3, "warmup": 1}
    assert identity({"x": [MoreOptions(steps=3)]}) == {"x": [{"kind": "a", "steps": 3}]}
