"""Which fit of which calibration a kernel's prediction uses, and how sure it is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from heterarch.catalog.device import Device
from heterarch.cost.document import LAW_SIGMA, Calibration, Fit, shipped
from heterarch.cost.fitting.engine_fit import EngineFit
from heterarch.cost.host import host_work
from heterarch.cost.kernels.base import Family, Floats, Law, Shapes, Work
from heterarch.cost.kernels.families import FAMILIES
from heterarch.cost.kernels.formats import FORMATS, fallbacks
from heterarch.cost.priors import prior
from heterarch.cost.residual import Basis, coverage, residual
from heterarch.errors import InputError, UnknownNameError
from heterarch.units import Grade, Source

#: sd of the log error that a transfer adds: to another chip of one architecture, to another generation, to a class
TRANSFER_SIGMA = {"same": 0.0, "sibling": 0.12, "other": 0.35, "guess": 0.7}
#: the same of a format that stands in for another
FORMAT_SIGMA = 0.35
#: most that the 16-bit peaks of siblings differ by; one chip of a generation may be another design
SIBLING_RATIO = 1.5


class Estimate(NamedTuple):
    """Seconds of kernels, what bounds each, and how sure that is; arrays of one length.

    ``sigma`` is the sd of the log error: about 68 % of measurements lie in seconds x exp(+-sigma).
    """

    seconds: Floats
    compute_s: Floats
    memory_s: Floats
    overhead_s: float
    sigma: Floats


@dataclass(frozen=True)
class Kernel:
    """A family on one device in one format: evaluates shapes. ``relation``: same, sibling, other or guess."""

    family: Family
    dtype: str
    law: Law
    peak: float
    bandwidth: float
    basis: Basis | None
    weights: Floats
    relation: str
    source: Source
    sigma: float
    law_sigma: float
    uncached: bool = False

    @property
    def cold(self) -> Kernel:
        """The kernel where all that it reads comes from memory, at the rate of reads that no cache holds.

        Measurements repeat a kernel on the same data, much of which a large cache still holds; in a pass the weights
        and the KV of all other layers go through the cache in between.
        """
        return replace(self, uncached=True)

    @property
    def captured(self) -> Kernel:
        """The kernel without launches from the host."""
        return replace(self, law=self.law.captured)

    def seconds(self, shapes: Shapes) -> Floats:
        """Seconds of each kernel of ``shapes``."""
        return self._seconds(self.family.work(shapes, self.dtype))[0]

    def estimate(self, shapes: Shapes) -> Estimate:
        """Seconds with their parts and their uncertainty."""
        work = self.family.work(shapes, self.dtype)
        seconds, covered = self._seconds(work)
        compute, memory = self.law.parts(work, self.peak, self.bandwidth)
        near = covered * self.sigma**2 + (1 - covered) * self.law_sigma**2
        sigma = np.sqrt(near + TRANSFER_SIGMA[self.relation] ** 2)
        return Estimate(seconds, compute, memory, self.law.overhead_s, sigma)

    def _seconds(self, work: Work) -> tuple[Floats, Floats]:
        seconds = self.law.seconds(work, self.peak, self.bandwidth)
        if self.basis is None or not len(self.weights):
            return seconds, np.zeros(len(seconds))
        values = self.basis.values(work.at)
        factor = np.exp(residual(values, self.weights))
        if self.uncached:
            far = np.concatenate([np.maximum(work.at[:, :1], self.family.uncached), work.at[:, 1:]], axis=1)
            factor = np.maximum(factor, np.exp(residual(self.basis.values(far), self.weights)))
        return seconds * factor, coverage(values)


class Library:
    """Calibrations to predict with, the user's own before the shipped one; answers which fit a kernel uses.

    A fit of the device itself comes first, then one of a chip of the same architecture (with the peaks of the data
    sheet in the law, so that bandwidth and compute carry over), then the law that other generations have on average,
    then the law of its class. A format that was not measured uses the next one that computes alike.
    """

    def __init__(self, calibrations: Iterable[Calibration], devices: Mapping[str, Device]) -> None:
        self.calibrations = tuple(calibrations)
        self.devices = devices
        self._cache: dict[tuple[str, Device, str, str, float, str], Kernel] = {}

    def kernel(
        self, family: str, device: Device, dtype: str, engine: str = "", bandwidth: float = 0.0, version: str = ""
    ) -> Kernel:
        """The kernel of ``family`` on ``device`` in the kernel format ``dtype``.

        Args:
            family: a name of :data:`heterarch.cost.kernels.families.FAMILIES`.
            device: any row of a catalogue.
            dtype: a name of :data:`heterarch.cost.kernels.formats.FORMATS`.
            engine: prefer fits of this engine.
            bandwidth: bytes/s of the link for collectives; 0 stands for the device's memory.
            version: prefer fits of this version of the engine; otherwise the newest.

        Raises:
            InputError: the device has no peak in which the format can compute.
        """
        for kind, name, known in (("kernel family", family, FAMILIES), ("kernel format", dtype, FORMATS)):
            if name not in known:
                raise UnknownNameError(kind, name, [*known])
        key = (family, device, dtype, engine, bandwidth, version)
        if key not in self._cache:
            self._cache[key] = self._find(family, device, dtype, engine, bandwidth, version)
        return self._cache[key]

    def engine_fit(self, split: str, model: str, engine: str) -> EngineFit | None:
        """What logs of that model on engines of that split say (``EngineConfig.name``), None where there are none."""
        for calibration in self.calibrations:
            for fit in calibration.engines:
                if (fit.split, fit.model) == (split, model) and engine in ("", fit.engine):
                    return fit
        return None

    def _find(self, family: str, device: Device, dtype: str, engine: str, bandwidth: float, version: str) -> Kernel:
        rate, guess = bandwidth or device.mem_bytes_per_s, prior(device, family)
        for tier in ("same", "sibling") if guess else ("same", "sibling", "other"):
            for name in fallbacks(dtype):
                for calibration in self.calibrations:
                    fits = [
                        fit for fit in calibration.by_key.get((family, name), ()) if self._relation(fit, device) == tier
                    ]
                    fit = self._best(fits, device, engine, version)
                    if fit is not None:
                        law = self._typical(fits, fit, device) if tier == "other" else self._moved(fit, device)
                        return self._kernel(calibration, fit, law, tier, device, dtype, rate)
        if guess:
            return _guessed(FAMILIES[family], dtype, guess, device, rate)
        raise InputError(
            f"no calibration has a fit of {family}, so {device.id} cannot be predicted",
            observed=", ".join(c.name for c in self.calibrations) or "no calibration",
            fix="use the shipped calibration, or measure and run `heterarch calibrate`",
        )

    def _moved(self, fit: Fit, device: Device) -> Law:
        """The law of a fit with launches as long as the hosts of ``device`` take."""
        donor = self.devices.get(fit.device, device)
        pace = host_work(device.device_class).pace / host_work(donor.device_class).pace
        return fit.law._replace(host_s=fit.host_s * pace)

    def _typical(self, fits: Iterable[Fit], best: Fit, device: Device) -> Law:
        """The geometric mean of the laws that the engine of ``best`` has on chips of its vendor, by generation."""
        laws: dict[str, list[Law]] = {}
        for fit in fits:
            if fit.engine == best.engine and self._vendor(fit) == self._vendor(best):
                donor = self.devices.get(fit.device)
                laws.setdefault(donor.arch if donor else "", []).append(self._moved(fit, device))
        return _mean([_mean(generation) for generation in laws.values()])

    def _vendor(self, fit: Fit) -> str:
        donor = self.devices.get(fit.device)
        return donor.vendor if donor else ""

    def _relation(self, fit: Fit, device: Device) -> str:
        if fit.device == device.id:
            return "same"
        donor = self.devices.get(fit.device)
        return "sibling" if donor and _siblings(donor, device) else "other"

    def _best(self, fits: list[Fit], device: Device, engine: str, version: str) -> Fit | None:
        def distance(fit: Fit) -> tuple[bool, bool, float, str, bool]:
            donor = self.devices.get(fit.device)
            other, far = donor is None or donor.vendor != device.vendor, _distance(donor, device) if donor else math.inf
            return (fit.engine != engine, other, far, fit.device, fit.engine_version != version)

        return min(sorted(fits, key=_release, reverse=True), key=distance, default=None)

    def _kernel(
        self, calibration: Calibration, fit: Fit, law: Law, tier: str, device: Device, dtype: str, rate: float
    ) -> Kernel:
        own, family = fit.dtype == dtype, FAMILIES[fit.family]
        basis = calibration.bases.get(fit.family) if tier != "other" and own else None
        if basis is not None:
            basis = basis.take(range(len(fit.weights)))
        if basis is not None and fit.domain:
            bounds = [fit.domain[axis] for axis in family.axes]
            basis = basis.within([low for low, _ in bounds], [high for _, high in bounds])
        return Kernel(
            family=family,
            dtype=dtype,
            law=law,
            peak=_peak(family, device, dtype),
            bandwidth=rate,
            basis=basis,
            weights=np.array(fit.weights if basis is not None else []),
            relation=tier,
            source=_source(calibration, fit, tier),
            sigma=fit.sigma if own else math.hypot(fit.sigma, FORMAT_SIGMA),
            law_sigma=fit.law_sigma if own else math.hypot(fit.law_sigma, FORMAT_SIGMA),
        )


def _mean(laws: Sequence[Law]) -> Law:
    """The geometric mean of each number; a host that one law does not wait for none does."""
    numbers = np.array(laws)
    with np.errstate(divide="ignore"):
        return Law(*np.exp(np.log(numbers).mean(axis=0)).tolist())


def _release(fit: Fit) -> list[int]:
    """The numbers of an engine's version, to order releases."""
    return [int(number) for number in re.findall(r"\d+", fit.engine_version)]


def _siblings(donor: Device, device: Device) -> bool:
    """Whether two devices are of one architecture and of alike size."""
    peaks = donor.peaks.get("bf16", 0.0), device.peaks.get("bf16", 0.0)
    return bool(donor.arch) and donor.arch == device.arch and max(peaks) <= SIBLING_RATIO * min(peaks)


def _distance(donor: Device, device: Device) -> float:
    """How unlike two devices are: the sum of |log ratio| of memory bandwidth, 16-bit peak and scale-up domain."""
    pairs = [
        (donor.mem_bytes_per_s, device.mem_bytes_per_s),
        (donor.peaks.get("bf16"), device.peaks.get("bf16")),
        (donor.scaleup_domain or 1, device.scaleup_domain or 1),
    ]
    return sum(abs(math.log(a / b)) if a and b else 1.0 for a, b in pairs)


def _peak(family: Family, device: Device, dtype: str) -> float:
    """What the law divides FLOP by."""
    return family.peak or device.peak(family.compute or FORMATS[dtype].compute)


def _guessed(family: Family, dtype: str, law: Law, device: Device, rate: float) -> Kernel:
    source = Source(Grade.GUESS, f"no public kernel measurements of {device.arch or device.device_class}")
    peak = _peak(family, device, dtype)
    return Kernel(family, dtype, law, peak, rate, None, np.zeros(0), "guess", source, LAW_SIGMA, LAW_SIGMA)


def library_of(calibrations: Iterable[Calibration], devices: Mapping[str, Device]) -> Library:
    """The user's calibrations before the shipped one, with the devices of a catalogue."""
    return Library((*calibrations, shipped()), devices)


@lru_cache(maxsize=1)
def default_library() -> Library:
    """The shipped calibration with the devices of the packaged catalogue."""
    from heterarch.catalog.catalog import Catalog

    return Library((shipped(),), Catalog.load().devices)


def _source(calibration: Calibration, fit: Fit, tier: str) -> Source:
    version = f" {fit.engine_version}" if fit.engine_version else ""
    what = f"{fit.engine}{version} {fit.family} on {fit.device} ({calibration.name})"
    if tier == "same":
        return Source(fit.grade, f"{what}; held-out error {fit.held_out.mean:.0%}")
    if tier == "sibling":
        return Source(Grade.DERIVED, f"{what}, a chip of the same architecture")
    return Source(Grade.GUESS, f"mean law of other architectures, the nearest: {what}")
