"""The accelerators of this machine, as nvidia-smi and rocm-smi report them."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.names import driver_device_id

_MEMORY_TOLERANCE = 0.15  # drivers report HBM up to 7 % above the nominal size, and less with ECC
_QUERY = "index,name,memory.total,power.limit"
_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Gpu:
    """One accelerator as its driver reports it; ``device_id``: its catalogue id, None when unknown."""

    index: str
    vendor: str
    name: str
    mem_bytes: int
    power_w: float | None
    device_id: str | None


def match_device(name: str, mem_bytes: int, catalog: Catalog) -> str | None:
    """The catalogue id of a device by the name that its driver gives, None when unknown or its memory differs."""
    device = catalog.devices.get(driver_device_id(name))
    if device and abs(mem_bytes / device.mem_bytes - 1) <= _MEMORY_TOLERANCE:
        return device.id
    return None


def read_accelerators() -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """The accelerators that the drivers of this machine report, and a note for each driver that fails."""
    gpus: list[Gpu] = []
    notes: list[str] = []
    catalog = Catalog.load()
    for command, read in (
        (["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"], read_nvidia_smi),
        (["rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showmaxpower", "--json"], read_rocm_smi),
    ):
        if not shutil.which(command[0]):
            continue
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
            gpus += read(done.stdout, catalog)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout or "").strip().splitlines()
            notes.append(f"{command[0]} failed: {said[-1] if said else f'exit code {error.returncode}'}")
        except subprocess.TimeoutExpired:
            notes.append(f"{command[0]} gave no answer in {_TIMEOUT_S:g} s")
        except (OSError, ValueError, KeyError) as error:
            notes.append(f"{command[0]} cannot be read: {error}")
    return tuple(gpus), tuple(notes)


def read_nvidia_smi(output: str, catalog: Catalog) -> list[Gpu]:
    """The GPUs of ``nvidia-smi --query-gpu=index,name,memory.total,power.limit --format=csv,noheader,nounits``.

    Raises:
        ValueError: not that form.
    """
    gpus = []
    for cells in csv.reader(output.splitlines(), skipinitialspace=True):
        if not cells:
            continue
        if len(cells) != 4:
            raise ValueError(f"expected {_QUERY}, found {', '.join(cells)[:80]!r}")
        index, name, mebibytes, watts = (cell.strip() for cell in cells)
        size = round((_number(mebibytes) or 0.0) * 2**20)
        gpus.append(Gpu(index, "nvidia", name, size, _number(watts), match_device(name, size, catalog)))
    return gpus


def read_rocm_smi(output: str, catalog: Catalog) -> list[Gpu]:
    """The GPUs of ``rocm-smi --showproductname --showmeminfo vram --showmaxpower --json``.

    Raises:
        ValueError: not that form.
    """
    start = output.find("{")  # warnings may come first
    cards = json.loads(output[start:]) if start >= 0 else {}
    gpus = []
    for card, fields in sorted(cards.items()):
        if not card.startswith("card") or not isinstance(fields, dict):
            continue
        name = _field(fields, "card series") or _field(fields, "card model") or "unknown"
        size = round(_number(_field(fields, "vram total memory (b)")) or 0.0)
        watts = _number(_field(fields, "max graphics package power (w)"))
        gpus.append(Gpu(card.removeprefix("card"), "amd", name, size, watts, match_device(name, size, catalog)))
    return gpus


def _field(fields: Mapping[str, object], name: str) -> str:
    return next((str(value).strip() for key, value in fields.items() if key.strip().lower() == name), "")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
