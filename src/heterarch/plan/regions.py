"""What an op waits for: its inputs, and what its regions read of the values around them."""

from __future__ import annotations

from heterarch.ir.flat import FlatProgram, OpKind

_SEES_OUTER = (OpKind.BRANCH, OpKind.LOOP, OpKind.MAP)  # a sub-agent has values of its own


def captured(flat: FlatProgram) -> list[tuple[int, ...]]:
    """Op -> values that its regions read from around it, beside its inputs; the op starts when they are there.

    So does the executor: a region is entered once, when everything in it can go on.
    """
    known: dict[int, frozenset[int]] = {}
    members = [flat.ops_in(region).tolist() for region in range(len(flat.region_owner))]

    def free(region: int) -> frozenset[int]:
        if region not in known:
            read = set(flat.yielded(region).tolist())
            written = set(flat.arguments(region).tolist())
            for op in members[region]:
                read.update(flat.inputs(op).tolist(), outer(op))
                written.update(flat.outputs(op).tolist())
            known[region] = frozenset(read - written)
        return known[region]

    def outer(op: int) -> frozenset[int]:
        if flat.kind[op] not in _SEES_OUTER:
            return frozenset()
        return frozenset().union(*(free(region) for region in flat.regions_of(op).tolist()))

    return [tuple(sorted(outer(op) - set(flat.inputs(op).tolist()))) for op in range(len(flat))]
