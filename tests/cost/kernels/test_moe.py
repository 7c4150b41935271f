"""Routed experts: what the most loaded device holds, what it computes, and how well a fit predicts other shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.catalog.catalog import Catalog
from heterarch.cost.fitting.fit import Measurements, Table, fit_family, shared_basis
from heterarch.cost.kernels.moe import AXES, MOE, load

SHAPES: dict[str, Any] = {
    "num_tokens": 64, "hidden_size": 4096, "inter_size": 1536, "topk": 8, "num_experts": 128,
    "moe_tp_size": 1, "moe_ep_size": 1, "skew": 0.0, "matrices": 3.0,
}  # fmt: skip


def loads(tokens: float, topk: float, experts: float, ep: float, skew: float) -> tuple[float, float]:
    held = load(*(np.array([float(value)]) for value in (tokens, topk, experts, ep, skew)))
    return float(held.pairs[0]), float(held.active[0])


def test_one_expert_is_a_dense_gated_ffn() -> None:
    work = MOE.work(SHAPES | {"topk": 1, "num_experts": 1}, "bf16")
    assert work.flops[0] == 6 * 4096 * 1536 * 64
    assert work.bytes[0] > 3 * 4096 * 1536 * 2
    assert work.at.shape == (1, len(AXES))


def test_tensor_parallelism_divides_the_computation() -> None:
    whole, half = (MOE.work(SHAPES | {"moe_tp_size": tp}, "fp8").flops[0] for tp in (1, 2))
    assert whole == 2 * half


def test_plain_experts_have_two_matrices() -> None:
    gated, plain = (MOE.work(SHAPES | {"matrices": matrices}, "bf16").flops[0] for matrices in (3, 2))
    assert plain == pytest.approx(gated * 2 / 3)
    assert gated == MOE.work(SHAPES, "bf16").flops[0]


@pytest.mark.parametrize(
    ("tokens", "ep", "expected"),
    [(1, 1, (8, 8)), (4, 1, (32, 32)), (64, 1, (512, 128)), (64, 8, (64, 16)), (1, 128, (1, 1)), (8192, 128, (512, 1))],
)
def test_equal_loads(tokens: float, ep: float, expected: tuple[float, float]) -> None:
    assert loads(tokens, 8, 128, ep, 0.0) == expected


@given(
    tokens=st.integers(1, 65536),
    topk=st.sampled_from([1, 2, 4, 8, 22]),
    experts=st.sampled_from([32, 128, 512]),
    ep=st.sampled_from([1, 2, 8, 32]),
    skew=st.sampled_from([0.0, 0.6, 1.0, 1.01, 1.2, 2.0]),
)
def test_a_load_is_possible(tokens: int, topk: int, experts: int, ep: int, skew: float) -> None:
    pairs, active = loads(tokens, topk, experts, ep, skew)
    assert tokens * topk / ep <= pairs * (1 + 1e-9) <= tokens * topk * (1 + 2e-9)
    assert 1 <= active <= min(experts / ep, np.ceil(pairs)) + 1e-9


@pytest.mark.parametrize("skew", [1.01, 1.2])
@pytest.mark.parametrize(("tokens", "ep"), [(64, 1), (64, 8), (1024, 8), (1024, 32), (8192, 4)])
def test_a_skewed_load_agrees_with_draws(tokens: int, ep: int, skew: float) -> None:
    topk, experts = 8, 128
    draw, exponent = np.random.default_rng(1), 1 - skew
    high = 0.8 * tokens
    size = (1 + draw.random((400, experts)) * (high**exponent - 1)) ** (1 / exponent)
    groups = np.round(size / size.sum(1, keepdims=True) * tokens * topk).reshape(400, ep, -1)
    most = groups.sum(2).argmax(1)
    heaviest = groups[np.arange(400), most]
    pairs, active = loads(tokens, topk, experts, ep, skew)
    assert pairs == pytest.approx(heaviest.sum(1).mean(), rel=0.2)
    assert active == pytest.approx((heaviest > 0).sum(1).mean(), rel=0.2)


def test_skew_makes_a_group_slower_and_reads_fewer_experts() -> None:
    even, skewed = (loads(64, 8, 128, 8, skew) for skew in (0.0, 1.2))
    assert skewed[0] > even[0]
    assert loads(64, 8, 128, 1, 1.2)[1] < loads(64, 8, 128, 1, 0.0)[1]


def test_shapes_that_were_held_out(shared_data: Path, catalog: Catalog) -> None:
    rows = pq.read_table(shared_data / "measured" / "op_moe.parquet")
    rows = rows.filter(pc.and_(pc.equal(rows["hardware"], "rtx_pro_6000_server"), pc.equal(rows["moe_dtype"], "nvfp4")))
    rows = rows.take(np.random.default_rng(0).permutation(len(rows))[:1200])
    shapes: dict[str, Any] = {name: rows[name].to_numpy() for name in MOE.columns if name in rows.column_names}
    shapes["matrices"] = 3.0
    shapes["skew"] = [
        float(name.removeprefix("power_law_").replace("balanced", "0")) for name in rows["distribution"].to_pylist()
    ]
    groups = list(zip(*(shapes[name] for name in ("hidden_size", "inter_size", "topk", "num_experts")), strict=True))
    data = Measurements(shapes, rows["latency_ms"].to_numpy() * 1e-3, groups)
    device = catalog.device("rtx-pro-6000-se")
    table = Table("fp4", data, device.peak("fp4"), device.mem_bytes_per_s)
    fit = fit_family(
        MOE, "fp4", data, device=device.id, engine="vllm", engine_version="", peak=table.peak,
        bandwidth=table.bandwidth, basis=shared_basis(MOE, [table]),
    )  # fmt: skip
    assert fit.held_out.mean < 0.2  # whole models held out
