"""``heterarch simulate``: examples, files, traces, real data, determinism, and what a user may get wrong."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pyarrow.parquet
import pytest

from heterarch.plan.store import load_plan
from heterarch.report.schema import Report

from .conftest import LOADS, Command

CALL = {"timestamp": 0, "input_length": 1024, "output_length": 9, "hash_ids": [0, 1]}

OPS = {
    "coding_agent": {"step.prefill", "step.decode", "shell"},
    "voice_agent": {"stt", "llm.decode", "tts"},
    "deep_research": {"planner.decode", "searcher.read.decode", "writer.prefill"},
}


def lines(*calls: dict) -> str:
    return "".join(json.dumps(call) + "\n" for call in calls)


@pytest.mark.parametrize("example", LOADS)
def test_examples(example: str, example_plan: Callable[[str], Path], heterarch: Command) -> None:
    report = Report(**heterarch("simulate", example_plan(example), "--requests", 40, "--json").data)
    assert report.kind == "simulated"
    assert not report.partial
    assert report.requests.completed == report.requests.offered >= 40
    assert report.usd_per_request > 0
    assert OPS[report.agent] <= {op.name for op in report.ops}
    assert all(verdict.met for verdict in report.slo)


def test_files_and_schema(here: Path, small_plan: Path, heterarch: Command) -> None:
    files = ("-o", "r.json", "--parquet", "calls.parquet", "--plot", "plot.png")
    printed = heterarch("simulate", small_plan, "--requests", 20, *files, "--json")
    jsonschema.validate(printed.data, json.loads(heterarch("schema", "report").out))
    assert json.loads(Path("r.json").read_text()) == printed.data
    assert pyarrow.parquet.read_table("calls.parquet").num_rows == printed.data["calls"]["offered"] >= 20
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")
    assert [name for name in ("r.json", "calls.parquet", "plot.png") if f"wrote {name}" not in printed.err] == []


def test_the_same_seed_gives_the_same_bytes(small_plan: Path, heterarch: Command) -> None:
    first, second, other = (
        heterarch("simulate", small_plan, "--requests", 50, "--seed", seed, "--json").out for seed in (3, 3, 4)
    )
    assert first == second != other


def test_a_table_for_the_reader(small_plan: Path, heterarch: Command) -> None:
    out = heterarch("simulate", small_plan, "--requests", 20).out
    for text in (
        "20 of 20 requests completed",
        "ttft",
        "prefix hits",
        "mixed-h100-sxm",
        "draft.decode",
        "ttft.p95<=5s",
    ):
        assert text in out
    assert max(map(len, out.splitlines())) <= 110


def test_until_stops_early_without_being_an_error(small_plan: Path, heterarch: Command) -> None:
    report = heterarch("simulate", small_plan, "--requests", 200, "--until", 5, "--json").data
    assert report["partial"]
    assert 0 < report["requests"]["completed"] < 200


def test_traces_and_rates(here: Path, small_plan: Path, heterarch: Command) -> None:
    calls = [{**CALL, "timestamp": 1000 * i, "hash_ids": [0, i + 1]} for i in range(40)]
    Path("t.jsonl").write_text(lines(*calls))
    with gzip.open("t.jsonl.gz", "wt") as stream:
        stream.write(lines(*calls))
    recorded = heterarch("simulate", small_plan, "--trace", "t.jsonl", "--cache", "unbounded", "--json").data
    assert recorded["cache"]["block_hit_rate"] == pytest.approx(39 / 80)
    packed = heterarch("simulate", small_plan, "--trace", "t.jsonl.gz", "--cache", "unbounded", "--json").data
    assert packed == recorded
    faster = heterarch("simulate", small_plan, "--trace", "t.jsonl", "--rate", 8, "--json").data
    assert faster["duration_s"] == pytest.approx(recorded["duration_s"] / 8, rel=0.1)


def test_admission_and_overload(here: Path, small_plan: Path, heterarch: Command) -> None:
    calls = [{**CALL, "timestamp": i, "hash_ids": [2 * i, 2 * i + 1]} for i in range(4000)]
    Path("burst.jsonl").write_text(lines(*calls))
    words = ("simulate", small_plan, "--trace", "burst.jsonl", "--json")
    limited = heterarch(*words, "--admission", "queue-limit:20000").data
    assert limited["requests"]["rejected"] > 0
    assert limited["requests"]["completed"] + limited["requests"]["rejected"] == 4000
    assert limited["reasons"] == {"the admission policy rejected it": limited["requests"]["rejected"]}
    stopped = heterarch(*words, "--max-queue", 500).data
    assert stopped["partial"]
    assert "does not drain" in " ".join(stopped["notes"])
    assert "unknown admission policy" in heterarch(*words, "--admission", "none", code=2).err


# ---------------------------------------------------------------- real data


@pytest.mark.parametrize(
    "trace", ["claude_code_weka", pytest.param("claude_code_weka/requests.parquet", marks=pytest.mark.slow)]
)
def test_real_coding_sessions_whole(
    trace: str, shared_data: Path, example_plan: Callable[[str], Path], heterarch: Command
) -> None:
    words = ("--trace", shared_data / "traces" / trace, "--cache", "unbounded", "--json")
    report = heterarch("simulate", example_plan("coding_agent.py"), *words).data
    rows = pyarrow.parquet.read_table(shared_data / "traces/claude_code_weka/requests.parquet").num_rows
    assert report["calls"]["completed"] == report["calls"]["offered"]
    assert rows - 14 == report["calls"]["offered"]  # 14 rows are markers of subagents, not calls
    assert report["cache"]["block_hit_rate"] == pytest.approx(0.9635, abs=0.005)


def test_real_conversations_whole(shared_data: Path, small_plan: Path, heterarch: Command) -> None:
    trace = shared_data / "traces" / "mooncake" / "conversation_trace.jsonl.gz"
    report = heterarch("simulate", small_plan, "--trace", trace, "--cache", "unbounded", "--json").data
    assert report["calls"]["completed"] == report["calls"]["offered"] == 12_031
    assert report["cache"]["block_hit_rate"] == pytest.approx(0.366, abs=0.005)


# ---------------------------------------------------------------- what a user may get wrong

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:50.95,396,109\n"
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,100,5\n2,100,5\n"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.jsonl", lines(CALL, {"timestamp": 5, "hash_ids": [0]}), ("t.jsonl:2: ", "missing required field", "expected: JSON with")),
        ("t.jsonl", lines({**CALL, "timestamp": -5}), ("t.jsonl:1: a submission time is negative", "observed: -0.005")),
        ("t.jsonl", lines({**CALL, "timestamp": 50}, CALL), ("t.jsonl:2: time goes back", "observed: 0", "expected: ", "fix: ")),
        ("t.jsonl", "", ("t.jsonl: the trace holds no call", "fix: ")),
        ("t.jsonl", "not json\n", ("t.jsonl:1: cannot read the line", "expected: JSON with")),
        ("t.csv", AZURE.replace("GeneratedTokens", "Tokens"), ("t.csv: an Azure CSV needs the columns GeneratedTokens", "observed: TIMESTAMP", "fix: rename")),
        ("t.csv", AZURE.replace("18:15:50", "18:15:40"), ("t.csv:3: time goes back", "expected: ", "fix: correct or remove the row")),
        ("t.csv", AZURE.splitlines()[0] + "\n", ("t.csv: the trace holds no call", "fix: ")),
        ("t.csv", "", ("t.csv: cannot read the file as CSV",)),
        ("t.csv", VIDUR.replace("0.5", "-0.5"), ("t.csv:2: a submission time is negative", "observed: -0.5", "expected: ")),
        ("t.csv", VIDUR.replace("100", "-100", 1), ("t.csv:2: a prompt needs at least one token", "observed: -100")),
        ("t.csv", VIDUR.replace("100", "many", 1), ("t.csv: column num_prefill_tokens must be numbers",)),
        ("t.csv", "a,b\n1,2\n", ("t.csv: ", "needs the columns", "observed: a, b")),
        ("t.parquet", "PAR0", ("t.parquet: cannot read the file as parquet",)),
        ("t.jsonl.gz", "plain", ("t.jsonl.gz", "damaged")),
        ("t.txt", "1 2 3", ("t.txt: cannot tell the form of the trace", "expected: a file named .jsonl")),
    ],
)  # fmt: skip
def test_traces_that_are_refused(
    name: str, text: str, says: tuple[str, ...], here: Path, small_plan: Path, heterarch: Command
) -> None:
    Path(name).write_text(text)
    printed = heterarch("simulate", small_plan, "--trace", name, "--json", code=2, says=says)
    assert printed.out == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--trace", "absent.jsonl"), ("absent.jsonl: no such trace", "fix: ")),
        (("--trace", "."), ("requests.parquet: no such trace",)),
        (("--workload", "chatt"), ("unknown workload 'chatt'", "one of chat")),
        (("--router", "random"), ("unknown router 'random'", "one of ")),
        (("--rate", "0"), ("Invalid value for '--rate'",)),
        (("--rate", "-1"), ("Invalid value for '--rate'",)),
        (("--requests", "0"), ("Invalid value for '--requests'",)),
        (("--seed", "-1"), ("Invalid value for '--seed'",)),
        (("--until", "-1"), ("Invalid value for '--until'",)),
        (("--cache", "big"), ("Invalid value for '--cache'",)),
        (("-o", "absent/r.json"), ("absent/r.json: cannot write the file", "observed: no folder", "fix: mkdir")),
        (("--parquet", "absent/c.parquet"), ("absent/c.parquet: cannot write the file",)),
        (("--plot", "absent/p.png"), ("absent/p.png: cannot write the file",)),
        (("--plot", "p.doc", "--requests", "5"), ("p.doc: no format of a picture",)),
    ],
)
def test_wrong_options(
    words: tuple[str, ...], says: tuple[str, ...], here: Path, small_plan: Path, heterarch: Command
) -> None:
    heterarch("simulate", small_plan, *words, code=2, says=says)


def test_a_call_that_the_program_does_not_make(here: Path, small_plan: Path, heterarch: Command) -> None:
    Path("t.jsonl").write_text(lines(CALL))
    words = ("simulate", small_plan, "--trace", "t.jsonl", "--call", "drft")
    heterarch(*words, code=2, says=("unknown LLM call 'drft'", "one of draft"))


@pytest.mark.parametrize(
    ("pattern", "new", "says"),
    [
        (r"^version: 1$", "version: 2", ("p.yaml: the plan has another version", "observed: 2", "expected: 1", "fix: plan again")),
        (r"heterarch_version: .*", "heterarch_version: 9.1.0", ("p.yaml: the plan was made by another major version", "observed: 9.1.0", "expected: ", "fix: plan again")),
        (r"^placement:", "placemnt:", ("unknown field 'placemnt'", "did you mean placement")),
        (r"^heterarch: plan", "heterarch: plam", ("p.yaml:1:1: the file is not a plan", "expected: heterarch: plan")),
        (r"serve\.prefill", "serve.prefil", ("p.yaml (module):", "serve.prefil")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [("simulate",), ("run", "--local", "-i", "x")])
def test_plans_that_are_refused(
    pattern: str,
    new: str,
    says: tuple[str, ...],
    command: tuple[str, ...],
    here: Path,
    small_plan: Path,
    heterarch: Command,
) -> None:
    text, count = re.subn(pattern, new, small_plan.read_text(), flags=re.M)
    assert count
    Path("p.yaml").write_text(text)
    heterarch(*command, "p.yaml", code=2, says=says)


def test_a_plan_against_changed_rows(here: Path, small_plan: Path, heterarch: Command) -> None:
    Path("p.yaml").write_text(re.sub(r"(device:h100-sxm: ).*", rf"\g<1>{'f' * 64}", small_plan.read_text()))
    says = ("p.yaml: the catalogue has changed", "observed: device:h100-sxm", "fix: plan again")
    heterarch("simulate", "p.yaml", "--requests", 5, code=2, says=says)
    Path("mine.yaml").write_text(
        'sites:\n  - {id: us-average, usd_per_kwh: 0.5, sources: {usd_per_kwh: "declared: ours"}}\n'
    )
    says = ("the catalogue has changed", "observed: site:us-average")
    heterarch("simulate", small_plan, "--overlay", "mine.yaml", "--requests", 5, code=2, says=says)
    Path("p.yaml").write_text(small_plan.read_text().replace("device:h100-sxm:", "device:h100-mine:"))
    heterarch("simulate", "p.yaml", "--requests", 5, code=2, says=("observed: device:h100-mine (gone)",))


def test_files_that_are_no_plan(here: Path, heterarch: Command) -> None:
    heterarch("simulate", "absent.yaml", code=2, says=("absent.yaml: cannot read the file",))
    says = ("answer.yaml:1:1: the file is not a plan", "observed: heterarch: agent", "expected: heterarch: plan")
    heterarch("simulate", "answer.yaml", code=2, says=says)


FAULTS = """heterarch: faults
changes:
  - {kind: engine-crash, at_s: 5, pool: POOL, repair_s: 3}
"""


def llm_pool(plan: Path) -> str:
    return next(pool.name for pool in load_plan(plan).pools if pool.role in ("mixed", "decode"))


def test_faults_from_a_file(here: Path, small_plan: Path, heterarch: Command) -> None:
    name = llm_pool(small_plan)
    (here / "faults.yaml").write_text(FAULTS.replace("POOL", name))
    args = ("simulate", small_plan, "--requests", 100, "--faults", "faults.yaml", "--json")
    report = heterarch(*args).data
    pool = next(pool for pool in report["pools"] if pool["name"] == name)
    assert pool["engines_lost"] == 1
    assert 0 < pool["availability"] < 1
    assert pool["downtime_s"] > 0
    ended = report["requests"]
    assert ended["offered"] == sum(ended[key] for key in ("completed", "rejected", "failed", "unfinished")) == 100
    assert heterarch(*args).data == report


def test_random_faults(small_plan: Path, heterarch: Command) -> None:
    args = ("simulate", small_plan, "--requests", 50, "--faults", "random", "--mtbf-s", 20, "--mttr-s", 1)
    assert sum(pool["engines_lost"] for pool in heterarch(*args, "--json").data["pools"]) > 0
    assert "started again" in heterarch(*args).out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--faults", "random"), "need a rate"),
        (("--mtbf-s", 20), "need a rate"),
        (("--faults", "nothing.yaml"), "cannot read the file"),
        (("--faults", "wrong.yaml"), "unknown pool 'POOL'"),
        (("--faults", "plan.yaml"), "a file of faults was expected"),
    ],
)
def test_wrong_faults(options: tuple[str, ...], said: str, here: Path, small_plan: Path, heterarch: Command) -> None:
    (here / "wrong.yaml").write_text(FAULTS)
    (here / "plan.yaml").write_text(small_plan.read_text())
    assert said in heterarch("simulate", small_plan, *options, code=2).err
