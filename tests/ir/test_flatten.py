"""The flat form says the same as the module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from heterarch.errors import UnknownNameError, VerifyError
from heterarch.graph.load import load_agent
from heterarch.ir.flat import FlatProgram, OpKind, Slot
from heterarch.ir.flatten import flatten
from heterarch.ir.passes import run_passes
from heterarch.ir.passes.decompose import Decompose
from heterarch.ir.passes.place import Place

EXAMPLES = Path(__file__).parents[2] / "examples"


def flat(name: str, **placement: str) -> FlatProgram:
    module = load_agent(str(EXAMPLES / f"{name}.py")).module
    return flatten(run_passes(module, [Decompose(), Place.of(placement)]))


def test_coding_agent() -> None:
    program = flat("coding_agent", **{"step.prefill": "p", "step.decode": "d"})
    assert program.names == (
        "chat", "load_chat", "loop", "step.kv_lookup", "step.prefill", "step.kv_transfer", "step.decode", "shell",
        "store_chat",
    )  # fmt: skip
    loop, decode = program.names.index("loop"), program.names.index("step.decode")
    (body,) = program.regions_of(loop)
    assert list(program.ops_in(int(body))) == [3, 4, 5, 6, 7]
    assert len(program.arguments(int(body))) == len(program.yielded(int(body))) == len(program.inputs(loop)) == 2
    assert program.statistic(loop, Slot.COUNT) is not None
    assert program.statistic(decode, Slot.TOKENS_OUT) is None  # the workload's
    assert program.pool_of(decode) == "d"
    assert program.pool_of(loop) is None
    assert program.attrs[decode]["model"] == "gpt-oss-120b"
    assert program.attrs[loop] == {"until": "finished", "max_trips": 40}
    assert program.where[decode].file.endswith("coding_agent.py")
    assert program.where[decode].line > 0


def test_streaming_edge_and_cases() -> None:
    program = flat("voice_agent")
    tts, branch = program.names.index("tts"), program.names.index("branch")
    assert program.streams[program.operand_offsets[tts]]
    assert program.streams.sum() == 1
    assert program.attrs[branch]["cases"] == ("search", "answer")
    assert program.attrs[branch]["probabilities"] == (0.1, 0.9)
    assert len(program.regions_of(branch)) == 2


def test_sub_agent_is_one_region_and_the_last_graph_is_the_entry() -> None:
    program = flat("deep_research")
    call = program.names.index("searcher")
    assert program.kind[call] == OpKind.GRAPH_CALL
    assert list(program.regions_of(call)) == [program.graphs["searcher"]]
    assert program.entry == program.graphs["deep_research"]


def test_values_are_defined_once_and_arrays_are_frozen() -> None:
    for name in ("coding_agent", "voice_agent", "deep_research"):
        program = flat(name)
        defined = np.concatenate([program.results, program.args])
        assert sorted(defined) == list(range(program.value_count))
        assert not program.kind.flags.writeable


def test_what_only_a_pass_can_lower_is_refused() -> None:
    with pytest.raises(VerifyError, match="run the pass `decompose` first"):
        flatten(load_agent(str(EXAMPLES / "coding_agent.py")).module)


def test_unknown_names_come_with_the_nearest() -> None:
    module = run_passes(load_agent(str(EXAMPLES / "coding_agent.py")).module, [Decompose()])
    with pytest.raises(UnknownNameError, match=r"step\.decode"):
        run_passes(module, [Place.of({"step.decod": "x"})])
    with pytest.raises(UnknownNameError, match="coding_agent"):
        flatten(module, "coding_agnt")
