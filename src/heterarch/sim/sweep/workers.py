"""Who does the runs: this process, several processes, or a Ray cluster. Each yields runs as they finish."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from heterarch.errors import InputError
from heterarch.sim.sweep.runs import Run, Work, run_one

DIED = "its worker process died twice (out of memory, or killed)"
Runs = Generator[Run, None, None]
Workers = Callable[[Sequence[Work]], Runs]


def in_this_process(works: Sequence[Work]) -> Runs:
    """One after the other."""
    yield from map(run_one, works)


def in_processes(works: Sequence[Work], jobs: int, task: Callable[[Work], Run] = run_one) -> Runs:
    """``jobs`` at a time, each in a fresh process of Python (a script needs ``if __name__ == "__main__"``).

    When a worker dies, every run that was under way is repeated alone, so that the one that kills its worker is found;
    it fails, the others go on.
    """
    waiting = deque(works)
    while waiting:
        suspects: list[Work] = []
        with _pool(min(jobs, len(waiting))) as pool:
            yield from _feed(pool, task, jobs, waiting, suspects)
        for work in suspects:
            yield _alone(work, task)


def on_ray(works: Sequence[Work]) -> Runs:
    """On the Ray cluster that this machine belongs to, one core each; without one on this machine's cores.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs Ray", fix="pip install 'heterarch[ray]', or leave --ray out") from None
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    remote = ray.remote(num_cpus=1, max_retries=1)(run_one)
    running = {remote.remote(work): work for work in works}
    while running:
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        work = running.pop(done)
        try:
            yield ray.get(done)
        except ray.exceptions.WorkerCrashedError:
            yield work.failed(DIED)
        except ray.exceptions.RayError as error:
            yield work.failed(f"{type(error).__name__} of Ray")


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes; on Ctrl-C or an error they are ended at once."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start)
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    """In a worker: Ctrl-C is the parent's business, and without a parent there is none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _feed(
    pool: ProcessPoolExecutor, task: Callable[[Work], Run], jobs: int, waiting: deque[Work], suspects: list[Work]
) -> Runs:
    """Runs of ``waiting``, never more than ``jobs`` under way; those whose worker died go to ``suspects``."""
    running: dict[Future[Run], Work] = {}
    while running or (waiting and not suspects):
        while waiting and len(running) < jobs and not suspects:
            work = waiting.popleft()
            try:
                running[pool.submit(task, work)] = work
            except BrokenProcessPool:
                suspects.append(work)
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            work = running.pop(future)
            try:
                yield future.result()
            except BrokenProcessPool:
                suspects.append(work)


def _alone(work: Work, task: Callable[[Work], Run]) -> Run:
    with _pool(1) as pool:
        try:
            return pool.submit(task, work).result()
        except BrokenProcessPool:
            return work.failed(DIED)
