"""Small plans, programs and task sets for the tests of the simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heterarch.errors import Where
from heterarch.ir.flat import FlatProgram, OpKind, Slot
from heterarch.plan.document import (
    AgentPart,
    EndpointPart,
    Objective,
    Plan,
    Pool,
    PoolLink,
    Predictions,
    Provenance,
    StepPart,
)
from heterarch.policy.admission import admission as builtin_admission
from heterarch.sim.drive import drive
from heterarch.sim.pools import link_table, pool_table
from heterarch.sim.state import State, new_state, set_admission
from heterarch.sim.stores import stores_of
from heterarch.sim.tasks import Prefixes, Tasks, no_prefixes, tasks
from heterarch.workload.distribution import Distribution, constant

FLAT_STEP = StepPart(fixed_s=1.0, token_s=0.0)  # every iteration takes one second


def mixed(name: str = "llm", **changes: Any) -> Pool:
    values: dict[str, Any] = {
        "name": name, "role": "mixed", "device": "X", "engines": 1, "concurrency": 8, "max_batched_tokens": 64,
        "kv_tokens": 1600, "kv_bytes_per_token": 1000, "usd_per_engine_h": 3.6, "step": FLAT_STEP,
    }  # fmt: skip
    return Pool(**{**values, **changes})


def tools(name: str = "tools", servers: int = 1) -> Pool:
    return Pool(name=name, role="tool", device="cpu", engines=1, concurrency=servers)


def hosted(name: str = "api", **changes: Any) -> Pool:
    values: dict[str, Any] = {
        "provider": "p", "api_model": "m", "input_usd_per_mtok": 1.0, "cached_usd_per_mtok": 0.1,
        "output_usd_per_mtok": 10.0, "ttft_p50_s": 0.5, "ttft_p95_s": 0.5, "tpot_p50_s": 0.01, "price_date": "2026-01-01",
        "source": "test",
    }  # fmt: skip
    return Pool(name=name, role="endpoint", device="api", engines=1, endpoint=EndpointPart(**{**values, **changes}))


def plan_of(
    pools: Sequence[Pool],
    placement: Mapping[str, str] | None = None,
    slo: Sequence[str] = (),
    router: str = "prefix-affinity",
) -> Plan:
    nothing = {"mean": 0.0}
    return Plan(
        agent=AgentPart(name="agent", source="", module=""),
        workload="w", slo=list(slo), accounting="rental", pools=list(pools), placement=dict(placement or {}),
        policies={"router": router},
        predictions=Predictions(
            requests_per_s=1, usd_per_h=1, usd_per_request=1, usd_per_million_tokens=1, watts=0, e2e_s=nothing,
            ttft_s=nothing, tpot_s=nothing, prefix_hit_rate=0, utilisation={}, ops=[],
        ),
        objective=Objective(value=1, bound=1, gap=0, solver="none", solve_s=0),
        provenance=Provenance(heterarch_version="0", catalog_sha256={}, statistics_sha256="", fleet="", fleet_sha256="", workload="", workload_sha256=""),
    )  # fmt: skip


def calls_of(
    prompts: Sequence[int], outputs: Sequence[int], at: Sequence[float] | None = None, edges: Any = (), **columns: Any
) -> Tasks:
    """Independent LLM calls on pool 0, each a request and session of its own."""
    n = len(prompts)
    table: dict[str, Any] = {
        "kind": np.ones(n), "release_s": np.zeros(n) if at is None else np.array(at), "request": np.arange(n),
        "session": np.arange(n), "prompt_tokens": np.array(prompts), "output_tokens": np.array(outputs),
        "prefill_pool": np.zeros(n), "decode_pool": np.zeros(n),
    }  # fmt: skip
    table |= {name: np.array(column) for name, column in columns.items()}
    return tasks(table, np.array(edges, np.int64).reshape(-1, 3))


def run(
    pools: Sequence[Pool],
    work: Tasks,
    tree: Prefixes | None = None,
    router: Any = "least-pending-tokens",
    unbounded: bool = False,
    until_s: float = np.inf,
    links: Sequence[PoolLink] = (),
    admission: Any = "all",
    max_queue: float = np.inf,
) -> State:
    tree = tree or no_prefixes()
    name = router if isinstance(router, str) else None
    records = pool_table(pools, name, tree.block_tokens)
    state = new_state(
        records, work, tree, unbounded, link_table(records, pools, links), stores_of(pools, tree.block_tokens)
    )
    builtin = builtin_admission(admission) if isinstance(admission, str) else None
    set_admission(state, builtin)
    drive(
        state,
        work,
        tree,
        until_s,
        None if name else router,
        admission=None if builtin else admission,
        max_queue=max_queue,
    )
    return state


class ProgramBuilder:
    """Builds a FlatProgram op by op; region 0 is the entry."""

    def __init__(self) -> None:
        self.ops: list[dict[str, Any]] = []
        self.args: list[list[int]] = [[]]
        self.yields: list[list[int]] = [[]]
        self.owner = [-1]
        self.values = 0
        self.distributions: list[Distribution] = []

    def value(self) -> int:
        self.values += 1
        return self.values - 1

    def region(self, args: int = 0) -> int:
        self.args.append([self.value() for _ in range(args)])
        self.yields.append([])
        self.owner.append(-1)
        return len(self.args) - 1

    def op(
        self,
        kind: OpKind,
        name: str,
        inputs: Sequence[int] = (),
        results: int = 1,
        region: int = 0,
        children: Sequence[int] = (),
        streams: Sequence[int] = (),
        stats: Mapping[Slot, float | Distribution] | None = None,
        **attrs: Any,
    ) -> list[int]:
        outs = [self.value() for _ in range(results)]
        rows = [-1] * len(Slot)
        for slot, number in (stats or {}).items():
            rows[slot] = len(self.distributions)
            self.distributions.append(number if isinstance(number, Distribution) else constant(number))
        self.ops.append(
            {
                "kind": kind,
                "name": name,
                "in": list(inputs),
                "out": outs,
                "region": region,
                "children": list(children),
                "streams": set(streams),
                "stats": rows,
                "attrs": attrs,
            }
        )
        return outs

    def llm(
        self,
        name: str,
        inputs: Sequence[int],
        region: int = 0,
        tokens_in: float | None = None,
        tokens_out: float | None = None,
    ) -> tuple[int, int]:
        """The four phases of a call; its chat and its text."""
        common = {"call": name, "model": "m"}
        told = {} if tokens_in is None else {Slot.TOKENS_IN: tokens_in}
        made = {} if tokens_out is None else {Slot.TOKENS_OUT: tokens_out}
        (prompt,) = self.op(OpKind.KV_LOOKUP, f"{name}.lookup", inputs, region=region, stats=told, **common)
        (kv,) = self.op(OpKind.PREFILL, f"{name}.prefill", [prompt], region=region, **common)
        (kv,) = self.op(OpKind.KV_TRANSFER, f"{name}.transfer", [kv], region=region, **common)
        chat, text = self.op(OpKind.DECODE, f"{name}.decode", [kv, prompt], 2, region, stats=made, **common)
        return chat, text

    def build(self) -> FlatProgram:
        def ragged(rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
            offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int32)
            return offsets, np.array([x for r in rows for x in r], np.int32)

        ops = self.ops
        operand_offsets, operands = ragged([o["in"] for o in ops])
        result_offsets, results = ragged([o["out"] for o in ops])
        child_offsets, children = ragged([o["children"] for o in ops])
        arg_offsets, args = ragged(self.args)
        yield_offsets, yields = ragged(self.yields)
        return FlatProgram(
            kind=np.array([o["kind"] for o in ops], np.int32), region=np.array([o["region"] for o in ops], np.int32),
            operand_offsets=operand_offsets, operands=operands,
            streams=np.array([k in o["streams"] for o in ops for k in range(len(o["in"]))], np.bool_),
            result_offsets=result_offsets, results=results, child_offsets=child_offsets, children=children,
            region_owner=np.array(self.owner, np.int32), arg_offsets=arg_offsets, args=args,
            yield_offsets=yield_offsets, yields=yields, statistics=np.array([o["stats"] for o in ops], np.int32),
            pool=np.full(len(ops), -1, np.int32), value_count=self.values, entry=0,
            names=tuple(o["name"] for o in ops), attrs=tuple(o["attrs"] for o in ops),
            where=tuple(Where("agent.py", k + 1) for k in range(len(ops))), distributions=tuple(self.distributions),
            pools=(), graphs={"agent": 0}, value_types=("!agent.text",) * self.values,
        )  # fmt: skip


def one_call() -> FlatProgram:
    """A program with a single LLM call."""
    builder = ProgramBuilder()
    builder.args[0] = [builder.value()]
    _, text = builder.llm("ask", builder.args[0])
    builder.yields[0] = [text]
    return builder.build()


def placed(*calls: str, pool: str = "llm", decode: str = "") -> dict[str, str]:
    """Placement of LLM calls on one pool, or on two."""
    phases = {"lookup": pool, "prefill": pool, "transfer": pool, "decode": decode or pool}
    return {f"{call}.{phase}": where for call in calls for phase, where in phases.items()}
