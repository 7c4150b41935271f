"""KV sizes and link rates against the founding paper's claims, and which link connects what."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.catalog.catalog import Catalog
from heterarch.cost.transfer import (
    RDMA_SHARE,
    TransferRate,
    egress_bytes_per_s,
    engine_rate,
    group_link,
    ingress_bytes_per_s,
    kv_bytes,
    kv_transfer_s,
    link_rate,
    pair_link,
    pair_rate,
)
from heterarch.errors import InputError
from heterarch.units import Grade, Source

GBIT = 1e9 / 8
SMALL, LARGE = "Meta-Llama-3.1-8B", "Meta-Llama-3.1-70B"


@pytest.mark.parametrize(
    ("model", "dtype", "tokens", "gb", "egress_gbit", "ingress_gbit"),
    [
        (SMALL, "bf16", 4096, 0.537, 17.2, 26.8),
        (SMALL, "bf16", 32768, 4.295, 137.4, 214.7),
        (LARGE, "bf16", 4096, 1.342, 42.9, 67.1),
        (LARGE, "bf16", 32768, 10.737, 343.6, 536.9),
        (LARGE, "fp8", 4096, 0.671, 21.5, 33.6),
        (LARGE, "fp8", 32768, 5.369, 171.8, 268.4),
    ],
)
def test_equations_1_to_3(
    catalog: Catalog, model: str, dtype: str, tokens: int, gb: float, egress_gbit: float, ingress_gbit: float
) -> None:
    row = catalog.model(model)
    size = kv_bytes(row, tokens, dtype)
    width = 2 if dtype == "bf16" else 1
    by_hand = 2 * row.layers * row.hidden * (8 / row.heads) * tokens * width
    assert size == pytest.approx(by_hand, rel=1e-3)
    assert size / 1e9 == pytest.approx(gb, rel=1e-3)
    assert egress_bytes_per_s(size, 0.250) / GBIT == pytest.approx(egress_gbit, abs=0.051)
    assert ingress_bytes_per_s(size, 0.020, 8) / GBIT == pytest.approx(ingress_gbit, abs=0.051)


def test_400_gbit_is_enough_up_to_32k_but_for_one_case(catalog: Catalog) -> None:
    cases = [(SMALL, "bf16"), (SMALL, "fp8"), (LARGE, "bf16"), (LARGE, "fp8")]
    over = [
        (model, dtype)
        for model, dtype in cases
        if ingress_bytes_per_s(kv_bytes(catalog.model(model), 32768, dtype), 0.020, 8) > 400 * GBIT
    ]
    assert over == [(LARGE, "bf16")]


def test_between_servers_the_slower_nic_limits(catalog: Catalog) -> None:
    fast = replace(catalog.device("b200"), nic_bytes_per_s=50e9)
    slow = replace(catalog.device("a100-80-sxm"), nic_bytes_per_s=25e9)
    for sender, receiver in ((fast, slow), (slow, fast)):
        assert pair_link(sender, receiver).bytes_per_s == pytest.approx(25e9 * RDMA_SHARE)


def test_in_one_server_same_devices_use_the_scale_up_link(catalog: Catalog) -> None:
    h100, b200 = catalog.device("h100-sxm"), catalog.device("b200")
    assert pair_link(h100, h100, same_server=True).bytes_per_s == h100.scaleup_bytes_per_s
    assert pair_link(h100, b200, same_server=True).bytes_per_s == h100.host_bytes_per_s
    assert pair_link(h100, h100).bytes_per_s == pytest.approx((h100.nic_bytes_per_s or 0) * RDMA_SHARE)


def test_a_group_beyond_the_domain_goes_over_pcie_then_the_nic(catalog: Catalog) -> None:
    bridged = catalog.device("a100-80-pcie")
    assert group_link(bridged, 2).bytes_per_s == bridged.scaleup_bytes_per_s
    assert group_link(bridged, 4).bytes_per_s == bridged.host_bytes_per_s
    h100 = catalog.device("h100-sxm")
    assert group_link(h100, 16).bytes_per_s == pytest.approx((h100.nic_bytes_per_s or 0) * RDMA_SHARE)


def test_a_missing_link_is_named(catalog: Catalog) -> None:
    device = replace(catalog.device("m4-max"), nic_bytes_per_s=None, host_bytes_per_s=None)
    with pytest.raises(InputError, match="no known link connects 2 devices m4-max"):
        group_link(device, 2)
    with pytest.raises(InputError, match="no known nic link on m4-max"):
        pair_link(device, catalog.device("h100-sxm"))


def test_a_catalogue_link_keeps_its_latency_and_source(catalog: Catalog) -> None:
    rate = link_rate(catalog.link("roce-400"))
    assert rate.bytes_per_s == pytest.approx(50e9 * RDMA_SHARE)
    assert rate.latency_s == catalog.link("roce-400").latency_s
    assert "400 Gbit/s" in rate.source.citation


@given(size=st.floats(0, 1e12), rate=st.floats(1e6, 1e12), senders=st.integers(1, 8), receivers=st.integers(1, 8))
def test_the_side_with_fewer_devices_limits(size: float, rate: float, senders: int, receivers: int) -> None:
    link = TransferRate(rate, 1e-5, Source(Grade.GUESS, "test"))
    seconds = kv_transfer_s(size, pair_rate(link, senders, receivers))
    narrow = engine_rate(link, min(senders, receivers))
    assert seconds == pytest.approx(1e-5 + size / narrow.bytes_per_s)
    assert seconds == pytest.approx(kv_transfer_s(size, pair_rate(link, receivers, senders)))


@pytest.mark.parametrize(
    ("layers", "prefill_s", "exposed"),
    [(1, 9.0, 8.0), (8, 0.0, 8.0), (8, 4.0, 8.0 - 3.5), (8, 8.0, 1.0), (8, 100.0, 1.0)],
)
def test_layers_that_leave_during_the_prefill_are_hidden(layers: int, prefill_s: float, exposed: float) -> None:
    link = TransferRate(1e9, 0.5, Source(Grade.GUESS, "test"), layers)
    assert kv_transfer_s(8e9, link, prefill_s=prefill_s) == pytest.approx(0.5 + exposed)
