"""Weights that coalitions share, as experts: who needs them, what they cost, and the models that are made of
them. The stored models have random weights, so nothing is trained."""

import gc
import math
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load as arrays
from tiny import SMALLER, fill, from_folder, image_folder, planned, root

from apportion.config.removal import Part, TrainingRun
from apportion.diffusion.compute import Compute
from apportion.diffusion.ddpm import FAMILY
from apportion.errors import NotFound
from apportion.records import Cost
from apportion.rounds.models import SharedModels, dump_model, load_sampler
from apportion.rounds.samples import load_samples
from apportion.rounds.weights import (
    all_weights,
    cost_per_coalition,
    missing_weights,
    shared_cost_per_coalition,
    shared_costs,
    untrained_shared_weights,
)
from apportion.stages import sample
from apportion.store.layout import weights_key

EXPERTS = "removal={{method: experts, fitting: {{steps: 2, lr: 1e-3, batch: 8}}, {}}}"
FOUR = (*SMALLER, "data.contributors=4", "valuation.coalitions=12", "evaluation.counterfactual=null")
CPU = Compute(torch.device("cpu"), "fp32")
STATED = "valuation.stated_v0={fid: 300.0, colourfulness_p90: 0.0}"


def with_experts(workdir, options="sets: 3", *more):
    return planned(workdir, *FOUR, EXPERTS.format(options), *more)


def store_models(this_round):
    """Stores a model with random weights of its own in place of each that the round needs; their costs are 1,
    2, 3, … seconds. Returns the costs by key."""
    recipe = this_round.plan.base.recipe
    costs = {}
    for number, key in enumerate([weights_key(this_round.plan.base.id), *all_weights(this_round)], 1):
        model = FAMILY.build(recipe.model, recipe.resolution, number)
        data = dump_model(recipe, model, Cost(finetune=number, device="known"))
        if this_round.store.put_if_absent(key, data):
            costs[key] = float(number)
    return costs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def stored(workdir):
    """A planned round of experts with stored models, and their costs by key. Tests read it only."""
    this_round = with_experts(workdir)
    return this_round, store_models(this_round)


def address(this_round, contributor, number):
    """The address of an expert of set `number`."""
    return this_round.game("credit").recipe.weights(Part(TrainingRun(number, (contributor.data,))))


def expert(this_round, contributor, number):
    """The key of an expert of set `number`."""
    return weights_key(address(this_round, contributor, number))


def all_experts(this_round, sets=3):
    return {expert(this_round, c, number) for c in this_round.manifest.contributors for number in range(sets)}


def mixed(this_round):
    """The coalitions whose model is a mixture of experts."""
    credit = this_round.plan.games["credit"]
    return [item for item in this_round.distinct() if item.game == credit and this_round.data(item)]


def of_purpose(this_round, purpose):
    return next(item for item in this_round.plan.wanted if item.purpose == purpose)


# Who needs which weights


def test_each_expert_is_one_set_of_weights_for_all_coalitions_with_it(stored):
    this_round, _ = stored
    weights = all_weights(this_round)
    experts = {key: row for key, row in weights.items() if row.shared}
    assert experts.keys() == all_experts(this_round)
    for contributor in this_round.manifest.contributors:
        for number in range(3):
            row = experts[expert(this_round, contributor, number)]
            assert row.run == TrainingRun(number, (contributor.data,))
            expected = [
                item
                for item in mixed(this_round)
                if item.seed % 3 == number and contributor.data in this_round.data(item)
            ]
            assert row.users == expected
            assert expected


def test_other_weights_are_of_one_coalition(stored):
    this_round, _ = stored
    weights = all_weights(this_round)
    own = [row for row in weights.values() if not row.shared]
    assert [item.purpose for row in own for item in row.users] == ["held_out", "v0", "v0"]
    assert all(row.run == (item.seed, this_round.data(item)) for row in own for item in row.users)
    retrained = [this_round.is_retrained(row.users[0]) for row in weights.values()]
    assert retrained == sorted(retrained, reverse=True)  # the expensive ones come first


def test_own_images_need_no_weights(stored):
    this_round, _ = stored
    item = of_purpose(this_round, "baseline")
    assert not this_round.generates(item)
    assert this_round.weights_keys(item) == []
    assert this_round.mixture(item).parts == ()
    assert item not in [user for row in all_weights(this_round).values() for user in row.users]


def test_a_round_of_own_images_needs_retrained_weights_only(workdir):
    this_round = planned(workdir, *FOUR, "removal={method: own_images}", STATED)
    (row,) = all_weights(this_round).values()
    assert [item.purpose for item in row.users] == ["held_out"]
    assert not row.shared
    assert {item.purpose for item in this_round.wanted if not this_round.generates(item)} == (
        {item.purpose for item in this_round.wanted} - {"held_out"}
    )


def test_shards_divide_the_weights(tmp_path):
    this_round = with_experts(tmp_path)
    shares = [missing_weights(this_round, shard) for shard in (0, 1)]
    assert not shares[0].keys() & shares[1].keys()
    assert shares[0].keys() | shares[1].keys() == all_weights(this_round).keys()
    assert abs(len(shares[0]) - len(shares[1])) <= 1


def test_weights_are_needed_while_one_of_their_users_has_no_images(tmp_path):
    def missing():
        return set(missing_weights(this_round, 0)) | set(missing_weights(this_round, 1))

    this_round = with_experts(tmp_path)
    everything = set(all_weights(this_round))
    key = expert(this_round, this_round.manifest.contributors[0], 1)
    *others, last = all_weights(this_round)[key].users
    for item in others:
        this_round.store.put_if_absent(this_round.samples_key(item), b"images")
    assert key in missing()
    this_round.store.put_if_absent(this_round.samples_key(last), b"images")
    assert key not in missing()
    assert expert(this_round, this_round.manifest.contributors[0], 2) in missing()
    assert missing() < everything
    fill(this_round, lambda mask, *_: float(mask.sum()))
    assert missing() == set()


# What rounds share


def test_another_mixture_or_more_coalitions_need_no_further_expert(stored, workdir):
    """Experts are made once; a round with another number of sets makes those of the further sets."""
    this_round, _ = stored
    experts = all_experts(this_round)
    for options in ("weights: sqrt", "weights: equal", "scale: 1.5"):
        other = with_experts(workdir, options, "valuation.coalitions=14", "evaluation.by_size=1")
        needed = {key for key, row in all_weights(other).items() if row.shared}
        assert needed == experts
        assert not {this_round.samples_key(item) for item in mixed(this_round)} & {
            other.samples_key(item) for item in mixed(other)
        }
    other = with_experts(workdir, "sets: 4")
    more = {key for key, row in all_weights(other).items() if row.shared}
    assert more == all_experts(other, 4) > experts


def test_a_contributor_who_joins_changes_the_base_model_and_so_every_expert(tmp_path):
    """Experts start from the base model, which is trained on all data. A new name alone changes nothing."""
    data = image_folder(tmp_path / "data", ["ann", "bob", "cy", "dee"])

    def experts():
        this_round = with_experts(tmp_path / "work", "sets: 3", *from_folder(data), "valuation.coalitions=14")
        assert len(all_experts(this_round)) == 3 * this_round.manifest.n
        found = {key for key, row in all_weights(this_round).items() if row.shared}
        assert found <= all_experts(this_round)
        return found

    before = experts()
    (data / "ann").rename(data / "anna")
    assert experts() == before
    image_folder(tmp_path / "more", ["ann", "bob", "cy", "dee", "eve"])
    (tmp_path / "more" / "eve").rename(data / "eve")
    assert not experts() & before


# Costs


def test_what_shared_weights_cost_is_counted_for_their_game(stored):
    this_round, costs = stored
    (game,) = shared_costs(this_round)
    assert game == this_round.plan.games["credit"]
    found = sorted(cost.finetune for cost in shared_costs(this_round)[game])
    assert found == sorted(costs[key] for key in all_experts(this_round))


def expire(this_round, keys):
    for key in keys:
        (root(this_round.uri) / key).unlink()


def test_the_cost_of_weights_that_were_used_stays_when_they_expire(tmp_path):
    """What loads them keeps their cost."""
    this_round = with_experts(tmp_path)
    costs, shared = store_models(this_round), SharedModels(this_round, CPU)
    used = set()
    for item in mixed(this_round)[:4]:
        load_sampler(this_round, item, CPU, shared)
        used |= set(this_round.weights_keys(item))
    assert used < all_experts(this_round)
    expire(this_round, all_experts(this_round))
    (found,) = shared_costs(this_round).values()
    assert sorted(cost.finetune for cost in found) == sorted(costs[key] for key in used)
    assert {cost.device for cost in found} == {"known"}


def test_the_time_of_a_coalition_includes_that_of_its_mixture(tmp_path, monkeypatch):
    """Loading and averaging its experts, which here take half a second at least."""

    def slow(*arguments):
        time.sleep(0.5)
        return load_sampler(*arguments)

    monkeypatch.setattr("apportion.stages.sample.load_sampler", slow)
    this_round = with_experts(tmp_path)
    store_models(this_round)
    item = mixed(this_round)[0]
    alone = replace(this_round, plan=this_round.plan.model_copy(update={"wanted": (item,)}))
    assert sum(sample.make(alone, shard) for shard in (0, 1)) == 1
    _, cost = load_samples(this_round.store, this_round.samples_key(item))
    assert 0.5 <= cost.sample < 60
    assert cost.finetune == 0.0


def test_weights_that_expired_unused_have_no_known_cost(tmp_path):
    this_round = with_experts(tmp_path)
    costs = store_models(this_round)
    gone, *kept = sorted(all_experts(this_round))
    expire(this_round, [gone])
    (found,) = shared_costs(this_round).values()
    assert sorted(cost.finetune for cost in found) == sorted(costs[key] for key in kept)
    expire(this_round, kept)
    assert shared_costs(this_round) == {}


def test_a_coalition_has_its_part_of_what_the_design_shares(tmp_path):
    """All experts, those of unknown cost at the mean of the others, over the 12 coalitions of the design."""
    this_round = with_experts(tmp_path)
    costs, credit = store_models(this_round), this_round.plan.games["credit"]
    experts = sorted(all_experts(this_round))
    whole = sum(costs[key] for key in experts)
    assert shared_cost_per_coalition(this_round, credit) == pytest.approx(whole / 12)
    assert shared_cost_per_coalition(this_round, this_round.plan.games["truth"]) == 0.0
    expire(this_round, experts[:5])
    known = np.mean([costs[key] for key in experts[5:]])
    assert shared_cost_per_coalition(this_round, credit) == pytest.approx(12 * known / 12)
    expire(this_round, experts[5:])
    assert math.isnan(shared_cost_per_coalition(this_round, credit))


def test_the_cost_of_a_coalition_includes_its_part_of_the_experts(tmp_path):
    this_round = with_experts(tmp_path)
    costs = store_models(this_round)
    with pytest.raises(NotFound, match="run finetune, sample and score"):
        cost_per_coalition(this_round, "design")
    fill(this_round, lambda mask, *_: float(mask.sum()), retraining=100.0)
    part = sum(costs[key] for key in all_experts(this_round)) / 12
    for purpose in ("design", "paired"):
        assert cost_per_coalition(this_round, purpose) == pytest.approx(3.5 + part)  # as `fill` writes it
    assert cost_per_coalition(this_round, "held_out") == pytest.approx(101.5)
    assert cost_per_coalition(this_round, "baseline") == pytest.approx(3.5)
    with pytest.raises(NotFound, match="found no evaluations for 'retrained'"):
        cost_per_coalition(this_round, "retrained")


def test_without_shared_weights_a_coalition_costs_what_its_record_says(tmp_path):
    this_round = planned(tmp_path, *FOUR)
    fill(this_round, lambda mask, *_: float(mask.sum()))
    assert cost_per_coalition(this_round, "design") == pytest.approx(3.5)


def test_shared_weights_that_are_not_there_and_needed_are_untrained(tmp_path):
    this_round = with_experts(tmp_path)
    credit, experts = this_round.plan.games["credit"], all_experts(this_round)
    assert untrained_shared_weights(this_round) == {credit: 12}
    store_models(this_round)
    assert untrained_shared_weights(this_round) == {}
    expire(this_round, experts)
    assert untrained_shared_weights(this_round) == {credit: 12}
    last = of_purpose(this_round, "v1")
    others = tuple(item for item in this_round.plan.wanted if item.key != last.key)
    known = this_round.plan.model_copy(update={"wanted": others})
    fill(replace(this_round, plan=known), lambda mask, *_: float(mask.sum()))
    assert untrained_shared_weights(this_round) == {credit: 4}
    this_round.store.put_if_absent(this_round.samples_key(last), b"images")
    assert untrained_shared_weights(this_round) == {}


# Models


def by_hand(this_round, item, power, scale):
    """The weights of a coalition's model, in float64: start + scale · (mean of experts − start)."""

    def read(key):
        found = arrays(this_round.store.get(key))
        return {name: array.astype(np.float64) for name, array in found.items()}

    mask, contributors = item.mask(this_round.manifest.n), this_round.manifest.contributors
    members = [c for c, kept in zip(contributors, mask, strict=True) if kept]
    experts = [read(expert(this_round, c, item.seed % 3)) for c in members]
    total = sum(c.samples**power for c in members)
    shares = [c.samples**power / total for c in members]
    start = read(weights_key(this_round.plan.base.id))
    means = {
        name: sum(share * each[name] for share, each in zip(shares, experts, strict=True)) for name in start
    }
    return {name: start[name] + scale * (means[name] - start[name]) for name in start}


@pytest.mark.parametrize(
    ("options", "power", "scale", "model_bytes"),
    [
        ("weights: images", 1.0, 1.0, 2**31),
        ("weights: images, scale: 0.25", 1.0, 0.25, 1),
        ("weights: sqrt", 0.5, 1.0, 2**31),
        ("weights: equal, scale: 1.5", 0.0, 1.5, 2**31),
    ],
)
def test_the_model_of_a_coalition_is_the_weighted_mean_of_its_experts(
    options, power, scale, model_bytes, stored, workdir, monkeypatch
):
    """However many models stay in memory: none of them is changed by the mean of another coalition."""
    monkeypatch.setattr("apportion.rounds.models.MODEL_BYTES", model_bytes)
    this_round = with_experts(workdir, options)
    assert not store_models(this_round).keys() & all_experts(this_round)  # the experts of `stored`
    shared = SharedModels(this_round, CPU)
    items = mixed(this_round)[:6]
    assert {len(this_round.data(item)) for item in items} == {1, 2, 3, 4}
    for item in items:
        sampler, cost = load_sampler(this_round, item, CPU, shared)
        (model,), expected = sampler.models, by_hand(this_round, item, power, scale)
        found = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-6)
        assert cost == Cost(device=CPU.name)  # of the experts, which other coalitions use too
        assert not model.training


@pytest.mark.parametrize("purpose", ["held_out", "v0"])
def test_a_coalition_with_a_model_of_its_own_has_its_weights_and_its_cost(purpose, stored):
    this_round, costs = stored
    item = of_purpose(this_round, purpose)
    sampler, cost = load_sampler(this_round, item, CPU, SharedModels(this_round, CPU))
    (key,) = this_round.weights_keys(item)
    assert cost == Cost(finetune=costs[key], device="known")
    expected = arrays(this_round.store.get(key))
    for name, tensor in sampler.models[0].state_dict().items():
        assert np.array_equal(tensor.numpy(), expected[name])


def test_a_missing_expert_is_reported(tmp_path):
    this_round = with_experts(tmp_path)
    item = mixed(this_round)[0]
    with pytest.raises(NotFound, match="checkpoints/"):
        load_sampler(this_round, item, CPU, SharedModels(this_round, CPU))


@pytest.fixture
def room_for(stored, monkeypatch):
    """Models in memory with room for so many of them."""
    this_round, _ = stored

    def make(count):
        game = this_round.game("credit")
        one = FAMILY.build(game.recipe.model, game.recipe.resolution, 0).state_dict().values()
        size = sum(tensor.numel() * tensor.element_size() for tensor in one)
        monkeypatch.setattr("apportion.rounds.models.MODEL_BYTES", count * size)
        shared = SharedModels(this_round, CPU)
        return lambda address: shared.load(game.id, address)

    return make


def addresses(this_round):
    """Of all experts."""
    return [address(this_round, c, number) for c in this_round.manifest.contributors for number in range(3)]


def test_the_models_that_were_used_last_stay_in_memory(stored, room_for):
    one, two, three = addresses(stored[0])[:3]
    load = room_for(2)
    first, second = load(one), load(two)
    assert load(one) is first
    load(three)
    assert load(one) is first  # it was used after the second
    again = load(two)
    assert again is not second
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


@pytest.mark.parametrize("count", [1, 3, 5])
def test_no_more_models_stay_in_memory_than_fit(count, stored, room_for):
    load = room_for(count)
    models = [weakref.ref(load(address)) for address in addresses(stored[0])]
    gc.collect()
    assert [model() is not None for model in models] == [False] * (12 - count) + [True] * count


def test_a_model_that_is_larger_than_the_memory_is_used_all_the_same(stored, room_for):
    load = room_for(0)
    one = addresses(stored[0])[0]
    assert load(one) is load(one)
