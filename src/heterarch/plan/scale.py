"""A plan scaled down to this machine: the same module, placement and policies on local llama.cpp engines."""

from __future__ import annotations

from heterarch.catalog.model import Model
from heterarch.errors import InputError
from heterarch.ir.passes import run_passes
from heterarch.ir.passes.place import Place
from heterarch.ir.text import parse_module, print_module
from heterarch.plan.document import LocalPart, OpPrediction, Plan, Pool, StepPart
from heterarch.plan.unloaded import unloaded_s
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
_FITTED = "llama.cpp with the built-in tiny model on 2 cores of an AMD EPYC (Zen 4), one thread, 139 to 4,039 tokens"
#: what an iteration of the tiny model takes: heads of 16 values make attention slow and the rest nearly free
STEP = StepPart(fixed_s=2e-4, token_s=1e-5, pair_s=8.5e-8, context_s=1.2e-6)
FILE_BYTES_PER_S = 0.25e9  # KV goes through a file in a shared folder
FILE_S = 5e-3  # two HTTP requests and two openings of it


def scaled_down(
    plan: Plan,
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
    KV moves between processes. The predictions of LLM ops become those for that model on a CPU (fitted on one machine),
    for prompts of ``prompt_tokens`` and answers of ``max_tokens``; those of other ops stay. ``apart`` splits every pool
    that does both phases, hosted APIs too, into one for prefill and one for decode.

    Raises:
        InputError: a number below one.
    """
    if min(engines, slots, threads, context_tokens, prompt_tokens, max_tokens) < 1:
        raise InputError("a scaled-down plan needs numbers of at least one")
    plan = _split(plan) if apart else plan
    local = LocalPart(kind="xllamacpp", model_path="tiny", context_tokens=context_tokens, threads=threads, slots=slots)
    pools = [_scaled(pool, local, engines) if pool.role in _LLM else pool for pool in plan.pools]
    scaled = {pool.name: pool for pool in pools}
    llm = {pool.name for pool in plan.pools if pool.role in _LLM}
    ops = [
        _predicted(op, scaled[op.pool], prompt_tokens, max_tokens) if op.pool in llm else op
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
            "links": [],  # of the devices that were planned
            "placement": placement,
            "agent": plan.agent.model_copy(update={"module": print_module(module)}),
            "predictions": plan.predictions.model_copy(update={"ops": ops}),
        }
    )


def _scaled(pool: Pool, local: LocalPart, engines: int) -> Pool:
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
            "transfer_bytes_per_s": FILE_BYTES_PER_S,
            "transfer_latency_s": FILE_S,
            "step": STEP,
            "endpoint": None,
            "local": local,
        }
    )


def _predicted(op: OpPrediction, pool: Pool, prompt_tokens: int, max_tokens: int) -> OpPrediction:
    seconds = unloaded_s(op.kind, pool, prompt_tokens, 0, max_tokens)
    update = {"mean_s": seconds or 0.0, "usd_per_request": 0.0, "source": f"fitted: {_FITTED}"}
    return op.model_copy(update=update)
