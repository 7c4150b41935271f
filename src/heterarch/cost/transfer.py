"""Bytes between devices: which link connects them, how fast, and what moving KV takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from heterarch.catalog.device import Device
from heterarch.catalog.model import Model
from heterarch.catalog.server import Link
from heterarch.errors import InputError
from heterarch.units import Grade, Source

DEVICES_PER_SERVER = 8  # where a device states no scale-up domain, a PCIe server
RDMA_SHARE = 0.9  # of the NIC's line rate
RDMA_LATENCY_S = 10e-6
PCIE_LATENCY_S = 10e-6
SCALEUP_LATENCY_S = 5e-6
_LATENCY = "latencies and the RDMA share of line rate are guesses"


@dataclass(frozen=True, slots=True)
class TransferRate:
    """Bytes per second in one direction, the latency of one message, and where the rate comes from.

    ``layers``: parts in which KV leaves while the prefill computes, 1 where it leaves afterwards. ``shared``: all
    engines of both sides share the rate; otherwise each pair of engines has it to itself.
    """

    bytes_per_s: float
    latency_s: float
    source: Source
    layers: int = 1
    shared: bool = False


def group_link(device: Device, devices: int) -> TransferRate:
    """The link over which ``devices`` devices of one kind work as a group, per device and direction.

    The scale-up link inside its domain, PCIe inside one server, the NIC beyond.

    Raises:
        InputError: the device has no known link that reaches so far.
    """
    domain = device.scaleup_domain or 0
    if device.scaleup_bytes_per_s and devices <= domain:
        return _rate(device.scaleup_bytes_per_s, SCALEUP_LATENCY_S, f"{device.id} {device.scaleup_tech}")
    if device.host_bytes_per_s and devices <= DEVICES_PER_SERVER:
        return _rate(device.host_bytes_per_s, PCIE_LATENCY_S, f"{device.id} host link")
    if device.nic_bytes_per_s:
        return _rate(device.nic_bytes_per_s * RDMA_SHARE, RDMA_LATENCY_S, f"{device.id} NIC")
    raise InputError(
        f"no known link connects {devices} devices {device.id}",
        observed=f"scale-up domain {domain}",
        expected="a scale-up, host or NIC rate in the catalogue row",
    )


def pair_link(sender: Device, receiver: Device, *, same_server: bool = False) -> TransferRate:
    """The link from one device to another, per device pair and direction.

    In one server: the scale-up link of two devices of one kind, else the slower host link. Between servers: RDMA at
    the slower of both NICs.

    Raises:
        InputError: one of the two has no known link of that sort.
    """
    if same_server and sender.id == receiver.id and sender.scaleup_bytes_per_s:
        return group_link(sender, 2)
    kind = "host" if same_server else "nic"
    ends = {device.id: getattr(device, f"{kind}_bytes_per_s") for device in (sender, receiver)}
    missing = [name for name, rate in ends.items() if not rate]
    if missing:
        raise InputError(
            f"no known {kind} link on {', '.join(missing)}",
            expected=f"{kind}_bytes_per_s in the catalogue row or the fleet",
        )
    slower = min(ends, key=lambda name: ends[name])
    if same_server:
        return _rate(ends[slower], PCIE_LATENCY_S, f"{slower} host link")
    return _rate(ends[slower] * RDMA_SHARE, RDMA_LATENCY_S, f"{slower} NIC, RDMA")


def link_rate(link: Link) -> TransferRate:
    """What a transfer reaches on a link of the catalogue, whose rate is that of its standard."""
    return TransferRate(link.bytes_per_s * RDMA_SHARE, link.latency_s, link.source("bytes_per_s"))


def engine_rate(link: TransferRate, devices: int) -> TransferRate:
    """The rate of an engine whose ``devices`` devices each send their shard over their own ``link``."""
    return replace(link, bytes_per_s=link.bytes_per_s * devices)


def pair_rate(link: TransferRate, senders: int, receivers: int) -> TransferRate:
    """The rate between two engines: each device pair of the smaller one has its own ``link``, unless all share it."""
    return link if link.shared else engine_rate(link, min(senders, receivers))


def exposed_bytes(kv_bytes: Any, bytes_per_s: Any, layers: Any, prefill_s: Any) -> Any:
    """Bytes still to send when a prefill of ``prefill_s`` ends whose KV leaves in ``layers`` parts; broadcasts.

    The first part leaves after 1/layers of the prefill, the last one when it ends, so at least that one is exposed
    (Splitwise, arXiv 2311.18677, section 4.2).
    """
    overlap_s = (layers - 1) / layers * prefill_s
    return np.maximum(kv_bytes / layers, kv_bytes - overlap_s * bytes_per_s)


def kv_transfer_s(kv_bytes: Any, rate: TransferRate, prefill_s: Any = 0.0) -> Any:
    """Seconds from the end of the prefill until ``kv_bytes`` have moved between two engines at their ``rate``.

    What leaves layer by layer during ``prefill_s`` is hidden; broadcasts.
    """
    return rate.latency_s + exposed_bytes(kv_bytes, rate.bytes_per_s, rate.layers, prefill_s) / rate.bytes_per_s


def kv_bytes(model: Model, tokens: float, dtype: str = "bf16", batch: int = 1) -> float:
    """KV of ``batch`` sequences of ``tokens`` tokens (arXiv 2507.19635, equation 3, and latent attention alike)."""
    return model.kv_bytes_per_token(dtype) * tokens * batch


def egress_bytes_per_s(kv: float, ttft_s: float, prefill_devices: int = 1) -> float:
    """Rate per prefill device that sends ``kv`` bytes within the TTFT (arXiv 2507.19635, equation 1)."""
    return kv / (ttft_s * prefill_devices)


def ingress_bytes_per_s(kv: float, tbt_s: float, decode_devices: int = 1) -> float:
    """Rate per decode device that receives ``kv`` bytes within one token time (arXiv 2507.19635, equation 2)."""
    return kv / (tbt_s * decode_devices)


def _rate(bytes_per_s: float, latency_s: float, name: str) -> TransferRate:
    return TransferRate(bytes_per_s, latency_s, Source(Grade.GUESS, f"{name} from the catalogue; {_LATENCY}"))
