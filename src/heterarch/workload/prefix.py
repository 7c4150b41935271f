"""Prefix sharing between prompts: from "which earlier prompt shares how much" to an exact radix tree, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heterarch.errors import TraceError

Int32 = NDArray[np.int32]


class PrefixTree(NamedTuple):
    """Runs of KV blocks that every prompt uses whole or not at all; a prompt is the path from a root to its leaf.

    ``parent[k]`` is the node before node ``k`` (-1: node ``k`` starts a prompt), always less than ``k``;
    ``blocks[k]``, at least 1, is the length of its run.
    """

    parent: Int32
    blocks: Int32

    def __len__(self) -> int:
        return len(self.parent)

    def path(self, leaf: int) -> list[int]:
        """The nodes of the prompt that ends at ``leaf``, first block first."""
        nodes = []
        while leaf >= 0:
            nodes.append(leaf)
            leaf = int(self.parent[leaf])
        return nodes[::-1]


def prefix_tree(parent: Int32, shared_blocks: Int32, n_blocks: Int32) -> tuple[PrefixTree, Int32]:
    """The radix tree of n prompts, and the node at which each of them ends.

    Nodes are split at every branching point and at the end of every prompt, so the blocks on the path to ``leaf[i]``
    are exactly those of prompt ``i``, and two prompts share exactly the nodes that their paths share.

    Args:
        parent: [n] an earlier prompt that shares the longest prefix, -1 none.
        shared_blocks: [n] length of that prefix.
        n_blocks: [n] blocks of the prompt, at least 1.

    Raises:
        TraceError: a parent that is not earlier, or a shared prefix longer than one of its two prompts.
    """
    check_relation(parent, shared_blocks, n_blocks)
    above: list[int] = []  # node -> node before it
    end: list[int] = []  # node -> blocks from the root to its end; splitting a node leaves the end of both halves
    leaves: list[int] = []
    for shared, count, earlier in zip(shared_blocks.tolist(), n_blocks.tolist(), parent.tolist(), strict=True):
        node = _split_at(above, end, leaves[earlier], shared) if shared else -1
        if count > shared:
            above.append(node)
            end.append(count)
            node = len(end) - 1
        leaves.append(node)
    return _renumbered(above, end, leaves)


def prefix_relation(tree: PrefixTree, leaf: Int32) -> tuple[Int32, Int32]:
    """The inverse of :func:`prefix_tree`, for all prompts of a tree or any selection of them, in the order given.

    Returns:
        parent: [n] the first earlier prompt of the selection that shares the longest prefix, -1 none.
        shared_blocks: [n] length of that prefix.
    """
    above, blocks = tree.parent.tolist(), tree.blocks.tolist()
    depth = _depths(above, blocks)
    owner = [-1] * len(above)
    parent, shared = np.full(len(leaf), -1, np.int32), np.zeros(len(leaf), np.int32)
    for row, node in enumerate(leaf.tolist()):
        while node >= 0 and owner[node] < 0:
            owner[node] = row
            node = above[node]
        if node >= 0:
            parent[row], shared[row] = owner[node], depth[node]
    return parent, shared


def relation_of_block_ids(prompts: Iterable[Sequence[int]]) -> tuple[Int32, Int32, Int32]:
    """``parent``, ``shared_blocks`` and ``n_blocks`` of prompts given as sequences of block ids.

    Blocks are looked up by id and by what stands before them, so it does not matter whether an id names the block
    alone or, as vLLM and Mooncake hash it, the block and everything before it.
    """
    first: dict[tuple[int, int], tuple[int, int]] = {}  # (node before, block id) -> (node, first prompt with it)
    parent, shared, count = [], [], []
    for row, ids in enumerate(prompts):
        node, owner, depth = -1, -1, 0
        for block in ids:
            node, known = first.setdefault((node, block), (len(first), row))
            if known != row:
                owner, depth = known, depth + 1
        parent.append(owner)
        shared.append(depth)
        count.append(len(ids))
    return np.array(parent, np.int32), np.array(shared, np.int32), np.array(count, np.int32)


def ideal_hit_rate(tree: PrefixTree, n_blocks: Int32) -> float:
    """The share of prompt blocks found in a cache that never forgets: 1 - distinct blocks / prompt blocks."""
    asked = int(n_blocks.sum())
    return 1.0 - int(tree.blocks.sum()) / asked if asked else 0.0


def check_relation(parent: Int32, shared_blocks: Int32, n_blocks: Int32) -> None:
    """Refuse a prefix relation that no set of prompts can have.

    Raises:
        TraceError: unequal lengths, an empty prompt, a parent that is not earlier, or a prefix longer than its prompts.
    """
    if not len(parent) == len(shared_blocks) == len(n_blocks):
        raise TraceError(
            "parent, shared_blocks and n_blocks must have one row per call",
            observed=f"{len(parent)}, {len(shared_blocks)} and {len(n_blocks)} rows",
        )
    rows = np.arange(len(parent))
    longest = (
        np.minimum(n_blocks, np.where(parent >= 0, n_blocks[np.clip(parent, 0, None)], 0)) if len(rows) else n_blocks
    )
    for bad, what in (
        (n_blocks < 1, "a prompt needs at least one block"),
        ((parent >= rows) | (parent < -1), "a parent must be an earlier call, or -1"),
        ((shared_blocks < 0) | (shared_blocks > longest), "a shared prefix is at most as long as its two prompts"),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            raise TraceError(
                f"call {row}: {what}",
                observed=f"parent {parent[row]}, shared_blocks {shared_blocks[row]}, n_blocks {n_blocks[row]}",
            )


def _split_at(above: list[int], end: list[int], node: int, depth: int) -> int:
    """The node on the path to ``node`` that ends at ``depth``; made by cutting one in two where there is none."""
    while above[node] >= 0 and end[above[node]] >= depth:
        node = above[node]
    if end[node] == depth:
        return node
    above.append(above[node])
    end.append(depth)
    above[node] = len(end) - 1
    return above[node]


def _renumbered(above: list[int], end: list[int], leaves: list[int]) -> tuple[PrefixTree, Int32]:
    parent, ends = np.array(above, np.int32), np.array(end, np.int32)
    blocks = ends - np.where(parent >= 0, ends[parent] if len(ends) else 0, 0)
    order = np.argsort(ends - blocks, kind="stable")  # by the depth at which a run starts: parents come first
    place = np.empty(len(order) + 1, np.int32)
    place[order] = np.arange(len(order))
    place[-1] = -1
    tree = PrefixTree(place[parent[order]], blocks[order].astype(np.int32))
    return tree, place[np.array(leaves, np.int64)]


def _depths(above: list[int], blocks: list[int]) -> list[int]:
    depth: list[int] = []
    for node, before in enumerate(above):
        depth.append(blocks[node] + (depth[before] if before >= 0 else 0))
    return depth
