"""The simulator's engines and the benchmark's plain loop, written apart, agree on every request."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heterarch.sim.drive import drive
from heterarch.sim.pools import pool_table
from heterarch.sim.state import new_state
from heterarch.sim.tasks import no_prefixes

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from reference_loop import Engines, reference_run
from sim_cases import STEP, calls, standard_pool


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    requests=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 90), st.floats(0, 2)), min_size=1, max_size=60),
    engines=st.integers(1, 3),
    seats=st.integers(1, 8),
    budget=st.integers(8, 80),
    blocks=st.integers(26, 90),
)
def test_engine_and_plain_loop_give_the_same_times(requests, engines, seats, budget, blocks):
    prompt, output, gap = (np.array(column) for column in zip(*requests, strict=True))
    columns = {"arrival_s": np.cumsum(gap) * 0.3, "prompt": prompt, "output": output}
    pool = standard_pool(engines).model_copy(
        update={"concurrency": seats, "max_batched_tokens": max(budget, seats), "kv_tokens": 16 * blocks}
    )
    work, tree = calls(columns), no_prefixes()
    state = new_state(pool_table([pool], "least-queued", 16), work, tree, False)
    assert drive(state, work, tree)
    cost = (STEP.fixed_s, STEP.token_s, STEP.sequence_s, STEP.context_s, STEP.pair_s)
    limits = Engines(engines, seats, max(budget, seats), blocks, 16, int(0.01 * blocks), *cost)
    first, finish, iterations, restarts = reference_run(limits, columns["arrival_s"], prompt, output)
    assert state.sequences["first_s"] == pytest.approx(first, abs=1e-9)
    assert state.sequences["finish_s"] == pytest.approx(finish, abs=1e-9)
    assert state.engines["iteration"].sum() == iterations
    assert state.engines["preemptions"].sum() == restarts
