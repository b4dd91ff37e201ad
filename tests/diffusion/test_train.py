"""The training loop compared with one written out by hand, and its random numbers, from a network that keeps
its inputs."""

import copy
import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from apportion.config.fitting import Fitting
from apportion.diffusion import train
from apportion.diffusion.compute import Compute, generator
from apportion.diffusion.ddpm import FAMILY
from apportion.diffusion.images import TrainingImages
from apportion.diffusion.train import SCHEDULES, WEIGHTINGS, one_cycle, p2, uniform
from apportion.errors import DiffusionError

ALPHAS = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


def fit(
    net: nn.Module, images: TrainingImages, fitting: Fitting, seed: int, cpu: Compute, *rest, **options
) -> nn.Module:
    return train.fit(FAMILY, net, images, fitting, seed, cpu, *rest, **options)


class Recorder(nn.Module):
    """A small network with the signature of a U-Net; it keeps every input."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 3, padding=1)
        self.time = nn.Parameter(torch.tensor(0.1))
        draw = torch.Generator().manual_seed(0)
        for weights in self.mix.parameters():
            weights.data = scale * torch.randn(weights.shape, generator=draw)
        self.inputs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        self.inputs.append((x.detach().clone(), t.clone()))
        return (self.mix(x) + self.time * (t / 1000)[:, None, None, None],)


def by_hand(
    net: nn.Module, images: TrainingImages, fitting: Fitting, seed: int, clip: float = 1.0
) -> list[torch.Tensor]:
    """What `fit` should leave in the parameters: Adam, clipping, schedule and average in float64, without the
    optimisers of torch."""
    net = copy.deepcopy(net).double()
    weights = list(net.parameters())
    m, v, average = ([torch.zeros_like(p) for p in weights] for _ in range(3))
    for step in range(fitting.steps):
        draw, noise = generator(seed, "batch", step), generator(seed, "noise", step)
        index = [int(u * len(images)) for u in torch.rand(fitting.batch, generator=draw)]
        mirror = [bool(u < 0.5) for u in torch.rand(fitting.batch, generator=draw)]
        chosen = []
        for i, mirrored in zip(index, mirror, strict=True):
            pixels = images.pixels[i]
            chosen.append(pixels[..., ::-1] if mirrored and images.flip[i] else pixels)
        x0 = torch.from_numpy(np.stack(chosen)).double() * 2 / 255 - 1
        half = torch.randint(0, 1000, (math.ceil(fitting.batch / 2),), generator=noise)
        t = torch.cat([half, 999 - half])[: fitting.batch]
        eps = torch.randn(x0.shape, generator=noise).double()
        a = ALPHAS[t].reshape(-1, 1, 1, 1)
        predicted = net(a.sqrt() * x0 + (1 - a).sqrt() * eps, t, return_dict=False)[0]
        weight = {"uniform": torch.ones(fitting.batch), "p2": 1 - ALPHAS[t]}[fitting.weighting]
        errors = [((p - e) ** 2).mean() for p, e in zip(predicted, eps, strict=True)]
        loss = sum(w * error for w, error in zip(weight, errors, strict=True)) / fitting.batch
        gradients = torch.autograd.grad(loss, weights)
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        lr = fitting.lr * rate(fitting.schedule, step / fitting.steps)
        decay = min((step + 1) / (step + 10), fitting.ema) if step else 0.0
        with torch.no_grad():
            for p, g, mean, square, mine in zip(weights, gradients, m, v, average, strict=True):
                g = g * min(1, clip / norm)
                mean.mul_(0.9).add_(0.1 * g)
                square.mul_(fitting.beta2).add_((1 - fitting.beta2) * g**2)
                up = mean / (1 - 0.9 ** (step + 1))
                down = square / (1 - fitting.beta2 ** (step + 1))
                p -= lr * fitting.weight_decay * p + lr * up / (down.sqrt() + 1e-8)
                mine.mul_(decay).add_((1 - decay) * p)
    return average


def rate(schedule: str, done: float) -> float:
    """The fraction of the learning rate, written out."""
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 + 0.5 * math.cos(math.pi * done)
    if done < 0.3:
        return 0.52 - 0.48 * math.cos(math.pi * done / 0.3)
    return 0.5 + 0.5 * math.cos(math.pi * (done - 0.3) / 0.7)


def distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """The largest difference of two lists of tensors."""
    pairs = zip(one, other, strict=True)
    return max(float((a.detach().double() - b.detach()).abs().max()) for a, b in pairs)


def state(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


FITTINGS = [
    Fitting(steps=8, lr=0.01, batch=6),
    Fitting(
        steps=8, lr=0.01, batch=5, schedule="cosine", weighting="p2", ema=0.3, weight_decay=0.1, beta2=0.9
    ),
    Fitting(steps=8, lr=0.01, batch=1, schedule="one_cycle", ema=0.0, weight_decay=0.01, beta2=0.99),
]


@pytest.mark.parametrize("fitting", FITTINGS)
def test_agrees_with_the_loop_written_out_by_hand(fitting, varied, cpu):
    net = Recorder()
    expected = by_hand(net, varied, fitting, 3)
    unclipped = by_hand(net, varied, fitting, 3, clip=math.inf)
    weights = list(fit(net, varied, fitting, 3, cpu).parameters())
    assert distance(weights, expected) < 2e-5
    assert distance(weights, unclipped) > 1e-3  # so the gradients were clipped


def test_every_option_changes_the_weights(varied, cpu):
    """The loop by hand would not notice an option that neither loop uses."""
    changes = [
        {},
        {"lr": 0.02},
        {"batch": 8},
        {"schedule": "cosine"},
        {"schedule": "one_cycle"},
        {"ema": 0.1},
        {"weight_decay": 0.1},
        {"beta2": 0.9},
        {"weighting": "p2"},
        {"steps": 9},
    ]
    assert {key for change in changes for key in change} == set(Fitting.model_fields)
    fittings = [FITTINGS[0].model_copy(update=change) for change in changes]
    states = [state(fit(Recorder(), varied, fitting, 3, cpu)) for fitting in fittings]
    assert len({tuple(weights.tolist()) for weights in states}) == len(changes)


def test_the_average_starts_again_with_every_fit(varied, cpu):
    """docs/methods.md, "Games": the step counter starts at zero, so after one step nothing remains of the
    weights before, however slow the average is."""
    slow = Fitting(steps=1, lr=0.01, batch=4, ema=0.9999)
    none = Fitting(steps=1, lr=0.01, batch=4, ema=0.0)
    fitted = fit(Recorder(), varied, Fitting(steps=30, lr=0.01, batch=4, ema=0.9999), 0, cpu)
    again = fit(copy.deepcopy(fitted), varied, slow, 1, cpu)
    assert torch.equal(state(again), state(fit(copy.deepcopy(fitted), varied, none, 1, cpu)))
    assert not torch.equal(state(again), state(fitted))


def test_fitting_twice_is_the_loop_by_hand_twice(varied, cpu):
    """Average, optimiser and schedule start again."""
    fitting = FITTINGS[1]
    first = fit(Recorder(), varied, fitting, 0, cpu)
    expected = by_hand(first, varied, fitting, 1)
    assert distance(list(fit(first, varied, fitting, 1, cpu).parameters()), expected) < 2e-5


def inputs(
    images: TrainingImages, cpu: Compute, seed: int = 0, steps: int = 10, batch: int = 6
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images (steps, batch, 3, side, side) and timesteps (steps, batch) that the network was given."""
    net = Recorder()
    fit(net, images, Fitting(steps=steps, lr=0.01, batch=batch), seed, cpu)
    return torch.stack([x for x, _ in net.inputs]).double(), torch.stack([t for _, t in net.inputs])


def noise_of(images: TrainingImages, cpu: Compute, **options: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise that was added to images of one grey level, whichever of them were drawn, and the
    timesteps."""
    x, t = inputs(images, cpu, **options)
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
    _, t = inputs(plain(0, 3), cpu, batch=batch)
    half = (batch + 1) // 2
    assert t.shape == (10, batch)
    assert (t[:, : batch - half] + t[:, half:] == 999).all()
    assert t.min() >= 0
    assert t.max() <= 999


def test_images_are_mirrored_only_where_they_may_be(plain, cpu):
    """Two images, both brighter on the left, of which only the first may be mirrored: about half of the
    times."""
    pixels = np.zeros((2, 3, 8, 8), np.uint8)
    pixels[0, ..., :4], pixels[1, ..., :4] = 255, 200
    eps, _ = noise_of(plain(0, 1), cpu, steps=30)
    x, t = inputs(TrainingImages(pixels, np.array([True, False])), cpu, steps=30)
    a = ALPHAS[t][..., None, None, None]
    x0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).flatten(0, 1)
    left, right = x0[..., :4].mean(dim=(1, 2, 3)), x0[..., 4:].mean(dim=(1, 2, 3))
    free, fixed = [(torch.maximum(left, right) - level).abs() < 0.05 for level in (1, 200 / 127.5 - 1)]
    assert (free | fixed).all()
    assert (left > right)[fixed].all()
    assert 0.3 < (left > right)[free].double().mean() < 0.7
    assert 0.3 < free.double().mean() < 0.7  # both images are drawn equally often


def test_all_images_are_drawn_equally_often(plain, cpu):
    """Twelve grey levels in 400 draws: each is drawn about 33 times."""
    levels = np.arange(12, dtype=np.uint8) * 23
    images = TrainingImages(np.tile(levels[:, None, None, None], (1, 3, 8, 8)), np.ones(12, np.bool_))
    eps, _ = noise_of(plain(0, 1), cpu, steps=40, batch=10)
    x, t = inputs(images, cpu, steps=40, batch=10)
    a = ALPHAS[t][..., None, None, None]
    level = (((x - (1 - a).sqrt() * eps) / a.sqrt()).mean(dim=(2, 3, 4)) + 1) * 127.5 / 23
    assert (level - level.round()).abs().max() < 0.05
    counts = torch.bincount(level.round().long().flatten(), minlength=12)
    assert len(counts) == 12
    assert counts.min() >= 15
    assert counts.max() <= 55


def test_two_runs_agree_bit_for_bit_and_leave_the_global_generator_alone(model, varied, cpu):
    fitting, fitted = Fitting(steps=2, lr=1e-3, batch=4), []
    for run in range(2):
        torch.manual_seed(run)  # must not matter
        before = torch.get_rng_state()
        fitted.append(FAMILY.dump(fit(FAMILY.build(model, 8, 0), varied, fitting, 7, cpu)))
        assert torch.equal(torch.get_rng_state(), before)
    assert fitted[0] == fitted[1]


def test_other_data_or_another_seed_give_other_weights(varied, cpu):
    fitting = Fitting(steps=2, lr=1e-3, batch=4)
    some = TrainingImages(varied.pixels[:6], varied.flip[:6])
    first, other_data, other_seed = (
        state(fit(Recorder(), images, fitting, seed, cpu))
        for images, seed in [(varied, 0), (some, 0), (varied, 1)]
    )
    assert not torch.equal(first, other_data)
    assert not torch.equal(first, other_seed)


def test_the_model_given_is_trained_in_place_and_returned_for_evaluation(varied, cpu):
    net, ticks = Recorder(), []
    assert fit(net, varied, Fitting(steps=3, lr=1e-3, batch=4), 0, cpu, ticks.append) is net
    assert not net.training
    assert ticks == [1, 1, 1]


@pytest.mark.parametrize(
    ("options", "named"), [({}, "train"), ({"option": "removal.pruning.retune"}, "removal.pruning.retune")]
)
def test_a_model_that_diverged_is_refused_with_the_option_to_change(options, named, varied, cpu):
    message = rf"found 3 of 3 weight tensors not finite after 3 steps.* lower {named}\.lr"
    with pytest.raises(DiffusionError, match=message):
        fit(Recorder(), varied, Fitting(steps=3, lr=1e38, batch=4), 0, cpu, **options)


def test_training_lowers_the_error(plain, cpu):
    """All images are white: a network that was trained on them predicts their noise far better than
    before."""
    images = plain(255, 4)
    fitting = Fitting(steps=150, lr=0.02, batch=16, ema=0.9)

    def error(net: nn.Module) -> float:
        eps = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        t = torch.arange(0, 1000, 1000 / 64).long()
        a = ALPHAS[t].float()[:, None, None, None]
        with torch.no_grad():
            return float(((net(a.sqrt() + (1 - a).sqrt() * eps, t)[0] - eps) ** 2).mean())

    assert error(fit(Recorder(), images, fitting, 0, cpu)) < 0.2 * error(Recorder())


def test_p2_weighs_by_the_share_of_noise_and_uniform_does_not():
    snr = ALPHAS / (1 - ALPHAS)
    torch.testing.assert_close(p2(snr), 1 - ALPHAS)
    assert torch.equal(uniform(snr), torch.ones(1000, dtype=torch.float64))


def rates(schedule: Callable[[float], float], steps: int) -> torch.Tensor:
    return torch.tensor([schedule(step / steps) for step in range(steps)])


def rates_of_torch(kind: type, steps: int, **options: float) -> torch.Tensor:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = kind(optimiser, **options)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    return torch.tensor(rates)


def test_one_cycle_has_the_shape_of_torchs():
    """The schedule of torch has its peak at step 0.3 N - 1 and its end at N - 1; ours has them at 0.3 N and
    N, so it is one step later throughout."""
    ours = rates(one_cycle, 1000)
    theirs = rates_of_torch(torch.optim.lr_scheduler.OneCycleLR, 1000, max_lr=1.0, total_steps=1000)
    assert abs(int(ours.argmax()) - int(theirs.argmax())) <= 1
    assert ours.max() == pytest.approx(1)
    assert ours[0] == pytest.approx(float(theirs[0]))
    assert (ours - theirs).abs().max() < 0.006
    peak = int(ours.argmax())
    assert (ours[:peak].diff() > 0).all()
    assert (ours[peak:].diff() < 0).all()
    assert 0 <= one_cycle(1.0) < 1e-9


def test_cosine_is_torchs_and_constant_is_constant():
    theirs = rates_of_torch(torch.optim.lr_scheduler.CosineAnnealingLR, 100, T_max=100)
    torch.testing.assert_close(rates(SCHEDULES["cosine"], 100), theirs, atol=1e-6, rtol=1e-5)
    assert (rates(SCHEDULES["constant"], 100) == 1).all()


def test_every_option_of_the_configuration_is_in_a_table():
    assert set(get_args(Fitting.model_fields["schedule"].annotation)) == set(SCHEDULES)
    assert set(get_args(Fitting.model_fields["weighting"].annotation)) == set(WEIGHTINGS)
