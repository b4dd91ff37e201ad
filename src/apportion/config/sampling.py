"""Section `sampling`: the images that are generated for each coalition."""

from typing import Annotated

from pydantic import Field

from apportion.config.strict import Count, Strict


class Sampling(Strict):
    """Generated images per coalition; `steps` of the family's sampler for each, `batch` images at a time."""

    images: Annotated[int, Field(ge=32)] = 256
    steps: Count = 20
    batch: Count = 256
