"""llama.cpp as an engine: a worker process on this machine, spoken to over loopback HTTP.

KV moves between workers through files in a folder they share (slot save and restore), so prefill on one process and
decode on another is the real thing: the decoding engine starts from imported KV and computes no token of the prompt
again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from heterarch.errors import BadResponseError, EngineError, EngineUnavailableError, InputError, StreamBrokenError
from heterarch.run.engines.base import Call, Capabilities, Completion, OnText, Prefilled
from heterarch.run.engines.http import EngineHttp

_STOP_S = 5.0


class XllamacppEngine:
    """A running llama.cpp worker; :meth:`start` is the way to get one."""

    def __init__(self, name: str, url: str, capabilities: Capabilities, process: Any, kv_folder: Path) -> None:
        self.name = name
        self.capabilities = capabilities
        self.kv_folder = kv_folder
        self._process = process
        self._http = EngineHttp(url, name)

    @classmethod
    async def start(
        cls,
        model: Path,
        kv_folder: Path,
        *,
        name: str = "llama.cpp",
        slots: int = 1,
        context_tokens: int = 4096,
        threads: int = 1,
        port: int = 0,
        embed: bool = False,
        start_timeout_s: float = 120.0,
    ) -> XllamacppEngine:
        """Start a worker for a GGUF ``model`` and wait until it answers; its log is ``<kv_folder>/<name>.log``.

        Raises:
            InputError: no such model file, or the package xllamacpp is not installed.
            EngineError: the port is in use, the model cannot be loaded, or the worker is not ready in time.
        """
        if not model.is_file():
            raise InputError("no such model file", observed=str(model), expected="a GGUF file, or tiny")
        log = kv_folder / f"{name.replace('/', '-')}.log"
        options = {"model": model, "kv-folder": kv_folder, "port": port, "slots": slots, "context": context_tokens}
        arguments = [f"--{key}={value}" for key, value in {**options, "threads": threads}.items()]
        process = await _spawn(arguments + (["--embed"] if embed else []), log)
        try:
            ready = await asyncio.wait_for(process.stdout.readline(), start_timeout_s)
            url = _ready_url(ready, name, log)
        except BaseException as error:
            await _stop(process)
            if isinstance(error, TimeoutError):
                raise EngineUnavailableError(
                    "the worker is not ready in time",
                    observed=f"{start_timeout_s:g} s",
                    where=f"engine {name}",
                    fix=f"see {log}",
                ) from None
            raise
        return cls(name, url, Capabilities(slots=slots, kv_transfer=True, embed=embed), process, kv_folder)

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return int(self._process.pid)

    @property
    def url(self) -> str:
        """Where the worker answers; the OpenAI protocol is at ``/v1``."""
        return self._http.url

    async def generate(self, call: Call, on_text: OnText | None = None) -> Completion:
        """The whole call on this engine."""
        started = perf_counter()
        return await self._complete(call, [await self._prompt(call)], call.max_tokens, started, on_text)

    async def prefill(self, call: Call) -> Prefilled:
        """Compute the prompt into the slot, and the first token."""
        started = perf_counter()
        first = await self._complete(call, [await self._prompt(call)], 1, started, None)
        finished = first.finish_reason == "stop" or call.max_tokens <= 1
        carried = finished or (bool(first.text) and not call.stop)
        return Prefilled(
            first.text if carried else "",
            first.token_ids if carried else (),
            first.prompt_tokens,
            first.cached_tokens,
            first.ttft_s,
            finished,
        )

    async def export_kv(self, slot: int, path: Path) -> int:
        """Save the slot to ``path``, which must lie in the engine's KV folder."""
        answer = await self._http.post(f"/slots/{slot}?action=save", {"filename": self._file(path)})
        return int(answer.get("n_written", 0))

    async def import_kv(self, slot: int, path: Path) -> int:
        """Restore the slot from ``path``, which must lie in the engine's KV folder."""
        answer = await self._http.post(f"/slots/{slot}?action=restore", {"filename": self._file(path)})
        return int(answer.get("n_read", 0))

    async def decode(self, call: Call, prefilled: Prefilled, on_text: OnText | None = None) -> Completion:
        """Go on after the first token; of the prompt, one token at most is computed again."""
        started = perf_counter()
        carried = prefilled.token_ids
        prompt = [await self._prompt(call), *carried]
        rest = await self._complete(call, prompt, call.max_tokens - len(carried), started, on_text)
        prompt_tokens = rest.prompt_tokens - len(carried)
        return Completion(
            text=prefilled.text + rest.text,
            prompt_tokens=prompt_tokens,
            cached_tokens=min(rest.cached_tokens, prompt_tokens),
            output_tokens=rest.output_tokens + len(carried),
            ttft_s=0.0 if carried else rest.ttft_s,
            finish_s=rest.finish_s,
            token_ids=carried + rest.token_ids,
            finish_reason=rest.finish_reason,
        )

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text; the worker must have been started with ``embed=True``."""
        answer = await self._http.post("/v1/embeddings", {"input": list(texts)})
        try:
            return [list(map(float, row["embedding"])) for row in answer["data"]]
        except (KeyError, TypeError, ValueError):
            raise BadResponseError("the engine answered no vectors", observed=str(answer)[:120]) from None

    async def health(self) -> None:
        """Return when the worker answers."""
        await self._http.get("/health")

    async def close(self) -> None:
        """End the worker."""
        await self._http.close()
        await _stop(self._process)

    async def _prompt(self, call: Call) -> str:
        messages = [{"role": message.role, "content": message.text} for message in call.messages]
        answer = await self._http.post("/apply-template", {"messages": messages}, call.timeout_s)
        return str(answer.get("prompt", ""))

    async def _complete(
        self, call: Call, prompt: Sequence[object], max_tokens: int, started: float, on_text: OnText | None
    ) -> Completion:
        body = {
            "prompt": list(prompt),
            "n_predict": max_tokens,
            "temperature": call.temperature,
            "stop": list(call.stop),
            "id_slot": call.slot,
            "cache_prompt": True,
            "return_tokens": True,
            "stream": True,
        }
        pieces: list[str] = []
        ids: list[int] = []
        first_s = 0.0
        async for event in self._http.events("/completion", body, call.timeout_s):
            first_s = first_s or perf_counter() - started
            ids += event.get("tokens") or []
            if event.get("content"):
                pieces.append(str(event["content"]))
                if on_text:
                    on_text(pieces[-1])
            if event.get("stop"):
                return self._completion(event, pieces, ids, first_s, perf_counter() - started)
        raise StreamBrokenError(
            "the answer broke off", observed=f"after {len(ids)} tokens", where=f"engine {self.name}"
        )

    def _completion(
        self, last: dict[str, Any], pieces: list[str], ids: list[int], first_s: float, finish_s: float
    ) -> Completion:
        try:
            cached, computed = int(last["timings"]["cache_n"]), int(last["timings"]["prompt_n"])
            return Completion(
                text="".join(pieces),
                prompt_tokens=cached + computed,
                cached_tokens=cached,
                output_tokens=int(last["tokens_predicted"]),
                ttft_s=first_s,
                finish_s=finish_s,
                token_ids=tuple(ids),
                finish_reason="length" if last.get("stop_type") == "limit" else "stop",
            )
        except (KeyError, TypeError, ValueError):
            raise BadResponseError(
                "the last event lacks its counts", observed=str(last)[:200], where=f"engine {self.name}"
            ) from None

    def _file(self, path: Path) -> str:
        if path.parent.resolve() != self.kv_folder.resolve():
            raise InputError(
                "KV is exchanged in the engine's KV folder", observed=str(path), expected=str(self.kv_folder)
            )
        return path.name


async def _spawn(arguments: list[str], log: Path) -> Any:
    with log.open("ab") as errors:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "heterarch.run.worker",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )


def _ready_url(line: bytes, name: str, log: Path) -> str:
    try:
        answer = json.loads(line)
    except ValueError:
        observed = log.read_text(errors="replace")[-300:] if log.is_file() else ""
        raise EngineUnavailableError(
            "the worker died at its start", observed=observed or "no output", where=f"engine {name}", fix=f"see {log}"
        ) from None
    if "url" in answer:
        return str(answer["url"])
    kind = InputError if "pip install" in answer.get("fix", "") else EngineError
    raise kind(answer["error"], observed=answer.get("observed"), where=f"engine {name}", fix=answer.get("fix"))


async def _stop(process: Any) -> None:
    """Close the worker's standard input, which ends it, and kill it if it does not."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), _STOP_S)
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_S)
        if not isinstance(sys.exc_info()[1], TimeoutError):
            raise
