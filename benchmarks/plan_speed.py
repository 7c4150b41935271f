"""Seconds to plan the three examples on the packaged fleet `mixed`, and how good the plans are proven to be.

    python benchmarks/plan_speed.py [--repeats 3] [--agent coding_agent ...] [--no-explain]

Cold: the first plan in a process that has already imported everything (import seconds stand apart). Warm: the median
of the repeats after it, in the same process; nothing is kept between plans, so the difference is what Python and the
solver set up once. Capture and lowering are timed apart. ``--no-explain`` leaves out alternatives and reasons, which
each solve the problem again.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from machine import facts, show

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
#: example -> the packaged workload it is planned for
AGENTS: Mapping[str, str] = {"coding_agent": "coding-fleet", "voice_agent": "voice", "deep_research": "chat"}
ACCOUNTING = "owner-annuity"
T = TypeVar("T")


class Timed(NamedTuple):
    """CPU and wall seconds of one piece of work."""

    cpu_s: float
    wall_s: float


def timed(work: Callable[[], T]) -> tuple[T, Timed]:
    """What ``work`` gives, and how long it took."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    done = work()
    return done, Timed(time.process_time() - cpu_s, time.perf_counter() - wall_s)


def imported() -> Timed:
    """The seconds to import planner, solver and front ends."""

    def work() -> None:
        import heterarch.cli.pipeline
        import heterarch.plan.planner
        import heterarch.workload.profile  # noqa: F401

    return timed(work)[1]


def planned(name: str, repeats: int, explain: bool) -> dict[str, Any]:
    """The figures of one example."""
    from heterarch.cli.pipeline import catalog_and_fleet, compile_agent
    from heterarch.plan.document import Plan
    from heterarch.plan.planner import plan
    from heterarch.workload.profile import load_workload

    compiled, capture = timed(lambda: compile_agent(str(EXAMPLES / f"{name}.py")))
    catalog, fleet = catalog_and_fleet("mixed", [])
    workload = load_workload(AGENTS[name])

    def work() -> Plan:
        return plan(
            compiled.authored, compiled.flat, fleet, catalog, workload, accounting=ACCOUNTING, explain=explain
        )  # fmt: skip

    made, cold = timed(work)
    warm = [timed(work)[1] for _ in range(repeats)]
    return {
        "workload": workload.name,
        "capture_s": capture._asdict(),
        "cold_s": cold._asdict(),
        "warm_s": Timed(*(statistics.median(column) for column in zip(*warm, strict=True)))._asdict(),
        "solve_s": made.objective.solve_s,
        "usd_per_h": made.objective.value,
        "bound_usd_per_h": made.objective.bound,
        "gap": made.objective.gap,
        "pools": {pool.name: pool.engines for pool in made.pools},
        "alternatives": len(made.alternatives),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan the examples and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1, help="warm plans of each example")
    parser.add_argument("--agent", nargs="+", choices=AGENTS, default=list(AGENTS))
    parser.add_argument("--no-explain", action="store_true", help="only the plan, without alternatives and reasons")
    options = parser.parse_args(arguments)
    first = facts("plan_speed")
    imports = imported()
    explain = not options.no_explain
    agents = {name: planned(name, max(1, options.repeats), explain) for name in options.agent}
    show(
        {
            **first,
            "fleet": "mixed",
            "accounting": ACCOUNTING,
            "explained": explain,
            "repeats": max(1, options.repeats),
            "import_s": imports._asdict(),
            "agents": agents,
        }
    )


if __name__ == "__main__":
    main()
