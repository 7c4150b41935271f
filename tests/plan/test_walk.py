"""The sampled walk and the critical path on programs whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heterarch.errors import InputError
from heterarch.ir.flat import FlatProgram, OpKind
from heterarch.plan.critical import critical_stages
from heterarch.plan.problem import longest_path_s
from heterarch.plan.statistic import fit_window
from heterarch.plan.walk import CallSample, CallTimes, walk
from heterarch.policy.base import Floats

from .programs import fanned, looped, lower, single, spoken, workload


class Fixed:
    """One second of prefill, half of transfer, two of decode; tasks as declared."""

    def call(self, sample: CallSample) -> CallTimes:
        one = np.ones_like(sample.output)
        return CallTimes(one, 0.5 * one, 2 * one)

    def task(self, op: int, seconds: Floats) -> Floats:
        return seconds


def op_of(flat: FlatProgram, name: str) -> int:
    return flat.names.index(name)


def test_loop_carries_the_chat_and_the_session_keeps_it() -> None:
    flat, _ = lower(looped)
    seen = walk(flat, workload(requests=2.0, think_s=60.0), timing=Fixed(), requests=20)
    assert seen.requests == 20
    assert seen.runs[op_of(flat, "step.decode")] == pytest.approx(3.0)
    assert np.allclose(seen.e2e_s, 3 * (3.5 + 2.0))
    rows = seen.calls[[0, 10, 20, 30, 40, 50]]  # ten sessions side by side
    assert rows["shared"].tolist() == [1000.0] * 6
    assert rows["context"].tolist() == [1000 + 250.0 * k for k in range(6)]
    assert rows["previous"].tolist() == [0.0] + [50.0] * 5
    assert rows["gap_s"].tolist() == [math.inf, 2.0, 2.0, 62.0, 2.0, 2.0]
    assert rows["next_gap_s"].tolist() == [2.0, 2.0, 62.0, 2.0, 2.0, math.inf]


def test_map_branch_and_parallel_parts() -> None:
    flat, _ = lower(fanned)
    seen = walk(flat, workload(), timing=Fixed(), requests=50)
    assert seen.runs[op_of(flat, "worker.work.decode")] == pytest.approx(4.0)
    assert np.allclose(seen.e2e_s, 0.25 + 2.0 + 3.5 + 3.5)
    flat, _ = lower(spoken)
    seen = walk(flat, workload(), requests=2000)
    assert seen.runs[op_of(flat, "search")] == pytest.approx(0.25, abs=0.04)


def test_structure_does_not_depend_on_timing() -> None:
    flat, _ = lower(spoken)
    fast, slow = (walk(flat, workload(), seed=3, timing=t) for t in (None, Fixed()))
    assert fast.runs == slow.runs
    assert np.array_equal(fast.calls["output"], slow.calls["output"])


def test_a_full_window_is_compacted_once_in_a_while() -> None:
    flat, _ = lower(looped)
    seen = walk(flat, workload(requests=40.0), windows={"Meta-Llama-3.1-8B": 6000}, requests=40)
    assert 0 < seen.clipped <= 8  # 120 calls of 250 tokens on a window of 6,000
    assert float((seen.calls["context"] + seen.calls["appended"] + seen.calls["output"]).max()) <= 6000
    assert fit_window(5900, 1000, 200, 50, 6000) == pytest.approx((1800.0, 200, 50))
    assert fit_window(5900, 3000, 200, 50, 6000) == (3000, 200, 50)
    assert fit_window(5900, 0, 5800, 100, 6000) == (100, 5800, 100)
    assert fit_window(500, 100, 200, 50, 6000) == (500, 200, 50)


@pytest.mark.parametrize("agent", [single, looped, fanned])
def test_the_expected_path_equals_the_walk_without_chance(agent: object) -> None:
    flat, _ = lower(agent)  # type: ignore[arg-type]
    seen = walk(flat, workload(), timing=Fixed(), requests=10)
    seconds = {OpKind.PREFILL: 1.0, OpKind.KV_TRANSFER: 0.5, OpKind.DECODE: 2.0, OpKind.TOOL: 2.0, OpKind.COMPUTE: 0.25}
    runs = {op: flat.names[op] for op in range(len(flat)) if flat.kind[op] in seconds}
    stages = critical_stages(flat, seen, runs)
    path = longest_path_s(stages, {name: seconds[OpKind(flat.kind[op])] for op, name in runs.items()})
    assert path == pytest.approx(float(seen.e2e_s.mean()))


def test_cases_of_a_branch_count_by_their_probability() -> None:
    flat, _ = lower(spoken)
    seen = walk(flat, workload(), requests=3000)
    stages = {
        stage.name.rsplit("/", 1)[-1]: stage for stage in critical_stages(flat, seen, {op_of(flat, "search"): "s"})
    }
    assert stages["search"].visits == pytest.approx(0.25, abs=0.04)


def test_missing_statistics_name_the_op() -> None:
    flat, _ = lower(looped)
    bare = flat.statistics.copy()
    bare[op_of(flat, "search")] = -1
    import dataclasses

    with pytest.raises(InputError, match="how long 'search' takes"):
        walk(dataclasses.replace(flat, statistics=bare), workload())
