"""What generated images are measured against, made once for a game: no coalition embeds the training images again."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as arrays_from_bytes
from safetensors.numpy import save as arrays_to_bytes

from apportion.errors import Damaged

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reference:
    """Mean (d,) and covariance (d, d) of the training images' features; centroids (clusters, d) of the full model's images, or (0, d)."""

    mean: Array
    covariance: Array
    centroids: Array


NOTHING = Reference(np.empty(0), np.empty((0, 0)), np.empty((0, 0)))


def dump(reference: Reference) -> bytes:
    """The reference as safetensors."""
    return arrays_to_bytes({name: np.ascontiguousarray(array) for name, array in asdict(reference).items()})


def load(data: bytes, origin: str) -> Reference:
    """Raises Damaged, naming `origin`, where `data` is not what `dump` wrote."""
    try:
        arrays = arrays_from_bytes(data)
        reference = Reference(**arrays)
    except (SafetensorError, KeyError, TypeError) as error:  # KeyError: a type of number that numpy lacks; TypeError: other names
        raise Damaged(f"found no reference in {origin}, expected safetensors of mean, covariance and centroids: {error}") from error
    d, form = reference.mean.size, [array.shape for array in (reference.mean, reference.covariance)]
    fits = form == [(d,), (d, d)] and reference.centroids.ndim == 2 and reference.centroids.shape[1] == d
    if not fits or not all(array.dtype == np.float64 and np.isfinite(array).all() for array in arrays.values()):
        found = {name: f"{array.dtype} {array.shape}" for name, array in sorted(arrays.items())}
        raise Damaged(f"found {found} in {origin}, expected finite float64 mean (d,), covariance (d, d) and centroids (clusters, d)")
    return reference
