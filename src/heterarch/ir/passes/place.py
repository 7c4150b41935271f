"""Write a placement into the module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.passes import ModulePass

from heterarch.errors import InputError, UnknownNameError
from heterarch.ir.op import PlacedOp
from heterarch.ir.verify import tasks


@dataclass(frozen=True)
class Place(ModulePass):
    """Set ``pool`` of each named op; ``assign`` holds entries ``op=pool``, or ``*=pool`` for all the others.

    Preserves everything but ``pool``.
    """

    name = "place"
    assign: tuple[str, ...] = ()

    @classmethod
    def of(cls, placement: Mapping[str, str]) -> Place:
        """The pass that writes ``placement`` (op id to pool name)."""
        return cls(tuple(f"{op}={pool}" for op, pool in placement.items()))

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Write the placement into ``op``.

        Raises:
            InputError: an entry that is not ``op=pool``.
            UnknownNameError: no op of that id does work.
        """
        placed = {each.id.data: each for each in tasks(op) if isinstance(each, PlacedOp)}
        table = dict(_entry(text) for text in self.assign)
        default = table.pop("*", None)
        for name in table:
            if name not in placed:
                raise UnknownNameError("op", name, placed)
        for name, each in placed.items():
            pool = table.get(name, default)
            if pool is not None:
                each.properties["pool"] = StringAttr(pool)


def _entry(text: str) -> tuple[str, str]:
    name, mark, pool = text.rpartition("=")
    if not mark or not name or not pool:
        raise InputError("cannot read the placement", observed=repr(text), expected="op=pool")
    return name, pool
