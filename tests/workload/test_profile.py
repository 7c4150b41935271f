"""Workload documents: the packaged ones, their schema, and what a wrong one is told."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.documents import load_yaml, schema_json
from heterarch.errors import InputError, UnknownNameError
from heterarch.report.slo import parse_slo
from heterarch.units import Grade, Source
from heterarch.workload.distribution import constant, quantiles
from heterarch.workload.fields import distribution_from, distribution_to
from heterarch.workload.profile import Workload, load_workload, workload_names
from heterarch.workload.trace import read_trace

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DATA = REPOSITORY / "src" / "heterarch" / "workload" / "data"
MINIMAL = """\
name: mine
arrivals: {rate_per_s: 2}
call:
  context_tokens: 500
  tokens_in: {p50: 30, p95: 70, grade: measured, source: "our logs"}
  tokens_out:
    p50: 10
    p95: 20
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def fit_profiles() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fit_profiles", REPOSITORY / "benchmarks" / "fit_profiles.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_standard_workloads_are_there() -> None:
    assert workload_names() == ["chat", "coding-fleet", "rag", "voice"]


@pytest.mark.parametrize("name", ["chat", "coding-fleet", "rag", "voice"])
def test_packaged_workload(name: str) -> None:
    workload = load_workload(name)
    assert workload.name == name
    assert [parse_slo(slo) for slo in workload.slo]
    assert workload.sources
    assert Workload.model_validate(workload.model_dump(mode="json")) == workload
    jsonschema.validate(load_yaml(DATA / f"{name}.yaml")[0], json.loads(schema_json(Workload)))


def test_the_published_schema_is_that_of_the_code() -> None:
    published = (REPOSITORY / "docs" / "workload.schema.json").read_text()
    assert json.loads(published) == json.loads(schema_json(Workload))


def test_the_coding_fleet_is_mostly_reuse() -> None:
    fleet = load_workload("coding-fleet")
    assert fleet.call.tokens_in.quantile(0.5) < 0.05 * fleet.call.context_tokens.quantile(0.5)
    assert fleet.requests_per_s == pytest.approx(0.05 * fleet.requests_per_session.mean)
    assert fleet.tool("shell").quantile(0.5) == pytest.approx(0.928)
    with pytest.raises(UnknownNameError, match="unknown tool of workload coding-fleet 'shel'"):
        fleet.tool("shel")


def test_the_coding_fleet_prefills_as_much_as_recorded(shared_data: Path) -> None:
    trace = read_trace(shared_data / "traces" / "claude_code_weka")
    recorded = (trace.prompt_tokens - trace.shared_blocks.astype(np.int64) * trace.block_tokens).mean()
    fleet, calls = load_workload("coding-fleet"), 24_041 / 1_022  # calls per context
    later = fleet.call.tokens_in.mean + fleet.call.tokens_out.mean
    fresh = (fleet.call.context_tokens.mean + (calls - 1) * later) / calls
    assert fresh == pytest.approx(recorded, rel=0.02)


def test_packaged_figures_are_those_of_the_fit(shared_data: Path) -> None:
    for name, fits in fit_profiles().profiles(shared_data).items():
        document = load_workload(name).model_dump()
        for path, fitted in fits.items():
            found = document
            for key in path.split("."):
                found = found[key]
            assert found == distribution_to(fitted), (name, path)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    workload = load_workload(written(tmp_path, MINIMAL))
    assert workload.call.context_tokens == constant(500)
    assert workload.call.tokens_in == quantiles(p50=30, p95=70, source=Source(Grade.MEASURED, "our logs"))
    assert workload.requests_per_session == constant(1)
    assert workload.at_rate(7).arrivals.rate_per_s == 7
    with pytest.raises(ValueError, match="greater than 0"):
        workload.at_rate(0)


def test_a_trace_is_named_relative_to_the_file(tmp_path: Path) -> None:
    text = MINIMAL.replace("{rate_per_s: 2}", "{process: trace, rate_per_s: 2, trace: t.csv}")
    assert load_workload(written(tmp_path, text)).arrivals.trace == str(tmp_path / "t.csv")


def test_unknown_workload() -> None:
    with pytest.raises(UnknownNameError, match="coding-fleet"):
        load_workload("coding-flet")


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("name: mine", "nam: mine", 1, "unknown field 'nam'"),
        ("tokens_out:", "token_out:", 6, "tokens_out"),
        ("rate_per_s: 2", "rate_per_s: -2", 2, "greater than 0"),
        ("p95: 20", "p95: 5", 6, "must not fall"),
        ("p95: 20", "pp: 20", 8, "a percentage such as p50"),
        ("p95: 20", "p95: many", 8, "a number"),
        ("context_tokens: 500", "context_tokens: -1", 4, "not negative"),
        ("context_tokens: 500", "context_tokens: .nan", 4, "finite"),
        ("context_tokens: 500", "context_tokens: lots", 4, "a number that is not negative"),
        ("context_tokens: 500", "context_tokens: {grade: fitted}", 4, "quantiles such as"),
        ("grade: measured", "grade: sure", 5, "measured"),
        ("p50: 10", "p150: 10", 6, "within 0..1"),
    ],
)
def test_wrong_documents_are_refused_by_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    path = written(tmp_path, MINIMAL.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        load_workload(path)
    assert str(error.value).startswith(f"{path}:{line}:")
    assert said in str(error.value)


@pytest.mark.parametrize("bad", [{"pp": 1}, {"p50": "x"}, {}, {"grade": "fitted", "p50": -1}, "text", -1])
def test_the_schema_refuses_what_the_reader_refuses(bad: object) -> None:
    schema = json.loads(schema_json(Workload))
    document = {
        "name": "x",
        "arrivals": {"rate_per_s": 1},
        "call": {"context_tokens": bad, "tokens_in": 1, "tokens_out": 1},
    }
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)
    document["call"] = {"context_tokens": {"p99.9": 5}, "tokens_in": 1, "tokens_out": 1}
    jsonschema.validate(document, schema)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=6), st.sampled_from(list(Grade)))
def test_a_field_round_trips(values: list[float], grade: Grade) -> None:
    points = dict(zip(np.linspace(0, 1, 1 + len(values)).round(6).tolist(), sorted(values), strict=False))
    distribution = quantiles(points, source=Source(grade, "somewhere"))
    assert distribution_from(distribution_to(distribution)) == distribution


def test_a_path_that_is_not_there_is_told_as_a_file(tmp_path: Path) -> None:
    for name in ("nope.yaml", str(tmp_path / "nope")):
        with pytest.raises(InputError, match="no such file"):
            load_workload(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: mine", "name: mine\nrequests_per_session: 0.5", "at least one request"),
        ("tokens_out:\n    p50: 10\n    p95: 20", "tokens_out: 0", "must generate tokens"),
    ],
)
def test_sessions_have_requests_and_calls_have_answers(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_workload(written(tmp_path, MINIMAL.replace(old, new)))


def test_another_kind_of_document_is_named(tmp_path: Path) -> None:
    plan, agent = "heterarch: plan\nname: x\n", "name: a\nnodes: {}\n"
    for text, kind, command in ((plan, "a plan", "simulate FILE"), (agent, "an agent", "plan FILE")):
        with pytest.raises(InputError, match=f"this is {kind} .*; a workload was expected") as caught:
            load_workload(written(tmp_path, text))
        assert command in str(caught.value)
