"""The U-Net: how it is built, stored and loaded, and which files are refused."""

import json
import random
import re

import pytest
import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from apportion.config.family import DdpmOptions
from apportion.config.fitting import Fitting
from apportion.config.removal import Pruning
from apportion.diffusion.ddpm import FAMILY
from apportion.diffusion.ddpm.prune import prune
from apportion.diffusion.ddpm.sample import noise_schedule
from apportion.diffusion.ddpm.unet import build, dump, load
from apportion.diffusion.family import parameter_count
from apportion.errors import Damaged
from apportion.safetensors import header


def output(unet: torch.nn.Module, side: int = 8) -> torch.Tensor:
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return unet(x, torch.tensor([3, 700]), return_dict=False)[0]


def halved(unet):
    return prune(unet, Pruning(ratio=0.5, retune=Fitting(steps=1, lr=1.0)), 0)


@pytest.mark.parametrize("attention", [[False, False], [False, True], [True, True]])
@pytest.mark.parametrize("made", [lambda unet: unet, halved], ids=["whole", "pruned"])
def test_round_trip(attention, made):
    unet = made(build(DdpmOptions(channels=[16, 32], attention=attention, norm_groups=8), 8, 0)).eval()
    data = dump(unet, {"seconds": "12.5"})
    back = load(data)
    assert torch.equal(output(back), output(unet))
    assert dump(back) == dump(unet)
    assert parameter_count(back) == parameter_count(unet)
    assert header(data)["seconds"] == "12.5"
    assert not back.training
    assert all(p.requires_grad for p in back.parameters())


def test_a_pruned_model_can_be_pruned_again_after_loading():
    unet = halved(build(DdpmOptions(channels=[32, 64], attention=[False, True], norm_groups=8), 8, 0))
    assert torch.equal(output(halved(load(dump(unet)))), output(halved(unet)))


def test_building_is_a_function_of_its_seed_alone(model):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = dump(build(model, 8, 0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert dump(build(model, 8, 0)) == first
    assert dump(build(model, 8, 1)) != first


def test_the_architecture_is_that_of_the_options():
    options = DdpmOptions(
        channels=[16, 24, 32],
        layers_per_block=2,
        attention=[False, True, False],
        attention_head_dim=4,
        norm_groups=8,
    )
    unet = build(options, 16, 0)
    assert [block.resnets[-1].out_channels for block in unet.down_blocks] == [16, 24, 32]
    assert [len(block.resnets) for block in unet.down_blocks] == [2, 2, 2]
    assert [hasattr(block, "attentions") for block in unet.down_blocks] == [False, True, False]
    assert [hasattr(block, "attentions") for block in unet.up_blocks] == [False, True, False]
    assert unet.down_blocks[1].attentions[0].heads == 6
    assert unet.conv_norm_out.num_groups == 8
    assert output(unet, 16).shape == (2, 3, 16, 16)


def test_the_noise_schedule_is_that_of_the_paper():
    schedule = noise_schedule()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(schedule.betas.double(), betas, atol=1e-8, rtol=1e-5)
    assert len(schedule.alphas_cumprod) == FAMILY.timesteps == 1000
    assert schedule.alphas_cumprod[-1] == pytest.approx(4.04e-5, rel=1e-2)


@pytest.fixture(scope="module")
def data(model) -> bytes:
    return dump(build(model, 8, 0))


def changed(data: bytes, tensors=lambda t: t, architecture=lambda a: a) -> bytes:
    """The file with other tensors, or with another architecture, a dictionary or a text, in its header."""
    about = architecture(json.loads(header(data)["unet"]))
    text = about if isinstance(about, str) else json.dumps(about)
    return tensors_to_bytes(tensors(tensors_from_bytes(data)), {"unet": text})


DAMAGED = {
    "empty": lambda data: b"",
    "a few bytes": lambda data: b"abc",
    "zeros": lambda data: bytes(100),
    "noise": lambda data: random.Random(0).randbytes(4000),
    "text": lambda data: b"<html>not found</html>",
    "last byte missing": lambda data: data[:-1],
    "half missing": lambda data: data[: len(data) // 2],
    "header only": lambda data: data[:200],
    "bytes added": lambda data: data + b"\0",
    "no metadata": lambda data: tensors_to_bytes(tensors_from_bytes(data)),
    "no architecture": lambda data: tensors_to_bytes(tensors_from_bytes(data), {"other": "1"}),
    "architecture not JSON": lambda data: changed(data, architecture=lambda a: "{"),
    "architecture not a mapping": lambda data: changed(data, architecture=lambda a: "[1]"),
    "unknown option": lambda data: changed(data, architecture=lambda a: {**a, "colour": "red"}),
    "no levels": lambda data: changed(data, architecture=lambda a: {**a, "block_out_channels": []}),
    "no groups": lambda data: changed(data, architecture=lambda a: {**a, "norm_num_groups": 0}),
    "no head": lambda data: changed(data, architecture=lambda a: {**a, "attention_head_dim": 0}),
    "unknown block": lambda data: changed(data, architecture=lambda a: {**a, "down_block_types": ["A", "B"]}),
    "unknown embedding": lambda data: changed(data, architecture=lambda a: {**a, "time_embedding_type": "A"}),
    "tensor missing": lambda data: changed(data, lambda t: {k: t[k] for k in t if k != "conv_in.weight"}),
    "tensor added": lambda data: changed(data, lambda t: {**t, "conv_in.extra": torch.zeros(1)}),
    "tensor flat": lambda data: changed(data, lambda t: {**t, "conv_in.weight": torch.zeros(5)}),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_another_file_is_reported_as_damaged_with_its_name(damage, data):
    origin = "s3://bucket/checkpoints/abc.safetensors"
    with pytest.raises(Damaged, match=re.escape(f"found no U-Net in {origin}, expected safetensors")):
        load(damage(data), origin)
