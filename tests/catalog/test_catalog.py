"""The catalogue and its overlays: what a user lays over it, and every way a row can be wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from heterarch.catalog import Catalog, load_fleet
from heterarch.catalog.catalog import PACKAGED, RowKind
from heterarch.errors import InputError, UnknownNameError
from heterarch.units import Grade

#: squared ReLU has two matrices, and the shared expert is two experts wide
CORRECTED = {"NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": {"ffn_matrices": 2, "shared_experts": 2}}
DEVICE = "id,vendor,name,class,year,bf16_tflops,mem_gb,mem_bw_gbs,tdp_w,src_compute,src_memory,src_power\n"


def _load(tmp_path: Path, text: str, name: str = "mine.csv") -> Catalog:
    path = tmp_path / name
    path.write_text(text)
    return Catalog.load(path)


def _refused(tmp_path: Path, text: str, name: str = "mine.csv") -> InputError:
    with pytest.raises(InputError) as caught:
        _load(tmp_path, text, name)
    return caught.value


def test_the_package_holds_what_the_page_says(catalog: Catalog) -> None:
    assert len(catalog.devices) == 54
    assert len(catalog.models) == 69
    assert len(catalog.quotes) == 83
    assert {"cpu-vcpu", "cpu-local"} <= set(catalog.devices)


def test_the_packaged_facts_are_those_of_the_collected_data(catalog: Catalog, shared_data: Path) -> None:
    collected = shared_data / "catalog"
    laid_over = Catalog.load(collected / "models.csv").models
    assert len(laid_over) == len(catalog.models)
    for key, model in laid_over.items():
        known = catalog.models[key]
        # notes say more in the package
        kept = {"note": known.note} | CORRECTED.get(key, {})
        assert replace(model, **kept) == known, key
    hourly = {(q.device_id, q.provider, q.kind, q.usd) for q in catalog.quotes if q.kind != "purchase"}
    lines = (collected / "prices.csv").read_text().splitlines()[1:]
    assert hourly == {(d, p, k, float(usd)) for d, p, k, usd, *_ in (line.split(",") for line in lines)}


def test_names_are_found_in_any_case_and_near_ones_are_told(catalog: Catalog) -> None:
    assert catalog.model("meta-llama-3.1-70b") is catalog.model("Meta-Llama-3.1-70B")
    with pytest.raises(UnknownNameError) as caught:
        catalog.device("h100")
    assert set(caught.value.near) >= {"h100-sxm", "h100-pcie", "h100-nvl"}
    for find in (catalog.device, catalog.model, catalog.server, catalog.link, catalog.site):
        with pytest.raises(UnknownNameError, match="'nothing'"):
            find("nothing")


def test_an_overlay_adds_a_device(tmp_path: Path) -> None:
    row = "npu9,acme,NPU 9,accelerator,2026,100,32,1000,75,vendor: sheet v2,DS,measured: our meter\n"
    npu = _load(tmp_path, DEVICE + row).device("npu9")
    assert (npu.peak("fp8"), npu.mem_bytes, npu.tdp_w) == (1e14, 32 * 10**9, 75)
    assert [npu.source(f).grade for f in ("bf16", "mem_bytes", "tdp_w")] == [
        Grade.VENDOR,
        Grade.RECALLED,
        Grade.MEASURED,
    ]


def test_an_overlay_replaces_only_the_cells_it_fills(catalog: Catalog, tmp_path: Path) -> None:
    changed = _load(tmp_path, "id,idle_w,src_power\nh100-sxm,70,measured: our meter\n").device("h100-sxm")
    before = catalog.device("h100-sxm")
    assert changed.idle_w == 70
    assert str(changed.source("idle_w")) == "measured: our meter"
    assert (changed.tdp_w, changed.source("tdp_w")) == (before.tdp_w, before.source("tdp_w"))
    assert changed.peaks == before.peaks


def test_a_yaml_overlay_holds_several_tables(tmp_path: Path) -> None:
    text = """
sources:
  - {code: METER, grade: measured, citation: our meter, date: 2026-10-01}
devices:
  - {id: t4, idle_w: 9, src_power: METER}
prices:
  - {device_id: t4, provider: us, kind: on-demand, usd_per_device_hour: 0.2, date: 2026-10, source: our contract}
servers:
  - {id: box, device: t4, devices: 2, host_link: pcie3-x16, sources: {"*": "measured: counted"}}
sites:
  - {id: us-average, usd_per_kwh: 0.05, sources: {usd_per_kwh: "declared: our contract"}}
links:
  - {id: string, bytes_per_s: 10, latency_s: 1, sources: {"*": "guess: two cans"}}
"""
    mine = _load(tmp_path, text, "mine.yaml")
    assert str(mine.device("t4").source("idle_w")) == "measured: our meter, 2026-10-01"
    assert mine.quotes_for("t4")[0].usd == 0.2
    assert [server.id for server in mine.servers_of("t4")] == ["box"]
    site = mine.site("us-average")
    assert (site.usd_per_kwh, site.pue) == (0.05, 1.25)
    assert site.source("usd_per_kwh").grade == Grade.DECLARED
    assert site.source("pue").grade == Grade.GUESS
    assert mine.link("string").latency_s == 1


def test_a_folder_is_read_in_order_sources_first(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,idle_w,src_power\nt4,9,METER\n")
    (tmp_path / "b.csv").write_text("id,idle_w,src_power\nt4,8,METER\n")
    (tmp_path / "sources.csv").write_text("code,grade,citation\nMETER,measured,our meter\n")
    (tmp_path / "notes.txt").write_text("not a table")
    assert Catalog.load(tmp_path).device("t4").idle_w == 8


def test_a_number_without_a_source_is_refused_with_file_and_line(tmp_path: Path) -> None:
    error = _refused(tmp_path, DEVICE + "\nnpu9,acme,NPU 9,accelerator,2026,100,32,1000,75,DS,DS,\n")
    assert str(error.where) == f"{tmp_path / 'mine.csv'}:3"
    assert "'tdp_w' has no source" in str(error)
    assert "src_power" in str(error)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("id,mem_gbs,src_memory\nt4,1,DS\n", 1, "unknown column 'mem_gbs'"),
        ("id,idle_w,src_power\nt4,9,DSS\n", 2, "unknown source code 'DSS'"),
        ("id,idle_w,src_power\nt4,nine,DS\n", 2, "'idle_w' is wrong"),
        ("id,idle_w,src_power\nt4,nan,DS\n", 2, "'idle_w' is wrong"),
        ("id,idle_w,src_power\nt4,inf,DS\n", 2, "'idle_w' is wrong"),
        ("id,idle_w,src_power\nt4,-1,DS\n", 2, "'idle_w' is wrong"),
        ("id,idle_w,src_power\n,9,DS\n", 2, "'id' must not be empty"),
        ("id,idle_w,src_power\nt4,9,DS,1\n", 2, "more cells than the header"),
        ("id,idle_w,idle_w\nt4,9,9\n", 1, "named twice"),
        ("a,b\n1,2\n", 1, "cannot tell which table"),
        ("id,year,idle_w,src_power\nt5,2026,9,DS\n", 2, "'vendor' must not be empty"),
        ("code,grade,citation\nX,certain,us\n", 2, "unknown grade 'certain'"),
        ("code,grade,citation\nX,measured,\n", 2, "'citation' must not be empty"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    error = _refused(tmp_path, text)
    assert said in str(error)
    assert str(error.where) == f"{tmp_path / 'mine.csv'}:{line}"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("device: []\n", 1, "unknown table 'device'"),
        ("devices: 3\n", 1, "must be a list of rows"),
        ("devices:\n  - {id: t4, idel_w: 3}\n", 2, "unknown column 'idel_w'"),
        ("links:\n  - {id: x, bytes_per_s: 1, latency_s: 1}\n", 2, "without a source"),
        ("links:\n  - {id: x, bytes_per_s: 0, latency_s: 1, sources: {'*': 'guess: x'}}\n", 2, "greater than 0"),
        ("links:\n  - {id: x, bytes: 1, latency_s: 1}\n", 2, "unknown field 'bytes'"),
        ("links:\n  - {id: x, bytes_per_s: 1, latency_s: 1, sources: {'*': perhaps}}\n", 2, "grade: citation"),
        ("sites:\n  - {id: x, usd_per_kwh: 1, sources: {'*': 'guess: x', pu: 'guess: x'}}\n", 2, "does not have"),
        ("sites:\n  - {id: us-average, usd_per_kwh: 1}\n", 2, "no source"),
        ("servers:\n  - {id: x, device: t44, devices: 1, sources: {'*': 'guess: x'}}\n", 2, "unknown device 't44'"),
        ("servers:\n  - {id: x, device: t4, devices: 1, nic: rope, sources: {'*': 'guess: x'}}\n", 2, "link 'rope'"),
        ("- 1\n", 0, "must map table names"),
    ],
)
def test_a_wrong_yaml_overlay_is_refused_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    error = _refused(tmp_path, text, "mine.yaml")
    assert said in str(error)
    assert str(error.where).startswith(f"{tmp_path / 'mine.yaml'}" + (f":{line}" if line else ""))


def test_the_nearest_columns_are_told(tmp_path: Path) -> None:
    assert "mem_gb" in str(_refused(tmp_path, "id,mem_gbs,src_memory\nt4,1,DS\n"))


def test_the_examples_of_the_page_load(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "catalog.md").read_text()
    blocks = re.findall(r"```(csv|yaml)\n(.*?)```", page, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["csv", "yaml", "yaml"]
    for i, (kind, text) in enumerate(blocks[:2]):
        (tmp_path / f"{i}.{kind}").write_text(text)
    mine = Catalog.load(tmp_path)
    assert mine.quotes_for("npu9")[0].usd == 0.2
    (tmp_path / "fleet.yaml").write_text(blocks[2][1])
    assert load_fleet(tmp_path / "fleet.yaml", mine).device("h100-sxm").owned == 8


def test_an_overlay_that_is_no_table(tmp_path: Path) -> None:
    assert "CSV or YAML" in str(_refused(tmp_path, "x", "mine.txt"))
    assert "the table is empty" in str(_refused(tmp_path, "", "mine.csv"))
    with pytest.raises(InputError, match="cannot read the file"):
        Catalog.load(tmp_path / "absent.csv")


def test_placeholders_are_guesses_and_remarks_are_kept(tmp_path: Path) -> None:
    text = "id,idle_w,wall_kw_per_device,src_power\nt4,9,1,DS placeholder = half of A10;wall DS (as (a10)\n"
    t4 = _load(tmp_path, text).device("t4")
    assert t4.source("idle_w").grade == Grade.GUESS
    assert "half of A10" in t4.source("idle_w").citation
    assert t4.source("wall_w").grade == Grade.RECALLED


def test_every_citation_is_more_than_a_code(catalog: Catalog) -> None:
    for device in catalog.devices.values():
        assert all(len(source.citation) > 12 for source in device.sources.values())
    assert "sources.csv" in PACKAGED


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("device", "h100-sxm"),
        ("model", "Qwen3-8B"),
        ("server", "hgx-h100-8"),
        ("link", "ib-400"),
        ("site", "germany"),
        ("quotes", "h100-sxm"),
    ],
)
def test_a_row_has_a_hash_that_is_stable(catalog: Catalog, kind: RowKind, row: str) -> None:
    digest = catalog.row_sha256(kind, row)
    assert len(digest) == 64
    assert digest == Catalog.load().row_sha256(kind, row)


def test_the_hash_follows_values_and_sources(catalog: Catalog, tmp_path: Path) -> None:
    before = catalog.row_sha256("device", "a100-80-sxm")
    value = _load(tmp_path, "id,idle_w,src_power\na100-80-sxm,64,SPL\n")
    source = _load(tmp_path, "id,idle_w,src_power\na100-80-sxm,63,measured: us\n")
    assert len({before, value.row_sha256("device", "a100-80-sxm"), source.row_sha256("device", "a100-80-sxm")}) == 3
    assert value.row_sha256("device", "t4") == catalog.row_sha256("device", "t4")
    with pytest.raises(UnknownNameError):
        catalog.row_sha256("quotes", "nothing")
