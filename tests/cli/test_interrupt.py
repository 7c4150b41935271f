"""Ctrl-C, as a real signal to a real process: exit code 130, no process left, the partial report kept."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.parquet
import pytest

from heterarch.cli.pipeline import flat_of
from heterarch.plan.store import load_plan
from heterarch.report.schema import Report
from heterarch.sim.simulate import evaluator
from heterarch.workload.profile import load_workload

from .conftest import EXAMPLES, served
from .fake_endpoint import endpoint

PATIENCE_S = 60.0
LONG = """\
import subprocess

import heterarch as ha


@ha.tool(seconds=0.1)
def wait(text: str) -> str:
    print("waiting", flush=True)
    return subprocess.run(["sleep", "60"], capture_output=True, text=True).stdout


@ha.agent
def patient(question: ha.Text) -> ha.Text:
    return wait(ha.model("Meta-Llama-3.1-8B", question, tokens_in=30, tokens_out=5, name="draft"))
"""


@dataclass
class Command:
    """A command in a process and a session of its own, on a terminal that it believes in."""

    process: subprocess.Popen[bytes]
    screen: int
    shown: str = ""
    family: list[psutil.Process] = field(default_factory=list)

    def until(self, text: str) -> None:
        """Read the terminal until it shows ``text``."""
        end_s = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            assert time.monotonic() < end_s, self.shown
            assert self._read(), f"ended without {text!r}: {self.shown}"

    def interrupted(self, *, group: bool = False) -> int:
        """Send SIGINT to the process, or to its group as a terminal does, and wait for the exit code."""
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        (os.killpg if group else os.kill)(self.process.pid, signal.SIGINT)
        while self._read():
            pass
        code = self.process.wait(PATIENCE_S)
        assert psutil.wait_procs(self.family, timeout=5)[1] == []
        assert "Traceback" not in self.shown
        return code

    def _read(self) -> bool:
        if not select.select([self.screen], [], [], PATIENCE_S)[0]:
            return False
        try:
            data = os.read(self.screen, 65536)
        except OSError:  # the other end is closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


@contextmanager
def started(*words: object) -> Iterator[Command]:
    """``heterarch`` with these words; killed at the end if it still runs."""
    screen, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "heterarch", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "110"},
    )
    os.close(theirs)
    try:
        yield Command(process, screen)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(screen)


def report(path: str) -> Report:
    return Report(**json.loads(Path(path).read_text()))


@pytest.mark.parametrize(
    "extra", [["--no-check"], ["--no-explain", "--requests", "100000"]], ids=["solving", "checking"]
)
def test_plan(extra: list[str], here: Path) -> None:
    words = ("plan", EXAMPLES / "deep_research.py", "--workload", "chat", "-o", "plan.yaml", *extra)
    with started(*words) as command:
        command.until("planning deep_research")
        time.sleep(1.0)
        assert command.interrupted() == 130
        assert "heterarch: interrupted" in command.shown
    assert list(here.glob("*plan*")) == []


def test_a_check_does_not_swallow_it(small_plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan is not judged by half a simulation."""

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("heterarch.sim.drive.advancer", interrupted)
    plan = load_plan(small_plan)
    with pytest.raises(KeyboardInterrupt):
        evaluator(flat_of(plan, "plan.yaml"), requests=10)(plan, load_workload("chat"), 0)


def test_simulate_keeps_what_was_simulated(here: Path, small_plan: Path) -> None:
    calls = ({"timestamp": 40 * i, "input_length": 512, "output_length": 200, "hash_ids": [i]} for i in range(60_000))
    Path("t.jsonl").write_text("".join(json.dumps(call) + "\n" for call in calls))
    with started("simulate", small_plan, "--trace", "t.jsonl", "-o", "r.json") as command:
        command.until("simulating")
        assert command.interrupted() == 130
        assert "PARTIAL" in command.shown
        assert "wrote r.json" in command.shown
    kept = report("r.json")
    assert kept.partial
    assert kept.requests.completed < 60_000
    assert "stopped before the end" in kept.notes[0]


def test_simulate_keeps_every_file_asked_for(here: Path, small_plan: Path) -> None:
    files = ("--requests-out", "q.parquet", "--series-out", "s.parquet", "--trace-out", "t.json", "--plot", "p.svg")
    with started("simulate", small_plan, "--requests", 200_000, "--sample-s", 60, *files) as command:
        command.until("of simulated time")
        assert command.interrupted() == 130
        assert all(f"wrote {name}" in command.shown for name in files[1::2])
    for name in ("q.parquet", "s.parquet"):
        assert pyarrow.parquet.read_schema(name).metadata[b"heterarch.partial"] == b"true"
    assert json.loads(Path("t.json").read_text())["otherData"]["partial"] == "true"
    assert "PARTIAL" in Path("p.svg").read_text()


@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
def test_run_keeps_what_was_run(group: bool, here: Path, small_plan: Path) -> None:
    pytest.importorskip("xllamacpp")
    words = ("--local", "--apart", "-i", "Why?", "--requests", 100_000, "--max-tokens", 4, "-o", "live.json")
    with started("run", small_plan, *words) as command:
        command.until("[draft]")
        time.sleep(0.3)
        assert command.interrupted(group=group) == 130
        assert len(command.family) == 2
        assert "PARTIAL" in command.shown
    kept = report("live.json")
    assert kept.partial
    assert kept.requests.completed > 0
    assert kept.kv_transfer_bytes > 0


def test_run_ends_while_its_engines_start(here: Path, small_plan: Path) -> None:
    pytest.importorskip("xllamacpp")
    with started("run", small_plan, "--local", "--engines", 3, "-i", "Why?", "-o", "live.json") as command:
        while not psutil.Process(command.process.pid).children():
            time.sleep(0.005)
        assert command.interrupted() == 130
    assert report("live.json").partial


def test_run_ends_a_silent_engine(here: Path, small_plan: Path) -> None:
    with endpoint("silent") as url:
        with started("run", served(small_plan, url), "-i", "Why?", "-o", "live.json") as command:
            command.until("It is")
            assert command.interrupted() == 130
        assert report("live.json").requests.unfinished == 1


def test_run_leaves_no_process_of_a_tool(here: Path) -> None:
    pytest.importorskip("xllamacpp")
    Path("patient.py").write_text(LONG)
    words = ("plan", "patient.py", "--fleet", "fleet.yaml", "--workload", "chat", "--no-check", "--no-explain")
    subprocess.run([sys.executable, "-m", "heterarch", *words], check=True, capture_output=True)
    with started("run", "plan.yaml", "--local", "-i", "Why?", "--json") as command:
        command.until("waiting")
        time.sleep(0.3)
        assert command.interrupted() == 130
        assert len(command.family) == 2  # the engine and the tool's
