"""The unconditional DDPM U-Net: build, save to safetensors and load again, whatever widths pruning left it with."""

import json

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import nn

from apportion.config import Model
from apportion.errors import Damaged
from apportion.safetensors import header

TIMESTEPS = 1000
BETAS = (1e-4, 0.02)

# What reading raises; diffusers checks an architecture little and trips over what is wrong with it later, in any of these ways.
_UNREADABLE = (SafetensorError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError, NameError, RuntimeError)


def build(model: Model, resolution: int, seed: int) -> UNet2DModel:
    """A randomly initialised U-Net for RGB images of `resolution` pixels a side; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(
            sample_size=resolution,
            in_channels=3,
            out_channels=3,
            layers_per_block=model.layers_per_block,
            block_out_channels=tuple(model.channels),
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in model.attention),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(model.attention)),
            attention_head_dim=model.attention_head_dim,
            norm_num_groups=model.norm_groups,
        )


def noise_schedule() -> DDIMScheduler:
    """The linear schedule of Ho et al. 2020, T = 1000; deterministic DDIM sampling with images kept in [-1, 1]."""
    return DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule="linear",
        clip_sample=True,
        timestep_spacing="trailing",
    )


def dump(unet: UNet2DModel, about: dict[str, str] | None = None) -> bytes:
    """Weights and architecture as one safetensors file; `about` goes into its header too."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in unet.state_dict().items()}
    architecture = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    return tensors_to_bytes(tensors, metadata={**(about or {}), "unet": json.dumps(architecture, sort_keys=True)})


def load(data: bytes, origin: str = "a checkpoint", device: torch.device | str = "cpu") -> UNet2DModel:
    """The model that `dump` wrote, in evaluation mode. Raises Damaged, naming `origin`, where the bytes are no such file."""
    try:
        unet = UNet2DModel(**json.loads(header(data)["unet"]))
        tensors = tensors_from_bytes(data)
        _take_widths(unet, tensors)
        unet.load_state_dict(tensors)
    except _UNREADABLE as error:
        raise Damaged(f"found no U-Net in {origin}, expected safetensors with its architecture: {error}; it is left as it is") from error
    return unet.to(device).eval()


def _take_widths(unet: UNet2DModel, tensors: dict[str, torch.Tensor]) -> None:
    """Gives every layer the widths of the stored tensors: a pruned U-Net has none that its configuration could state."""
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
    """Sets what diffusers keeps beside the weights, channel counts of resamplers and heads of attention, to what the weights are."""
    for module in unet.modules():
        if isinstance(module, Attention):
            module.heads = module.to_q.out_features // unet.config.attention_head_dim
            module.inner_dim = module.inner_kv_dim = module.to_q.out_features
        conv = getattr(module, "conv", None)
        if isinstance(conv, nn.Conv2d) and hasattr(module, "channels"):
            module.channels = conv.in_channels
            module.out_channels = conv.out_channels


def parameters(unet: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in unet.parameters())
