"""The one place that touches xDSL's rewriting interface, which changes between minor versions."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter


def replace(op: Operation, new_ops: Sequence[Operation], results: Sequence[SSAValue]) -> None:
    """Put ``new_ops`` where ``op`` stood, route its results to ``results``, and erase it.

    Locations and names of results carry over to ops and values that have none of their own.
    """
    for new in new_ops:
        new.location = op.location
    for old, value in zip(op.results, results, strict=True):
        value.name_hint = value.name_hint or old.name_hint
    Rewriter.insert_op(list(new_ops), InsertPoint.before(op))
    for old, value in zip(op.results, results, strict=True):
        old.replace_all_uses_with(value)
    op.detach()  # type: ignore[no-untyped-call]
    op.erase()
