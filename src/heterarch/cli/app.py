"""Commands by name, each in its own module; errors become messages and exit codes here, once."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence

import click
import typer
from typer.core import TyperGroup
from typer.main import get_command

from heterarch import __version__
from heterarch.errors import HeterarchError, Interrupted

#: command -> (module with a typer app or function called like the command, one line of help)
COMMANDS = {
    "plan": "Plan an agent for a workload on a fleet: which engines, how many, where each op runs.",
    "simulate": "Run a plan in the simulator, on its workload or on a recorded trace.",
    "run": "Run a plan for real, on local engines or OpenAI-compatible endpoints.",
    "demo": "Plan, simulate and run the coding agent, end to end.",
    "opt": "Read, transform and print the IR of an agent.",
    "catalog": "Devices, models, prices, servers, links and sites, with their sources.",
    "fleet": "What may be used: show, check, or detect this machine.",
    "workload": "Packaged workloads and recorded traces in figures.",
    "schema": "JSON schemas of the files that heterarch reads.",
    "doctor": "What is installed, reachable and missing on this machine.",
}


class LazyGroup(TyperGroup):
    """Imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the journey."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command; for the overview only its one line is needed."""
        if cmd_name not in COMMANDS:
            return None
        if ctx.resilient_parsing or cmd_name not in sys.argv[1:]:
            return click.Command(cmd_name, help=COMMANDS[cmd_name])
        command = get_command(importlib.import_module(f"heterarch.cli.{cmd_name}").app)
        command.name = cmd_name
        command.help = command.help or COMMANDS[cmd_name]
        return command


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"heterarch {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_version, is_eager=True),
) -> None:
    """Plan, simulate and run AI agents on the hardware you have."""


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code (see :mod:`heterarch.errors`), 0 when all went well."""
    try:
        result = get_command(app)(list(arguments), prog_name="heterarch", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except HeterarchError as error:
        print(f"heterarch: {error}", file=sys.stderr)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("heterarch: interrupted", file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
