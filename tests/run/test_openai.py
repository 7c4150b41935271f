"""OpenAI-compatible endpoints: what is sent, what is read, and every way in which they go wrong."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from heterarch.errors import BadResponseError, EngineUnavailableError, InputError, StreamBrokenError
from heterarch.run.engines.base import Call, Message
from heterarch.run.engines.openai import OpenAIEngine

from .servers import delta, http, raw, serving, stream

ASK = Call((Message("system", "Be brief."), Message("user", "Hi")), max_tokens=5, stop=("\n",), timeout_s=0.5)
USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}},
}


async def test_a_chat_is_streamed_and_counted() -> None:
    async with serving(stream(delta("Hel"), delta("lo"), delta("", "stop"), USAGE)) as server:
        engine = OpenAIEngine(server.url, "m")
        pieces: list[str] = []
        answer = await engine.generate(ASK, pieces.append)
        await engine.close()
    assert (answer.text, pieces) == ("Hello", ["Hel", "lo"])
    assert (answer.prompt_tokens, answer.cached_tokens, answer.output_tokens) == (12, 8, 3)
    assert answer.counted
    assert answer.finish_reason == "stop"
    assert 0 < answer.ttft_s <= answer.finish_s
    line, _, body = server.requests[0]
    assert line.startswith("POST /v1/chat/completions ")
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert (body["model"], body["max_tokens"], body["temperature"], body["stop"]) == ("m", 5, 0.0, ["\n"])


async def test_completions_style_and_no_usage() -> None:
    events = [{"choices": [{"text": word, "finish_reason": None}]} for word in ("a", "b")]
    async with serving(stream(*events, {"choices": [{"text": "", "finish_reason": "length"}]})) as server:
        engine = OpenAIEngine(server.url, "m", style="completions")
        answer = await engine.generate(ASK)
        await engine.close()
    assert (answer.text, answer.output_tokens, answer.counted, answer.finish_reason) == ("ab", 2, False, "length")
    assert server.requests[0][2]["prompt"] == "Be brief.\nHi"


async def test_the_key_is_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    caplog.set_level(logging.DEBUG)
    async with serving(http('{"error": {"message": "no such model"}}', "404 Not Found")) as server:
        engine = OpenAIEngine(server.url, "m", api_key_env="SOME_KEY")
        with pytest.raises(BadResponseError, match="no such model") as caught:
            await engine.generate(ASK)
        await engine.close()
    assert server.requests[0][1]["authorization"] == "bearer sk-secret"  # header lines are lowered by the server
    assert "secret" not in str(caught.value) + repr(caught.value) + caplog.text
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(InputError, match="SOME_KEY"):
        OpenAIEngine(server.url, "m", api_key_env="SOME_KEY")


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (stream(delta("a"), end="cut"), StreamBrokenError, "broke off"),
        (stream(delta("a"), end="closed"), StreamBrokenError, "broke off"),
        (stream(delta("a"), end="silent"), StreamBrokenError, "silent for 0.5 s"),
        (stream(end="silent"), EngineUnavailableError, "silent for 0.5 s"),
        (stream("not json"), BadResponseError, "not JSON"),
        (stream("[1]"), BadResponseError, "not a JSON object"),
        (stream({"choices": [3]}), BadResponseError, "OpenAI protocol"),
        (stream({"hello": 1}), BadResponseError, "OpenAI protocol"),
        (stream(delta("a"), {"error": {"message": "out of memory"}}), BadResponseError, "out of memory"),
        (stream(), BadResponseError, "no stream of events"),
        (http("<html>welcome</html>", kind="text/html"), BadResponseError, "no stream of events"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), BadResponseError, "not HTTP"),
        (raw(b""), EngineUnavailableError, "does not answer"),
        (http('{"error": "slow down"}', "429 Too Many Requests"), EngineUnavailableError, "slow down"),
        (http("", "401 Unauthorized"), BadResponseError, "check the API key"),
        (http("x", "500 Oops"), BadResponseError, "HTTP 500: x"),
    ],
)
async def test_every_failure_is_one_of_ours(answer: object, error: type[Exception], says: str) -> None:
    async with serving(answer) as server:
        engine = OpenAIEngine(server.url, "m")
        with pytest.raises(error, match=says):
            await engine.generate(ASK)
        await engine.close()
    assert len(server.requests) == 1  # nothing that may have been started is sent twice


async def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    engine = OpenAIEngine(url, "m", attempts=2)
    with pytest.raises(EngineUnavailableError, match="does not answer"):
        await engine.generate(ASK)
    with pytest.raises(EngineUnavailableError):
        await engine.health()
    await engine.close()


async def test_embeddings() -> None:
    async with serving(http('{"data": [{"embedding": [1, 2]}]}'), http('{"data": [{}]}')) as server:
        engine = OpenAIEngine(server.url, "m")
        assert await engine.embed(["x"]) == [[1.0, 2.0]]
        with pytest.raises(BadResponseError, match="no vectors"):
            await engine.embed(["x"])
        await engine.close()


async def test_kv_cannot_leave_an_endpoint(tmp_path: Path) -> None:
    engine = OpenAIEngine("http://localhost:1/v1", "m", name="api")
    with pytest.raises(InputError, match="'api' cannot move KV"):
        await engine.prefill(ASK)
    with pytest.raises(InputError, match="needs a URL"):
        OpenAIEngine("localhost", "m")
    await engine.close()


async def test_llama_cpp_speaks_the_protocol(tiny: Path, tmp_path: Path) -> None:
    """The same worker as an OpenAI endpoint: the protocol of a real server, not of our fake."""
    from heterarch.run.engines.xllamacpp import XllamacppEngine

    local = await XllamacppEngine.start(tiny, tmp_path)
    engine = OpenAIEngine(local.url + "/v1", "tiny")
    try:
        await engine.health()
        ask = Call((Message("user", "Hello"),), max_tokens=8)
        answer, same = await engine.generate(ask), await local.generate(ask)
        assert answer.text == same.text
        assert (answer.prompt_tokens, answer.output_tokens, answer.counted) == (same.prompt_tokens, 8, True)
    finally:
        await engine.close()
        await local.close()
