"""Whole runs: plan in, report out, with fakes for the semantics and llama.cpp processes for the truth."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from heterarch.errors import HeterarchError, InputError, UnknownNameError
from heterarch.ir.flat import OpKind
from heterarch.plan.document import EndpointPart
from heterarch.run.engines.base import Call
from heterarch.run.engines.fake import FakeEngine
from heterarch.run.live import RunOptions, run, run_plan

from .plans import TINY, chat_agent, plan, pool
from .programs import DATA, TEXT, Program
from .servers import delta, serving, stream

QUESTIONS = [{"question": text} for text in ("Where does it run?", "And then?", "Why?")]


def echo(call: Call) -> str:
    return "you said " + call.messages[-1].text


async def test_a_run_with_fakes_end_to_end() -> None:
    engine = FakeEngine(answers=echo, ttft_s=0.001)
    heard: list[tuple[str, str]] = []
    options = RunOptions(
        engines={"mixed": [engine]},
        sessions=["a", "b", "a"],
        on_token=lambda op, call, text: heard.append((op, text)),
        input_names=("question",),
    )
    live = await run_plan(
        plan(pool("mixed"), slo=["e2e.p95<=10s", "ttft.p95<=5s"]), chat_agent("mixed", "mixed"), QUESTIONS, options
    )
    report = live.report
    assert live.outputs == (["you said Where does it run?"], ["you said And then?"], ["you said Why?"])
    assert live.errors == (None, None, None)
    assert report.kind == "live"
    assert not report.partial
    assert report.seed == 7
    assert (report.requests.offered, report.requests.completed, report.calls.completed) == (3, 3, 3)
    assert all(verdict.met for verdict in report.slo)
    assert "".join(text for op, text in heard if op == "step.decode").startswith("you said Where does it run?")
    # the third request continues the chat of the first: its words are cached
    assert [len(call.messages) for call in engine.calls] == [2, 2, 4]
    assert report.cache.hit_blocks == 13  # the whole first turn: 3 words of system, 4 asked, 6 answered
    assert report.prompt_tokens == sum(len(m.text.split()) for call in engine.calls for m in call.messages)
    measured = {op.name: op for op in report.ops}
    assert measured["step.decode"].tasks == measured["step.prefill"].tasks == 3
    assert measured["step.decode"].predicted_s == 0.5
    assert report.usd == pytest.approx(report.duration_s * 3.6 / 3600)
    assert not engine.closed  # engines that were given are the caller's


async def test_disaggregated_pools_move_the_kv() -> None:
    first, second = FakeEngine(answers=echo, name="p"), FakeEngine(answers=echo, name="d")
    options = RunOptions(engines={"p": [first], "d": [second]})
    heard: list[str] = []
    options = RunOptions(engines={"p": [first], "d": [second]}, on_token=lambda op, call, text: heard.append(text))
    live = await run_plan(plan(pool("p", "prefill"), pool("d", "decode")), chat_agent("p", "d"), QUESTIONS[:1], options)
    assert live.outputs == (["you said Where does it run?"],)
    assert "".join(heard) == "you said Where does it run?"
    assert live.report.kv_transfer_bytes > 0
    assert {op.name: op.tasks for op in live.report.ops} == {"step.prefill": 1, "step.kv_transfer": 1, "step.decode": 1}
    by_pool = {row.name: row for row in live.report.pools}
    assert (by_pool["p"].prompt_tokens, by_pool["d"].prompt_tokens) == (7, 0)
    assert (by_pool["p"].output_tokens, by_pool["d"].output_tokens) == (0, 6)


async def test_a_failed_request_does_not_stop_the_others() -> None:
    engine = FakeEngine(answers=echo, faults={1: "broken"})
    live = await run_plan(
        plan(pool("mixed")), chat_agent("mixed", "mixed"), QUESTIONS, RunOptions(engines={"mixed": [engine]})
    )
    report = live.report
    assert [output is None for output in live.outputs] == [False, True, False]
    assert (report.requests.completed, report.requests.failed) == (2, 1)
    assert (report.calls.completed, report.calls.failed) == (2, 1)
    assert report.reasons == {"StreamBrokenError: the answer broke off": 1}


async def test_another_engine_takes_over_from_one_that_never_answered() -> None:
    dead, alive = FakeEngine(name="dead", closed=True), FakeEngine(answers=echo, name="alive")
    live = await run_plan(
        plan(pool("mixed")), chat_agent("mixed", "mixed"), QUESTIONS, RunOptions(engines={"mixed": [dead, alive]})
    )
    assert live.report.requests.completed == 3
    assert live.report.calls.failed == 0
    assert any("engine dead was lost" in note for note in live.report.notes)


async def test_deadline_and_partial_report() -> None:
    slow = FakeEngine(answers=echo, faults={0: "hang"})
    options = RunOptions(engines={"mixed": [slow]}, deadline_s=0.05)
    live = await run_plan(plan(pool("mixed")), chat_agent("mixed", "mixed"), QUESTIONS[:2], options)
    assert isinstance(live.errors[0], HeterarchError)
    assert (live.report.requests.failed, live.report.requests.completed) == (1, 1)
    assert not live.report.partial

    stop = asyncio.Event()
    engine = FakeEngine(answers=echo, faults={1: "hang"})
    options = RunOptions(
        engines={"mixed": [engine]}, on_token=lambda op, call, text: stop.set() if len(engine.calls) == 2 else None
    )
    live = await asyncio.wait_for(
        run_plan(plan(pool("mixed")), chat_agent("mixed", "mixed"), QUESTIONS, options, stop=stop), 5
    )
    assert live.report.partial
    assert (live.report.requests.completed, live.report.requests.unfinished) == (1, 2)
    assert live.outputs[0] == ["you said Where does it run?"]


async def test_concurrency_and_release_times() -> None:
    meeting = asyncio.Barrier(3)

    async def meet(text: str) -> str:
        await meeting.wait()
        return text

    p = Program()
    with p.graph("main", TEXT) as (x,):
        p.give(*p.op(OpKind.TOOL, "meet", [x], callee="meet"))
    options = RunOptions(concurrency=3, release_s=[0.0, 0.01, 0.02], functions={"meet": meet})
    live = await asyncio.wait_for(run_plan(plan(pool("mixed")), p.flat(), QUESTIONS, options), 5)
    assert live.report.requests.completed == 3


async def test_inputs_are_checked_by_name() -> None:
    options = RunOptions(engines={"mixed": [FakeEngine()]}, input_names=("question",))
    with pytest.raises(UnknownNameError, match="unknown input 'qestion'"):
        await run_plan(plan(pool("mixed")), chat_agent("mixed", "mixed"), [{"qestion": ""}], options)
    with pytest.raises(InputError, match="an input is missing"):
        await run_plan(plan(pool("mixed")), chat_agent("mixed", "mixed"), [{}], options)


async def test_pools_that_cannot_run_here() -> None:
    with pytest.raises(InputError, match=r"pool gpu .* has no engine that can run here"):
        await run_plan(plan(pool("gpu", local=None)), chat_agent("gpu", "gpu"), QUESTIONS[:1])
    with pytest.raises(UnknownNameError, match="unknown pool 'other'"):
        await run_plan(plan(pool("gpu")), chat_agent("other", "other"), QUESTIONS[:1])


async def test_an_endpoint_is_billed_by_its_tokens() -> None:
    usage = {
        "choices": [],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 400}},
    }
    async with serving(stream(delta("hi"), delta("", "stop"), usage)) as server:
        endpoint = EndpointPart(
            provider="x",
            api_model="m",
            url=server.url,
            input_usd_per_mtok=2,
            cached_usd_per_mtok=1,
            output_usd_per_mtok=10,
            ttft_p50_s=1,
            ttft_p95_s=1,
            tpot_p50_s=1,
            price_date="2026-01-01",
            source="test",
        )
        api = pool("api", "endpoint", local=None, endpoint=endpoint).model_copy(update={"usd_per_engine_h": 0.0})
        live = await run_plan(plan(api), chat_agent("api", "api"), QUESTIONS[:1])
    assert live.outputs == (["hi"],)
    assert live.report.usd == pytest.approx((600 * 2 + 400 * 1 + 10 * 10) / 1e6)


def test_disaggregation_through_the_executor_equals_one_pool(tiny: Path, no_orphans: None) -> None:
    """The acceptance test: greedy answers over two turns, two processes against one, and the KV was really used."""
    question = "Place each op. " + ", ".join(f"op{i} -> device {i * 7 % 13}" for i in range(20))
    asked = [{"question": question}, {"question": "Go on."}]
    options = RunOptions(sessions=["s", "s"])
    split = run(plan(pool("p", "prefill"), pool("d", "decode")), chat_agent("p", "d", max_tokens=24), asked, options)
    one = run(plan(pool("one")), chat_agent("one", "one", max_tokens=24), asked, options)
    assert split.outputs == one.outputs
    assert split.errors == (None, None)
    assert all(len(answer[0]) == 24 for answer in one.outputs if answer)
    assert split.report.kv_transfer_bytes > 128_000
    assert one.report.kv_transfer_bytes == 0
    assert one.report.cache.hit_blocks > 400  # the second turn found the first


def test_stand_in_engines_are_named_and_free(tiny: Path, no_orphans: None) -> None:
    options = RunOptions(stand_in=TINY, max_tokens=4)
    live = run(plan(pool("gpu", local=None)), chat_agent("gpu", "gpu"), QUESTIONS[:2], options)
    assert live.report.requests.completed == 2
    assert live.report.output_tokens == 8
    assert live.report.usd == 0
    assert any("stand-in engines ran pools gpu" in note for note in live.report.notes)


async def test_an_engine_killed_during_a_run(tiny: Path, no_orphans: None) -> None:
    """kill -9 of the only worker: the request under way breaks off, the others fail clearly, and the report says so."""
    here = psutil.Process(os.getpid())

    def kill(op: str, call: int, text: str) -> None:
        for child in here.children():
            with contextlib.suppress(psutil.Error):  # already killed
                if "heterarch.run.worker" in child.cmdline():
                    child.kill()

    options = RunOptions(on_token=kill, max_tokens=1500)
    live = await asyncio.wait_for(
        run_plan(plan(pool("one")), chat_agent("one", "one", max_tokens=1500), QUESTIONS[:2], options), 60
    )
    assert [type(error).__name__ for error in live.errors] == ["StreamBrokenError", "EngineUnavailableError"]
    assert live.report.requests.failed == 2


@pytest.mark.parametrize("hang", ["engine", "tool"])
def test_ctrl_c_keeps_the_report_and_leaves_no_process(tiny: Path, tmp_path: Path, hang: str) -> None:
    """A real SIGINT to a real program, in the middle of an answer or of a function that never returns."""
    program = f"""
        import os, sys, time
        sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
        from run.plans import chat_agent, plan, pool
        from run.programs import DATA, TEXT, Program
        from heterarch.ir.flat import OpKind
        from heterarch.run.live import RunOptions, run

        def sleep(x):
            print("running", flush=True)
            time.sleep(600)

        def tell(op, call, text):
            print("running", flush=True)

        if {hang!r} == "engine":
            flat = chat_agent("one", "one", max_tokens=2000)
            wait = [dict(q="x") for _ in range(1000)]
        else:
            p = Program()
            with p.graph("main", TEXT) as (x,):
                chat = p.op(OpKind.CHAT, "chat", [], ["!agent.chat"], system="")[0]
                p.call("step", chat, [x], "one", "one", max_tokens=2)
                p.give(*p.op(OpKind.TOOL, "sleep", [x], callee="sleep"))
            flat, wait = p.flat(), [dict(q="x")]
        live = run(plan(pool("one")), flat, wait, RunOptions(functions=dict(sleep=sleep), on_token=tell))
        print("PARTIAL", live.report.partial, live.report.requests.unfinished > 0, flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("heterarch.run.worker" in child.cmdline() for child in children)
    process.send_signal(signal.SIGINT)
    output = process.stdout.read()
    process.stdout.close()
    assert process.wait(20) == 0
    assert output.splitlines()[-1] == "PARTIAL True True"
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []


async def test_cancelling_a_run_stops_its_engines(tiny: Path, no_orphans: None) -> None:
    started = asyncio.Event()
    options = RunOptions(on_token=lambda op, call, text: started.set())
    work = asyncio.create_task(
        run_plan(plan(pool("one")), chat_agent("one", "one", max_tokens=2000), [{"q": "x"}] * 100, options)
    )
    await asyncio.wait_for(started.wait(), 30)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_memory_of_data_stays_in_its_session() -> None:
    p = Program()
    with p.graph("main", DATA) as (x,):
        old = p.op(OpKind.MEMORY_LOAD, "load", [x], [DATA], key="n")[0]
        new = p.op(OpKind.COMPUTE, "inc", [old], callee="inc")[0]
        p.op(OpKind.MEMORY_STORE, "store", [new], [], key="n")
        p.give(new)
    options = RunOptions(sessions=[1, 2, 1, 1], functions={"inc": lambda n: n + 1}, concurrency=4)
    live = await run_plan(plan(pool("mixed")), p.flat(), [[0]] * 4, options)
    assert live.outputs == ([1], [1], [2], [3])
