"""An opened round: its address, its files, and which shard evaluates what."""

import numpy as np
import pytest
from tiny import fill, planned, round_folder, unmodified

from apportion.config.hashing import digest
from apportion.errors import ConfigError, Damaged, NotFound, StoreError
from apportion.records import ContributorScores, Scores
from apportion.rounds.round import Round
from apportion.stages import attribute

SMALL = ("properties=[fid, inception_score]", "valuation.coalitions=14", "valuation.methods=[leverage]")
NO_REMOVAL = "evaluation.counterfactual=null"


def value(mask, name, seed):
    return float(mask.sum())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A planned round. Tests read it only."""
    return planned(tmp_path_factory.mktemp("small"), *SMALL)


def test_a_round_is_opened_by_its_address(small):
    again = Round.open(small.uri)
    assert (again.id, again.uri, again.config) == (small.id, small.uri, small.config)
    assert (again.plan, again.manifest) == (small.plan, small.manifest)
    assert Round.open(f"{small.uri}/").id == small.id
    roles = ("credit", "truth", "baseline")
    assert again.games == {game.id: game for game in map(again.game, roles)}


def test_an_address_that_is_not_one_of_a_round(small):
    with pytest.raises(StoreError, match=r"found round address 'nonsense', expected <store>/rounds/<id>"):
        Round.open("nonsense")
    other = small.uri.replace(small.id, digest("other"))
    with pytest.raises(NotFound, match=r"the stage that makes plan\.json has not run for this round"):
        Round.open(other)


def test_damage_in_a_rounds_own_files_is_reported(tmp_path):
    this_round = planned(tmp_path, *SMALL)
    for name in ("plan.json", "config.json"):
        path = round_folder(this_round) / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with unmodified(path), pytest.raises(Damaged, match=name):
            Round.open(this_round.uri)
        path.write_bytes(whole)
    assert Round.open(this_round.uri).config == this_round.config


def test_tracking_and_compute_may_change_before_a_round_is_finished(tmp_path):
    """They are not part of a round's id; a round has the shards of the configuration that was last given."""
    first = planned(tmp_path, *SMALL, "compute.shards=4")
    again = planned(tmp_path, *SMALL, "compute.shards=1", "tracking.experiment=elsewhere")
    assert again.uri == first.uri
    assert (again.config.compute.shards, again.config.tracking.experiment) == (1, "elsewhere")
    assert len(again.pending(0)) == len({item.key for item in again.plan.wanted})


def test_a_file_is_written_once(tmp_path):
    this_round = planned(tmp_path, *SMALL)
    assert not this_round.has("note.txt")
    with pytest.raises(NotFound, match=r"note\.txt"):
        this_round.read("note.txt")
    assert this_round.write("note.txt", lambda: b"first")
    assert not this_round.write("note.txt", lambda: b"second")
    assert (this_round.has("note.txt"), this_round.read("note.txt")) == (True, b"first")
    assert this_round.where("note.txt") == f"{this_round.uri}/note.txt"


# Shards


def keys(items):
    return [item.key for item in items]


def test_a_shard_that_does_not_exist_is_refused(small):
    for shard in (-1, 2):
        expected = rf"found shard {shard} .* expected 0 to 1 \(compute\.shards\)"
        with pytest.raises(ConfigError, match=expected):
            small.pending(shard)


def test_shards_share_the_coalitions_and_retraining(small):
    shares = [small.pending(shard) for shard in (0, 1)]
    assert sorted(keys(shares[0] + shares[1])) == sorted({item.key for item in small.plan.wanted})
    assert abs(len(shares[0]) - len(shares[1])) <= 1
    for share in shares:
        retrained = [small.is_retrained(item) for item in share]
        assert retrained == sorted(retrained, reverse=True)  # the expensive ones come first
    assert [sum(map(small.is_retrained, share)) for share in shares] == [2, 2]


def test_a_shard_never_takes_over_the_coalitions_of_another(tmp_path):
    this_round = planned(tmp_path, *SMALL, "compute.shards=3")
    shares = [keys(this_round.pending(shard)) for shard in range(3)]
    item = this_round.pending(0)[1]
    only_this = this_round.plan.model_copy(update={"wanted": (item,)})
    fill(Round(this_round.store, only_this, this_round.config, this_round.manifest), value)
    assert keys(this_round.pending(0)) == [key for key in shares[0] if key != item.key]
    assert [keys(this_round.pending(shard)) for shard in (1, 2)] == shares[1:]


def test_the_evaluations_that_credits_call_for_are_pending_too(tmp_path):
    this_round = planned(tmp_path, *SMALL)
    fill(this_round, value)
    assert not this_round.settled  # its counterfactual is not known yet
    assert (this_round.pending(0), this_round.pending(1)) == ([], [])
    further = attribute.run(this_round.uri)
    this_round = Round.open(this_round.uri)
    pending = this_round.pending(0) + this_round.pending(1)
    assert len(pending) == further > 0
    assert {item.purpose for item in pending} == {"counterfactual"}
    assert not this_round.settled
    fill(this_round, value)
    assert this_round.settled


def test_a_round_without_a_counterfactual_is_settled_by_its_plan(tmp_path):
    this_round = planned(tmp_path, *SMALL, NO_REMOVAL)
    assert not this_round.settled
    fill(this_round, value)
    assert this_round.settled


# Evaluations and addresses


def test_evaluations_are_in_the_order_of_the_plan_and_missing_ones_are_reported(tmp_path):
    this_round = planned(tmp_path, *SMALL, NO_REMOVAL)
    with pytest.raises(NotFound, match="run finetune, sample and score for this round again"):
        this_round.evaluations("design")
    fill(this_round, value)
    for purposes in (("v0",), ("design", "v1")):
        pairs = this_round.evaluations(*purposes)
        expected = [item for item in this_round.plan.wanted if item.purpose in purposes]
        assert [item for item, _ in pairs] == expected
        assert [record.key for _, record in pairs] == keys(expected)
    assert [item for item, _ in this_round.all_evaluations()] == [*this_round.wanted]


def test_masks_are_rows(small):
    items = [*small.plan.wanted[:3]]
    assert np.array_equal(small.masks(items), [item.mask(4) for item in items])
    assert small.masks([]).shape == (0, 4)


def test_addresses_of_a_coalition(small):
    """Of the removal method's game and of retraining, for the empty coalition and for others."""
    for item in small.plan.wanted:
        recipe, data = small.games[item.game].recipe, small.manifest.data(item.mask(4))
        assert small.data(item) == data == tuple(sorted(data))
        assert small.generates(item) == (item.purpose != "baseline")
        if not small.generates(item):
            assert small.weights_keys(item) == []
            continue
        (part,) = small.mixture(item).parts
        assert (part.run.seed, part.run.data) == (item.seed, data)
        assert small.weights_keys(item) == [f"checkpoints/{recipe.address(item.seed, data)}.safetensors"]
        samples = small.games[item.game].samples(item.seed, data)
        assert small.samples_key(item) == f"samples/{samples}.safetensors"
    assert len({small.samples_key(item) for item in small.plan.wanted}) == len(
        {item.key for item in small.plan.wanted}
    )


def test_scores_of_an_influence_method_are_read(tmp_path):
    this_round = planned(tmp_path, *SMALL)
    with pytest.raises(NotFound, match="scores/"):
        this_round.scores("similarity")
    rows = {
        data: ContributorScores(mean=float(i), max=2.0, sum=3.0)
        for i, data in enumerate(this_round.manifest.all_data)
    }
    scores = Scores(method="similarity", base=this_round.plan.base.id, scores=rows)
    this_round.store.put_if_absent(this_round.scores_key("similarity"), scores.dump())
    assert this_round.scores("similarity") == scores
    assert this_round.scores_key("similarity") != this_round.scores_key("gradients")
