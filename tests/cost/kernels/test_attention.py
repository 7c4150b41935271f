"""Attention kernels: pairs, bytes and axes, latent attention, and how well fits predict shapes that were left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.catalog.catalog import Catalog
from heterarch.cost.document import Fit
from heterarch.cost.fitting.fit import Measurements, Table, fit_family, shared_basis
from heterarch.cost.kernels.attention import DECODE, PREFILL, mla_decode, mla_prefill
from heterarch.cost.kernels.base import Family, Floats
from heterarch.cost.measured.measurements import KernelTable, read_kernels
from heterarch.cost.residual import Basis, residual

FULL = {"batch": 64, "heads": 8, "kv_heads": 2, "head_dim": 128, "window": 0}  # enough blocks for any device
TOKENS = st.integers(1, 300)


def pairs(query: int, context: int, window: int) -> int:
    """Unmasked (query, key) pairs, counted."""
    seen = (context - query + number for number in range(1, query + 1))
    return sum(min(keys, window) if window else keys for keys in seen)


@given(TOKENS, TOKENS, st.integers(0, 400))
def test_pairs_are_those_of_the_causal_mask_and_the_window(query: int, done: int, window: int) -> None:
    context = query + done
    work = PREFILL.work({**FULL, "query": query, "context": context, "window": window}, "bf16")
    blocks_of_128 = max(query, 128) / query
    assert work.flops[0] == pytest.approx(4 * 64 * 8 * 128 * pairs(query, context, window) * blocks_of_128)


@given(st.lists(st.integers(128, 2000), min_size=1, max_size=5))
def test_chunks_do_the_work_of_the_whole_prompt(chunks: list[int]) -> None:
    ends = np.cumsum(chunks)
    parts = PREFILL.work({**FULL, "query": np.array(chunks), "context": ends}, "bf16")
    whole = PREFILL.work({**FULL, "query": ends[-1], "context": ends[-1]}, "bf16")
    assert parts.flops.sum() == pytest.approx(whole.flops[0])
    assert parts.bytes.sum() >= whole.bytes[0]


def test_prefill_reads_queries_and_the_keys_in_reach_of_the_window() -> None:
    shape = {**FULL, "query": 512, "context": 4096}
    queries = 2 * 2 * 64 * 512 * 8 * 128
    assert PREFILL.work(shape, "bf16").bytes[0] == queries + 2 * 2 * 64 * 4096 * 2 * 128
    assert PREFILL.work(shape, "fp8").bytes[0] == queries + 2 * 64 * 4096 * 2 * 128
    assert PREFILL.work({**shape, "window": 101}, "fp8").bytes[0] == queries + 2 * 64 * 612 * 2 * 128


def test_few_blocks_leave_a_device_idle() -> None:
    one = {**FULL, "batch": 1, "heads": 1, "kv_heads": 1}
    short, long = PREFILL.work({**one, "query": np.array([128, 8192]), "context": 8192}, "bf16").flops
    assert short == pytest.approx(64 * 4 * 128 * pairs(128, 8192, 0))
    assert long == pytest.approx(4 * 128 * pairs(8192, 8192, 0))


def test_decode_reads_kv_once_for_the_queries_of_its_head() -> None:
    shape = {**FULL, "query": 1, "context": 1000}
    token, start, queries = 2 * 64 * 2 * 128, 2 * 64, 2 * 2 * 64 * 8 * 128
    assert DECODE.work(shape, "bf16").bytes[0] == token * (2 * 1000 + start) + queries
    assert DECODE.work(shape, "fp8").bytes[0] == token * (1000 + start) + queries
    assert DECODE.work({**shape, "window": 128}, "fp8").bytes[0] == token * (128 + start) + queries


def test_decode_pads_the_queries_of_a_kv_head_to_a_tile() -> None:
    few, many = DECODE.work({**FULL, "heads": np.array([8, 256]), "query": 1, "context": 1000}, "bf16").flops
    assert few == 4 * 64 * 2 * 64 * 128 * 1000
    assert many == 4 * 64 * 256 * 128 * 1000


def test_the_group_axis_tells_packed_from_unpacked_kernels() -> None:
    heads, window = np.array([2, 16, 16]), np.array([0, 0, 128])
    at = DECODE.work({**FULL, "query": 1, "context": 1000, "heads": heads, "window": window}, "bf16").at
    assert at[:, 2].tolist() == [-1, 3, -4]


def test_shares_change_no_more_beyond_the_measured_lengths() -> None:
    prompts = PREFILL.work({**FULL, "query": np.array([2**14, 2**17]), "context": np.array([2**15, 2**20])}, "bf16").at
    assert np.array_equal(prompts[0], prompts[1])
    steps = DECODE.work(
        {**FULL, "batch": np.array([64, 256]), "query": 1, "context": np.array([2**16, 2**18])}, "bf16"
    ).at
    assert np.array_equal(steps[0], steps[1])


@pytest.mark.parametrize("family", [PREFILL, DECODE])
def test_every_row_has_a_place_on_every_axis(family: Family) -> None:
    work = family.work({**FULL, "query": np.array([1, 7, 64]), "context": 64, "window": np.array([0, 1, 16])}, "fp8")
    assert work.at.shape == (3, len(family.axes))
    assert all(np.isfinite(part).all() and (part > 0).all() for part in work[:2])


def test_latent_attention_absorbed_reads_one_vector_per_token() -> None:
    rank, rope, heads = 512, 64, 128
    context = np.array([1000.0, 3000.0])
    work = DECODE.work(mla_decode(np.ones(2), np.ones(2), context, heads, rank=rank, rope_dim=rope), "bf16")
    assert np.diff(work.flops)[0] == pytest.approx(2 * heads * (2 * rank + rope) * 2000)
    assert np.diff(work.bytes)[0] == pytest.approx(2 * (rank + rope) * 2000)


def test_latent_attention_of_a_prompt_is_uncompressed() -> None:
    query = np.array([1024.0])
    work = PREFILL.work(mla_prefill(query * 0 + 1, query, query, 128, nope_dim=128, rope_dim=64, value_dim=128), "bf16")
    assert work.flops[0] == pytest.approx(2 * 128 * (192 + 128) * pairs(1024, 1024, 0))
    assert work.bytes[0] == pytest.approx(2 * 1024 * 128 * (192 + 128) * 2)  # Q and O, K and V


class Measured:
    """Fits to the rows of one device and their predictions elsewhere."""

    def __init__(self, family: Family, table: Table) -> None:
        self.family, self.table = family, table
        self.basis: Basis = shared_basis(family, [table])
        self.fit: Fit = fit_family(
            family, table.dtype, table.data, device="d", engine="vllm", engine_version="", peak=table.peak,
            bandwidth=table.bandwidth, basis=self.basis,
        )  # fmt: skip

    def error(self, table: Table) -> float:
        """Mean absolute relative error on another table, with its device's peaks."""
        work = self.family.work(table.data.shapes, table.dtype)
        law_s = self.fit.law.seconds(work, table.peak, table.bandwidth)
        seconds = law_s * np.exp(residual(self.basis.values(work.at), np.array(self.fit.weights)))
        return float(np.abs(seconds / table.data.seconds - 1).mean())


def table_of(catalog: Catalog, found: list[KernelTable], device: str, dtype: str, rows: Any = slice(None)) -> Table:
    (part,) = (one for one in found if (one.device, one.dtype) == (device, dtype))
    known = catalog.devices[device]
    shapes = {name: np.asarray(column)[rows] for name, column in part.shapes.items()}
    groups = np.array(part.groups)[rows].tolist()
    return Table(dtype, Measurements(shapes, part.seconds[rows], groups), known.peak("bf16"), known.mem_bytes_per_s)


@pytest.mark.parametrize("family", [PREFILL, DECODE])
@pytest.mark.parametrize(("device", "dtype"), [("h100-sxm", "fp8"), ("gb200-nvl72", "bf16")])
def test_shapes_that_were_left_out_are_within_15_percent(
    shared_data: Path, family: Family, device: str, dtype: str
) -> None:
    found = read_kernels(shared_data / "measured" / f"op_{family.name}.parquet")
    fit = Measured(family, table_of(Catalog.load(), found, device, dtype)).fit
    assert fit.held_out.mean < 0.15
    assert len(fit.weights) + 4 <= 200


@pytest.mark.parametrize("family", [PREFILL, DECODE])
def test_a_chip_of_the_same_architecture_is_within_15_percent(shared_data: Path, family: Family) -> None:
    catalog = Catalog.load()
    found = read_kernels(shared_data / "measured" / f"op_{family.name}.parquet")
    donor = Measured(family, table_of(catalog, found, "b200", "bf16"))
    assert donor.error(table_of(catalog, found, "gb200-nvl72", "bf16")) < 0.15


def test_chunks_after_a_cached_prefix_are_within_15_percent_of_a_profile(shared_data: Path) -> None:
    catalog, folder = Catalog.load(), shared_data / "measured"
    donor = Measured(
        PREFILL, table_of(catalog, read_kernels(folder / "op_attention_prefill.parquet"), "rtx-pro-6000-se", "bf16")
    )
    profile = [t for t in read_kernels(folder / "op_llmservingsim.parquet") if t.family == PREFILL.name]
    (part,) = (table for table in profile if table.device == "rtx-pro-6000-se")
    cached: Floats = np.asarray(part.shapes["context"] > part.shapes["query"])
    assert cached.sum() > 1000
    assert donor.error(table_of(catalog, profile, "rtx-pro-6000-se", "bf16", cached)) < 0.15
