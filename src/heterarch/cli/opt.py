"""``heterarch opt``: read an agent or a module, run passes, print it."""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from xdsl.dialects.builtin import ModuleOp

from heterarch.documents import read_text, write_text
from heterarch.errors import HeterarchError
from heterarch.graph.load import load_agent
from heterarch.ir.passes import PASSES, parse_passes, run_passes
from heterarch.ir.text import parse_module, print_module
from heterarch.ir.verify import verify

app = typer.Typer(rich_markup_mode=None)


@app.command()
def opt(
    file: str = typer.Argument(help="An agent (file.py[:name], file.yaml) or a module (file.mlir, - for stdin)."),
    passes: str = typer.Option("", help=f'Passes to run: {", ".join(PASSES)}. Options as place{{assign="op=pool"}}.'),
    generic: bool = typer.Option(False, help="Generic form, for mlir-opt --allow-unregistered-dialect."),
    locations: bool = typer.Option(True, help="Print the line of the user's program behind each op."),
    verify_each: bool = typer.Option(False, help="Verify after every pass."),
    output: Path | None = typer.Option(None, "-o", "--output", help="File to write; default is the terminal."),
) -> None:
    """Read an agent or a module, run passes over it, and print it."""
    module = run_passes(_read(file), parse_passes(passes) if passes else [], verify_each=verify_each)
    text = print_module(module, generic=generic, locations=locations)
    if output is None:
        sys.stdout.write(text)
    else:
        write_text(output, text)


def _read(file: str) -> ModuleOp:
    if file != "-" and not file.endswith(".mlir"):
        return load_agent(file).module
    text, name = (sys.stdin.read(), "<stdin>") if file == "-" else (read_text(file), file)
    module = parse_module(text, name)
    try:
        verify(module)
    except HeterarchError as error:
        error.where = error.where if error.where and str(error.where) else name
        raise
    return module
