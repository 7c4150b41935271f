"""The radix tree holds exactly the prompts it was made from, and gives their relation back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.errors import TraceError
from heterarch.workload.prefix import (
    PrefixTree,
    ideal_hit_rate,
    prefix_relation,
    prefix_tree,
    relation_of_block_ids,
)

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=14)


def arrays(*columns: list[int]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(column, np.int32) for column in columns)


def common(a: list[int], b: list[int]) -> int:
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def expand(tree: PrefixTree, leaf: np.ndarray, prompts: list[list[int]]) -> None:
    """Every node stands for the same run of blocks in every prompt that passes through it."""
    runs: dict[int, tuple[int, ...]] = {}
    for node, prompt in zip(leaf.tolist(), prompts, strict=True):
        done = 0
        for step in tree.path(node):
            upto = done + int(tree.blocks[step])
            assert runs.setdefault(step, tuple(prompt[:upto])) == tuple(prompt[:upto])
            done = upto
        assert done == len(prompt)
    assert len(set(runs.values())) == len(runs) == len(tree)


def test_worked_example() -> None:
    # abcd, abce, ab, abcdf: splits behind ab (the third ends there) and behind abc
    tree, leaf = prefix_tree(*arrays([-1, 0, 0, 0], [0, 3, 2, 4], [4, 4, 2, 5]))
    assert tree.parent.tolist() == [-1, 0, 1, 1, 2]
    assert tree.blocks.tolist() == [2, 1, 1, 1, 1]
    assert [tree.path(node) for node in leaf] == [[0, 1, 2], [0, 1, 3], [0], [0, 1, 2, 4]]
    assert ideal_hit_rate(tree, np.array([4, 4, 2, 5])) == pytest.approx(1 - 6 / 15)


@given(PROMPTS)
def test_relation_is_that_of_brute_force(prompts: list[list[int]]) -> None:
    parent, shared, count = relation_of_block_ids(prompts)
    for row, prompt in enumerate(prompts):
        best = max((common(prompt, prompts[k]) for k in range(row)), default=0)
        assert shared[row] == best
        assert count[row] == len(prompt)
        assert (parent[row] == -1) == (best == 0)
        assert best == 0 or common(prompt, prompts[parent[row]]) == best


@given(PROMPTS)
def test_tree_holds_the_prompts(prompts: list[list[int]]) -> None:
    parent, shared, count = relation_of_block_ids(prompts)
    tree, leaf = prefix_tree(parent, shared, count)
    assert all(tree.parent < np.arange(len(tree)))
    assert tree.blocks.min() >= 1
    expand(tree, leaf, prompts)
    for a in range(len(prompts)):
        for b in range(a):
            both = set(tree.path(int(leaf[a]))) & set(tree.path(int(leaf[b])))
            assert sum(int(tree.blocks[node]) for node in both) == common(prompts[a], prompts[b])


@given(PROMPTS)
def test_runs_are_maximal(prompts: list[list[int]]) -> None:
    tree, leaf = prefix_tree(*relation_of_block_ids(prompts))
    users = [{row for row in range(len(prompts)) if node in tree.path(int(leaf[row]))} for node in range(len(tree))]
    for node, before in enumerate(tree.parent.tolist()):
        assert before < 0 or users[node] != users[before]


@given(PROMPTS)
def test_hit_rate_is_that_of_an_endless_cache(prompts: list[list[int]]) -> None:
    parent, shared, count = relation_of_block_ids(prompts)
    tree, _ = prefix_tree(parent, shared, count)
    assert ideal_hit_rate(tree, count) == pytest.approx(shared.sum() / count.sum())


@given(PROMPTS, st.randoms())
def test_relation_of_a_selection_in_any_order(prompts: list[list[int]], random: object) -> None:
    tree, leaf = prefix_tree(*relation_of_block_ids(prompts))
    rows = list(range(len(prompts)))
    random.shuffle(rows)  # type: ignore[attr-defined]
    rows = rows[: 1 + len(rows) // 2]
    parent, shared = prefix_relation(tree, leaf[rows])
    wanted_parent, wanted_shared, _ = relation_of_block_ids([prompts[row] for row in rows])
    assert parent.tolist() == wanted_parent.tolist()
    assert shared.tolist() == wanted_shared.tolist()


def test_identical_prompts_share_a_leaf() -> None:
    tree, leaf = prefix_tree(*arrays([-1, 0], [0, 5], [5, 5]))
    assert len(tree) == 1
    assert leaf.tolist() == [0, 0]


def test_no_prompt() -> None:
    tree, leaf = prefix_tree(*arrays([], [], []))
    assert len(tree) == len(leaf) == 0
    assert ideal_hit_rate(tree, np.array([], np.int32)) == 0


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        (([0], [0], [1]), "earlier call"),
        (([-1, 0], [0, 3], [2, 9]), "as long as its two prompts"),
        (([-1, 0], [0, 3], [9, 2]), "as long as its two prompts"),
        (([-1], [1], [9]), "as long as its two prompts"),
        (([-1], [0], [0]), "at least one block"),
        (([-1, -1], [0], [1, 1]), "one row per call"),
    ],
)
def test_impossible_relations_are_refused(columns: tuple[list[int], ...], what: str) -> None:
    with pytest.raises(TraceError, match=what):
        prefix_tree(*arrays(*columns))
