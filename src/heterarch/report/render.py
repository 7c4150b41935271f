"""A report for the reader: tables of 80 columns and up."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from heterarch.report.schema import OpReport, Overload, PoolReport, Report
from heterarch.tables import Grid
from heterarch.units import format_bytes, format_duration, format_number, format_usd

_LIMIT = 1.5  # a prediction further off than this factor is marked


def render_report(report: Report) -> RenderableType:
    """Headline, latencies, pools, ops, verdicts and notes."""
    parts: list[RenderableType] = [headline(report), latency_table(report), rates_line(report), pools_table(report)]
    parts += [losses_line(pool) for pool in report.pools if pool.downtime_s or pool.restarts]
    if report.ops:
        parts.append(ops_table(report))
    if report.slo:
        parts.append(slo_table(report))
    parts += [overload_line(row) for row in report.overloaded]
    parts += [
        Text(f"{count} request{'s' if count > 1 else ''}: {reason}", style="yellow")
        for reason, count in report.reasons.items()
    ]
    parts += [Text(f"Note: {note}", style="dim") for note in report.notes]
    return Group(*parts)


def headline(report: Report) -> Text:
    """What ran, for how long, and what it cost."""
    ended = report.requests
    text = Text()
    text.append(f"{report.agent}", style="bold")
    text.append(f" under {report.workload}, {report.kind}, {format_duration(report.duration_s)}: ")
    text.append(f"{ended.completed:,} of {ended.offered:,} requests completed", style="bold")
    for name in ("rejected", "failed", "unfinished"):
        if getattr(ended, name):
            text.append(f", {getattr(ended, name):,} {name}", style="red")
    text.append(f"; {report.calls.completed:,} LLM calls; {format_usd(report.usd)}")
    text.append(f", {format_usd(report.usd_per_request)} per request")
    text.append(f", {format_usd(report.usd_per_million_tokens)} per million tokens.")
    if report.partial:
        text.append(" PARTIAL: the run was cut short.", style="bold red")
    return text


def overload_line(row: Overload) -> Text:
    """The verdict on a pool that is overloaded."""
    text = Text(f"OVERLOADED: {row.pool}", style="bold red")
    text.append(f": {row.queued:,} waited when the last came; waiting grows by {row.growth:.2g} s per second", "red")
    text.append(f", {format_duration(row.wait_s)} at the end; latencies only say how long the run was.", "red")
    return text


def latency_table(report: Report) -> Grid:
    """End to end over requests, TTFT and TPOT over calls; rates; cache."""
    table = _table("Latency", "", "mean", "p50", "p90", "p95", "p99", "n")
    for name, summary in (("e2e", report.e2e_s), ("ttft", report.ttft_s), ("tpot", report.tpot_s)):
        times = (format_duration(getattr(summary, key)) for key in ("mean", "p50", "p90", "p95", "p99"))
        table.add_row(name, *times, f"{summary.n:,}")
    return table


def rates_line(report: Report) -> Text:
    """Rates of the run, what the caches found, what was moved."""
    cache = report.cache
    unit = "prompt tokens" if cache.block_tokens == 1 else f"blocks of {cache.block_tokens} tokens"
    return Text(
        f"{format_number(report.throughput_rps, 3)} requests/s, goodput {format_number(report.goodput_rps, 3)}/s, "
        f"{format_number(report.output_tokens_per_s)} output tokens/s; "
        f"prefix hits {cache.block_hit_rate:.2%} of {cache.blocks:,} {unit}; "
        f"KV moved {format_bytes(report.kv_transfer_bytes)}"
    )


def pools_table(report: Report) -> Grid:
    """One row per pool."""
    table = _table("Pools", "pool", "engines", "busy", "prompt tokens", "cached", "output tokens", "USD")
    for pool in report.pools:
        cached = pool.cached_tokens / pool.prompt_tokens if pool.prompt_tokens else None
        table.add_row(
            pool.name,
            str(pool.engines),
            f"{pool.utilisation:.0%}",
            f"{pool.prompt_tokens:,}",
            "-" if cached is None else f"{cached:.1%}",
            f"{pool.output_tokens:,}",
            format_number(pool.usd),
        )
    return table


def losses_line(pool: PoolReport) -> Text:
    """What faults took from a pool."""
    engines = f"{pool.engines_lost} engine{'s' if pool.engines_lost != 1 else ''} lost"
    calls = f"{pool.restarts:,} call{'s' if pool.restarts != 1 else ''} started again"
    down = f"{format_duration(pool.downtime_s)} of engines down, availability {pool.availability:.2%}"
    return Text(f"{pool.name}: {engines}, {down}, {calls}", style="yellow")


def ops_table(report: Report) -> Grid:
    """Mean seconds per op, predicted against what was seen."""
    seen = "simulated" if report.kind == "simulated" else "measured"
    table = _table(
        f"Ops: mean seconds, ratio = predicted / {seen}", "op", "pool", "tasks", seen, "predicted", "ratio", "from"
    )
    for op in report.ops:
        if op.kind == "kv_transfer" and not op.measured_s.mean:
            continue  # prefill and decode share an engine
        table.add_row(
            op.name,
            op.pool,
            f"{op.tasks:,}",
            format_duration(op.measured_s.mean) if op.measured_s.n else "-",
            "-" if op.predicted_s is None else format_duration(op.predicted_s),
            _ratio(op, report.kind == "live"),
            op.source.partition(":")[0] or "-",
        )
    return table


def slo_table(report: Report) -> Grid:
    """Each SLO, what was observed, and whether it was met."""
    table = _table("SLO", "target", "observed", "met")
    for verdict in report.slo:
        cost = verdict.slo.startswith("cost")
        observed = format_usd(verdict.observed) if cost else format_duration(verdict.observed)
        observed = observed if verdict.observed else "-"
        table.add_row(
            verdict.slo, observed, Text("yes", style="green") if verdict.met else Text("NO", style="bold red")
        )
    return table


def _ratio(op: OpReport, live: bool) -> str:
    """Predicted over seen; marked when far off, but not for functions of the user's that ran on data of their own."""
    if not op.predicted_s or not op.measured_s.mean:
        return "-"
    ratio = op.predicted_s / op.measured_s.mean
    if live and op.kind not in ("prefill", "kv_transfer", "decode"):
        return "-"
    return f"{ratio:.2f}" + ("" if 1 / _LIMIT <= ratio <= _LIMIT else " !")


def _table(title: str, *columns: str) -> Grid:
    left = {"", "pool", "op", "target", "met", "from"}
    return Grid(title, columns, [name not in left for name in columns])
