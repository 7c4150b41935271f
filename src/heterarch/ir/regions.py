"""What regions read of the values around them; the planner, the simulator and the executor all wait for it."""

from __future__ import annotations

from heterarch.ir.flat import FlatProgram, OpKind

NESTED = frozenset({OpKind.BRANCH, OpKind.LOOP, OpKind.MAP})  # a sub-agent has values of its own


def captures(flat: FlatProgram) -> list[frozenset[int]]:
    """Region -> values of enclosing regions that it reads, those that regions inside it read included."""
    known: dict[int, frozenset[int]] = {}
    members = [flat.ops_in(region).tolist() for region in range(len(flat.region_owner))]

    def free(region: int) -> frozenset[int]:
        if region not in known:
            read = set(flat.yielded(region).tolist())
            written = set(flat.arguments(region).tolist())
            for op in members[region]:
                read.update(flat.inputs(op).tolist())
                written.update(flat.outputs(op).tolist())
                if flat.kind[op] in NESTED:
                    read.update(*(free(inner) for inner in flat.regions_of(op).tolist()))
            known[region] = frozenset(read - written)
        return known[region]

    return [free(region) for region in range(len(members))]


def captured(flat: FlatProgram) -> list[tuple[int, ...]]:
    """Op -> values that its regions read from around it, beside its inputs; the op starts when they are there.

    So does the executor: a region is entered once, when everything in it can go on.
    """
    free = captures(flat)
    found: list[tuple[int, ...]] = []
    for op in range(len(flat)):
        regions = flat.regions_of(op).tolist() if flat.kind[op] in NESTED else []
        read = frozenset().union(*(free[region] for region in regions))
        found.append(tuple(sorted(read - set(flat.inputs(op).tolist()))))
    return found
