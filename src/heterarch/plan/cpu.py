"""Work that runs on CPUs: tools, plain code, retrieval, speech and image models known by their seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heterarch.catalog.catalog import Catalog
from heterarch.cost.tool import AUDIO_CPU, TOOL_CPU, CpuShare
from heterarch.errors import InfeasibleError
from heterarch.ir.flat import FlatProgram, OpKind
from heterarch.plan.problem import Op, Option, Resource
from heterarch.plan.queueing import staffed
from heterarch.plan.supply import Supply
from heterarch.plan.walk import Walked

KINDS = frozenset(
    {
        OpKind.TOOL,
        OpKind.COMPUTE,
        OpKind.EMBED,
        OpKind.SEARCH,
        OpKind.RERANK,
        OpKind.AUDIO,
        OpKind.IMAGE,
        OpKind.TRANSFER,
    }
)
HEADROOM = 2.0  # standard deviations of the tasks in flight
LIGHT = 1e-4  # engines that an op of no time keeps busy


@dataclass(frozen=True)
class CpuPool:
    """Workers of one sort on one supply: ``slots`` tasks at once on the ``devices`` devices of a worker."""

    key: str
    sort: str  # tools, audio
    supply: Supply
    devices: int
    slots: int


def sort_of(kind: OpKind) -> tuple[str, CpuShare]:
    """The pool that a kind of op belongs in, and the vCPUs that a task of it holds."""
    heavy = kind in (OpKind.AUDIO, OpKind.IMAGE)
    return ("audio", AUDIO_CPU) if heavy else ("tools", TOOL_CPU)


def cores_of(supply: Supply, catalog: Catalog) -> int:
    """vCPUs of one device: 1 for a vCPU, those of a socket where a server of the catalogue has it, else 4."""
    if supply.device.id == "cpu-vcpu":
        return 1
    for server in catalog.servers.values():
        if supply.device.id == server.host_device and server.host_vcpus:
            return max(1, server.host_vcpus // server.host_sockets)
    return 4


def cpu_pools(supplies: Sequence[Supply], catalog: Catalog) -> list[CpuPool]:
    """Every sort of pool on every CPU of the fleet."""
    found = []
    for supply in supplies:
        if not supply.is_cpu:
            continue
        cores = cores_of(supply, catalog)
        for sort, share in (("tools", TOOL_CPU), ("audio", AUDIO_CPU)):
            devices = max(1, math.ceil(share.vcpus / cores))
            slots = max(1, int(devices * cores / share.vcpus))
            found.append(CpuPool(f"{sort} {supply.key}", sort, supply, devices, slots))
    return found


def cpu_op(flat: FlatProgram, op: int, walked: Walked, pools: Sequence[CpuPool], requests_per_s: float) -> Op:
    """The decision where a CPU op runs; load by square-root staffing of the tasks in flight (Little's law).

    Raises:
        InfeasibleError: the fleet has no CPU.
    """
    sort, _ = sort_of(OpKind(flat.kind[op]))
    fitting = [pool for pool in pools if pool.sort == sort]
    if not fitting:
        raise InfeasibleError(
            f"no device of the fleet can run {flat.names[op]!r}",
            expected="a device of class cpu",
            fix="add cpu-vcpu to the devices of the fleet",
        )
    seconds = walked.seconds.get(op, 0.0)
    offered = requests_per_s * walked.runs.get(op, 0.0) * seconds
    load = max(staffed(offered, HEADROOM), LIGHT)
    options = tuple(Option(pool.key, seconds, 0.0, load / pool.slots) for pool in fitting)
    return Op(flat.names[op], options)


def cpu_resource(pool: CpuPool) -> Resource:
    """The engines of a CPU pool."""
    return Resource(pool.key, pool.supply.usd_per_h * pool.devices, pool.supply.key, pool.devices)
