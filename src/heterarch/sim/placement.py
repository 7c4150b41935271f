"""Which pool of the plan each op of the program runs on."""

from __future__ import annotations

from dataclasses import dataclass

from heterarch.errors import InputError, UnknownNameError
from heterarch.ir.flat import FlatProgram, OpKind, Slot
from heterarch.plan.document import Plan


@dataclass(frozen=True, slots=True)
class CallOps:
    """The ops of one LLM call; -1 where the program has no such phase."""

    lookup: int = -1
    prefill: int = -1
    transfer: int = -1
    decode: int = -1


_PHASE = {
    OpKind.KV_LOOKUP: "lookup",
    OpKind.PREFILL: "prefill",
    OpKind.KV_TRANSFER: "transfer",
    OpKind.DECODE: "decode",
}


def call_ops(flat: FlatProgram) -> dict[str, CallOps]:
    """The phases of every LLM call of a lowered program, by the id of the call.

    Raises:
        InputError: a call without a decode.
    """
    found: dict[str, dict[str, int]] = {}
    for op, kind in enumerate(flat.kind.tolist()):
        if kind in _PHASE:
            found.setdefault(str(flat.attrs[op].get("call", "")), {})[_PHASE[OpKind(kind)]] = op
    for call, phases in found.items():
        if "decode" not in phases:
            raise InputError(f"the LLM call {call!r} has no decode", fix="lower the program first")
    return {call: CallOps(**phases) for call, phases in found.items()}


class Placement:
    """Rows of ``plan.pools`` by op."""

    def __init__(self, plan: Plan, flat: FlatProgram) -> None:
        self.rows = {pool.name: row for row, pool in enumerate(plan.pools)}
        self.placed = plan.placement
        self.flat = flat

    def pool(self, op: int) -> int:
        """The pool that ``op`` is placed on, -1 for none.

        Raises:
            UnknownNameError: the plan places it on a pool that it does not have.
        """
        name = self.placed.get(self.flat.names[op]) or self.flat.pool_of(op)
        if name is None:
            return -1
        if name not in self.rows:
            raise UnknownNameError("pool", name, self.rows, where=self.flat.where[op])
        return self.rows[name]

    def call(self, ops: CallOps) -> tuple[int, int]:
        """Prefill and decode pool of an LLM call.

        Raises:
            InputError: the call is placed nowhere.
        """
        decode = self.pool(ops.decode)
        prefill = self.pool(ops.prefill) if ops.prefill >= 0 else decode
        if decode < 0 or prefill < 0:
            name = self.flat.names[ops.decode]
            raise InputError(f"the plan places {name!r} on no pool", where=self.flat.where[ops.decode])
        return prefill, decode


def check_ops(plan: Plan, flat: FlatProgram) -> None:
    """Refuse a plan whose placement and program disagree.

    Raises:
        UnknownNameError: it places an op that its program does not have.
    """
    unknown = sorted(set(plan.placement) - set(flat.names))
    if unknown:
        error = UnknownNameError("op", unknown[0], flat.names, fix="plan the agent again")
        error.what = f"the plan places an op that its program does not have: {unknown[0]}"
        raise error


def main_call(flat: FlatProgram) -> CallOps:
    """The LLM call that generates most per visit: the one that a trace is replayed on.

    Raises:
        InputError: the program has no LLM call.
    """
    calls = list(call_ops(flat).values())
    if not calls:
        raise InputError("the program has no LLM call to replay a trace on")

    def tokens(ops: CallOps) -> float:
        own = flat.statistic(ops.decode, Slot.TOKENS_OUT)
        return own.mean if own else 0.0

    return max(calls, key=tokens)
