"""Collectives: what crosses a link, what an engine chooses, what experts exchange, and how well a fit predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.fitting.fit import Measurements, Table, fit_family, shared_basis
from heterarch.cost.kernels.base import Family
from heterarch.cost.kernels.collective import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    COLLECTIVES,
    REDUCE_SCATTER,
    SEND_RECV,
    STEPS_PER_S,
    expert_exchange,
)

MIB = 2**20


@pytest.mark.parametrize(
    ("family", "share", "steps"),
    [
        (ALL_REDUCE, 1.75, 14),
        (ALL_GATHER, 0.875, 7),
        (REDUCE_SCATTER, 0.875, 7),
        (ALL_TO_ALL, 0.875, 7),
        (SEND_RECV, 1, 0),
    ],
)
def test_what_crosses_the_link_of_one_of_eight_devices(family: Family, share: float, steps: int) -> None:
    work = family.work({"message_bytes": [MIB, 2 * MIB], "devices": 8}, "bf16")
    assert work.bytes.tolist() == [share * MIB, 2 * share * MIB]
    assert work.flops.tolist() == [steps, steps]


def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather() -> None:
    shapes = {"message_bytes": MIB, "devices": [2, 4, 8, 72]}
    parts = [family.work(shapes, "bf16").bytes for family in (REDUCE_SCATTER, ALL_GATHER)]
    assert np.allclose(sum(parts), ALL_REDUCE.work(shapes, "bf16").bytes)


def exchange(**options: object) -> list[tuple[str, float, int]]:
    parts = expert_exchange(1024, 4096, topk=8, **options)  # type: ignore[arg-type]
    return [(part.family, float(part.message_bytes[0]), part.devices) for part in parts]


def test_experts_on_one_device_exchange_nothing() -> None:
    assert exchange() == []


@pytest.mark.parametrize("ep", [1, 8])
def test_tensor_parallel_attention_reduces_once(ep: int) -> None:
    assert exchange(tp=8, ep=ep) == [("all_reduce", 1024 * 4096 * 2, 8)]


def test_data_parallel_attention_dispatches_and_combines() -> None:
    copies = 8 * (1 - (7 / 8) ** 8)  # devices that a token goes to
    own = 1024 / 8 * 4096 * copies
    assert exchange(attention_dp=8, ep=8, dispatch_bytes=1.0) == [
        ("all_to_all", pytest.approx(own), 8),
        ("all_to_all", pytest.approx(2 * own), 8),
    ]


def test_a_token_of_one_expert_is_sent_once() -> None:
    parts = expert_exchange(64, 2, topk=1, attention_dp=4, ep=4)
    assert [float(part.message_bytes[0]) for part in parts] == pytest.approx([64 / 4 * 2 * 2] * 2)


def test_without_all_to_all_everything_is_gathered() -> None:
    whole = 1024 * 4096 * 2
    assert exchange(attention_dp=8, ep=8, all_to_all=False) == [("all_gather", whole, 8), ("reduce_scatter", whole, 8)]
    assert exchange(tp=2, attention_dp=4, ep=1) == [
        ("all_gather", whole, 4),
        ("reduce_scatter", whole, 8),
        ("all_gather", whole / 4, 2),
    ]


@pytest.mark.parametrize("family", COLLECTIVES[:4], ids=lambda family: str(family.name))
def test_sizes_that_were_held_out(family: Family, shared_data: Path, catalog: Catalog) -> None:
    rows = pq.read_table(shared_data / "measured" / "op_collective.parquet")
    own = (("hardware", "h100_sxm"), ("op_name", family.name.replace("all_to_all", "alltoall")), ("library", "nccl"))
    for column, value in own:
        rows = rows.filter(pc.equal(rows[column], value))
    sizes = rows["message_bytes"].to_numpy()
    shapes = {"message_bytes": sizes, "devices": rows["num_gpus"].to_numpy()}
    data = Measurements(shapes, rows["latency_ms"].to_numpy() * 1e-3, list(sizes))
    rate = catalog.device("h100-sxm").scaleup_bytes_per_s or 0.0
    basis = shared_basis(family, [Table("bf16", data, STEPS_PER_S, rate)])
    fit = fit_family(
        family, "bf16", data, device="h100-sxm", engine="nccl", engine_version="", peak=STEPS_PER_S, bandwidth=rate,
        basis=basis,
    )  # fmt: skip
    assert len(fit.weights) <= 60
    assert fit.held_out.mean < 0.12
