"""Structured one-shot pruning of a U-Net by torch-pruning: whole channels are removed, layer by layer, the
least important first."""

import torch
import torch_pruning as tp
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import nn

from apportion.config.removal import Pruning
from apportion.diffusion.ddpm.unet import follow_widths

IMPORTANCE = {"magnitude": tp.importance.GroupMagnitudeImportance, "random": tp.importance.RandomImportance}


def prune(unet: UNet2DModel, pruning: Pruning, seed: int) -> UNet2DModel:
    """Removes `pruning.ratio` of the channels of every layer, in place, and returns the model.

    Widths stay multiples of the group-norm groups, rounded to the nearest; the output convolution keeps its
    channels; attention loses whole heads (docs/methods.md, "Pruning").
    """
    unet.cpu().eval()
    side, channels = unet.config.sample_size, unet.config.in_channels
    attentions = [module for module in unet.modules() if isinstance(module, Attention)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pruner = tp.pruner.BasePruner(
            unet,
            {"sample": torch.randn(1, channels, side, side), "timestep": torch.ones((1,), dtype=torch.long)},
            importance=IMPORTANCE[pruning.importance](),
            pruning_ratio=pruning.ratio,
            pruning_ratio_dict=_nearest_ratios(unet, pruning.ratio),
            ignored_layers=[unet.conv_out],
            num_heads={
                layer: module.heads
                for module in attentions
                for layer in (module.to_q, module.to_k, module.to_v)
            },
            prune_num_heads=True,
            prune_head_dims=False,
            head_pruning_ratio=pruning.ratio,
        )
        pruner.step()
    follow_widths(unet)
    return unet


def _nearest_ratios(unet: UNet2DModel, ratio: float) -> dict[nn.Module, float]:
    """For each layer the ratio at which the pruner, which rounds down, gives the nearest width.

    A group norm of g groups makes the pruner take the same number of channels from each, so a layer of c
    channels keeps floor(c/g * (1 - ratio)) in every group: at ratio 0.3 and c/g = 4 that is half of them, not
    70 %.
    """
    groups = unet.config.norm_num_groups
    ratios: dict[nn.Module, float] = {}
    for module in unet.modules():
        width = 0
        if isinstance(module, nn.Conv2d):
            width = module.out_channels
        elif isinstance(module, nn.Linear):
            width = module.out_features
        if width and width % groups == 0:
            per_group = width // groups
            kept = max(1, round(per_group * (1 - ratio)))
            ratios[module] = 1 - (kept + 1e-6) / per_group if kept < per_group else 0.0
    return ratios
