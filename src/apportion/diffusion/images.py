"""Training images on their way to a model."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Images:
    """Training images as one array of bytes.

    pixels: uint8 (k, 3, side, side); flip: bool (k,), whether an image may be mirrored.
    """

    pixels: torch.Tensor
    flip: torch.Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def to(self, device: torch.device) -> "Images":
        return Images(self.pixels.to(device), self.flip.to(device))
