"""``heterarch cost``: what an engine takes, and where that number comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from heterarch.catalog.catalog import Catalog
from heterarch.cli.output import CALIBRATION_HELP, JSON_HELP, OVERLAY_HELP, note, print_json, print_line, print_table
from heterarch.cost.config import EngineConfig
from heterarch.cost.document import load_calibration
from heterarch.cost.explain import Breakdown, Row, explain
from heterarch.cost.library import library_of
from heterarch.cost.memory import memory_fit, most_sequences
from heterarch.units import format_duration, format_number

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def cost() -> None:
    """What an engine takes, and where that number comes from."""


@app.command("explain")
def explain_command(
    model: str = typer.Argument(help="A model of the catalogue, or a name it is published under."),
    device: str = typer.Option("h100-sxm", help="A device of the catalogue."),
    tp: int = typer.Option(1, min=1, help="Tensor parallel devices of each attention group."),
    pp: int = typer.Option(1, min=1, help="Pipeline stages."),
    ep: int = typer.Option(1, min=1, help="Ways in which experts are spread."),
    attention_dp: int = typer.Option(1, min=1, help="Attention groups; tp x pp x attention-dp devices in all."),
    dtype: str = typer.Option("", help="Format of the weights; the one the model is published in by default."),
    kv_dtype: str = typer.Option("bf16", help="Format of KV."),
    engine: str = typer.Option("", help="Serving engine: vllm, sglang, trtllm."),
    engine_version: str = typer.Option("", help="Its release, where a calibration has several."),
    graphs: bool = typer.Option(True, "--graphs/--eager", help="Captured graphs, or kernels launched one by one."),
    batch: int = typer.Option(1, min=0, help="Sequences in decode, of all groups together."),
    context: int = typer.Option(1024, min=1, help="Tokens of context of each."),
    prefill: int = typer.Option(0, min=0, help="Tokens of a prompt computed in the same iteration."),
    cached: int = typer.Option(0, min=0, help="Tokens of that prompt that are done."),
    calibration: list[Path] | None = typer.Option(None, "--calibration", help=CALIBRATION_HELP),
    overlay: list[Path] | None = typer.Option(None, "--overlay", help=OVERLAY_HELP),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:  # fmt: skip
    """One iteration of an engine by kernel: seconds, what bounds it, the interval, and the basis of each number."""
    catalog = Catalog.load(*(overlay or ()))
    chosen = catalog.find_model(model)
    config = EngineConfig(
        catalog.find_device(device), chosen, tp, pp, dtype or chosen.dtype, kv_dtype,
        ep=ep, attention_dp=attention_dp, engine=engine, engine_version=engine_version, graphs=graphs,
        library=library_of([load_calibration(path) for path in calibration or ()], catalog.devices),
    )  # fmt: skip
    found = explain(config, batch, context, prefill, cached)
    if as_json:
        print_json(_document(found))
        return
    count = f"{config.devices} device" + ("s" if config.devices > 1 else "")
    title = f"{chosen.id} on {config.name} ({count}): {batch} x {context:,} tokens"
    title += f" and a prefill of {prefill:,}" if prefill else ""
    print_table(title, [_line(found, row) for row in found.rows])
    print_line(
        f"{format_duration(found.seconds)} per iteration, {format_duration(found.low_s)} to "
        f"{format_duration(found.high_s)} in 68 % of cases; closed form {format_duration(found.closed_form_s)}."
    )
    print_line(memory_fit(config).explain())
    for number, source in enumerate(_bases(found), 1):
        print_line(f"[{number}] {source}")
    most = most_sequences(config, context)
    if batch > most:
        note(f"warning: {batch} sequences of {context:,} tokens do not fit, at most {most} do")
    if model != chosen.id and not dtype:
        note(f"{model} is read as {chosen.id} in {chosen.dtype}; --dtype sets another format")
    for text in config.conversions:
        note(text)


def _bases(found: Breakdown) -> list[str]:
    return list(dict.fromkeys(str(row.source) for row in found.rows))


def _line(found: Breakdown, row: Row) -> dict[str, Any]:
    return {
        "part": row.part,
        "kernel": f"{row.family} {row.dtype}".strip(),
        "times": round(row.count),
        "ms": row.seconds * 1e3,
        "share": f"{row.seconds / found.seconds:.1%}",
        "bound": row.bound,
        "interval ms": "-".join(format_number(seconds * 1e3, 3) for seconds in (row.low_s, row.high_s)),
        "basis": f"{row.source.grade} [{_bases(found).index(str(row.source)) + 1}]",
    }


def _document(found: Breakdown) -> dict[str, Any]:
    rows = [
        {
            "part": row.part, "family": row.family, "dtype": row.dtype, "count": row.count, "seconds": row.seconds,
            "low_s": row.low_s, "high_s": row.high_s, "bound": row.bound,
            "grade": row.source.grade, "basis": row.source.citation,
        }
        for row in found.rows
    ]  # fmt: skip
    return {
        "engine": found.config.name, "model": found.config.model.id, "seconds": found.seconds, "low_s": found.low_s,
        "high_s": found.high_s, "closed_form_s": found.closed_form_s, "grade": found.grade,
        "families": found.by_family(), "rows": rows,
    }  # fmt: skip
