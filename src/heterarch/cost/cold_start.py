"""How long it takes from the order of an engine to its first iteration."""

from __future__ import annotations

from dataclasses import dataclass

from heterarch.errors import InputError
from heterarch.units import Grade, Source

_GUESS = Source(Grade.GUESS, "10 GB image, 10 Gbit/s network, one NVMe drive, 40 s of warm-up")


@dataclass(frozen=True, slots=True)
class StartRates:
    """What the start of an engine is made of, on a machine that is booted and holds neither image nor weights.

    ``image_bytes``: container image of the serving engine. ``network_bytes_per_s``: from the registry or the object
    store to the machine's disk. ``disk_bytes_per_s``: from there into device memory. ``warm_up_s``: process start,
    memory profiling, compilation and graph capture.
    """

    image_bytes: float = 10e9
    network_bytes_per_s: float = 1.25e9
    disk_bytes_per_s: float = 3e9
    warm_up_s: float = 40.0
    source: Source = _GUESS


DEFAULT_RATES = StartRates()


def cold_start_s(weights_bytes: float, rates: StartRates = DEFAULT_RATES) -> float:
    """Seconds to fetch the image and the weights, to load the weights, and to warm up, one after the other.

    Engines of one machine that start together share its network and disk: give them the sum of their weights.

    Raises:
        InputError: a rate that is not above zero, or a size or time below it.
    """
    if min(rates.network_bytes_per_s, rates.disk_bytes_per_s) <= 0:
        raise InputError(
            "an engine cannot start without network and disk", observed=str(rates), expected="rates above 0"
        )
    if min(weights_bytes, rates.image_bytes, rates.warm_up_s) < 0:
        raise InputError("sizes and times of an engine's start are at least 0", observed=f"{weights_bytes}, {rates}")
    fetched = (rates.image_bytes + weights_bytes) / rates.network_bytes_per_s
    return fetched + weights_bytes / rates.disk_bytes_per_s + rates.warm_up_s
