"""Plans as files: YAML with a stable key order, written in one stroke, checked for staleness when read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import heterarch
from heterarch.catalog.catalog import Catalog
from heterarch.documents import load_yaml, validate, write_text, yaml_text
from heterarch.errors import InputError, StalePlanError, Where
from heterarch.plan.document import PLAN_VERSION, Plan


def save_plan(plan: Plan, path: Path | str) -> None:
    """Write the plan as YAML; the module's text is a literal block.

    Raises:
        InputError: the folder is absent or may not be written.
    """
    write_text(path, plan_text(plan))


def plan_text(plan: Plan) -> str:
    """The YAML text of a plan."""
    return yaml_text(plan.model_dump(mode="json"))


def load_plan(path: Path | str) -> Plan:
    """Read a plan.

    Raises:
        StalePlanError: written by another major version of heterarch, or in another version of the format.
        InputError: not a plan, or a field is missing, misspelt or wrong; with file and line.
    """
    data, locate = load_yaml(path)
    if not isinstance(data, dict) or data.get("heterarch") != "plan":
        kind = data.get("heterarch") if isinstance(data, dict) else None
        raise InputError(
            "the file is not a plan", observed=f"heterarch: {kind}", expected="heterarch: plan", where=locate(())
        )
    _check_version(data, Where(str(path)))
    return validate(Plan, data, locate)


def _check_version(data: dict[str, Any], where: Where) -> None:
    version = data.get("version")
    if version != PLAN_VERSION:
        raise StalePlanError(
            "the plan has another version of the format",
            observed=version,
            expected=PLAN_VERSION,
            where=where,
            fix="plan again with this version of heterarch",
        )
    provenance = data.get("provenance")
    made_by = str(provenance.get("heterarch_version", "")) if isinstance(provenance, dict) else ""
    if made_by and made_by.partition(".")[0] != heterarch.__version__.partition(".")[0]:
        raise StalePlanError(
            "the plan was made by another major version of heterarch",
            observed=made_by,
            expected=heterarch.__version__,
            where=where,
            fix="plan again with this version of heterarch",
        )


def check_plan(plan: Plan, catalog: Catalog, where: Where | str | None = None) -> None:
    """Whether the catalogue still says what it said when the plan was made; ``where`` is the plan's file.

    Raises:
        StalePlanError: rows that the plan rests on have changed or are gone; names them.
    """
    changed = []
    for row, sha256 in plan.provenance.catalog_sha256.items():
        kind, _, key = row.partition(":")
        try:
            now = catalog.row_sha256(kind, key)  # type: ignore[arg-type]
        except InputError:
            changed.append(f"{row} (gone)")
            continue
        if now != sha256:
            changed.append(row)
    if changed:
        raise StalePlanError(
            "the catalogue has changed since the plan was made",
            observed=", ".join(changed),
            expected="the rows that the plan rests on",
            where=where,
            fix="plan again, or use the catalogue that the plan was made with",
        )


def plan_sha256(plan: Plan) -> str:
    """SHA-256 of the plan's text, as reports quote it."""
    return hashlib.sha256(plan_text(plan).encode()).hexdigest()
