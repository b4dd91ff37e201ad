"""Section `data`: where the training images are and who gave them."""

from typing import Annotated, Literal

from pydantic import Field

from apportion.config.strict import Count, Strict


class OpenMoji(Strict):
    """The embedded drawings; `contributors` is a number of designers (those with most drawings) or their
    names."""

    source: Literal["openmoji"]
    contributors: Annotated[int, Field(ge=2)] | list[str] = 12
    resolution: Literal[16, 32] = 16
    min_images: Count = 8


class Folder(Strict):
    """A user's own images: one sub-folder per contributor, or a table `path,contributor[,label][,joined]`.

    An image of more than `max_pixels` pixels is refused: reading one takes up to 12 bytes of memory a pixel.
    """

    source: Literal["folder"]
    path: str
    resolution: Annotated[int, Field(ge=8, le=1024)]
    resize: Literal["refuse", "crop"] = "refuse"
    flip: bool = True
    min_images: Count = 8
    max_pixels: Count = 200_000_000


Data = Annotated[OpenMoji | Folder, Field(discriminator="source")]
