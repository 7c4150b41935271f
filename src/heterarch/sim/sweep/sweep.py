"""A sweep resolved into its runs, and those runs made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, product
from typing import NamedTuple

import heterarch
from heterarch.errors import InputError
from heterarch.ir.flat import FlatProgram
from heterarch.plan.document import Plan
from heterarch.policy.router import router as builtin_router
from heterarch.sim.sweep.document import SweepDocument
from heterarch.sim.sweep.results import Results
from heterarch.sim.sweep.runs import Cell, Run, Settings, Work
from heterarch.sim.sweep.workers import Workers, in_this_process
from heterarch.workload.profile import Workload, load_workload


class Placed(NamedTuple):
    """A plan, its SHA-256 (:func:`heterarch.plan.store.plan_sha256`) and its program in executable form."""

    plan: Plan
    sha256: str
    flat: FlatProgram


@dataclass(frozen=True)
class Sweep:
    """Cells in the order plan, router, load; ``works[cell]`` has one run per seed."""

    document: SweepDocument
    settings: Settings
    workload: Workload
    works: dict[Cell, list[Work]]

    @classmethod
    def of(cls, document: SweepDocument, plans: Mapping[str, Placed]) -> Sweep:
        """The sweep over ``plans``, by their names in tables.

        The same seed gives every plan and router the same sessions, trips and tokens (common random numbers).

        Raises:
            InputError: plans of different agents or workloads, two that are equal, or an unknown name.
        """
        workload = _workload(document, plans)
        first = next(iter(plans.values())).plan
        settings = Settings(
            heterarch_version=heterarch.__version__,
            agent=_agent(plans),
            workload=workload.name,
            workload_sha256=hashlib.sha256(workload.model_dump_json().encode()).hexdigest(),
            requests=document.requests,
            steady=document.steady,
            until_s=document.until_s,
            cache=document.cache,
            request_s=first.predictions.e2e_s.get("mean", 0.0),
        )
        works: dict[Cell, list[Work]] = {}
        seen: dict[tuple[str, str], str] = {}
        for (name, placed), router in product(plans.items(), document.routers or [""]):
            chosen = builtin_router(router or placed.plan.policies.get("router", "prefix-affinity")).name
            twin = seen.setdefault((placed.sha256, chosen), name)
            if twin != name:
                raise InputError("two cells of the sweep are the same", observed=f"{twin} and {name} are equal plans")
            for load in document.loads:
                cell = Cell(plan=name, plan_sha256=placed.sha256, router=chosen, load=load)
                source = workload.at_rate(load * workload.arrivals.rate_per_s)
                works[cell] = [
                    Work(cell, seed, settings, placed.plan, placed.flat, source) for seed in range(document.seeds)
                ]
        return cls(document, settings, workload, works)


def run_sweep(
    sweep: Sweep, results: Results, workers: Workers = in_this_process, tick: Callable[[Run], None] | None = None
) -> None:
    """Make the runs that ``results`` does not have, seed after seed, so that a sweep cut short compares all cells.

    Args:
        sweep: what to run.
        results: where runs are kept as they finish.
        workers: who makes them; the numbers do not depend on it.
        tick: called after every run.

    Raises:
        InputError: the results cannot be written.
        KeyboardInterrupt: Ctrl-C; the runs under way are lost.
    """
    by_seed = chain.from_iterable(zip(*sweep.works.values(), strict=True))
    missing = [work for work in by_seed if not results.finished(work.key)]
    with closing(workers(missing)) as runs:
        for run in runs:
            results.add(run)
            if tick is not None:
                tick(run)


def _workload(document: SweepDocument, plans: Mapping[str, Placed]) -> Workload:
    """The sweep's workload, or the one that all plans are for."""
    if document.workload:
        return load_workload(document.workload)
    loads = {name: placed.plan.load or load_workload(placed.plan.workload) for name, placed in plans.items()}
    first, *others = loads
    for name in others:
        if loads[name] != loads[first]:
            raise InputError(
                "the plans are for different workloads",
                observed=f"{loads[first].name} of {first}, {loads[name].name} of {name}"
                + (" (with other numbers)" if loads[first].name == loads[name].name else ""),
                fix=f"name the one to compare them on: --workload {loads[first].name}",
            )
    return loads[first]


def _agent(plans: Mapping[str, Placed]) -> str:
    agents = {placed.plan.agent.name for placed in plans.values()}
    if len(agents) > 1:
        raise InputError(
            "the plans are of different agents", observed=", ".join(sorted(agents)),
            expected="one agent, so that a seed means the same requests for every plan",
        )  # fmt: skip
    return agents.pop()
