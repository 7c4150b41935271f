"""Laws of devices that nobody measured: guesses, and named so."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from heterarch.catalog.device import Device
from heterarch.cost.kernels.base import Law

SHARPNESS = 2.0
PADDING = 8.0  # rows of a 64-row tile over the 8 queries that share a KV head in most models
_ATTENTION = ("attention_prefill", "attention_decode")

#: device class -> (share of the dense peak, share of the memory bandwidth, seconds per kernel)
CLASSES: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "accelerator": (0.65, 0.75, 8e-6),
        "soc": (0.60, 0.75, 10e-6),
        "edge": (0.50, 0.70, 15e-6),
        "npu": (0.40, 0.60, 30e-6),
        "cpu": (0.40, 0.65, 5e-6),
    }
)

#: the same by architecture. GEMM on CDNA 3 reaches about 620 of 1,307 TFLOP/s (SemiAnalysis, December 2024, recalled),
#: far less of its peak than the devices that were measured
ARCHITECTURES: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {name: (0.47, 0.75, 8e-6) for name in ("cdna2", "cdna3", "cdna4")}
)


def prior(device: Device, family: str) -> Law | None:
    """The guessed law of a kernel family on a device, None where measured devices stand in for it.

    Attention reaches 0.6 of the compute and 0.9 of the bandwidth of the linear layers, as on the measured devices. The
    work of decode attention counts tiles that matrix units pad; a CPU has none to pad.
    """
    found = ARCHITECTURES.get(device.arch) or CLASSES.get(device.device_class)
    if found is None:
        return None
    compute, memory, overhead_s = found
    if family in _ATTENTION:
        padded = PADDING if device.device_class == "cpu" and family == "attention_decode" else 1.0
        return Law(compute * 0.6 * padded, memory * 0.9, overhead_s, SHARPNESS)
    return Law(compute, memory, overhead_s, SHARPNESS)
