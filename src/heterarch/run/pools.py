"""Starting and stopping the engines of a plan's pools."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from heterarch.errors import HeterarchError, InputError
from heterarch.plan.document import LocalPart, Plan, Pool
from heterarch.run.engines.base import Engine
from heterarch.run.engines.gguf_model import TINY, write_gguf
from heterarch.run.engines.openai import OpenAIEngine
from heterarch.run.engines.xllamacpp import XllamacppEngine

_DEFAULT_CONTEXT = 4096


async def start_pools(
    plan: Plan,
    names: Sequence[str],
    folder: Path,
    *,
    stand_in: LocalPart | None = None,
    stand_in_engines: int = 1,
) -> dict[str, list[Engine]]:
    """Engines of the pools ``names`` of a plan, all answering; ``folder`` holds exchanged KV, logs and the tiny model.

    A pool that has neither a local engine nor an endpoint is run by ``stand_in_engines`` engines of ``stand_in``.

    Raises:
        InputError: a pool without a way to run it, or a wrong model path.
        EngineError: an engine that does not start; those already started are closed.
    """
    engines: dict[str, list[Engine]] = {name: [] for name in names}
    try:
        async with asyncio.TaskGroup() as group:
            for name in names:
                pool = plan.pool(name)
                group.create_task(_start(pool, folder, engines[name], stand_in, stand_in_engines))
    except BaseException as error:
        await close_all(engines)
        if isinstance(error, BaseExceptionGroup):
            raise next((e for e in error.exceptions if isinstance(e, HeterarchError)), error.exceptions[0]) from None
        raise
    return engines


async def close_all(engines: Mapping[str, Sequence[Engine]]) -> None:
    """Close every engine, whatever one of them raises."""
    closing = [engine.close() for pool in engines.values() for engine in pool]
    await asyncio.shield(asyncio.gather(*closing, return_exceptions=True))


def stands_in(pool: Pool) -> bool:
    """Whether the plan itself says nothing of how to run this pool here."""
    return pool.local is None and pool.endpoint is None


async def _start(
    pool: Pool, folder: Path, engines: list[Engine], stand_in: LocalPart | None, stand_in_engines: int
) -> None:
    if pool.endpoint is not None and pool.local is None:
        endpoint = pool.endpoint
        engines.append(
            OpenAIEngine(
                endpoint.url,
                endpoint.api_model,
                name=pool.name,
                api_key_env=endpoint.api_key_env,
                slots=pool.concurrency,
                requests_per_min=endpoint.requests_per_min,
            )
        )
        return
    local, count = pool.local, pool.engines
    if local is None:
        local, count = stand_in, stand_in_engines
    if local is None:
        raise InputError(
            f"pool {pool.name} ({pool.engines} x {pool.device}) has no engine that can run here",
            fix="set `local` of the pool, or scale the plan down to this machine (heterarch run --local)",
        )
    if local.kind == "openai":
        engines += [_openai(pool, local, url, row) for row, url in enumerate(local.urls)]
        return
    for row in range(count):
        engines.append(await _llama(pool, local, folder, row))


def _openai(pool: Pool, local: LocalPart, url: str, row: int) -> Engine:
    key = pool.endpoint.api_key_env if pool.endpoint else ""
    model = local.model_path or pool.model
    return OpenAIEngine(url, model, name=f"{pool.name}.{row}", api_key_env=key, slots=max(local.slots, 1))


async def _llama(pool: Pool, local: LocalPart, folder: Path, row: int) -> Engine:
    model = Path(local.model_path)
    if local.model_path == "tiny":
        model = folder / "tiny.gguf"
        with suppress(FileExistsError):
            if not model.exists():
                write_gguf(model, TINY)
    return await XllamacppEngine.start(
        model,
        folder,
        name=f"{pool.name}.{row}",
        slots=max(local.slots, 1),
        context_tokens=local.context_tokens or _DEFAULT_CONTEXT,
        threads=max(local.threads, 1),
        embed=pool.role == "embed",
    )
