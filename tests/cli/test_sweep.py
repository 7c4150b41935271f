"""``heterarch sweep``: tables, files, jobs, Ctrl-C, and what a user may get wrong."""

from __future__ import annotations

import csv
import json
import re
import time
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from heterarch.plan.store import load_plan, save_plan

from .conftest import Command
from .test_interrupt import PATIENCE_S, started

QUICK = ("--requests", 20, "--jobs", 1)


@pytest.fixture
def plans(here: Path, small_plan: Path) -> tuple[str, str]:
    """The small plan, and the same with slower engines that cost half as much."""
    read = load_plan(small_plan)
    save_plan(read, "fast.plan.yaml")
    pools = [
        pool.model_copy(
            update={
                "usd_per_engine_h": pool.usd_per_engine_h / 2,
                "step": pool.step.model_copy(update={"fixed_s": pool.step.fixed_s * 1.5}) if pool.step else None,
            }
        )
        for pool in read.pools
    ]
    save_plan(read.model_copy(update={"pools": pools}), "cheap.plan.yaml")
    return "fast.plan.yaml", "cheap.plan.yaml"


def test_the_numbers_do_not_depend_on_the_jobs(plans: tuple[str, str], heterarch: Command) -> None:
    words = ("sweep", *plans, "--load", 0.5, "--load", 1, "--seeds", 3, "--requests", 20, "--json")
    one = heterarch(*words, "--jobs", 1, "-o", "one.jsonl").out
    two = heterarch(*words, "--jobs", 2, "-o", "two.jsonl").out
    assert one == two
    first, second = (sorted(Path(name).read_text().splitlines()) for name in ("one.jsonl", "two.jsonl"))
    assert first == second
    assert len(first) == 1 + 2 * 2 * 3


def test_a_table_that_fits(plans: tuple[str, str], heterarch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    routers = ("--router", "least-pending-tokens", "--router", "prefix-affinity")
    out = heterarch("sweep", *plans, *routers, "--load", 1, "--load", 2, "--seeds", 3, *QUICK).out
    assert max(map(len, out.splitlines())) <= 80
    assert not re.search(r"\d[eE][+-]?\d", out)
    for text in (
        "Load 2: ",
        "difference from fast/least-pending-tokens",
        "cheap/prefix-affinity",
        "fewer than 5 seeds",
    ):
        assert text in out
    shown = next(line for line in out[out.index("difference") :].splitlines() if "cheap/least" in line)
    assert re.search(r"\+[\d.]+ ±[\d.]+ ms \*", shown)


def test_files(plans: tuple[str, str], heterarch: Command) -> None:
    words = ("--seeds", 2, "--load", 1, "--load", 2, "--metric", "e2e.p50", "--metric", "cost")
    printed = heterarch("sweep", *plans, *words, *QUICK, "--csv", "s.csv", "--plot", "s.png", "--json")
    assert Path("s.png").read_bytes().startswith(b"\x89PNG")
    with open("s.csv") as stream:
        rows = {(row["plan"], row["load"], row["metric"]): row for row in csv.DictReader(stream)}
    for cell in printed.data["cells"]:
        row = rows[cell["cell"]["plan"], str(cell["cell"]["load"]), "cost"]
        assert float(row["mean"]) == cell["metrics"]["cost"]["mean"]
        assert float(row["high"]) - float(row["mean"]) == pytest.approx(cell["metrics"]["cost"]["half"])
        assert bool(row["difference"]) == (cell["cell"]["plan"] == "cheap")
    out = heterarch("sweep", *plans, *words, *QUICK).out
    assert "e2e.p50" in out
    assert "ttft" not in out.partition("Note:")[0]


def test_a_plot_that_cannot_be_made_is_refused_before_any_run(plans: tuple[str, str], heterarch: Command) -> None:
    for name in ("s.doc", "s"):
        words = (*plans, *QUICK, "-o", "r.jsonl", "--plot", name)
        heterarch("sweep", *words, code=2, says=("no format of a picture", "expected: .png, .svg, .pdf"))
    assert not Path("r.jsonl").exists()


def test_a_sweep_file_and_options_over_it(plans: tuple[str, str], heterarch: Command) -> None:
    Path("sub").mkdir()
    text = "heterarch: sweep\nplans: [../fast.plan.yaml, ../cheap.plan.yaml]\nseeds: 2\nrequests: 20\nbaseline: cheap\n"
    Path("sub/s.yaml").write_text(text)
    jsonschema.validate(YAML(typ="safe").load(text), json.loads(heterarch("schema", "sweep").out))
    report = heterarch("sweep", "--file", "sub/s.yaml", "--jobs", 1, "--json").data
    assert (report["baseline"], report["seeds"], len(report["cells"])) == ("cheap", 2, 2)
    report = heterarch("sweep", "-f", "sub/s.yaml", "--seeds", 3, "--baseline", "fast", "--jobs", 1, "--json").data
    assert (report["baseline"], report["seeds"]) == ("fast", 3)


def test_a_sweep_goes_on(plans: tuple[str, str], heterarch: Command) -> None:
    words = ("sweep", *plans, *QUICK, "-o", "r.jsonl", "--json")
    heterarch(*words, "--seeds", 1)
    text = Path("r.jsonl").read_text()
    Path("r.jsonl").write_text(text[:-9])
    printed = heterarch(*words, "--seeds", 2)
    assert "1 of 4 runs are in r.jsonl" in printed.err
    assert printed.data["cells"] == heterarch("sweep", *plans, *QUICK, "--seeds", 2, "--json").data["cells"]


def test_ctrl_c_loses_only_what_was_under_way(plans: tuple[str, str], heterarch: Command) -> None:
    words = ("sweep", *plans, "--seeds", 40, "--requests", 200, "-o", "r.jsonl")
    with started(*words, "--jobs", 2) as command:
        end_s = time.monotonic() + PATIENCE_S
        while not Path("r.jsonl").exists() or len(Path("r.jsonl").read_text().splitlines()) < 4:
            assert time.monotonic() < end_s, command.shown
            time.sleep(0.02)
        assert command.interrupted(group=True) == 130
        assert "the same command goes on" in command.shown
        assert "runs are missing" in command.shown
    kept = Path("r.jsonl").read_text().splitlines()
    assert 4 <= len(kept) < 81
    report = heterarch(*words[:3], "--seeds", 1, "--requests", 200, "--jobs", 1, "-o", "r.jsonl", "--json").data
    assert [cell["done"] for cell in report["cells"]] == [1, 1]
    assert Path("r.jsonl").read_text().splitlines()[: len(kept)] == kept


# ---------------------------------------------------------------- what a user may get wrong


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), ("the field 'plans' is missing",)),
        (("absent.yaml",), ("absent.yaml: cannot read the file",)),
        (("answer.yaml",), ("answer.yaml:1:1: the file is not a plan",)),
        (("fast.plan.yaml", "fast.plan.yaml"), ("each only once; fast.plan.yaml is there twice",)),
        (("fast.plan.yaml", "same.yaml"), ("two cells of the sweep are the same", "fast and same are equal plans")),
        (("fast.plan.yaml", "--load", "1", "--load", "1.0"), ("1.0 is there twice",)),
        (("fast.plan.yaml", "--load", "0"), ("the field 'loads.0' is wrong",)),
        (("fast.plan.yaml", "--router", "random"), ("unknown router 'random'", "one of ")),
        (("fast.plan.yaml", "--metric", "ttft.p42"), ("unknown metric 'ttft.p42'", "did you mean ttft.p")),
        (("fast.plan.yaml", "--baseline", "slow"), ("unknown baseline 'slow'", "one of fast")),
        (("fast.plan.yaml", "--workload", "chatt"), ("unknown workload 'chatt'",)),
        (("fast.plan.yaml", "--seeds", "0"), ("Invalid value for '--seeds'",)),
        (("fast.plan.yaml", "--jobs", "0"), ("Invalid value for '--jobs'",)),
        (("fast.plan.yaml", "-o", "absent/r.jsonl"), ("absent/r.jsonl: cannot write the file",)),
        (("fast.plan.yaml", "-o", "answer.yaml"), ("answer.yaml: the file does not hold the results of a sweep",)),
    ],
)
def test_wrong_words(words: tuple[str, ...], says: tuple[str, ...], plans: tuple[str, str], heterarch: Command) -> None:
    Path("same.yaml").write_bytes(Path(plans[0]).read_bytes())
    heterarch("sweep", *words, code=2, says=says)


def test_the_results_of_another_sweep(plans: tuple[str, str], heterarch: Command) -> None:
    heterarch("sweep", plans[0], *QUICK, "--seeds", 1, "-o", "r.jsonl")
    before = Path("r.jsonl").read_bytes()
    words = ("sweep", plans[0], "--requests", 30, "--workload", "rag", "-o", "r.jsonl")
    heterarch(*words, code=2, says=("another sweep", "observed: workload chat", "requests 20", "requests 30"))
    assert Path("r.jsonl").read_bytes() == before


def test_a_run_that_fails_is_exit_code_1(plans: tuple[str, str], heterarch: Command) -> None:
    read = load_plan(plans[1])
    nowhere = [pool.model_copy(update={"kv_tokens": -1, "engines": 0}) for pool in read.pools]
    save_plan(read.model_copy(update={"pools": nowhere}), plans[1])
    printed = heterarch("sweep", *plans, *QUICK, "--seeds", 2, code=1)
    assert "2 runs failed: " in printed.out
