"""What whole engines add to their kernels: constants of each engine, and a learned residual that fades elsewhere.

Time per token is scaled, and time to first token is offset and scaled, by constants of the serving engine. On top comes
a residual of both on radial basis functions over physical coordinates of the serving point; models and devices enter it
by their sizes alone, and far from all measurements it is 0: a model or a device of other sizes gets the constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from heterarch.cost.document import CorrectionPart, HostPart
from heterarch.cost.fitting.score import FOLDS, short, spread_of
from heterarch.cost.kernels.formats import FORMATS, kernel_format
from heterarch.cost.measured.served import ServingPoint
from heterarch.cost.residual import CONSTANT, Floats, candidates, choose, coverage, fit_weights, residual
from heterarch.cost.serving import Latency

#: functions of TPOT and of TTFT, for all devices and formats together
FUNCTIONS = (60, 140)
RIDGE = 0.05
TYPICAL_DAY = 300.0  # where the release of the engine is unknown
BACKENDS = ("trtllm", "sglang", "vllm")
T = TypeVar("T")
ANY = ""  # constants of an engine that was not measured

#: axis -> lengths of the functions: offsets of a deployment; its trends; the neighbourhood of a point
LENGTHS: dict[str, tuple[float, float, float]] = {
    "log2 clients": (CONSTANT, 3.0, 1.5),
    "log2 prompt": (CONSTANT, 3.0, 1.5),
    "log2 output": (CONSTANT, 4.0, 1.5),
    "log2 devices": (4.0, 2.0, 1.0),
    "expert share": (1.0, 1.0, 1.0),
    "attention parallel": (1.0, 0.7, 0.7),
    **{f"is {name}": (0.7, 0.7, 0.7) for name in BACKENDS},
    "log2 weight bits": (1.0, 1.0, 1.0),
    "unpacked weights": (0.7, 0.7, 0.7),
    "disaggregated": (0.7, 0.7, 0.7),
    "log2 prefill engines": (CONSTANT, 3.0, 1.0),
    "log2 decode engines": (CONSTANT, 3.0, 1.0),
    "log2 bandwidth": (0.25, 0.25, 0.25),
    "rack": (0.35, 0.35, 0.35),
    "log2 active weights": (0.1, 0.1, 0.1),
    "log2 KV": (0.3, 0.3, 0.3),
    "months": (1.5, 1.5, 1.5),
}


class Corrected(NamedTuple):
    """Latencies of serving points, seconds, and the sd of their log error."""

    ttft_s: Floats
    tpot_s: Floats
    ttft_sigma: Floats
    tpot_sigma: Floats


def corrected(part: CorrectionPart, points: Sequence[ServingPoint], latencies: Sequence[Latency]) -> Corrected:
    """Predicted latencies of ``points`` whose closed forms are ``latencies``."""
    values = part.basis.values(coordinates(points))
    tpot, ttft = _hosted(part.hosts, points, latencies)
    near = np.minimum(coverage(values), 1.0)
    return Corrected(
        ttft_s=ttft * np.exp(residual(values, np.array(part.ttft_weights))),
        tpot_s=tpot * np.exp(residual(values, np.array(part.tpot_weights))),
        ttft_sigma=near * part.ttft_sigma + (1 - near) * part.ttft_far_sigma,
        tpot_sigma=near * part.tpot_sigma + (1 - near) * part.tpot_far_sigma,
    )


def fit_correction(points: Sequence[ServingPoint], latencies: Sequence[Latency]) -> CorrectionPart:
    """Fit the correction to measured ``points`` whose closed forms are ``latencies``.

    It is scored on held-out points; those that repeat one measurement are held out together.
    """
    _, run = np.unique(_measured(points), axis=1, return_inverse=True)
    fold = np.random.default_rng(7).permutation(run.max() + 1)[run.ravel()] % FOLDS
    held, bare = np.empty((2, len(points))), np.empty((2, len(points)))
    for index in range(FOLDS):
        out = np.flatnonzero(fold == index)
        rest = np.flatnonzero(fold != index)
        part = _fit(_take(points, rest), _take(latencies, rest))
        chosen = _take(points, out), _take(latencies, out)
        measured = _measured(chosen[0])
        answer = corrected(part, *chosen)
        held[:, out] = measured - np.log([answer.tpot_s, answer.ttft_s])
        bare[:, out] = measured - np.log(_hosted(part.hosts, *chosen))
    errors = np.median(np.abs(np.expm1(-held)), axis=1)
    return _fit(points, latencies).model_copy(
        update={
            "tpot_error": short(errors[0]),
            "ttft_error": short(errors[1]),
            "tpot_sigma": spread_of(held[0]),
            "ttft_sigma": spread_of(held[1]),
            "tpot_far_sigma": spread_of(bare[0]),
            "ttft_far_sigma": spread_of(bare[1]),
        }
    )


def coordinates(points: Iterable[ServingPoint]) -> Floats:
    """[points, axes of :data:`LENGTHS`]."""
    return np.array([_coordinates(point) for point in points], dtype=np.float64).reshape(-1, len(LENGTHS))


def _coordinates(point: ServingPoint) -> list[float]:
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
        math.log2(max(engines, 1)),
        math.log2(decode.engines),
        math.log2(point.device.mem_bytes_per_s / 1e12),
        float((point.device.scaleup_domain or 1) > 8),
        math.log2(model.active_parameters() / 1e9),
        math.log2(model.layers * values),
        day / 30,
    ]


def _fit(points: Sequence[ServingPoint], latencies: Sequence[Latency]) -> CorrectionPart:
    """Constants, then the residual of what they leave; errors are left at 0."""
    hosts = _fit_hosts(points, latencies)
    left = _measured(points) - np.log(_hosted(hosts, points, latencies))
    at = coordinates(points)
    basis = candidates(at, zip(*LENGTHS.values(), strict=True))
    values = basis.values(at)
    own = [choose([values], [np.clip(row, -1, 1)], count) for row, count in zip(left, FUNCTIONS, strict=True)]
    basis = basis.take(sorted({*own[0], *own[1]}))
    weights = [fit_weights(basis.values(at), row, RIDGE) for row in left]
    lengths, kinds = np.unique(basis.scales, axis=0, return_inverse=True)
    return CorrectionPart(
        hosts=hosts,
        axes=list(LENGTHS),
        lengths=lengths.tolist(),
        kinds=kinds.tolist(),
        centres=np.round(basis.centres, 3).tolist(),
        tpot_weights=np.round(weights[0], 4).tolist(),
        ttft_weights=np.round(weights[1], 4).tolist(),
        rows=len(points),
        **dict.fromkeys(_ERRORS, 0.0),
    )


_ERRORS = ("tpot_error", "ttft_error", "tpot_sigma", "ttft_sigma", "tpot_far_sigma", "ttft_far_sigma")
#: lowest, start and highest of first_s, expert_layer_s, prompt and rush
_LOW, _HIGH = np.log([[2e-3, 1e-5, 0.5, 1e-3], [0.5, 1e-2, 4.0, 1.0]])
#: where they start, in aggregated and in disaggregated serving: ten rounds of requests, of which the first is a burst
_START = np.log([[0.1, 3e-4, 1.0, 0.1], [0.2, 3e-4, 1.0, 0.15]])
#: how firmly each is held to its start, in measurements that are off by a factor of e
_FIRM = np.array([3.0, 3.0, 10.0, 10.0])


def _fit_hosts(points: Sequence[ServingPoint], latencies: Sequence[Latency]) -> list[HostPart]:
    """Constants of each engine, apart for aggregated and disaggregated serving, and of all engines together."""
    kinds = sorted({(point.backend, point.prefill is not None) for point in points})
    groups = [(ANY, True), (ANY, False), *kinds]
    found = []
    for backend, apart in groups:
        rows = [i for i, p in enumerate(points) if backend in (ANY, p.backend) and (p.prefill is not None) == apart]
        if rows:
            found.append(_fit_host(backend, apart, _take(points, rows), _take(latencies, rows)))
    return found


def _fit_host(backend: str, apart: bool, points: Sequence[ServingPoint], latencies: Sequence[Latency]) -> HostPart:
    """Least soft-L1 error of log TTFT, held to the start by a prior; TPOT by its median."""
    from scipy.optimize import least_squares

    log_tpot, log_ttft = _measured(points)
    terms = _terms(points, latencies)

    def error(constants: Floats) -> Floats:
        misfit = np.log(_ttft(np.exp(constants), terms)) - log_ttft
        return np.concatenate([misfit, _FIRM * (constants - start)])

    start = _START[int(apart)]
    fit = least_squares(error, start, bounds=(_LOW, _HIGH), loss="soft_l1", f_scale=0.1)
    first, layer, prompt, rush = (short(float(value)) for value in np.exp(fit.x))
    shrunk = float(np.median(log_tpot - np.log(terms[3]))) * len(points) / (len(points) + 10)
    return HostPart(
        backend=backend, disaggregated=apart, first_s=first, expert_layer_s=layer, prompt=prompt, rush=rush,
        token=short(math.exp(shrunk)),
    )  # fmt: skip


def _hosted(hosts: Sequence[HostPart], points: Sequence[ServingPoint], latencies: Sequence[Latency]) -> Floats:
    """[TPOT and TTFT, points] with the constants alone, seconds."""
    table = {(host.backend, host.disaggregated): host for host in hosts}
    kinds = [(point.backend, point.prefill is not None) for point in points]
    used = [table.get(kind) or table.get((ANY, kind[1])) or hosts[0] for kind in kinds]
    constants = np.array([(h.first_s, h.expert_layer_s, h.prompt, h.rush, h.token) for h in used]).T
    terms = _terms(points, latencies)
    return np.array([constants[4] * terms[3], _ttft(constants[:4], terms)])


def _terms(points: Sequence[ServingPoint], latencies: Sequence[Latency]) -> Floats:
    """[MoE layers; closed TTFT; mean wait in a burst of all clients; closed TPOT] of points, seconds."""
    return np.array(
        [
            (p.model.moe_layers, float(x.ttft_s), p.concurrency / 2 * float(x.service_s), float(x.tpot_s))
            for p, x in zip(points, latencies, strict=True)
        ]
    ).T


def _ttft(constants: Floats, terms: Floats) -> Floats:
    first, layer, prompt, rush = constants
    return np.asarray(first + layer * terms[0] + prompt * (terms[1] + rush * terms[2]))


def _measured(points: Sequence[ServingPoint]) -> Floats:
    return np.log([[point.tpot_s for point in points], [point.ttft_s for point in points]])


def _take(rows: Sequence[T], chosen: Iterable[int]) -> list[T]:
    return [rows[index] for index in chosen]
