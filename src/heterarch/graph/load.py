"""Find an agent by what a user types: ``file.py``, ``file.py:name``, ``file.yaml`` or ``package.module:name``."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

from heterarch.errors import InputError, UnknownNameError, nearest
from heterarch.graph.build import Agent
from heterarch.graph.document import read_agent_document
from heterarch.graph.reference import load_module

_SUFFIXES = (".py", ".yaml", ".yml")


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
    if not home.endswith(".py"):
        _check_place(home)
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


def _check_place(home: str) -> None:
    """Refuse what is neither a file of ours nor the name of a module that can be found, with what it may have meant."""
    path = Path(home)
    if path.is_file():
        raise InputError("an agent is a Python or a YAML file", observed=home, expected="a .py, .yaml or .yml file")
    if path.is_dir() and not (path / "__init__.py").is_file():
        files = [file.as_posix() for file in sorted(path.iterdir()) if file.suffix in _SUFFIXES]
        raise InputError(
            "an agent is a Python or a YAML file, this is a folder", observed=home or "nothing",
            fix=f"give a file, such as {', '.join(files[:4])}" if files else "give a file",
        )  # fmt: skip
    if all(part.isidentifier() for part in home.split(".")) and _is_module(home):
        return
    files = [f"{home}{suffix}" for suffix in _SUFFIXES if Path(f"{home}{suffix}").is_file()]
    if not files and path.parent.is_dir():
        beside = {file.stem: file for file in sorted(path.parent.iterdir()) if file.suffix in _SUFFIXES}
        files = [beside[stem].as_posix() for stem in nearest(path.name, beside) if _alike(stem, path.name)]
    if files:
        raise InputError(f"no agent file and no module {home!r}", fix=f"did you mean {', '.join(files)}?")
    if not all(part.isidentifier() for part in home.split(".")):
        raise InputError(
            "no such file, and not the name of a module", observed=home,
            expected="file.py, file.yaml or package.module", fix=f"paths start at the working directory, {Path.cwd()}",
        )  # fmt: skip


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
    except Exception:  # a package that fails when it is imported; the import itself tells how
        return True


def _alike(a: str, b: str) -> bool:
    return difflib.SequenceMatcher(None, a.casefold(), b.casefold()).ratio() >= 0.6
