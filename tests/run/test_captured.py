"""From a captured agent through the passes to a live run: what the front end writes is what the executor understands."""

from __future__ import annotations

import pytest

from heterarch.plan.document import CallablePart
from heterarch.run.engines.fake import FakeEngine
from heterarch.run.live import RunOptions, run_plan

from .plans import plan, pool

graph = pytest.importorskip("heterarch.graph.python")


async def test_a_captured_agent_runs() -> None:
    from xdsl.context import Context

    from heterarch.ir.flatten import flatten
    from heterarch.ir.passes.decompose import Decompose
    from heterarch.ir.passes.place import Place

    from .captured_agent import coder

    module = coder.module.clone()
    Decompose().apply(Context(), module)
    Place(("*=one",)).apply(Context(), module)
    table = [
        CallablePart(symbol=symbol, ref=found.ref, sha256=found.sha256) for symbol, found in coder.callables.items()
    ]
    engine = FakeEngine(answers=lambda call: f"answer to {call.messages[-1].text}")
    options = RunOptions(engines={"one": [engine]}, strict=True)
    live = await run_plan(plan(pool("one"), callables=table), flatten(module), [{"task": "fix it"}], options)
    assert live.errors == (None,)
    assert live.outputs[0] is not None
    assert live.outputs[0][0].startswith("answer to answer to")
    # two trips (5 messages), then two notes, then the sum
    assert [len(call.messages) for call in engine.calls] == [2, 4, 1, 1, 1]
    assert engine.calls[0].messages[-1].text == "Next: fix it"
    assert engine.calls[1].messages[-1].text == "Next: 3 matches of 22 characters"
    assert live.report.notes == []
