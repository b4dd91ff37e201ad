"""Generated images as stored objects."""

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as arrays_from_bytes
from safetensors.numpy import save as arrays_to_bytes

from apportion.errors import Damaged
from apportion.records import Cost
from apportion.rounds.cost import cost_header, read_cost
from apportion.store import Store


def dump_samples(images: NDArray[np.uint8], cost: Cost) -> bytes:
    """`images`: uint8 (k, 3, side, side)."""
    return arrays_to_bytes({"images": images}, metadata=cost_header(cost))


def load_samples(store: Store, key: str) -> tuple[NDArray[np.uint8], Cost]:
    """Images uint8 (k, 3, side, side) and their cost. Raises NotFound, or Damaged where the object holds no
    images."""
    data, where = store.get(key), store.where(key)
    try:
        images = arrays_from_bytes(data)["images"]
    except (SafetensorError, KeyError) as error:
        raise Damaged(
            f"found no images in {where}, expected safetensors of `images`: {error}; it is left as it is"
        ) from error
    return images, read_cost(data, where)
