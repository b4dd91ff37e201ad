"""The games of a round and its base model; and what the rounds of two manifests share."""

import numpy as np
import pytest
from tiny import CONFIG

from apportion.config.hashing import digest
from apportion.config.loading import load
from apportion.config.removal import Member, Part, TrainingRun
from apportion.planning.games import base_of, games_of
from apportion.records import SCHEMA, Contributor, Manifest, NetworkDescription
from apportion.stages import plan

RETRAIN = "removal={method: retrain}"
OWN = "removal={method: own_images}"
EXPERTS = "removal={{method: experts, fitting: {{steps: 5, lr: 0.1}}{}}}"
PRUNING = ", pruning: {ratio: 0.5, retune: {steps: 1, lr: 0.1}}"
NETWORK = digest("network")
DESCRIBED = NetworkDescription(network=NETWORK, name="small", trained_on="digits", classes=10)


def configured(*overrides):
    return load(CONFIG, ["compute.precision=fp32", *overrides])


def manifest(**data: str) -> Manifest:
    rows = [Contributor(name=name, data=digest(text), samples=10) for name, text in data.items()]
    return Manifest(contributors=tuple(sorted(rows, key=lambda row: row.name)))


BEFORE = manifest(ann="a", bob="b", cy="c", dee="d")
RENAMED = manifest(anna="a", bob="b", cy="c", dee="d")
REORDERED = manifest(zoe="a", bob="b", cy="c", dee="d")
"""A name at another place in the alphabet."""
CHANGED = manifest(ann="a", bob="b", cy="c", dee="e")
JOINED = manifest(ann="a", bob="b", cy="c", dee="d", eve="e")


def games(*overrides, precision="fp32", network=NETWORK, given=BEFORE):
    config = configured(*overrides)
    return games_of(config, base_of(config, given, precision), network, precision)


# Games


def test_the_base_model_is_trained_on_all_data_as_retrained_coalitions_are():
    config = configured()
    base, truth = base_of(config, BEFORE, "bf16"), games(precision="bf16")["truth"]
    assert base.data == BEFORE.all_data
    assert base.seed == config.seed
    assert base.recipe == truth.recipe
    recipe = base.recipe
    assert (recipe.removal.method, recipe.start, recipe.train) == ("retrain", None, config.train)
    assert (recipe.model, recipe.resolution) == (config.model, config.data.resolution)
    assert (recipe.version, recipe.precision) == (SCHEMA, "bf16")
    # The grand coalition by retraining with the same seed is the same model.
    assert base.id == recipe.address(config.seed, BEFORE.data(np.ones(4, bool)))


def test_the_game_of_the_credits_starts_from_the_pruned_base_model():
    config, credit = configured("seed=5"), games("seed=5")["credit"]
    start = credit.recipe.start
    assert start.base == base_of(config, BEFORE, "fp32").id
    assert (start.pruning, start.seed) == (config.removal.pruning, 5)
    assert start.id != start.base
    assert (credit.recipe.removal, credit.recipe.train) == (config.removal, None)
    assert credit.sampling == config.sampling


def test_without_pruning_training_starts_from_the_base_model():
    option = "removal={method: finetune, fitting: {steps: 5, lr: 0.1}}"
    start = games(option)["credit"].recipe.start
    assert start.pruning is None
    assert start.id == start.base == base_of(configured(option), BEFORE, "fp32").id


def test_with_retraining_both_games_are_one():
    both = games(RETRAIN)
    assert both["credit"] == both["truth"]


def test_only_options_of_its_own_change_a_game():
    """Options of fine-tuning do not change retraining, and what decides which coalitions are evaluated
    changes neither."""
    before = games()
    after = games("removal.fitting.steps=9")
    assert after["truth"].id == before["truth"].id
    assert after["credit"].id != before["credit"].id
    for option in (
        "valuation.coalitions=14",
        "valuation.level=0.9",
        "evaluation.held_out=0",
        "project=other",
    ):
        assert games(option) == before
    for option in (
        "train.steps=11",
        "sampling.images=64",
        "model.norm_groups=4",
        "removal.pruning.ratio=0.25",
    ):
        assert games(option)["credit"].id != before["credit"].id
    assert games(precision="bf16")["credit"].id != before["credit"].id


def test_properties_have_the_network_and_the_reference_that_they_need():
    measurements = {item.property: item for item in games()["credit"].properties}
    assert [*measurements] == sorted(configured().properties)
    network = digest("network")
    assert {name: item.network for name, item in measurements.items()} == {
        "cluster_entropy": network,
        "colourfulness_p90": None,
        "fid": network,
        "inception_score": network,
    }
    has_reference = {name: item.reference is not None for name, item in measurements.items()}
    assert has_reference == {
        "cluster_entropy": True,
        "colourfulness_p90": False,
        "fid": True,
        "inception_score": False,
    }
    assert measurements["fid"].reference == measurements["cluster_entropy"].reference
    assert games()["truth"].properties == games()["credit"].properties


def test_a_reference_depends_on_data_images_and_network():
    def reference(**options):
        return games("properties=[fid]", **options)["truth"].properties[0].reference

    before = reference()
    assert reference(given=RENAMED) == before
    assert reference(given=CHANGED) != before
    assert reference(network=digest("another")) != before
    for option in ("sampling.images=64", "train.steps=11", "seed=3"):
        assert games("properties=[fid]", option)["truth"].properties[0].reference != before


# Experts

MEMBERS = [Member(digest("a"), 4), Member(digest("b"), 9), Member(digest("c"), 36)]


def experts(options="", **kwargs):
    return games(EXPERTS.format(options), **kwargs)["credit"].recipe


@pytest.mark.parametrize(
    ("weights", "expected"),
    [("images", [4 / 49, 9 / 49, 36 / 49]), ("sqrt", [2 / 11, 3 / 11, 6 / 11]), ("equal", [1 / 3] * 3)],
)
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.75])
def test_a_coalition_is_the_weighted_mean_of_its_members_experts(weights, expected, scale):
    """With a scale, of the model that they start from too: start + scale · (mean − start)."""
    mixture = experts(f", weights: {weights}, scale: {scale}").mixture(7, MEMBERS)
    parts = {part.run: part.weight for part in mixture.parts}
    assert len(parts) == len(mixture.parts)
    assert sum(parts.values()) == pytest.approx(1.0, abs=1e-12)
    of_members = [parts[TrainingRun(7 % 3, (member.data,))] for member in MEMBERS]
    assert of_members == pytest.approx([scale * weight for weight in expected], abs=1e-12)
    assert parts.keys() - {TrainingRun(1, (member.data,)) for member in MEMBERS} == (
        set() if scale == 1.0 else {None}
    )
    assert parts.get(None, 0.0) == pytest.approx(1.0 - scale, abs=1e-12)
    assert (mixture.average, mixture.conditions) == ("weights", ())


def test_one_member_is_its_expert():
    (part,) = experts(", weights: sqrt").mixture(4, MEMBERS[:1]).parts
    assert part == Part(TrainingRun(1, (MEMBERS[0].data,)), 1.0)


def test_weights_of_many_members_sum_to_one():
    members = [Member(digest(i), 1 + i * 37 % 101) for i in range(3000)]
    for options in ("", ", weights: sqrt, scale: 7", ", weights: equal, scale: 0.001"):
        parts = experts(options).mixture(0, members).parts
        assert sum(part.weight for part in parts) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("sets", [1, 3, 5])
def test_the_seed_of_a_coalition_chooses_the_set(sets):
    recipe = experts(f", sets: {sets}")
    assert recipe.removal.shared_sets == sets
    chosen = [{part.run.seed for part in recipe.mixture(seed, MEMBERS).parts} for seed in range(2 * sets)]
    assert chosen == [{seed % sets} for seed in range(2 * sets)]


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_empty_coalition_of_experts_is_one_untrained_model(scale):
    """As in the other games, so its seed is the coalition's own."""
    mixture = experts(f", scale: {scale}").mixture(7, [])
    assert mixture.parts == (Part(TrainingRun(7, ()), 1.0),)


@pytest.mark.parametrize("pruning", ["", PRUNING])
def test_experts_start_from_the_base_model_or_its_pruned_form(pruning):
    recipe = experts(pruning + ", scale: 2.0")
    assert (recipe.start.pruning is not None) == bool(pruning)
    assert (recipe.start.id == recipe.start.base) == (not pruning)
    assert recipe.weights(Part(None)) == recipe.start.id
    assert (recipe.train, recipe.steps) == (None, 5)


ALL = np.ones(4, bool)


def addresses(recipe, given=BEFORE, sets=2):
    """Of the experts of the first sets."""
    runs = [TrainingRun(number, (c.data,)) for c in given.contributors for number in range(sets)]
    return [recipe.weights(Part(run)) for run in runs]


@pytest.mark.parametrize(
    "options", [", sets: 2", ", sets: 64", ", weights: sqrt", ", weights: equal", ", scale: 1.5"]
)
def test_another_mixture_has_the_same_experts_and_other_images(options):
    before, after = experts(), experts(options)
    assert len(set(addresses(before))) == 8
    assert addresses(after) == addresses(before)
    untrained = Part(TrainingRun(5, ()))
    assert after.weights(untrained) == before.weights(untrained)
    game, other = games(EXPERTS.format(""))["credit"], games(EXPERTS.format(options))["credit"]
    data = BEFORE.data(ALL)
    assert other.id != game.id
    assert other.key(0, data) != game.key(0, data)
    assert other.samples(0, data) != game.samples(0, data)
    assert after.address(0, data) != before.address(0, data)


@pytest.mark.parametrize(
    "override", ["removal.fitting.steps=6", "removal.pruning.ratio=0.25", "train.steps=11", "seed=3"]
)
def test_other_training_has_other_experts(override):
    changed = games(EXPERTS.format(PRUNING), override)["credit"].recipe
    assert not set(addresses(changed)) & set(addresses(experts(PRUNING)))


def test_only_the_weights_of_a_mixture_have_an_address_without_its_options():
    """Other methods train one model for a coalition, whose address is the coalition's."""
    for method in (RETRAIN, "removal={method: finetune, fitting: {steps: 5, lr: 0.1}}"):
        recipe = games(method)["credit"].recipe
        data = BEFORE.data(ALL)
        assert recipe.weights(Part(TrainingRun(3, data))) == recipe.address(3, data)


def test_a_part_without_a_training_run_needs_a_start():
    with pytest.raises(ValueError, match=r"found a part without a training run, .* retrain has no start"):
        games(RETRAIN)["credit"].recipe.weights(Part(None))


# The game without models


def test_the_baseline_is_the_game_of_own_images():
    baseline, recipe = games(precision="bf16")["baseline"], games(precision="bf16")["baseline"].recipe
    assert (recipe.removal.method, recipe.train, recipe.start) == ("own_images", None, None)
    assert (recipe.precision, recipe.resolution) == ("fp32", configured().data.resolution)
    assert baseline.properties == games(precision="bf16")["truth"].properties
    assert recipe.mixture(0, MEMBERS).parts == recipe.mixture(0, []).parts == ()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_own_images_as_the_game_of_the_credits_are_the_baseline(precision):
    found = games(OWN, precision=precision)
    assert found["credit"] == found["baseline"] == games(precision=precision)["baseline"]
    assert found["credit"].id != found["truth"].id
    assert found["truth"].recipe.precision == precision


def test_no_option_of_a_model_changes_own_images():
    """A property without a reference depends on the images alone."""
    names = ("properties=[inception_score, colourfulness_p90]", "evaluation.counterfactual=null")
    before = games(*names)["baseline"]
    for option in (
        *("train.steps=11", "sampling.images=64", "model.norm_groups=4", "removal.fitting.steps=9"),
        *("seed=3", RETRAIN, EXPERTS.format("")),
    ):
        assert games(*names, option)["baseline"].id == before.id
    assert games(*names, precision="bf16", given=JOINED)["baseline"].id == before.id
    assert games(*names, "data.resolution=32")["baseline"].id != before.id
    assert games("properties=[inception_score]")["baseline"].id != before.id


# Two manifests


@pytest.fixture
def drawn():
    """The plan of a manifest, the games, and the purpose of each evaluation by its key."""

    def draw(given: Manifest, *overrides: str):
        config = configured("valuation.coalitions=12", *overrides)
        drawn_plan, both = plan.draw_up(config, given, DESCRIBED)
        return drawn_plan, both, {item.key: item.purpose for item in drawn_plan.wanted}

    return draw


def members(drawn_plan, given):
    """The data of every evaluation's coalition, by key."""
    return {item.key: given.data(item.mask(given.n)) for item in drawn_plan.wanted}


def coincide(before, after):
    """Evaluations of both plans; asserts that they are of the same data."""
    ours, theirs = members(*before), members(*after)
    both = ours.keys() & theirs.keys()
    assert all(ours[key] == theirs[key] for key in both)
    return both


def of_fid(both, role="credit"):
    return next(item for item in both[role].properties if item.property == "fid")


@pytest.mark.parametrize("method", [(), (RETRAIN,), (EXPERTS.format(""),), (OWN,)])
def test_a_rename_is_another_round_of_the_same_evaluations(drawn, method):
    before, before_games, known = drawn(BEFORE, *method)
    after, after_games, requested = drawn(RENAMED, *method)
    assert requested == known
    assert after.base == before.base
    assert after_games == before_games
    assert after.games == before.games
    assert after.manifest != before.manifest
    assert after.round != before.round


@pytest.mark.parametrize("method", [(), (RETRAIN,)])
def test_another_order_of_names_shares_models_and_the_coalitions_that_coincide(drawn, method):
    """Rows of the design are assigned to contributors in the order of names, so other coalitions are
    requested; those that are the same have the same key."""
    before, before_games, known = drawn(BEFORE, *method)
    after, after_games, requested = drawn(REORDERED, *method)
    assert after.base == before.base
    assert after_games == before_games
    endpoints = {key for key, purpose in known.items() if purpose in ("v0", "v1")}
    assert endpoints <= requested.keys()
    assert endpoints <= coincide((before, BEFORE), (after, REORDERED))
    assert after.round != before.round


@pytest.mark.parametrize("given", [CHANGED, JOINED])
def test_a_fine_tuning_game_shares_nothing_once_the_base_model_is_another(drawn, given):
    before, _, known = drawn(BEFORE)
    after, _, requested = drawn(given)
    assert after.base.id != before.base.id
    assert after.games["credit"] != before.games["credit"]
    assert not known.keys() & requested.keys()


@pytest.mark.parametrize("given", [CHANGED, JOINED])
def test_experts_are_made_again_once_the_base_model_is_another(drawn, given):
    """They start from the base model, which is trained on all data: the experts of those who stayed too."""
    _, before_games, _ = drawn(BEFORE, EXPERTS.format(""))
    _, after_games, _ = drawn(given, EXPERTS.format(""))
    before, after = (item["credit"].recipe for item in (before_games, after_games))
    assert after.start.base != before.start.base
    assert not set(addresses(before)) & set(addresses(after, given))


@pytest.mark.parametrize("given", [CHANGED, JOINED])
def test_a_property_with_a_reference_shares_nothing_once_the_reference_is_another(drawn, given):
    _, before_games, known = drawn(BEFORE, RETRAIN)
    _, after_games, requested = drawn(given, RETRAIN)
    assert of_fid(after_games).reference != of_fid(before_games).reference
    assert not known.keys() & requested.keys()


WITHOUT_REFERENCE = (
    RETRAIN,
    "properties=[inception_score, colourfulness_p90]",
    "evaluation.counterfactual=null",
)


def test_retraining_without_a_reference_shares_coalitions_without_the_changed_contributor(drawn):
    before, _, known = drawn(BEFORE, *WITHOUT_REFERENCE)
    after, _, requested = drawn(CHANGED, *WITHOUT_REFERENCE)
    assert after.games["credit"] == before.games["credit"]
    without = {key for key, data in members(before, BEFORE).items() if digest("d") not in data}
    assert known.keys() & requested.keys() == without
    assert len(without) > len(known) / 3


def test_retraining_without_a_reference_shares_coalitions_of_the_design_after_a_join(drawn):
    """The keys stay valid, but a design for five has few of the coalitions of a design for four; it has the
    empty one."""
    before, _, known = drawn(BEFORE, *WITHOUT_REFERENCE)
    after, _, _ = drawn(JOINED, *WITHOUT_REFERENCE, "valuation.coalitions=20")
    assert after.games["credit"] == before.games["credit"]
    shared = coincide((before, BEFORE), (after, JOINED))
    assert {key for key, purpose in known.items() if purpose == "v0"} <= shared
