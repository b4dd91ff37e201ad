"""Pruning of the U-Net of Lu et al. 2025, and in detail of a small U-Net, compared with channels chosen by
hand."""

from typing import get_args

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from apportion.config.family import DdpmOptions
from apportion.config.fitting import Fitting
from apportion.config.removal import Pruning
from apportion.diffusion.ddpm import FAMILY
from apportion.diffusion.ddpm.prune import IMPORTANCE, prune
from apportion.diffusion.ddpm.unet import build, dump, load
from apportion.diffusion.family import parameter_count
from apportion.diffusion.train import fit

CIFAR = DdpmOptions(
    channels=[128, 256, 256, 256],
    layers_per_block=2,
    attention=[False, True, False, False],
    norm_groups=32,
)
SMALL = DdpmOptions(channels=[32, 64], layers_per_block=1, attention=[False, True], norm_groups=8)


def pruning(ratio: float = 0.5, importance: str = "magnitude") -> Pruning:
    return Pruning(ratio=ratio, importance=importance, retune=Fitting(steps=1, lr=1e-3))


def small(seed: int = 0, **options):
    """A small U-Net, pruned."""
    return prune(build(SMALL, 8, 0), pruning(**options), seed)


def layers(unet: nn.Module, kind: type) -> dict[str, nn.Module]:
    return {name: module for name, module in unet.named_modules() if isinstance(module, kind)}


@pytest.fixture(scope="module")
def cifar():
    return prune(build(CIFAR, 32, 0), pruning(0.3), 0)


def test_the_model_of_the_paper_has_its_published_size_before_and_after_pruning(cifar):
    assert parameter_count(build(CIFAR, 32, 0)) == pytest.approx(35.7e6, rel=0.005)
    assert parameter_count(cifar) == pytest.approx(19.8e6, rel=0.03)
    assert cifar(torch.zeros(2, 3, 32, 32), torch.tensor([1, 999])).sample.shape == (2, 3, 32, 32)


def test_widths_are_the_nearest_multiples_of_the_groups(cifar):
    """0.7 of 128 is 89.6, nearest 96; of 256, 179.2, nearest 192. Concatenations add up."""
    norms = layers(cifar, nn.GroupNorm)
    assert {len(norm.weight) for norm in norms.values()} == {96, 192, 192 + 96, 192 + 192}
    assert all(norm.num_groups == 32 and norm.num_channels == len(norm.weight) for norm in norms.values())
    assert cifar.conv_in.weight.shape == (96, 3, 3, 3)


def test_every_convolution_is_a_multiple_of_the_groups(cifar):
    convolutions = layers(cifar, nn.Conv2d)
    widths = {name: layer.out_channels for name, layer in convolutions.items() if name != "conv_out"}
    assert {name: width for name, width in widths.items() if width % 32} == {}


def test_attention_loses_whole_heads(cifar):
    attentions = layers(cifar, Attention)
    assert len(attentions) == 6  # two down, one in the middle, three up
    for attention in attentions.values():
        assert attention.heads == 32 - 10
        for layer in (attention.to_q, attention.to_k, attention.to_v):
            assert layer.weight.shape == (22 * 8, 192)
        assert attention.to_out[0].weight.shape == (192, 22 * 8)


def test_the_same_heads_go_from_queries_keys_and_values():
    whole, unet = build(SMALL, 8, 0), small(ratio=0.3)
    for name, attention in layers(unet, Attention).items():
        before = whole.get_submodule(name)
        parts = [(getattr(attention, part), getattr(before, part)) for part in ("to_q", "to_k", "to_v")]
        kept = [rows(after.bias, whole_part.bias) for after, whole_part in parts]
        assert kept[0] == kept[1] == kept[2]
        heads = torch.tensor(kept[0]).reshape(-1, 8)
        assert (heads == heads[:, :1] + torch.arange(8)).all()
        assert (heads[:, 0] % 8 == 0).all()
        assert attention.heads == len(heads) == 8 - 3


def test_half_of_the_channels_as_the_paper_prunes_for_faces():
    unet = prune(build(CIFAR, 32, 0), pruning(0.5), 0)
    assert {len(norm.weight) for norm in layers(unet, nn.GroupNorm).values()} == {64, 128, 192, 256}
    assert {attention.heads for attention in layers(unet, Attention).values()} == {16}
    assert unet(torch.zeros(1, 3, 32, 32), torch.tensor([1])).sample.shape == (1, 3, 32, 32)


def rows(pruned: torch.Tensor, whole: torch.Tensor) -> list[int]:
    """Which entries of `whole` were kept, by their values."""
    matches = (pruned[:, None] == whole).nonzero()
    assert len(matches) == len(pruned)
    return matches[:, 1].tolist()


def by_hand(scores: torch.Tensor, groups: int, kept: int) -> list[int]:
    """The channels with the largest scores. Scores are averaged over the groups of the norm, because each
    group keeps the same places."""
    place = scores.reshape(groups, -1).mean(0)
    best = place.argsort(descending=True)[:kept].sort().values
    return (torch.arange(groups)[:, None] * len(place) + best).flatten().tolist()


def test_the_channels_kept_are_those_of_largest_magnitude():
    """Between two convolutions of a residual block a channel consists of its filter, its time projection and
    the weights of the second convolution that read it."""
    whole, unet = build(SMALL, 8, 0), small()
    for name in ("down_blocks.0.resnets.0", "down_blocks.1.resnets.0", "up_blocks.1.resnets.1"):
        before, after = whole.get_submodule(name), unet.get_submodule(name)
        scores = (
            (before.conv1.weight**2).sum((1, 2, 3))
            + (before.time_emb_proj.weight**2).sum(1)
            + (before.conv2.weight**2).sum((0, 2, 3))
        )
        width = len(scores)
        expected = by_hand(scores, 8, width // 8 // 2)
        assert rows(after.conv1.bias, before.conv1.bias) == expected
        assert rows(after.time_emb_proj.bias, before.time_emb_proj.bias) == expected
        assert scores[expected].mean() > scores.mean()


def test_what_is_kept_is_unchanged():
    whole, unet = build(SMALL, 8, 0), small()
    first = rows(unet.conv_in.bias, whole.conv_in.bias)
    assert torch.equal(unet.conv_in.weight, whole.conv_in.weight[first])
    before, after = whole.down_blocks[0].resnets[0], unet.down_blocks[0].resnets[0]
    inner = rows(after.conv1.bias, before.conv1.bias)
    assert torch.equal(after.conv1.weight, before.conv1.weight[inner][:, first])
    # The residual stream keeps the same channels.
    assert torch.equal(after.conv2.weight, before.conv2.weight[first][:, inner])


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9, 0.99])
def test_the_output_keeps_its_channels_and_every_ratio_leaves_a_working_model(ratio):
    whole, unet = build(SMALL, 8, 0), small(ratio=ratio)
    assert unet.conv_out.weight.shape[0] == 3
    assert torch.equal(unet.conv_out.bias, whole.conv_out.bias)
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2])
    output = unet(x, t).sample
    assert output.shape == (2, 3, 8, 8)
    assert output.isfinite().all()
    assert output.std() > 0
    assert torch.equal(load(dump(unet))(x, t).sample, output)


def test_a_higher_ratio_leaves_fewer_parameters():
    sizes = [parameter_count(build(SMALL, 8, 0))]
    sizes += [parameter_count(small(ratio=ratio)) for ratio in (0.25, 0.5, 0.75)]
    assert sizes == sorted(set(sizes), reverse=True)


def test_random_pruning_depends_on_the_seed_and_pruning_by_magnitude_does_not():
    assert dump(small(0)) == dump(small(0)) == dump(small(1))
    drawn = [dump(small(seed, importance="random")) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != dump(small(0))
    assert parameter_count(small(0, importance="random")) == parameter_count(small(0))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(2)
    before = torch.get_rng_state()
    small(importance="random")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_pruned_model_learns(varied, cpu):
    unet = small()
    before = [p.clone() for p in unet.parameters()]
    fit(FAMILY, unet, varied, Fitting(steps=1, lr=1e-3, batch=4), 0, cpu)
    assert all(not torch.equal(a, b) for a, b in zip(before, unet.parameters(), strict=True))


def test_every_importance_of_the_configuration_is_in_the_table():
    assert set(get_args(Pruning.model_fields["importance"].annotation)) == set(IMPORTANCE)
