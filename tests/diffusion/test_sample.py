"""DDIM compared with its formula in float64, and what each image depends on."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from apportion.config.sampling import Sampling
from apportion.diffusion.compute import Compute
from apportion.diffusion.ddpm import FAMILY
from apportion.diffusion.ddpm.sample import initial_noise
from apportion.diffusion.sampler import Sampler
from apportion.errors import DiffusionError

ALPHAS = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


class Toy(nn.Module):
    """A smooth function of image and timestep in place of a U-Net; it keeps all timesteps and its first
    input."""

    def __init__(self, gain: float = 0.9, side: int = 4) -> None:
        super().__init__()
        self.config = SimpleNamespace(sample_size=side, in_channels=3)
        self.gain = gain
        self.times: list[int] = []
        self.first: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, t: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        self.times.append(int(t))
        self.first = x.clone() if self.first is None else self.first
        return (self.gain * torch.tanh(x) + 0.1 * torch.sin(t / 100),)


def ddim(net: Toy, x: torch.Tensor, steps: int) -> torch.Tensor:
    """Song et al. 2021, eq. 12 with eta = 0 at evenly spaced timesteps that begin at 999; x0 is kept in [-1,
    1]."""
    times = [1000 - 1 - k * (1000 // steps) for k in range(steps)]
    for t, before in zip(times, [*times[1:], None], strict=True):
        eps = net(x, torch.tensor(t))[0]
        a, b = ALPHAS[t], torch.ones(()) if before is None else ALPHAS[before]
        x0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
        x = b.sqrt() * x0 + (1 - b).sqrt() * eps
    return x


def dpm_solver(net: Toy, x: torch.Tensor, steps: int) -> torch.Tensor:
    """DPM-Solver++(2M), algorithm 2 of Lu et al. 2022 (arXiv 2211.01095): x0 is kept in [-1, 1]; the last
    step goes to an image without noise."""
    times = [round(1000 - k * 1000 / steps) - 1 for k in range(steps)]
    alpha, sigma = ALPHAS.sqrt(), (1 - ALPHAS).sqrt()
    lam = torch.log(alpha / sigma)
    before, h_before = None, None
    for t, after in zip(times, [*times[1:], None], strict=True):
        x0 = ((x - sigma[t] * net(x, torch.tensor(t))[0]) / alpha[t]).clamp(-1, 1)
        if after is None:
            return x0
        h, mean = lam[after] - lam[t], x0
        if before is not None:
            r = h_before / h
            mean = (1 + 1 / (2 * r)) * x0 - before / (2 * r)
        x = sigma[after] / sigma[t] * x - alpha[after] * torch.expm1(-h) * mean
        before, h_before = x0, h
    return x


def as_bytes(x: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] on the scale of bytes, not rounded."""
    return ((x + 1) * 127.5).clamp(0, 255)


def sampled(net: nn.Module, sampling: Sampling, seed: int, compute: Compute, tick=None) -> torch.Tensor:
    """Images of one model."""
    return FAMILY.sample(Sampler((net,)), sampling, seed, compute, tick)


@pytest.fixture(scope="module")
def unet(model):
    return FAMILY.build(model, 8, 0)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("gain", [0.9, 0.3])
@pytest.mark.parametrize("formula", [ddim, dpm_solver])
def test_agrees_with_the_formula(formula, steps, gain, cpu):
    net = Toy(gain)
    expected = as_bytes(formula(net, initial_noise(4, 3, 3, torch.arange(64)).double(), steps))
    images = sampled(net, Sampling(images=64, steps=steps, sampler=formula.__name__), 3, cpu)
    assert (images - expected).abs().max() < 0.51  # the nearest byte, up to rounding of float32
    assert images.double().std() > 2  # and not all the same


def test_several_models_are_sampled_by_the_mean_of_their_predictions(cpu):
    gains, weights = (0.9, 0.3, 0.1), (0.5, 0.3, 0.2)
    sampler = Sampler(tuple(map(Toy, gains)), weights)
    mean = Toy(sum(gain * weight for gain, weight in zip(gains, weights, strict=True)))  # linear in the gain
    expected = as_bytes(ddim(mean, initial_noise(4, 3, 3, torch.arange(32)).double(), 5))
    images = FAMILY.sample(sampler, Sampling(images=32, steps=5), 3, cpu)
    assert (images - expected).abs().max() < 0.51
    assert all(len(net.times) == 5 for net in sampler.models)
    first = sampled(Toy(gains[0]), Sampling(images=32, steps=5), 3, cpu)
    assert (images.double() - first.double()).abs().mean() > 2


def test_conditions_are_refused(cpu):
    sampler = Sampler((Toy(),), conditions=("cat", "dog"))
    with pytest.raises(DiffusionError, match=r"found 2 conditions .* expected none: .* ddpm .*model\.family"):
        FAMILY.sample(sampler, Sampling(images=32, steps=2), 0, cpu)


@pytest.mark.parametrize("steps", [1, 4, 20, 125, 1000])
def test_takes_the_requested_number_of_steps_down_from_pure_noise(steps, cpu):
    net = Toy()
    sampled(net, Sampling(images=32, steps=steps), 0, cpu)
    assert len(net.times) == steps
    assert net.times[0] == 999
    assert net.times == sorted(set(net.times), reverse=True)
    assert net.times[-1] >= 0


def test_initial_noise_is_keyed_by_seed_and_number(unet):
    whole = initial_noise(8, 3, 5, torch.arange(40))
    assert whole.shape == (40, 3, 8, 8)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(initial_noise(8, 3, 5, torch.tensor([30, 2])), whole[[30, 2]])
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.isclose(initial_noise(8, 3, 6, torch.arange(40)), whole).any(dim=(1, 2, 3)).all()
    assert whole.mean().abs() < 0.05
    assert whole.std() == pytest.approx(1, abs=0.03)
    assert (torch.corrcoef(whole.flatten(1)) - torch.eye(40)).abs().max() < 0.35


def test_every_model_starts_from_the_same_noise(cpu):
    one, other = Toy(0.9), Toy(0.2)
    images = [sampled(net, Sampling(images=32, steps=2), 4, cpu) for net in (one, other)]
    assert torch.equal(one.first, other.first)
    assert torch.equal(one.first, initial_noise(4, 3, 4, torch.arange(32)))
    assert not torch.equal(*images)


def nearly(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal up to rounding: a batch of another size is summed in another order, which may change a few bytes
    by one."""
    difference = (a.int() - b.int()).abs()
    return bool(difference.max() <= 1 and (difference > 0).float().mean() < 0.02)


@pytest.mark.parametrize("batch", [1, 7, 24, 256])
def test_an_image_does_not_depend_on_the_others_of_its_batch(batch, unet, cpu):
    whole = sampled(unet, Sampling(images=48, steps=4, batch=48), 0, cpu)
    assert nearly(sampled(unet, Sampling(images=48, steps=4, batch=batch), 0, cpu), whole)
    assert not nearly(whole[:1].expand_as(whole), whole)


def test_more_images_start_with_the_same_images(unet, cpu):
    few, many = (sampled(unet, Sampling(images=images, steps=4, batch=32), 0, cpu) for images in (32, 45))
    assert torch.equal(few, many[:32])  # the batches are the same, and so are the bits
    assert nearly(sampled(unet, Sampling(images=40, steps=4, batch=64), 0, cpu), many[:40])


def test_one_seed_gives_the_same_bits_and_another_seed_others(unet, cpu):
    sampling = Sampling(images=32, steps=4)
    images = sampled(unet, sampling, 0, cpu)
    torch.manual_seed(9)
    assert torch.equal(sampled(unet, sampling, 0, cpu), images)
    assert not torch.equal(sampled(unet, sampling, 1, cpu), images)
    assert len(images.flatten(1).unique(dim=0)) == 32


def test_pixels_beyond_the_range_of_bytes_are_at_its_end(cpu):
    """A network that always predicts noise of one sign drives every pixel to one end of the range."""

    class Ends(Toy):
        def forward(self, x: torch.Tensor, t: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
            return (torch.tensor([9.0, -9.0, 0.0]).reshape(3, 1, 1).expand_as(x),)

    images = sampled(Ends(), Sampling(images=33, steps=4, batch=16), 0, cpu)
    assert images.dtype == torch.uint8
    assert images.shape == (33, 3, 4, 4)
    assert (images[:, 0] == 0).all()
    assert (images[:, 1] == 255).all()
    assert images[:, 2].float().std() > 50


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_refused(bad, cpu):
    """As bytes it would be a black image, and be scored like any other."""

    class Diverged(Toy):
        def forward(self, x: torch.Tensor, t: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
            eps = super().forward(x, t)[0]
            eps[3, 0, 1, 1] = bad
            return (eps,)

    with pytest.raises(DiffusionError, match=r"found 1 of 32 images not finite.*removal\.fitting\.lr"):
        sampled(Diverged(), Sampling(images=32, steps=2), 0, cpu)


def test_progress_counts_images_and_the_model_does_not_change(unet, cpu):
    counts, before = [], FAMILY.dump(unet)
    sampled(unet.train(), Sampling(images=40, steps=1, batch=16), 0, cpu, counts.append)
    assert counts == [16, 16, 8]
    assert FAMILY.dump(unet) == before
    assert not unet.training


def test_bf16_is_near_fp32(unet, cpu):
    sampling = Sampling(images=32, steps=4)
    bf16 = sampled(unet, sampling, 0, Compute(cpu.device, "bf16")).float()
    assert 0 < (bf16 - sampled(unet, sampling, 0, cpu).float()).abs().mean() < 10
