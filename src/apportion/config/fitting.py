"""The options of one run of the training loop, as in sections `train` and `removal.fitting`."""

from typing import Annotated, Literal

from pydantic import Field

from apportion.config.strict import Count, Rate, Share, Strict


class Fitting(Strict):
    """One run of the training loop."""

    steps: Count
    lr: Rate
    batch: Count = 64
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    beta2: Share = 0.999
    weighting: Literal["uniform", "p2"] = "uniform"
