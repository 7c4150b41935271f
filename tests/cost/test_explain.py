"""Where the seconds of an iteration go: parts, bounds, intervals and grades."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.config import EngineConfig
from heterarch.cost.explain import Breakdown, Row, explain
from heterarch.cost.host import Host
from heterarch.units import Grade, Source

from .conftest import Ideal

LLAMA8, LLAMA70 = "Meta-Llama-3.1-8B", "Meta-Llama-3.1-70B"
GEMMS = ("qkv projection", "attention output", "dense FFN up", "dense FFN down")
BATCHES = [(1, 1024, 0, 0), (64, 4096, 0, 0), (0, 1, 8192, 0), (32, 2048, 1024, 4096)]


def engine(catalog: Catalog, device: str = "h100-sxm", model: str = LLAMA8, tp: int = 1) -> EngineConfig:
    return EngineConfig(catalog.device(device), catalog.model(model), tp)


def rows(found: Breakdown) -> dict[str, Row]:
    return {row.part: row for row in found.rows}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("device", "model", "tp"), [("h100-sxm", LLAMA8, 1), ("b200", "DeepSeek-V3", 8), ("gaudi3", "gpt-oss-120b", 2)]
)
def test_parts_add_up(catalog: Catalog, device: str, model: str, tp: int, batch: tuple[int, int, int, int]) -> None:
    found = explain(engine(catalog, device, model, tp), *batch)
    assert sum(row.seconds for row in found.rows) == pytest.approx(found.seconds)
    assert sum(found.by_family().values()) == pytest.approx(found.seconds)
    seconds = [row.seconds for row in found.rows]
    assert seconds == sorted(seconds, reverse=True)
    assert list(found.by_family().values()) == sorted(found.by_family().values(), reverse=True)
    assert all(row.seconds > 0 and row.sigma > 0 and row.source.citation for row in found.rows)


def test_a_single_decoding_sequence_waits_for_weights(catalog: Catalog) -> None:
    found = rows(explain(engine(catalog), 1, 1024))
    assert {found[name].bound for name in (*GEMMS, "output head")} == {"bandwidth"}


def test_a_long_prompt_is_computed(catalog: Catalog) -> None:
    found = rows(explain(engine(catalog, model=LLAMA70, tp=2), 0, 1, 8192))
    assert {found[name].bound for name in (*GEMMS, "attention")} == {"compute"}
    assert found["all-reduce"].bound == "link"
    assert found["norms"].bound == "bandwidth"


def test_a_tiny_batch_over_many_devices_waits_for_launches(catalog: Catalog) -> None:
    found = rows(explain(engine(catalog, tp=8), 1, 128))
    assert {found[name].bound for name in ("qkv projection", "attention output", "norms", "attention", "host")} == {
        "overhead"
    }


def test_bounds_of_lossless_kernels_by_hand(ideal: Ideal) -> None:
    """A GEMM of m tokens turns from bandwidth to compute where 2 m = 2 x 989e12 / 3.35e12 FLOP per weight."""
    turn = 989e12 / 3.35e12
    for tokens, bound in ((int(turn * 0.8), "bandwidth"), (int(turn * 1.3), "compute")):
        found = rows(explain(ideal("h100-sxm", LLAMA70), tokens, 16))
        assert found["dense FFN up"].bound == bound


def test_mixed_iterations_have_both_kinds_of_attention(catalog: Catalog) -> None:
    config = engine(catalog)
    families = [explain(config, *batch).by_family().keys() for batch in ((8, 512, 0), (0, 512, 256), (8, 512, 256))]
    kinds = {"attention_prefill", "attention_decode"}
    assert [sorted(kinds & found) for found in families] == [["attention_decode"], ["attention_prefill"], sorted(kinds)]


def test_cached_tokens_make_attention_longer_and_nothing_else(catalog: Catalog) -> None:
    fresh, cached = (explain(engine(catalog), 0, 1, 1024, done).by_family() for done in (0, 16384))
    assert cached.pop("attention_prefill") > 5 * fresh.pop("attention_prefill")
    assert cached == pytest.approx(fresh)


def test_intervals_hold_the_prediction(catalog: Catalog) -> None:
    for device in ("h100-sxm", "h200-sxm", "l40s", "gaudi3"):
        found = explain(engine(catalog, device), 16, 2048)
        assert found.low_s < found.seconds < found.high_s
        assert found.low_s * found.high_s == pytest.approx(found.seconds**2)
        for row in found.rows:
            assert (row.low_s, row.high_s) == pytest.approx(
                (row.seconds / math.exp(row.sigma), row.seconds * math.exp(row.sigma))
            )


def test_the_further_the_measurements_the_wider_the_interval(catalog: Catalog) -> None:
    width = {}
    for device in ("h100-sxm", "h200-sxm", "l40s", "gaudi3"):
        found = explain(engine(catalog, device), 16, 2048)
        width[device] = found.high_s / found.low_s
    assert width["h100-sxm"] < width["h200-sxm"] < width["l40s"] < width["gaudi3"]


def test_the_grade_is_that_of_the_weakest_part(catalog: Catalog) -> None:
    assert explain(engine(catalog, "gaudi3"), 8, 512).grade is Grade.GUESS
    assert explain(engine(catalog, "l40s"), 8, 512).grade is Grade.GUESS
    found = explain(engine(catalog, "h200-sxm"), 8, 512)
    assert found.grade is Grade.DERIVED
    assert {row.source.grade for row in found.rows} == {Grade.DERIVED, Grade.FITTED}


def test_stages_of_a_pipeline_share_a_pass(ideal: Ideal) -> None:
    """Four stages on micro-batches take the weights of all layers once, and a quarter of what sequences add."""
    one, four = (rows(explain(ideal("h100-sxm", LLAMA70, 1, pp), 64, 4096)) for pp in (1, 4))
    assert four["attention"].seconds == pytest.approx(one["attention"].seconds / 4)
    assert four["dense FFN up"].seconds == pytest.approx(one["dense FFN up"].seconds, rel=0.02)
    assert four["pipeline hops"].seconds == pytest.approx(3 * 16 * 8192 * 2 / 450e9)
    assert "pipeline hops" not in one
    alone = explain(ideal("h100-sxm", "Mixtral-8x7B-v0.1", 1, 4), 1, 16)
    assert rows(alone)["experts"].seconds == pytest.approx(
        rows(explain(ideal("h100-sxm", "Mixtral-8x7B-v0.1"), 1, 16))["experts"].seconds
    )


def test_launches_that_kernels_do_not_hide(ideal: Ideal) -> None:
    slow = Host(0.0, 0.0, 0.0, 40e-6, Source(Grade.DECLARED, "by hand"))
    config = ideal("h100-sxm", LLAMA70, 8, host=slow, graphs=False)
    found = explain(config, 1, 16)
    assert found.seconds == pytest.approx((80 * 11 + 1) * 40e-6)
    assert rows(found)["launches"].bound == "overhead"
    assert found.closed_form_s == pytest.approx(found.seconds, rel=0.01)
    assert "launches" not in rows(explain(config, 0, 1, 8192))
    assert "launches" not in rows(explain(replace(config, graphs=True), 1, 16))
