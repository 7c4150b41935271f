"""Program x workload -> tasks: control flow, conversations, statistics."""

from __future__ import annotations

import numpy as np
import pytest

from heterarch.errors import InputError
from heterarch.ir.flat import OpKind, Slot
from heterarch.plan.statistic import fit_window
from heterarch.sim.tasks import TaskKind
from heterarch.sim.unroll import unroll
from heterarch.workload.distribution import constant, uniform
from heterarch.workload.profile import Arrivals, CallStatistics, Workload

from .worlds import ProgramBuilder, mixed, placed, plan_of, tools


def workload(**changes) -> Workload:
    values = {
        "name": "w",
        "arrivals": Arrivals(process="deterministic", rate_per_s=1.0),
        "call": CallStatistics(context_tokens=constant(320), tokens_in=constant(50), tokens_out=constant(30)),
        "tools": {"shell": constant(2.0)},
    }
    return Workload(**{**values, **changes})


def rows_of(builder: ProgramBuilder, *calls: str, requests: int = 1, work: Workload | None = None, window=0, **options):
    plan = plan_of(
        [mixed(kv_tokens=10**6, context_tokens=window, model="m"), tools()], placed(*calls) | {"shell": "tools"}
    )
    made, tree = unroll(plan, builder.build(), work or workload(), requests=requests, **options)
    return made, tree


def before(made, task: int) -> list[int]:
    rows = made.rows
    return [
        k for k in range(len(rows)) if task in made.edges["task"][rows[k]["first_edge"] : rows[k]["end_edge"]].tolist()
    ]


def agent_loop(trips) -> ProgramBuilder:
    """chat -> loop(call -> shell) as a coding agent."""
    b = ProgramBuilder()
    (chat,) = b.op(OpKind.CHAT, "chat", stats={Slot.TOKENS_IN: 160})
    body = b.region(1)
    b.op(OpKind.LOOP, "loop", [chat], 1, children=[body], stats={Slot.COUNT: trips})
    after, text = b.llm("step", [b.args[body][0]], region=body)
    b.op(OpKind.TOOL, "shell", [text], region=body, callee="agents:shell")
    b.yields[body] = [after]
    return b


def test_a_loop_appends_to_one_conversation():
    made, tree = rows_of(agent_loop(3), "step")
    calls = made.rows[made.rows["kind"] == TaskKind.GENERATE]
    # context_tokens is the whole first prompt; then the answer and 50 tokens per trip
    assert calls["prompt_tokens"].tolist() == [320, 400, 480]
    assert calls["output_tokens"].tolist() == [30, 30, 30]
    assert tree.runs["end"][calls["node"]].tolist() == [20, 25, 30]
    assert tree.runs["end"][calls["node_out"]].tolist() == [21, 26, 31]
    assert tree.runs["parent"][calls["node"]].tolist() == [0, calls["node_out"][0], calls["node_out"][1]]
    shells = np.flatnonzero(made.rows["service_s"] == 2.0)
    assert len(shells) == 3
    assert (made.rows["prefill_pool"][shells] == 1).all()


def test_a_trip_ends_when_all_of_it_has_ended():
    made, _ = rows_of(agent_loop(2), "step")
    second = int(np.flatnonzero(made.rows["kind"] == TaskKind.GENERATE)[1])
    assert before(made, second) == [int(np.flatnonzero(made.rows["service_s"] == 2.0)[0])]


def test_system_prompts_are_shared_by_all_sessions_and_nothing_else():
    made, tree = rows_of(agent_loop(1), "step", requests=3)
    calls = made.rows[made.rows["kind"] == TaskKind.GENERATE]
    assert len(set(calls["node"].tolist())) == 3
    assert set(tree.runs["parent"][calls["node"]].tolist()) == {0}


def test_requests_of_a_session_follow_each_other_after_think_time():
    work = workload(requests_per_session=constant(2), think_s=constant(7.0))
    made, _ = rows_of(agent_loop(1), "step", requests=4, work=work)
    gates = made.rows[made.rows["op"] < 0]
    assert gates["session"].tolist() == [0, 0, 1, 1]
    assert gates["delay_s"].tolist() == [0, 7, 0, 7]
    assert gates["release_s"].tolist() == [0, 0, 1, 1]
    assert gates["deps"].tolist() == [0, 3, 0, 3]  # gate, call and shell of the request before


def test_memory_keeps_a_conversation_for_the_session():
    b = ProgramBuilder()
    (fresh,) = b.op(OpKind.CHAT, "chat", stats={Slot.TOKENS_IN: 160})
    (chat,) = b.op(OpKind.MEMORY_LOAD, "load", [fresh], key="c")
    after, _ = b.llm("ask", [chat], tokens_in=40, tokens_out=24)
    b.op(OpKind.MEMORY_STORE, "store", [after], 0, key="c")
    work = workload(requests_per_session=constant(2))
    made, _ = rows_of(b, "ask", requests=4, work=work)
    calls = made.rows[made.rows["kind"] == TaskKind.GENERATE]
    assert calls["prompt_tokens"].tolist() == [200, 264, 200, 264]


def test_the_text_of_an_answer_is_not_its_conversation():
    b = ProgramBuilder()
    _, text = b.llm("first", [], tokens_in=100, tokens_out=10)
    b.llm("second", [text], tokens_in=20, tokens_out=10)
    made, _ = rows_of(b, "first", "second")
    assert made.rows["prompt_tokens"].tolist() == [0, 100, 20]


def test_a_map_runs_its_copies_side_by_side_and_joins_them():
    b = ProgramBuilder()
    (items,) = b.op(OpKind.CONST, "items")
    body = b.region(1)
    (joined,) = b.op(OpKind.MAP, "map", [items], 1, children=[body], stats={Slot.COUNT: 4})
    _, text = b.llm("each", [b.args[body][0]], region=body, tokens_in=10, tokens_out=5)
    b.yields[body] = [text]
    b.llm("sum", [joined], tokens_in=10, tokens_out=5)
    made, _ = rows_of(b, "each", "sum")
    assert before(made, 5) == [0, 1, 2, 3, 4]
    assert all(before(made, k) == [0] for k in range(1, 5))


def test_branches_are_taken_by_their_probabilities():
    b = ProgramBuilder()
    _, text = b.llm("judge", [], tokens_in=10, tokens_out=1)
    regions = [b.region(), b.region()]
    b.op(OpKind.BRANCH, "branch", [text], 0, children=regions, probabilities=(0.25, 0.75), cases=("a", "b"))
    for region, name in zip(regions, ("a", "b"), strict=True):
        b.op(OpKind.TOOL, name, [], region=region, stats={Slot.SECONDS: 1.0})
    made, _ = rows_of(b, "judge", requests=2000)
    taken = np.bincount(made.rows["op"][made.rows["service_s"] == 1.0])
    assert taken[taken > 0] == pytest.approx([500, 1500], rel=0.15)
    first = int(np.flatnonzero(made.rows["service_s"] == 1.0)[0])
    assert before(made, first) == [0, 1]  # the selector, though the region reads nothing


def test_a_sub_agent_has_values_of_its_own_and_an_await_joins_it():
    b = ProgramBuilder()
    callee = b.region(1)
    (future,) = b.op(OpKind.GRAPH_CALL, "call", [], 1, children=[callee], mode="async")
    b.op(OpKind.TOOL, "own", [], stats={Slot.SECONDS: 3.0})
    (value,) = b.op(OpKind.AWAIT, "await", [future])
    b.op(OpKind.TOOL, "last", [value], stats={Slot.SECONDS: 1.0})
    (inside,) = b.op(OpKind.TOOL, "inside", [b.args[callee][0]], region=callee, stats={Slot.SECONDS: 2.0})
    b.yields[callee] = [inside]
    made, _ = rows_of(b)
    assert made.rows["service_s"].tolist() == [0.0, 2.0, 3.0, 1.0]
    assert before(made, 3) == [0, 1]


def test_recursion_without_end_is_refused():
    b = ProgramBuilder()
    b.op(OpKind.GRAPH_CALL, "again", [], 0, children=[0])
    with pytest.raises(InputError, match="deep"):
        rows_of(b)


def test_speech_starts_at_the_first_token_of_a_stream():
    b = ProgramBuilder()
    _, text = b.llm("answer", [], tokens_in=10, tokens_out=50)
    b.op(OpKind.AUDIO, "speak", [text], streams=[0], stats={Slot.SECONDS: 0.2})
    made, _ = rows_of(b, "answer")
    flags = {(int(e["task"])): int(e["at_first"]) for e in made.edges[made.rows[1]["first_edge"] :]}
    assert flags[2] == 1


def test_a_chat_that_outgrows_the_window_is_compacted():
    made, tree = rows_of(agent_loop(6), "step", window=500)
    calls = made.rows[made.rows["kind"] == TaskKind.GENERATE]
    kept = int(fit_window(430 + 80, 160, 50, 30, 500)[0])  # the third answer ends at 510, so the fourth call cuts
    assert calls["prompt_tokens"].tolist()[:2] == [320, 400]
    assert (calls["prompt_tokens"] + calls["output_tokens"]).max() <= 500
    drops = np.flatnonzero(np.diff(calls["prompt_tokens"]) < 0)
    assert len(drops) >= 1
    cut = calls[drops[0] + 1]
    assert cut["prompt_tokens"] == kept + 50
    nodes = list(path(tree, int(cut["node"])))
    assert nodes[-1] == 0  # the system prompt stays shared, all else is new
    assert not set(nodes[:-1]) & set(path(tree, int(calls[drops[0]]["node"])))


def path(tree, node: int):
    while node >= 0:
        yield node
        node = int(tree.runs["parent"][node])


def test_what_nothing_says_is_an_error_that_names_the_op_and_its_line():
    b = ProgramBuilder()
    b.op(OpKind.TOOL, "mystery", [])
    with pytest.raises(InputError, match=r"agent.py:1.*mystery"):
        rows_of(b)
    b = ProgramBuilder()
    b.llm("ask", [])
    with pytest.raises(InputError, match="on no pool"):
        rows_of(b)
    with pytest.raises(InputError, match="at least one request"):
        rows_of(b, requests=0)


def test_the_seed_decides_everything():
    b = agent_loop(uniform(1, 9))
    made = [rows_of(b, "step", requests=20, seed=seed)[0].rows.tobytes() for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
