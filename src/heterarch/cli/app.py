"""Commands by name, each in its own module; errors become messages and exit codes here, once."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

import typer
from typer.main import get_command

from heterarch import __version__
from heterarch.errors import HeterarchError, InputError, Interrupted

#: command -> one line of help; the command lives in the module of its name
COMMANDS = {
    "plan": "Plan an agent for a workload on a fleet: which engines, how many, where each op runs.",
    "simulate": "Run a plan in the simulator, on its workload or on a recorded trace.",
    "sweep": "Compare plans, routers and loads over many seeds, in parallel, with intervals.",
    "run": "Run a plan for real, on local engines or OpenAI-compatible endpoints.",
    "demo": "Plan, simulate and run the coding agent, end to end.",
    "opt": "Read, transform and print the IR of an agent.",
    "cost": "What an engine takes, and where that number comes from.",
    "tco": "What a model costs per token and call on each device, and what changes the ranking.",
    "calibrate": "Fit the cost model to measured kernels, engine logs or a live endpoint.",
    "catalog": "Devices, models, prices, servers, links and sites, with their sources.",
    "fleet": "What may be used: show, check, or detect this machine.",
    "workload": "Packaged workloads and recorded traces in figures.",
    "schema": "JSON schemas of the files that heterarch reads.",
    "doctor": "What is installed, reachable and missing on this machine.",
}
SIGPIPE_CODE = 141


def load(arguments: Sequence[str]) -> None:
    """Import the module of the command that is called, and no other."""
    if arguments and arguments[0] in COMMANDS:
        importlib.import_module(f"heterarch.cli.{arguments[0]}")


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code (see :mod:`heterarch.errors`), 0 when all went well.

    Only the module of the command that is called is imported.
    """
    try:
        name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", ())
        app = importlib.import_module(f"heterarch.cli.{name}").app if name in COMMANDS else _overview()
        words = rest if name in COMMANDS else arguments or ["--help"]
        program = f"heterarch {name}" if name in COMMANDS else "heterarch"
        result = get_command(app)(list(words), prog_name=program, standalone_mode=False)
        sys.stdout.flush()
        if result == Interrupted.exit_code:
            print("heterarch: interrupted", file=sys.stderr)
        return result if isinstance(result, int) else 0
    except HeterarchError as error:
        print(f"heterarch: {error}", file=sys.stderr)
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("heterarch: interrupted", file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGPIPE_CODE
    except MemoryError as error:
        print(f"heterarch: not enough memory\n  observed: {error}", file=sys.stderr)
        return InputError.exit_code
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # files say so themselves
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            print(f"heterarch: cannot write to standard output\n  observed: {error.strerror}", file=sys.stderr)
            return InputError.exit_code
        if not hasattr(error, "show"):
            raise
        error.show()  # a usage error of the command line
        return 2


def _overview() -> typer.Typer:
    """The commands with their one line each; none of them is imported."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

    def version(show: bool) -> None:
        if show:
            typer.echo(f"heterarch {__version__}")
            raise typer.Exit

    @app.callback()
    def main(
        version: bool = typer.Option(False, "--version", help="Print the version.", callback=version, is_eager=True),
    ) -> None:
        """Plan, simulate and run AI agents on the hardware you have."""

    for name, line in COMMANDS.items():
        app.command(name, help=line, short_help=line)(lambda: None)
    return app
