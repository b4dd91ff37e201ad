"""Section `sampling`: the images that are generated for each coalition."""

from typing import Annotated, Literal

from pydantic import Field

from apportion.config.strict import Count, Strict


class Sampling(Strict):
    """Generated images per coalition; `steps` of the sampler for each, `batch` images at a time. `ddim`: Song
    et al. 2021; `dpm_solver`: DPM-Solver++(2M), Lu et al. 2022, which needs about half as many steps for the
    same images (docs/benchmarks.md)."""

    images: Annotated[int, Field(ge=32)] = 256
    steps: Count = 20
    batch: Count = 256
    sampler: Literal["ddim", "dpm_solver"] = "ddim"
