"""Flat programs built by hand, so that the executor is tested without the front ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from heterarch.errors import Where
from heterarch.ir.flat import FlatProgram, Int32, OpKind, Slot
from heterarch.workload.distribution import Distribution, constant

TEXT, CHAT, DATA, PROMPT, KV = "!agent.text", "!agent.chat", "!agent.data", "!serve.prompt", "!serve.kv"


@dataclass
class Program:
    """Appends ops to the current region; ``op`` returns the ids of its results."""

    rows: list[dict] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    args: list[list[int]] = field(default_factory=list)
    yields: list[list[int]] = field(default_factory=list)
    distributions: list[Distribution] = field(default_factory=list)
    graphs: dict[str, int] = field(default_factory=dict)
    stack: list[int] = field(default_factory=list)

    def value(self, kind: str = DATA) -> int:
        self.types.append(kind)
        return len(self.types) - 1

    def region(self, owner: int, arguments: Sequence[str]) -> int:
        self.owners.append(owner)
        self.args.append([self.value(kind) for kind in arguments])
        self.yields.append([])
        return len(self.owners) - 1

    @contextmanager
    def graph(self, name: str, *arguments: str) -> Iterator[list[int]]:
        region = self.graphs[name] = self.region(-1, arguments)
        self.stack.append(region)
        yield self.args[region]
        self.stack.pop()

    @contextmanager
    def body(self, owner: int, *arguments: str) -> Iterator[list[int]]:
        region = self.region(owner, arguments)
        self.rows[owner]["children"].append(region)
        self.stack.append(region)
        yield self.args[region]
        self.stack.pop()

    def give(self, *values: int) -> None:
        self.yields[self.stack[-1]] = list(values)

    def op(
        self,
        kind: OpKind,
        name: str,
        inputs: Sequence[int] = (),
        outputs: Sequence[str] = (DATA,),
        *,
        pool: str | None = None,
        statistics: Mapping[Slot, float] | None = None,
        calls: str | None = None,
        **attrs: object,
    ) -> list[int]:
        results = [self.value(each) for each in outputs]
        row = {"kind": kind, "region": self.stack[-1], "inputs": list(inputs), "outputs": results, "name": name}
        row |= {"children": [self.graphs[calls]] if calls else [], "pool": pool, "attrs": attrs}
        row["statistics"] = [-1] * len(Slot)
        for slot, mean in (statistics or {}).items():
            self.distributions.append(constant(mean))
            row["statistics"][slot] = len(self.distributions) - 1
        self.rows.append(row)
        return results

    @property
    def last(self) -> int:
        return len(self.rows) - 1

    def call(
        self, name: str, chat: int, inputs: Sequence[int], prefill: str, decode: str, **attrs: object
    ) -> tuple[int, int]:
        """The four phases of an LLM call; the chat after it and the answer."""
        template = attrs.pop("template", "")
        common = {"call": name, "model": "tiny"}
        prompt = self.op(
            OpKind.KV_LOOKUP, f"{name}.kv_lookup", [chat, *inputs], [PROMPT], pool=prefill, template=template, **common
        )[0]
        kv = self.op(OpKind.PREFILL, f"{name}.prefill", [prompt], [KV], pool=prefill, **common)[0]
        moved = self.op(OpKind.KV_TRANSFER, f"{name}.kv_transfer", [kv], [KV], pool=decode, **common)[0]
        after, text = self.op(
            OpKind.DECODE, f"{name}.decode", [moved, prompt], [CHAT, TEXT], pool=decode, **common, **attrs
        )
        return after, text

    def flat(self, entry: str = "main") -> FlatProgram:
        rows = self.rows
        pools = sorted({row["pool"] for row in rows if row["pool"]})
        operand_offsets, operands = _ragged([row["inputs"] for row in rows])
        result_offsets, results = _ragged([row["outputs"] for row in rows])
        child_offsets, children = _ragged([row["children"] for row in rows])
        arg_offsets, args = _ragged(self.args)
        yield_offsets, yields = _ragged(self.yields)
        return FlatProgram(
            kind=np.array([row["kind"] for row in rows], np.int32),
            region=np.array([row["region"] for row in rows], np.int32),
            operand_offsets=operand_offsets,
            operands=operands,
            streams=np.zeros(len(operands), np.bool_),
            result_offsets=result_offsets,
            results=results,
            child_offsets=child_offsets,
            children=children,
            region_owner=np.array(self.owners, np.int32),
            arg_offsets=arg_offsets,
            args=args,
            yield_offsets=yield_offsets,
            yields=yields,
            statistics=np.array([row["statistics"] for row in rows], np.int32).reshape(len(rows), len(Slot)),
            pool=np.array([pools.index(row["pool"]) if row["pool"] else -1 for row in rows], np.int32),
            value_count=len(self.types),
            entry=self.graphs[entry],
            names=tuple(row["name"] for row in rows),
            attrs=tuple(row["attrs"] for row in rows),
            where=tuple(Where("agent.py", number + 1) for number in range(len(rows))),
            distributions=tuple(self.distributions),
            pools=tuple(pools),
            graphs=dict(self.graphs),
            value_types=tuple(self.types),
        )


def _ragged(rows: list[list[int]]) -> tuple[Int32, Int32]:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    return offsets, np.array([item for row in rows for item in row], np.int32)
