"""What may go wrong in a simulation, and what is changed on purpose: the documents, and random schedules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from heterarch.documents import parse_document
from heterarch.errors import InputError
from heterarch.plan.document import Plan, Pool
from heterarch.sim.pools import pool_kind
from heterarch.sim.state import PoolKind

MOST_FAILURES = 100_000  # of one engine, server or link in a run
NOTICE_S = 120.0  # between the notice and the end of a spot node; two minutes on AWS, half a minute elsewhere
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Span = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Change(_Part):
    at_s: Seconds = 0.0


class _PoolChange(_Change):
    pool: str


class EngineCrash(_PoolChange):
    """Engine ``engine`` (row within the pool) dies; it starts again (``start_s``) after ``repair_s``, or never."""

    kind: Literal["engine-crash"] = "engine-crash"
    engine: int = Field(default=0, ge=0)
    repair_s: Seconds = 0.0
    restarts: bool = True


class ServerCrash(_PoolChange):
    """All engines of server ``server`` die: ``engines_per_server`` rows of the pool."""

    kind: Literal["server-crash"] = "server-crash"
    server: int = Field(default=0, ge=0)
    repair_s: Seconds = 0.0
    restarts: bool = True


class SlowEngine(_PoolChange):
    """Iterations of an engine that begin within ``for_s`` take ``factor`` times as long."""

    kind: Literal["slow"] = "slow"
    engine: int = Field(default=0, ge=0)
    factor: Span
    for_s: Span


class LinkLoss(_PoolChange):
    """No KV leaves or enters ``pool`` for ``for_s``; with ``to``, none goes from ``pool`` to that pool."""

    kind: Literal["link-loss"] = "link-loss"
    to: str = ""
    for_s: Span


class Scale(_PoolChange):
    """``engines`` more, which serve after ``start_s``; or fewer, which end what they have and take nothing new."""

    kind: Literal["scale"] = "scale"
    engines: int = Field(ge=-1_000_000, le=1_000_000)


class Spot(_PoolChange):
    """Spot nodes that come and go, from ``at_s`` on: ``available`` of ``nodes`` nodes, one number per tick.

    The pool has that share of its engines, rounded down. An engine that is taken drains for ``notice_s`` before; one
    that comes back starts first. ``file``: a parquet file with columns collection, zone, nodes, gap_s, tick, available
    instead, and which trace of it.
    """

    kind: Literal["spot"] = "spot"
    available: list[int] = []
    nodes: int = Field(default=0, ge=0)  # 0: the most that are available
    gap_s: Span = 300.0
    file: str = ""
    collection: str = ""
    zone: str = ""
    first_tick: int = Field(default=0, ge=0)
    notice_s: Seconds = NOTICE_S


class Switch(_Change):
    """Another plan of the same program from ``at_s`` on (a file, or the plan itself).

    Its pools start; when all are up, what has not been submitted goes to them, by the names of the ops, and the old
    pools end what they have. Pools that differ only in their number of engines are scaled.
    """

    kind: Literal["plan"] = "plan"
    plan: str | Plan


Change = Annotated[
    EngineCrash | ServerCrash | SlowEngine | LinkLoss | Scale | Spot | Switch, Field(discriminator="kind")
]


class Rates(_Part):
    """Mean seconds between failures of one engine, server or pair of pools, and to its repair, each exponential.

    An engine also takes its ``start_s``. ``duration_s``: how long faults occur; by default as long as requests come.
    """

    engine_mtbf_s: Span | None = None
    engine_mttr_s: Seconds = 0.0
    server_mtbf_s: Span | None = None
    server_mttr_s: Seconds = 0.0
    link_mtbf_s: Span | None = None
    link_mttr_s: Span = 10.0
    seed: int = Field(default=0, ge=0)
    duration_s: Span | None = None


class Faults(_Part):
    """What changes in a run.

    ``max_attempts``: a call that lost so many engines fails. ``patience_s``: longest wait of a call for a healthy
    engine; without it a call waits as long as an engine of its pool is coming, and fails at once when none is.
    """

    heterarch: Literal["faults"] = "faults"
    changes: list[Change] = []
    random: Rates | None = None
    max_attempts: int = Field(default=3, ge=1, le=100)
    patience_s: Span | None = None


def load_faults(path: Path | str) -> Faults:
    """Read a file of faults; files that it names are found beside it.

    Raises:
        InputError: the file cannot be read, or a field is missing, misspelt or wrong; with file and line.
    """
    faults = parse_document(Faults, path)
    folder = Path(path).parent
    return faults.model_copy(update={"changes": [_beside(change, folder) for change in faults.changes]})


def _beside(change: Change, folder: Path) -> Change:
    if isinstance(change, Spot) and change.file:
        return change.model_copy(update={"file": str(folder / change.file)})
    if isinstance(change, Switch) and isinstance(change.plan, str):
        return change.model_copy(update={"plan": str(folder / change.plan)})
    return change


def random_faults(seed: int, plan: Plan, duration_s: float, rates: Rates) -> list[Change]:
    """Crashes of engines and servers and losses of links within ``duration_s``: alternating renewal processes.

    Each engine, server and pair of pools has a random stream of its own, so that more of one changes no other.

    Raises:
        InputError: a duration that is not above zero, or more than ``MOST_FAILURES`` of one engine, server or link.
    """
    if not duration_s > 0:
        raise InputError("random faults need a duration above zero", observed=duration_s)
    found: list[Change] = []
    pools = [pool for pool in plan.pools if pool_kind(pool) == PoolKind.ENGINES]
    for row, pool in enumerate(pools):
        servers = -(-pool.engines // pool.engines_per_server)
        for k in range(pool.engines if rates.engine_mtbf_s else 0):
            times = _renewals((seed, 0, row, k), rates.engine_mtbf_s, rates.engine_mttr_s, pool.start_s, duration_s)
            found += [EngineCrash(at_s=at, pool=pool.name, engine=k, repair_s=repair) for at, repair in times]
        for k in range(servers if rates.server_mtbf_s else 0):
            times = _renewals((seed, 1, row, k), rates.server_mtbf_s, rates.server_mttr_s, pool.start_s, duration_s)
            found += [ServerCrash(at_s=at, pool=pool.name, server=k, repair_s=repair) for at, repair in times]
    for row, (a, b) in enumerate(_pairs(pools) if rates.link_mtbf_s else []):
        times = _renewals((seed, 2, row, 0), rates.link_mtbf_s, rates.link_mttr_s, 0.0, duration_s)
        found += [LinkLoss(at_s=at, pool=a, to=b, for_s=max(repair, 1e-9)) for at, repair in times]
    return sorted(found, key=lambda change: change.at_s)


def _pairs(pools: Sequence[Pool]) -> list[tuple[str, str]]:
    """Pools that may send KV to each other."""
    return [
        (a.name, b.name)
        for a in pools
        for b in pools
        if (a.role, b.role) == ("prefill", "decode") and a.model == b.model
    ]


def _renewals(
    stream: tuple[int, ...], mtbf_s: float | None, mttr_s: float, start_s: float, duration_s: float
) -> Iterator[tuple[float, float]]:
    """Time of each failure, and seconds until its repair."""
    rng = np.random.default_rng(stream)
    at = float(rng.exponential(mtbf_s or 0.0))
    for number in count(1):
        if at >= duration_s:
            return
        if number > MOST_FAILURES:
            raise InputError(
                "too many random faults",
                observed=f"{MOST_FAILURES:,} failures within {at:g} s of {duration_s:g} s",
                fix="a longer time between failures, or a shorter duration_s",
            )
        repair = float(rng.exponential(mttr_s))
        yield at, repair
        at += repair + start_s + float(rng.exponential(mtbf_s or 0.0))
