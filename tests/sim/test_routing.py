"""Routers: compiled and interpreted decide alike; Python routers; failures."""

from __future__ import annotations

import numpy as np
import pytest

from heterarch.errors import InputError
from heterarch.policy.router import ROUTERS
from heterarch.report.aggregate import Status
from heterarch.sim.tasks import prefixes

from .worlds import calls_of, mixed, run


def busy_world(seed: int, n: int = 400):
    rng = np.random.default_rng(seed)
    parent = np.array([-1 if k < 5 else rng.integers(0, k) for k in range(120)])
    tree = prefixes(parent, rng.integers(1, 6, 120), 16)
    leaf = rng.integers(0, 120, n)
    prompts = tree.runs["end"][leaf] * 16 + rng.integers(0, 15, n)
    at = np.cumsum(rng.exponential(1.5, n))
    calls = calls_of(
        prompts, rng.integers(1, 40, n), at, node=leaf, session=rng.integers(0, 30, n), decode_pool=np.ones(n)
    )
    link = {"transfer_bytes_per_s": 100_000.0, "kv_tokens": 6400}
    return [mixed("p", engines=4, **link), mixed("d", engines=3, **link)], calls, tree


class Watched:
    """A router that calls another and notes what it saw."""

    def __init__(self, inner) -> None:
        self.inner, self.name, self.seen = inner, inner.name, []

    def decide(self, view) -> int:
        self.seen.append((view.now_s, int(view.pending_tokens.sum()), int(view.cached_tokens.max())))
        return self.inner.decide(view)


@pytest.mark.parametrize("name", ROUTERS)
def test_every_decision_is_the_same_interpreted_and_compiled(name):
    pools, calls, tree = busy_world(3)
    compiled = run(pools, calls, tree, router=name)
    watched = Watched(ROUTERS[name])
    interpreted = run(pools, calls, tree, router=watched)
    for state in (compiled, interpreted):
        assert (state.sequences["status"] == Status.COMPLETED).all()
    assert len(watched.seen) == compiled.clock[0]["decisions"] > 700
    assert compiled.sequences.tobytes() == interpreted.sequences.tobytes()
    assert compiled.engines.tobytes() == interpreted.engines.tobytes()
    assert max(seen[2] for seen in watched.seen) > 0


def test_prefix_affinity_finds_more_than_load_balancing():
    pools, calls, tree = busy_world(4)
    hits = {name: int(run(pools, calls, tree, router=name).clock[0]["hit_blocks"]) for name in ROUTERS}
    assert hits["prefix-affinity"] > hits["least-pending-tokens"]


def test_load_is_spread():
    state = run([mixed(engines=4)], calls_of([60] * 8, [10] * 8))
    assert sorted(state.sequences["engine"].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]


class Fixed:
    name = "fixed"

    def __init__(self, row: int) -> None:
        self.row = row

    def decide(self, view) -> int:
        return self.row


def test_a_router_in_python_is_obeyed():
    state = run([mixed(engines=3)], calls_of([10] * 5, [3] * 5), router=Fixed(2))
    assert (state.sequences["engine"] == 2).all()


def test_a_router_that_finds_no_engine_fails_the_call():
    state = run([mixed(engines=3)], calls_of([10] * 5, [3] * 5), router=Fixed(-1))
    assert (state.sequences["status"] == Status.FAILED).all()
    assert (state.requests["reason"] == 1).all()


def test_a_router_that_invents_an_engine_is_refused():
    with pytest.raises(InputError, match="'fixed' chose an engine that does not exist"):
        run([mixed(engines=3)], calls_of([10], [3]), router=Fixed(3))
