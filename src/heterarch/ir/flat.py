"""The flat executable form: frozen arrays that `sim`, `run` and `emit` read instead of xDSL objects.

Ops stand in pre-order: the ops of an op's regions follow it. Region ``r`` is a list of ops (those with
``region[op] == r``), the values it receives (arguments) and the values it hands back (yields). Values are numbered
over the whole program. Several graphs (sub-agents) are several top-level regions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from heterarch.errors import Where
from heterarch.workload.distribution import Distribution

Int32 = NDArray[np.int32]


class OpKind(IntEnum):
    """What an op does; the first block is control flow, the second is work."""

    GRAPH_CALL = 0  # sub-agent call; region of the callee in ``regions_of(op)``
    AWAIT = 1  # wait for an async sub-agent call
    BRANCH = 2  # one region per case; ``attrs["cases"]``, ``attrs["probabilities"]``
    LOOP = 3  # one region; operands are the carried values, yields feed the next trip
    MAP = 4  # one region, argument 0 is the item; COUNT slot is the width
    CHAT = 5  # start a conversation from a system prompt
    MEMORY_LOAD = 6
    MEMORY_STORE = 7
    CONST = 8
    KV_LOOKUP = 16  # chat and inputs -> prompt; finds the cached prefix
    PREFILL = 17
    KV_TRANSFER = 18
    DECODE = 19  # -> chat, text
    TOOL = 20
    COMPUTE = 21
    EMBED = 22
    SEARCH = 23
    RERANK = 24
    AUDIO = 25
    IMAGE = 26
    HUMAN = 27
    TRANSFER = 28


class Slot(IntEnum):
    """Columns of :attr:`FlatProgram.statistics`."""

    TOKENS_IN = 0  # tokens appended to the chat by this call (or tokens of a chat's system prompt)
    TOKENS_OUT = 1
    SECONDS = 2  # service time of a tool, audio, image, compute, retrieval or human op
    COUNT = 3  # trips of a loop, width of a map, documents of a search


@dataclass(frozen=True)
class FlatProgram:
    """A module as frozen arrays.

    Shapes: n ops, e operand edges, m results, r regions. ``operands[operand_offsets[i]:operand_offsets[i + 1]]`` are
    the value ids op ``i`` reads; the other ``*_offsets`` work alike.
    """

    kind: Int32  # [n] OpKind
    region: Int32  # [n] region that holds the op
    operand_offsets: Int32  # [n + 1]
    operands: Int32  # [e] value ids
    streams: NDArray[np.bool_]  # [e] the reader may start on the first chunk of the value
    result_offsets: Int32  # [n + 1]
    results: Int32  # [m] value ids
    child_offsets: Int32  # [n + 1]
    children: Int32  # region ids that op i owns or calls
    region_owner: Int32  # [r] op that owns the region, -1 for the body of a graph
    arg_offsets: Int32  # [r + 1]
    args: Int32  # value ids
    yield_offsets: Int32  # [r + 1]
    yields: Int32  # value ids
    statistics: Int32  # [n, len(Slot)] row in ``distributions``, -1 where the op has none
    pool: Int32  # [n] row in ``pools``, -1 where the op runs on no pool
    value_count: int
    entry: int  # region of the entry graph
    names: tuple[str, ...]  # [n] unique name of each op, stable under passes ("step.decode")
    attrs: tuple[Mapping[str, object], ...]  # [n] what is not a number: model, callee, template, cases, ...
    where: tuple[Where, ...]  # [n] line of the user's program
    distributions: tuple[Distribution, ...]
    pools: tuple[str, ...]
    graphs: Mapping[str, int]  # graph name -> region
    value_types: tuple[str, ...]  # [value_count] printed type of each value, e.g. "!agent.text"

    def __len__(self) -> int:
        return len(self.kind)

    def inputs(self, op: int) -> Int32:
        """Value ids that ``op`` reads."""
        return self.operands[self.operand_offsets[op] : self.operand_offsets[op + 1]]

    def outputs(self, op: int) -> Int32:
        """Value ids that ``op`` writes."""
        return self.results[self.result_offsets[op] : self.result_offsets[op + 1]]

    def regions_of(self, op: int) -> Int32:
        """Regions that ``op`` owns (branch, loop, map) or calls (sub-agent)."""
        return self.children[self.child_offsets[op] : self.child_offsets[op + 1]]

    def ops_in(self, region: int) -> Int32:
        """Ops that stand directly in ``region``, in program order."""
        return np.flatnonzero(self.region == region).astype(np.int32)

    def arguments(self, region: int) -> Int32:
        """Value ids that ``region`` receives."""
        return self.args[self.arg_offsets[region] : self.arg_offsets[region + 1]]

    def yielded(self, region: int) -> Int32:
        """Value ids that ``region`` hands back."""
        return self.yields[self.yield_offsets[region] : self.yield_offsets[region + 1]]

    def statistic(self, op: int, slot: Slot) -> Distribution | None:
        """The distribution of ``op`` in ``slot``, or None."""
        row = int(self.statistics[op, slot])
        return self.distributions[row] if row >= 0 else None

    def pool_of(self, op: int) -> str | None:
        """Name of the pool that ``op`` is placed on, or None."""
        row = int(self.pool[op])
        return self.pools[row] if row >= 0 else None
