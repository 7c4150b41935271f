"""Numbers of overlays that look like another convention, and the source that every number needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from heterarch.catalog import Catalog
from heterarch.catalog.tables import DEVICE_NUMBERS, PEAKS
from heterarch.cli.app import run
from heterarch.errors import InputError
from heterarch.units import Grade, Source

HEAD = "id,vendor,name,class,arch,bf16_tflops,fp8_tflops,int8_tops,fp4_tflops,mem_gb,mem_bw_gbs,scaleup_gbs_per_dir,src_compute,src_memory,src_link\n"  # fmt: skip
END = "vendor: sheet,vendor: sheet,vendor: sheet\n"


def _load(tmp_path: Path, rows: str, name: str = "mine.csv") -> Catalog:
    (tmp_path / name).write_text(rows)
    return Catalog.load(tmp_path / name)


def _doubts(tmp_path: Path, row: str) -> dict[str, float]:
    found = _load(tmp_path, HEAD + row + END)
    assert all(str(w.where) == f"{tmp_path / 'mine.csv'}:2" for w in found.warnings)
    return {w.what.split(" of ")[0]: round(w.ratio, 2) for w in found.warnings}


@pytest.mark.parametrize(
    ("row", "doubts"),
    [
        ("h100-sxm,,,,,1979,,,,,,,", {"bf16 peak": 2.0}),
        ("h100-sxm,,,,,1979,3958,3958,,,,,", {"bf16 peak": 2.0, "fp8 peak": 2.0, "int8 peak": 2.0}),
        ("h100-sxm,,,,,,3958,,,,,,", {"fp8 peak": 2.0}),
        ("h100-sxm,,,,,,,,,,,900,", {"scale-up link": 2.0}),
        (
            "new,acme,H9,gpu-dc,hopper,1979,3958,,,80,3350,900,",
            {"bf16 peak": 2.0, "fp8 peak": 2.0, "scale-up link": 2.0},
        ),
        ("new,acme,NVIDIA H100 80GB HBM3,gpu-dc,,1979,,,,80,3350,,", {"bf16 peak": 2.0}),
        ("new,acme,N1,gpu-dc,,100,,400,,80,3350,,", {"int8": 2.0}),
        ("new,acme,N1,gpu-dc,,100,200,,1600,80,3350,,", {"fp4": 2.67}),
    ],
)
def test_sparse_throughput_and_links_counted_both_ways(tmp_path: Path, row: str, doubts: dict[str, float]) -> None:
    assert _doubts(tmp_path, row) == doubts


@pytest.mark.parametrize(
    "row",
    [
        "new,acme,H9,gpu-dc,hopper,989,1979,1979,,80,3350,450,",
        "new,acme,N1,gpu-dc,,100,100,200,,80,3350,450,",
        "new,acme,Card,gpu-consumer,,100,200,400,,24,1000,,",
        "h100-sxm,,,,,800,1600,,,,,400,",  # a user's own measurement
        "rtx4090,,,,,,,,,24,,,",
        "b300,,,,,,,,,,,900,",  # unusual ratios of the catalogue itself are known
    ],
)
def test_plausible_rows_raise_no_doubt(tmp_path: Path, row: str) -> None:
    assert _doubts(tmp_path, row) == {}


def test_a_link_counted_both_ways(tmp_path: Path, catalog: Catalog) -> None:
    text = "links:\n  - {id: nvlink4, bytes_per_s: 900.0e9, latency_s: 2.0e-6, sources: {'*': 'vendor: sheet'}}\n"
    (doubt,) = _load(tmp_path, text, "mine.yaml").warnings
    assert (doubt.observed, doubt.expected, doubt.ratio) == (900e9, 450e9, 2.0)
    assert "mine.yaml:2" in str(doubt)
    assert "per direction" in doubt.fix
    assert catalog.warnings == ()


def test_the_command_shows_them_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _load(tmp_path, HEAD + "h100-sxm,,,,,,,,,,,900," + END)
    assert run(["catalog", "check", str(tmp_path / "mine.csv"), "--json"]) == 1
    assert '"ratio": 2.0' in capsys.readouterr().out
    assert run(["catalog", "check", str(tmp_path / "mine.csv")]) == 1
    assert "450 G" in capsys.readouterr().out
    assert run(["catalog", "devices", "--overlay", str(tmp_path / "mine.csv")]) == 0
    assert "warning" in capsys.readouterr().err
    _load(tmp_path, HEAD + "h100-sxm,,,,,,,,,,,430," + END)
    assert run(["catalog", "check", str(tmp_path / "mine.csv")]) == 0


def _sources(catalog: Catalog) -> Iterator[tuple[str, Source]]:
    for device in catalog.devices.values():
        numbers = [column.name for column in DEVICE_NUMBERS.values() if getattr(device, column.name, None)]
        for name in (*numbers, *(peak for peak in PEAKS if peak in device.peaks)):
            yield f"{device.id} {name}", device.source(name)
    for model in catalog.models.values():
        yield model.id, model.source
        if [part.kind for part in model.attention] != ["full"]:
            assert model.attention_source is not None, model.id
            yield model.id, model.attention_source
    for quote in catalog.quotes:
        yield quote.device_id, quote.source
    for entry in (*catalog.servers.values(), *catalog.links.values(), *catalog.sites.values()):
        for name in type(entry).model_fields:
            if isinstance(getattr(entry, name), int | float) and name in entry.model_fields_set:
                yield f"{entry.id} {name}", entry.source(name)


def test_every_number_of_every_table_has_a_source_and_a_grade(catalog: Catalog) -> None:
    found = list(_sources(catalog))
    assert len(found) > 800
    for what, source in found:
        assert source.grade in list(Grade), what
        assert len(source.citation) > 8, what


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("id,idle_w\nt4,9\n", "m.csv"),
        ("id,window_layers,source\ngpt-oss-20b,3,x: y\n", "m.csv"),
        ("id,layers\nQwen3-8B,3\n", "m.csv"),
        ("device_id,provider,kind,usd_per_device_hour,date\nt4,us,spot,1,2026\n", "m.csv"),
        ("links:\n  - {id: x, bytes_per_s: 1, latency_s: 1}\n", "m.yaml"),
        ("servers:\n  - {id: x, device: t4, devices: 1}\n", "m.yaml"),
        ("sites:\n  - {id: x, usd_per_kwh: 1}\n", "m.yaml"),
    ],
)
def test_a_number_without_a_source_is_refused_in_every_table(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(InputError, match=r"source") as caught:
        _load(tmp_path, text, name)
    assert name in str(caught.value.where)


def test_architectures(catalog: Catalog) -> None:
    arch = {key: catalog.device(key).arch for key in ("h100-sxm", "h200-sxm", "b200", "mi300x", "l40s", "a100-80-sxm")}
    assert arch == {
        "h100-sxm": "hopper", "h200-sxm": "hopper", "b200": "blackwell", "mi300x": "cdna3", "l40s": "ada",
        "a100-80-sxm": "ampere",
    }  # fmt: skip
    assert {d.id for d in catalog.devices.values() if not d.arch} == {"cpu-vcpu", "cpu-local"}
