"""Detection, with drivers played by small programs on PATH."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from heterarch.catalog import Catalog, load_fleet
from heterarch.catalog.accelerators import match_device, read_nvidia_smi, read_rocm_smi
from heterarch.catalog.detect import Machine, detect, detect_fleet
from heterarch.catalog.doctor import doctor
from heterarch.errors import InputError
from heterarch.units import Grade

NVIDIA = """\
0, NVIDIA H100 80GB HBM3, 81559, 700.00
1, NVIDIA H100 80GB HBM3, 81559, 700.00
2, NVIDIA L4, 23034, 72.00
3, NVIDIA Titan Z9, 30000, [N/A]
"""
ROCM = """\
WARNING: AMD GPU device(s) is/are in a low-power state.
{"card0": {"VRAM Total Memory (B)": "206141652992", "VRAM Total Used Memory (B)": "297000000",
  "Max Graphics Package Power (W)": "750.0", "Card Series": "AMD Instinct MI300X OAM", "Card Model": "0x74a1"},
 "card1": {"VRAM Total Memory (B)": "17163091968", "Max Graphics Package Power (W)": "N/A",
  "Card Series": "AMD Radeon RX 6800", "Card Model": "0x73bf"},
 "system": {"Driver version": "6.10.5"}}
"""


def _install(folder: Path, name: str, output: str = "", code: int = 0, stderr: str = "") -> None:
    (folder / f"{name}.out").write_text(output)
    (folder / f"{name}.err").write_text(stderr)
    program = folder / name
    program.write_text(
        f'#!/bin/sh\necho "$@" > {folder / name}.args\ncat {folder / name}.out\ncat {folder / name}.err >&2\nexit {code}\n'
    )
    program.chmod(0o755)


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


@pytest.mark.parametrize(
    ("name", "mebibytes", "device"),
    [
        ("NVIDIA H100 80GB HBM3", 81559, "h100-sxm"),
        ("NVIDIA H100 PCIe", 81559, "h100-pcie"),
        ("NVIDIA H100 NVL", 95830, "h100-nvl"),
        ("NVIDIA H200", 143771, "h200-sxm"),
        ("NVIDIA B200", 183359, "b200"),
        ("NVIDIA GB200", 189471, "gb200-nvl72"),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-80-sxm"),
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40-sxm"),
        ("NVIDIA A100 80GB PCIe", 81920, "a100-80-pcie"),
        ("NVIDIA A100-PCIE-40GB", 40960, "a100-40-pcie"),
        ("NVIDIA L40S", 46068, "l40s"),
        ("NVIDIA A10", 23028, "a10"),
        ("Tesla T4", 15360, "t4"),
        ("NVIDIA GeForce RTX 4090", 24564, "rtx4090"),
        ("AMD Instinct MI300X OAM", 196592, "mi300x"),
        ("NVIDIA A10G", 23028, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, None),
        ("NVIDIA H100 80GB HBM3", 9984, None),  # a slice of one
        ("NVIDIA H20", 97871, None),
    ],
)
def test_drivers_names_are_matched_whole(catalog: Catalog, name: str, mebibytes: int, device: str | None) -> None:
    assert match_device(name, mebibytes * 2**20, catalog) == device


def test_outputs_are_read(catalog: Catalog) -> None:
    nvidia = read_nvidia_smi(NVIDIA, catalog)
    assert [gpu.device_id for gpu in nvidia] == ["h100-sxm", "h100-sxm", "l4", None]
    assert nvidia[0].mem_bytes == 81559 * 2**20
    assert (nvidia[0].power_w, nvidia[3].power_w) == (700.0, None)
    amd = read_rocm_smi(ROCM, catalog)
    assert [(gpu.index, gpu.device_id, gpu.power_w) for gpu in amd] == [("0", "mi300x", 750.0), ("1", None, None)]
    assert read_rocm_smi("", catalog) == []
    with pytest.raises(ValueError, match="expected index"):
        read_nvidia_smi("No devices were found\n", catalog)
    with pytest.raises(ValueError, match="Expecting"):
        read_rocm_smi("{ not json", catalog)


def test_a_machine_with_accelerators_becomes_a_fleet(path_folder: Path, tmp_path: Path) -> None:
    _install(path_folder, "nvidia-smi", NVIDIA)
    _install(path_folder, "rocm-smi", ROCM)
    machine = detect(measure=False)
    assert machine.notes == ()
    assert "--query-gpu=index,name,memory.total,power.limit" in (path_folder / "nvidia-smi.args").read_text()
    assert json.loads(json.dumps(machine.as_dict()))["gpus"][0]["device_id"] == "h100-sxm"

    written, overlay = machine.write(tmp_path / "fleet.yaml")
    read = load_fleet(written)
    assert {entry.device: entry.owned for entry in read.devices} == {
        "cpu-local": 1,
        "h100-sxm": 2,
        "l4": 1,
        "mi300x": 1,
    }
    assert "NVIDIA Titan Z9" in read.note
    assert overlay.name == "fleet.catalog.yaml"
    mine = read.load_catalog()
    assert mine.server("this-h100-sxm").devices == 2
    titan = mine.device("nvidia-titan-z9")
    assert titan.mem_bytes == round(30000 * 2**20 / 1e6) * 10**6
    assert titan.source("mem_bytes").grade == Grade.MEASURED
    assert "add mem_bw_gbs" in titan.note


def test_a_device_of_which_too_little_is_known_joins_no_fleet(path_folder: Path, tmp_path: Path) -> None:
    _install(path_folder, "nvidia-smi", NVIDIA)
    written, _ = detect(measure=False).write(tmp_path / "fleet.yaml")
    written.write_text(written.read_text().replace("devices:\n", "devices:\n  - device: nvidia-titan-z9\n"))
    with pytest.raises(InputError, match="too little is known of nvidia-titan-z9") as caught:
        load_fleet(written)
    assert str(caught.value.where).startswith(f"{written}:")


@pytest.mark.parametrize(
    ("output", "code", "stderr", "said"),
    [
        (
            "",
            9,
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
            "couldn't communicate",
        ),
        ("", 3, "", "exit code 3"),
        ("garbage\n", 0, "", "cannot be read"),
    ],
)
def test_a_driver_that_fails_is_a_note(path_folder: Path, output: str, code: int, stderr: str, said: str) -> None:
    _install(path_folder, "nvidia-smi", output, code, stderr)
    machine = detect(measure=False)
    assert machine.gpus == ()
    assert said in machine.notes[0]
    check = next(check for check in doctor() if check.name == "accelerators")
    assert not check.ok
    assert check.fix


def test_this_machine(path_folder: Path, tmp_path: Path) -> None:
    machine = detect()
    assert machine.cores >= 1
    assert machine.threads >= machine.cores
    assert machine.mem_bytes > 10**9
    assert machine.cpu
    cpu = load_fleet(machine.write(tmp_path / "here.yaml")[0]).load_catalog().device("cpu-local")
    assert cpu.source("mem_bytes_per_s").grade == cpu.source("fp32").grade == Grade.MEASURED
    assert cpu.peak("bf16") == cpu.peak("fp32") > 1e9
    assert cpu.name == machine.cpu
    assert "device: cpu-local" in detect_fleet(measure=False)


def test_a_machine_that_was_not_measured_keeps_the_templates_rates() -> None:
    text = Machine("A CPU", 4, 8, 16 * 10**9, ()).overlay_text()
    assert "mem_bw_gbs" not in text
    assert "mem_gb: 16" in text
