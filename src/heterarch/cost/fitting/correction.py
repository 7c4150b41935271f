"""What whole engines add to their kernels: constants of each engine, and a learned residual that fades elsewhere.

Time per token is scaled, and time to first token is offset and scaled, by constants of the serving engine. On top comes
a residual of both: Gaussian processes over physical coordinates of the serving point. Models and devices enter it by
their sizes alone, and far from all measurements it is 0: a model or a device of other sizes gets the constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from heterarch.cost.document import CorrectionPart, HostPart
from heterarch.cost.fitting.coordinates import LENGTHS, coordinates, measured_releases
from heterarch.cost.fitting.score import FOLDS, short, spread_of
from heterarch.cost.measured.served import ServingPoint
from heterarch.cost.residual import Basis, Floats, coverage, fit_weights, residual, spanning
from heterarch.cost.serving import Latency

FUNCTIONS = 600  # at most, for all engines, devices and formats together
#: variance of log TPOT and of log TTFT in the functions of each kind: the most likely ones of a random 70 % of the
#: measurements (Rasmussen and Williams 2006, eq. 2.30), rounded; the noise is somewhat above its most likely value
VARIANCES = ((0.04, 0.05), (0.1, 0.5))
NOISE = (0.004, 0.02)
JITTER = 1e-8  # keeps the covariance of points that repeat each other invertible
T = TypeVar("T")
ANY = ""  # constants of an engine that was not measured


class Corrected(NamedTuple):
    """Latencies of serving points, seconds, and the sd of their log error."""

    ttft_s: Floats
    tpot_s: Floats
    ttft_sigma: Floats
    tpot_sigma: Floats


def corrected(part: CorrectionPart, points: Sequence[ServingPoint], latencies: Sequence[Latency]) -> Corrected:
    """Predicted latencies of ``points`` whose closed forms are ``latencies``."""
    at = coordinates(points, part.releases)
    values = np.array([basis.values(at) for basis in part.bases])
    tpot, ttft = _hosted(part.hosts, points, latencies)
    near = np.minimum(coverage(values.max(axis=0)), 1.0)
    return Corrected(
        ttft_s=ttft * np.exp(residual(np.tensordot(part.ttft_variances, values, 1), np.array(part.ttft_weights))),
        tpot_s=tpot * np.exp(residual(np.tensordot(part.tpot_variances, values, 1), np.array(part.tpot_weights))),
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


def _fit(points: Sequence[ServingPoint], latencies: Sequence[Latency]) -> CorrectionPart:
    """Constants, then the residual of what they leave; errors are left at 0."""
    hosts = _fit_hosts(points, latencies)
    left = _measured(points) - np.log(_hosted(hosts, points, latencies))
    releases = measured_releases(points)
    at, lengths = coordinates(points, releases), np.array(list(LENGTHS.values())).T
    apart = [Basis(at, scales).values(at) for scales in lengths]
    tpot, ttft = (np.tensordot(variances, apart, 1) for variances in VARIANCES)
    chosen = spanning(tpot / sum(VARIANCES[0]) + ttft / sum(VARIANCES[1]), FUNCTIONS)
    weights = [
        fit_weights(each[:, chosen], row, noise * each[np.ix_(chosen, chosen)] + JITTER * np.eye(len(chosen)))
        for each, row, noise in zip((tpot, ttft), left, NOISE, strict=True)
    ]
    return CorrectionPart(
        hosts=hosts,
        axes=list(LENGTHS),
        releases=releases,
        lengths=lengths.tolist(),
        tpot_variances=list(VARIANCES[0]),
        ttft_variances=list(VARIANCES[1]),
        centres=np.round(at[chosen], 3).tolist(),
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
#: how firmly each is held to its start, in measurements that are off by a factor of e: the points of one deployment
#: share their errors, so that hundreds of them count as a few
_FIRM = np.array([6.0, 6.0, 20.0, 20.0])


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
