"""The fleet of this machine: its CPU and memory, and the accelerators that its drivers report."""

from __future__ import annotations

import dataclasses
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

from heterarch.catalog.accelerators import Gpu, read_accelerators
from heterarch.catalog.fleet import Fleet, FleetDevice
from heterarch.documents import write_text, yaml_text
from heterarch.units import GB


@dataclass(frozen=True)
class Machine:
    """What was found: CPU, memory, accelerators, and what could not be read.

    ``copy_bytes_per_s``, ``fp32_flops``: measured memory traffic of a copy and FLOP/s of a matrix product, None when
    not measured.
    """

    cpu: str
    cores: int
    threads: int
    mem_bytes: int
    gpus: tuple[Gpu, ...]
    copy_bytes_per_s: float | None = None
    fp32_flops: float | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    def fleet(self, overlay: str = "") -> Fleet:
        """The fleet of everything here, owned; ``overlay``: path of the file with :meth:`overlay_text`.

        Accelerators that the catalogue does not know are left out of it and named in its note.
        """
        counts = Counter(gpu.device_id for gpu in self.gpus if gpu.device_id)
        unknown = sorted({gpu.name for gpu in self.gpus if not gpu.device_id})
        found = [(device, count) for device, count in sorted(counts.items()) if device]
        devices = [
            FleetDevice(device=device, limit=count, owned=count, server=f"this-{device}") for device, count in found
        ]
        devices.append(FleetDevice(device="cpu-local", limit=1, owned=1, server="this-cpu-local"))
        note = f"unknown, complete it in the overlay: {', '.join(unknown)}" if unknown else ""
        overlays = [overlay] if overlay else []
        return Fleet(name="this-machine", site="home", accounting="sunk", catalog=overlays, devices=devices, note=note)

    def overlay(self) -> dict[str, object]:
        """Catalogue rows: this CPU, the servers around the devices, and what is known of unknown accelerators."""
        counts = Counter(gpu.device_id for gpu in self.gpus if gpu.device_id)
        unknown = {_slug(gpu.name): gpu for gpu in self.gpus if not gpu.device_id}
        devices = [self._cpu_row(), *(_unknown_row(key, gpu) for key, gpu in unknown.items())]
        servers = [self._server(device, count) for device, count in sorted(counts.items()) if device]
        return {"devices": devices, "servers": [*servers, self._server("cpu-local", 1)]}

    def overlay_text(self) -> str:
        """:meth:`overlay` as YAML."""
        return yaml_text(self.overlay())

    def write(self, path: Path | str) -> list[Path]:
        """Write the fleet to ``path`` and its overlay beside it (``x.catalog.yaml`` for ``x.yaml``); both paths."""
        target = Path(path)
        beside = target.with_name(f"{target.stem}.catalog.yaml")
        write_text(beside, self.overlay_text())
        write_text(target, fleet_text(self.fleet(beside.name)))
        return [target, beside]

    def _cpu_row(self) -> dict[str, object]:
        row: dict[str, object] = {
            "id": "cpu-local",
            "name": self.cpu,
            "mem_gb": round(self.mem_bytes / GB, 3),
            "src_memory": "measured: as the operating system reports it",
        }
        if self.copy_bytes_per_s:
            row["mem_bw_gbs"] = round(self.copy_bytes_per_s / GB, 2)
            row["src_memory"] = "measured: size from the operating system, rate of a numpy copy on this machine"
        if self.fp32_flops:
            row["fp32_tflops"] = round(self.fp32_flops / 1e12, 5)
            row["src_compute"] = "measured: numpy fp32 matrix product on this machine"
        return row

    def _server(self, device: str, count: int) -> dict[str, object]:
        return {
            "id": f"this-{device}",
            "device": device,
            "devices": count,
            "host_vcpus": self.threads,
            "host_mem_bytes": self.mem_bytes,
            "sources": {"*": "measured: as the operating system reports it"},
        }


def detect(measure: bool = True) -> Machine:
    """Look at this machine; ``measure`` spends about half a second on memory and compute rates of the CPU."""
    gpus, notes = read_accelerators()
    copy, flops = _measure() if measure else (None, None)
    return Machine(
        cpu=_cpu_name(),
        cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        threads=psutil.cpu_count() or 1,
        mem_bytes=psutil.virtual_memory().total,
        gpus=gpus,
        copy_bytes_per_s=copy,
        fp32_flops=flops,
        notes=notes,
    )


def detect_fleet(measure: bool = True) -> str:
    """The fleet of this machine as YAML; its overlay is :meth:`Machine.overlay_text`."""
    return fleet_text(detect(measure).fleet())


def fleet_text(fleet: Fleet) -> str:
    """A fleet as YAML, without fields that hold their default."""
    return yaml_text(fleet.model_dump(mode="json", exclude_defaults=True))


def _unknown_row(key: str, gpu: Gpu) -> dict[str, object]:
    row: dict[str, object] = {
        "id": key,
        "vendor": gpu.vendor,
        "name": gpu.name,
        "class": "unknown",
        "note": "detected; not in the catalogue: add mem_bw_gbs and peaks from its data sheet, with sources",
    }
    if gpu.mem_bytes:
        row |= {"mem_gb": round(gpu.mem_bytes / GB, 3), "src_memory": "measured: as its driver reports it"}
    if gpu.power_w:
        row |= {"tdp_w": gpu.power_w, "src_power": "measured: power limit that its driver reports"}
    return row


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if re.match(r"(model name|Model|Hardware)\s*:", line))
    return next((name for name in named if name), "CPU")


def _measure(repeats: int = 3) -> tuple[float, float]:
    """Bytes/s read and written by a copy of 64 MB, and FLOP/s of a 1024-square fp32 product; the best of a few."""
    import numpy as np

    source = np.ones(16_000_000, dtype=np.float32)
    target = np.empty_like(source)
    square = np.ones((1024, 1024), dtype=np.float32)
    copies, products = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        np.copyto(target, source)
        middle = time.perf_counter()
        square @ square
        copies.append(middle - start)
        products.append(time.perf_counter() - middle)
    return 2 * source.nbytes / min(copies), 2 * 1024**3 / min(products)
