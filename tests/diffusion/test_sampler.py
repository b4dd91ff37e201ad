"""Samplers of several models: the mean of predictions, and the mean of weights."""

import copy
import weakref

import pytest
import torch
from torch import nn

from apportion.config.family import DdpmOptions
from apportion.config.fitting import Fitting
from apportion.config.removal import Pruning
from apportion.diffusion.ddpm import FAMILY
from apportion.diffusion.sampler import Sampler, averaged

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def linear(seed: int, width: int = 2) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(3, width)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def assert_weighted_mean(mean: nn.Module, models: list[nn.Module], weights: list[float]) -> None:
    states = [model.state_dict() for model in models]
    assert mean.state_dict().keys() == states[0].keys()
    for name, found in mean.state_dict().items():
        terms = [weight * state[name].double() for state, weight in zip(states, weights, strict=True)]
        torch.testing.assert_close(found.double(), sum(terms), rtol=0, atol=1e-6)


def test_one_model_predicts_alone_whatever_its_weight():
    model = linear(0)
    assert torch.equal(Sampler((model,), (0.25,)).predict(lambda net: net(X)), model(X))


def test_several_models_predict_the_weighted_mean():
    models, weights = tuple(linear(seed) for seed in range(3)), (0.5, 0.3, 0.2)
    expected = sum(weight * model(X).double() for model, weight in zip(models, weights, strict=True))
    prediction = Sampler(models, weights).predict(lambda net: net(X))
    torch.testing.assert_close(prediction.double(), expected, rtol=1e-6, atol=1e-6)
    reversed_weights = Sampler(models, weights[::-1]).predict(lambda net: net(X))
    assert not torch.allclose(reversed_weights, prediction, atol=1e-3)


def test_models_without_a_weight_are_refused():
    with pytest.raises(ValueError, match="zip"):
        Sampler((linear(0), linear(1))).predict(lambda net: net(X))


def test_the_average_of_one_model_is_the_model():
    model = linear(0)
    assert averaged([model], [1.0]) is model


def test_the_average_of_two_models_is_the_exact_weighted_mean_and_changes_neither():
    one, other = linear(0), linear(1)
    before = copy.deepcopy(one), copy.deepcopy(other)
    assert_weighted_mean(averaged([one, other], [0.25, 0.75]), [one, other], [0.25, 0.75])
    assert same_weights(one, before[0])
    assert same_weights(other, before[1])


def test_weights_may_be_negative():
    """The mean of experts is extrapolated from the model that they start from."""
    models, weights = [linear(seed) for seed in range(3)], [0.9, 0.6, -0.5]
    assert_weighted_mean(averaged(models, weights), models, weights)


def test_one_model_with_another_weight_is_scaled():
    model = linear(0)
    assert_weighted_mean(averaged([model], [0.5]), [model], [0.5])


def test_models_are_read_one_at_a_time():
    """So no more than one of them needs memory beside the first and the mean."""
    alive = []

    def models():
        for seed in range(4):
            model = linear(seed)
            alive.append(weakref.ref(model))
            yield model
            del model
            assert sum(ref() is not None for ref in alive) <= 2

    mean = averaged(models(), [0.1, 0.2, 0.3, 0.4])
    assert_weighted_mean(mean, [linear(seed) for seed in range(4)], [0.1, 0.2, 0.3, 0.4])
    assert len(alive) == 4


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.2, 0.3, 0.1, 0.4]])
def test_as_many_weights_as_models(weights):
    with pytest.raises(ValueError, match="zip"):
        averaged([linear(seed) for seed in range(3)], weights)


def test_the_average_of_equal_models_is_the_model():
    model = FAMILY.build(DdpmOptions(channels=[16, 32], attention=[False, True], norm_groups=8), 8, 0)
    mean = averaged([model, copy.deepcopy(model)], [0.5, 0.5])
    assert FAMILY.dump(mean) == FAMILY.dump(model)


def test_numbers_that_are_no_weights_are_those_of_the_first_model():
    """Batch norms count batches in an integer."""
    one, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    other.train()(X)
    mean = averaged([one, other], [0.5, 0.5])
    assert int(mean.num_batches_tracked) == 0
    assert torch.equal(mean.running_mean, 0.5 * other.running_mean)


def test_models_of_different_architectures_have_no_average(model):
    with pytest.raises(ValueError, match="found models of different architectures"):
        averaged([linear(0), linear(1, width=3)], [0.5, 0.5])
    whole = FAMILY.build(model, 8, 0)
    pruned = FAMILY.prune(copy.deepcopy(whole), Pruning(ratio=0.5, retune=Fitting(steps=1, lr=1.0)), 0)
    with pytest.raises(ValueError, match="found models of different architectures"):
        averaged([whole, whole, pruned], [0.4, 0.3, 0.3])


def test_models_of_different_types_of_numbers_have_no_average():
    """Half precision would lose what distinguishes one model from another, without notice."""
    with pytest.raises(ValueError, match="or types of numbers, expected one architecture and type"):
        averaged([linear(0), linear(1).half()], [0.5, 0.5])
    with pytest.raises(ValueError, match="or types of numbers, expected one architecture and type"):
        averaged([linear(0).bfloat16(), linear(1), linear(2)], [0.4, 0.3, 0.3])
    mean = averaged([linear(0).double(), linear(1).double()], [0.5, 0.5])
    assert mean.weight.dtype == torch.float64
