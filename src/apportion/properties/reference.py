"""What generated images are compared with. It is made once for a game, so that the training images are not
embedded again for every coalition."""

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
    """Mean (d,) and covariance (d, d) of the features of training images; centroids (clusters, d) of the
    features of images of the base model, (0, d) where there are none."""

    mean: Array
    covariance: Array
    centroids: Array


NO_REFERENCE = Reference(np.empty(0), np.empty((0, 0)), np.empty((0, 0)))
"""For properties that compare images with nothing."""


def dump(reference: Reference) -> bytes:
    """The reference as safetensors."""
    return arrays_to_bytes({name: np.ascontiguousarray(array) for name, array in asdict(reference).items()})


def load(data: bytes, origin: str) -> Reference:
    """Raises Damaged, naming `origin`, where `data` is not what `dump` wrote."""
    try:
        arrays = arrays_from_bytes(data)
        reference = Reference(**arrays)
    except (SafetensorError, KeyError, TypeError) as error:
        # KeyError: a type of number that numpy does not have. TypeError: arrays of other names.
        raise Damaged(
            f"found no reference in {origin}, expected safetensors of mean, covariance and centroids: {error}"
        ) from error
    d = reference.mean.size
    shapes_fit = (
        reference.mean.shape == (d,)
        and reference.covariance.shape == (d, d)
        and reference.centroids.ndim == 2
        and reference.centroids.shape[1] == d
    )
    numbers_fit = all(array.dtype == np.float64 and np.isfinite(array).all() for array in arrays.values())
    if not (shapes_fit and numbers_fit):
        forms = {name: f"{array.dtype} {array.shape}" for name, array in sorted(arrays.items())}
        raise Damaged(
            f"found {forms} in {origin}, expected finite float64 mean (d,), covariance (d, d) and centroids "
            "(clusters, d)"
        )
    return reference
