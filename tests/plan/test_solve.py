"""The solver against the founding paper's example, against brute force, and against a published allocation."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from heterarch.errors import InfeasibleError, InputError, UnknownNameError
from heterarch.plan.problem import Edge, Link, Op, Option, Problem, Resource, Stage, evaluate, longest_path_s
from heterarch.plan.solve import diagnose, least_latency_s, solve


def table3(limit_s: float | None = 0.120) -> Problem:
    """arXiv 2507.19635 Table 3: ISL 1000, OSL 500; rows 0 HP, 1 CO."""
    isl, osl = 1000, 500
    prefill = Op("prefill", (Option("HP", 0.080, isl * 8e-5), Option("CO", 0.130, isl * 5e-5)))
    decode = Op("decode", (Option("HP", 0.025, osl * 6e-5), Option("CO", 0.030, osl * 2e-5)))
    kv = Link(0.010, isl * 5e-6)
    links = {(0, 0): Link(), (1, 1): Link(), (0, 1): kv, (1, 0): kv}
    return Problem(
        (prefill, decode),
        (Resource("HP"), Resource("CO")),
        (Edge("prefill", "decode", links),),
        latency_limit_s=limit_s,
    )


def test_table3_optimum_is_hp_then_co() -> None:
    found = solve(table3())
    assert found.choice == {"prefill": 0, "decode": 1}
    assert found.usd_per_request == pytest.approx(0.095, abs=1e-12)
    assert found.latency_s == pytest.approx(0.120, abs=1e-12)
    assert found.gap == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("rows", "latency_s", "usd", "feasible"),
    [((0, 0), 0.105, 0.11, True), ((0, 1), 0.120, 0.095, True), ((1, 1), 0.160, 0.06, False)],
)
def test_table3_options(rows: tuple[int, int], latency_s: float, usd: float, feasible: bool) -> None:
    outcome = evaluate(table3(), dict(zip(("prefill", "decode"), rows, strict=True)))
    assert outcome.latency_s == pytest.approx(latency_s)
    assert outcome.usd_per_h == pytest.approx(usd)
    assert outcome.feasible(table3()) is feasible


def test_table3_without_limit_takes_the_cheapest() -> None:
    assert solve(table3(None)).usd_per_request == pytest.approx(0.06)


def test_table3_too_tight_names_the_reachable_latency() -> None:
    assert least_latency_s(table3(0.1)) == pytest.approx(0.105)
    with pytest.raises(InfeasibleError, match=r"latency limit(.|\n)*105 ms(.|\n)*at most 100 ms"):
        solve(table3(0.1))


def random_problem(rng: np.random.Generator) -> Problem:
    """Up to four ops in a random order of execution, up to four options each, tight inventories and limits."""
    resources = tuple(
        Resource(f"r{i}", float(rng.integers(1, 20)), f"d{rng.integers(2)}", int(rng.integers(1, 4)))
        for i in range(int(rng.integers(1, 5)))
    )
    ops = tuple(
        Op(f"o{k}", tuple(_random_option(rng, resources) for _ in range(int(rng.integers(1, 5)))))
        for k in range(int(rng.integers(1, 5)))
    )
    edges = tuple(
        Edge(a.name, b.name, _random_links(rng, a, b)) for a, b in itertools.combinations(ops, 2) if rng.random() < 0.5
    )
    latencies = np.cumsum([max(o.latency_s for o in op.options) for op in ops])
    limit = float(latencies[-1] * rng.uniform(0.2, 1.2)) if rng.random() < 0.8 else None
    inventory = {f"d{i}": int(rng.integers(1, 9)) for i in range(2) if rng.random() < 0.7}
    return Problem(ops, resources, edges, (), inventory, limit, float(rng.integers(1, 50)))


def _random_option(rng: np.random.Generator, resources: tuple[Resource, ...]) -> Option:
    resource = resources[int(rng.integers(len(resources)))]
    return Option(resource.name, float(rng.uniform(0, 1)), float(rng.uniform(0, 0.5)), float(rng.uniform(0.05, 2.5)))


def _random_links(rng: np.random.Generator, a: Op, b: Op) -> dict[tuple[int, int], Link]:
    pairs = itertools.product(range(len(a.options)), range(len(b.options)))
    return {pair: Link(float(rng.uniform(0, 0.3)), float(rng.uniform(0, 0.2))) for pair in pairs if rng.random() < 0.8}


def brute_force(problem: Problem) -> float:
    """USD per hour of the best of all choices; infinite when none is feasible."""
    best = math.inf
    for rows in itertools.product(*(range(len(op.options)) for op in problem.ops)):
        outcome = evaluate(problem, {op.name: row for op, row in zip(problem.ops, rows, strict=True)})
        if outcome.usd_per_h < best and outcome.feasible(problem):
            best = outcome.usd_per_h
    return best


def test_equals_brute_force_on_random_instances() -> None:
    infeasible = 0
    for seed in range(400):
        problem = random_problem(np.random.default_rng(seed))
        best = brute_force(problem)
        if math.isinf(best):
            infeasible += 1
            with pytest.raises(InfeasibleError):
                solve(problem)
            continue
        found = solve(problem)
        assert found.usd_per_h == pytest.approx(best, rel=1e-6), seed
        assert evaluate(problem, found.choice).feasible(problem), seed
        assert found.bound <= found.usd_per_h
        assert found.bound >= best * (1 - 1e-5), seed
    assert 20 < infeasible < 250  # both kinds are exercised


def test_engines_are_whole_and_shared() -> None:
    ops = tuple(Op(f"o{i}", (Option("r", 0.0, 0.0, 0.4),)) for i in range(3))
    found = solve(Problem(ops, (Resource("r", 10.0, "d", 4),), inventory={"d": 8}))
    assert found.engines == {"r": 2}  # 1.2 engines
    assert found.usd_per_h == pytest.approx(20.0)


def test_inventory_binds_and_says_what_it_needs() -> None:
    problem = Problem((Op("o", (Option("r", 0.0, 0.0, 2.5),)),), (Resource("r", 1.0, "d", 2),), inventory={"d": 5})
    assert diagnose(problem).needs == {"d": 6}
    with pytest.raises(InfeasibleError, match=r"inventory(.|\n)*allow 6 of d"):
        solve(problem)


def test_latency_and_inventory_bind_together() -> None:
    fast = Option("fast", 1.0, 0.0, 2.0)
    slow = Option("slow", 5.0, 0.0, 1.0)
    problem = Problem(
        (Op("o", (fast, slow)),),
        (Resource("fast", 9.0, "d"), Resource("slow", 1.0, "e")),
        inventory={"d": 1},
        latency_limit_s=2.0,
    )
    found = diagnose(problem)
    assert found.binding == "latency and inventory"
    assert found.least_latency_s == pytest.approx(5.0)
    assert found.needs == {"d": 2}


def test_forbidden_pairs_alone() -> None:
    ops = (Op("a", (Option("r"),)), Op("b", (Option("r"),)))
    problem = Problem(ops, (Resource("r"),), (Edge("a", "b", {}),))
    with pytest.raises(InfeasibleError, match="no allowed combination"):
        solve(problem)


def test_stages_loops_parallel_and_constants() -> None:
    stages = (
        Stage("think", constant_s=1.0),
        Stage("loop", "a", visits=3.0, after=("think",)),
        Stage("left", "b", after=("loop",)),
        Stage("right", "c", after=("loop",)),
        Stage("join", after=("left", "right")),
    )
    assert longest_path_s(stages, {"a": 0.5, "b": 2.0, "c": 0.1}) == pytest.approx(4.5)


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: Problem((Op("a", ()),)), InputError),
        (lambda: Problem((Op("a", (Option("nowhere"),)),), (Resource("r"),)), UnknownNameError),
        (lambda: Problem((Op("a", (Option(""),)), Op("a", (Option(""),)))), InputError),
        (lambda: Problem((Op("a", (Option("", -1.0),)),)), InputError),
        (lambda: Problem((Op("a", (Option("", math.nan),)),)), InputError),
        (lambda: Problem((Op("a", (Option(""),)),), edges=(Edge("a", "b", {}),)), UnknownNameError),
        (lambda: Problem((Op("a", (Option(""),)),), edges=(Edge("a", "a", {(0, 3): Link()}),)), InputError),
        (
            lambda: Problem(
                (Op("a", (Option(""),)),), stages=(Stage("s", "a", after=("t",)), Stage("t", after=("s",)))
            ),
            InputError,
        ),
        (lambda: Problem((Op("a", (Option(""),)),), resources=(Resource("r", devices=0),)), InputError),
    ],
)
def test_a_wrong_table_is_refused(build: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        build()  # type: ignore[operator]


def test_published_melange_toy(shared_data: Path) -> None:
    table = json.loads((shared_data / "planning/allocation/melange_toy.json").read_text())
    scenario = table["scenarios"][0]
    ops = []
    for bucket, share in scenario["mix"].items():
        rate = scenario["rate_rps"] * share
        options = tuple(Option(c["id"], 0.0, 0.0, rate / c["max_rps"][bucket]) for c in table["configs"])
        ops.append(Op(bucket, options))
    resources = tuple(
        Resource(c["id"], c["cost_usd_per_h"], c["device"], c["devices_per_replica"]) for c in table["configs"]
    )
    found = solve(Problem(tuple(ops), resources))
    assert found.usd_per_h == pytest.approx(6.70)
    assert found.engines == {"A10G": 3, "A100-80GB": 1}
