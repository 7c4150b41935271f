"""A plan for the reader: tables of 80 columns and up."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from heterarch.plan.document import Plan, Pool
from heterarch.tables import Grid
from heterarch.units import format_duration, format_number, format_usd


def render_plan(plan: Plan) -> RenderableType:
    """Headline, pools, placement, predictions, alternatives, reasons and notes."""
    parts: list[RenderableType] = [headline(plan), pools_table(plan), placement_table(plan), predictions_table(plan)]
    if plan.alternatives:
        parts.append(alternatives_table(plan))
    parts += [Text(f"- {sentence}") for sentence in plan.why]
    parts += [Text(f"Left out: {entry.device}: {entry.reason}", style="yellow") for entry in plan.left_out]
    parts += [Text(f"Note: {note}", style="dim") for note in plan.notes]
    return Group(*parts)


def headline(plan: Plan) -> Text:
    """One line: the agent, the load, the cost, and how far from proven optimal."""
    seen = plan.predictions
    text = Text()
    text.append(plan.agent.name, style="bold")
    text.append(f" under {plan.workload} at {format_number(seen.requests_per_s, 3)} requests/s: ")
    text.append(f"{format_usd(seen.usd_per_h)}/h", style="bold")
    text.append(f", {format_usd(seen.usd_per_request)} per request ({plan.accounting})")
    proven = "proven optimal" if plan.objective.gap < 1e-6 else f"within {plan.objective.gap:.2%} of optimal"
    text.append(f"; {proven} under the cost model.")
    return text


def pools_table(plan: Plan) -> Grid:
    """One row per pool."""
    table = _table("Pools", ("pool", "<"), ("engines", ">"), ("devices", "<"), ("split", "<"), ("batch", ">"),
                   ("load", ">"), ("USD/h", ">"))  # fmt: skip
    for pool in plan.pools:
        busy = plan.predictions.utilisation.get(pool.name)
        table.add_row(
            pool.name,
            str(pool.engines),
            "hosted API" if pool.role == "endpoint" else f"{pool.engines * pool.devices_per_engine} {pool.device}",
            _split(pool),
            str(pool.concurrency),
            "" if busy is None else f"{busy:.0%}",
            _pool_usd(plan, pool),
        )
    return table


def _split(pool: Pool) -> str:
    if pool.role in ("tool", "endpoint", "embed"):
        return pool.role
    return f"TP{pool.tp}" + (f" PP{pool.pp}" if pool.pp > 1 else "") + f" {pool.dtype}"


def _pool_usd(plan: Plan, pool: Pool) -> str:
    if pool.role != "endpoint":
        return f"{pool.engines * pool.usd_per_engine_h:,.2f}"
    requests = plan.predictions.requests_per_s * 3600
    return f"{requests * sum(op.usd_per_request for op in plan.predictions.ops if op.pool == pool.name):,.2f}"


def placement_table(plan: Plan) -> Grid:
    """One row per op that takes time or money."""
    table = _table("Placement", ("op", "<"), ("pool", "<"), ("visits", ">"), ("mean", ">"), ("USD/request", ">"))
    for op in plan.predictions.ops:
        if op.kind not in ("kv_lookup", "kv_transfer") or op.mean_s > 0:
            usd = format_number(op.usd_per_request, 3)
            table.add_row(op.op, op.pool, f"{op.visits:.2f}", format_duration(op.mean_s), usd)
    return table


def predictions_table(plan: Plan) -> Grid:
    """Latencies at their percentiles, and the SLOs."""
    table = _table("Predicted", ("", "<"), ("mean", ">"), ("p50", ">"), ("p95", ">"), ("SLO", "<"))
    seen = plan.predictions
    for label, values in (("e2e", seen.e2e_s), ("ttft", seen.ttft_s), ("tpot", seen.tpot_s)):
        slo = ", ".join(text for text in plan.slo if text.startswith(label + "."))
        table.add_row(label, *(_time(values.get(key, math.nan)) for key in ("mean", "p50", "p95")), slo)
    table.add_row("prefix hits", f"{seen.prefix_hit_rate:.1%}", "", "", "")
    table.add_row("power", f"{format_number(seen.watts / 1000, 3)} kW", "", "", "")
    return table


def alternatives_table(plan: Plan) -> Grid:
    """What else was possible, cheapest first."""
    table = _table("Alternatives (predicted, not simulated)", ("plan", "<"), ("USD/h", ">"), ("", ">"), ("", "<"))
    chosen = plan.predictions.usd_per_h
    rows = sorted(plan.alternatives, key=lambda other: math.inf if other.usd_per_h is None else other.usd_per_h)
    for other in rows:
        if other.usd_per_h is None:
            table.add_row(other.name, "-", "", other.reason)
        else:
            more = f"{other.usd_per_h / chosen - 1:+.0%}" if chosen else ""
            table.add_row(other.name, f"{other.usd_per_h:,.2f}", more, other.reason)
    return table


def _table(title: str, *columns: tuple[str, str]) -> Grid:
    return Grid(title, [name for name, _ in columns], [side == ">" for _, side in columns])


def _time(seconds: float) -> str:
    return format_duration(seconds) if math.isfinite(seconds) else ""


def plan_lines(plan: Plan, width: int = 100) -> list[str]:
    """The rendered plan as plain lines of at most ``width`` columns."""
    from rich.console import Console

    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render_plan(plan))
    return _stripped(capture.get().splitlines())


def _stripped(lines: Iterable[str]) -> list[str]:
    return [line.rstrip() for line in lines]
