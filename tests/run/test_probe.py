"""Probes of endpoints: what is measured, what bounds it, and which token counts are not believed."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from heterarch.cost.measured.logs import read_log
from heterarch.errors import EngineUnavailableError, InputError
from heterarch.run.engines.base import Call, Completion
from heterarch.run.engines.fake import FakeEngine
from heterarch.run.engines.openai import OpenAIEngine
from heterarch.run.probe import ProbeOptions, probe
from heterarch.run.probe_result import ProbeResult, flags, provenance_path, save_probe

from .servers import delta, http, serving, stream

SMALL = ProbeOptions(prompt_tokens=(8, 600), concurrency=(1, 3), output_tokens=4)


@dataclass(frozen=True)
class Prices:
    input_usd_per_mtok: float = 1e6
    cached_usd_per_mtok: float = 1e6
    output_usd_per_mtok: float = 1e6


def honest() -> FakeEngine:
    return FakeEngine(answers=["one two three four"], slots=4)


async def probed(engine: FakeEngine, options: ProbeOptions = SMALL) -> ProbeResult:
    result = ProbeResult()
    await probe(engine, options, result)
    return result


async def test_every_length_is_asked_at_every_concurrency() -> None:
    engine = honest()
    result = await probed(engine)
    assert [(row.concurrency, row.asked_words) for row in result.rows] == [
        (1, 8),
        (1, 600),
        *[(3, 8)] * 3,
        *[(3, 600)] * 3,
    ]
    assert {(row.prompt_tokens, row.output_tokens, row.pieces) for row in result.rows} == {(8, 4, 4), (600, 4, 4)}
    assert all(0 <= row.submitted_s <= row.first_token_s <= row.finish_s for row in result.rows)
    assert (result.stopped, result.flags, result.errors) == ("", [], {})
    assert (result.requests, result.tokens) == (8, sum(row.asked_words + 4 for row in result.rows))
    assert len({call.messages[0].text for call in engine.calls}) == 8  # no prompt twice


@pytest.mark.parametrize(
    ("bounds", "says", "answers"),
    [
        ({"max_requests": 4}, "the bound of 4 requests", 2),
        ({"max_tokens": 1600}, "the bound of 1,600 tokens", 5),
        ({"max_usd": 1600.0, "prices": Prices()}, "the bound of 1600 USD", 5),
    ],
)
async def test_a_round_that_could_pass_a_bound_is_not_started(
    bounds: dict[str, object], says: str, answers: int
) -> None:
    engine = honest()
    result = await probed(engine, ProbeOptions(**{**vars(SMALL), **bounds}))
    assert (result.stopped, len(result.rows), len(engine.calls)) == (says, answers, answers)
    assert result.tokens <= 1600
    assert result.usd <= 1600


async def test_bounds_that_admit_nothing() -> None:
    options = ProbeOptions(**{**vars(SMALL), "max_usd": 0.0, "prices": Prices()})
    with pytest.raises(InputError, match="admit no request at all\n  observed: the bound of 0 USD"):
        await probed(honest(), options)


async def test_the_time_is_bounded_also_within_an_answer() -> None:
    engine = FakeEngine(answers=["one two three four"], faults={2: "hang"})
    result = await probed(engine, ProbeOptions(**{**vars(SMALL), "max_seconds": 0.3}))
    assert result.stopped == "the bound of 0.3 s"
    assert len(result.rows) >= 2
    with pytest.raises(
        EngineUnavailableError, match=r"no answer before the end of the probe\n  observed: the bound of 0\.1 s"
    ):
        await probed(
            FakeEngine(faults={0: "hang"}), ProbeOptions(prompt_tokens=(8,), concurrency=(1,), max_seconds=0.1)
        )


async def test_failures_are_counted_and_end_the_probe() -> None:
    engine = FakeEngine(answers=["one two three four"], faults=dict.fromkeys(range(2, 8), "unavailable"))
    result = await probed(engine, ProbeOptions(**{**vars(SMALL), "max_errors": 3}))
    assert result.errors == {"the engine does not answer": 3}
    assert (result.stopped, len(result.rows)) == ("3 requests failed", 2)


async def test_some_failures_are_survived() -> None:
    engine = FakeEngine(answers=["one two three four"], faults={1: "broken", 3: "garbage"})
    result = await probed(engine)
    assert (len(result.rows), result.stopped) == (6, "")
    assert result.errors == {"the answer broke off (after 1 token)": 1, "the engine's answer is not JSON (<html>)": 1}


async def test_an_endpoint_that_never_answers_is_an_error() -> None:
    with pytest.raises(EngineUnavailableError, match="does not answer"):
        await probed(FakeEngine(faults=dict.fromkeys(range(99), "unavailable")))


async def test_a_cancelled_probe_keeps_its_answers() -> None:
    engine = FakeEngine(answers=["one two three four"], faults={2: "hang"})
    result = ProbeResult()
    task = asyncio.create_task(probe(engine, SMALL, result))
    while len(engine.calls) < 3:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(result.rows) >= 2


@dataclass
class Liar(FakeEngine):
    """Says of its tokens what ``says`` holds, whatever they were."""

    says: tuple[tuple[str, object], ...] = ()

    async def generate(self, call: Call, on_text: object = None) -> Completion:
        answer = await super().generate(call, on_text)
        changed = {name: value(getattr(answer, name)) if callable(value) else value for name, value in self.says}
        return Completion(**{name: changed.get(name, getattr(answer, name)) for name in Completion.__slots__})


@pytest.mark.parametrize(
    ("says", "flag"),
    [
        ({"prompt_tokens": 0}, "the server says that a prompt has 0 tokens: 8 of 8 answers"),
        ({"counted": False}, "the server does not count its tokens: pieces of text stand in for them"),
        ({"output_tokens": 5}, "the output tokens are not those that arrived (off by more than 20 %): 8 of 8"),
        ({"output_tokens": 3}, "the output tokens are not those that arrived (off by more than 20 %): 8 of 8"),
        ({"output_tokens": 2, "finish_reason": "length"}, "4 pieces of text came, 2 output tokens said"),
        ({"cached_tokens": lambda _: 9999}, "more cached than prompt tokens: 8 of 8"),
        ({"cached_tokens": lambda _: 300}, "is said to be cached by more than 20 %: 4 of 8"),
    ],
)  # fmt: skip
async def test_counts_that_are_not_believed(says: dict[str, object], flag: str) -> None:
    result = await probed(Liar(answers=["one two three four"], slots=4, says=tuple(says.items())))
    assert any(flag in text for text in result.flags), result.flags


async def test_prompt_counts_that_do_not_follow_the_words() -> None:
    options = ProbeOptions(prompt_tokens=(600, 1200, 2400), concurrency=(1,), output_tokens=4)
    result = await probed(
        Liar(answers=["one two three four"], says=(("prompt_tokens", lambda n: min(n, 1200)),)), options
    )
    assert "do not follow the words that were sent (off by more than 20 %): 1 of 3" in result.flags[0]
    assert flags([]) == []


@pytest.mark.parametrize(("output", "max_tokens"), [(4, 4), (3.5, 4)])
async def test_small_differences_are_no_lie(output: float, max_tokens: int) -> None:
    result = await probed(Liar(answers=["one two three four"], slots=4, says=(("output_tokens", output),)))
    assert result.flags == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_usd": 1.0}, "a bound in USD needs the endpoint's prices"),
        ({"prompt_tokens": (0,)}, "observed: prompt of 0 tokens: 0"),
        ({"concurrency": (-1,)}, "observed: concurrency -1: -1"),
        ({"max_seconds": float("nan")}, "observed: max_seconds: nan"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ProbeOptions(**options)


async def test_the_file_is_a_log_with_its_provenance(tmp_path: Path) -> None:
    result = await probed(FakeEngine(answers=["one two three four"], ttft_s=0.01, tpot_s=0.002, slots=4))
    path = tmp_path / "probe.csv"
    save_probe(result, path, url="http://me:secret@host:1/v1?key=2", model="m", date="2026-11-23", options={"seed": 7})
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 8
    assert rows[0]["prompt_tokens"] == "8"
    found = read_log(path).iterations
    assert len(found.seconds) >= 8
    assert np.all(found.seconds > 0)
    said = json.loads(provenance_path(path).read_text())
    assert said["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (said["url"], said["model"], said["date"]) == ("http://host:1/v1", "m", "2026-11-23")
    assert (said["whole"], said["answers"], said["flags"], said["options"]) == (True, 8, [], {"seed": 7})
    with pytest.raises(InputError, match="cannot write the file"):
        save_probe(result, tmp_path / "no" / "probe.csv", url="", model="", date="", options={})


USAGE = {"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 4}}
WORDS = [delta(word) for word in ("one ", "two ", "three ")]
ONE = ProbeOptions(prompt_tokens=(8,), concurrency=(1, 1, 1), output_tokens=4, timeout_s=0.5, max_errors=2)


async def over_http(*answers: object) -> ProbeResult:
    result = ProbeResult()
    async with serving(*answers) as server:
        engine = OpenAIEngine(server.url, "m", attempts=1)
        await probe(engine, ONE, result)
        await engine.close()
    return result


async def test_an_honest_server() -> None:
    result = await over_http(stream(*WORDS, delta("four", "length"), USAGE))
    assert [(row.prompt_tokens, row.output_tokens, row.pieces) for row in result.rows] == [(8, 4, 4)] * 3
    assert result.flags == []


async def test_a_server_without_usage() -> None:
    result = await over_http(stream(*WORDS, delta("four", "length")))
    assert result.flags[0].startswith("the server does not count its tokens")


async def test_a_server_that_says_0() -> None:
    nothing = {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    result = await over_http(stream(*WORDS, delta("four", "stop"), nothing))
    assert any("does not count its tokens" in flag for flag in result.flags)


async def test_a_busy_a_broken_and_a_silent_server() -> None:
    good = stream(*WORDS, delta("four", "length"), USAGE)
    result = await over_http(good, http('{"error": "slow down"}', "429 Too Many Requests"), good)
    assert result.errors == {"the engine takes no more calls now (HTTP 429: slow down)": 1}
    assert len(result.rows) == 2
    result = await over_http(good, http("x", "500 Oops"))
    assert result.errors == {"the engine refused the call (HTTP 500: x)": 2}
    assert result.stopped == "2 requests failed"
    result = await over_http(good, stream(delta("one"), end="silent"))
    assert result.errors == {"the answer broke off (silent for 0.5 s)": 2}
