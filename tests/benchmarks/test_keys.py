"""Every benchmark prints one JSON object with the keys that benchmarks/README.md documents, and no others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
QUICK = {
    "machine": [],
    "orchestration": ["--scale", "0.01", "--repeats", "1"],
    "plan_speed": ["--agent", "voice_agent", "--no-explain"],
    "sim_speed": ["--repeats", "1"],
    "splitwise_study": ["--quick"],
    "vllm_fidelity": [],
    "kv_ttl": [],
    "fit_profiles": [],
    "e2e_accuracy": [],
    "op_accuracy": [],
    "ship_calibration": [],
    "cost_speed": ["--points", "10000"],
}
NEED_DATA = (
    "splitwise_study",
    "vllm_fidelity",
    "kv_ttl",
    "fit_profiles",
    "e2e_accuracy",
    "op_accuracy",
    "ship_calibration",
)
Tree = dict[str, Any]


def printed(script: str, *arguments: str, **variables: str) -> Any:
    command = [sys.executable, str(FOLDER / f"{script}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **variables})
    return json.loads(done.stdout)


def documented(script: str) -> Tree:
    """The keys of a script's section and those of every object, as a tree; ``*`` stands for any name."""
    head, *sections = re.split(r"^## ", (FOLDER / "README.md").read_text(), flags=re.M)
    own = next((text for text in sections if text.startswith(f"{script}.py\n")), "")
    tree: Tree = {}
    for row in re.findall(r"^\| (`.*?) \|", head + own, flags=re.M):
        for path in re.findall(r"`([^`]+)`", row):
            branch = tree
            for part in path.split("."):
                branch = branch.setdefault(part, {})
    return tree


def compare(found: Any, tree: Tree, path: str, seen: set[str]) -> None:
    """Every key of ``found`` is documented; ``seen`` collects the documented paths that there are."""
    if not tree:
        return
    if found is None:  # there is no such thing this time
        seen.update(path + name for name in paths(tree))
        return
    assert isinstance(found, Mapping), f"{path} has no keys"
    for key, value in found.items():
        name = key if key in tree else "*"
        assert name in tree, f"{path}{key} is not documented"
        seen.add(f"{path}{name}")
        compare(value, tree[name], f"{path}{name}.", seen)


def paths(tree: Tree, path: str = "") -> set[str]:
    return {path + name for name in tree} | {p for name, inner in tree.items() for p in paths(inner, f"{path}{name}.")}


def test_every_script_is_here() -> None:
    assert set(QUICK) == {path.stem for path in FOLDER.glob("*.py") if "__main__" in path.read_text()}


@pytest.mark.parametrize("script", QUICK)
def test_the_keys_are_those_of_the_readme(script: str, request: pytest.FixtureRequest) -> None:
    if script in NEED_DATA:
        request.getfixturevalue("shared_data")
    found, tree, seen = printed(script, *QUICK[script]), documented(script), set[str]()
    compare(found, tree, "", seen)
    assert seen == paths(tree), f"documented, not printed: {sorted(paths(tree) - seen)}"
    assert found["benchmark"] == script


@pytest.mark.parametrize("script", NEED_DATA)
def test_without_the_data_it_says_so(script: str, tmp_path: Path) -> None:
    assert set(printed(script, HETERARCH_DATA=str(tmp_path / "none"))) == {"benchmark", "skipped"}


@pytest.mark.parametrize("script", [name for name in QUICK if name != "machine"])
def test_help(script: str) -> None:
    command = [sys.executable, str(FOLDER / f"{script}.py"), "--help"]
    assert "usage" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
