"""Units, and where a number comes from.

Time is seconds (float), memory bytes (int), energy joules, power watts, money USD, carbon gCO2e. Every
quantity carries its unit in its name (``latency_s``, ``kv_bytes``, ``price_usd_per_h``).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from heterarch.errors import InputError

GB = 10**9
GIB = 2**30
TERA = 1e12
HOUR_S = 3600.0
YEAR_H = 8760.0

_DURATIONS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": GB, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": GIB}


class Grade(StrEnum):
    """How far a number can be trusted, best first."""

    MEASURED = "measured"
    FITTED = "fitted"
    VENDOR = "vendor"
    DERIVED = "derived"
    DECLARED = "declared"
    RECALLED = "recalled"
    GUESS = "guess"

    @property
    def rank(self) -> int:
        """0 for the best grade; larger is weaker."""
        return list(Grade).index(self)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a number comes from: its grade and a citation that a reader can follow."""

    grade: Grade
    citation: str

    def __str__(self) -> str:
        return f"{self.grade}: {self.citation}"


def weakest(*grades: Grade) -> Grade:
    """The grade of a number derived from others: that of its weakest input."""
    return max(grades, key=lambda grade: grade.rank)


def parse_duration_s(text: str | float | int) -> float:
    """Seconds from ``"250ms"``, ``"1.5 s"``, ``"2h"`` or a plain number of seconds.

    Raises:
        InputError: not a number with one of the units us, ms, s, m, min, h, d.
    """
    return _parse(text, _DURATIONS, "a duration such as 250ms, 1.5s or 2h")


def parse_bytes(text: str | float | int) -> int:
    """Bytes from ``"80GB"``, ``"16 GiB"`` or a plain number of bytes.

    Raises:
        InputError: not a number with one of the units B, kB, MB, GB, TB, KiB, MiB, GiB.
    """
    return round(_parse(text, _SIZES, "a size such as 80GB or 16GiB"))


def _parse(text: str | float | int, units: dict[str, float] | dict[str, int], expected: str) -> float:
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*([A-Za-z]*)\s*", str(text))
    unit = match.group(2).lower() if match else ""
    if match is None or (unit and unit not in units):
        raise InputError("cannot read the quantity", observed=repr(text), expected=expected)
    return float(match.group(1)) * (units[unit] if unit else 1.0)


def format_duration(seconds: float) -> str:
    """A duration for a table: three figures and the unit that fits (``"12.3 ms"``)."""
    for limit, scale, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if abs(seconds) < limit:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


def format_bytes(count: float) -> str:
    """A size for a table, in decimal units (``"1.34 GB"``)."""
    for limit, scale, unit in ((1e3, 1.0, "B"), (1e6, 1e3, "kB"), (1e9, 1e6, "MB"), (1e12, 1e9, "GB")):
        if abs(count) < limit:
            return f"{count / scale:.3g} {unit}"
    return f"{count / 1e12:.3g} TB"


def format_usd(amount: float) -> str:
    """Money for a table: cents above one dollar, three figures below (``"$0.00123"``)."""
    return f"${amount:,.2f}" if abs(amount) >= 1 else f"${format_number(amount, 3)}"


def format_number(value: float, digits: int = 4) -> str:
    """A number for a table: ``digits`` figures without exponent (``"0.000031"``, ``"15,000"``, ``"989 T"``)."""
    if not math.isfinite(value):
        return str(value)
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= scale:
            return f"{value / scale:.{digits}g} {prefix}"
    return f"{value:,.0f}" if abs(value) >= 1e3 else format(Decimal(f"{value:.{digits}g}"), "f")
