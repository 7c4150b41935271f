"""Time, cores and money of tasks that run on CPUs: tools, retrieval, audio, plain code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from heterarch.units import HOUR_S, Grade, Source
from heterarch.workload.distribution import Distribution, quantiles

_BLOGS = Source(Grade.RECALLED, "vendor blogs on voice stacks, p5-p95 of the printed ranges; weak evidence")


@dataclass(frozen=True, slots=True)
class CpuShare:
    """vCPUs that one running task holds, and where the number comes from."""

    vcpus: float
    source: Source


#: A tool task holds one vCPU while it runs. Containers of coding agents use 8-17 % of a core on average and up to
#: 1.7 cores at the 99th percentile (AgentCgroup traces), so one core serves latency, not throughput.
TOOL_CPU = CpuShare(1.0, Source(Grade.GUESS, "one vCPU per running tool task; 0.08-0.17 measured on average"))

#: Streaming speech models on CPU keep more cores busy.
AUDIO_CPU = CpuShare(4.0, Source(Grade.GUESS, "four vCPUs per running audio task"))

#: Seconds of the audio steps of a voice agent, from the last chunk in to the first chunk out.
AUDIO_SECONDS: Mapping[str, Distribution] = MappingProxyType(
    {
        "end-of-utterance": quantiles(p5=0.040, p95=0.080, source=_BLOGS),
        "stt": quantiles(p5=0.080, p95=0.150, source=_BLOGS),
        "tts": quantiles(p5=0.150, p95=0.250, source=_BLOGS),
    }
)


@dataclass(frozen=True, slots=True)
class TaskCost:
    """Cost of one kind of CPU task: its service time (s), its vCPUs, USD of a mean task."""

    seconds: Distribution
    vcpus: float
    usd: float
    source: Source


def task_cost(seconds: Distribution, usd_per_vcpu_h: float, cpu: CpuShare = TOOL_CPU) -> TaskCost:
    """What a task costs that holds ``cpu.vcpus`` for ``seconds``; its time is the measured distribution itself."""
    usd = seconds.mean / HOUR_S * cpu.vcpus * usd_per_vcpu_h
    return TaskCost(seconds, cpu.vcpus, usd, seconds.source)


def tasks_in_flight(rate_per_s: float, seconds: Distribution) -> float:
    """Mean number of tasks that run at once (Little's law: rate x mean seconds)."""
    return rate_per_s * seconds.mean


def vcpus_needed(rate_per_s: float, seconds: Distribution, cpu: CpuShare = TOOL_CPU, deviations: float = 2.0) -> int:
    """vCPUs for a stream of tasks: the mean in flight and ``deviations`` times its square root (M/G/inf).

    The number in flight of Poisson arrivals is Poisson whatever the service times, so two deviations leave about 2 %
    of the arrivals waiting.
    """
    load = tasks_in_flight(rate_per_s, seconds)
    return max(1, math.ceil((load + deviations * math.sqrt(load)) * cpu.vcpus))
