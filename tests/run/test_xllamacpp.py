"""The local engine: real processes, real KV moved between them, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from heterarch.errors import (
    BadResponseError,
    EngineError,
    EngineUnavailableError,
    InputError,
    StreamBrokenError,
)
from heterarch.run.engines.base import Call, Message
from heterarch.run.engines.gguf_model import TINY, TinyModel, write_gguf
from heterarch.run.engines.xllamacpp import XllamacppEngine

from .processes import workers

QUESTION = "Where does each of these ops run? " + ", ".join(f"op{i} on device {i * 7 % 13}" for i in range(20))


def ask(text: str, *, max_tokens: int = 32, slot: int = 0, **more: object) -> Call:
    return Call((Message("system", "You plan."), Message("user", text)), max_tokens=max_tokens, slot=slot, **more)


def test_the_model_is_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    one, two, other = (
        write_gguf(tmp_path / f"{n}.gguf", seed=s).read_bytes() for n, s in (("a", 3), ("b", 3), ("c", 4))
    )
    assert one == two != other
    assert len(one) < 700_000


@pytest.mark.parametrize("stop", [(), ("never said",)])
async def test_disaggregated_equals_single(tiny: Path, tmp_path: Path, stop: tuple[str, ...], no_orphans: None) -> None:
    """Prefill on A, KV through a file, decode on B: the tokens of a third process that did it all."""
    a, b, single = await asyncio.gather(*(XllamacppEngine.start(tiny, tmp_path, name=n, slots=2) for n in "abc"))
    try:
        expected = await single.generate(ask(QUESTION, stop=stop))
        assert expected.prompt_tokens > 400
        assert len(set(expected.token_ids)) > 10  # an answer that says something

        prefilled = await a.prefill(ask(QUESTION, slot=1, stop=stop))
        sent = await a.export_kv(1, tmp_path / "kv")
        received = await b.import_kv(0, tmp_path / "kv")
        got = await b.decode(ask(QUESTION, slot=0, stop=stop), prefilled)

        assert (prefilled.text == "") is bool(stop)
        assert got.token_ids == expected.token_ids
        assert got.text == expected.text
        assert got.output_tokens == expected.output_tokens == 32
        assert got.prompt_tokens == expected.prompt_tokens
        assert got.prompt_tokens - got.cached_tokens <= 2  # tokens that B computed again
        assert sent == received
        kv_bytes = expected.prompt_tokens * TINY.kv_bytes_per_token
        assert kv_bytes <= sent <= 1.1 * kv_bytes  # the size that the cost model would predict

        without = await b.decode(ask(QUESTION, slot=1, stop=stop), prefilled)
        assert without.cached_tokens == 0  # had the KV not moved, B would have computed the prompt
    finally:
        await asyncio.gather(a.close(), b.close(), single.close())


async def test_the_next_turn_of_a_chat_finds_its_kv(tiny: Path, tmp_path: Path) -> None:
    engine = await XllamacppEngine.start(tiny, tmp_path)
    try:
        first = await engine.generate(ask("Begin."))
        chat = (*ask("Begin.").messages, Message("assistant", first.text), Message("user", "Go on."))
        second = await engine.generate(Call(chat, max_tokens=4))
        # all but the last token of the answer: its KV is computed only when it is read
        assert second.cached_tokens >= first.prompt_tokens + first.output_tokens - 1
    finally:
        await engine.close()


async def test_streaming_and_stop_texts(tiny: Path, tmp_path: Path) -> None:
    engine = await XllamacppEngine.start(tiny, tmp_path)
    try:
        pieces: list[str] = []
        whole = await engine.generate(ask(QUESTION), pieces.append)
        assert "".join(pieces) == whole.text
        assert len(pieces) > 10
        assert 0 < whole.ttft_s <= whole.finish_s
        cut = await engine.generate(ask(QUESTION, stop=(whole.text[5:8],)))
        assert cut.text == whole.text[:5]
        assert cut.finish_reason == "stop"
    finally:
        await engine.close()


async def test_a_prompt_longer_than_the_context_is_refused(tiny: Path, tmp_path: Path) -> None:
    engine = await XllamacppEngine.start(tiny, tmp_path, context_tokens=256)
    try:
        with pytest.raises(BadResponseError, match="exceeds the available context"):
            await engine.generate(ask("x" * 2000))
        with pytest.raises(InputError, match="KV folder"):
            await engine.export_kv(0, tmp_path / "elsewhere" / "kv")
    finally:
        await engine.close()


async def test_an_engine_killed_while_it_answers(tiny: Path, tmp_path: Path, no_orphans: None) -> None:
    engine = await XllamacppEngine.start(tiny, tmp_path, context_tokens=16384)

    def kill(text: str) -> None:
        with contextlib.suppress(ProcessLookupError):  # killed by an earlier piece of text
            os.kill(engine.pid, signal.SIGKILL)

    try:
        with pytest.raises(StreamBrokenError, match="broke off"):
            await asyncio.wait_for(engine.generate(ask("Go.", max_tokens=15000), kill), 30)
        with pytest.raises(EngineUnavailableError):
            await engine.health()
    finally:
        await engine.close()


async def test_a_port_in_use(tiny: Path, tmp_path: Path, no_orphans: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port} is in use"):
            await XllamacppEngine.start(tiny, tmp_path, port=port)


async def test_a_file_that_is_no_model(tmp_path: Path, no_orphans: None) -> None:
    pytest.importorskip("xllamacpp")
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"not a model")
    with pytest.raises(EngineError, match="cannot load the model"):
        await XllamacppEngine.start(wrong, tmp_path)
    with pytest.raises(InputError, match="no such model file"):
        await XllamacppEngine.start(tmp_path / "missing.gguf", tmp_path)


async def test_embeddings(tiny: Path, tmp_path: Path) -> None:
    engine = await XllamacppEngine.start(tiny, tmp_path, embed=True)
    try:
        same, again, other = await engine.embed(["a plan", "a plan", "something else"])
        assert len(same) == TinyModel().hidden
        assert same == pytest.approx(again, abs=1e-6)
        assert same != pytest.approx(other, abs=1e-3)
    finally:
        await engine.close()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_worker_ends_with_its_parent(tiny: Path, tmp_path: Path, ending: signal.Signals) -> None:
    program = f"""
        import asyncio, sys
        from pathlib import Path
        from heterarch.run.engines.xllamacpp import XllamacppEngine
        async def main():
            engine = await XllamacppEngine.start(Path({str(tiny)!r}), Path({str(tmp_path)!r}))
            print(engine.pid, flush=True)
            await asyncio.Event().wait()
        asyncio.run(main())
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    assert worker.pid in {process.pid for process in workers()}
    parent.send_signal(ending)
    parent.wait(10)
    parent.stdout.close()
    _, alive = psutil.wait_procs([worker], timeout=5)
    assert alive == []
