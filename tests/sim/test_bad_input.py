"""Inputs that are wrong or strange: rejected with a reason, refused with a clear error, or simply fine."""

from __future__ import annotations

import numpy as np
import pytest

from heterarch.errors import InputError, UnknownNameError
from heterarch.ir.flat import OpKind, Slot
from heterarch.plan.document import StepPart
from heterarch.report.aggregate import Status
from heterarch.sim import run_simulation
from heterarch.sim.core import BEYOND_CONTEXT, REASONS, TOO_LONG
from heterarch.sim.pools import pool_table
from heterarch.sim.unroll import MOST_TASKS, unroll

from .test_simulate import trace
from .test_unroll import workload
from .worlds import ProgramBuilder, calls_of, hosted, mixed, one_call, placed, plan_of, run


def test_a_call_beyond_the_models_context_is_rejected_with_its_reason():
    for pool in (mixed(context_tokens=100), hosted().model_copy(update={"context_tokens": 100})):
        state = run([pool], calls_of([90, 90], [10, 11]))
        assert state.requests["status"].tolist() == [Status.COMPLETED, Status.REJECTED]
        assert state.requests["reason"].tolist() == [-1, BEYOND_CONTEXT]
        bound = run([pool], calls_of([90, 90], [10, 11]), unbounded=True)  # of the reuse in a trace, on any model
        assert (bound.requests["status"] == Status.COMPLETED).all()


def test_a_call_beyond_the_kv_of_every_engine_is_rejected_with_its_reason():
    report = run_simulation(plan_of([mixed(kv_tokens=48)], placed("ask")), one_call(), trace(10)).report
    assert report.requests.rejected == 10
    assert report.reasons == {REASONS[TOO_LONG]: 10}


def test_zero_tokens_are_one():
    state = run([mixed()], calls_of([0, 5, 0], [3, 0, 0]))
    assert (state.sequences["status"] == Status.COMPLETED).all()
    assert state.sequences["finish_s"].tolist() == [3.0, 1.0, 1.0]
    assert (state.sequences["cached"] >= 0).all()
    assert state.engines["free"].tolist() == [100]


@pytest.mark.parametrize("tokens", [{"prompts": [10**12], "outputs": [1]}, {"prompts": [1], "outputs": [10**12]}])
def test_a_call_of_more_tokens_than_can_be_counted_is_refused(tokens):
    with pytest.raises(InputError, match="too many"):
        calls_of(**tokens)


def test_unsorted_and_equal_arrivals_are_run_in_time():
    at = [5.0, 0.0, 5.0, 2.0, 0.0]
    mixed_up = run([mixed()], calls_of([10] * 5, [2] * 5, at)).sequences
    order = np.argsort(at, kind="stable")
    in_order = run([mixed()], calls_of([10] * 5, [2] * 5, np.sort(at))).sequences
    assert mixed_up["submitted_s"].tolist() == at
    assert mixed_up["finish_s"][order].tolist() == in_order["finish_s"].tolist()


@pytest.mark.parametrize(
    "options", [{"seed": -1}, {"until_s": np.nan}, {"until_s": -1.0}, {"sample": np.nan}, {"request_s": np.nan}]
)
def test_options_that_are_no_such_number_are_refused(options):
    with pytest.raises(InputError):
        run_simulation(plan_of([mixed()], placed("ask")), one_call(), trace(2), **options)


def test_a_plan_that_places_ops_on_a_pool_it_lacks_is_refused():
    with pytest.raises(UnknownNameError, match="unknown pool 'gone'"):
        run_simulation(plan_of([mixed()], placed("ask", pool="gone")), one_call(), workload(), requests=1)


def test_a_plan_that_places_a_call_nowhere_is_refused():
    with pytest.raises(InputError, match="on no pool"):
        run_simulation(plan_of([mixed()]), one_call(), workload(), requests=1)


def test_a_plan_that_places_ops_its_program_lacks_is_refused():
    plan = plan_of([mixed()], placed("ask") | {"renamed": "llm"})
    with pytest.raises(InputError, match="places an op that its program does not have"):
        run_simulation(plan, one_call(), workload(), requests=1)


@pytest.mark.parametrize("changes", [{"kv_tokens": 0}, {"kv_tokens": -5}, {"engines": 0}, {"concurrency": 0}])
def test_an_engine_that_holds_no_kv_beside_its_weights_is_refused(changes):
    with pytest.raises(InputError, match="pool llm cannot be simulated"):
        pool_table([mixed(**changes)], None, 16)


def looping(trips, **attrs):
    builder = ProgramBuilder()
    builder.args[0] = [builder.value()]
    body = builder.region(1)
    builder.op(OpKind.TOOL, "tick", builder.args[body], region=body, stats={Slot.SECONDS: 1.0})
    builder.op(OpKind.LOOP, "again", builder.args[0], children=[body], stats={Slot.COUNT: trips}, **attrs)
    return builder.build()


def test_a_loop_without_an_end_is_refused_where_it_stands():
    with pytest.raises(InputError, match=r"loop without max_trips") as caught:
        unroll(plan_of([mixed()]), looping(1e9), workload(), requests=1)
    assert caught.value.where.file == "agent.py"


def test_a_loop_with_too_many_trips_is_refused():
    with pytest.raises(InputError, match=f"more than {MOST_TASKS:,} tasks"):
        unroll(plan_of([mixed()]), looping(1e9, max_trips=10**9), workload(), requests=1)


def test_time_does_not_run_backwards():
    affine = StepPart(fixed_s=1e-2, token_s=5e-5, sequence_s=-5.1e-5)
    run([mixed(step=affine)], calls_of([20], [3]))
    with pytest.raises(InputError, match="less than no time"):
        run([mixed(step=StepPart(fixed_s=1e-2, token_s=-1.0))], calls_of([20], [3]))
