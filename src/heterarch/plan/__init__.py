"""The plan room: the placement problem, its solver, the planner, and the Plan document.

    agent = Authored("coder", "coder.py", place)
    made = plan(agent, flat, fleet("mixed"), Catalog.load(), load_workload("coding-fleet"))
    save_plan(made, "coder.plan.yaml")

Names are loaded on first use, because the solver takes a second to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "heterarch.plan.document": ("Alternative", "CallablePart", "Plan", "Pool", "Predictions"),
    "heterarch.plan.planner": ("Authored", "Evaluator", "plan"),
    "heterarch.plan.render": ("plan_lines", "render_plan"),
    "heterarch.plan.scale": ("scaled_down",),
    "heterarch.plan.store": ("check_plan", "load_plan", "plan_sha256", "plan_text", "save_plan"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from heterarch.plan.document import Alternative, CallablePart, Plan, Pool, Predictions
    from heterarch.plan.planner import Authored, Evaluator, plan
    from heterarch.plan.render import plan_lines, render_plan
    from heterarch.plan.scale import scaled_down
    from heterarch.plan.store import check_plan, load_plan, plan_sha256, plan_text, save_plan

__all__ = [
    "Alternative",
    "Authored",
    "CallablePart",
    "Evaluator",
    "Plan",
    "Pool",
    "Predictions",
    "check_plan",
    "load_plan",
    "plan",
    "plan_lines",
    "plan_sha256",
    "plan_text",
    "render_plan",
    "save_plan",
    "scaled_down",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'heterarch.plan' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
