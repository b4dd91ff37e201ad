"""Section `model`: the options of each model family. A new family is a class here, a member of `Model` and a
row of FAMILIES, and the module that the row names (docs/architecture.md)."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Tag, model_validator

from apportion.config.sampling import Sampling
from apportion.config.strict import Count, Strict


class FamilyOptions(Strict):
    """The options that all families have."""

    family: str
    condition: ClassVar[Literal["label"] | None] = None
    """What the family's models are conditioned on; it is then part of a sample's hash."""

    def check(self, resolution: int, sampling: Sampling) -> None:
        """Raises ValueError where the family cannot make images of `resolution` pixels a side, or cannot
        sample them as section `sampling` says."""


class DdpmOptions(FamilyOptions):
    """An unconditional pixel U-Net: channels per level (coarser to the right), layers per block, and which
    levels have attention."""

    family: Literal["ddpm"] = "ddpm"
    channels: list[Count] = [32, 64, 64]
    layers_per_block: Count = 1
    attention: list[bool] = [False, False, False]
    attention_head_dim: Count = 8
    norm_groups: Count = 16
    timesteps: ClassVar[int] = 1000

    @model_validator(mode="after")
    def _levels(self) -> "DdpmOptions":
        if len(self.attention) != len(self.channels):
            raise ValueError(
                f"found {len(self.attention)} entries in attention, expected one per level of channels "
                f"({len(self.channels)})"
            )
        uneven = [width for width in self.channels if width % self.norm_groups]
        if uneven:
            raise ValueError(
                f"found channels {uneven}, expected multiples of norm_groups ({self.norm_groups})"
            )
        widths = zip(self.channels, self.attention, strict=True)
        # The last level always has attention, in the middle of the U-Net.
        attending = [width for width, attends in widths if attends] + self.channels[-1:]
        if not attending or min(attending) < self.attention_head_dim:
            raise ValueError(
                f"found channels {attending} with attention, expected at least attention_head_dim "
                f"({self.attention_head_dim})"
            )
        return self

    def check(self, resolution: int, sampling: Sampling) -> None:
        levels = len(self.channels)
        if resolution % 2 ** (levels - 1):
            raise ValueError(
                f"found data.resolution {resolution}, expected a multiple of {2 ** (levels - 1)}: each of "
                f"the {levels} levels of model.channels but the first halves it"
            )
        steps = sampling.steps
        if steps > self.timesteps:
            raise ValueError(
                f"found sampling.steps {steps}, expected at most the {self.timesteps} timesteps of the family"
            )
        # DDIM would stop before the last timestep and leave some noise.
        if sampling.sampler == "ddim" and self.timesteps % steps:
            divisors = [d for d in range(1, self.timesteps + 1) if self.timesteps % d == 0]
            near = sorted(divisors, key=lambda d: (abs(d - steps), d))[:2]
            raise ValueError(
                f"found sampling.steps {steps}, expected a divisor of the {self.timesteps} timesteps, such "
                f"as {near[0]} or {near[1]}, for sampling.sampler ddim"
            )


def _family(value: Any) -> str:
    """The family that options name; `ddpm` where they name none."""
    return (
        str(value.get("family", "ddpm")) if isinstance(value, dict) else str(getattr(value, "family", "ddpm"))
    )


Model = Annotated[Annotated[DdpmOptions, Tag("ddpm")], Discriminator(_family)]

FAMILIES = {"ddpm": "apportion.diffusion.ddpm"}
"""The module of each family; its FAMILY is the implementation (`diffusion.family.Family`). It is imported
where models are made: planning and publishing need no deep learning library."""
