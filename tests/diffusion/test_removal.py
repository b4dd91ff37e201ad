"""The table of removal methods."""

import copy
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from apportion.config import Fitting, Pruning, Removal
from apportion.diffusion import ddpm
from apportion.diffusion.images import Images
from apportion.diffusion.prune import prune
from apportion.diffusion.removal import REMOVALS, Case, remove
from apportion.diffusion.train import fit
from apportion.errors import DiffusionError

TOLD = Fitting(steps=2, lr=1e-3, batch=4)
NOBODY = Images(np.empty((0, 3, 8, 8), np.uint8), np.empty(0, np.bool_))


@pytest.fixture
def case(model, varied, cpu) -> Case:
    return Case(ddpm.build(model, 8, 42), model, 8, varied, TOLD, 7, cpu)


def test_every_method_of_the_configuration_is_in_the_table():
    assert set(get_args(Removal.model_fields["method"].annotation)) == set(REMOVALS)


@pytest.mark.parametrize("method", REMOVALS)
def test_nobodys_model_is_untrained_whatever_the_method(method, case, model):
    base = ddpm.dump(case.base)
    found = remove(method, replace(case, kept=NOBODY))
    assert ddpm.dump(found) == ddpm.dump(ddpm.build(model, 8, 7))
    assert ddpm.dump(case.base) == base
    assert not found.training
    assert ddpm.dump(remove(method, replace(case, kept=NOBODY, base=None))) == ddpm.dump(found)
    assert ddpm.dump(remove(method, replace(case, kept=NOBODY, seed=8))) != ddpm.dump(found)


def test_retraining_begins_anew(case, model, varied, cpu):
    expected = ddpm.dump(fit(ddpm.build(model, 8, 7), varied, TOLD, 7, cpu))
    assert ddpm.dump(remove("retrain", case)) == expected
    assert ddpm.dump(remove("retrain", replace(case, base=None))) == expected


def test_finetuning_goes_on_from_the_base(case, varied, cpu):
    expected = ddpm.dump(fit(copy.deepcopy(case.base), varied, TOLD, 7, cpu))
    assert ddpm.dump(remove("finetune", case)) == expected
    assert ddpm.dump(remove("retrain", case)) != expected


def test_sparsified_finetuning_keeps_the_widths_of_the_pruned_base(case):
    pruned = prune(case.base, Pruning(ratio=0.5, retune=TOLD), 0)
    before = [p.shape for p in pruned.parameters()]
    assert [p.shape for p in remove("sparsified_finetune", replace(case, base=pruned)).parameters()] == before


@pytest.mark.parametrize("method", ["finetune", "sparsified_finetune"])
def test_finetuning_without_a_base_is_refused(method, case):
    with pytest.raises(ValueError, match="found no base model, expected one to fine-tune"):
        remove(method, replace(case, base=None))


@pytest.mark.parametrize("method", REMOVALS)
def test_progress_is_told(method, case):
    ticks = []
    remove(method, replace(case, tick=ticks.append))
    assert sum(ticks) == TOLD.steps


@pytest.mark.parametrize(
    ("method", "option"), [("retrain", "train"), ("finetune", "removal.fitting"), ("sparsified_finetune", "removal.fitting")]
)
def test_a_coalitions_model_that_diverged_is_refused(method, option, case):
    with pytest.raises(DiffusionError, match=rf"not finite after 2 steps.* lower {option}\.lr"):
        remove(method, replace(case, fitting=TOLD.model_copy(update={"lr": 1e38})))
