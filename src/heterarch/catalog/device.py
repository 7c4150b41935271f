"""A device: one accelerator, or one CPU, as its maker or a measurement describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from heterarch.catalog.dtype import WIDER, canonical_dtype
from heterarch.errors import InputError, UnknownNameError
from heterarch.units import Source


@dataclass(frozen=True)
class Device:
    """One device; ``None`` and a missing peak mean that the catalogue does not know, never zero.

    ``peaks``: dense FLOP/s (int8: op/s) by format: fp32, tf32, bf16 (also fp16), fp8, int8, fp4.
    ``mem_bytes``: capacity with 1 GB = 10^9 bytes (HBM sold as 80 GB reports up to 7 % more); 0 for a CPU whose
    memory belongs to its server. ``mem_bytes_per_s``: peak memory bandwidth; 0 for a detected device that the
    catalogue does not know, which no fleet may use until an overlay completes it.
    ``scaleup_*``: the link among the devices of one server or rack: its name, bytes/s per device and direction, and
    how many devices it joins. ``host_bytes_per_s``: to the host, per direction. ``nic_bytes_per_s``: the device's
    share of the network, per direction. ``tdp_w``: board or module limit; ``idle_w``: powered, no work; ``wall_w``:
    all-in facility power per device with its share of the server and network.
    ``embodied_kgco2e``: cradle to gate. ``arch``: the generation whose kernels it runs (hopper, blackwell, cdna3), for
    which measurements of a sibling stand in. ``aliases``: other names. ``sources``: field or peak name -> where the
    number comes from.
    """

    id: str
    vendor: str
    name: str
    device_class: str
    year: int
    peaks: Mapping[str, float]
    mem_bytes: int
    mem_bytes_per_s: float
    scaleup_tech: str = ""
    scaleup_bytes_per_s: float | None = None
    scaleup_domain: int | None = None
    host_bytes_per_s: float | None = None
    nic_bytes_per_s: float | None = None
    tdp_w: float | None = None
    idle_w: float | None = None
    wall_w: float | None = None
    embodied_kgco2e: float | None = None
    arch: str = ""
    process: str = ""
    mem_type: str = ""
    die_mm2: float | None = None
    transistors: float | None = None
    aliases: tuple[str, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)
    note: str = ""

    def __hash__(self) -> int:
        return hash(self.id)

    def peak(self, dtype: str) -> float:
        """FLOP/s at which weights of ``dtype`` compute: its own peak, or that of the next wider format here.

        Raises:
            UnknownNameError: no such format.
            InputError: the catalogue knows no peak for it or any wider one.
        """
        return self.peaks[self.compute_dtype(dtype)]

    def compute_dtype(self, dtype: str) -> str:
        """The format whose peak :meth:`peak` returns; same errors."""
        key: str | None = canonical_dtype(dtype)
        while key is not None and key not in self.peaks:
            key = WIDER.get(key)
        if key is None:
            raise InputError(
                f"no peak is known at which {self.id} computes {dtype}",
                observed=", ".join(f"{name} {peak:.3g}" for name, peak in self.peaks.items()) or "no peaks",
                fix=f"add a row for {self.id} with that column and its source in an overlay",
            )
        return key

    def source(self, name: str) -> Source:
        """Where the number in the field ``name`` (or the peak of that format) comes from.

        Raises:
            UnknownNameError: the device has no number of that name.
        """
        if name not in self.sources:
            raise UnknownNameError(f"number of device {self.id}", name, self.sources)
        return self.sources[name]
