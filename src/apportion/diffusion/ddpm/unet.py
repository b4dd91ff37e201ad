"""The U-Net: build it, save it as safetensors and load it again, whatever widths pruning left it with."""

import json
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d import UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import nn

from apportion.config.family import DdpmOptions
from apportion.errors import Damaged
from apportion.safetensors import header

# What loading a wrong file can raise: diffusers checks little of an architecture.
_UNREADABLE = (
    SafetensorError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    NameError,
    RuntimeError,
)


def build(options: DdpmOptions, resolution: int, seed: int) -> UNet2DModel:
    """A U-Net with random weights for RGB images of `resolution` pixels a side; a seed always gives the same
    weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(
            sample_size=resolution,
            in_channels=3,
            out_channels=3,
            layers_per_block=options.layers_per_block,
            block_out_channels=tuple(options.channels),
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in options.attention),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(options.attention)),
            attention_head_dim=options.attention_head_dim,
            norm_num_groups=options.norm_groups,
        )


def dump(unet: Any, about: dict[str, str] | None = None) -> bytes:
    """Weights and architecture as one safetensors file; `about` goes into its header too."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in unet.state_dict().items()}
    architecture = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    return tensors_to_bytes(
        tensors, metadata={**(about or {}), "unet": json.dumps(architecture, sort_keys=True)}
    )


def load(data: bytes, origin: str = "a checkpoint", device: torch.device | str = "cpu") -> UNet2DModel:
    """The model that `dump` wrote, in evaluation mode. Raises Damaged, naming `origin`, for other bytes."""
    try:
        unet = UNet2DModel(**json.loads(header(data)["unet"]))
        tensors = tensors_from_bytes(data)
        _take_widths(unet, tensors)
        unet.load_state_dict(tensors)
    except _UNREADABLE as error:
        raise Damaged(
            f"found no U-Net in {origin}, expected safetensors with its architecture: {error}; it is left as "
            "it is"
        ) from error
    return unet.to(device).eval()


def _take_widths(unet: UNet2DModel, tensors: dict[str, torch.Tensor]) -> None:
    """Gives every layer the widths of the stored tensors: the configuration of diffusers cannot describe a
    pruned U-Net."""
    for name, module in unet.named_modules():
        weight = tensors.get(f"{name}.weight")
        if weight is None or weight.shape == module.weight.shape:
            continue
        module.weight = nn.Parameter(torch.empty_like(weight))
        if module.bias is not None:
            module.bias = nn.Parameter(torch.empty_like(tensors[f"{name}.bias"]))
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = weight.shape[:2]
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.GroupNorm):
            module.num_channels = len(weight)
    follow_widths(unet)


def follow_widths(unet: UNet2DModel) -> None:
    """Sets the numbers that diffusers keeps beside the weights (channels of resamplers, heads of attention)
    to match the weights."""
    for module in unet.modules():
        if isinstance(module, Attention):
            module.heads = module.to_q.out_features // unet.config.attention_head_dim
            module.inner_dim = module.inner_kv_dim = module.to_q.out_features
        conv = getattr(module, "conv", None)
        if isinstance(conv, nn.Conv2d) and hasattr(module, "channels"):
            module.channels = conv.in_channels
            module.out_channels = conv.out_channels
