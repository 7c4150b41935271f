"""Live routing: the view that policies see, and who gets which slot."""

from __future__ import annotations

import asyncio

import pytest

from heterarch.errors import EngineUnavailableError
from heterarch.policy.router import router
from heterarch.run.engines.fake import FakeEngine
from heterarch.run.router import PoolRouter


def pool(policy: str = "prefix-affinity", engines: int = 2, slots: int = 2) -> PoolRouter:
    return PoolRouter("p", [FakeEngine(slots=slots) for _ in range(engines)], router(policy), chars_per_token=1.0)


async def test_the_accounts_follow_a_call() -> None:
    p = pool()
    lease = await p.acquire("x" * 100)
    view = p.view("y" * 10)
    assert (view.prompt_tokens, view.pending_tokens.tolist(), view.running.tolist()) == (10, [100, 0], [1, 0])
    p.first_token(lease)
    assert p.view("y").pending_tokens.tolist() == [0, 0]
    assert p.view("y").decode_tokens.tolist() == [100, 0]
    p.release(lease, "x" * 100 + "z" * 20)
    p.release(lease)  # twice is once
    view = p.view("x" * 110)
    assert (view.pending_tokens.tolist(), view.running.tolist()) == ([0, 0], [0, 0])
    assert view.decode_tokens.tolist() == [0, 0]
    assert view.cached_tokens.tolist() == [100, 0]


async def test_cached_tokens_do_not_wait_but_count_in_decode() -> None:
    p = pool()
    p.release(await p.acquire("a" * 50), "a" * 50)
    lease = await p.acquire("a" * 60)
    assert lease.row == 0
    assert p.view("b").pending_tokens.tolist() == [10, 0]
    p.first_token(lease)
    assert p.view("b").pending_tokens.tolist() == [0, 0]
    assert p.view("b").decode_tokens.tolist() == [60, 0]


async def test_prefix_affinity_follows_the_kv_until_the_queue_is_worth_more() -> None:
    p = pool()
    p.release(await p.acquire("a" * 50), "a" * 50)
    other = await p.acquire("b" * 45)  # a new prompt: both engines are idle, the lowest row takes it
    assert other.row == 0
    assert (await p.acquire("a" * 60)).row == 0  # 45 pending + 10 uncached < 60 uncached
    assert (await p.acquire("a" * 70)).row == 1  # 55 pending + 20 uncached > 70 uncached


async def test_least_pending_tokens_spreads() -> None:
    p = pool("least-pending-tokens", slots=4)
    rows = [(await p.acquire("x" * size)).row for size in (30, 10, 10, 20)]
    assert rows == [0, 1, 1, 1]


async def test_calls_wait_for_a_slot_in_order() -> None:
    p = pool(engines=1, slots=1)
    first = await p.acquire("a")
    waiting = [asyncio.create_task(p.acquire(text)) for text in ("b", "c")]
    await asyncio.sleep(0)
    assert p.view("x").queued.tolist() == [2]
    p.release(first)
    second = await waiting[0]
    assert not waiting[1].done()
    waiting[1].cancel()
    await asyncio.sleep(0)
    assert p.view("x").pending_tokens.tolist() == [1]  # what was cancelled is not pending
    p.release(second)
    assert p.view("x").pending_tokens.tolist() == [0]


async def test_a_chat_gets_the_slot_that_holds_it() -> None:
    p = pool(engines=1, slots=3)
    first, second = await p.acquire("one"), await p.acquire("two")
    p.release(first, "one and its answer")
    p.release(second, "two and its answer")
    again = await p.acquire("two and its answer, then more")
    assert again.slot == second.slot
    fresh = await p.acquire("new")
    assert fresh.slot not in (first.slot, second.slot)  # a slot that holds nothing goes first


async def test_a_lost_engine_gets_no_more_calls() -> None:
    p = pool()
    p.fail(0)
    assert (await p.acquire("x")).row == 1
    p.fail(1)
    for engine in p.engines:
        await engine.close()
    with pytest.raises(EngineUnavailableError, match="no engine of pool p is healthy"):
        await p.acquire("x")


async def test_characters_per_token_are_learnt() -> None:
    p = pool()
    for _ in range(30):
        p.release(await p.acquire("x"), "x" * 300, 100)
    assert p.tokens("x" * 300) == pytest.approx(100, rel=0.02)


async def test_an_engine_that_answers_again_is_used_again() -> None:
    p = pool(engines=1)
    p.fail(0)
    assert p.healthy() == 0
    lease = await p.acquire("x")
    assert (lease.row, p.healthy()) == (0, 1)


async def test_an_engine_that_stays_away_is_not() -> None:
    class Gone(FakeEngine):
        async def health(self) -> None:
            raise EngineUnavailableError("gone")

    p = PoolRouter("p", [Gone()], router("prefix-affinity"))
    p.fail(0)
    with pytest.raises(EngineUnavailableError, match="no engine of pool p is healthy"):
        await p.acquire("x")
