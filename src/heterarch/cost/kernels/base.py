"""The law of a kernel family: a smooth roofline, times a residual that is learned where kernels were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: the columns of kernel shapes (``m``, ``n``, ``k``, ...), each of one length
Shapes = Mapping[str, Any]


class Work(NamedTuple):
    """What kernels compute and move, one row per kernel."""

    flops: Floats  # multiply-adds count 2
    bytes: Floats  # through device memory, or over the link of a collective
    at: Floats  # [rows, axes]: where the kernels lie for the residual, mostly log2 of sizes
    useful: Floats | None = None  # FLOP without what tiles pad; None: all


class Law(NamedTuple):
    """A smooth roofline: seconds = max((compute^s + memory^s)^(1/s) + overhead, host).

    compute = flops / (peak x ``compute``), memory = bytes / (bandwidth x ``memory``), s = ``sharpness``; a large s is
    max(compute, memory), s = 1 is their sum. ``host_s``: what the host takes to launch a kernel that is not part of a
    captured graph; launches of kernels in a row overlap with the kernels, so the longer of both counts.
    """

    compute: float  # share of the dense peak
    memory: float  # share of the memory bandwidth, or of the link's rate per direction
    overhead_s: float
    sharpness: float
    host_s: float = 0.0

    @property
    def captured(self) -> Law:
        """The same kernels in a captured graph."""
        return self._replace(host_s=0.0)

    def seconds(self, work: Work, peak: Any, bandwidth: Any) -> Floats:
        """Seconds of each kernel on a device with ``peak`` FLOP/s and ``bandwidth`` bytes/s."""
        compute, memory = self.parts(work, peak, bandwidth)
        larger = np.maximum(np.maximum(compute, memory), 1e-30)
        smaller = np.minimum(compute, memory) / larger
        device = larger * (1 + smaller**self.sharpness) ** (1 / self.sharpness) + self.overhead_s
        return np.asarray(np.maximum(device, self.host_s))

    def parts(self, work: Work, peak: Any, bandwidth: Any) -> tuple[Floats, Floats]:
        """(seconds of compute, seconds of memory) before they overlap."""
        compute = work.flops / (peak * self.compute) if np.any(work.flops) else np.zeros_like(work.bytes)
        return np.asarray(compute), np.asarray(work.bytes / (bandwidth * self.memory))


@dataclass(frozen=True)
class Family:
    """A kind of kernel: its shape columns, its work, and the axes along which its residual varies.

    ``scales`` are the lengths, in units of each axis, over which the residual varies; ``centres`` how many radial
    basis functions it has at most. Further ``lengths`` offer functions that are finer, coarser, or vary along some
    axes only (:data:`heterarch.cost.residual.CONSTANT` along the others). ``flags`` are axes from 0 to 1 that are 0
    where nothing is special: functions along them lie where something is.
    """

    name: str
    columns: tuple[str, ...]
    axes: tuple[str, ...]
    scales: tuple[float, ...]
    centres: int
    work: Callable[[Shapes, str], Work]  # (shapes, dtype) -> work
    lengths: tuple[tuple[float, ...], ...] = ()
    flags: tuple[str, ...] = ()
    compute: str = ""  # the format that multiplies whatever the format of the data
    peak: float = 0.0  # what its FLOP are counted against; 0: the device's peak
    single: bool = True  # whether an op is one kernel, which alone never takes long on the device
    uncached: float = 0.0  # of the first axis: from here on no cache holds what a kernel reads

    def __post_init__(self) -> None:
        assert all(len(self.axes) == len(one) for one in (self.scales, *self.lengths)), self.name


def columns(shapes: Shapes, names: tuple[str, ...]) -> tuple[Floats, ...]:
    """Some columns as float arrays of one common length (scalars are repeated)."""
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(shapes[name], dtype=np.float64)) for name in names))
    return tuple(arrays)


def log2(values: Any) -> Floats:
    """log2 with a floor at 2^-10, so that an empty dimension is far away and not infinite."""
    return np.asarray(np.log2(np.maximum(values, 2.0**-10)))
