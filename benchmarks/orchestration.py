"""What the executor costs per node, beside asyncio written by hand for the same work.

    python benchmarks/orchestration.py [--repeats 5] [--scale 1.0] [--case W1 ...]

Every node is a coroutine that adds one; results are checked; programs are captured and prepared beforehand.

W1  a chain of 1,000 nodes, one run
W2  one node again and again until the value is 1,000
W3  a source, one task for each of its 1,000 items, a join
W4  1,000 runs at once of a -> (b, c) -> d -> e
W5  W4 with nodes that sleep 50 ms, as an LLM call would: the ideal is 200 ms
W6  two chains of ten nodes that sleep 20, 1, 20, 1 ... and 1, 20, 1, 20 ... ms: the ideal is 105 ms, and an engine
    that waits for all branches at every step needs 200 ms

Ours and the floor run in turns; the figures are medians over ``--repeats``, ratios are ratios of medians. Waiting for
timers costs the floor of W5 as much as ours, so compare its wall time, not its CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from machine import facts, show

import heterarch as ha
from heterarch.graph.python import TracedAgent
from heterarch.ir.flatten import flatten
from heterarch.ir.passes import run_passes
from heterarch.ir.passes.decompose import Decompose
from heterarch.run.callables import bind
from heterarch.run.executor import Executor

SIZE = 1000  # nodes of W1, trips of W2, items of W3, runs of W4 and W5
NAP_S = 0.05
LONG_S, SHORT_S = 0.020, 0.001
CHAIN = 10
Run = Callable[[], Awaitable[None]]


# ---------------------------------------------------------------- nodes


async def inc(x: int) -> int:
    return x + 1


async def plus(x: int, y: int) -> int:
    return x + y + 1


async def nap(x: int) -> int:
    await asyncio.sleep(NAP_S)
    return x + 1


async def nap_plus(x: int, y: int) -> int:
    await asyncio.sleep(NAP_S)
    return x + y + 1


async def slow(x: int) -> int:
    await asyncio.sleep(LONG_S)
    return x + 1


async def quick(x: int) -> int:
    await asyncio.sleep(SHORT_S)
    return x + 1


async def items(n: int) -> list[int]:
    return list(range(n))


async def total(values: list[int]) -> int:
    return sum(values)


def reached(x: int) -> bool:
    return x >= _Trips.most


class _Trips:
    most = SIZE


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    f.__name__: f for f in (inc, plus, nap, nap_plus, slow, quick, items, total, reached)
}


# ---------------------------------------------------------------- the same work twice


@dataclass(frozen=True)
class Case:
    """One piece of work: ours, the floor, how many units it is, and the wall time that no engine can beat."""

    work: str
    unit: str
    units: int
    ours: Run
    floor: Run
    ideal_s: float | None = None


def executor(agent: TracedAgent) -> Executor:
    """The agent captured, lowered and prepared, ready to run."""
    flat = flatten(run_passes(agent.module, [Decompose()]), agent.name)
    return Executor(flat, bind(flat, functions=FUNCTIONS))


def running(runner: Executor, given: int, expected: int, runs: int = 1) -> Run:
    """``runs`` runs at once, each checked."""

    async def run() -> None:
        if runs == 1:
            found = [await runner.run([given])]
        else:
            found = await asyncio.gather(*(runner.run([given]) for _ in range(runs)))
        assert all(result == [expected] for result in found), found[:3]

    return run


def chain(n: int) -> Case:
    """W1."""
    node = ha.compute(inc)

    @ha.agent
    def w1(x: ha.Data) -> ha.Data:
        for _ in range(n):
            x = node(x)
        return x

    async def floor() -> None:
        x = 0
        for _ in range(n):
            x = await inc(x)
        assert x == n

    return Case("chain", "node", n, running(executor(w1), 0, n), floor)


def cycle(n: int) -> Case:
    """W2."""
    _Trips.most = n
    node = ha.compute(inc)

    @ha.agent
    def w2(x: ha.Data) -> ha.Data:
        return ha.loop(lambda y: node(y), x, trips=n, until=reached, max_trips=n)  # type: ignore[no-any-return]

    async def floor() -> None:
        x = 0
        while not reached(x):
            x = await inc(x)
        assert x == n

    return Case("loop", "step", n, running(executor(w2), 0, n), floor)


def fan(n: int) -> Case:
    """W3."""
    source, node = ha.compute(items), ha.compute(inc)

    @ha.agent
    def w3(x: ha.Data) -> ha.Data:
        return ha.map(lambda item: node(item), source(x), width=n, join=total)  # type: ignore[no-any-return]

    async def floor() -> None:
        found = await asyncio.gather(*(inc(item) for item in await items(n)))
        assert await total(found) == n * (n + 1) // 2

    return Case("map and join", "task", n, running(executor(w3), n, n * (n + 1) // 2), floor)


def diamonds(n: int, one: Callable[..., Any], two: Callable[..., Any], ideal_s: float | None) -> Case:
    """W4 and W5."""
    node, join = ha.compute(one), ha.compute(two)

    @ha.agent
    def w4(x: ha.Data) -> ha.Data:
        a = node(x)
        return node(join(node(a), node(a)))  # type: ignore[no-any-return]

    async def single() -> None:
        a = await one(0)
        b, c = await asyncio.gather(one(a), one(a))
        assert await one(await two(b, c)) == 6

    async def floor() -> None:
        await asyncio.gather(*(single() for _ in range(n)))

    return Case(f"{n} diamonds at once", "node", 5 * n, running(executor(w4), 0, 6, n), floor, ideal_s)


def two_chains() -> Case:
    """W6."""
    long, short, join = ha.compute(slow), ha.compute(quick), ha.compute(plus)

    @ha.agent
    def w6(x: ha.Data) -> ha.Data:
        a = b = x
        for number in range(CHAIN):
            first, second = (long, short) if number % 2 == 0 else (short, long)
            a, b = first(a), second(b)
        return join(a, b)  # type: ignore[no-any-return]

    async def one(first: Callable[[int], Awaitable[int]], second: Callable[[int], Awaitable[int]]) -> int:
        x = 0
        for number in range(CHAIN):
            x = await (first if number % 2 == 0 else second)(x)
        return x

    async def floor() -> None:
        assert await plus(*await asyncio.gather(one(slow, quick), one(quick, slow))) == 2 * CHAIN + 1

    ideal_s = CHAIN / 2 * (LONG_S + SHORT_S)
    return Case("two chains", "node", 2 * CHAIN + 1, running(executor(w6), 0, 2 * CHAIN + 1), floor, ideal_s)


CASES: Mapping[str, Callable[[int], Case]] = {
    "W1": chain,
    "W2": cycle,
    "W3": fan,
    "W4": lambda n: diamonds(n, inc, plus, None),
    "W5": lambda n: diamonds(n, nap, nap_plus, 4 * NAP_S),
    "W6": lambda n: two_chains(),
}


# ---------------------------------------------------------------- measuring


async def timed(run: Run) -> tuple[float, float]:
    """CPU and wall seconds of one run."""
    gc.collect()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    await run()
    return time.process_time() - cpu_s, time.perf_counter() - wall_s


async def measured(case: Case, repeats: int) -> dict[str, Any]:
    """The figures of a case; ours and the floor in turns, after one run of each to warm up."""
    sides = {"ours": case.ours, "floor": case.floor}
    for run in sides.values():
        await run()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            seconds[name].append(await timed(run))
    cpu_s = {name: statistics.median(cpu for cpu, _ in rows) for name, rows in seconds.items()}
    wall_s = {name: statistics.median(wall for _, wall in rows) for name, rows in seconds.items()}
    found = {
        "work": case.work,
        "unit": case.unit,
        "units": case.units,
        "cpu_us_per_unit": {name: value / case.units * 1e6 for name, value in cpu_s.items()},
        "wall_s": wall_s,
        "cpu_ratio": cpu_s["ours"] / cpu_s["floor"] if cpu_s["floor"] else None,
        "wall_ratio": wall_s["ours"] / wall_s["floor"],
    }
    if case.ideal_s is not None:
        found["ideal_wall_s"] = case.ideal_s
        found["wall_over_ideal"] = {name: value / case.ideal_s for name, value in wall_s.items()}
    return found


async def result(names: Sequence[str], repeats: int, scale: float) -> dict[str, Any]:
    """The JSON object."""
    first = facts("orchestration")
    cases = {name: CASES[name](max(2, round(SIZE * scale))) for name in names}
    return {**first, "repeats": repeats, "cases": {name: await measured(case, repeats) for name, case in cases.items()}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the 1,000 nodes, trips, items and runs")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args(arguments)
    show(asyncio.run(result(options.case, options.repeats, options.scale)))


if __name__ == "__main__":
    main()
