"""``heterarch run``: examples on real local engines, endpoints that misbehave, and what a user may get wrong."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import psutil
import pytest

from heterarch.report.schema import Report

from .conftest import Command, served
from .fake_endpoint import Manner, endpoint

SMALL = ("--max-tokens", 6, "--max-trips", 2)


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    """No process that a command started outlives it."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = [process for process in psutil.Process().children(recursive=True) if process not in before]
    assert psutil.wait_procs(left, timeout=5)[1] == []


# ---------------------------------------------------------------- real engines


@pytest.mark.parametrize(
    "example",
    [
        "coding_agent.py",
        pytest.param("coding_agent.yaml", marks=pytest.mark.slow),
        "voice_agent.py",
        "deep_research.py",
    ],
)
def test_examples_with_kv_moved_between_engines(
    example: str, example_plan: Callable[[str], Path], here: Path, heterarch: Command
) -> None:
    pytest.importorskip("xllamacpp")
    words = ("--local", "--apart", *SMALL, "-i", "List the files of this folder.", "-o", "live.json", "--json")
    data = heterarch("run", example_plan(example), *words).data
    report = Report(**data["report"])
    assert report.kind == "live"
    assert (report.requests.completed, report.partial) == (1, False)
    assert report.kv_transfer_bytes > 0
    assert len(data["outputs"]) == 1
    assert json.loads(Path("live.json").read_text()) == data["report"]
    prefills = {pool.name for pool in report.pools if pool.role == "prefill" and pool.prompt_tokens}
    decodes = {pool.name for pool in report.pools if pool.role == "decode" and pool.output_tokens}
    assert prefills
    assert decodes
    assert any(op.predicted_s and op.measured_s.mean > 0 for op in report.ops)


def test_tokens_table_and_schema(here: Path, small_plan: Path, heterarch: Command) -> None:
    pytest.importorskip("xllamacpp")
    words = ("run", small_plan, "--local", "--max-tokens", 6, "-i", "question=Why?", "--requests", 2)
    printed = heterarch(*words)
    assert printed.out.startswith("[draft] ")
    assert "2 of 2 requests completed" in printed.out
    assert "predicted" in printed.out
    data = heterarch(*words, "--concurrency", 2, "--json").data
    jsonschema.validate(data["report"], json.loads(heterarch("schema", "report").out))
    assert data["report"]["requests"]["completed"] == 2


# ---------------------------------------------------------------- endpoints


def test_an_endpoint_by_url(here: Path, small_plan: Path, heterarch: Command) -> None:
    with endpoint("well") as url:
        data = heterarch("run", served(small_plan, url), "-i", "Why?", "--json").data
    assert data["outputs"] == [["It is so."]]
    assert (data["report"]["prompt_tokens"], data["report"]["output_tokens"]) == (7, 4)


@pytest.mark.parametrize(
    ("manner", "says"),
    [
        ("garbage", ("the engine's answer is not JSON", "observed: {{{ not json")),
        ("not-http", ("the answer is not HTTP",)),
        ("page", ("the engine answered no stream of events", "observed: text/html")),
        ("refuses", ("the engine refused the call", "HTTP 404: no such model")),
        ("dies", ("the answer broke off",)),
        ("silent", ("the answer broke off", "silent for 0.3 s")),
    ],
)
def test_an_engine_that_misbehaves(
    manner: Manner, says: tuple[str, ...], here: Path, small_plan: Path, heterarch: Command
) -> None:
    with endpoint(manner) as url:
        words = ("run", served(small_plan, url), "-i", "Why?", "--timeout", 0.3, "-o", "live.json", "--json")
        printed = heterarch(*words, code=4, says=("request failed", "engine mixed-h100-sxm.0", *says))
    report = Report(**printed.data["report"])
    assert printed.data["outputs"] == [None]
    assert (report.requests.failed, report.partial) == (1, False)
    assert sum(report.reasons.values()) == 1
    assert Report(**json.loads(Path("live.json").read_text())) == report


def test_an_engine_that_does_not_answer(here: Path, small_plan: Path, heterarch: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nothing accepts the connection
        plan = served(small_plan, f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        says = ("request failed", "the engine does not answer", "observed: ", "127.0.0.1", "fix: is it running")
        printed = heterarch("run", plan, "-i", "Why?", code=4, says=says)
    assert "0 of 1 requests completed, 1 failed" in printed.out


def test_other_requests_go_on(here: Path, small_plan: Path, heterarch: Command) -> None:
    with endpoint("dies") as bad, endpoint("well") as good:
        words = ("run", served(small_plan, bad, good), "-i", "Why?", "--requests", 3, "--json")
        requests = Report(**heterarch(*words, code=4).data["report"]).requests
    assert (requests.completed, requests.failed) == (2, 1)


def test_a_deadline(here: Path, small_plan: Path, heterarch: Command) -> None:
    with endpoint("silent") as url:
        says = ("the deadline passed", "expected: 0.2 s per request")
        heterarch("run", served(small_plan, url), "-i", "Why?", "--deadline", 0.2, code=1, says=says)


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = [sys.executable, "-m", "heterarch.run.worker", "--model=x", f"--kv-folder={tmp_path}", f"--port={port}"]
        with subprocess.Popen(  # its input stays open: the end of it would end the worker
            words, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as worker:
            code = worker.wait(timeout=60)
            assert worker.stdout is not None
            assert worker.stderr is not None
            said, error = json.loads(worker.stdout.read()), worker.stderr.read()
    assert code == 4
    assert said["error"] == f"port {port} is in use"
    assert "choose another" in said["fix"]
    assert "Traceback" not in error


# ---------------------------------------------------------------- what a user may get wrong


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-i", "x"), ("pool mixed-h100-sxm (1 x h100-sxm) has no engine that can run here", "fix: ", "--local")),
        (("--local",), ("agent 'answer' needs the input 'question'", "expected: -i question=... ")),
        (("--local", "-i", "question=@absent.txt"), ("absent.txt: cannot read the input",)),
        (("--local", "-i", "question=a", "-i", "question=b"), ("takes every input once", "observed: -i question=b")),
        (("--local", "-i", "a", "-i", "b"), ("takes every input once", "observed: -i b", "expected: question")),
        (("--local", "-i", "x", "--engines", "0"), ("Invalid value for '--engines'",)),
        (("--local", "-i", "x", "--requests", "0"), ("Invalid value for '--requests'",)),
        (("--local", "-i", "x", "--concurrency", "0"), ("Invalid value for '--concurrency'",)),
        (("--local", "-i", "x", "--max-tokens", "0"), ("Invalid value for '--max-tokens'",)),
        (("--local", "-i", "x", "--deadline", "0"), ("Invalid value for '--deadline'",)),
        (("--local", "-i", "x", "-o", "absent/live.json"), ("absent/live.json: cannot write the file", "fix: mkdir")),
    ],
)
def test_wrong_options(
    words: tuple[str, ...], says: tuple[str, ...], here: Path, small_plan: Path, heterarch: Command
) -> None:
    heterarch("run", small_plan, *words, code=2, says=says)


def test_an_endpoint_without_an_address_or_a_key(here: Path, small_plan: Path, heterarch: Command) -> None:
    says = ("an endpoint needs a URL", "observed: 'localhost'", "expected: http://")
    heterarch("run", served(small_plan, "localhost"), "-i", "x", code=2, says=says)


TOOL = """\
import heterarch as ha

@ha.tool(seconds=0.1)
def look(text: str) -> str:
    {body}

@ha.agent
def tooled(question: ha.Text) -> ha.Text:
    return look(ha.model("Meta-Llama-3.1-8B", question, tokens_in=30, tokens_out=5, name="draft"))
"""


def test_a_tool_that_raises_and_a_tool_that_changed(here: Path, heterarch: Command) -> None:
    Path("tooled.py").write_text(TOOL.format(body="raise ValueError(text)"))
    heterarch("plan", "tooled.py", "--fleet", "fleet.yaml", "--workload", "chat", "--no-check", "--no-explain")
    with endpoint("well") as url:
        plan = served(Path("plan.yaml"), url)
        says = ("request failed: tooled.py:5: look raised ValueError: It is so.",)
        heterarch("run", plan, "-i", "x", code=1, says=says)
        plan_text = Path(plan).read_text()
        Path("other.py").write_text(TOOL.format(body="return text"))
        Path(plan).write_text(plan_text.replace("tooled.py:look", "other.py:look"))
        printed = heterarch("run", plan, "-i", "x", "--json")
        assert any("the source of other.py:look has changed" in note for note in printed.data["report"]["notes"])
        says = ("the source of other.py:look has changed", "observed: ", "expected: ", "fix: plan again")
        heterarch("run", plan, "-i", "x", "--strict", code=2, says=says)
        Path(plan).write_text(plan_text.replace("tooled.py:look", "away.py:look"))
        says = ("no such Python file", "observed: away.py", "fix: paths start at the working directory")
        heterarch("run", plan, "-i", "x", code=2, says=says)
        Path(plan).write_text(plan_text.replace("tooled.py:look", "other.py:lok"))
        heterarch("run", plan, "-i", "x", code=2, says=("unknown callable in other.py 'lok'", "one of ", "look"))
