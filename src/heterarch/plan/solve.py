"""Solve a placement problem to proven optimality as a mixed-integer program (OR-Tools MathOpt with HiGHS)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from ortools.math_opt.python import mathopt

from heterarch.errors import HeterarchError, InfeasibleError
from heterarch.plan.problem import Problem, evaluate, whole_engines
from heterarch.units import format_duration

ENDPOINT = "endpoint "  # begins the inventory key of a hosted API, of which there is one
SOLVER = "HiGHS (OR-Tools MathOpt)"


@dataclass(frozen=True)
class Solution:
    """The best choice found: ``choice`` op -> row of its options, ``engines`` resource -> whole engines.

    ``bound`` is the proven lower bound on USD per hour and ``gap`` = (usd_per_h - bound) / usd_per_h.
    """

    choice: Mapping[str, int]
    engines: Mapping[str, int]
    usd_per_h: float
    usd_per_request: float
    latency_s: float
    bound: float
    gap: float
    solve_s: float
    solver: str = SOLVER


@dataclass(frozen=True)
class Diagnosis:
    """Why a problem has no solution.

    ``binding``: "pairs" (the forbidden pairs alone exclude everything), "latency", "inventory", or "latency and
    inventory" (each can be kept, not both). ``least_latency_s``: what is reachable with the inventory as it is
    (infinite when the inventory alone excludes everything). ``needs``: device -> devices that the cheapest plan
    takes when that one inventory is lifted, for those where lifting it alone is enough.
    """

    binding: str
    least_latency_s: float
    needs: Mapping[str, int]


def solve(problem: Problem, *, time_limit_s: float = 30.0, relative_gap: float = 1e-7) -> Solution:
    """The cheapest choice that keeps the inventory and the latency limit.

    Raises:
        InfeasibleError: there is none; the message names what binds and the nearest reachable value.
        HeterarchError: the time limit ended the search before any choice was found.
    """
    started = time.perf_counter()
    form = _Form(problem)
    form.limit_latency()
    form.model.minimize(form.usd_per_h)
    result = form.solve(time_limit_s, relative_gap)
    if result is None:
        raise infeasible(problem, diagnose(problem, time_limit_s=time_limit_s))
    choice = form.choice(result)
    outcome = evaluate(problem, choice)
    bound = min(result.dual_bound(), outcome.usd_per_h)
    requests = problem.requests_per_h
    return Solution(
        choice=choice,
        engines={name: n for name, n in outcome.engines.items() if n},
        usd_per_h=outcome.usd_per_h,
        usd_per_request=outcome.usd_per_h / requests if requests else 0.0,
        latency_s=outcome.latency_s,
        bound=bound,
        gap=(outcome.usd_per_h - bound) / outcome.usd_per_h if outcome.usd_per_h else 0.0,
        solve_s=time.perf_counter() - started,
    )


def least_latency_s(problem: Problem, *, time_limit_s: float = 30.0) -> float | None:
    """The shortest path that the pairs and the inventory allow, whatever it costs; None when nothing is allowed."""
    form = _Form(problem)
    form.model.minimize(form.makespan())
    result = form.solve(time_limit_s, 1e-4)
    return None if result is None else evaluate(problem, form.choice(result)).latency_s


def diagnose(problem: Problem, *, time_limit_s: float = 30.0) -> Diagnosis:
    """Which limit leaves no solution: solve with one limit lifted at a time."""
    stocked = least_latency_s(problem, time_limit_s=time_limit_s)
    least = float("inf") if stocked is None else stocked
    needs = {}
    for device in problem.inventory:
        lifted = replace(problem, inventory={k: v for k, v in problem.inventory.items() if k != device})
        found = _devices(lifted, time_limit_s)
        if found is not None:
            needs[device] = found.get(device, 0)
    if stocked is not None:
        return Diagnosis("latency and inventory" if needs else "latency", least, needs)
    free = least_latency_s(replace(problem, inventory={}), time_limit_s=time_limit_s)
    return Diagnosis("pairs" if free is None else "inventory", least, needs)


def infeasible(problem: Problem, found: Diagnosis, what: str = "the request") -> InfeasibleError:
    """The error that tells the reader what ``found`` says about ``what``."""
    limit = problem.latency_limit_s
    relax = [_relaxed(device, n) for device, n in found.needs.items()]
    if found.binding == "pairs":
        return InfeasibleError(f"no allowed combination of options for {what}")
    if found.binding == "inventory":
        short = {device: problem.inventory[device] for device in found.needs} or _stock(problem)
        short = {device: n for device, n in short.items() if not device.startswith(ENDPOINT)}
        return InfeasibleError(
            f"the inventory is too small for {what}",
            observed=", ".join(f"{n} {device}" for device, n in short.items()) or None,
            fix=" or ".join(relax) or "raise the limits of several devices",
        )
    return InfeasibleError(
        f"the latency limit of {what} cannot be met",
        observed=f"best reachable {format_duration(found.least_latency_s)}",
        expected=f"at most {format_duration(limit or 0.0)}",
        fix=" or ".join([f"allow {format_duration(found.least_latency_s)}", *relax]),
    )


def _relaxed(device: str, needed: int) -> str:
    if device.startswith(ENDPOINT):
        return f"raise the rate limits of {device.removeprefix(ENDPOINT)} {needed} times"
    return f"allow {needed} of {device}"


def _stock(problem: Problem) -> dict[str, int]:
    """The inventory of the devices that some option uses."""
    used = {problem.resource(o.resource).device for op in problem.ops for o in op.options if o.resource}
    return {device: n for device, n in problem.inventory.items() if device in used}


def _devices(problem: Problem, time_limit_s: float) -> Mapping[str, int] | None:
    form = _Form(problem)
    form.limit_latency()
    form.model.minimize(form.usd_per_h)
    result = form.solve(time_limit_s, 1e-3)
    return None if result is None else evaluate(problem, form.choice(result)).devices


class _Form:
    """The mixed-integer program of a problem.

    x[o, i] = 1 when op o takes option i; y[e, i, j] >= 0 is the pair of an edge, tied to x by the transport
    equalities sum_j y = x_before, sum_i y = x_after (the convex hull of x_i x_j for one pair of choices, hence tight);
    n[r] whole engines; start[s] the begin of a stage.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.model = mathopt.Model(name="placement")
        self.x = {
            (op.name, i): self.model.add_binary_variable(name=f"{op.name}/{i}")
            for op in problem.ops
            for i in range(len(op.options))
        }
        self.y: dict[tuple[str, int, int], Any] = {}
        self.latency: dict[str, Any] = {}
        self.variable: list[Any] = []
        for op in problem.ops:
            self._add_op(op.name)
        for edge in problem.edges:
            self._add_edge(edge)
        self.engines = self._add_engines()
        fixed = [n * problem.resource(name).usd_per_h for name, n in self.engines.items()]
        self.usd_per_h = mathopt.fast_sum(fixed) + problem.requests_per_h * mathopt.fast_sum(self.variable)
        self.end = self._add_path()

    def limit_latency(self) -> None:
        """Keep every end within the latency limit, if there is one."""
        if self.problem.latency_limit_s is not None:
            for end in self.end:
                self.model.add_linear_constraint(end <= self.problem.latency_limit_s)

    def makespan(self) -> Any:
        """A variable at or above every end."""
        last = self.model.add_variable(lb=0.0, name="makespan")
        for end in self.end:
            self.model.add_linear_constraint(end <= last)
        return last

    def solve(self, time_limit_s: float, relative_gap: float) -> Any:
        """The result, or None when there is no solution."""
        parameters = mathopt.SolveParameters(
            time_limit=timedelta(seconds=time_limit_s),
            relative_gap_tolerance=relative_gap,
            absolute_gap_tolerance=1e-9,
            random_seed=0,
        )
        with _silent():
            result = mathopt.solve(self.model, mathopt.SolverType.HIGHS, params=parameters)
        reason = result.termination.reason
        if result.has_primal_feasible_solution():
            return result
        if reason in (
            mathopt.TerminationReason.INFEASIBLE,
            mathopt.TerminationReason.INFEASIBLE_OR_UNBOUNDED,
        ):
            return None
        raise HeterarchError(
            "the solver ended without an answer",
            observed=f"{reason.value} after {time_limit_s:g} s",
            fix="raise the time limit or offer fewer devices",
        )

    def choice(self, result: Any) -> dict[str, int]:
        """Op -> the option that the result takes."""
        values = result.variable_values()
        return {
            op.name: max(range(len(op.options)), key=lambda i, name=op.name: values[self.x[name, i]])  # type: ignore[misc]
            for op in self.problem.ops
        }

    def _add_op(self, name: str) -> None:
        options = self.problem.op(name).options
        self.model.add_linear_constraint(self._sum(lambda i: self.x[name, i], len(options)) == 1.0)
        self.latency[name] = self._sum(lambda i: options[i].latency_s * self.x[name, i], len(options))
        self.variable += [o.usd_per_request * self.x[name, i] for i, o in enumerate(options)]

    def _add_edge(self, edge: Any) -> None:
        rows = len(self.problem.op(edge.before).options), len(self.problem.op(edge.after).options)
        out: list[list[Any]] = [[] for _ in range(rows[0])]
        into: list[list[Any]] = [[] for _ in range(rows[1])]
        seconds = []
        for (i, j), link in edge.links.items():
            pair = self.model.add_variable(lb=0.0, ub=1.0, name=f"{edge.name}/{i}/{j}")
            self.y[edge.name, i, j] = pair
            out[i].append(pair)
            into[j].append(pair)
            if link.latency_s:
                seconds.append(link.latency_s * pair)
            if link.usd_per_request:
                self.variable.append(link.usd_per_request * pair)
        for i, pairs in enumerate(out):
            self.model.add_linear_constraint(mathopt.fast_sum(pairs) == self.x[edge.before, i])
        for j, pairs in enumerate(into):
            self.model.add_linear_constraint(mathopt.fast_sum(pairs) == self.x[edge.after, j])
        self.latency[edge.name] = mathopt.fast_sum(seconds)

    def _add_engines(self) -> dict[str, Any]:
        loads: dict[str, list[Any]] = {}
        most: dict[str, float] = {}
        for op in self.problem.ops:
            for i, option in enumerate(op.options):
                if option.resource and option.load:
                    loads.setdefault(option.resource, []).append(option.load * self.x[op.name, i])
                    most[option.resource] = most.get(option.resource, 0.0) + option.load
        engines = {}
        for name, load in loads.items():
            count = self.model.add_integer_variable(lb=0, ub=max(1, whole_engines(most[name])), name=name)
            self.model.add_linear_constraint(mathopt.fast_sum(load) <= count)
            engines[name] = count
        for device, limit in self.problem.inventory.items():
            used = [
                n * self.problem.resource(name).devices
                for name, n in engines.items()
                if self.problem.resource(name).device == device
            ]
            self.model.add_linear_constraint(mathopt.fast_sum(used) <= float(limit))
        return engines

    def _add_path(self) -> list[Any]:
        starts = {
            stage.name: self.model.add_variable(lb=0.0, name=f"start {stage.name}") for stage in self.problem.stages
        }
        ends = {}
        for stage in self.problem.stages:
            runs = stage.visits * self.latency[stage.runs] if stage.runs and stage.visits else 0.0
            ends[stage.name] = starts[stage.name] + runs + stage.constant_s
        for stage in self.problem.stages:
            for before in stage.after:
                self.model.add_linear_constraint(ends[before] <= starts[stage.name])
        return list(ends.values())

    @staticmethod
    def _sum(term: Callable[[int], Any], count: int) -> Any:
        return mathopt.fast_sum([term(i) for i in range(count)])


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what HiGHS prints, though told not to, off standard output, which is for data."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
