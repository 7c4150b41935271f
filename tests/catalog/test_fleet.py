"""Fleets: the packaged ones, a user's own, and every name checked with its line."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from heterarch.catalog import FLEETS, Catalog, Fleet, fleet, load_fleet
from heterarch.documents import load_yaml, schema_json
from heterarch.errors import InputError, UnknownNameError
from heterarch.units import Grade

ENDPOINT = """
name: mine
site: germany
endpoints:
  - name: api
    provider: groq
    api_model: openai/gpt-oss-120b
    serves: gpt-oss-120b
    ttft_p50_s: 0.3
    ttft_p95_s: 1
    tpot_p50_s: 0.002
    price_date: 2026-11-01
    source: "guess: x"
"""


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    return path


def test_the_mixed_fleet(catalog: Catalog) -> None:
    mixed = fleet("mixed", catalog)
    devices = {entry.device for entry in mixed.devices}
    assert devices == {"h100-sxm", "a100-80-sxm", "b200", "mi300x", "gaudi3", "cpu-vcpu"}
    assert all(entry.source.grade == Grade.GUESS for entry in mixed.endpoints)
    assert mixed.device("b200").limit == 64
    with pytest.raises(UnknownNameError):
        mixed.device("b201")


def test_every_device_of_the_mixed_fleet_has_a_price_to_buy_at(catalog: Catalog) -> None:
    mixed = fleet("mixed", catalog)
    assert mixed.accounting == "owner-annuity"
    assert all(catalog.quotes_for(entry.device, "purchase") for entry in mixed.devices)


def test_the_laptop_fleet_is_owned(catalog: Catalog) -> None:
    laptop = fleet("laptop", catalog)
    assert laptop.accounting == "sunk"
    assert laptop.device("cpu-local").owned == laptop.device("cpu-local").limit == 1


def test_packaged_fleets_and_the_schema_agree() -> None:
    schema = json.loads(schema_json(Fleet))
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in FLEETS.values():
        jsonschema.validate(load_yaml(path)[0], schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "x", "site": "y", "device": []}, schema)


def test_the_published_schema_is_that_of_the_model() -> None:
    published = Path(__file__).parents[2] / "docs" / "fleet.schema.json"
    assert published.read_text() == schema_json(Fleet)


def test_a_users_fleet_with_its_own_overlay(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(
        "id,vendor,name,class,bf16_tflops,mem_bw_gbs,src_compute,src_memory\nnpu9,a,NPU 9,npu,1,1,DS,DS\n"
    )
    path = _write(
        tmp_path, "name: mine\nsite: home\ncatalog: [mine.csv]\ndevices: [{device: npu9, limit: 2, owned: 1}]\n"
    )
    read = fleet(path)
    assert read.load_catalog().device("npu9").peak("bf16") == 1e12
    assert read.catalog == [str(tmp_path / "mine.csv")]


def test_prices_of_endpoints_are_listed_or_the_users(tmp_path: Path, catalog: Catalog) -> None:
    (api,) = load_fleet(_write(tmp_path, ENDPOINT), catalog).endpoints
    listed = api.token_price()
    assert (listed.input_usd_per_mtok, listed.cached_usd_per_mtok, listed.output_usd_per_mtok) == (0.15, 0.075, 0.6)
    assert listed.date == "2026-11-01"
    own = ENDPOINT + (
        "    price: {input_usd_per_mtok: 1, cached_usd_per_mtok: 0.1, output_usd_per_mtok: 2, "
        'date: 2026-10, source: "declared: contract"}\n'
    )
    (api,) = load_fleet(_write(tmp_path, own), catalog).endpoints
    assert (api.token_price().input_usd_per_mtok, api.token_price().source.grade) == (1, Grade.DECLARED)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("name: m\nsite: germny\ndevices: [{device: t4}]\n", 2, "unknown site 'germny'"),
        ("name: m\nsite: germany\ndevices:\n  - {device: t4}\n  - device: h100\n", 5, "unknown device 'h100'"),
        ("name: m\nsite: germany\ndevices:\n  - {device: t4, server: hgx-h100-8}\n", 4, "holds other devices"),
        ("name: m\nsite: germany\ndevices:\n  - {device: t4, server: hgx}\n", 4, "unknown server 'hgx'"),
        ("name: m\nsite: germany\ndevices:\n  - {device: t4, limt: 3}\n", 4, "unknown field 'limt'"),
        ("name: m\nsite: germany\ndevices:\n  - {device: t4, limit: 1, owned: 2}\n", 4, "above limit"),
        ("name: m\nsite: germany\ndevices:\n  - {device: t4, limit: -1}\n", 4, "greater than or equal to 0"),
        ("name: m\nsite: germany\ndevices:\n  - device: t4\n  - device: t4\n", 3, "device listed twice: t4"),
        ("name: m\nsite: germany\ndevices:\n  - device: t4\n    price: {source: 'guess: x'}\n", 5, "a price needs"),
        (
            "name: m\nsite: germany\ndevices:\n  - device: t4\n    price: {usd_per_device_h: 1}\n",
            5,
            "source' is missing",
        ),
        ("name: m\nsite: germany\n", 1, "at least one device or endpoint"),
        ("name: m\nsite: germany\ndevices: [{device: t4}]\nlinks: [{a: t4, b: t4, link: rope}]\n", 4, "'rope'"),
        (ENDPOINT.replace("serves: gpt-oss-120b", "serves: gpt-oss"), 8, "unknown model 'gpt-oss'"),
        (ENDPOINT.replace("provider: groq", "provider: grok"), 7, "unknown API provider 'grok'"),
        (ENDPOINT.replace("openai/gpt-oss-120b", "nonsense"), 7, "unknown model of groq 'nonsense'"),
        (ENDPOINT.replace("ttft_p95_s: 1", "ttft_p95_s: 0.1"), 5, "below ttft_p50_s"),
        (ENDPOINT.replace("2026-11-01", "soon"), 7, "the date is not ISO"),
        (ENDPOINT.replace("guess: x", "perhaps"), 13, "a source is 'grade: citation'"),
    ],
)
def test_a_wrong_fleet_is_refused_with_its_line(
    tmp_path: Path, catalog: Catalog, text: str, line: int, said: str
) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_fleet(path, catalog)
    assert said in str(caught.value)
    assert str(caught.value.where).startswith(f"{path}:{line}:")


def test_an_unknown_name_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError) as caught:
        fleet("mixd")
    assert "mixed" in caught.value.near
    with pytest.raises(InputError, match="cannot read the file"):
        fleet(tmp_path / "absent.yaml")


def test_the_hash_is_that_of_the_content(tmp_path: Path, catalog: Catalog) -> None:
    first = load_fleet(_write(tmp_path, ENDPOINT), catalog)
    assert first.sha256() == load_fleet(_write(tmp_path, "# a comment\n" + ENDPOINT), catalog).sha256()
    assert first.sha256() != load_fleet(_write(tmp_path, ENDPOINT.replace("0.3", "0.4")), catalog).sha256()
