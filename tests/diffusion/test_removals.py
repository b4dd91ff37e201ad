"""The table of removal methods."""

import copy
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from apportion.config.family import DdpmOptions
from apportion.config.fitting import Fitting
from apportion.config.removal import Experts, Finetune, Pruning, Removal, Retrain, SparsifiedFinetune
from apportion.diffusion.ddpm import FAMILY
from apportion.diffusion.images import TrainingImages
from apportion.diffusion.removal import REMOVALS, Case, remove
from apportion.diffusion.train import fit
from apportion.errors import DiffusionError
from apportion.records import SCHEMA, Recipe

TRAIN = Fitting(steps=3, lr=2e-3, batch=4)
FITTING = Fitting(steps=2, lr=1e-3, batch=4)
PRUNING = Pruning(ratio=0.5, retune=FITTING)
EMPTY = TrainingImages(np.empty((0, 3, 8, 8), np.uint8), np.empty(0, np.bool_))


def recipe(
    method: str, model: DdpmOptions, fitting: Fitting = FITTING, train: Fitting | None = TRAIN
) -> Recipe:
    options = {
        "retrain": lambda: Retrain(method="retrain"),
        "finetune": lambda: Finetune(method="finetune", fitting=fitting),
        "sparsified_finetune": lambda: SparsifiedFinetune(
            method="sparsified_finetune", fitting=fitting, pruning=PRUNING
        ),
        "experts": lambda: Experts(method="experts", fitting=fitting),
    }
    return Recipe(
        version=SCHEMA,
        model=model,
        resolution=8,
        precision="fp32",
        removal=options[method](),
        train=train,
        start=None,
    )


@pytest.fixture
def case(model, varied, cpu) -> Case:
    """Fine-tuning of a model with random weights of another seed."""
    return Case(recipe("finetune", model), FAMILY.build(model, 8, 42), varied, 7, cpu)


def removed(method: str, case: Case) -> bytes:
    """The weights of a case by a removal method."""
    return FAMILY.dump(remove(replace(case, recipe=recipe(method, case.recipe.model))))


def test_every_method_of_the_configuration_that_has_models_is_in_the_table():
    classes = get_args(get_args(Removal)[0])
    generates = {
        get_args(options.model_fields["method"].annotation)[0]: options.generates for options in classes
    }
    assert {method for method, models in generates.items() if models} == set(REMOVALS)
    assert {method for method, models in generates.items() if not models} == {"own_images"}


@pytest.mark.parametrize("method", REMOVALS)
def test_the_model_of_the_empty_coalition_is_untrained_whatever_the_method(method, case, model):
    start = FAMILY.dump(case.start)
    empty = replace(case, recipe=recipe(method, model), kept=EMPTY)
    untrained = remove(empty)
    assert FAMILY.dump(untrained) == FAMILY.dump(FAMILY.build(model, 8, 7))
    assert FAMILY.dump(case.start) == start
    assert not untrained.training
    assert removed(method, replace(empty, start=None)) == FAMILY.dump(untrained)
    assert removed(method, replace(empty, seed=8)) != FAMILY.dump(untrained)


def test_retraining_starts_from_random_weights(case, model, varied, cpu):
    expected = FAMILY.dump(fit(FAMILY, FAMILY.build(model, 8, 7), varied, TRAIN, 7, cpu))
    assert removed("retrain", case) == expected
    assert removed("retrain", replace(case, start=None)) == expected


def test_finetuning_continues_from_the_start(case, varied, cpu):
    expected = FAMILY.dump(fit(FAMILY, copy.deepcopy(case.start), varied, FITTING, 7, cpu))
    assert removed("finetune", case) == expected
    assert removed("retrain", case) != expected


def test_an_expert_is_fine_tuned_from_the_start(case):
    """With the same images and seed it is the fine-tuned model. From a pruned model it keeps the widths."""
    fresh = [replace(case, start=copy.deepcopy(case.start)) for _ in range(2)]
    assert removed("experts", fresh[0]) == removed("finetune", fresh[1])
    pruned = FAMILY.prune(copy.deepcopy(case.start), PRUNING, 0)
    shapes = [p.shape for p in pruned.parameters()]
    expert = remove(replace(case, recipe=recipe("experts", case.recipe.model), start=pruned))
    assert [p.shape for p in expert.parameters()] == shapes


def test_sparsified_finetuning_keeps_the_widths_of_the_pruned_model(case, model):
    pruned = FAMILY.prune(case.start, PRUNING, 0)
    shapes = [p.shape for p in pruned.parameters()]
    assert shapes != [p.shape for p in case.untrained().parameters()]
    finetuned = remove(replace(case, recipe=recipe("sparsified_finetune", model), start=pruned))
    assert [p.shape for p in finetuned.parameters()] == shapes


@pytest.mark.parametrize("method", ["finetune", "sparsified_finetune", "experts"])
def test_finetuning_without_a_start_is_refused(method, case, model):
    with pytest.raises(ValueError, match="found no model or no options to fine-tune with"):
        remove(replace(case, recipe=recipe(method, model), start=None))


def test_retraining_without_training_options_is_refused(case, model):
    without = recipe("retrain", model, train=None)
    with pytest.raises(ValueError, match="found no training options in the recipe"):
        remove(replace(case, recipe=without))


@pytest.mark.parametrize(
    ("method", "steps"), [("retrain", 3), ("finetune", 2), ("sparsified_finetune", 2), ("experts", 2)]
)
def test_progress_counts_steps(method, steps, case, model):
    ticks = []
    remove(replace(case, recipe=recipe(method, model), tick=ticks.append))
    assert sum(ticks) == steps == recipe(method, model).steps


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("retrain", "train"),
        ("finetune", "removal.fitting"),
        ("sparsified_finetune", "removal.fitting"),
        ("experts", "removal.fitting"),
    ],
)
def test_a_model_that_diverged_is_refused(method, option, case, model):
    fast = FITTING.model_copy(update={"lr": 1e38})
    diverging = recipe(method, model, fitting=fast, train=fast)
    with pytest.raises(DiffusionError, match=rf"not finite after 2 steps.* lower {option}\.lr"):
        remove(replace(case, recipe=diverging))
