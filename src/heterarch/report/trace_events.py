"""A run as a file of trace events, for chrome://tracing and ui.perfetto.dev.

Pools are processes. Each engine has as many threads (lanes) as calls are with it at once, waiting ones included, so
that no slice hides another. Phases ``X`` (slices), ``C`` (counters), ``M`` (names), ``s`` and ``f`` (arrows from
prefill to decode) of the Trace Event Format (Google 2016); times in microseconds.
"""

from __future__ import annotations

import gzip
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from heterarch.documents import replacing
from heterarch.report.aggregate import Records, Status
from heterarch.report.records import Labels

Event = dict[str, Any]
_US = 1e6


@dataclass(frozen=True)
class Run:
    """The records of a run, its samples (:data:`heterarch.report.series.SAMPLE`), if any, and what they number."""

    calls: Records
    tools: Records
    labels: Labels
    samples: Records | None = None

    @property
    def end_s(self) -> float:
        """The last recorded moment; what had not ended then is shown until then."""
        columns = [records[name] for records in (self.calls, self.tools) for name in ("submitted_s", "finish_s")]
        moments = np.concatenate(columns)
        return float(moments[np.isfinite(moments)].max(initial=0.0))


def write_trace_events(run: Run, path: Path | str, facts: Mapping[str, object], requests: int) -> bool:
    """Write the first ``requests`` requests of ``run``; gzip where the name ends in .gz. Whether some were left out.

    Args:
        run: what happened.
        path: of the file, which appears whole or not at all.
        facts: of the run, for the file's ``otherData``.
        requests: rows of the requests that are shown; counters are of the whole run.

    Raises:
        InputError: the folder is absent or may not be written, or the disk is full.
    """
    offered = int(run.calls["request"].max(initial=-1)) + 1
    noted = {name: str(value) for name, value in facts.items()}
    if requests < offered:
        noted["left_out"] = f"{offered - requests} of {offered} requests; counters are of all"
    with replacing(path) as raw, _text(raw, str(path).endswith(".gz")) as stream:
        stream.write(f'{{"displayTimeUnit": "ms", "otherData": {json.dumps(noted)}, "traceEvents": [\n')
        for number, event in enumerate(_events(run, requests)):
            stream.write((",\n" if number else "") + json.dumps(event, separators=(",", ":")))
        stream.write("\n]}\n")
    return requests < offered


@contextmanager
def _text(raw: BinaryIO, packed: bool) -> Iterator[TextIO]:
    """Text into ``raw``, packed without name and time of day, so that the same events are the same bytes."""
    with ExitStack() as stack:
        inner = stack.enter_context(gzip.GzipFile("", "wb", fileobj=raw, mtime=0)) if packed else raw
        yield stack.enter_context(TextIOWrapper(inner, encoding="utf-8", newline=""))


@dataclass
class Lanes:
    """Threads of one engine: a slice goes to the lowest lane that is free when it begins."""

    first: int
    free: list[int] = field(default_factory=list)
    taken: list[tuple[float, int]] = field(default_factory=list)
    count: int = 0

    def at(self, begin_s: float, end_s: float) -> int:
        """A lane from ``begin_s`` to ``end_s``; slices come in order of their beginning."""
        while self.taken and self.taken[0][0] <= begin_s:
            heapq.heappush(self.free, heapq.heappop(self.taken)[1])
        if not self.free:
            heapq.heappush(self.free, self.count)
            self.count += 1
        lane = heapq.heappop(self.free)
        heapq.heappush(self.taken, (end_s, lane))
        return self.first + lane


def _events(run: Run, requests: int) -> Iterator[Event]:
    for pool, name in enumerate(run.labels.pools):
        yield _name("process_name", pool, 0, name)
    end_s = run.end_s
    stays = sorted((*_call_stays(run, requests, end_s), *_tool_stays(run, requests, end_s)), key=lambda stay: stay.key)
    lanes: dict[tuple[int, int], Lanes] = {}
    for stay in stays:
        place = (stay.pool, stay.engine)
        if place not in lanes:
            lanes[place] = Lanes(1 + (stay.engine + 1) * LANES)
        known = lanes[place].count
        lane = lanes[place].at(stay.begin_s, stay.end_s)
        if lanes[place].count > known:
            name = "task" if stay.engine < 0 else f"engine {stay.engine}"
            yield _name("thread_name", stay.pool, lane, f"{name}, lane {lane - lanes[place].first}")
        yield from stay.events(lane)
    if run.samples is not None:
        yield from _counters(run.samples)


LANES = 1_000_000  # threads between those of one engine and of the next


@dataclass(frozen=True)
class Stay:
    """A call or task on one engine: slices one after another, and the arrow that leaves or reaches it."""

    number: int
    pool: int
    engine: int
    slices: list[tuple[str, float, float]]
    args: Event
    arrow: str = ""

    @property
    def begin_s(self) -> float:
        """When its first slice begins."""
        return self.slices[0][1]

    @property
    def end_s(self) -> float:
        """When its last slice ends."""
        return self.slices[-1][2]

    @property
    def key(self) -> tuple[float, int]:
        """Orders stays in time."""
        return self.begin_s, self.number

    def events(self, lane: int) -> Iterator[Event]:
        """The slices, and the arrow at the end of a prefill or at the beginning of its decode."""
        place: Event = {"pid": self.pool, "tid": lane}
        for name, begin_s, end_s in self.slices:
            yield {
                "ph": "X", "name": name, "cat": "call", "ts": _us(begin_s), "dur": _us(end_s - begin_s), **place,
                "args": self.args,
            }  # fmt: skip
        if self.arrow:
            at = {"ts": _us(self.slices[-1][1] if self.arrow == "s" else self.begin_s), "id": self.number}
            bound: Event = {"bp": "e"} if self.arrow == "f" else {}
            yield {"ph": self.arrow, "name": "KV", "cat": "call", **at, **place, **bound}


def _call_stays(run: Run, requests: int, end_s: float) -> Iterator[Stay]:
    for number in np.flatnonzero(run.calls["request"] < requests).tolist():
        call = run.calls[number]
        submitted, scheduled, first, arrived, finish = (float(call[name]) for name in _MOMENTS)
        finish = finish if np.isfinite(finish) else end_s
        args = {
            "request": int(call["request"]), "session": int(call["session"]), "op": _op(run.labels, int(call["op"])),
            "prompt_tokens": int(call["prompt_tokens"]), "cached_tokens": int(call["cached_tokens"]),
            "output_tokens": int(call["output_tokens"]), "restarts": int(call["restarts"]),
            "status": Status(int(call["status"])).name.lower(),
        }  # fmt: skip
        place, there = (int(call["pool"]), int(call["engine"])), (int(call["decode_pool"]), int(call["decode_engine"]))
        before = [("queue", submitted, scheduled), ("prefill", scheduled, first)]
        if place[0] == there[0]:
            parts = [(place, _known([*before, ("decode", first, finish)], submitted, finish), "")]
        else:
            after = _known([("transfer", first, arrived), ("decode", arrived, finish)], first, finish)
            parts = [(place, _known(before, submitted, finish), "s" if after else ""), (there, after, "f")]
        for (pool, engine), slices, arrow in parts:
            if slices:
                yield Stay(number, pool, engine, slices, args, arrow)


_MOMENTS = ("submitted_s", "scheduled_s", "first_token_s", "kv_arrived_s", "finish_s")


def _tool_stays(run: Run, requests: int, end_s: float) -> Iterator[Stay]:
    for number in np.flatnonzero(run.tools["request"] < requests).tolist():
        task = run.tools[number]
        op = _op(run.labels, int(task["op"]))
        submitted, scheduled, finish = (float(task[name]) for name in ("submitted_s", "scheduled_s", "finish_s"))
        finish = finish if np.isfinite(finish) else end_s
        slices = _known([("queue", submitted, scheduled), (op, scheduled, finish)], submitted, finish)
        args = {"request": int(task["request"]), "session": int(task["session"]), "op": op}
        if slices:
            yield Stay(len(run.calls) + number, int(task["pool"]), -1, slices, args)


def _known(
    slices: Iterable[tuple[str, float, float]], begin_s: float, finish_s: float
) -> list[tuple[str, float, float]]:
    """Those that began, in time; one that did not come to its own end ends when the call did."""
    ends = [(name, begin, end if np.isfinite(end) else finish_s) for name, begin, end in slices]
    return [each for each in ends if each[2] >= each[1] >= begin_s and (each[2] > each[1] or each[0] != "queue")]


def _counters(samples: Records) -> Iterator[Event]:
    for row in samples:
        place: Event = {"ph": "C", "pid": int(row["pool"]), "tid": 0, "ts": _us(float(row["time_s"]))}
        yield {**place, "name": "calls", "args": {"queued": int(row["queued"]), "running": int(row["running"])}}
        shares = {name: round(float(row[f"{name}_share"]), 4) for name in ("kv", "cached")}
        yield {**place, "name": "KV memory", "args": shares}
        yield {**place, "name": "busy", "args": {"share": round(float(row["busy_share"]), 4)}}


def _op(labels: Labels, op: int) -> str:
    return labels.ops[op] if 0 <= op < len(labels.ops) else ""


def _name(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _us(time_s: float) -> float:
    return round(time_s * _US, 3)
