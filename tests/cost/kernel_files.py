"""Files of measured kernels as an ideal device would give them, for tests to spoil."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from heterarch.catalog.device import Device
from heterarch.cost.kernels.base import Law
from heterarch.cost.kernels.gemm import GEMM

LAW = Law(compute=0.6, memory=0.8, overhead_s=4e-6, sharpness=3.0)
SIZES = (1, 16, 256, 2048, 8192)
Row = dict[str, object]


def gemm_rows(device: Device, law: Law = LAW, ms: int = 1) -> list[Row]:
    """GEMMs of every combination of SIZES: their times follow ``law``, with a little noise; ``ms`` variants of m each."""
    m, n, k = np.array(
        [(m + extra, n, k) for m, n, k in itertools.product(SIZES, SIZES[2:], SIZES[2:]) for extra in range(ms)]
    ).T
    work = GEMM.work({"m": m, "n": n, "k": k}, "bf16")
    seconds = law.seconds(work, device.peak("bf16"), device.mem_bytes_per_s)
    noise = np.exp(np.random.default_rng(7).normal(0, 0.01, len(seconds)))
    return [
        {"hardware": device.id, "framework": "VLLM", "version": "1.0", "dtype": "bfloat16", "m": a, "n": b, "k": c,
         "latency_ms": round(t * 1e3, 9)}
        for a, b, c, t in zip(m.tolist(), n.tolist(), k.tolist(), (seconds * noise).tolist(), strict=True)
    ]  # fmt: skip


def write(path: Path, rows: list[Row], spoil: Callable[[int, Row], Mapping[str, object]] | None = None) -> Path:
    """The rows as CSV, each with the cells that ``spoil`` gives for it."""
    spoilt = [row | dict(spoil(number, row) if spoil else {}) for number, row in enumerate(rows)]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(spoilt[0]))
        writer.writeheader()
        writer.writerows(spoilt)
    return path
