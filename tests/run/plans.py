"""Small plans and the agent that the live tests run."""

from __future__ import annotations

from heterarch.ir.flat import FlatProgram, OpKind
from heterarch.plan.document import (
    AgentPart,
    CallablePart,
    LocalPart,
    Objective,
    OpPrediction,
    Plan,
    Pool,
    Predictions,
    Provenance,
)

from .programs import CHAT, TEXT, Program

TINY = LocalPart(kind="xllamacpp", model_path="tiny", slots=2, context_tokens=2048)


def pool(name: str, role: str = "mixed", local: LocalPart | None = TINY, **more: object) -> Pool:
    return Pool(name=name, role=role, device="CPU", engines=1, model="tiny", local=local, usd_per_engine_h=3.6, **more)


def plan(
    *pools: Pool, slo: list[str] | None = None, callables: list[CallablePart] | None = None, **policies: str
) -> Plan:
    predicted = OpPrediction(
        op="step.decode", kind="decode", pool=pools[0].name, visits=1, mean_s=0.5, usd_per_request=0.1, source="test"
    )
    return Plan(
        agent=AgentPart(name="main", source="agent.py", module="", callables=callables or []),
        workload="test",
        slo=slo or [],
        accounting="rental",
        pools=list(pools),
        placement={},
        policies=policies,
        predictions=Predictions(
            requests_per_s=1,
            usd_per_h=1,
            usd_per_request=0,
            usd_per_million_tokens=0,
            watts=0,
            e2e_s={},
            ttft_s={},
            tpot_s={},
            prefix_hit_rate=0,
            utilisation={},
            ops=[predicted],
        ),
        objective=Objective(value=1, bound=1, gap=0, solver="none", solve_s=0),
        provenance=Provenance(
            heterarch_version="0",
            catalog_sha256={},
            statistics_sha256="",
            fleet="",
            fleet_sha256="",
            workload="",
            workload_sha256="",
            seed=7,
        ),
    )


def chat_agent(prefill: str, decode: str, **attrs: object) -> FlatProgram:
    """One question, one answer, in a chat that the session remembers."""
    p = Program()
    with p.graph("main", TEXT) as (question,):
        new = p.op(OpKind.CHAT, "chat", [], [CHAT], system="You are brief.")[0]
        chat = p.op(OpKind.MEMORY_LOAD, "load", [new], [CHAT], key="chat")[0]
        after, answer = p.call("step", chat, [question], prefill, decode, **attrs)
        p.op(OpKind.MEMORY_STORE, "store", [after], [], key="chat")
        p.give(answer)
    return p.flat()
