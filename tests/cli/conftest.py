"""Commands called in process, with what they print; plans that several tests read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from heterarch.cli.app import run
from heterarch.plan.document import LocalPart
from heterarch.plan.store import load_plan, save_plan

EXAMPLES = Path(__file__).parents[2] / "examples"
AGENT = """\
heterarch: agent
version: 1
name: answer
inputs: {question: text}
nodes:
  draft: {op: model, model: Meta-Llama-3.1-8B, inputs: [question], tokens_in: 300, tokens_out: 50}
outputs: [draft]
"""
FLEET = """\
name: small
site: us-average
accounting: owner-annuity
devices:
  - {device: h100-sxm, limit: 8}
  - {device: cpu-vcpu, limit: 64}
"""
#: workload of each example
LOADS = {
    "coding_agent.py": "coding-fleet",
    "coding_agent.yaml": "coding-fleet",
    "voice_agent.py": "voice",
    "deep_research.py": "chat",
}


class Printed(NamedTuple):
    """What a command printed."""

    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Printed]


def served(plan: Path, *urls: str, made: str = "served.yaml") -> str:
    """The plan with its LLM pool served by the endpoints at ``urls``."""
    read = load_plan(plan)
    local = LocalPart(kind="openai", model_path="m", urls=list(urls))
    pools = [pool.model_copy(update={"local": local}) if pool.role == "mixed" else pool for pool in read.pools]
    save_plan(read.model_copy(update={"pools": pools}), made)
    return made


@pytest.fixture
def heterarch(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command; it must end with ``code``, say every one of ``says`` on standard error, and never a traceback."""

    def call(*arguments: object, code: int = 0, says: tuple[str, ...] = ()) -> Printed:
        capsys.readouterr()
        ended = run([str(word) for word in arguments])
        printed = Printed(*capsys.readouterr())
        assert ended == code, printed.err or printed.out
        assert "Traceback" not in printed.err
        for text in says:
            assert text in printed.err
        return printed

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the small agent ``answer.yaml`` and the small fleet ``fleet.yaml``."""
    (tmp_path / "answer.yaml").write_text(AGENT)
    (tmp_path / "fleet.yaml").write_text(FLEET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def small_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of the small agent on the small fleet."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "answer.yaml").write_text(AGENT)
    (folder / "fleet.yaml").write_text(FLEET)
    words = ("plan", folder / "answer.yaml", "--fleet", folder / "fleet.yaml", "--workload", "chat", "--no-check")
    assert run([str(word) for word in (*words, "--no-explain", "-o", folder / "plan.yaml")]) == 0
    return folder / "plan.yaml"


@pytest.fixture(scope="session")
def example_plan(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The plan of an example by its file name, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("examples")

    def plan_of(example: str) -> Path:
        path = folder / f"{example}.plan.yaml"
        if not path.exists():
            words = ("plan", EXAMPLES / example, "--workload", LOADS[example], "--no-check", "--no-explain", "-o", path)
            with contextlib.chdir(folder):  # below which the example is not, so that the plan names it absolutely
                assert run([str(word) for word in words]) == 0
        return path

    return plan_of
