"""``heterarch calibrate``: your own measurements, or a probe of a live endpoint, into a calibration."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from heterarch.catalog.catalog import Catalog
from heterarch.cli.output import (
    JSON_HELP,
    OVERLAY_HELP,
    above_zero,
    console,
    file_to_write,
    note,
    print_json,
    print_table,
)
from heterarch.cost.config import EngineConfig
from heterarch.cost.document import load_calibration
from heterarch.cost.fitting.calibrate import CalibrationResult, EngineLog, OnProgress, Outcome, calibrate
from heterarch.cost.library import Library, library_of
from heterarch.cost.measured.columns import read_columns
from heterarch.cost.measured.logs import is_iterations, is_requests, read_log
from heterarch.cost.measured.measurements import Defaults, KernelTable, read_kernels
from heterarch.errors import InputError, Interrupted
from heterarch.run.engines.openai import OpenAIEngine
from heterarch.run.probe import ProbeOptions, probe
from heterarch.run.probe_result import ProbeResult, save_probe

app = typer.Typer(rich_markup_mode=None)
NOTHING_USED = 1  # exit code when no fit is better than what was there


@app.command("calibrate")
def calibrate_command(
    files: list[Path] | None = typer.Argument(None, help="Kernel measurements, engine logs, OTLP spans, or folders."),
    probe_url: str | None = typer.Option(None, "--probe", help="Measure the OpenAI-compatible endpoint at this URL."),
    model: str = typer.Option("", help="The model of logs and of the endpoint (its name there)."),
    device: str = typer.Option("", help="Device of files without that column, of logs, and behind the endpoint."),
    engine: str = typer.Option("", help="Serving engine of files without that column: vllm, sglang, trtllm."),
    engine_version: str = typer.Option("", help="Its version."),
    tp: int = typer.Option(1, min=1, help="Tensor parallel devices of the engine behind logs."),
    dtype: str = typer.Option("", help="Format of its weights; the one the model is published in by default."),
    max_requests: int = typer.Option(100, min=1, help="With --probe: most requests."),
    max_tokens: int = typer.Option(300_000, min=1, help="With --probe: most tokens in and out."),
    max_seconds: float = typer.Option(180.0, help="With --probe: most seconds.", callback=above_zero),
    max_usd: float | None = typer.Option(None, help="With --probe: most money; needs --usd-per-mtok."),
    usd_per_mtok: tuple[float, float] | None = typer.Option(None, help="Prices per million tokens in and out."),
    api_key_env: str = typer.Option("", help="Environment variable that holds the endpoint's key."),
    probe_output: Path = typer.Option(
        Path("probe.csv"), help="Where the probe's answers are kept.", callback=file_to_write
    ),
    calibration: list[Path] | None = typer.Option(None, "--calibration", help="Your calibrations to improve on."),
    overlay: list[Path] | None = typer.Option(None, "--overlay", help=OVERLAY_HELP),
    name: str = typer.Option("own", help="Name of the calibration, shown beside every prediction from it."),
    output: Path = typer.Option(Path("calibration.json"), "-o", "--out", help="The file.", callback=file_to_write),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Fit kernels and engines to measurements; a fit that predicts held-out rows worse than today's is refused.

    Exit code 1 when the measurements are sound but every fit was refused, 2 when a file or an option is wrong and
    nothing else could be fitted, 4 when the endpoint answered nothing, 130 after Ctrl-C (the answers of a probe are
    kept).
    """
    if not files and probe_url is None:
        raise InputError("nothing to calibrate from", expected="measurement files, or --probe URL")
    catalog = Catalog.load(*(overlay or ()))
    prior = library_of([load_calibration(path) for path in calibration or ()], catalog.devices)
    given = list(files or ())
    if probe_url is not None:
        prices = FlatPrices(*usd_per_mtok) if usd_per_mtok else None
        options = ProbeOptions(
            max_requests=max_requests, max_tokens=max_tokens, max_seconds=max_seconds, max_usd=max_usd, prices=prices
        )
        run_probe(probe_url, model, api_key_env, options, probe_output, as_json)
        given += [probe_output] if device else []
    subject = Subject(catalog, prior, Defaults(device, engine, engine_version), model, tp, dtype)
    if given:
        publish(subject.calibrated(given, name, not as_json), output, as_json)


class FlatPrices:
    """Prices of an endpoint in USD per million tokens; cached tokens cost as much as others."""

    def __init__(self, input_usd_per_mtok: float, output_usd_per_mtok: float) -> None:
        self.input_usd_per_mtok = self.cached_usd_per_mtok = input_usd_per_mtok
        self.output_usd_per_mtok = output_usd_per_mtok


@dataclass(frozen=True)
class Subject:
    """What the files are about, as far as they do not say it themselves."""

    catalog: Catalog
    prior: Library
    defaults: Defaults
    model: str
    tp: int
    dtype: str

    def calibrated(self, files: Sequence[Path], name: str, show: bool) -> CalibrationResult:
        """The calibration from files of every kind."""
        tables: list[KernelTable] = []
        logs: list[Path] = []
        for file in files:
            if is_log(file):
                logs.append(file)
            else:
                tables += read_kernels(file, self.catalog, self.defaults)
        today = datetime.now(UTC).date().isoformat()
        with bar("fitting", show) as tick:
            return calibrate(
                tables, self.catalog.devices, prior=self.prior, name=name, date=today, progress=tick,
                engines=[self.engine_log(path) for path in logs],
            )  # fmt: skip

    def engine_log(self, path: Path) -> EngineLog:
        """The log of an engine with what it ran.

        Raises:
            InputError: it is not said on which device which model ran.
        """
        if not self.defaults.device or not self.model:
            raise InputError(
                "an engine log does not say what ran where", where=str(path), fix="add --device and --model (and --tp)"
            )
        model, device = self.catalog.find_model(self.model), self.catalog.find_device(self.defaults.device)
        config = EngineConfig(
            device, model, self.tp, dtype=self.dtype or model.dtype, engine=self.defaults.engine, library=self.prior
        )
        return EngineLog(str(path), read_log(path), config, self.defaults.engine_version)


def is_log(path: Path) -> bool:
    """Whether the file is a log of an engine and not one of kernels."""
    if path.is_dir():
        return False
    if path.suffix == ".json":
        return True
    columns = read_columns(path)
    return is_requests(columns) or is_iterations(columns)


def run_probe(url: str, model: str, api_key_env: str, options: ProbeOptions, output: Path, quiet: bool) -> None:
    """Measure the endpoint and keep its answers, also of a probe cut short; says what is wrong with them.

    Raises:
        InputError: no model is named, or the URL or the key are wrong.
        EngineError: the endpoint answered nothing.
        Interrupted: Ctrl-C; the answers are kept.
    """
    if not model:
        raise InputError("a probe needs the name that the endpoint has for its model", fix="add --model NAME")
    result = ProbeResult()
    engine = OpenAIEngine(url, model, api_key_env=api_key_env, attempts=1)
    cut = False
    try:
        with bar("probing", not quiet) as tick:
            asyncio.run(_probe(engine, options, result, tick))
    except KeyboardInterrupt:
        cut, result.stopped = True, "interrupted"
    finally:
        if result.rows:
            keep_probe(result, output, url, model, options)
    if cut:
        raise Interrupted("the probe was interrupted", observed=f"{len(result.rows)} answers are kept")


async def _probe(engine: OpenAIEngine, options: ProbeOptions, result: ProbeResult, tick: OnProgress) -> None:
    try:
        await probe(engine, options, result, lambda done, rounds: tick(done, rounds, ""))
    finally:
        await engine.close()


def keep_probe(result: ProbeResult, output: Path, url: str, model: str, options: ProbeOptions) -> None:
    """Write the answers, and say what they are worth."""
    asked = {name: value for name, value in vars(options).items() if name != "prices"}
    today = datetime.now(UTC).date().isoformat()
    save_probe(result, output, url=url, model=model, date=today, options=asked)
    note(f"wrote {output}: {len(result.rows)} answers, {result.tokens:,} tokens")
    if result.stopped:
        note(f"the probe is partial: {result.stopped}")
    for text, count in result.errors.items():
        note(f"{count} requests failed: {text}")
    for flag in result.flags:
        note(f"token counts: {flag}")


def publish(result: CalibrationResult, output: Path, as_json: bool) -> None:
    """Print what became of every table and log, write the calibration if any fit is used."""
    used = any(outcome.used for outcome in result.outcomes)
    if used:
        result.calibration.save(output)
    if as_json:
        print_json(
            {
                "out": str(output) if used else None,
                "fits": [vars(outcome) for outcome in result.outcomes],
                "engines": [fit.model_dump() for fit in result.calibration.engines],
                "notes": result.notes,
            }
        )
    else:
        print_table("fits", [_row(outcome) for outcome in result.outcomes])
        for text in result.notes:
            note(text)
        for outcome in result.outcomes:
            if not outcome.used:
                note(f"{outcome.name}: {outcome.why}")
        note(f"wrote {output}" if used else "every fit was refused, so nothing is written")
    raise typer.Exit(0 if used else NOTHING_USED)


def _row(outcome: Outcome) -> dict[str, Any]:
    def percent(share: float | None) -> str:
        return "-" if share is None else f"{share:.1%}"

    return {
        "family": outcome.family,
        "device": outcome.device,
        "format": outcome.dtype,
        "engine": outcome.engine,
        "rows": outcome.rows,
        "held-out error": percent(outcome.held_out),
        "error before": percent(outcome.prior),
        "": "used" if outcome.used else "refused",
    }


@contextmanager
def bar(title: str, show: bool) -> Iterator[OnProgress]:
    """A progress bar on standard error, shown on a terminal."""
    screen = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not (show and screen.is_terminal)) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total, what: progress.update(task, completed=done, total=total, description=what or title)
