"""Tasks, tools, endpoints, sessions and time."""

from __future__ import annotations

import numpy as np
import pytest

from heterarch.errors import InputError
from heterarch.report.aggregate import Status
from heterarch.sim.tasks import TaskKind, TaskTable, tasks

from .worlds import calls_of, hosted, mixed, run, tools

GENERATE = int(TaskKind.GENERATE)


def test_servers_are_first_come_first_served():
    table = TaskTable()
    for k in range(4):
        table.add(release_s=0.1 * k, service_s=2.0, prefill_pool=0, request=k, session=k)
    state = run([tools(servers=2)], table.freeze())
    assert state.sequences["finish_s"] == pytest.approx([2.0, 2.1, 4.0, 4.1])
    assert state.pools[0]["busy_s"] == 8.0


def test_a_task_waits_for_all_before_it_and_its_delay():
    table = TaskTable()
    a = table.add(service_s=1.0)
    b = table.add(service_s=3.0)
    table.add([a, b], delay_s=0.5, service_s=1.0)
    state = run([tools()], table.freeze())
    assert state.sequences["submitted_s"].tolist() == [0.0, 0.0, 3.5]
    assert state.requests[0]["finish_s"] == 4.5


def test_a_streaming_reader_starts_at_the_first_token():
    table = TaskTable()
    call = table.add(kind=GENERATE, prompt_tokens=10, output_tokens=9, prefill_pool=0, decode_pool=0)
    speech = table.add(streaming=[call], service_s=2.0)
    table.add([call, speech], service_s=0.0)
    state = run([mixed()], table.freeze())
    assert state.sequences["submitted_s"].tolist() == [0.0, 1.0, 9.0]


def test_a_rejected_call_ends_its_request_and_the_session_goes_on():
    table = TaskTable()
    big = table.add(kind=GENERATE, prompt_tokens=99_999, output_tokens=1, prefill_pool=0, decode_pool=0, request=0)
    tool = table.add([big], service_s=5.0, request=0)
    table.add([tool], kind=GENERATE, prompt_tokens=5, output_tokens=1, prefill_pool=0, decode_pool=0, request=1)
    state = run([mixed()], table.freeze())
    assert state.requests["status"].tolist() == [Status.REJECTED, Status.COMPLETED]
    assert state.sequences["status"].tolist() == [Status.REJECTED, Status.REJECTED, Status.COMPLETED]
    assert state.sequences[2]["finish_s"] == 1.0


def test_endpoint_latency_and_its_request_limit():
    n = 5
    work = calls_of([10] * n, [11] * n, ttft_s=[0.5] * n, tpot_s=[0.01] * n)
    free = run([hosted()], work)
    assert free.sequences["finish_s"] == pytest.approx([0.6] * n)
    limited = run([hosted(requests_per_min=3)], work)  # three at once, then one every 20 s
    assert limited.sequences["scheduled_s"] == pytest.approx([0, 0, 0, 20, 40])


def test_endpoint_token_limit():
    work = calls_of([90] * 3, [10] * 3, ttft_s=[0.5] * 3)
    state = run([hosted(tokens_per_min=200)], work)  # 100 tokens are 30 s of the limit
    assert state.sequences["scheduled_s"] == pytest.approx([0, 0, 30])


def test_stop_at_a_time_and_go_on_gives_the_same_bytes():
    from heterarch.sim.drive import drive
    from heterarch.sim.pools import pool_table
    from heterarch.sim.state import new_state
    from heterarch.sim.tasks import no_prefixes

    work = calls_of([50] * 40, [20] * 40, np.arange(40) * 2.0)
    whole = run([mixed(engines=2)], work)
    tree = no_prefixes()
    state = new_state(pool_table([mixed(engines=2)], "least-pending-tokens", 16), work, tree, False)
    for until in (7.0, 7.5, 40.0, 61.0):
        assert not drive(state, work, tree, until)
        assert state.clock[0]["now_s"] == until
    assert 0 < (state.sequences["status"] == 0).sum() < 40
    assert drive(state, work, tree)
    assert state.sequences.tobytes() == whole.sequences.tobytes()


def test_tasks_in_a_circle_are_refused():
    edges = np.array([[0, 1, 0], [1, 0, 0]])
    with pytest.raises(InputError, match="wait for each other"):
        run([tools()], tasks({"kind": np.zeros(2)}, edges))


def test_bad_tables_are_refused():
    with pytest.raises(InputError, match="does not exist"):
        tasks({"kind": np.zeros(2)}, np.array([[0, 2, 0]]))
    with pytest.raises(InputError, match="one row per task"):
        tasks({"kind": np.zeros(2), "node": np.zeros(3)})


def test_pools_without_what_they_need_are_refused():
    for change, message in (({"step": None}, "no step cost"), ({"kv_tokens": 0}, "cannot be simulated")):
        with pytest.raises(InputError, match=message):
            run([mixed(**change)], calls_of([1], [1]))
