"""The table of model families, and the training error of the family `ddpm`."""

import copy
import math
from importlib import import_module

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from apportion.config.family import FAMILIES, Model
from apportion.config.fitting import Fitting
from apportion.diffusion import train
from apportion.diffusion.ddpm import FAMILY, Ddpm
from apportion.diffusion.family import Family, family_of, parameter_count

ALPHAS = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_row_of_the_table_is_a_module_with_a_family(name):
    options = TypeAdapter(Model).validate_python({"family": name})
    family = import_module(FAMILIES[name]).FAMILY
    assert isinstance(family, Family)
    assert family_of(options) is family
    assert family.timesteps > 1


def test_signal_to_noise_is_that_of_the_linear_schedule():
    t = torch.tensor([0, 1, 500, 999])
    expected = ALPHAS[t] / (1 - ALPHAS[t])
    torch.testing.assert_close(FAMILY.signal_to_noise(t).double(), expected, rtol=1e-3, atol=0)


def test_parameters_are_counted():
    assert parameter_count(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1, bias=False))) == 3 * 4 + 4 + 4


class Net(nn.Module):
    """A small network with the signature of a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 3, padding=1)
        draw = torch.Generator().manual_seed(0)
        for weights in self.mix.parameters():
            weights.data = torch.randn(weights.shape, generator=draw)

    def forward(self, x: torch.Tensor, t: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        return (self.mix(x) + (t / 1000)[:, None, None, None].to(x.dtype),)


class Recording(Ddpm):
    """The family `ddpm`; it keeps what its errors were computed from, and the errors."""

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def error(self, model, batch, t, eps, compute):
        errors = super().error(model, batch, t, eps, compute)
        self.calls.append((batch.x0, t, eps, errors.detach()))
        return errors


@pytest.mark.parametrize("weighting", ["uniform", "p2"])
@pytest.mark.parametrize("batch", [6, 5])
def test_the_loop_minimises_the_weighted_mean_of_the_errors(weighting, batch, varied, cpu, monkeypatch):
    """The loss as a formula in float64: the mean over examples of weight × squared error of the predicted
    noise, averaged over channels and pixels. Its gradient is the one that training uses."""
    monkeypatch.setattr(train, "CLIP", math.inf)
    start, family = Net(), Recording()
    fitting = Fitting(steps=1, lr=1e-3, batch=batch, weighting=weighting)
    net = train.fit(family, copy.deepcopy(start), varied, fitting, 0, cpu)
    ((x0, t, eps, errors),) = family.calls
    assert errors.shape == (batch,)
    assert errors.dtype == torch.float32

    exact = start.double()
    x0, eps = x0.double(), eps.double()
    squared = []
    for i in range(batch):
        a = ALPHAS[t[i]]
        noisy = a.sqrt() * x0[i] + (1 - a).sqrt() * eps[i]
        squared.append(((exact(noisy[None], t[i : i + 1])[0][0] - eps[i]) ** 2).mean())
    expected = torch.stack(squared)
    torch.testing.assert_close(errors.double(), expected.detach(), rtol=1e-4, atol=1e-6)

    weights = 1 - ALPHAS[t] if weighting == "p2" else torch.ones(batch)
    loss = (weights * expected).sum() / batch
    gradients = torch.autograd.grad(loss, list(exact.parameters()))
    for weight, gradient in zip(net.parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.grad.double(), gradient, rtol=1e-3, atol=1e-5)
