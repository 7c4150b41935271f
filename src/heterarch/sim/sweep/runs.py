"""One run of a sweep: what goes into it, its key, and what is kept of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from heterarch.errors import HeterarchError
from heterarch.ir.flat import FlatProgram
from heterarch.plan.document import Plan
from heterarch.sim.simulate import Cache, evaluator
from heterarch.sim.sweep.metrics import metrics_of
from heterarch.workload.profile import Workload


class Settings(BaseModel):
    """What all runs of a sweep share, and so all runs of a results file.

    ``request_s``: nominal seconds of a request, which place the sessions that are under way when a run starts; one
    number for all plans, or the same seed would draw other sessions for each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    heterarch_version: str
    agent: str
    workload: str
    workload_sha256: str
    requests: int
    steady: bool
    until_s: float | None
    cache: Cache
    request_s: float


class Cell(BaseModel):
    """A point of the sweep that the seeds repeat; ``load`` is a factor of the workload's session rate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: str
    plan_sha256: str
    router: str
    load: float


class Run(BaseModel):
    """A finished run: its metrics (:data:`heterarch.sim.sweep.metrics.UNITS`), or why it failed.

    ``requests``, ``calls``: offered, which tell whether two runs of a seed drew the same work.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    cell: Cell
    seed: int
    status: Literal["done", "failed"]
    reason: str = ""
    requests: int = 0
    calls: int = 0
    metrics: dict[str, float | None] = {}


@dataclass(frozen=True)
class Work:
    """All that a run needs, in a form that goes to another process; ``workload`` is at its load already."""

    cell: Cell
    seed: int
    settings: Settings
    plan: Plan
    flat: FlatProgram
    workload: Workload

    @property
    def key(self) -> str:
        """SHA-256 of the inputs: the plan by its hash, router, load, seed and settings."""
        inputs = {
            **self.cell.model_dump(exclude={"plan"}),
            "seed": self.seed,
            "settings": self.settings.model_dump(),
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def failed(self, reason: str) -> Run:
        """The run that it is when it cannot be finished."""
        return Run(key=self.key, cell=self.cell, seed=self.seed, status="failed", reason=reason)


def run_one(work: Work) -> Run:
    """Simulate; what goes wrong in one run is its result, so that the others go on.

    Raises:
        KeyboardInterrupt: Ctrl-C; half a run is no run.
    """
    chosen = work.settings
    evaluate = evaluator(
        work.flat, requests=chosen.requests, router=work.cell.router, cache=chosen.cache, steady=chosen.steady,
        until_s=chosen.until_s, request_s=chosen.request_s,
    )  # fmt: skip
    try:
        report = evaluate(work.plan, work.workload, work.seed)
    except HeterarchError as error:
        return work.failed(str(error))
    except Exception as error:
        return work.failed(f"{type(error).__name__}: {error}")
    return Run(
        key=work.key, cell=work.cell, seed=work.seed, status="done", requests=report.requests.offered,
        calls=report.calls.offered, metrics=metrics_of(report),
    )  # fmt: skip
