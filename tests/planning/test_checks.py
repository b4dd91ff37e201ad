"""What is refused of a configuration beside its sections: names that do not exist or do not fit each other,
and too few coalitions or images."""

import json
import re

import pytest
from tiny import CONFIG, REMOVALS, image_folder, nothing_computed
from tiny import configured as in_folder

from apportion.config.hashing import digest
from apportion.config.loading import load, parse
from apportion.errors import ConfigError, PropertyError
from apportion.planning.checks import check_coalitions, check_options, check_own_images
from apportion.planning.coalitions import held_out, wanted_evaluations
from apportion.planning.games import base_of, games_of
from apportion.records import Contributor, Manifest
from apportion.stages import plan
from apportion.valuation.methods import METHODS, chosen


def configured(*overrides):
    return load(CONFIG, [REMOVALS, *overrides])


def refused(kind, check, *words):
    """Asserts that a check fails with a message of one line that has these words."""
    with pytest.raises(kind) as caught:
        check()
    message = str(caught.value)
    assert not [word for word in words if word not in message], message
    assert len(message.splitlines()) == 1


def stop(*looks, rule="width", target=1, properties=(), **more):
    """The option `valuation` with a rule to stop."""
    rule = {"looks": looks, "rule": rule, "target": target, "properties": properties}
    return f"valuation={json.dumps({'coalitions': looks[-1], 'stop': rule, **more})}"


# Names


def test_the_tiny_configuration_is_accepted():
    check_options(configured())
    check_coalitions(configured(), 4)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("properties=[fdi]", ["found property 'fdi'", "did you mean fid?", "option properties"]),
        ("properties=[fid, fid]", ["fid", "2 times"]),
    ],
)
def test_wrong_properties(override, words):
    refused(PropertyError, lambda: check_options(configured(override)), *words)


@pytest.mark.parametrize(
    ("override", "option"),
    [
        (REMOVALS.replace("fid", "inception_score"), "evaluation.counterfactual.property"),
        (stop(12, 14, properties=["inception_score"]), "valuation.stop.properties"),
        ("valuation.stated_v0.inception_score=1", "valuation.stated_v0"),
    ],
)
def test_a_property_that_is_not_measured(override, option):
    words = (f"found 'inception_score' in {option}, expected one of properties: fid",)
    refused(ConfigError, lambda: check_options(configured("properties=[fid]", override)), *words)


# Methods

SIX = ("valuation.coalitions=40",)
RETRAINED, DATAMODEL = "retrained: {coalitions: 16}", "datamodel: {coalitions: 9}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "methods: [shapley]",
            ["found method 'shapley'", "expected some of tree_residual, leverage, multifidelity, banzhaf"],
        ),
        ("methods: [leverage, leverag]", ["found method 'leverag' (did you mean leverage?)"]),
        (
            "methods: [leverage, kernelshap]",
            ["found methods ['kernelshap'] beside design 'leverage', expected ['tree_residual', 'leverage'"],
        ),
        (
            "design: shapley_kernel, methods: [leverage, loo]",
            ["found methods ['leverage'] beside design 'shapley_kernel', expected ['kernelshap']"],
        ),
        ("methods: [loo, aoi, loo]", ["found methods ['loo', 'aoi', 'loo'], expected each once"]),
        (
            "methods: [leverage, multifidelity]",
            ["found only one of method 'multifidelity' and valuation.retrained, expected both or neither"],
        ),
        (
            "methods: [leverage, datamodel]",
            ["found only one of method 'datamodel' and valuation.datamodel, expected both or neither"],
        ),
        (
            f"methods: [leverage], {RETRAINED}",
            ["found only one of method 'multifidelity' and valuation.retrained"],
        ),
        (
            f"methods: [leverage], {DATAMODEL}",
            ["found only one of method 'datamodel' and valuation.datamodel"],
        ),
        (
            f"methods: [multifidelity], {RETRAINED}",
            ["found no method but multifidelity, expected another beside it", "(valuation.methods)"],
        ),
    ],
)
def test_wrong_methods(options, words):
    config = configured(f"valuation={{coalitions: 48, {options}}}")
    refused(ConfigError, lambda: check_options(config), *words)


DEFAULT = ["tree_residual", "leverage", "banzhaf", "beta_shapley"]


@pytest.mark.parametrize(
    ("options", "methods"),
    [
        ("", DEFAULT),
        ("design: shapley_kernel", ["kernelshap"]),
        (RETRAINED, [*DEFAULT, "multifidelity"]),
        (DATAMODEL, [*DEFAULT, "datamodel"]),
        (f"design: shapley_kernel, {DATAMODEL}", ["kernelshap", "datamodel"]),
        ("methods: [loo, leverage]", ["loo", "leverage"]),
    ],
)
def test_the_methods_that_are_computed_the_published_one_first(options, methods):
    config = configured(f"valuation={{coalitions: 48, {options}}}")
    check_options(config)
    assert chosen(config.valuation) == methods
    again = parse(config.model_dump(mode="json"), "its own dump")
    assert chosen(again.valuation) == methods


def test_every_method_fits_a_design():
    """So no row of METHODS is refused with every configuration."""
    for name, row in METHODS.items():
        section = {"retrained": RETRAINED, "datamodel": DATAMODEL, None: ""}[row.section]
        kernel = "design: shapley_kernel" if row.design == "shapley_kernel" else "design: leverage"
        other = "" if row.always else "leverage, "
        options = ", ".join(part for part in (kernel, f"methods: [{other}{name}]", section) if part)
        check_options(configured(f"valuation={{coalitions: 48, {options}}}"))


# Coalitions

KERNEL = "valuation.design=shapley_kernel"


@pytest.mark.parametrize(
    ("n", "overrides", "words"),
    [
        (4, ["valuation.coalitions=2"], ["found m = 2 coalitions", "expected", "valuation.coalitions"]),
        (4, ["valuation.coalitions=6"], ["4 contributors", "valuation.coalitions"]),
        (4, ["valuation.coalitions=13"], ["found m = 13", "even number", "valuation.coalitions"]),
        (12, [], ["12 contributors", "valuation.coalitions"]),
        (
            4,
            [KERNEL, "valuation.coalitions=2"],
            ["found 2 coalitions of rank 2, expected rank 4", "valuation.coalitions"],
        ),
        (
            12,
            [KERNEL, "valuation.coalitions=11"],
            ["found 11 coalitions", "expected rank 12", "12 contributors"],
        ),
        (4, [stop(6, 14)], ["found m = 6 coalitions", "4 contributors", "valuation.stop.looks"]),
        (
            6,
            [stop(16, 40)],
            ["contributors told apart by a single pair", "6 contributors", "valuation.stop.looks"],
        ),
        (
            4,
            [stop(12, 48)],
            [
                "found 48 coalitions at the last look, expected at most the 14 there are",
                "valuation.stop.looks",
            ],
        ),
        (
            4,
            [stop(12, 14, rule="top_set", target=4)],
            ["found target = 4", "from 1 to 3", "4 contributors", "valuation.stop.target"],
        ),
        (
            4,
            [stop(12, 14, rule="top_order", target=1.5)],
            ["found target = 1.5, expected a whole number", "valuation.stop.target"],
        ),
        (
            4,
            [f"valuation={{coalitions: 48, {RETRAINED}}}"],
            ["found 16 coalitions in valuation.retrained", "the 14 there are"],
        ),
        (
            5,
            ["valuation={coalitions: 48, retrained: {coalitions: 32}}"],
            ["found 32 coalitions in valuation.retrained", "the 30 there are"],
        ),
        (
            4,
            ["valuation.datamodel={coalitions: 7}"],
            ["found m = 7, expected at most 6", "4 contributors", "valuation.datamodel"],
        ),
        (
            4,
            ["valuation.datamodel={coalitions: 3, alpha: 0.1}"],
            ["found alpha = 0.1", "4 contributors", "valuation.datamodel"],
        ),
        (4, ["evaluation.held_out=7"], ["4 contributors", "evaluation.held_out"]),
        (
            4,
            ["evaluation.alphas=[0.5, 0.3, 0.6]"],
            ["found shares 0.5, 0.6", "4 contributors", "evaluation.alphas"],
        ),
        (4, ["evaluation.alphas=[0.01]"], ["4 contributors", "evaluation.alphas"]),
        (
            4,
            ["evaluation.counterfactual.random=4"],
            ["4 contributors", "evaluation.counterfactual.random"],
        ),
    ],
)
def test_too_few_coalitions(n, overrides, words):
    config = configured(*overrides)
    check_options(config)
    refused(ConfigError, lambda: check_coalitions(config, n), *words)


@pytest.mark.parametrize("n", [2, 3])
def test_few_contributors_have_all_their_coalitions_evaluated(n, caplog):
    caplog.set_level("INFO")
    overrides = ("evaluation.held_out=0", "evaluation.counterfactual=null")
    check_coalitions(configured("valuation.coalitions=48", *overrides), n)
    count = 2**n - 2
    assert f"all {count} proper coalitions of {n} contributors are evaluated, not 48" in caplog.messages
    caplog.clear()
    check_coalitions(configured(f"valuation.coalitions={count}", *overrides), n)
    assert not re.search("proper coalitions", caplog.text)


# Images

NAMES = ("ann", "bob", "cy", "dee")
FEW = ("properties=[fid, colourfulness_p90]", "evaluation.counterfactual=null", "valuation.coalitions=14")
NO_HELD_OUT = "evaluation.held_out=0"
OWN = ("removal={method: own_images}", "valuation.stated_v0={fid: 300, colourfulness_p90: 0}")


def with_images(config, *samples):
    """Manifest and games of contributors with so many images."""
    rows = [Contributor(name=n, data=digest(n), samples=k) for n, k in zip(NAMES, samples, strict=True)]
    manifest = Manifest(contributors=tuple(rows))
    base = base_of(config, manifest, "fp32")
    return config, manifest, games_of(config, base, digest("net"), "fp32")


def single(name, *overrides):
    """Overrides by which a coalition of one contributor alone, with this name, is held out."""
    for seed in range(100):
        chosen = ("evaluation.held_out=1", "evaluation.alphas=[0.25]", f"evaluation.seed={seed}")
        (mask,) = held_out(configured(*FEW, *overrides, *chosen), 4)
        if mask.tolist() == [other == name for other in NAMES]:
            return chosen
    raise AssertionError(name)


def test_a_held_out_coalition_of_one_image_is_refused():
    config = configured(*FEW, *single("cy"))
    words = (
        "found 1 image of the coalition of cy (baseline), which is measured by its own images, expected at "
        "least 2 for fid: raise data.min_images, or change evaluation.held_out, evaluation.alphas or "
        "evaluation.seed",
    )
    refused(ConfigError, lambda: check_own_images(*with_images(config, 8, 8, 1, 8)), *words)
    check_own_images(*with_images(config, 8, 8, 2, 8))
    check_own_images(*with_images(config, 1, 1, 8, 1))  # no coalition of one of them alone is measured


def test_only_properties_that_need_more_images_refuse():
    config = configured(*FEW, *single("cy"), "properties=[colourfulness_p90, inception_score]")
    check_own_images(*with_images(config, 8, 8, 1, 8))


@pytest.mark.parametrize(
    ("overrides", "purpose", "option"),
    [
        ((*OWN, NO_HELD_OUT), "design", "removal.method"),
        (
            (
                NO_HELD_OUT,
                "properties=[fid]",
                "valuation={coalitions: 14, own_images: 16}",
            ),
            "control_design",
            "valuation.own_images",
        ),
    ],
)
def test_every_coalition_that_is_measured_by_its_own_images_is_checked(overrides, purpose, option):
    """Of four contributors with one image each."""
    arguments = with_images(configured(*FEW, *overrides), 1, 1, 1, 1)
    words = ("found 1 image of the coalition of ", f"({purpose})", f"or change {option}")
    refused(ConfigError, lambda: check_own_images(*arguments), *words)


def test_coalitions_of_later_looks_are_checked_at_the_first():
    """All single contributors are in the whole design. The one with a single image is none of those that are
    in the first look alone."""
    stated = {"fid": 300, "colourfulness_p90": 0}
    config = configured(*FEW, OWN[0], stop(8, 14, stated_v0=stated), NO_HELD_OUT)
    first = [item.mask(4).tolist() for item in wanted_evaluations(*with_images(config, 8, 8, 8, 8), look=0)]
    late = next(name for i, name in enumerate(NAMES) if [k == i for k in range(4)] not in first)
    arguments = with_images(config, *(1 if name == late else 8 for name in NAMES))
    words = f"found 1 image of the coalition of {late} (design)"
    refused(ConfigError, lambda: check_own_images(*arguments), words)


def test_what_the_counterfactual_removal_may_leave_is_checked():
    """Which contributors it leaves, the credits will tell: here the one with a single image may be left. Its
    design has no coalition of one contributor."""
    removal = "evaluation.counterfactual={{property: fid, game: credit, share: {}, random: 1}}"
    for seed in range(50):
        options = f"valuation={{coalitions: 2, design: shapley_kernel, stated_v0: {{fid: 1}}, seed: {seed}}}"
        base = (*FEW, OWN[0], NO_HELD_OUT, options, "properties=[fid]")
        config = configured(*base, removal.format(0.7))
        arguments = with_images(config, 8, 1, 8, 8)
        if min(item.mask(4).sum() for item in wanted_evaluations(*arguments)) > 1:
            break
    words = "found 1 image of the coalition of bob (counterfactual)"
    refused(ConfigError, lambda: check_own_images(*arguments), words)
    check_own_images(*with_images(configured(*base, removal.format(0.5)), 8, 1, 8, 8))
    check_own_images(*with_images(configured(*base, removal.format(0.7)), 8, 2, 8, 8))


def test_plan_refuses_it_before_anything_is_computed(tmp_path):
    images = image_folder(tmp_path / "images", list(NAMES), images=3)
    (images / "cy" / "1.png").unlink()
    (images / "cy" / "2.png").unlink()
    data = f"data={{source: folder, path: {str(images)!r}, resolution: 16, min_images: 1}}"
    for name, refuses in (("cy", True), ("ann", False)):
        config = in_folder(tmp_path / name, *FEW, data, "network=openmoji", *single(name))
        if refuses:
            with pytest.raises(ConfigError, match=r"found 1 image of the coalition of cy .*data\.min_images"):
                plan.run(config)
            assert nothing_computed(tmp_path / name)
        else:
            assert plan.run(config).work


EXPERTS = "removal={method: experts, fitting: {steps: 2, lr: 1e-3, batch: 8}, sets: 3}"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["valuation={coalitions: 20, interactions: true}"], "found 10 pairs"),
        (["valuation={coalitions: 22, interactions: true}"], None),
        (["valuation.coalitions=20"], None),
        ([stop(20, 40, interactions=True)], "found 10 pairs"),  # at the first look
        (["valuation={coalitions: 24, interactions: true}", EXPERTS], "found 12 pairs"),
        (["valuation={coalitions: 26, interactions: true}", EXPERTS], None),
    ],
)
def test_interactions_without_intervals_are_said_to_have_none(overrides, words, caplog):
    caplog.set_level("INFO")
    check_coalitions(configured("evaluation.held_out=0", "evaluation.counterfactual=null", *overrides), 6)
    said = [message for message in caplog.messages if "interactions" in message]
    assert len(said) == (words is not None)
    assert all(words in message and "valuation.coalitions" in message for message in said)
