"""Everything about a planning question that does not depend on the limits tried: gathered once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.dtype import canonical_dtype
from heterarch.catalog.fleet import Fleet
from heterarch.cost.library import Library
from heterarch.cost.money.accounting import Accounting, OwnerTerms
from heterarch.errors import InfeasibleError, InputError, UnknownNameError
from heterarch.ir.flat import FlatProgram
from heterarch.plan.candidates import Hosted, Reach, engines_of
from heterarch.plan.cpu import KINDS, CpuPool, cpu_pools
from heterarch.plan.document import LeftOut
from heterarch.plan.mix import Mix, mix_of
from heterarch.plan.operating import Engine
from heterarch.plan.phases import Call, Links, calls_of
from heterarch.plan.supply import Supply, supplies
from heterarch.plan.walk import Walked, walk
from heterarch.report.slo import SLO
from heterarch.workload.profile import Workload


@dataclass(frozen=True)
class Setting:
    """The question: a program under a workload, what the fleet offers at which price, and what must hold.

    ``mixes``: model -> the calls it serves; ``engines``: model -> engines that hold it; ``reach``: model -> why a
    device serves it or not; ``tasks``: ops that run on CPUs.
    """

    flat: FlatProgram
    fleet: Fleet
    catalog: Catalog
    workload: Workload
    slos: tuple[SLO, ...]
    accounting: Accounting
    seed: int
    walked: Walked
    calls: tuple[Call, ...]
    mixes: Mapping[str, Mix]
    supplies: tuple[Supply, ...]
    left_out: tuple[LeftOut, ...]
    engines: Mapping[str, Sequence[tuple[Supply, Engine]]]
    reach: Mapping[str, Reach]
    hosted: tuple[Hosted, ...]
    cpus: tuple[CpuPool, ...]
    tasks: tuple[int, ...]
    links: Links

    @property
    def requests_per_s(self) -> float:
        """Agent requests per second."""
        return self.workload.requests_per_s

    @property
    def inventory(self) -> dict[str, int]:
        """Devices per supply, for those with a limit; one of each endpoint."""
        limits = {supply.key: supply.limit for supply in self.supplies if supply.limit is not None}
        return limits | {f"endpoint {each.endpoint.name}": 1 for each in self.hosted}

    def windows(self) -> dict[str, int]:
        """Model -> most tokens of context."""
        return windows_of(self.catalog, self.calls, self.flat)


def windows_of(catalog: Catalog, calls: Sequence[Call], flat: FlatProgram) -> dict[str, int]:
    """Model -> most tokens of context, for the models of ``calls``; raises UnknownNameError with the call's line."""
    windows: dict[str, int] = {}
    for call in calls:
        try:
            windows[call.model] = catalog.model(call.model).context
        except UnknownNameError as error:
            error.where = flat.where[call.decode]
            raise
    return windows


def gather(
    flat: FlatProgram,
    fleet: Fleet,
    catalog: Catalog,
    workload: Workload,
    slos: Sequence[SLO],
    accounting: Accounting,
    *,
    dtypes: Sequence[str] = (),
    terms: OwnerTerms | None = None,
    seed: int = 0,
    library: Library | None = None,
) -> Setting:
    """Walk the program, price the fleet, and find the engines that hold each model.

    ``dtypes``: formats of the weights that may be used, beside none but the published one by default.
    ``library``: calibrations to predict with; the shipped one by default.

    Raises:
        UnknownNameError: the program names a model or the fleet a device that the catalogue lacks.
        InputError: a statistic is missing.
        InfeasibleError: a model fits on no device of the fleet, or no device has a price.
    """
    calls = tuple(calls_of(flat))
    walked = walk(flat, workload, seed=seed, windows=windows_of(catalog, calls, flat))
    found, left_out = supplies(fleet, catalog, accounting, terms)
    hosted = tuple(Hosted(endpoint, endpoint.token_price()) for endpoint in fleet.endpoints)
    reach: dict[str, Reach] = {}
    engines: dict[str, list[tuple[Supply, Engine]]] = {}
    mixes: dict[str, Mix] = {}
    for name in dict.fromkeys(call.model for call in calls):
        ops = [call.decode for call in calls if call.model == name]
        rate = workload.requests_per_s * sum(walked.runs.get(op, 0.0) for op in ops)
        if rate <= 0:
            raise InputError(f"no call of the model {name!r} is ever made", fix="check the branch probabilities")
        mixes[name] = mix_of(name, rate, walked.calls, ops, seed)
        model = catalog.model(name)
        reach[name] = Reach()
        formats = [canonical_dtype(dtype) for dtype in dtypes] or [model.dtype]
        engines[name] = engines_of(model, found, formats, reach[name], library)
        if not engines[name] and not any(each.endpoint.serves == name for each in hosted):
            raise _nowhere(name, reach[name], left_out)
    tasks = tuple(op for op in range(len(flat)) if flat.kind[op] in KINDS and op in walked.runs)
    return Setting(
        flat, fleet, catalog, workload, tuple(slos), accounting, seed, walked, calls, mixes, tuple(found),
        tuple(left_out), engines, reach, hosted, tuple(cpu_pools(found, catalog)), tasks, Links(fleet, catalog),
    )  # fmt: skip


def _nowhere(model: str, reach: Reach, left_out: Sequence[LeftOut]) -> InfeasibleError:
    reasons = [f"{device}: {reason}" for device, reason in reach.unfit.items()]
    reasons += [f"{entry.device}: {entry.reason}" for entry in left_out]
    return InfeasibleError(
        f"the model {model!r} fits on no device of the fleet",
        observed="\n    ".join(reasons) or "the fleet has no device for it",
        fix="add devices with more memory, allow a smaller --dtype such as fp8, or add an endpoint that serves it",
    )
