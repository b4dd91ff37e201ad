"""Who gave which data."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from apportion.config.hashing import digest
from apportion.config.removal import Member
from apportion.records.base import Hash, Record


class Contributor(Record):
    """One contributor of a manifest: name, hash of the data, number of samples, ISO date of joining."""

    name: str
    data: Hash
    samples: Annotated[int, Field(ge=1)]
    joined: str | None = None


class Manifest(Record):
    """Who gave which data. Contributors are the players 0..n-1, in the order of their names."""

    contributors: tuple[Contributor, ...]

    @property
    def id(self) -> str:
        return digest({c.name: c.data for c in self.contributors})

    @property
    def all_data(self) -> tuple[str, ...]:
        """Sorted data hashes of all contributors, the data of the grand coalition."""
        return tuple(sorted(c.data for c in self.contributors))

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.contributors]

    @property
    def n(self) -> int:
        """The number of contributors."""
        return len(self.contributors)

    def members(self, mask: NDArray[np.bool_]) -> list[Member]:
        """The members of a coalition given as a mask (n,), in the order of their data hashes."""
        kept = [Member(c.data, c.samples) for c, in_it in zip(self.contributors, mask, strict=True) if in_it]
        return sorted(kept)

    def data(self, mask: NDArray[np.bool_]) -> tuple[str, ...]:
        """Sorted data hashes of the members of a coalition given as a mask (n,)."""
        return tuple(member.data for member in self.members(mask))
