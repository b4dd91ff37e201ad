"""Section `evaluation`: retrained models that the credits are judged by."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from apportion.config.credentials import Address
from apportion.config.strict import Count, Seed, Share, Strict


class CounterfactualOptions(Strict):
    """Removal of the top contributors of one property, and of as many random ones, in one of the round's
    games."""

    property: str
    game: Literal["credit", "truth"] = "truth"
    share: Share = 0.4
    seeds: Count = 1
    random: Count = 1


class EvaluationOptions(Strict):
    """`held_out` coalitions of each size in `alphas`, as a share of the contributors, are retrained; zero
    switches this off. by_size: so many coalitions of each of several other sizes are retrained too, from two
    contributors to all but one; they show at which sizes the game agrees with retraining, and do not enter
    the verdict. evidence: what another round measured of the same game and contributors, which a round that
    retrains nothing cites (`apportion evidence`)."""

    held_out: Annotated[int, Field(ge=0)] = 0
    by_size: Annotated[int, Field(ge=0)] = 0
    alphas: Annotated[list[Share], Field(min_length=1)] = [0.5]
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.5
    counterfactual: CounterfactualOptions | None = None
    evidence: Address | None = None
    seed: Seed = 1000

    @model_validator(mode="after")
    def _once(self) -> "EvaluationOptions":
        repeated = sorted({alpha for alpha in self.alphas if self.alphas.count(alpha) > 1})
        if repeated:
            raise ValueError(
                f"found {', '.join(map(str, repeated))} more than once in alphas, expected each share once"
            )
        if self.by_size and not self.held_out:
            raise ValueError(
                f"found evaluation.by_size {self.by_size} without evaluation.held_out, expected both: sizes "
                "are compared beside the held-out coalitions"
            )
        if self.evidence is not None and self.held_out:
            raise ValueError(
                "found evaluation.evidence beside evaluation.held_out, expected one of them: a round that "
                "retrains coalitions has evidence of its own"
            )
        return self
