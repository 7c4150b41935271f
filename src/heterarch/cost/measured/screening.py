"""Which measured rows can be trusted: units, impossible rates, repeats; what is left out is said."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heterarch.cost.kernels.base import Family
from heterarch.cost.measured.columns import Floats, Mask
from heterarch.cost.measured.measurements import KernelTable
from heterarch.errors import InputError

#: a median below this share of the roofline is in another unit; no kernel is shorter than LEAST_S
TOO_FAST = 1 / 20
LEAST_S = 1e-6
#: the same above this multiple of the roofline and SLOW_START_S; the slowest engines take 0.2 ms to launch a kernel
TOO_SLOW = 25.0
SLOW_START_S = 2e-4
#: rows this much slower, against the roofline, than the median row
OUTLIER = 200.0
#: a rate above the dense peak by more than clocks and rounding explain
ABOVE_PEAK = 1.05
MOST_ABOVE_PEAK = 0.2
#: repeats of a shape that differ by more contradict each other
SPREAD = 1.5
LISTED = 5  # rows that a note names


class Screened(NamedTuple):
    """The rows that remain, and what was left out or merged."""

    table: KernelTable
    notes: list[str]


def screen(table: KernelTable, family: Family, peak: float, bandwidth: float) -> Screened:
    """``table`` without what cannot be true, repeats merged to their median.

    Args:
        table: kernels of one family, device, format and engine.
        family: of the table.
        peak: dense FLOP/s of the device in the format.
        bandwidth: bytes/s of its memory, or of its link for collectives.

    Raises:
        InputError: the times are in another unit than the column says, more than a fifth of the rows beat the peak,
            or no row is usable.
    """
    notes: list[str] = []
    table = _keep(table, usable(table), "is not a time above 0 with sizes above 0", notes)
    if not len(table):
        raise InputError(f"no row of {table.name} is usable", observed="; ".join(notes), where=table.file)
    work = family.work(table.shapes, table.dtype)
    flops = work.flops if work.useful is None else work.useful
    roofline_s = np.maximum(flops / peak, work.bytes / bandwidth)
    _check_unit(table, roofline_s)
    above = flops / peak > ABOVE_PEAK * table.seconds
    _check_peak(table, above, flops, peak)
    slow = table.seconds / (roofline_s + SLOW_START_S)
    outlier = slow > OUTLIER * np.median(slow)
    notes += _listed(table, above, f"computes faster than the peak of {peak:.3g} FLOP/s")
    notes += _listed(table, outlier & ~above, f"is more than {OUTLIER:g}x slower than the others: another unit?")
    return _merged(_rows(table, ~above & ~outlier), notes)


def usable(table: KernelTable) -> Mask:
    """Rows with a positive time and sizes; a window or a skew may be 0."""
    sizes = np.stack(list(table.shapes.values()))
    may_be_0 = np.array([name in ("window", "skew") for name in table.shapes])[:, None]
    whole = np.isfinite(sizes) & ((sizes > 0) | (may_be_0 & (sizes == 0)))
    return np.asarray(np.isfinite(table.seconds) & (table.seconds > 0) & whole.all(axis=0))


def _check_unit(table: KernelTable, roofline_s: Floats) -> None:
    fast = float(np.median(table.seconds / np.maximum(roofline_s, LEAST_S)))
    slow = float(np.median(table.seconds / (roofline_s + SLOW_START_S)))
    if fast < TOO_FAST:
        looks = "in a larger unit than its column says (seconds in a column of milliseconds)"
        raise _unit_error(table, looks, f"median is {1 / fast:,.0f}x below the roofline of the data sheet")
    if slow > TOO_SLOW:
        looks = "in a smaller unit than its column says (microseconds in a column of milliseconds)"
        raise _unit_error(table, looks, f"median is {slow:,.0f}x above the roofline of the data sheet")


def _unit_error(table: KernelTable, looks: str, observed: str) -> InputError:
    return InputError(
        f"the latency of {table.name} looks {looks}",
        observed=f"{observed}; median {np.median(table.seconds):.3g} s",
        expected="a column named latency_s, latency_ms or latency_us, as the numbers are",
        where=table.file,
        fix="rename the column to the unit that its numbers have",
    )


def _check_peak(table: KernelTable, above: Mask, flops: Floats, peak: float) -> None:
    if above.mean() > MOST_ABOVE_PEAK:
        rate = float(np.max(flops / table.seconds))
        raise InputError(
            f"{above.mean():.0%} of the rows of {table.name} beat the device's peak",
            observed=f"up to {rate:.3g} FLOP/s, {rate / peak:.2f}x the peak",
            expected=f"at most {peak:.3g} FLOP/s, dense",
            where=table.file,
            fix="check the device and the format; a peak of the catalogue is dense, not sparse",
        )


def _keep(table: KernelTable, good: Mask, why: str, notes: list[str]) -> KernelTable:
    notes += _listed(table, ~good, why)
    return _rows(table, good)


def _listed(table: KernelTable, bad: Mask, why: str) -> list[str]:
    """A note on the rows that are left out, naming the first."""
    if not bad.any():
        return []
    rows = table.rows[bad]
    more = f" and {len(rows) - LISTED:,} more" if len(rows) > LISTED else ""
    named = ", ".join(f"{row:.0f} ({seconds:.3g} s)"
                      for row, seconds in zip(rows[:LISTED], table.seconds[bad][:LISTED], strict=True))  # fmt: skip
    return [f"{table.file}: left out {len(rows):,} of {len(table):,} rows, each of which {why}: row {named}{more}"]


def _rows(table: KernelTable, chosen: Mask) -> KernelTable:
    return _at(table, np.flatnonzero(chosen))


def _at(table: KernelTable, places: NDArray[np.intp]) -> KernelTable:
    return replace(
        table,
        shapes={name: values[places] for name, values in table.shapes.items()},
        seconds=table.seconds[places],
        groups=[table.groups[place] for place in places],
        rows=table.rows[places],
    )


def _merged(table: KernelTable, notes: list[str]) -> Screened:
    """Rows of one shape as one, at their median time."""
    sizes = np.stack(list(table.shapes.values()), axis=1)
    _, first, shape = np.unique(sizes, axis=0, return_index=True, return_inverse=True)
    if len(first) == len(table):
        return Screened(table, notes)
    order = np.lexsort((table.seconds, shape.ravel()))
    ends = np.searchsorted(shape.ravel()[order], np.arange(len(first) + 1))
    start, stop, sorted_s = ends[:-1], ends[1:], table.seconds[order]
    spread = sorted_s[stop - 1] / sorted_s[start]
    median = (sorted_s[(start + stop - 1) // 2] + sorted_s[(start + stop) // 2]) / 2
    notes += [f"{table.file}: merged {len(table) - len(first):,} rows that repeat a shape of {table.name}"]
    if (spread > SPREAD).any():
        where = table.rows[first[int(spread.argmax())]]
        notes += [
            f"{table.file}: {(spread > SPREAD).sum():,} shapes of {table.name} were measured with times that differ by "
            f"more than {SPREAD:g}x (up to {spread.max():.3g}x, row {where:.0f}); the median is kept"
        ]
    return Screened(replace(_at(table, first), seconds=median), notes)
