"""The base class of all stored records: strict, immutable, one canonical text each."""

import json
import math
from datetime import date
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from apportion.errors import Damaged

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
RecordedSeed = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


def _date(text: str) -> str:
    date.fromisoformat(text)  # ValueError for a day that no month has
    return text


Date = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$"), AfterValidator(_date)]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"found {value}, expected a finite number")
    return value


Finite = Annotated[float, AfterValidator(_finite)]
R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """A stored JSON object. A text with unknown or mistyped fields is damaged."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def dump(self) -> bytes:
        """Canonical text: the same record is always the same bytes."""
        fields = self.model_dump(mode="json")
        return (
            json.dumps(fields, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
        ).encode()

    @classmethod
    def parse(cls: type[R], data: bytes, origin: str) -> R:
        """Raises Damaged, naming `origin`, where the text is not such a record."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
            raise Damaged(
                f"found a damaged {cls.__name__} in {origin} ({problems}); it is left as it is: move it "
                "away to have it made again"
            ) from error
