"""From what a user names (an agent, a plan file) to what the stages read; shared by plan, simulate, run and demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.fleet import Fleet
from heterarch.catalog.fleet import fleet as read_fleet
from heterarch.cli.output import note
from heterarch.graph.build import Agent
from heterarch.graph.load import load_agent
from heterarch.ir.flat import FlatProgram
from heterarch.ir.flatten import flatten
from heterarch.ir.passes import run_passes
from heterarch.ir.passes.decompose import Decompose
from heterarch.ir.passes.place import Place
from heterarch.ir.text import parse_module, print_module
from heterarch.plan.document import CallablePart, Plan
from heterarch.plan.planner import Authored


@dataclass(frozen=True)
class Compiled:
    """An agent, its lowered module, and the executable form of that."""

    agent: Agent
    module: ModuleOp
    flat: FlatProgram

    @property
    def authored(self) -> Authored:
        """What the planner needs to know of the agent."""
        callables = tuple(
            CallablePart(symbol=symbol, ref=found.ref, sha256=found.sha256, where=str(found.where))
            for symbol, found in self.agent.callables.items()
        )
        return Authored(self.agent.name, self.agent.source, self._place, callables)

    def _place(self, placement: dict[str, str]) -> str:
        return print_module(run_passes(self.module, [Place.of(placement)]))


def compile_agent(ref: str) -> Compiled:
    """Capture and lower the agent that ``ref`` names."""
    agent = load_agent(ref)
    module = run_passes(agent.module, [Decompose()])
    return Compiled(agent, module, flatten(module, agent.name))


def flat_of(plan: Plan, path: str) -> FlatProgram:
    """The executable form of the plan's placed module; ``path`` stands for the plan in messages."""
    return flatten(parse_module(plan.agent.module, f"{path} (module)"), plan.agent.name)


def catalog_and_fleet(fleet: str, overlays: Sequence[Path]) -> tuple[Catalog, Fleet]:
    """The fleet, and the catalogue with the user's overlays and the fleet's own."""
    found = read_fleet(fleet, Catalog.load(*overlays) if overlays else None)
    made = Catalog.load(*found.catalog, *overlays)
    for warning in made.warnings:
        note(f"warning: {warning}")
    return made, found
