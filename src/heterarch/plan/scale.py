"""A plan scaled down to this machine: the same module, placement and policies on local llama.cpp engines."""

from __future__ import annotations

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.model import Model
from heterarch.cost.engine import EngineConfig, decode_s, prefill_s, step_cost, step_source
from heterarch.cost.step import StepCost
from heterarch.errors import InputError
from heterarch.ir.passes import run_passes
from heterarch.ir.passes.place import Place
from heterarch.ir.text import parse_module, print_module
from heterarch.plan.document import LocalPart, OpPrediction, Plan, Pool, StepPart
from heterarch.units import Grade, Source

LOCAL_DEVICE = "cpu-local"
#: the built-in random llama of the local engine (0.6 MB, F32), as a row of the catalogue
TINY = Model(
    id="tiny",
    family="llama",
    layers=2,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    ffn_dense=128,
    vocab=512,
    native_dtype="fp32",
    context=16384,
    source=Source(Grade.DECLARED, "the built-in test model"),
)
_LLM = ("mixed", "prefill", "decode", "endpoint")
_FILE_BYTES_PER_S = 0.5e9  # KV goes through a file; a guess
_FILE_S = 2e-3  # two HTTP requests on loopback; a guess


def scaled_down(
    plan: Plan,
    catalog: Catalog,
    *,
    engines: int = 1,
    slots: int = 2,
    threads: int = 1,
    context_tokens: int = 8192,
    prompt_tokens: int = 512,
    max_tokens: int = 32,
    apart: bool = False,
) -> Plan:
    """The plan with every LLM pool on ``engines`` local engines of the built-in tiny model.

    Module, placement and policies stay, so what runs is what was planned: prefill and decode pools stay apart, and
    KV moves between processes. The predictions of LLM ops become those of the cost model for this CPU and that model,
    for prompts of ``prompt_tokens`` and answers of ``max_tokens``; those of other ops stay. ``apart`` splits every pool
    that does both phases, hosted APIs too, into one for prefill and one for decode.

    Raises:
        InputError: a number below one.
    """
    if min(engines, slots, threads, context_tokens, prompt_tokens, max_tokens) < 1:
        raise InputError("a scaled-down plan needs numbers of at least one")
    plan = _split(plan) if apart else plan
    config = EngineConfig(catalog.device(LOCAL_DEVICE), TINY, dtype="fp32", kv_dtype="bf16")
    cost, source = step_cost(config), f"{step_source(config)}; on {LOCAL_DEVICE} with the tiny model"
    local = LocalPart(kind="xllamacpp", model_path="tiny", context_tokens=context_tokens, threads=threads, slots=slots)
    pools = [_scaled(pool, local, engines, cost) if pool.role in _LLM else pool for pool in plan.pools]
    llm = {pool.name for pool in plan.pools if pool.role in _LLM}
    ops = [
        _predicted(plan, op, cost, source, prompt_tokens, max_tokens) if op.pool in llm else op
        for op in plan.predictions.ops
    ]
    note = f"Scaled down: every LLM pool is {engines} local engine(s) of the built-in tiny model; money is not its."
    return plan.model_copy(
        update={
            "pools": pools,
            "predictions": plan.predictions.model_copy(update={"ops": ops}),
            "notes": [*plan.notes, note],
        }
    )


def _split(plan: Plan) -> Plan:
    """The plan with the phases of every mixed pool on pools of their own."""
    halves = {p.name: (f"{p.name}-prefill", f"{p.name}-decode") for p in plan.pools if p.role in ("mixed", "endpoint")}
    pools: list[Pool] = []
    for pool in plan.pools:
        names = halves.get(pool.name)
        if names is None:
            pools.append(pool)
        else:
            pools += [pool.model_copy(update={"name": names[0], "role": "prefill"}),
                      pool.model_copy(update={"name": names[1], "role": "decode"})]  # fmt: skip
    placement = {
        op: halves[pool][op.endswith((".kv_transfer", ".decode"))] if pool in halves else pool
        for op, pool in plan.placement.items()
    }
    ops = [op.model_copy(update={"pool": placement.get(op.op, op.pool)}) for op in plan.predictions.ops]
    module = run_passes(parse_module(plan.agent.module), [Place.of(placement)])
    return plan.model_copy(
        update={
            "pools": pools,
            "placement": placement,
            "agent": plan.agent.model_copy(update={"module": print_module(module)}),
            "predictions": plan.predictions.model_copy(update={"ops": ops}),
        }
    )


def _scaled(pool: Pool, local: LocalPart, engines: int, cost: StepCost) -> Pool:
    return pool.model_copy(
        update={
            "role": "mixed" if pool.role == "endpoint" else pool.role,
            "device": LOCAL_DEVICE,
            "engines": engines,
            "devices_per_engine": 1,
            "tp": 1,
            "pp": 1,
            "dtype": "fp32",
            "kv_dtype": "bf16",
            "concurrency": local.slots,
            "context_tokens": local.context_tokens,
            "kv_tokens": local.context_tokens * local.slots,
            "kv_bytes_per_token": TINY.kv_bytes_per_token("bf16"),
            "usd_per_engine_h": 0.0,
            "watts_per_engine": 0.0,
            "step": StepPart(**cost._asdict()),
            "endpoint": None,
            "local": local,
        }
    )


def _predicted(
    plan: Plan, op: OpPrediction, cost: StepCost, source: str, prompt_tokens: int, max_tokens: int
) -> OpPrediction:
    seconds = 0.0
    if op.kind == "prefill":
        seconds = float(prefill_s(cost, prompt_tokens))
    elif op.kind == "decode":
        seconds = (max_tokens - 1) * float(decode_s(cost, 1, prompt_tokens + max_tokens / 2))
    elif op.kind == "kv_transfer" and _moves(plan, op):
        seconds = _FILE_S + prompt_tokens * TINY.kv_bytes_per_token("bf16") / _FILE_BYTES_PER_S
        source = "guess: KV through a file between two local engines"
    return op.model_copy(update={"mean_s": seconds, "usd_per_request": 0.0, "source": source})


def _moves(plan: Plan, op: OpPrediction) -> bool:
    """Whether the KV of this transfer goes from one pool to another."""
    prefill = op.op.removesuffix(".kv_transfer") + ".prefill"
    return plan.placement.get(prefill, op.pool) != op.pool
