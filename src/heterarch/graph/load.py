"""Find an agent by what a user types: ``file.py``, ``file.py:name``, ``file.yaml`` or ``package.module:name``."""

from __future__ import annotations

from pathlib import Path

from heterarch.errors import InputError, UnknownNameError
from heterarch.graph.build import Agent
from heterarch.graph.document import read_agent_document
from heterarch.graph.reference import load_module


def load_agent(ref: str) -> Agent:
    """The agent that ``ref`` names; a Python file without a name must hold an agent of the file's name, or just one.

    Raises:
        InputError: no such file or module, or no agent in it.
        UnknownNameError: the module has no agent of that name.
        CaptureError, VerifyError: the agent itself is wrong.
    """
    home, _, name = ref.partition(":")
    if home.endswith((".yaml", ".yml")):
        return read_agent_document(home, load_agent)
    if not home.endswith(".py") and Path(home).is_file():
        raise InputError("an agent is a Python or a YAML file", observed=home, expected="a .py, .yaml or .yml file")
    module = load_module(home)
    agents = {key: value for key, value in vars(module).items() if isinstance(value, Agent)}
    if not agents:
        raise InputError("no agent in the module", observed=home, fix="decorate a function with @heterarch.agent")
    name = name or (Path(home).stem if Path(home).stem in agents else "")
    if not name and len(agents) > 1:
        raise InputError("several agents in the module", observed=", ".join(agents), fix=f"say which, as {home}:NAME")
    if name and name not in agents:
        raise UnknownNameError(f"agent in {home}", name, agents)
    return agents[name] if name else next(iter(agents.values()))
