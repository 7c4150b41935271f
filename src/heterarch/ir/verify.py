"""The verifier: what each op asks of itself, and what only the whole module can answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.utils.exceptions import VerifyException

from heterarch.errors import UnknownNameError, VerifyError
from heterarch.ir.agent import CallOp, GraphOp, MemoryStoreOp, ToolOp, YieldOp
from heterarch.ir.op import TaskOp, where
from heterarch.ir.serve import ServeToolOp


def verify(module: ModuleOp) -> None:
    """Check a module.

    Raises:
        VerifyError: the first rule that is broken, with the line of the user's program.
        UnknownNameError: a call of a graph that is not in the module.
    """
    graphs = graphs_of(module)
    _unique(graphs.items_seen, "graph")
    for op in module.walk():
        _verify_op(op)
    _unique(((op.id.data, op) for op in tasks(module)), "op")
    for op in module.walk():
        if isinstance(op, CallOp):
            _verify_call(op, graphs)
        _verify_order(op)
        _verify_reached(op)
    _verify_no_recursion(graphs)


class Graphs(dict[str, GraphOp]):
    """The graphs of a module by name, and every (name, op) seen, duplicates included."""

    items_seen: list[tuple[str, Operation]]


def graphs_of(module: ModuleOp) -> Graphs:
    """The graphs of ``module`` by name."""
    seen: list[tuple[str, Operation]] = []
    graphs = Graphs()
    for op in module.body.block.ops:
        if isinstance(op, GraphOp):
            seen.append((op.sym_name.data, op))
            graphs[op.sym_name.data] = op
    graphs.items_seen = seen
    return graphs


def tasks(module: ModuleOp) -> Iterator[TaskOp]:
    """Every op with an id, in program order."""
    for op in module.walk():
        if isinstance(op, TaskOp):
            yield op


def _unique(named: Iterable[tuple[str, Operation]], kind: str) -> None:
    first: dict[str, Operation] = {}
    for name, op in named:
        if name in first:
            raise VerifyError(
                f"two {kind}s are called {name!r}",
                observed=f"the first is at {where(first[name])}",
                where=where(op),
                fix="give one of them another name",
            )
        first[name] = op


def _verify_op(op: Operation) -> None:
    try:
        op.verify(verify_nested_ops=False)
    except VerifyException as error:
        label = f"{op.name} {op.id.data!r}" if isinstance(op, TaskOp) else op.name
        raise VerifyError(f"{label}: {error}", where=where(op)) from None


def _verify_call(op: CallOp, graphs: Graphs) -> None:
    callee = graphs.get(op.callee.data)
    if callee is None:
        raise UnknownNameError("sub-agent", op.callee.data, graphs, where=where(op))
    wanted = callee.function_type.inputs.data
    if tuple(v.type for v in op.inputs) != wanted:
        raise VerifyError(
            f"the call of {op.callee.data!r} passes other types than the agent takes",
            observed=tuple(str(v.type) for v in op.inputs),
            expected=tuple(map(str, wanted)),
            where=where(op),
        )


def _verify_order(op: Operation) -> None:
    for value in op.operands:
        if not _available(value, op):
            name = value.name_hint or "a value"
            raise VerifyError(
                f"{op.name} reads {name!r} before it is computed",
                where=where(op),
                fix="data that goes round in a cycle is carried by a loop",
            )


def _available(value: SSAValue, user: Operation) -> bool:
    """Whether ``value`` is defined before ``user`` in an enclosing block."""
    owner = value.owner
    home = owner if isinstance(owner, Block) else owner.parent_block()
    current: Operation | None = user
    while current is not None:
        if current.parent_block() is home:
            return isinstance(owner, Block) or owner.is_before_in_block(current)
        current = current.parent_op()
    return False


def _verify_reached(op: Operation) -> None:
    if not isinstance(op, TaskOp) or has_effects(op) or any(value.uses for value in op.outputs):
        return
    raise VerifyError(
        f"node {op.id.data!r} is unreachable from the output: nothing uses its result",
        where=where(op),
        fix="use its result, delete it, or declare effects=True where it changes the world",
    )


def has_effects(op: Operation) -> bool:
    """Whether an op, or one inside it, does something though nothing reads its result."""
    if isinstance(op, MemoryStoreOp):
        return True
    if isinstance(op, ToolOp | ServeToolOp):
        return op.effects is not None and bool(op.effects.value.data)
    if isinstance(op, CallOp):
        return True
    return any(_region_has_effects(region) for region in op.regions)


def _region_has_effects(region: Region) -> bool:
    return any(not isinstance(op, YieldOp) and has_effects(op) for block in region.blocks for op in block.ops)


def _verify_no_recursion(graphs: Graphs) -> None:
    callees = {name: [op for op in graph.walk() if isinstance(op, CallOp)] for name, graph in graphs.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        for call in callees[name]:
            target = call.callee.data
            if target in (*path, name):
                raise VerifyError(
                    "a sub-agent calls itself",
                    observed=" -> ".join((*path, name, target)),
                    where=where(call),
                    fix="express repetition with a loop",
                )
            if target not in done:
                visit(target, (*path, name))
        done.add(name)

    for name in graphs:
        visit(name, ())
