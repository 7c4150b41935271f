"""``heterarch run``: a plan for real, on engines of this machine or on endpoints by URL."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import typer
from xdsl.dialects.builtin import ModuleOp

from heterarch.cli.output import JSON_HELP, above_zero, console, file_to_write, note, print_json
from heterarch.documents import write_text
from heterarch.errors import InputError, Interrupted, UnknownNameError
from heterarch.ir.flatten import flatten
from heterarch.ir.text import parse_module
from heterarch.ir.verify import graphs_of
from heterarch.plan.document import Plan
from heterarch.plan.scale import scaled_down
from heterarch.plan.store import load_plan
from heterarch.report.render import render_report
from heterarch.run.live import LiveRun, RunOptions
from heterarch.run.live import run as run_live

app = typer.Typer(rich_markup_mode=None)
_SHOWN = 400  # characters of an answer


@app.command()
def run(
    plan: Path = typer.Argument(help="A plan file."),
    input: list[str] = typer.Option([], "-i", "--input", help="name=value or name=@file; the name may be left out."),
    local: bool = typer.Option(False, help="Scale down: every LLM pool becomes a llama.cpp engine on this machine."),
    apart: bool = typer.Option(False, help="With --local: prefill and decode on engines of their own."),
    engines: int = typer.Option(1, min=1, help="With --local: engines of each LLM pool."),
    requests: int = typer.Option(1, min=1, help="How often to run; the requests belong to one session."),
    concurrency: int = typer.Option(1, min=1, help="Most requests at once; above 1 every request is its own session."),
    max_tokens: int | None = typer.Option(None, min=1, help="Cap on every answer."),
    max_trips: int | None = typer.Option(None, min=1, help="Cap on the trips of every loop."),
    deadline: float | None = typer.Option(None, help="Most seconds of one request.", callback=above_zero),
    timeout: float = typer.Option(120.0, help="Most seconds that an engine may be silent.", callback=above_zero),
    strict: bool = typer.Option(False, help="Refuse to run callables whose source has changed since the plan."),
    stream: bool = typer.Option(True, help="Show tokens as they arrive."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Write the report as JSON.", callback=file_to_write
    ),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Run a plan; exit code 4 when an engine failed, 1 when a request did otherwise, 130 after Ctrl-C (the partial
    report is kept)."""
    made = load_plan(plan)
    made = scaled_down(made, engines=engines, apart=apart) if local else made
    sessions = [0 if concurrency == 1 else i for i in range(requests)]
    tokens = Tokens() if stream and not as_json else None
    options = RunOptions(
        concurrency=concurrency, sessions=sessions, deadline_s=deadline, max_tokens=max_tokens, max_trips=max_trips,
        timeout_s=timeout, strict=strict, on_token=tokens.show if tokens else None,
    )  # fmt: skip
    module = parse_module(made.agent.module, f"{plan} (module)")
    done = execute(made, module, [read_inputs(module, made.agent.name, input)] * requests, options)
    if tokens:
        tokens.end()
    publish(done, as_json, output)
    raise typer.Exit(exit_code(done))


def execute(plan: Plan, module: ModuleOp, inputs: Sequence[Mapping[str, Any]], options: RunOptions) -> LiveRun:
    """Run the placed module of ``plan`` on its engines; of a run cut short, no process of a tool's is left."""
    flat = flatten(module, plan.agent.name)
    before = set(psutil.Process().children(recursive=True))
    whole = False
    try:
        done = run_live(plan, flat, [list(row.values()) for row in inputs], options)
        whole = not done.report.partial and not any(done.errors)
        return done
    finally:
        if not whole:
            _end(set(psutil.Process().children(recursive=True)) - before)


def _end(processes: set[psutil.Process]) -> None:
    """Ask every process to end, and kill those that do not within two seconds."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=2)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


class Tokens:
    """Tokens on standard output as they arrive: a line per call, under the name of its op.

    The call that speaks first has the line; what others say meanwhile follows when it is done.
    """

    def __init__(self) -> None:
        self.waiting: dict[int, str] = {}  # call -> what it said, and is not shown yet
        self.current = 0
        self.closed = False

    def show(self, op: str, call: int, text: str) -> None:
        """One more piece of the answer of call number ``call`` of ``op``."""
        clean = text.encode("utf-8", "replace").decode("utf-8").replace("\n", " ")
        if call == self.current:
            self._write(clean)
        elif call in self.waiting or (self.current and call < self.current):
            self.waiting[call] = self.waiting.get(call, "") + clean
        else:
            self._flush()
            self._write(f"[{op.removesuffix('.decode')}] {clean}")
            self.current = call

    def end(self) -> None:
        """Show what is left."""
        self._flush()

    def _flush(self) -> None:
        if self.current:
            self._write("\n")
        for text in self.waiting.values():
            self._write(f"... {text}\n")
        self.waiting.clear()
        self.current = 0

    def _write(self, text: str) -> None:
        if self.closed:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has gone; the run goes on, and its exit code tells
            self.closed = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def publish(done: LiveRun, as_json: bool, output: Path | None) -> None:
    """Print the report and each failure, write what was asked for."""
    if output is not None:
        write_text(output, done.report.model_dump_json(indent=2) + "\n")
    if as_json:
        outputs = [None if row is None else [_text(value) for value in row] for row in done.outputs]
        print_json({"outputs": outputs, "report": done.report.model_dump(mode="json")})
    else:
        _print_outputs(done)
        console().print(render_report(done.report))
    for error in filter(None, done.errors):
        note(f"request failed: {error}")
    if output is not None:
        note(f"wrote {output}")


def _print_outputs(done: LiveRun) -> None:
    """What the agent answered, one line per request and output, cut to what fits."""
    for number, row in enumerate(done.outputs, 1):
        for value in row or ():
            shown = f"{len(value):,} bytes" if isinstance(value, bytes) else str(value).replace("\n", " ")
            shown = (
                shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} ... ({len(shown):,} characters; --json has all)"
            )
            console().print(f"answer {number}: {shown}", markup=False, soft_wrap=True)


def exit_code(done: LiveRun) -> int:
    """Of a live run."""
    if done.report.partial:
        return Interrupted.exit_code
    return next((error.exit_code for error in done.errors if error is not None), 0)


def read_inputs(module: ModuleOp, agent: str, given: Sequence[str]) -> dict[str, Any]:
    """The inputs of the entry graph from ``name=value`` texts, in its order.

    Raises:
        UnknownNameError: the agent has no input of that name.
        InputError: an input is missing, or given twice.
    """
    block = graphs_of(module)[agent].body.block
    types = {argument.name_hint or str(i): str(argument.type) for i, argument in enumerate(block.args)}
    free = list(types)
    found: dict[str, Any] = {}
    for text in given:
        name, mark, value = text.partition("=")
        if not mark or (name not in types and len(types) == 1):
            if mark and name.isidentifier():
                note(f"there is no input {name!r}: all of {text!r} is taken as {next(iter(types))}")
            name, mark, value = free[0] if free else "", "", text
        if name not in types and mark:
            raise UnknownNameError(f"input of {agent}", name, types)
        if name not in free:
            raise InputError(
                f"agent {agent!r} takes every input once",
                observed=f"-i {text[:80]}",
                expected=", ".join(types) or "none",
            )
        found[name] = _read(value, types[name])
        free.remove(name)
    if free:
        raise InputError(
            f"agent {agent!r} needs the input {free[0]!r}", expected=f"-i {free[0]}=... ({types[free[0]]})"
        )
    return {name: found[name] for name in types}


def _read(value: str, type_: str) -> Any:
    if value.startswith("@"):
        try:
            data = Path(value[1:]).read_bytes()
        except OSError as error:
            raise InputError("cannot read the input", observed=error.strerror, where=value[1:]) from None
        return data if type_ in ("!agent.audio", "!agent.image") else data.decode("utf-8", "replace")
    if type_.startswith("!agent.list"):
        return value.split("\n")
    return value.encode() if type_ in ("!agent.audio", "!agent.image") else value


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
