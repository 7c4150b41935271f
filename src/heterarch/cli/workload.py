"""``heterarch workload``: packaged workloads, and recorded traces in figures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from heterarch.cli.output import JSON_HELP, note, print_json, print_table
from heterarch.workload.distribution import Distribution
from heterarch.workload.profile import load_workload, workload_names
from heterarch.workload.summary import PERCENTILES, Spread, summarise
from heterarch.workload.trace import read_trace

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_JSON = typer.Option(False, "--json", help=JSON_HELP)


@app.callback()
def workload() -> None:
    """Packaged workloads, and recorded traces in figures."""


@app.command("list")
def list_(as_json: bool = _JSON) -> None:
    """The packaged workloads."""
    found = [load_workload(name) for name in workload_names()]
    if as_json:
        print_json([w.model_dump(mode="json") for w in found])
        return
    print_table("workloads", [{"name": w.name, "requests/s": w.requests_per_s, "what": w.description} for w in found])


@app.command()
def show(name: str = typer.Argument(help="A packaged workload, or a workload file."), as_json: bool = _JSON) -> None:
    """The statistics of a workload, with their sources."""
    found = load_workload(name)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    statistics = {
        "requests per session": found.requests_per_session, "think time s": found.think_s,
        "context tokens": found.call.context_tokens, "tokens in": found.call.tokens_in,
        "tokens out": found.call.tokens_out, **{f"tool {name} s": d for name, d in found.tools.items()},
    }  # fmt: skip
    print_table(f"workload {found.name}", [_distribution(name, d) for name, d in statistics.items()])
    note(found.description)
    note(f"{found.arrivals.rate_per_s:g} sessions/s, {found.arrivals.process}; SLO {', '.join(found.slo) or 'none'}")


@app.command()
def trace(
    file: Path = typer.Argument(help="Mooncake JSONL(.gz), Azure CSV or parquet, session parquet, lengths parquet."),
    rate: float | None = typer.Option(None, help="Calls per second, for a trace without arrivals."),
    as_json: bool = _JSON,
) -> None:
    """Read a recorded trace and say what it holds."""
    summary = summarise(read_trace(file, rate_per_s=rate))
    if as_json:
        print_json(asdict(summary))
        return
    spreads = {k: v for k, v in vars_of(summary).items() if isinstance(v, Spread)}
    print_table(
        f"{summary.name}: {summary.calls:,} calls, {summary.sessions:,} sessions, {summary.duration_s:,.0f} s",
        [{"": name, "mean": s.mean, **dict(zip([f"p{p}" for p in PERCENTILES], s.percentiles, strict=True))}
         for name, s in spreads.items()],
    )  # fmt: skip
    note(f"block hit rate of a cache without limits: {summary.ideal_hit_rate:.4f}, {summary.block_tokens} tokens each")
    for text in summary.notes:
        note(text)


def vars_of(summary: Any) -> dict[str, Any]:
    """Fields of a slotted dataclass, in order."""
    return {name: getattr(summary, name) for name in summary.__dataclass_fields__}


def _distribution(name: str, d: Distribution) -> dict[str, Any]:
    quantiles = {f"p{p}": d.quantile(p / 100) for p in (5, 50, 90, 99)}
    return {"": name, "mean": d.mean, **quantiles, "source": str(d.source)}
