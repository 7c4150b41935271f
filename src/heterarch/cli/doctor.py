"""``heterarch doctor``: what is installed, reachable and missing."""

from __future__ import annotations

from dataclasses import asdict

import typer

from heterarch.catalog.doctor import doctor as examine
from heterarch.cli.output import JSON_HELP, print_json, print_table

app = typer.Typer(rich_markup_mode=None)


@app.command()
def doctor(
    url: list[str] = typer.Option([], help="OpenAI-compatible endpoint to try, for instance http://localhost:8000."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """What is installed, reachable and missing on this machine; exit code 1 when something required is missing."""
    checks = examine(url)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        rows = [
            {
                "check": c.name,
                "": "ok" if c.ok else "MISSING" if c.required else "absent",
                "found": c.detail,
                "fix": c.fix,
            }
            for c in checks
        ]
        print_table("doctor", rows)
    if any(check.required and not check.ok for check in checks):
        raise typer.Exit(1)
