"""The training loop against one written out by hand, and what it draws from a network that records its inputs."""

import copy
import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from apportion.config import Fitting
from apportion.diffusion import ddpm
from apportion.diffusion.compute import generator
from apportion.diffusion.images import Images
from apportion.diffusion.train import SCHEDULES, WEIGHTINGS, fit, one_cycle, p2, uniform
from apportion.errors import DiffusionError

ALPHAS = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


class Recorder(nn.Module):
    """The least that has a U-Net's signature; it keeps every input."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 3, padding=1)
        self.time = nn.Parameter(torch.tensor(0.1))
        draw = torch.Generator().manual_seed(0)
        for weights in self.mix.parameters():
            weights.data = scale * torch.randn(weights.shape, generator=draw)
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        self.seen.append((x.detach().clone(), t.clone()))
        return (self.mix(x) + self.time * (t / 1000)[:, None, None, None],)


def by_hand(net: nn.Module, images: Images, told: Fitting, seed: int, clip: float = 1.0) -> list[torch.Tensor]:
    """What `fit` should leave in the parameters: Adam, clipping, schedule and average in float64 without torch's optimisers."""
    net = copy.deepcopy(net).double()
    weights = list(net.parameters())
    m, v, average = ([torch.zeros_like(p) for p in weights] for _ in range(3))
    for step in range(told.steps):
        draw, noise = generator(seed, "batch", step), generator(seed, "noise", step)
        index = [int(u * len(images)) for u in torch.rand(told.batch, generator=draw)]
        mirror = [bool(u < 0.5) for u in torch.rand(told.batch, generator=draw)]
        x0 = np.stack(
            [images.pixels[i][..., ::-1] if f and images.flip[i] else images.pixels[i] for i, f in zip(index, mirror, strict=True)]
        )
        x0 = torch.from_numpy(x0).double() * 2 / 255 - 1
        half = torch.randint(0, 1000, (math.ceil(told.batch / 2),), generator=noise)
        t = torch.cat([half, 999 - half])[: told.batch]
        eps = torch.randn(x0.shape, generator=noise).double()
        a = ALPHAS[t].reshape(-1, 1, 1, 1)
        predicted = net(a.sqrt() * x0 + (1 - a).sqrt() * eps, t, return_dict=False)[0]
        weight = {"uniform": torch.ones(told.batch), "p2": 1 - ALPHAS[t]}[told.weighting]
        loss = sum(w * ((p - e) ** 2).mean() for w, p, e in zip(weight, predicted, eps, strict=True)) / told.batch
        gradients = torch.autograd.grad(loss, weights)
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        done = step / told.steps
        lr = (
            told.lr
            * {
                "constant": 1.0,
                "cosine": 0.5 + 0.5 * math.cos(math.pi * done),
                "one_cycle": 0.52 - 0.48 * math.cos(math.pi * done / 0.3)
                if done < 0.3
                else 0.5 + 0.5 * math.cos(math.pi * (done - 0.3) / 0.7),
            }[told.schedule]
        )
        decay = min((step + 1) / (step + 10), told.ema) if step else 0.0
        with torch.no_grad():
            for p, g, mean, square, mine in zip(weights, gradients, m, v, average, strict=True):
                g = g * min(1, clip / norm)
                mean.mul_(0.9).add_(0.1 * g)
                square.mul_(told.beta2).add_((1 - told.beta2) * g**2)
                up, down = mean / (1 - 0.9 ** (step + 1)), square / (1 - told.beta2 ** (step + 1))
                p -= lr * told.weight_decay * p + lr * up / (down.sqrt() + 1e-8)
                mine.mul_(decay).add_((1 - decay) * p)
    return average


def distance(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    return max(float((a.detach().double() - b.detach()).abs().max()) for a, b in zip(found, expected, strict=True))


def state(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


TOLD = [
    Fitting(steps=8, lr=0.01, batch=6),
    Fitting(steps=8, lr=0.01, batch=5, schedule="cosine", weighting="p2", ema=0.3, weight_decay=0.1, beta2=0.9),
    Fitting(steps=8, lr=0.01, batch=1, schedule="one_cycle", ema=0.0, weight_decay=0.01, beta2=0.99),
]


@pytest.mark.parametrize("told", TOLD)
def test_agrees_with_the_loop_written_out_by_hand(told, varied, cpu):
    net = Recorder()
    expected, unclipped = by_hand(net, varied, told, 3), by_hand(net, varied, told, 3, clip=math.inf)
    found = list(fit(net, varied, told, 3, cpu).parameters())
    assert distance(found, expected) < 2e-5
    assert distance(found, unclipped) > 1e-3  # so the gradients were clipped


def test_every_setting_is_seen_in_the_weights(varied, cpu):
    """The oracle above would not notice a setting that neither loop uses."""
    settings = [{}, {"lr": 0.02}, {"batch": 8}, {"schedule": "cosine"}, {"schedule": "one_cycle"}, {"ema": 0.1}, {"weight_decay": 0.1},
                {"beta2": 0.9}, {"weighting": "p2"}, {"steps": 9}]  # fmt: skip
    states = [state(fit(Recorder(), varied, TOLD[0].model_copy(update=changed), 3, cpu)) for changed in settings]
    assert len({tuple(s.tolist()) for s in states}) == len(settings)


def test_the_average_starts_again_with_every_fit(varied, cpu):
    """METHODS.md, section 1: the counter is at zero, so after one step nothing is left of the weights before, however slow the average."""
    slow, none = Fitting(steps=1, lr=0.01, batch=4, ema=0.9999), Fitting(steps=1, lr=0.01, batch=4, ema=0.0)
    fitted = fit(Recorder(), varied, Fitting(steps=30, lr=0.01, batch=4, ema=0.9999), 0, cpu)
    again = fit(copy.deepcopy(fitted), varied, slow, 1, cpu)
    assert torch.equal(state(again), state(fit(copy.deepcopy(fitted), varied, none, 1, cpu)))
    assert not torch.equal(state(again), state(fitted))


def test_fitting_twice_is_the_loop_by_hand_twice(varied, cpu):
    """Neither the average nor the optimiser nor the schedule remembers the first time."""
    told = TOLD[1]
    first = fit(Recorder(), varied, told, 0, cpu)
    expected = by_hand(first, varied, told, 1)
    assert distance(list(fit(first, varied, told, 1, cpu).parameters()), expected) < 2e-5


def seen(images: Images, cpu, seed: int = 0, steps: int = 10, batch: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images (steps, batch, 3, side, side) and timesteps (steps, batch) that the network was shown."""
    net = Recorder()
    fit(net, images, Fitting(steps=steps, lr=0.01, batch=batch), seed, cpu)
    return torch.stack([x for x, _ in net.seen]).double(), torch.stack([t for _, t in net.seen])


def noise_of(images: Images, cpu, **told: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise (eps, t) that was added to images of one grey level, and so are the same whichever were drawn."""
    x, t = seen(images, cpu, **told)
    a = ALPHAS[t][..., None, None, None]
    return (x - a.sqrt() * (images.pixels[0, 0, 0, 0] / 127.5 - 1)) / (1 - a).sqrt(), t


def test_noise_and_timesteps_are_keyed_by_seed_and_step_and_not_by_the_coalition(plain, cpu):
    (eps, t), (other, u) = noise_of(plain(0, 3), cpu), noise_of(plain(255, 7), cpu)
    assert torch.equal(t, u)
    torch.testing.assert_close(eps, other, atol=1e-4, rtol=0)
    assert eps.mean().abs() < 0.03
    assert eps.std() == pytest.approx(1, abs=0.03)
    assert len({tuple(step.tolist()) for step in t}) == len(t)
    between = torch.corrcoef(eps.flatten(1))
    assert (between - torch.eye(len(eps))).abs().max() < 0.2  # every step has noise of its own
    another, w = noise_of(plain(0, 3), cpu, seed=1)
    assert not torch.equal(t, w)
    assert (eps - another).abs().mean() > 0.5


def test_more_steps_begin_with_the_same_noise(plain, cpu):
    (eps, t), (other, u) = noise_of(plain(0, 3), cpu, steps=3), noise_of(plain(0, 3), cpu, steps=6)
    assert torch.equal(t, u[:3])
    assert torch.equal(eps, other[:3])


@pytest.mark.parametrize("batch", [6, 5, 1])
def test_timesteps_are_antithetic(batch, plain, cpu):
    _, t = seen(plain(0, 3), cpu, batch=batch)
    half = (batch + 1) // 2
    assert t.shape == (10, batch)
    assert (t[:, : batch - half] + t[:, half:] == 999).all()
    assert t.min() >= 0
    assert t.max() <= 999


def test_images_are_mirrored_only_where_they_may_be(plain, cpu):
    """Two images, each brighter to the left, of which only the first may be mirrored. About half of its appearances are."""
    pixels = np.zeros((2, 3, 8, 8), np.uint8)
    pixels[0, ..., :4], pixels[1, ..., :4] = 255, 200
    eps, _ = noise_of(plain(0, 1), cpu, steps=30)
    x, t = seen(Images(pixels, np.array([True, False])), cpu, steps=30)
    a = ALPHAS[t][..., None, None, None]
    x0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).flatten(0, 1)
    left, right = x0[..., :4].mean(dim=(1, 2, 3)), x0[..., 4:].mean(dim=(1, 2, 3))
    free, fixed = [(torch.maximum(left, right) - level).abs() < 0.05 for level in (1, 200 / 127.5 - 1)]
    assert (free | fixed).all()
    assert (left > right)[fixed].all()
    assert 0.3 < (left > right)[free].double().mean() < 0.7
    assert 0.3 < free.double().mean() < 0.7  # each image is drawn as often


def test_every_image_is_drawn_as_often(plain, cpu):
    """Twelve grey levels in 400 draws: each comes up about 33 times."""
    levels = np.arange(12, dtype=np.uint8) * 23
    images = Images(np.tile(levels[:, None, None, None], (1, 3, 8, 8)), np.ones(12, np.bool_))
    eps, _ = noise_of(plain(0, 1), cpu, steps=40, batch=10)
    x, t = seen(images, cpu, steps=40, batch=10)
    a = ALPHAS[t][..., None, None, None]
    level = (((x - (1 - a).sqrt() * eps) / a.sqrt()).mean(dim=(2, 3, 4)) + 1) * 127.5 / 23
    assert (level - level.round()).abs().max() < 0.05
    counts = torch.bincount(level.round().long().flatten(), minlength=12)
    assert len(counts) == 12
    assert counts.min() >= 15
    assert counts.max() <= 55


def test_two_runs_agree_bit_for_bit_and_leave_the_global_generator_alone(model, varied, cpu):
    told, ends = Fitting(steps=2, lr=1e-3, batch=4), []
    for run in range(2):
        torch.manual_seed(run)  # must not matter
        before = torch.get_rng_state()
        ends.append(ddpm.dump(fit(ddpm.build(model, 8, 0), varied, told, 7, cpu)))
        assert torch.equal(torch.get_rng_state(), before)
    assert ends[0] == ends[1]


def test_other_data_or_another_seed_give_other_weights(varied, cpu):
    told = Fitting(steps=2, lr=1e-3, batch=4)
    some = Images(varied.pixels[:6], varied.flip[:6])
    ends = [state(fit(Recorder(), images, told, seed, cpu)) for images, seed in [(varied, 0), (some, 0), (varied, 1)]]
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_the_model_given_is_trained_in_place_and_returned_for_evaluation(varied, cpu):
    net, ticks = Recorder(), []
    assert fit(net, varied, Fitting(steps=3, lr=1e-3, batch=4), 0, cpu, ticks.append) is net
    assert not net.training
    assert ticks == [1, 1, 1]


@pytest.mark.parametrize(("told", "option"), [({}, "train"), ({"option": "removal.pruning.retune"}, "removal.pruning.retune")])
def test_a_model_that_diverged_is_refused_with_the_option_to_change(told, option, varied, cpu):
    with pytest.raises(DiffusionError, match=rf"found 3 of 3 weight tensors not finite after 3 steps.* lower {option}\.lr"):
        fit(Recorder(), varied, Fitting(steps=3, lr=1e38, batch=4), 0, cpu, **told)


def test_training_teaches(plain, cpu):
    """White images only: a network that has seen them predicts their noise far better than before."""
    images, told = plain(255, 4), Fitting(steps=150, lr=0.02, batch=16, ema=0.9)

    def error(net: nn.Module) -> float:
        eps = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        t = torch.arange(0, 1000, 1000 / 64).long()
        a = ALPHAS[t].float()[:, None, None, None]
        with torch.no_grad():
            return float(((net(a.sqrt() + (1 - a).sqrt() * eps, t)[0] - eps) ** 2).mean())

    assert error(fit(Recorder(), images, told, 0, cpu)) < 0.2 * error(Recorder())


def test_p2_weighs_by_what_noise_there_is_and_uniform_does_not():
    snr = ALPHAS / (1 - ALPHAS)
    torch.testing.assert_close(p2(snr), 1 - ALPHAS)
    assert torch.equal(uniform(snr), torch.ones(1000, dtype=torch.float64))


def rates(schedule: Callable[[float], float], steps: int) -> torch.Tensor:
    return torch.tensor([schedule(step / steps) for step in range(steps)])


def torchs(kind: type, steps: int, **told: float) -> torch.Tensor:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, found = kind(optimiser, **told), []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    return torch.tensor(found)


def test_one_cycle_has_the_shape_of_torchs():
    """torch reaches the peak at step 0.3 N - 1 and the end at N - 1, ours at 0.3 N and N: one step later all along."""
    ours, theirs = rates(one_cycle, 1000), torchs(torch.optim.lr_scheduler.OneCycleLR, 1000, max_lr=1.0, total_steps=1000)
    assert abs(int(ours.argmax()) - int(theirs.argmax())) <= 1
    assert ours.max() == pytest.approx(1)
    assert ours[0] == pytest.approx(float(theirs[0]))
    assert (ours - theirs).abs().max() < 0.006
    peak = int(ours.argmax())
    assert (ours[:peak].diff() > 0).all()
    assert (ours[peak:].diff() < 0).all()
    assert 0 <= one_cycle(1.0) < 1e-9


def test_cosine_is_torchs_and_constant_is_constant():
    theirs = torchs(torch.optim.lr_scheduler.CosineAnnealingLR, 100, T_max=100)
    torch.testing.assert_close(rates(SCHEDULES["cosine"], 100), theirs, atol=1e-6, rtol=1e-5)
    assert (rates(SCHEDULES["constant"], 100) == 1).all()


def test_every_option_of_the_configuration_is_in_a_table():
    assert set(get_args(Fitting.model_fields["schedule"].annotation)) == set(SCHEDULES)
    assert set(get_args(Fitting.model_fields["weighting"].annotation)) == set(WEIGHTINGS)
