"""Numbers as readers see them: three significant digits for the largest number of a column, and a minus sign
instead of a hyphen."""

import math
from collections.abc import Iterable

ABSENT = "–"
"""In place of a number that does not exist."""
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def precision(values: Iterable[float | None]) -> str:
    """A format in which the largest of these numbers has three significant digits."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    if largest == 0:
        return ".2f"
    exponent = math.floor(math.log10(largest))
    return ".2e" if exponent >= 6 or exponent < -4 else f",.{min(max(2 - exponent, 0), 6)}f"


def number(value: float | None, spec: str) -> str:
    """The value in a format that `precision` gives; ABSENT for None."""
    if value is None:
        return ABSENT
    text = format(value, spec)
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    mantissa, power, exponent = text.partition("e")
    if power:
        text = f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPT)}"
    return text.replace("-", "−").replace(",", "\u202f")


def signed(value: float | None, spec: str) -> str:
    """As `number`, with a plus sign for positive values."""
    text = number(value, spec)
    return text if value is None or value < 0 or text[:1] == "−" else "+" + text


def interval(low: float | None, high: float | None, spec: str) -> str:
    """Both bounds; an absent bound is infinite, and without either there is no interval."""
    if low is None and high is None:
        return "none"
    left = "−∞" if low is None else number(low, spec)
    right = "∞" if high is None else number(high, spec)
    return f"{left} to {right}"


def percent(value: float | None) -> str:
    """A share or a relative change in per cent."""
    if value is None:
        return ABSENT
    scaled = value * 100
    return number(scaled, ",.1f" if abs(scaled) < 1e4 else ".2e") + " %"


def portion(value: float) -> str:
    """A share such as a level of confidence, in per cent, without trailing zeros."""
    return f"{value * 100:.4g} %"


def duration(seconds: float) -> str:
    """Two units at most: 0.84 s, 12 s, 3 min 20 s, 5 h 02 min."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{number(whole // 3600, ',.0f')} h {whole % 3600 // 60:02d} min"
