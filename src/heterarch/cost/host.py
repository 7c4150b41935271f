"""What an iteration takes beside its kernels: scheduling, launches, sampling, and the hop between pipeline stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from heterarch.units import Grade, Source


@dataclass(frozen=True, slots=True)
class Host:
    """Seconds of host work: per iteration, per sequence of it, per hop to the next stage, per kernel launched eagerly.

    ``launch_s`` counts only where passes are not captured as graphs. It was fitted between the token times of
    Llama-2-70B at TP 8 on A100 (predicted 0.77 of measured) and on H100 (1.14), splitwise-sim 8f99e7d.
    ``pace``: how long a launch takes relative to an x86 server; with it the launches in kernel measurements transfer.
    """

    step_s: float
    sequence_s: float
    hop_s: float
    launch_s: float
    source: Source
    pace: float = 1.0


#: launches on Grace (GB200) against x86 (B200): block-scaled GEMMs 1.8, eager all-reduces 2.15 times as long
GRACE_PACE = 1.95

_DEFAULT = Host(0.5e-3, 5e-6, 12e-6, 43e-6, Source(Grade.FITTED, "host times from whole passes of Llama-3.1-70B"))
_RACK = replace(_DEFAULT, pace=GRACE_PACE)
_EDGE = Host(2e-3, 5e-6, 12e-6, 43e-6, Source(Grade.GUESS, "host times of an edge board were not measured"))

#: device class -> host work where it is not that of a server
BY_CLASS: Mapping[str, Host] = MappingProxyType({"edge": _EDGE, "rack": _RACK})


def host_work(device_class: str) -> Host:
    """Host work beside a device of this class."""
    return BY_CLASS.get(device_class, _DEFAULT)
