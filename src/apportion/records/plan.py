"""What a round evaluates."""

import json
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints

from apportion.errors import StoreError
from apportion.records.base import Hash, Record, RecordedSeed
from apportion.records.game import Base, Game
from apportion.records.manifest import Manifest

Role = Literal["credit", "truth", "baseline"]
"""What a round uses a game for: `credit`, the game that credits are of; `truth`, retraining, which judges
them; `baseline`, the coalitions' own images, which shows what models add."""

Purpose = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]
"""What an evaluation is for: `design`, coalitions of the design; `v0` and `v1`, the empty and the grand
coalition; the name of a method, coalitions that only it needs; `retrained`, `retrained_v0` and
`retrained_v1`, the first coalitions of the design and both endpoints by retraining; `control_design` and
`control`, a design of its own and the coalitions of the design by their own images, as a control game;
`held_out`, coalitions by retraining that judge the credits, `paired`, the same in the game of the credits,
and `baseline`, the same by their own images; `by_size`, `by_size_paired` and `by_size_baseline`, the same of
coalitions of several sizes; `counterfactual`, coalitions without some contributors."""


class Wanted(Record):
    """One evaluation that a round needs. `members` is a mask in hexadecimal, bit i = player i."""

    key: Hash
    game: Hash
    seed: RecordedSeed
    members: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]+$")]
    purpose: Purpose

    @classmethod
    def of(
        cls, game: Game, manifest: Manifest, seed: int, mask: NDArray[np.bool_], purpose: Purpose
    ) -> "Wanted":
        """The evaluation of a coalition, a mask (n,) of the manifest's contributors, in a game."""
        key = game.key(seed, manifest.data(mask))
        return cls(key=key, game=game.id, seed=seed, members=members_text(mask), purpose=purpose)

    def mask(self, n: int) -> NDArray[np.bool_]:
        """The coalition as a mask (n,)."""
        bits = int(self.members, 16)
        return np.array([(bits >> i) & 1 for i in range(n)], dtype=np.bool_)


def members_text(mask: NDArray[np.bool_]) -> str:
    """Inverse of `Wanted.mask`."""
    return f"{sum(1 << i for i, kept in enumerate(mask.tolist()) if kept):x}"


class NetworkDescription(Record):
    """A feature network of a round, for readers. network: its hash. name: what kind of model it is.
    trained_on: what on, as far as its file says. classes: how many it tells apart, 0 where it has none."""

    network: Hash
    name: str
    trained_on: str
    classes: Annotated[int, Field(ge=0)]


class Plan(Record):
    """What a round will evaluate, in order. games: the id of each game, by its role. methods: the methods
    that give credits, the published one first. look: which of `valuation.stop.looks` it is for, from 0.
    credits: the version of how credits come from values (CREDITS). evidence: the hash of
    the evidence of another round that this one cites. networks: the feature networks of its properties; none
    where earlier code planned the round."""

    round: Hash
    manifest: Hash
    base: Base
    games: dict[Role, Hash]
    methods: tuple[str, ...]
    wanted: tuple[Wanted, ...]
    code: str
    look: Annotated[int, Field(ge=0)] = 0
    credits: int
    evidence: Hash | None = None
    networks: tuple[NetworkDescription, ...] = ()

    @classmethod
    def parse(cls, data: bytes, origin: str) -> "Plan":
        """As of every record. Raises StoreError, naming the version to use, for a plan from before
        records.CREDITS was 5, which had another form."""
        try:
            fields = json.loads(data)
            old, code = "credit_game" in fields, fields["code"]
        except (ValueError, KeyError, TypeError):
            return super().parse(data, origin)  # which says what is wrong
        if old:
            raise StoreError(
                f"found a plan of Apportion {code} in {origin}, whose form this version does not read: show "
                "and verify its round with that version; `plan` here makes a new round"
            )
        return super().parse(data, origin)


class Followup(Record):
    """The evaluations that the credits of a round require: coalitions without the contributors with the
    largest credits, and without equally many random ones."""

    round: Hash
    wanted: tuple[Wanted, ...]
