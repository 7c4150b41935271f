"""The planner's walk, the simulator and the executor read a program alike."""

from __future__ import annotations

import numpy as np
import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.graph.build import Agent
from heterarch.ir.flat import FlatProgram, OpKind
from heterarch.ir.flatten import flatten
from heterarch.ir.regions import captured
from heterarch.ir.text import parse_module
from heterarch.plan.document import CallablePart, EndpointPart, Plan, Pool
from heterarch.plan.walk import CallSample, CallTimes, walk
from heterarch.policy.base import Floats
from heterarch.run.engines.fake import FakeEngine
from heterarch.run.live import RunOptions, run_plan
from heterarch.sim.simulate import run_simulation
from heterarch.sim.unroll import unroll
from heterarch.workload.distribution import lognormal, uniform

from .programs import SMALL, background, enclosing, fanned, looped, lower, spoken, workload
from .test_planner import planned

TTFT_S, TPOT_S = 1.0, 0.01
PHASES = (OpKind.KV_LOOKUP, OpKind.PREFILL, OpKind.KV_TRANSFER, OpKind.DECODE)


class Hosted:
    """What a hosted API of the test takes."""

    def call(self, sample: CallSample) -> CallTimes:
        return CallTimes(
            np.full_like(sample.output, TTFT_S), np.zeros_like(sample.output), (sample.output - 1) * TPOT_S
        )

    def task(self, op: int, seconds: Floats) -> Floats:
        return seconds


@pytest.fixture(scope="module")
def template() -> Plan:
    return planned(looped, Catalog.load(), workload(1.0), explain=False)


def on_api(template: Plan, flat: FlatProgram, window: int = 0) -> Plan:
    """Every call on a hosted API, everything else on endless workers."""
    part = EndpointPart(
        provider="p", api_model="m", input_usd_per_mtok=1.0, cached_usd_per_mtok=1.0, output_usd_per_mtok=1.0,
        ttft_p50_s=TTFT_S, ttft_p95_s=TTFT_S, tpot_p50_s=TPOT_S, price_date="2026-01-01", source="test",
    )  # fmt: skip
    api = Pool(
        name="api",
        role="endpoint",
        device="api",
        engines=1,
        model=SMALL,
        context_tokens=window,
        concurrency=99,
        endpoint=part,
    )
    tools = Pool(name="tools", role="tool", device="cpu-vcpu", engines=1, concurrency=10_000)
    named = zip(flat.names, flat.kind.tolist(), strict=True)
    placement = {name: "api" if kind in PHASES else "tools" for name, kind in named if kind >= OpKind.KV_LOOKUP}
    return template.model_copy(update={"pools": [api, tools], "placement": placement})


@pytest.mark.parametrize("agent", [looped, fanned, spoken, enclosing, background])
def test_walk_and_simulation_take_the_same_time(template: Plan, agent: Agent) -> None:
    flat, _ = lower(agent)
    load = workload(rate_per_s=0.01)
    walked = np.sort(walk(flat, load, timing=Hosted(), requests=400).e2e_s)
    requests = run_simulation(on_api(template, flat), flat, load, requests=400, steady=False).requests
    simulated = np.sort(requests["finish_s"] - requests["release_s"])
    assert walked[0] == pytest.approx(simulated[0])
    assert walked[-1] == pytest.approx(simulated[-1])
    assert walked.mean() == pytest.approx(simulated.mean(), rel=0.03)


def test_a_region_waits_for_what_it_reads_from_around_it(template: Plan) -> None:
    flat, _ = lower(enclosing)
    loop = flat.names.index(next(n for n, k in zip(flat.names, flat.kind, strict=True) if k == OpKind.LOOP))
    (search,) = [op for op in range(len(flat)) if flat.names[op] == "search"]
    assert captured(flat)[loop] == tuple(flat.outputs(search).tolist())
    seen = walk(flat, workload(), timing=Hosted(), requests=1)
    step, part, last = TTFT_S + 19 * TPOT_S, TTFT_S + 9 * TPOT_S, TTFT_S + 8 * TPOT_S
    assert seen.e2e_s[0] == pytest.approx(2.0 + 2 * step + 1.0 + part + last)


async def test_the_executor_runs_bodies_that_read_outer_values(template: Plan) -> None:
    flat, place = lower(enclosing)
    made = on_api(template, flat)
    flat = flatten(parse_module(place(made.placement), "placed"), enclosing.name)
    table = [
        CallablePart(symbol=symbol, ref=found.ref, sha256=found.sha256) for symbol, found in enclosing.callables.items()
    ]
    engine = FakeEngine(answers=lambda call: f"<{call.messages[-1].text}>")
    agent = made.agent.model_copy(update={"callables": table, "name": enclosing.name})
    made = made.model_copy(update={"agent": agent})
    live = await run_plan(made, flat, [{"question": "q"}], RunOptions(engines={"api": [engine]}, strict=True))
    assert live.errors == (None,)
    texts = [call.messages[-1].text for call in engine.calls]
    assert texts[:2] == ["q given q", "<q given q> given q"]
    draft = f"<{texts[1]}>"
    assert sorted(texts[2:4]) == sorted(f"{draft} {letter} of {draft}" for letter in "ab")


def test_calls_that_exceed_the_window_are_cut_alike(template: Plan) -> None:
    """A first prompt longer than the window is one prompt of the window's length, not a longer one nobody can serve."""
    flat, _ = lower(looped)
    bare = flat.statistics.copy()
    bare[[flat.names.index(name) for name in ("step.kv_lookup", "step.decode")]] = -1  # the workload's apply
    flat = type(flat)(**{**vars(flat), "statistics": bare})
    load = workload(requests=3.0)
    wide = load.call.model_copy(
        update={"context_tokens": lognormal(p50=3000.0, p95=30_000.0), "tokens_in": uniform(1, 900)}
    )
    load = load.model_copy(update={"call": wide})
    walked = walk(flat, load, windows={SMALL: 8000}, requests=3000).calls
    prompt = walked["context"] + walked["appended"]
    assert (prompt + walked["output"]).max() <= 8000
    made, _ = unroll(on_api(template, flat, 8000), flat, load, requests=3000)
    rows = made.rows[made.rows["kind"] == 1]
    assert (rows["prompt_tokens"] + rows["output_tokens"]).max() <= 8000
    assert prompt.mean() == pytest.approx(rows["prompt_tokens"].mean(), rel=0.03)
    assert np.quantile(prompt, 0.9) == pytest.approx(np.quantile(rows["prompt_tokens"], 0.9), rel=0.03)
