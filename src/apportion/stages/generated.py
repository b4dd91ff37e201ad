"""Generated images as stored objects."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from apportion.errors import Damaged
from apportion.stages.spent import Spent
from apportion.store import Store


def dump_samples(images: torch.Tensor, spent: Spent) -> bytes:
    return tensors_to_bytes({"images": images}, metadata=spent.header())


def load_samples(store: Store, key: str) -> tuple[torch.Tensor, Spent]:
    """Raises Damaged where the object holds no images."""
    data, where = store.get(key), store.where(key)
    try:
        images = tensors_from_bytes(data)["images"]
    except (SafetensorError, KeyError) as error:
        raise Damaged(f"found no images in {where}, expected safetensors of `images`: {error}; it is left as it is") from error
    return images, Spent.read(data, where)
