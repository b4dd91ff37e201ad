"""What is refused of a configuration beside its sections: names that do not exist or do not fit each other,
and too few coalitions."""

import json
import re

import pytest
from tiny import CONFIG, REMOVALS

from apportion.config.loading import load, parse
from apportion.errors import ConfigError, PropertyError
from apportion.planning.checks import check_coalitions, check_options
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
        (
            4,
            ["valuation={coalitions: 14, interactions: true}"],
            ["found 7 pairs", "expected at least 20", "valuation.interactions"],
        ),
        (6, [stop(20, 40, interactions=True)], ["found 10 pairs of coalitions", "valuation.interactions"]),
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
