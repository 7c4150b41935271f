"""Every table has JSON beside it that says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from heterarch.cli.app import run
from heterarch.documents import load_yaml

CATALOG = Path(__file__).parents[2] / "src" / "heterarch" / "catalog" / "data"


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(list(arguments)) == 0
    return capsys.readouterr().out


def data(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(output(capsys, *arguments, "--json"))


@pytest.mark.parametrize("table", ["devices", "models", "prices", "servers", "links", "sites"])
def test_catalog(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = data(capsys, "catalog", table)
    text = output(capsys, "catalog", table)
    assert len(rows) > 3
    assert str(rows[0].get("id") or rows[0]["device"])[:12] in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_device_shows_where_each_number_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {row["field"]: row for row in data(capsys, "catalog", "devices", "h100-sxm")["numbers"]}
    assert numbers["bf16"]["value"] == 989e12
    assert numbers["scaleup_bytes_per_s"]["value"] == 450e9
    assert all(row["grade"] and row["source"] for row in numbers.values())


def test_fleet_and_workload(capsys: pytest.CaptureFixture[str]) -> None:
    fleet = data(capsys, "fleet", "show", "mixed")
    assert {"h100-sxm", "a100-80-sxm", "b200", "mi300x", "gaudi3", "cpu-vcpu"} <= {
        d["device"] for d in fleet["devices"]
    }
    assert "mixed" in output(capsys, "fleet", "show")
    assert {w["name"] for w in data(capsys, "workload", "list")} == {"coding-fleet", "chat", "voice", "rag"}
    assert data(capsys, "workload", "show", "chat")["name"] == "chat"
    assert "think time" in output(capsys, "workload", "show", "coding-fleet")


def test_detect_writes_a_fleet_that_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "here.yaml"
    found = data(capsys, "fleet", "detect", "--no-measure", "-o", str(path))
    assert str(path) in found["files"]
    assert data(capsys, "fleet", "show", str(path))["devices"]


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    checks = {check["name"]: check for check in data(capsys, "doctor")}
    assert checks["python"]["ok"]


def test_packaged_documents_follow_the_published_schemas(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(output(capsys, "schema", "fleet"))
    jsonschema.validate(load_yaml(CATALOG / "fleet-mixed.yaml")[0], schema)
    slo = json.loads(output(capsys, "schema", "slo"))
    jsonschema.validate({"heterarch": "slo", "slo": ["e2e.p95<=30s"]}, slo)
    for name in ("workload", "plan", "report", "agent"):
        assert json.loads(output(capsys, "schema", name))["type"] == "object"


def test_trace_summary(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = shared_data / "traces" / "mooncake" / "conversation_trace.jsonl.gz"
    assert data(capsys, "workload", "trace", str(trace))["calls"] == 12_031
