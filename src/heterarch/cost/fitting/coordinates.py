"""Where a serving point lies among others: physical coordinates, and how far along each of them points are alike."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from heterarch.cost.kernels.formats import FORMATS, kernel_format
from heterarch.cost.measured.served import ServingPoint
from heterarch.cost.residual import CONSTANT, Floats

TYPICAL_DAY = 300.0  # where the date is unknown
BACKENDS = ("trtllm", "sglang", "vllm")
#: axis -> lengths of the two kinds of functions: offsets of a deployment, and its trends with load
LENGTHS: dict[str, tuple[float, float]] = {
    "log2 clients": (CONSTANT, 3.0),
    "log2 prompt": (CONSTANT, 3.0),
    "log2 output": (CONSTANT, 4.0),
    "log2 devices": (4.0, 2.0),
    "expert share": (1.0, 1.0),
    "attention parallel": (1.0, 0.7),
    **{f"is {name}": (0.7, 0.7) for name in BACKENDS},
    "log2 weight bits": (1.0, 1.0),
    "unpacked weights": (0.7, 0.7),
    "disaggregated": (0.7, 0.7),
    "pools unknown": (0.7, 0.7),
    "log2 prefill engines": (CONSTANT, 3.0),
    "log2 decode engines": (CONSTANT, 3.0),
    "log2 bandwidth": (0.25, 0.25),
    "rack": (0.35, 0.35),
    "log2 active weights": (0.3, 0.3),
    "log2 KV": (0.3, 0.3),
    "months": (1.5, 1.5),
    "release known": (0.7, 0.7),
    "release": (1.0, 1.0),
}


def coordinates(points: Iterable[ServingPoint], releases: Mapping[str, Sequence[str]]) -> Floats:
    """[points, axes of :data:`LENGTHS`]; ``releases`` of each engine are one apart, oldest first."""
    found = [[*_sizes(point), *_release(point, releases)] for point in points]
    return np.array(found, dtype=np.float64).reshape(-1, len(LENGTHS))


def measured_releases(points: Iterable[ServingPoint]) -> dict[str, list[str]]:
    """Engine -> its releases among ``points``, oldest first."""
    known = {(point.backend, point.release) for point in points if point.release}
    return {
        engine: sorted((release for name, release in known if name == engine), key=_age)
        for engine in sorted({engine for engine, _ in known})
    }


def _age(release: str) -> tuple[bool, list[int], str]:
    """Sorts releases by their numbers; builds without a number of their own (nightly) are newer than all releases."""
    return not release[:1].isdigit(), [int(number) for number in re.findall(r"\d+", release)], release


def _release(point: ServingPoint, releases: Mapping[str, Sequence[str]]) -> tuple[float, float]:
    """(whether it is known, its rank); one that was not measured lies half way between its neighbours."""
    if not point.release:
        return 0.0, 0.0
    known = releases.get(point.backend, ())
    rank = bisect_left(known, _age(point.release), key=_age)
    return 1.0, 1.0 + rank - 0.5 * (point.release not in known)


def _sizes(point: ServingPoint) -> list[float]:
    model, decode, form = point.model, point.decode, FORMATS[kernel_format(point.dtype)]
    values = model.kv_lora_rank + model.qk_rope_dim if model.mla else 2 * model.kv_heads * model.head_dim
    engines = point.prefill.engines if point.prefill else 1
    day = TYPICAL_DAY if math.isnan(point.day) else point.day
    return [
        math.log2(point.concurrency / decode.engines),
        math.log2(point.prompt),
        math.log2(point.output),
        math.log2(decode.devices),
        math.log2(decode.ep) / max(math.log2(decode.devices), 1),
        float(decode.attention_dp > 1),
        *(float(point.backend == name) for name in BACKENDS),
        math.log2(8 * form.weight_bytes),
        float(form.weight_bytes < form.activation_bytes),
        float(point.prefill is not None),
        float(engines == 0),
        math.log2(max(engines, 1)),
        math.log2(decode.engines),
        math.log2(point.device.mem_bytes_per_s / 1e12),
        float((point.device.scaleup_domain or 1) > 8),
        math.log2(model.active_parameters() / 1e9),
        math.log2(model.layers * values),
        day / 30,
    ]
