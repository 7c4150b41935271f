"""``heterarch plan``: every example, the plan's schema, and what a user may get wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from heterarch.cli.app import run
from heterarch.cost.document import Calibration
from heterarch.plan.store import load_plan

from .conftest import AGENT, EXAMPLES, FLEET, LOADS, Command

SMALL = ("--fleet", "fleet.yaml", "--workload", "chat", "--no-check", "--no-explain")


@pytest.mark.parametrize("example", [name for name in LOADS if name.endswith(".py")])
def test_examples(example: str, example_plan: Callable[[str], Path]) -> None:
    plan = load_plan(example_plan(example))
    assert plan.agent.name == example.partition(".")[0]
    assert {plan.pool(pool).name for pool in plan.placement.values()} <= {pool.name for pool in plan.pools}
    assert plan.objective.gap <= 0.01
    assert plan.predictions.usd_per_h == pytest.approx(plan.objective.value, rel=1e-6)


def test_the_document_plans_as_the_python_does(example_plan: Callable[[str], Path]) -> None:
    document, python = load_plan(example_plan("coding_agent.yaml")), load_plan(example_plan("coding_agent.py"))
    assert document.pools == python.pools
    assert document.objective.value == python.objective.value


def test_a_checked_plan_says_what_the_simulation_found(here: Path, heterarch: Command) -> None:
    words = ("plan", EXAMPLES / "voice_agent.py", "--workload", "voice", "--requests", 200, "-o", "plan.yaml")
    printed = heterarch(*words)
    for text in ("Placement", "Alternatives", "SLO", "Left out"):
        assert text in printed.out
    notes = load_plan("plan.yaml").notes
    assert any("all SLOs are met in simulation" in note or "misses" in note for note in notes)
    assert all(
        pool == "tools" or "audio" in pool for op, pool in load_plan("plan.yaml").placement.items() if "llm" not in op
    )


def test_json_follows_the_published_schema(here: Path, heterarch: Command) -> None:
    schema = json.loads(heterarch("schema", "plan").out)
    printed = heterarch("plan", "answer.yaml", *SMALL, "-o", "made.yaml", "--json")
    jsonschema.validate(printed.data, schema)
    assert load_plan("made.yaml").model_dump(mode="json") == printed.data
    assert "wrote made.yaml" in printed.err


def test_a_plan_names_the_calibration_with_its_hash(here: Path, heterarch: Command) -> None:
    Calibration(name="mine", date="2026-01-01").save("mine.json")
    made = heterarch("plan", "answer.yaml", *SMALL, "--calibration", "mine.json", "--json").data
    sha256 = hashlib.sha256(Path("mine.json").read_bytes()).hexdigest()
    assert made["provenance"]["calibration_sha256"] == {"mine.json": sha256}
    assert "Step times use the calibration mine.json first." in made["notes"]
    assert heterarch("plan", "answer.yaml", *SMALL, "--json").data["provenance"]["calibration_sha256"] == {}


def test_the_same_seed_gives_the_same_plan(here: Path, heterarch: Command) -> None:
    def planned(seed: int) -> dict:
        made = heterarch("plan", "answer.yaml", *SMALL, "--seed", seed, "--json").data
        return {**made, "objective": {**made["objective"], "solve_s": 0}}

    assert planned(1) == planned(1)


# ---------------------------------------------------------------- what a user may get wrong


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("fleet.yaml", "h100-sxm", "h100-sx", ("fleet.yaml:5:6: unknown device 'h100-sx'", "did you mean h100-sxm")),
        ("fleet.yaml", "limit: 8", "limt: 8", ("fleet.yaml:5:24: unknown field 'limt'", "one of limit")),
        ("fleet.yaml", "us-average", "us-avrage", ("fleet.yaml:2:1: unknown site", "one of us-average")),
        ("answer.yaml", "3.1-8B", "3.1-8C", ("answer.yaml:6:3: unknown model", "did you mean Meta-Llama-3.1-8B")),
        ("answer.yaml", "op: model", "op: modle", ("answer.yaml:6:3: unknown op 'modle'", "did you mean model")),
        ("answer.yaml", "tokens_in", "token_in", ("answer.yaml:6:22: unknown field 'token_in'", "one of tokens_in")),
        ("answer.yaml", "outputs", "ouputs", ("unknown field 'ouputs'", "one of outputs", "then 1 more")),
        ("answer.yaml", "[question]", "[qestion]", ("answer.yaml:6:57: unknown value 'qestion'", "one of question")),
        ("answer.yaml", "{op", "{op: [", ("answer.yaml:", "not valid YAML")),
    ],
)
def test_misspelt_documents(
    file: str, old: str, new: str, says: tuple[str, ...], here: Path, heterarch: Command
) -> None:
    text = {"answer.yaml": AGENT, "fleet.yaml": FLEET}[file]
    Path(file).write_text(text.replace(old, new, 1))
    heterarch("plan", "answer.yaml", *SMALL, code=2, says=says)
    assert not Path("plan.yaml").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--fleet", "mixd"), ("unknown fleet 'mixd'", "mixed", "fix: ")),
        (("--workload", "chatt"), ("unknown workload 'chatt'", "one of chat", "fix: ")),
        (("--slo", "e2e.p95=1s"), ("cannot read the SLO", "observed: 'e2e.p95=1s'", "e2e.p95<=30s")),
        (("--slo", "e3e.p95<=1s"), ("unknown SLO metric 'e3e'", "one of e2e")),
        (("--slo", "absent.yaml"), ("absent.yaml: cannot read the file",)),
        (("--accounting", "rentl"), ("unknown accounting 'rentl'", "one of rental")),
        (("--router", "prefix"), ("unknown router 'prefix'", "one of prefix-affinity")),
        (("--dtype", "bf61"), ("unknown dtype 'bf61'", "one of bf16")),
        (("--overlay", "absent.csv"), ("absent.csv: cannot read the file",)),
        (("--rate", "0"), ("Invalid value for '--rate'", "0 is not a number above 0")),
        (("--rate", "nan"), ("Invalid value for '--rate'", "nan is not")),
        (("--margin", "0.5"), ("Invalid value for '--margin'",)),
        (("--requests", "0"), ("Invalid value for '--requests'",)),
        (("--seed", "-1"), ("Invalid value for '--seed'",)),
        (("-o", "absent/plan.yaml"), ("absent/plan.yaml: cannot write", "observed: no folder absent", "fix: mkdir -p")),
        (("-o", "."), (".: cannot write the file", "observed: a folder")),
    ],
)
def test_wrong_options(words: tuple[str, ...], says: tuple[str, ...], here: Path, heterarch: Command) -> None:
    heterarch("plan", "answer.yaml", *SMALL, *words, code=2, says=says)


PYTHON = "import heterarch as ha\n@ha.agent\ndef answer(question: ha.Text) -> ha.Text:\n"
MODEL = "    {}ha.model('Meta-Llama-3.1-8B', question, tokens_in=3, tokens_out=3{})\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PYTHON + "    if question:\n        return question\n", ("agent.py:4: `if`", "fix: use ha.branch or ha.loop")),
        (
            PYTHON + MODEL.format("", "") + MODEL.format("return ", ""),
            ("agent.py:4: node 'model' is unreachable", "fix: "),
        ),
        (PYTHON + MODEL.format("return ", ", token_out=3"), ("agent.py:4: ", "TypeError", "token_out")),
        (PYTHON + "    return ha.modl(question)\n", ("agent.py:4: ", "modl")),
        (PYTHON + "    raise ValueError('mine')\n", ("agent.py:4: ", "ValueError: mine")),
        ("import heterarc as ha\n", ("agent.py:1: ", "No module named 'heterarc'")),
        ("def answer(:\n", ("agent.py:1: cannot read the Python file: invalid syntax",)),
        ("x = 1\n", ("no agent in the module", "observed: agent.py", "fix: decorate a function")),
    ],
)
def test_python_that_is_no_agent(text: str, says: tuple[str, ...], here: Path, heterarch: Command) -> None:
    Path("agent.py").write_text(text)
    heterarch("plan", "agent.py", *SMALL, code=2, says=says)


def test_agents_that_are_not_there(here: Path, heterarch: Command) -> None:
    heterarch("plan", "absent.py", code=2, says=("no such Python file", "observed: absent.py"))
    heterarch("plan", "absent.yaml", code=2, says=("absent.yaml: cannot read the file",))
    heterarch("plan", "absent.module:agent", code=2, says=("cannot import module 'absent.module'", "fix: "))
    heterarch("plan", f"{EXAMPLES}/coding_agent.py:coder", code=2, says=("unknown agent", "one of coding_agent"))
    Path("notes.txt").write_text("agent")
    heterarch(
        "plan", "notes.txt", code=2, says=("an agent is a Python or a YAML file", "observed: notes.txt", "expected: ")
    )


def test_a_cycle_of_data_and_an_unreachable_node(here: Path, heterarch: Command) -> None:
    second = "  second: {op: model, model: Meta-Llama-3.1-8B, inputs: [%s], tokens_in: 3, tokens_out: 5}\noutputs"
    cycle = AGENT.replace("inputs: [question]", "inputs: [second]").replace("outputs", second % "draft")
    Path("cycle.yaml").write_text(cycle)
    says = ("cycle.yaml:6:3: data goes round in a cycle", "observed: draft -> second -> draft", "fix: carry the value")
    heterarch("plan", "cycle.yaml", *SMALL, code=2, says=says)
    Path("unused.yaml").write_text(AGENT.replace("outputs", second % "question"))
    says = ("unused.yaml:7:3: node 'second' is unreachable from the output", "fix: use its result")
    heterarch("plan", "unused.yaml", *SMALL, code=2, says=says)


def test_a_model_that_fits_on_no_device(here: Path, heterarch: Command) -> None:
    Path("answer.yaml").write_text(AGENT.replace("Meta-Llama-3.1-8B", "DeepSeek-V3"))
    Path("fleet.yaml").write_text(FLEET.replace("limit: 8", "limit: 1"))
    says = (
        "the model 'DeepSeek-V3' fits on no device of the fleet",
        "h100-sxm: the fleet has too few devices",
        "cpu-vcpu TP1 fp8: weights and activations do not fit",
        "fix: add devices with more memory",
    )
    heterarch("plan", "answer.yaml", *SMALL, code=3, says=says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--slo", "e2e.p95<=1ms"),
            ("the end-to-end limit", "best reachable p95", "at most 1 ms", "fix: allow e2e.p95<="),
        ),
        (("--slo", "ttft.p95<=1ms"), ("the ttft limit of the model", "best reachable", "on h100-sxm", "fix: allow ")),
        (
            ("--slo", "tpot.p95<=10us"),
            ("the tpot limit of the model", "best reachable", "at most 10 us", "fix: allow "),
        ),
        (("--slo", "cost.mean<=1e-9"), ("cost.mean", "the cheapest plan costs", "fix: allow cost.mean<=")),
        (("--rate", "100000"), ("the inventory is too small", "8 h100-sxm", "fix: allow ")),
    ],
)
def test_limits_that_no_plan_meets(
    words: tuple[str, ...], says: tuple[str, ...], here: Path, heterarch: Command
) -> None:
    heterarch("plan", "answer.yaml", *SMALL, *words, code=3, says=says)
    assert not Path("plan.yaml").exists()


@pytest.mark.parametrize("limit", ["e2e.p95<=1ms", "ttft.p95<=1ms", "tpot.p95<=10us", "cost.mean<=1e-9"])
def test_what_a_message_says_would_relax_it_does(limit: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "answer.yaml", *SMALL, "--slo"]
    assert run([*words, limit]) == 3
    allowed = capsys.readouterr().err.split("fix: allow ")[1].split(",")[0].replace(" ", "")
    relaxed = allowed if "<=" in allowed else f"{limit.partition('<=')[0]}<={allowed}"
    assert run([*words, relaxed]) == 0
