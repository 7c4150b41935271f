"""Numbers of an overlay that look like another convention: throughput with sparsity, links counted both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from heterarch.catalog.device import Device
from heterarch.catalog.names import find_device_id
from heterarch.catalog.server import Link
from heterarch.errors import InputError, Where

#: (format, wider format) -> how many times faster it computes, dense
RATIOS = {("fp8", "bf16"): (1, 2), ("int8", "bf16"): (1, 2), ("fp4", "fp8"): (1, 2, 3)}
_CONSUMER = 4  # consumer cards halve 16-bit products that add up in 32 bits, so int8 is four times as fast
_TOLERANCE = 0.06
_LINKS = {"scaleup_bytes_per_s": "scale-up link", "host_bytes_per_s": "host link", "nic_bytes_per_s": "network card"}
_DENSE = "give dense throughput: halve what a data sheet gives with sparsity"
_ONE_WAY = "give the rate per direction: halve what a data sheet gives for both"


@dataclass(frozen=True, slots=True)
class CatalogWarning:
    """A number that is probably wrong by the factor ``ratio`` = ``observed`` / ``expected``; in SI units."""

    what: str
    observed: float
    expected: float
    where: Where
    fix: str

    @property
    def ratio(self) -> float:
        """How many times the expected value it is."""
        return self.observed / self.expected

    def __str__(self) -> str:
        seen = f"observed {self.observed:.4g}, expected {self.expected:.4g}, ratio {self.ratio:.2f}"
        return f"{self.where}: {self.what}: {seen}; {self.fix}"


def check_device(device: Device, known: Mapping[str, Device], where: Where) -> Iterator[CatalogWarning]:
    """Doubts about those numbers of a device that differ from what ``known`` devices say.

    Peaks are compared with each other, and with links to the same device under any of its names, else to the fastest
    of its generation.
    """
    old = known.get(device.id)
    numbers, before = _numbers(device), _numbers(old) if old else {}
    fresh = {name for name, value in numbers.items() if before.get(name) != value}
    yield from _internal(device, fresh, where)
    for name in sorted(fresh):
        reference = _reference(device, name, known)
        if reference and _is_twice(numbers[name] / reference):
            what = f"{_LINKS.get(name, f'{name} peak')} of {device.id} is twice what is known of its kind"
            yield CatalogWarning(what, numbers[name], reference, where, _ONE_WAY if name in _LINKS else _DENSE)


def check_link(link: Link, known: Mapping[str, Link], where: Where) -> Iterator[CatalogWarning]:
    """Doubts about a link that is twice as fast as it was."""
    old = known.get(link.id)
    if old and _is_twice(link.bytes_per_s / old.bytes_per_s):
        yield CatalogWarning(
            f"link {link.id} is twice what is known", link.bytes_per_s, old.bytes_per_s, where, _ONE_WAY
        )


def _internal(device: Device, fresh: set[str], where: Where) -> Iterator[CatalogWarning]:
    for (narrow, wide), usual in RATIOS.items():
        pair = device.peaks.get(narrow), device.peaks.get(wide)
        if None in pair or not fresh >= {narrow, wide}:
            continue
        observed, base = (float(peak or 0.0) for peak in pair)
        allowed = (*usual, _CONSUMER) if device.device_class == "gpu-consumer" else usual
        if not any(abs(observed / base / ratio - 1) <= _TOLERANCE for ratio in allowed):
            nearest = min(allowed, key=lambda ratio: abs(observed / base - ratio))
            what = (
                f"{narrow} of {device.id} is {observed / base:.3g} times {wide}, not {' or '.join(map(str, allowed))}"
            )
            yield CatalogWarning(what, observed, base * nearest, where, _DENSE)


def _numbers(device: Device) -> dict[str, float]:
    links = {name: getattr(device, name) for name in _LINKS}
    return {**device.peaks, **{name: value for name, value in links.items() if value}}


def _reference(device: Device, name: str, known: Mapping[str, Device]) -> float | None:
    """The number of the same device, of any device with the same link, or the largest of its generation."""
    same = known.get(device.id) or _namesake(device, known)
    if same is not None:
        return _numbers(same).get(name)
    alike = [other for other in known.values() if device.arch and other.arch == device.arch]
    if name == "scaleup_bytes_per_s" and device.scaleup_tech:
        wired = [other for other in known.values() if other.scaleup_tech == device.scaleup_tech]
        alike = wired or alike
    return max((_numbers(other)[name] for other in alike if name in _numbers(other)), default=None)


def _namesake(device: Device, known: Mapping[str, Device]) -> Device | None:
    aliases = {key: (other.name, *other.aliases) for key, other in known.items()}
    for name in (device.id, device.name):
        try:
            return known[find_device_id(name, aliases)]
        except InputError:
            continue
    return None


def _is_twice(ratio: float) -> bool:
    return abs(ratio / 2 - 1) <= _TOLERANCE
