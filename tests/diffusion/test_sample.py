"""DDIM against its formula in float64, and which image depends on what."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from apportion.config import Sampling
from apportion.diffusion import ddpm
from apportion.diffusion.compute import Compute
from apportion.diffusion.sample import initial_noise, sample
from apportion.errors import DiffusionError

ALPHAS = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


class Toy(nn.Module):
    """A smooth function of image and timestep in a U-Net's place; it keeps the timesteps and the first images it sees."""

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
    """Song et al. 2021, eq. 12 with eta = 0 at evenly spaced timesteps that begin at 999; x0 is kept in [-1, 1]."""
    times = [1000 - 1 - k * (1000 // steps) for k in range(steps)]
    for t, before in zip(times, [*times[1:], None], strict=True):
        eps = net(x, torch.tensor(t))[0]
        a, b = ALPHAS[t], torch.ones(()) if before is None else ALPHAS[before]
        x0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
        x = b.sqrt() * x0 + (1 - b).sqrt() * eps
    return x


@pytest.fixture(scope="module")
def unet(model):
    return ddpm.build(model, 8, 0)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("gain", [0.9, 0.3])
def test_agrees_with_the_formula(steps, gain, cpu):
    net = Toy(gain)
    expected = ((ddim(net, initial_noise(net, 3, torch.arange(64)).double(), steps) + 1) * 127.5).clamp(0, 255)
    found = sample(net, Sampling(images=64, steps=steps), 3, cpu)
    assert (found - expected).abs().max() < 0.51  # the nearest byte, but for float32
    assert found.double().std() > 2  # and not all the same


@pytest.mark.parametrize("steps", [1, 4, 20, 125, 1000])
def test_takes_as_many_steps_as_asked_down_from_pure_noise(steps, cpu):
    net = Toy()
    sample(net, Sampling(images=32, steps=steps), 0, cpu)
    assert len(net.times) == steps
    assert net.times[0] == 999
    assert net.times == sorted(set(net.times), reverse=True)
    assert net.times[-1] >= 0


def test_initial_noise_is_keyed_by_seed_and_number(unet):
    whole = initial_noise(unet, 5, torch.arange(40))
    assert whole.shape == (40, 3, 8, 8)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(initial_noise(unet, 5, torch.tensor([30, 2])), whole[[30, 2]])
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.isclose(initial_noise(unet, 6, torch.arange(40)), whole).any(dim=(1, 2, 3)).all()
    assert whole.mean().abs() < 0.05
    assert whole.std() == pytest.approx(1, abs=0.03)
    assert (torch.corrcoef(whole.flatten(1)) - torch.eye(40)).abs().max() < 0.35


def test_every_model_starts_from_the_same_noise(cpu):
    one, other = Toy(0.9), Toy(0.2)
    images = [sample(net, Sampling(images=32, steps=2), 4, cpu) for net in (one, other)]
    assert torch.equal(one.first, other.first)
    assert torch.equal(one.first, initial_noise(one, 4, torch.arange(32)))
    assert not torch.equal(*images)


def nearly(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for rounding: a batch of another size is summed in another order, so a few bytes in a hundred are one off."""
    off = (a.int() - b.int()).abs()
    return bool(off.max() <= 1 and (off > 0).float().mean() < 0.02)


@pytest.mark.parametrize("batch", [1, 7, 24, 256])
def test_an_image_does_not_depend_on_those_beside_it(batch, unet, cpu):
    whole = sample(unet, Sampling(images=48, steps=4, batch=48), 0, cpu)
    assert nearly(sample(unet, Sampling(images=48, steps=4, batch=batch), 0, cpu), whole)
    assert not nearly(whole[:1].expand_as(whole), whole)


def test_more_images_begin_with_the_same(unet, cpu):
    few, many = (sample(unet, Sampling(images=images, steps=4, batch=32), 0, cpu) for images in (32, 45))
    assert torch.equal(few, many[:32])  # the batches are the same, and so are the bits
    assert nearly(sample(unet, Sampling(images=40, steps=4, batch=64), 0, cpu), many[:40])


def test_the_same_bits_again_and_others_for_another_seed(unet, cpu):
    told = Sampling(images=32, steps=4)
    images = sample(unet, told, 0, cpu)
    torch.manual_seed(9)
    assert torch.equal(sample(unet, told, 0, cpu), images)
    assert not torch.equal(sample(unet, told, 1, cpu), images)
    assert len(images.flatten(1).unique(dim=0)) == 32


def test_images_are_bytes_that_saturate(cpu):
    """A network that always predicts noise of one sign drives every pixel to one end, never around it."""

    class Ends(Toy):
        def forward(self, x: torch.Tensor, t: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
            return (torch.tensor([9.0, -9.0, 0.0]).reshape(3, 1, 1).expand_as(x),)

    images = sample(Ends(), Sampling(images=33, steps=4, batch=16), 0, cpu)
    assert images.dtype == torch.uint8
    assert images.shape == (33, 3, 4, 4)
    assert (images[:, 0] == 0).all()
    assert (images[:, 1] == 255).all()
    assert images[:, 2].float().std() > 50


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_no_black_one(bad, cpu):
    """One image of 32 is lost: as bytes it would be black, and be scored like any other."""

    class Diverged(Toy):
        def forward(self, x: torch.Tensor, t: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
            eps = super().forward(x, t)[0]
            eps[3, 0, 1, 1] = bad
            return (eps,)

    with pytest.raises(DiffusionError, match=r"found 1 of 32 images not finite.*removal\.fitting\.lr"):
        sample(Diverged(), Sampling(images=32, steps=2), 0, cpu)


def test_progress_counts_images_and_nothing_is_learned(unet, cpu):
    counts, before = [], ddpm.dump(unet)
    sample(unet.train(), Sampling(images=40, steps=1, batch=16), 0, cpu, counts.append)
    assert counts == [16, 16, 8]
    assert ddpm.dump(unet) == before
    assert not unet.training


def test_bf16_is_near_fp32(unet, cpu):
    told = Sampling(images=32, steps=4)
    off = sample(unet, told, 0, Compute(cpu.device, "bf16")).float() - sample(unet, told, 0, cpu).float()
    assert 0 < off.abs().mean() < 10
