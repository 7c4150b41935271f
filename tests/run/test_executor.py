"""Semantics of the dataflow executor, on programs built by hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterarch.errors import HeterarchError, InputError
from heterarch.ir.flat import FlatProgram, OpKind, Slot
from heterarch.run.callables import bind
from heterarch.run.executor import Executor, Request

from .programs import CHAT, DATA, TEXT, Program


async def run(
    flat: FlatProgram, inputs: list[Any], request: Request | None = None, **functions: Callable[..., Any]
) -> list[Any]:
    return await Executor(flat, bind(flat, functions=functions)).run(inputs, request)


async def inc(x: int) -> int:
    return x + 1


def one_op(kind: OpKind, inputs: int = 1, **attrs: object) -> FlatProgram:
    p = Program()
    with p.graph("main", *[DATA] * inputs) as arguments:
        p.give(*p.op(kind, "op", arguments, **attrs))
    return p.flat()


async def test_an_op_starts_when_its_own_inputs_are_ready() -> None:
    """Two chains: the fast one gets to its end while the slow one is still in its first op."""
    p = Program()
    with p.graph("main", DATA) as (x,):
        slow = p.op(OpKind.COMPUTE, "slow", [x], callee="wait")[0]
        fast = x
        for number in range(5):
            fast = p.op(OpKind.COMPUTE, f"fast{number}", [fast], callee="inc")[0]
        last = p.op(OpKind.COMPUTE, "last", [fast], callee="ring")[0]
        p.give(slow, last)
    bell = asyncio.Event()

    async def wait(x: int) -> int:
        await bell.wait()
        return x

    async def ring(x: int) -> int:
        bell.set()
        return x

    assert await asyncio.wait_for(run(p.flat(), [0], inc=inc, wait=wait, ring=ring), 5) == [0, 5]


async def test_a_diamond_runs_each_op_once() -> None:
    seen: list[str] = []

    def note(name: str) -> Callable[..., Any]:
        async def function(*values: int) -> int:
            seen.append(name)
            return sum(values) + 1

        return function

    p = Program()
    with p.graph("main", DATA) as (x,):
        a = p.op(OpKind.COMPUTE, "a", [x], callee="a")[0]
        b = p.op(OpKind.COMPUTE, "b", [a], callee="b")[0]
        c = p.op(OpKind.COMPUTE, "c", [a, a], callee="c")[0]
        p.give(*p.op(OpKind.COMPUTE, "d", [b, c], callee="d"))
    assert await run(p.flat(), [0], **{name: note(name) for name in "abcd"}) == [6]
    assert sorted(seen) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("selector", "taken"), [("yes", "Y"), (" YES.\n", "Y"), ("I would say no to that", "N"), (True, "T"), ("hm", "N")]
)
async def test_branch_takes_the_case_that_is_named(selector: object, taken: str) -> None:
    p = Program()
    with p.graph("main", DATA) as (x,):
        y = p.op(OpKind.BRANCH, "which", [x, x], cases=("yes", "no", "true"), probabilities=(0.2, 0.7, 0.1))[0]
        owner = p.last
        for letter in "YNT":
            with p.body(owner, DATA):
                p.give(*p.op(OpKind.CONST, letter, [], value=letter))
        p.give(y)
    flat = p.flat()
    executor = Executor(flat, bind(flat))
    assert await executor.run([selector]) == [taken]
    assert bool(executor.notes) is (selector == "hm")  # the likeliest case, and it is said


async def test_loop_carries_values_until_the_predicate_holds() -> None:
    p = Program()
    with p.graph("main", DATA, DATA) as (x, step):
        y, _ = p.op(OpKind.LOOP, "loop", [x, step], [DATA, DATA], until="enough", max_trips=10)
        with p.body(p.last, DATA, DATA) as (a, b):
            p.give(p.op(OpKind.COMPUTE, "add", [a, b], callee="add")[0], b)
        p.give(y)
    flat = p.flat()
    functions = {"add": lambda a, b: a + b, "enough": lambda a, b: a >= 7}
    assert await run(flat, [0, 3], **functions) == [9]
    assert await run(flat, [0, 0], **functions) == [0]  # bounded by max_trips


@pytest.mark.parametrize(("trips", "most", "expected"), [(2.6, None, 3), (2.6, 2, 2), (0.2, None, 0), (None, 4, 4)])
async def test_loop_without_predicate_runs_its_mean_trips(trips: float | None, most: int | None, expected: int) -> None:
    p = Program()
    with p.graph("main", DATA) as (x,):
        statistics = {Slot.COUNT: trips} if trips is not None else {}
        y = p.op(OpKind.LOOP, "loop", [x], statistics=statistics, **({"max_trips": most} if most else {}))[0]
        with p.body(p.last, DATA) as (a,):
            p.give(*p.op(OpKind.COMPUTE, "inc", [a], callee="inc"))
        p.give(y)
    assert await run(p.flat(), [0], inc=inc) == [expected]


async def test_a_loop_that_cannot_end_is_an_error() -> None:
    p = Program()
    with p.graph("main", DATA) as (x,):
        y = p.op(OpKind.LOOP, "loop", [x])[0]
        with p.body(p.last, DATA) as (a,):
            p.give(a)
        p.give(y)
    with pytest.raises(InputError, match="never ends"):
        await run(p.flat(), [0])


def mapped(join: str | None = None) -> FlatProgram:
    p = Program()
    with p.graph("main", DATA, DATA) as (items, shared):
        y = p.op(OpKind.MAP, "map", [items, shared], **({"join": join} if join else {}))[0]
        with p.body(p.last, DATA, DATA) as (item, other):
            p.give(*p.op(OpKind.COMPUTE, "work", [item, other], callee="work"))
        p.give(y)
    return p.flat()


async def test_map_runs_its_items_at_once_and_joins_in_order() -> None:
    meeting = asyncio.Barrier(4)

    async def work(item: int, other: int) -> int:
        await meeting.wait()  # passes only when all four run at once
        await asyncio.sleep(0.001 * (4 - item))
        return item * other

    assert await asyncio.wait_for(run(mapped(), [[1, 2, 3, 4], 10], work=work), 5) == [[10, 20, 30, 40]]
    total = await asyncio.wait_for(run(mapped("sum"), [[1, 2, 3, 4], 1], work=work, sum=sum), 5)
    assert total == [10]


async def test_map_over_text_goes_by_lines_and_over_a_number_is_an_error() -> None:
    def work(item: str, other: str) -> str:
        return item + other

    assert await run(mapped(), ["a\n\nb\n", "!"], work=work) == [["a!", "b!"]]
    assert await run(mapped(), [[], "!"], work=work) == [[]]
    with pytest.raises(InputError, match="no list"):
        await run(mapped(), [5, "!"], work=work)


async def test_a_region_reads_values_of_the_regions_around_it() -> None:
    p = Program()
    with p.graph("main", DATA, DATA) as (items, x):
        base = p.op(OpKind.COMPUTE, "base", [x], callee="inc")[0]
        y = p.op(OpKind.MAP, "outer", [items])[0]
        with p.body(p.last, DATA) as (item,):
            z = p.op(OpKind.BRANCH, "inner", [item], cases=("a", "b"))[0]
            owner = p.last
            with p.body(owner):
                p.give(base)
            with p.body(owner):
                p.give(x)
            p.give(z)
        p.give(y)
    assert await run(p.flat(), [["a", "b"], 1], inc=inc) == [[2, 1]]


async def test_sub_agents_sync_and_async() -> None:
    p = Program()
    with p.graph("helper", DATA) as (x,):
        p.give(*p.op(OpKind.COMPUTE, "helper.inc", [x], callee="work"))
    with p.graph("main", DATA) as (x,):
        future = p.op(OpKind.GRAPH_CALL, "spawn", [x], calls="helper", mode="async", callee="helper")[0]
        other = p.op(OpKind.GRAPH_CALL, "call", [x], calls="helper", mode="sync", callee="helper")[0]
        waited = p.op(OpKind.AWAIT, "wait", [future])[0]
        p.give(waited, other)
    meeting = asyncio.Barrier(2)  # the spawned and the called one run at once

    async def work(x: int) -> int:
        await meeting.wait()
        return x + 1

    assert await asyncio.wait_for(run(p.flat(), [1], work=work), 5) == [2, 2]


async def test_endless_recursion_of_sub_agents_is_an_error() -> None:
    p = Program()
    with p.graph("main", DATA) as (x,):
        p.give(*p.op(OpKind.GRAPH_CALL, "again", [x], calls="main", mode="sync"))
    with pytest.raises(InputError, match="without end"):
        await run(p.flat(), [1])


async def test_memory_is_kept_per_session_and_ordered_by_the_program() -> None:
    p = Program()
    with p.graph("main", DATA) as (x,):
        old = p.op(OpKind.MEMORY_LOAD, "load", [x], [DATA], key="k")[0]
        new = p.op(OpKind.COMPUTE, "slow", [x], callee="slow")[0]
        p.op(OpKind.MEMORY_STORE, "store", [new], [], key="k")
        again = p.op(OpKind.MEMORY_LOAD, "again", [x], [DATA], key="k")[0]
        p.give(old, again)

    async def slow(x: int) -> int:
        await asyncio.sleep(0.01)
        return x * 10

    request = Request()
    assert await run(p.flat(), [1], request, slow=slow) == [1, 10]
    assert await run(p.flat(), [2], Request(memory=request.memory), slow=slow) == [10, 20]
    assert await run(p.flat(), [3], slow=slow) == [3, 30]


async def test_ordinary_functions_run_in_threads_and_coroutines_on_the_loop() -> None:
    here = threading.get_ident()

    async def on_loop(x: int) -> int:
        return threading.get_ident()

    def in_thread(x: int) -> int:
        return threading.get_ident()

    assert await run(one_op(OpKind.TOOL, callee="f"), [0], f=on_loop) == [here]
    assert await run(one_op(OpKind.TOOL, callee="f"), [0], f=in_thread) != [here]


async def test_a_raising_tool_names_itself_and_its_line() -> None:
    def broken(x: int) -> int:
        return 1 // x

    with pytest.raises(HeterarchError, match="broken raised ZeroDivisionError") as caught:
        await run(one_op(OpKind.TOOL, callee="broken"), [0], broken=broken)
    assert "test_executor.py" in str(caught.value)


async def test_a_failure_cancels_what_runs_beside_it() -> None:
    ended: list[str] = []

    async def hang(x: int) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        return x

    async def fail(x: int) -> int:
        await asyncio.sleep(0)
        raise ValueError("no")

    p = Program()
    with p.graph("helper", DATA) as (x,):
        p.give(*p.op(OpKind.TOOL, "helper.hang", [x], callee="hang"))
    with p.graph("main", DATA) as (x,):
        p.op(OpKind.GRAPH_CALL, "spawn", [x], calls="helper", mode="async")
        y = p.op(OpKind.TOOL, "hang", [x], callee="hang")[0]
        z = p.op(OpKind.TOOL, "fail", [x], callee="fail")[0]
        p.give(y, z)
    with pytest.raises(HeterarchError, match="fail raised ValueError: no"):
        await asyncio.wait_for(run(p.flat(), [1], hang=hang, fail=fail), 5)
    assert ended == ["cancelled", "cancelled"]


async def test_an_op_has_a_time_limit() -> None:
    async def hang(x: int) -> int:
        await asyncio.Event().wait()
        return x

    with pytest.raises(HeterarchError, match=r"agent.py:1: op did not end in time"):
        await run(one_op(OpKind.TOOL, callee="hang", timeout_s=0.01), [0], hang=hang)


async def test_tool_pools_bound_how_many_run_at_once() -> None:
    running = most = 0

    async def work(item: int, other: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return item

    p = Program()
    with p.graph("main", DATA) as (items,):
        y = p.op(OpKind.MAP, "map", [items])[0]
        with p.body(p.last, DATA) as (item,):
            p.give(*p.op(OpKind.TOOL, "work", [item, item], callee="work", pool="tools"))
        p.give(y)
    flat = p.flat()
    executor = Executor(flat, bind(flat, functions={"work": work}), concurrency={"tools": 3})
    request = Request()
    assert await executor.run([list(range(9))], request) == [list(range(9))]
    assert most == 3
    assert len(request.times) == 9


def test_a_tool_without_function_is_refused_before_anything_runs() -> None:
    with pytest.raises(InputError, match=r"agent.py:1: tool 'op' has no Python function"):
        bind(one_op(OpKind.TOOL))
    with pytest.raises(InputError, match="no callable is known for 'lost'"):
        bind(one_op(OpKind.TOOL, callee="lost"))


async def test_retrieval_without_embedding_and_reranking() -> None:
    p = Program()
    with p.graph("main", TEXT) as (query,):
        vector = p.op(OpKind.EMBED, "r.embed", [query])[0]
        found = p.op(OpKind.SEARCH, "r.search", [vector, query], callee="search", index="i", top_k=4)[0]
        p.give(*p.op(OpKind.RERANK, "r.rerank", [found, query], keep=2))

    def search(vector: str, query: str) -> list[str]:
        assert vector == query == "q"
        return ["a", "b", "c"]

    assert await run(p.flat(), ["q"], search=search) == [["a", "b"]]


async def test_wrong_number_of_inputs() -> None:
    with pytest.raises(InputError, match="wrong number of inputs"):
        await run(one_op(OpKind.COMPUTE, callee="inc"), [1, 2], inc=inc)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_graph_gives_what_evaluation_in_order_gives(data: st.DataObject) -> None:
    """Random acyclic graphs with random waiting: dataflow order never changes the result."""
    count = data.draw(st.integers(1, 12))
    edges = [data.draw(st.lists(st.integers(0, row), min_size=1, max_size=3)) for row in range(count)]
    p = Program()
    with p.graph("main", DATA) as (x,):
        values = [x]
        for row, reads in enumerate(edges):
            values += p.op(OpKind.COMPUTE, f"n{row}", [values[read] for read in reads], callee="add")
        p.give(*values)

    async def add(*numbers: int) -> int:
        for _ in range(sum(numbers) % 3):
            await asyncio.sleep(0)
        return sum(numbers) + 1

    expected = [1]
    for reads in edges:
        expected.append(sum(expected[read] for read in reads) + 1)
    assert asyncio.run(run(p.flat(), [1], add=add)) == expected


async def test_chat_starts_from_its_system_prompt() -> None:
    p = Program()
    with p.graph("main") as ():
        p.give(*p.op(OpKind.CHAT, "chat", [], [CHAT], system="Be brief."))
    (chat,) = await run(p.flat(), [])
    assert [(message.role, message.text) for message in chat.messages] == [("system", "Be brief.")]
