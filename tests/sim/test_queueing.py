"""The engine model against queueing theory.

A long simulation of the core would be needed for a narrow confidence interval, so each check has two steps: the core
has the times of an exact queue on the same arrivals, and that queue has those of the formula over many more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from heterarch.plan.document import StepPart
from heterarch.plan.queueing import erlang_c

from .queues import Floats, fifo_waits, md1_wait, shared_sojourns
from .worlds import calls_of, mixed, run, tools

LOADS = (0.5, 0.8, 0.9)
SERVERS = 4
WITHIN, HALF_WIDTH = 0.02, 0.01
BATCHES = 40
Queue = Callable[[np.random.Generator, int, float], Floats]


def exponential(rng: np.random.Generator, n: int, mean: float) -> Floats:
    return rng.exponential(mean, n)


def md1(rng: np.random.Generator, n: int, load: float) -> Floats:
    return np.asarray(fifo_waits(exponential(rng, n, 1 / load), np.ones(n), 1))


def mmc(rng: np.random.Generator, n: int, load: float) -> Floats:
    return np.asarray(fifo_waits(exponential(rng, n, 1 / (load * SERVERS)), exponential(rng, n, 1.0), SERVERS))


def ps(rng: np.random.Generator, n: int, load: float) -> Floats:
    return np.asarray(shared_sojourns(exponential(rng, n, 1 / load), exponential(rng, n, 1.0)))


def mmc_wait(load: float, share: float) -> float:
    """The percentile ``share`` of the wait in M/M/c: P(W > t) = C exp(-(c - a) t) (Kleinrock 1975, vol. 1, 3.5)."""
    waiting = erlang_c(SERVERS, load * SERVERS)
    return max(0.0, math.log(waiting / (1 - share)) / (SERVERS * (1 - load)))


def batched(queue: Queue, load: float, arrivals: int) -> dict[str, tuple[float, float]]:
    """Mean and 99th percentile over batches, each with the half width of its 95 % interval."""
    rng = np.random.default_rng([7, round(100 * load)])
    queue(rng, 10, load)  # loads or compiles it
    parts = [queue(rng, arrivals // BATCHES, load) for _ in range(BATCHES)]
    figures = {"mean": [part.mean() for part in parts], "p99": [np.percentile(part, 99) for part in parts]}
    return {name: (float(np.mean(v)), float(1.96 * np.std(v, ddof=1) / BATCHES**0.5)) for name, v in figures.items()}


def expect(found: tuple[float, float], exact: float) -> None:
    mean, half = found
    assert half < HALF_WIDTH * exact
    assert mean == pytest.approx(exact, rel=WITHIN)


def check_md1(load: float, arrivals: int) -> None:
    found = batched(md1, load, arrivals)
    expect(found["mean"], load / (2 * (1 - load)))
    expect(found["p99"], md1_wait(load, 0.99))


def check_mmc(load: float, arrivals: int) -> None:
    found = batched(mmc, load, arrivals)
    expect(found["mean"], erlang_c(SERVERS, load * SERVERS) / (SERVERS * (1 - load)))
    expect(found["p99"], mmc_wait(load, 0.99))


def check_ps(load: float, arrivals: int) -> None:
    expect(batched(ps, load, arrivals)["mean"], 1 / (1 - load))


@pytest.mark.parametrize("load", LOADS)
def test_one_seat_is_the_queue_of_one_server(load: float) -> None:
    """M/D/1: one seat, one token, one second."""
    n = 30_000
    gaps = np.random.default_rng(1).exponential(1 / load, n)
    pool = mixed(concurrency=1, step=StepPart(fixed_s=1.0, token_s=0.0))
    sequences = run([pool], calls_of([1] * n, [1] * n, at=np.cumsum(gaps))).sequences
    waits = fifo_waits(gaps, np.ones(n), 1)
    np.testing.assert_allclose(sequences["scheduled_s"] - sequences["submitted_s"], waits, atol=1e-6)
    np.testing.assert_allclose(sequences["finish_s"] - sequences["submitted_s"], waits + 1, atol=1e-6)


@pytest.mark.parametrize("load", LOADS)
def test_servers_are_one_queue_for_all(load: float) -> None:
    """M/M/c."""
    n, rng = 30_000, np.random.default_rng(2)
    gaps, services = rng.exponential(1 / (load * SERVERS), n), rng.exponential(1.0, n)
    work = calls_of([0] * n, [0] * n, at=np.cumsum(gaps), kind=np.zeros(n), service_s=services)
    sequences = run([tools(servers=SERVERS)], work).sequences
    waits = fifo_waits(gaps, services, SERVERS)
    np.testing.assert_allclose(sequences["scheduled_s"] - sequences["submitted_s"], waits, atol=1e-6)


@pytest.mark.parametrize("load", LOADS)
def test_seats_without_limit_share_the_processor(load: float) -> None:
    """M/G/1-PS: an iteration takes as long as it has decodes; each token is one share.

    A request comes into the middle of an iteration, so it starts up to one iteration late: relative to its own time
    less than one token of its length.
    """
    n, tokens, rng = 8_000, 200, np.random.default_rng(3)
    sizes = 1 + np.maximum(np.rint(rng.exponential(tokens, n)), 1).astype(np.int64)
    gaps = rng.exponential(1 / load, n)
    second = 1 / float(np.mean(sizes - 1))
    pool = mixed(
        concurrency=4096, max_batched_tokens=8192, kv_tokens=1 << 24, step=StepPart(fixed_s=0, token_s=0, sequence_s=second)
    )  # fmt: skip
    sequences = run([pool], calls_of([1] * n, sizes, at=np.cumsum(gaps))).sequences
    found = sequences["finish_s"] - sequences["submitted_s"]
    exact = shared_sojourns(gaps, (sizes - 1) * second)
    assert found.mean() == pytest.approx(exact.mean(), rel=0.01)
    assert np.percentile(found, 99) == pytest.approx(np.percentile(exact, 99), rel=0.01)


@pytest.mark.parametrize("check", [check_md1, check_mmc, check_ps])
def test_the_exact_queues_have_the_times_of_the_formulas(check: Any) -> None:
    check(0.5, 8_000_000)


@pytest.mark.slow
@pytest.mark.parametrize(("load", "arrivals"), [(0.8, 20_000_000), (0.9, 80_000_000)])
@pytest.mark.parametrize("check", [check_md1, check_mmc, check_ps])
def test_so_they_have_under_high_load(check: Any, load: float, arrivals: int) -> None:
    check(load, arrivals)


@pytest.mark.parametrize("arrival", [0.0, 1.0])
def test_a_faster_engine_is_faster_by_as_much(arrival: float) -> None:
    """Half the coefficients at twice the rate: every time is halved to the last bit."""
    rng = np.random.default_rng(4)
    prompts, outputs, at = rng.integers(1, 200, 300), rng.integers(1, 90, 300), np.cumsum(rng.exponential(arrival, 300))
    names = {"fixed_s": 0.011, "token_s": 3e-4, "pair_s": 1e-6, "context_s": 2e-6, "sequence_s": 1e-4, "mixed_s": 1e-6}
    slow, fast = (
        run(
            [mixed(step=StepPart(**{name: value / speed for name, value in names.items()}))],
            calls_of(prompts, outputs, at=at / speed),
        ).sequences
        for speed in (1, 2)
    )
    for name in ("submitted_s", "scheduled_s", "first_s", "finish_s"):
        np.testing.assert_array_equal(slow[name], 2 * fast[name])
