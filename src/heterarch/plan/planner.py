"""Plan an agent: the cheapest placement of its ops on a fleet under SLOs, explained, checked, as one document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.fleet import Fleet
from heterarch.cost.engine import step_source
from heterarch.cost.library import Library
from heterarch.cost.money.accounting import Accounting, OwnerTerms
from heterarch.errors import InfeasibleError, InputError, UnknownNameError
from heterarch.ir.flat import FlatProgram
from heterarch.plan.assemble import links_of, placement_of, pool_names, pools_of, predictions_of, provenance_of
from heterarch.plan.candidates import Candidate, Limit, Limits
from heterarch.plan.document import AgentPart, CallablePart, LeftOut, Objective, Plan
from heterarch.plan.explain import alternatives_of, why_of
from heterarch.plan.placement import Placement, Targets, attempt, expected, offer
from heterarch.plan.setting import Setting, gather
from heterarch.policy.router import router as router_of
from heterarch.report.schema import Report
from heterarch.report.slo import SLO, parse_slo
from heterarch.units import format_duration, format_usd
from heterarch.workload.profile import Workload

Evaluator = Callable[[Plan, Workload, int], Report]
Place = Callable[[dict[str, str]], str]
CHECKS = 4  # simulations of a plan, each after tightening
STEP = 0.95  # of the ratio that a simulated limit was missed by


@dataclass(frozen=True)
class Authored:
    """The agent as its author knows it: name, file, callables, and the module's text for a placement."""

    name: str
    source: str
    place: Place
    callables: tuple[CallablePart, ...] = ()


def plan(
    agent: Authored,
    flat: FlatProgram,
    fleet: Fleet,
    catalog: Catalog,
    workload: Workload,
    *,
    slos: Sequence[SLO] | None = None,
    accounting: Accounting | str | None = None,
    terms: OwnerTerms | None = None,
    dtypes: Sequence[str] = (),
    margin: float = 1.0,
    router: str = "prefix-affinity",
    seed: int = 0,
    evaluator: Evaluator | None = None,
    explain: bool = True,
    library: Library | None = None,
) -> Plan:
    """The plan of least USD per hour for ``workload`` that meets the SLOs.

    Args:
        agent: name, source file, callables, and ``place(placement) -> text`` of the placed module.
        flat: the decomposed program (``heterarch.ir.flatten``).
        fleet: what may be used. catalog: devices, models and prices.
        workload: load and statistics; its own ``slo`` hold where ``slos`` is None.
        accounting: which costs count; the fleet's own, else rental.
        terms: how an owner counts, for the accountings of owners.
        dtypes: formats that weights may be served in; the published one of each model by default.
        margin: predicted latencies must be this factor below their limits (1: no margin).
        router: policy that picks the engine of a pool.
        seed: of the sampled walk; the same seed gives the same plan.
        evaluator: checks the plan, for instance by simulation; where it sees an SLO missed the limit is tightened and
            the plan solved again, at most :data:`CHECKS` times.
        explain: find alternatives and reasons, which takes several times as long as the plan itself.
        library: calibrations to predict with; the shipped one by default.

    Raises:
        InfeasibleError: no plan meets the limits; names what binds and what would relax it.
        InputError: something given is wrong or a statistic is missing.
    """
    if margin < 1:
        raise InputError("the margin must be at least 1", observed=margin)
    router_of(router)
    wanted = tuple(slos) if slos is not None else tuple(parse_slo(text) for text in workload.slo)
    setting = gather(
        flat, fleet, catalog, workload, wanted, _accounting(accounting or fleet.accounting), dtypes=dtypes,
        terms=terms, seed=seed, library=library,
    )  # fmt: skip
    targets = targets_of(wanted, margin)
    if evaluator is None:
        made, notes = _made(agent, setting, targets, router), list[str]()
    else:
        made, notes = _checked(agent, setting, targets, router, evaluator)
    return made.explained(notes) if explain else made.noted(notes)


def _accounting(name: Accounting | str | None) -> Accounting:
    try:
        return Accounting(name or Accounting.RENTAL)
    except ValueError:
        raise UnknownNameError("accounting", str(name), list(Accounting)) from None


def targets_of(slos: Sequence[SLO], margin: float = 1.0) -> Targets:
    """The latency limits of SLOs, divided by ``margin``."""

    def pick(metric: str) -> tuple[Limit, ...]:
        return tuple(
            Limit(slo.percentile / 100 if slo.percentile >= 0 else -1.0, slo.target / margin)
            for slo in slos
            if slo.metric == metric
        )

    return Targets(Limits(pick("ttft"), pick("tpot")), pick("e2e"))


@dataclass(frozen=True)
class _Made:
    """A plan without its explanation, and what the explanation needs."""

    plan: Plan
    placement: Placement
    offered: Mapping[str, Sequence[Candidate]]
    targets: Targets

    def explained(self, notes: Sequence[str]) -> Plan:
        """The plan with alternatives, reasons and the notes of its checks."""
        others = alternatives_of(self.placement, self.offered, self.targets)
        why = why_of(self.placement, self.plan.pools, others, self.targets)
        return self.noted(notes).model_copy(update={"alternatives": others, "why": why})

    def noted(self, notes: Sequence[str]) -> Plan:
        """The plan with the notes of its checks."""
        return self.plan.model_copy(update={"notes": [*self.plan.notes, *notes]})


def _checked(
    agent: Authored, setting: Setting, targets: Targets, router: str, evaluator: Evaluator
) -> tuple[_Made, list[str]]:
    """Solve, check, tighten; the last plan, and what the checks found."""
    notes: list[str] = []
    made = _made(agent, setting, targets, router)
    for number in range(1, CHECKS + 1):
        report = evaluator(made.plan, setting.workload, setting.seed)
        missed = _missed(setting.slos, report)
        if not missed:
            notes.append(f"Checked: all SLOs are met in simulation {number} (seed {setting.seed}).")
            return made, notes
        worst = "; ".join(f"{slo} by {ratio - 1:.0%}" for slo, ratio in missed)
        notes.append(f"Simulation {number} misses {worst}.")
        targets = _tightened(missed, targets)
        try:
            if number < CHECKS:
                made = _made(agent, setting, targets, router)
        except InfeasibleError as error:
            notes.append(f"Tighter limits are infeasible: {error.what}.")
            break
    notes.append("This plan misses its SLOs when simulated.")
    return made, notes


def _missed(slos: Sequence[SLO], report: Report) -> list[tuple[SLO, float]]:
    verdicts = {verdict.slo: verdict for verdict in report.slo}
    found = []
    for slo in slos:
        verdict = verdicts.get(str(slo))
        if verdict is not None and not verdict.met:
            found.append((slo, verdict.observed / slo.target))
    return found


def _tightened(missed: Sequence[tuple[SLO, float]], targets: Targets) -> Targets:
    for slo, ratio in missed:
        if slo.metric != "cost":
            targets = targets.tightened(slo.metric, STEP / max(ratio, 1.0))
    return targets


def _made(agent: Authored, setting: Setting, targets: Targets, router: str) -> _Made:
    offered = offer(setting, targets)
    placement = expected(attempt(setting, targets, offered))
    _check_cost(setting, placement)
    return _Made(_document(agent, placement, router), placement, offered, targets)


def _document(agent: Authored, placement: Placement, router: str) -> Plan:
    setting, solution = placement.setting, placement.solution
    names = pool_names(placement)
    where = placement_of(placement, names)
    return Plan(
        agent=AgentPart(
            name=agent.name, source=agent.source, module=agent.place(dict(where)), callables=list(agent.callables)
        ),
        workload=setting.workload.name,
        load=setting.workload,
        slo=[str(slo) for slo in setting.slos],
        accounting=str(setting.accounting),
        pools=pools_of(placement, names),
        links=links_of(placement, names),
        placement=where,
        policies={"router": router},
        predictions=predictions_of(placement, names),
        objective=Objective(
            value=solution.usd_per_h,
            bound=solution.bound,
            gap=max(0.0, solution.gap),
            solver=solution.solver,
            solve_s=round(solution.solve_s, 3),
        ),
        left_out=_left_out(setting),
        notes=_notes(placement),
        provenance=provenance_of(placement),
    )


def _check_cost(setting: Setting, placement: Placement) -> None:
    """The cheapest plan keeps the limits on cost per request.

    Raises:
        InfeasibleError: it does not.
    """
    usd = placement.solution.usd_per_request
    for slo in setting.slos:
        if slo.metric == "cost" and usd > slo.target:
            raise InfeasibleError(
                f"the limit {slo} cannot be met",
                observed=f"the cheapest plan costs {format_usd(usd)} per request",
                expected=f"at most {format_usd(slo.target)}",
                fix=f"allow cost.mean<={usd * 1.01:.3g}, relax the latency limits, or choose another accounting",
            )


def _left_out(setting: Setting) -> list[LeftOut]:
    """Devices without a price, and those that hold none of the models."""
    found = {entry.device: entry for entry in setting.left_out}
    for reach in setting.reach.values():
        for device, reason in reach.unfit.items():
            cpu = setting.catalog.device(device).device_class == "cpu"
            found.setdefault(device, LeftOut(device=device, reason=("for LLM calls: " if cpu else "") + reason))
    return list(found.values())


def _notes(placement: Placement) -> list[str]:
    setting = placement.setting
    walked = setting.walked
    found = [f"Statistics from {walked.requests} sampled requests with {len(walked.calls)} LLM calls."]
    if walked.clipped:
        share = walked.clipped / max(1, len(walked.calls))
        windows: Mapping[str, int] = setting.windows()
        sizes = ", ".join(f"{model} {tokens:,}" for model, tokens in windows.items())
        found.append(f"{share:.1%} of the calls outgrow the context window and compact their chat ({sizes} tokens).")
    outside = float(walked.e2e_s.mean())
    found.append(f"A request spends {format_duration(outside)} (mean) outside of LLM calls.")
    return [*found, *_trust(placement)]


def _trust(placement: Placement) -> list[str]:
    """What prices and step times of the devices in use rest on, with its grade."""
    used = [placement.candidates[key].point for key in placement.points]
    engines = {point.engine.config.device.id: point.engine for point in used if point}
    bought = {placement.problem.resource(key).device for key in placement.solution.engines}
    found = [
        f"Price of {supply.key}: {format_usd(supply.usd_per_h)}/h each; {supply.source}."
        for supply in placement.setting.supplies
        if supply.key in bought
    ]
    found += [
        f"Step times on {device}: {step_source(engine.config)}. Planned to take {engine.margin:.2f} times as long, as "
        "room for the error of the prediction."
        for device, engine in engines.items()
    ]
    return list(dict.fromkeys([*found, *(text for engine in engines.values() for text in engine.config.conversions)]))
