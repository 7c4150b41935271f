"""``heterarch schema``: the published JSON schemas."""

from __future__ import annotations

import importlib
import sys

import typer

from heterarch.documents import schema_json
from heterarch.errors import UnknownNameError

app = typer.Typer(rich_markup_mode=None)

SCHEMAS = {
    "agent": "heterarch.graph.schema:AgentDocument",
    "fleet": "heterarch.catalog.fleet:Fleet",
    "workload": "heterarch.workload.profile:Workload",
    "slo": "heterarch.report.slo:SLODocument",
    "faults": "heterarch.sim.faults:Faults",
    "plan": "heterarch.plan.document:Plan",
    "sweep": "heterarch.sim.sweep.document:SweepDocument",
    "report": "heterarch.report.schema:Report",
}


@app.command()
def schema(name: str = typer.Argument(help=f"One of {', '.join(SCHEMAS)}.")) -> None:
    """Print the JSON schema of a file that heterarch reads or writes."""
    if name not in SCHEMAS:
        raise UnknownNameError("schema", name, SCHEMAS)
    home, _, model = SCHEMAS[name].partition(":")
    sys.stdout.write(schema_json(getattr(importlib.import_module(home), model)))
