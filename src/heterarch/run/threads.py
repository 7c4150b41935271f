"""Threads for the user's ordinary functions: daemons, so one that hangs cannot keep a cancelled run alive."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

_Job = Callable[[], None]
_MOST = 256  # threads; further calls wait for one


class Threads:
    """Runs functions off the event loop; a new thread starts only when none is idle."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle = 0
        self._started = 0

    async def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """What ``function(*arguments)`` returns or raises. Cancelling stops the waiting, not the function."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def job() -> None:
            try:
                result, error = context.run(function, *arguments), None
            except BaseException as caught:  # handed to the waiting coroutine
                result, error = None, caught
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._settle, future, result, error)

        if self._idle > 0:
            self._idle -= 1
        elif self._started < _MOST:
            self._started += 1
            threading.Thread(target=self._serve, name=f"heterarch-{self._started}", daemon=True).start()
        self._jobs.put(job)
        return await future

    def close(self) -> None:
        """Let the threads end when they are idle."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _settle(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._idle += 1
        if future.cancelled():
            return
        if isinstance(error, StopIteration):  # a future cannot hold it
            error = RuntimeError("StopIteration")
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
