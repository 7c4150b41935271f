"""Whole plans on the packaged catalogue and the mixed fleet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.fleet import Fleet, FleetDevice, FleetLink, fleet
from heterarch.cost.engine import EngineConfig, step_cost
from heterarch.cost.margin import margins
from heterarch.cost.transfer import RDMA_SHARE
from heterarch.errors import InfeasibleError, InputError, UnknownNameError
from heterarch.graph.build import Agent
from heterarch.plan.document import Plan
from heterarch.plan.planner import Authored, Evaluator, plan
from heterarch.plan.store import plan_text
from heterarch.report.schema import CacheReport, Counts, Report, Summary, Verdict
from heterarch.report.slo import SLO, parse_slo
from heterarch.workload.profile import Workload

from .programs import SMALL, fanned, looped, lower, single, spoken, workload


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load()


def planned(agent: Agent, catalog: Catalog, load: Workload, slos: Sequence[str] = (), **options: Any) -> Plan:
    flat, place = lower(agent)
    offer = options.pop("fleet", None) or fleet("mixed")
    options = {"explain": False, "accounting": "rental", **options}
    wanted: list[SLO] = [parse_slo(text) for text in slos]
    return plan(Authored(agent.name, agent.source, place), flat, offer, catalog, load, slos=wanted, **options)


def test_a_plan_is_complete_optimal_and_keeps_its_limits(catalog: Catalog) -> None:
    made = planned(looped, catalog, workload(3.0, 4.0), ["ttft.p95<=500ms", "tpot.p50<=40ms", "e2e.p95<=14s"])
    assert made.objective.gap == pytest.approx(0.0, abs=1e-6)
    assert set(made.placement) == {
        "step.kv_lookup", "step.prefill", "step.kv_transfer", "step.decode", "search",
    }  # fmt: skip
    assert set(made.placement.values()) == {pool.name for pool in made.pools}
    seen = made.predictions
    assert seen.ttft_s["p95"] <= 0.5
    assert seen.tpot_s["p50"] <= 0.040
    assert seen.e2e_s["p95"] <= 14.0 * 1.01
    assert seen.requests_per_s == pytest.approx(12.0)
    assert seen.prefix_hit_rate > 0.7
    assert f'pool = "{made.placement["step.decode"]}"' in made.agent.module
    assert sum(op.usd_per_request for op in seen.ops) == pytest.approx(seen.usd_per_request, rel=1e-6)
    assert sum(p.engines * p.usd_per_engine_h for p in made.pools) == pytest.approx(seen.usd_per_h, rel=1e-6)
    assert seen.watts > 0


def test_no_alternative_is_cheaper_and_left_out_devices_say_why(catalog: Catalog) -> None:
    made = planned(fanned, catalog, workload(2.0), ["ttft.p95<=1s", "tpot.p50<=50ms"], explain=True)
    costs = [other.usd_per_h for other in made.alternatives if other.usd_per_h is not None]
    assert len(costs) >= 3
    assert min(costs) >= made.predictions.usd_per_h * (1 - 1e-6)
    assert {pool.model for pool in made.pools if pool.model} == {"Meta-Llama-3.1-8B", "Meta-Llama-3.1-70B"}
    left = {entry.device: entry.reason for entry in made.left_out}
    assert "no on-demand price" in left["gaudi3"]
    assert any("one device type" in sentence or "No mix of devices" in sentence for sentence in made.why)


def test_all_non_llm_ops_of_a_voice_agent_land_on_cpu(catalog: Catalog) -> None:
    made = planned(spoken, catalog, workload(5.0), ["ttft.p95<=300ms"])
    for op, pool in made.placement.items():
        on_cpu = made.pool(pool).device == "cpu-vcpu"
        assert on_cpu is not op.startswith("reply."), op
    assert made.pool("audio").devices_per_engine == 4


def test_prefix_reuse_makes_the_plan_cheaper(catalog: Catalog) -> None:
    """Chats that come back within the cache's reach cost less prefill than chats that are gone."""
    kept = planned(looped, catalog, workload(0.5, 40.0, think_s=20.0), ["ttft.p95<=2s"])
    gone = planned(looped, catalog, workload(0.5, 40.0, think_s=50_000.0), ["ttft.p95<=2s"])
    assert kept.predictions.prefix_hit_rate > gone.predictions.prefix_hit_rate + 0.1
    assert kept.predictions.usd_per_h < gone.predictions.usd_per_h


def test_accounting_changes_the_hardware_on_offer(catalog: Catalog) -> None:
    rented = planned(single, catalog, workload(50.0), ["ttft.p95<=1s"], accounting="rental")
    owned = planned(single, catalog, workload(50.0), ["ttft.p95<=1s"], accounting="owner-annuity")
    assert "gaudi3" in {entry.device for entry in rented.left_out}
    assert "gaudi3" not in {entry.device for entry in owned.left_out}
    assert owned.accounting == "owner-annuity"


def test_owned_devices_are_used_first(catalog: Catalog) -> None:
    own = Fleet(
        name="own",
        site="us-average",
        devices=[
            FleetDevice(device="h100-sxm", limit=8, owned=2),
            FleetDevice(device="b200", limit=8),
            FleetDevice(device="cpu-vcpu"),
        ],
    )
    made = planned(single, catalog, workload(5.0), fleet=own)
    assert {pool.device for pool in made.pools} == {"h100-sxm"}
    assert made.predictions.usd_per_h < 1.0  # power only


@pytest.mark.parametrize(
    ("slos", "text"),
    [
        (["ttft.p95<=1ms"], r"ttft limit(.|\n)*best reachable .*, on (.|\n)*at most 1 ms(.|\n)*fix: allow"),
        (["tpot.p50<=0.1ms"], r"tpot limit(.|\n)*best reachable"),
        (["e2e.p95<=6.1s"], r"end-to-end limit(.|\n)*best reachable p95(.|\n)*at most 6.1 s(.|\n)*allow e2e.p95<="),
        (["cost.mean<=0.0000001"], r"cost.mean(.|\n)*the cheapest plan costs"),
    ],
)
def test_infeasible_limits_name_the_best_reachable_value(catalog: Catalog, slos: list[str], text: str) -> None:
    with pytest.raises(InfeasibleError, match=text):
        planned(looped, catalog, workload(3.0), slos)


def test_a_model_that_fits_nowhere(catalog: Catalog) -> None:
    small = Fleet(
        name="s", site="us-average", devices=[FleetDevice(device="cpu-vcpu"), FleetDevice(device="l4", limit=1)]
    )
    with pytest.raises(InfeasibleError, match=r"fits on no device(.|\n)*cpu-vcpu(.|\n)*--dtype"):
        planned(fanned, catalog, workload(1.0), fleet=small)


def test_too_small_an_inventory_says_how_many(catalog: Catalog) -> None:
    few = Fleet(
        name="few", site="us-average", devices=[FleetDevice(device="h100-sxm", limit=1), FleetDevice(device="cpu-vcpu")]
    )
    with pytest.raises(InfeasibleError, match=r"inventory is too small(.|\n)*allow \d+ of h100-sxm"):
        planned(single, catalog, workload(2000.0), fleet=few)


def test_no_cpu_in_the_fleet(catalog: Catalog) -> None:
    bare = Fleet(name="bare", site="us-average", devices=[FleetDevice(device="h100-sxm")])
    with pytest.raises(InfeasibleError, match="no device of the fleet can run 'search'"):
        planned(looped, catalog, workload(1.0), fleet=bare)


def test_an_endpoint_serves_a_small_load_of_a_big_model(catalog: Catalog) -> None:
    made = planned(fanned, catalog, workload(0.01), ["ttft.p95<=3s"])
    pool = made.pool(made.placement["write.decode"])
    assert pool.role == "endpoint"
    assert pool.endpoint is not None
    assert made.placement["write.prefill"] == pool.name
    assert made.predictions.usd_per_request > 0


def test_the_same_question_has_the_same_answer_to_the_byte(catalog: Catalog) -> None:
    first, second = (planned(looped, catalog, workload(3.0), ["ttft.p95<=1s"]) for _ in range(2))
    assert first.objective.solve_s > 0
    assert plan_text(first) == plan_text(second)
    assert "solve_s" not in plan_text(first)


def test_an_endpoint_that_cannot_carry_the_load_names_its_rate_limit(catalog: Catalog) -> None:
    api = next(e for e in fleet("mixed").endpoints if e.serves == SMALL)
    api = api.model_copy(update={"requests_per_min": None, "tokens_per_min": 60_000})
    own = Fleet(name="api", site="us-average", devices=[FleetDevice(device="cpu-vcpu")], endpoints=[api])
    with pytest.raises(InfeasibleError, match="inventory is too small") as caught:
        planned(single, catalog, workload(10.0), fleet=own)
    text = str(caught.value)
    assert "admits 60,000 tokens/min" in text
    assert "need 660,600 (11 times the limit)" in text  # 10/s of 1,000 and 101 tokens
    assert f"raise the rate limits of {api.name} 12 times" in text
    calm = api.model_copy(update={"requests_per_min": 30})
    beside = [FleetDevice(device="cpu-vcpu"), FleetDevice(device="h100-sxm")]
    own = Fleet(name="both", site="us-average", devices=beside, endpoints=[calm])
    made = planned(single, catalog, workload(10.0), fleet=own, explain=True)
    (reason,) = [other.reason for other in made.alternatives if other.name == f"only {api.name}"]
    assert reason == f"{api.name} admits 30 requests/min, the calls of {SMALL} need 600 (20 times the limit)"


def test_a_plan_says_what_its_prices_and_times_rest_on(catalog: Catalog) -> None:
    own = Fleet(name="g", site="us-average", devices=[FleetDevice(device="gaudi3"), FleetDevice(device="cpu-vcpu")])
    made = planned(single, catalog, workload(1.0), fleet=own, accounting="owner-annuity", dtypes=["fp4"])
    notes = "\n".join(made.notes)
    assert "Step times on gaudi3: guess: kernels: no public kernel measurements" in notes
    assert f"Planned to take {margins()['guess']:.2f} times as long" in notes
    assert "gaudi3 has no fp4 arithmetic: weights in fp4 are multiplied in bf16" in notes
    assert "Price of gaudi3: $0.623/h each; guess" in notes


def test_step_times_are_planned_with_room_and_promised_without(catalog: Catalog) -> None:
    """An engine of the least known device is bought for twice the time that the plan says it takes."""
    own = Fleet(name="g", site="us-average", devices=[FleetDevice(device="gaudi3"), FleetDevice(device="cpu-vcpu")])
    made = planned(single, catalog, workload(100.0), ["tpot.p95<=30ms"], fleet=own, accounting="owner-annuity")
    pools = [pool for pool in made.pools if pool.model]
    assert pools
    for pool in pools:
        assert pool.step
        config = EngineConfig(catalog.device("gaudi3"), catalog.model(pool.model), pool.tp, pool.pp, pool.dtype)
        predicted = step_cost(config)
        assert pool.step.fixed_s == pytest.approx(predicted.fixed_s, rel=1e-6)
        assert pool.step.context_s == pytest.approx(predicted.context_s, rel=1e-6)
    assert made.predictions.tpot_s["p95"] < 0.030 / 1.5


def test_a_limit_says_how_much_of_it_is_room(catalog: Catalog) -> None:
    own = Fleet(name="g", site="us-average", devices=[FleetDevice(device="gaudi3"), FleetDevice(device="cpu-vcpu")])
    with pytest.raises(InfeasibleError) as caught:
        planned(single, catalog, workload(1.0), ["tpot.p95<=4ms"], fleet=own, accounting="owner-annuity")
    assert f"with a margin of {margins()['guess']:.2f}, on gaudi3" in str(caught.value)


def test_an_engine_has_seats_for_bursts(catalog: Catalog) -> None:
    """As many as KV memory holds within the TPOT limit; not only what the mean load fills."""
    own = Fleet(name="o", site="us-average", devices=[FleetDevice(device="h100-sxm"), FleetDevice(device="cpu-vcpu")])
    loose, tight = (
        planned(single, catalog, workload(50.0), ["ttft.p95<=1s", slo], fleet=own).pools[0]
        for slo in ("tpot.p95<=1s", "tpot.p95<=9ms")
    )
    assert loose.concurrency == min(256, int(loose.kv_tokens / 1101))
    assert tight.concurrency < loose.concurrency


def test_wrong_arguments(catalog: Catalog) -> None:
    with pytest.raises(UnknownNameError, match="accounting"):
        planned(single, catalog, workload(), accounting="rentel")
    with pytest.raises(UnknownNameError, match="router"):
        planned(single, catalog, workload(), router="random")
    with pytest.raises(InputError, match="margin"):
        planned(single, catalog, workload(), margin=0.5)


def verdicts(factors: list[float], seen: list[Plan]) -> Evaluator:
    """An evaluator whose n-th check observes ``factors[n]`` times the TTFT limit."""

    def evaluate(made: Plan, load: Workload, seed: int) -> Report:
        factor = factors[min(len(seen), len(factors) - 1)]
        seen.append(made)
        none = Summary(n=0, mean=0, p50=0, p90=0, p95=0, p99=0)
        count = Counts(offered=1, completed=1)
        slo = parse_slo(made.slo[0])
        return Report(
            kind="simulated", plan_sha256="", agent="", workload="", seed=seed, duration_s=1.0, requests=count,
            calls=count, e2e_s=none, ttft_s=none, tpot_s=none, goodput_rps=0, throughput_rps=0, output_tokens_per_s=0,
            prompt_tokens=0, output_tokens=0, kv_transfer_bytes=0,
            cache=CacheReport(block_tokens=16, blocks=0, hit_blocks=0, block_hit_rate=0), usd=0, usd_per_request=0,
            usd_per_million_tokens=0, pools=[], ops=[],
            slo=[Verdict(slo=made.slo[0], observed=slo.target * factor, met=factor <= 1)],
        )  # fmt: skip

    return evaluate


def test_a_simulation_that_misses_tightens_the_plan(catalog: Catalog) -> None:
    seen: list[Plan] = []
    made = planned(single, catalog, workload(400.0), ["ttft.p95<=400ms"], evaluator=verdicts([4.0, 0.9], seen))
    assert len(seen) == 2
    assert made.predictions.ttft_s["p95"] <= 0.1 * 1.05
    assert any("misses ttft.p95<=400ms by 300%" in note for note in made.notes)
    assert any("all SLOs are met in simulation 2" in note for note in made.notes)


def test_a_simulation_that_always_misses_ends_and_says_so(catalog: Catalog) -> None:
    seen: list[Plan] = []
    made = planned(single, catalog, workload(5.0), ["ttft.p95<=1s"], evaluator=verdicts([1.5], seen))
    assert len(seen) == 4
    assert any("misses its SLOs when simulated" in note for note in made.notes)


def two_kinds(**changes: Any) -> Fleet:
    devices = [FleetDevice(device="h100-sxm", limit=64), FleetDevice(device="a100-80-sxm", limit=64)]
    return Fleet(name="two", site="us-average", devices=devices, **changes)


def test_a_plan_carries_the_link_between_its_pools(catalog: Catalog) -> None:
    slos = ["ttft.p95<=500ms", "tpot.p95<=10ms"]
    cards = planned(single, catalog, workload(30.0), slos, fleet=two_kinds())
    (link,) = cards.links
    roles = {pool.name: pool.role for pool in cards.pools}
    assert (roles[link.sender], roles[link.receiver]) == ("prefill", "decode")
    assert link.bytes_per_s == pytest.approx(cards.pool(link.sender).transfer_bytes_per_s)
    assert link.shared_bytes_per_s == 0
    wires = [FleetLink(a="h100-sxm", b=b, link="roce-100", shared=True) for b in ("h100-sxm", "a100-80-sxm")]
    stated = planned(single, catalog, workload(30.0), slos, fleet=two_kinds(links=wires))
    assert stated.links[0].bytes_per_s == stated.links[0].shared_bytes_per_s == pytest.approx(12.5e9 * RDMA_SHARE)
    assert stated.links[0].latency_s == catalog.link("roce-100").latency_s


def test_kv_that_leaves_by_layer_is_predicted_and_planned_so(catalog: Catalog) -> None:
    slos = ["ttft.p95<=500ms", "tpot.p95<=12ms"]
    whole, parts = (
        planned(single, catalog, workload(100.0), slos, fleet=two_kinds(layerwise_kv=layerwise))
        for layerwise in (False, True)
    )
    assert {pool.transfer_layers for pool in whole.pools} == {1}
    assert {pool.role: pool.transfer_layers for pool in parts.pools} == {"prefill": 32, "decode": 1}
    seconds = [next(op.mean_s for op in made.predictions.ops if op.kind == "kv_transfer") for made in (whole, parts)]
    assert 0 < seconds[1] < 0.2 * seconds[0]
