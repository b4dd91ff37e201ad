"""Whole rounds of experts, whose coalitions share sets of weights, and of own images, which have no model."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load as arrays
from tiny import SMALLER, commit, concluded, evaluated, fill, nothing_computed, planned, prepared, root

from apportion import stages
from apportion.config.removal import Part, TrainingRun
from apportion.diffusion.compute import Compute
from apportion.errors import ConfigError
from apportion.properties import reference
from apportion.properties.measure import measure
from apportion.properties.network import load as load_network
from apportion.records import samples_address
from apportion.rounds.cost import read_cost
from apportion.rounds.models import SharedModels, generate, load_sampler
from apportion.rounds.networks import stored_network
from apportion.rounds.round import Round
from apportion.rounds.samples import load_samples
from apportion.rounds.training_data import training_images
from apportion.rounds.weights import all_weights, shared_costs
from apportion.store.layout import network_key, reference_key, samples_key, weights_key
from apportion.verify import verify

FOUR = (*SMALLER, "data.contributors=4", "valuation.coalitions=12")
EXPERTS = "removal={{method: experts, fitting: {{steps: 2, lr: 1e-3, batch: 8}}, sets: {}}}"
OWN = "removal={method: own_images}"
STATED = "valuation.stated_v0={fid: 300.0, colourfulness_p90: 0.0}"
NAMES = ("colourfulness_p90", "fid")


def whole(workdir, *overrides):
    """A round through all its stages, opened again, and what each stage of its coalitions made."""
    this_round = planned(workdir, *overrides)
    prepared(this_round.uri)
    made = evaluated(this_round.uri)
    concluded(this_round.uri)
    return Round.open(this_round.uri), made


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """A round of three sets of experts, with coalitions of further sizes. Tests read it only."""
    return whole(tmp_path_factory.mktemp("experts"), *FOUR, EXPERTS.format(3), "evaluation.by_size=1")


@pytest.fixture(scope="module")
def own_images(tmp_path_factory):
    """A round whose credits are of the own images. Tests read it only."""
    return whole(tmp_path_factory.mktemp("own_images"), *SMALLER, OWN, STATED)


def files(this_round, kind):
    return {f"{kind}/{path.name}" for path in (root(this_round.uri) / kind).glob("*.safetensors")}


def number(recipe, contributor, of_set):
    return weights_key(recipe.weights(Part(TrainingRun(of_set, (contributor.data,)))))


def filled(workdir, sets):
    """A round with the credits of a known game, without compute."""
    this_round = planned(workdir, *FOUR, EXPERTS.format(sets), "evaluation.counterfactual=null")
    rng = np.random.default_rng(0)
    fill(this_round, lambda mask, *_: 30 + float(mask @ [-5.0, -1.0, 2.0, 0.3]) + 0.1 * rng.standard_normal())
    stages.run("attribute", this_round.uri)
    return Round.open(this_round.uri)


# Experts


def test_credits_of_experts_have_intervals_over_the_noise_of_the_sets(experts):
    this_round, _ = experts
    for name in NAMES:
        credits = this_round.credits.of(name, "leverage")
        assert len(credits) == 4
        assert all(credit.low < credit.phi < credit.high and credit.se > 0 for credit in credits)
        gain = this_round.credits.v1[name].mean - this_round.credits.v0[name].mean
        assert sum(credit.phi for credit in credits) == pytest.approx(gain, abs=1e-9 * abs(gain) + 1e-9)
        (covers,) = {this_round.credits.covered(credit) for credit in credits}
        assert "the noise of training experts, from 3 sets of them" in covers
        assert "(removal.sets)" not in covers
    assert set(verify(this_round.uri)["verified"].values()) == {"to the last bit"}


def test_each_expert_is_trained_once_and_nothing_else_for_the_coalitions(experts):
    this_round, made = experts
    credit, plan = this_round.game("credit").recipe, this_round.plan
    trained = {number(credit, c, of_set) for c in this_round.manifest.contributors for of_set in range(3)}
    assert len(trained) == 12
    retrained = {
        weights_key(plan.base.recipe.address(item.seed, this_round.data(item)))
        for item in plan.wanted
        if item.purpose in ("held_out", "by_size")
    }
    empty = {key for item in plan.wanted if item.purpose == "v0" for key in this_round.weights_keys(item)}
    assert files(this_round, "checkpoints") == {weights_key(plan.base.id)} | trained | retrained | empty
    assert made["finetune"] == len(trained | retrained | empty)


def test_the_images_of_a_coalition_are_of_the_mean_of_its_experts(experts):
    """The stored experts of its set, weighted by hand with the numbers of images, and the stored images."""
    this_round, _ = experts
    game, compute = this_round.game("credit"), Compute(torch.device("cpu"), "fp32")
    shared = SharedModels(this_round, compute)
    for purpose in ("design", "v1", "paired", "counterfactual"):
        item = [item for item in this_round.wanted if item.purpose == purpose][-1]
        kept = item.mask(this_round.manifest.n)
        members = [c for c, keep in zip(this_round.manifest.contributors, kept, strict=True) if keep]
        total = sum(c.samples for c in members)
        keys = [number(game.recipe, c, item.seed % 3) for c in members]
        states = [arrays(this_round.store.get(key)) for key in keys]
        sampler, _ = load_sampler(this_round, item, compute, shared)
        for name, found in sampler.models[0].state_dict().items():
            terms = zip(members, states, strict=True)
            expected = sum(c.samples / total * state[name].astype(np.float64) for c, state in terms)
            np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)
        images, cost = load_samples(this_round.store, this_round.samples_key(item))
        again, _ = generate(game.recipe, sampler, game.sampling, item.seed, compute)
        assert np.array_equal(images, again)
        assert cost.finetune == 0.0  # what the experts cost is counted once, not for each coalition


def test_what_weights_cost_is_counted_once(experts):
    this_round, _ = experts
    (shared,) = shared_costs(this_round).values()
    own = sum(record.cost.finetune for _, record in this_round.all_evaluations())
    total = commit(this_round).seconds["finetune"]
    assert total == pytest.approx(own + sum(cost.finetune for cost in shared), abs=1e-9)
    stored = sum(read_cost(this_round.store.get(key), key).finetune for key in all_weights(this_round))
    assert total == pytest.approx(stored, abs=1e-9)
    assert "weights that coalitions share (experts)" in this_round.read("report.html").decode()


def test_evidence_of_experts_has_every_size_and_the_own_images(experts):
    this_round, _ = experts
    for judgement in this_round.evidence.judgements:
        for faiths, alphas in (
            (judgement.faithfulness, [0.5]),
            (judgement.baseline, [0.5]),
            (judgement.by_size, [0.25, 0.5, 0.75]),
            (judgement.by_size_baseline, [0.25, 0.5, 0.75]),
        ):
            assert [(faith.alpha, faith.pairs) for faith in faiths] == [(alpha, 1) for alpha in alphas]


@pytest.mark.parametrize("sets", [1, 2])
def test_intervals_of_few_sets_are_for_ranking_only(sets, tmp_path):
    """They do not hold over the noise of training, which one set alone does not show."""
    this_round = filled(tmp_path, sets)
    credits = this_round.credits.of("fid", "leverage")
    assert all(credit.low < credit.phi < credit.high for credit in credits)
    (covers,) = {this_round.credits.covered(credit) for credit in credits}
    assert covers.startswith(f"ranking only ({sets} sets of experts, expected at least 3 (removal.sets))")
    assert "not over the noise of training experts" in covers


# Own images


def measured(this_round, item):
    """The properties of the training images of a coalition, measured directly."""
    game, store = this_round.games[item.game], this_round.store
    pixels = torch.from_numpy(training_images(store, this_round.data(item), game.recipe.resolution).pixels)
    by_name = {measurement.property: measurement for measurement in game.properties}
    fid = by_name["fid"]
    network = load_network(stored_network(store, fid.network), network_key(fid.network))
    against = reference.load(store.get(reference_key(fid.reference)), "reference")
    return measure(["fid"], pixels, network, against) | measure(["colourfulness_p90"], pixels)


@pytest.mark.parametrize("purposes", [("baseline",), ("by_size_baseline",)])
def test_the_baseline_measures_the_training_images(purposes, experts):
    this_round, _ = experts
    evaluations = this_round.evaluations(*purposes)
    assert evaluations
    for item, record in evaluations:
        assert record.values == pytest.approx(measured(this_round, item), rel=1e-9)
        assert (record.cost.finetune, record.cost.sample) == (0.0, 0.0)
        assert record.cost.device == record.cost.scored_on


def base_images(this_round):
    """Where the images of the base model are, which the reference is made of."""
    return samples_key(samples_address(this_round.plan.base.id, this_round.config.sampling))


def test_nothing_is_generated_for_the_baseline(experts):
    this_round, made = experts
    generated = {this_round.samples_key(item) for item in this_round.wanted if this_round.generates(item)}
    assert files(this_round, "samples") == generated | {base_images(this_round)}
    for item, _ in this_round.evaluations("baseline", "by_size_baseline"):
        assert not this_round.store.exists(this_round.samples_key(item))
        recipe = this_round.games[item.game].recipe
        assert not this_round.store.exists(weights_key(recipe.address(item.seed, this_round.data(item))))
    planned_keys = {item.key for item in this_round.plan.wanted}
    own = {item.key for item in this_round.plan.wanted if not this_round.generates(item)}
    assert made["score"] == len(planned_keys)
    assert made["sample"] == len(planned_keys - own)


def test_credits_of_own_images_need_no_model_but_the_base_and_retraining(own_images):
    this_round, made = own_images
    held = [item for item in this_round.wanted if item.purpose == "held_out"]
    assert made["finetune"] == made["sample"] == len(held) == 1
    assert files(this_round, "checkpoints") == {
        weights_key(this_round.plan.base.id),
        *this_round.weights_keys(held[0]),
    }
    assert files(this_round, "samples") == {this_round.samples_key(held[0]), base_images(this_round)}
    for item, record in this_round.evaluations("design", "v1", "paired", "counterfactual"):
        assert record.values == pytest.approx(measured(this_round, item), rel=1e-9)
    assert not [item for item in this_round.wanted if item.purpose == "v0"]


@pytest.mark.parametrize(
    ("stated", "unknown"), [("{}", "colourfulness_p90, fid"), ("{fid: 300.0}", "colourfulness_p90")]
)
def test_without_images_the_value_of_the_empty_coalition_must_be_stated(stated, unknown, tmp_path):
    with pytest.raises(ConfigError, match=rf"found no valuation\.stated_v0 of {unknown} beside"):
        planned(tmp_path, *SMALLER, OWN, f"valuation.stated_v0={stated}")
    assert nothing_computed(tmp_path)


def test_credits_of_own_images_add_up_from_the_stated_value(own_images):
    this_round, _ = own_images
    for name, stated in {"fid": 300.0, "colourfulness_p90": 0.0}.items():
        credits = this_round.credits.of(name, "leverage")
        grand = this_round.evaluations("v1")[0][1].values[name]
        assert sum(credit.phi for credit in credits) == pytest.approx(grand - stated, rel=1e-9)
        assert all(credit.low <= credit.phi <= credit.high for credit in credits)
        assert "own_images" in this_round.credits.covered(credits[0])
    paired, own = this_round.evaluations("paired"), this_round.evaluations("baseline")
    assert [record.values for _, record in paired] == [record.values for _, record in own]
    assert set(verify(this_round.uri)["verified"].values()) == {"to the last bit"}
