"""The verifier names the op, the rule and the user's line."""

from __future__ import annotations

import pytest

from heterarch.errors import HeterarchError, VerifyError
from heterarch.ir.text import parse_module
from heterarch.ir.verify import verify

CHAT = '%c = agent.chat "chat"() {system = ""} : () -> !agent.chat loc("a.py":3:1)'
MODEL = '%d, %t = agent.model "m"(%c) {model = "M"} : (!agent.chat) -> (!agent.chat, !agent.text) loc("a.py":4:1)'
END = "agent.yield %t : !agent.text"


def graph(*lines: str, result: str = "!agent.text", name: str = "g") -> str:
    body = "\n  ".join(lines)
    return f"agent.graph @{name}() -> {result} {{\n  {body}\n}}\n"


def test_a_good_module_passes() -> None:
    verify(parse_module(graph(CHAT, MODEL, END)))


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        (graph(CHAT, MODEL, MODEL.replace("%d, %t", "%e, %u"), END), "a.py:4:1", "two ops are called 'm'"),
        (graph(CHAT, CHAT.replace("%c", "%x").replace('"chat"', '"other"'), MODEL, END), "a.py:3:1", "unreachable"),
        (graph(MODEL, CHAT, END), "a.py:4:1", "before it is computed"),
        (
            graph(CHAT, MODEL, '%s = agent.audio "a"(%t) {task = "sing"} : (!agent.text) -> !agent.text loc("a.py":9:1)', "agent.yield %s : !agent.text"),
            "a.py:9:1", "unknown speech task 'sing'",
        ),
        (graph(CHAT, MODEL, "agent.yield %c : !agent.chat"), "", "graph outputs are"),
        (
            graph(CHAT, MODEL, '%b = agent.branch "b"(%t) {cases = ["x"], probabilities = [0.5 : f64]} : (!agent.text) -> !agent.text {\n agent.yield %t : !agent.text\n} loc("a.py":7:1)', "agent.yield %b : !agent.text"),
            "a.py:7:1", "sum to 1",
        ),
        (
            graph('%x = agent.call "c"() {callee = "h", mode = "sync"} : () -> !agent.text loc("a.py":2:1)', "agent.yield %x : !agent.text"),
            "a.py:2:1", "unknown sub-agent 'h'",
        ),
        (
            graph('%x = agent.call "c"() {callee = "g", mode = "sync"} : () -> !agent.text loc("a.py":2:1)', "agent.yield %x : !agent.text"),
            "a.py:2:1", "calls itself",
        ),
        (
            graph(CHAT, MODEL, '%l = agent.loop "l"(%t) : (!agent.text) -> !agent.text {\n^bb0(%i: !agent.data):\n agent.yield %i : !agent.data\n} loc("a.py":8:1)', "agent.yield %l : !agent.text"),
            "a.py:8:1", "region takes",
        ),
    ],
)  # fmt: skip
def test_broken_rules(text: str, where: str, message: str) -> None:
    with pytest.raises(HeterarchError) as caught:
        verify(parse_module(text))
    assert message in str(caught.value)
    assert str(caught.value).startswith(where)


def test_effects_keep_an_unused_tool() -> None:
    tool = '%x = agent.tool "notify"(%t) {callee = "f", effects = true} : (!agent.text) -> !agent.text'
    verify(parse_module(graph(CHAT, MODEL, tool, END)))
    with pytest.raises(VerifyError, match="unreachable"):
        verify(parse_module(graph(CHAT, MODEL, tool.replace("true", "false"), END)))


def test_phases_of_one_model_do_not_mix() -> None:
    text = graph(
        CHAT,
        '%p = serve.kv_lookup "m.kv_lookup"(%c) {call = "m", model = "A"} : (!agent.chat) -> !serve.prompt',
        '%k = serve.prefill "m.prefill"(%p) {call = "m", model = "B"} : (!serve.prompt) -> !serve.kv<"A">',
        "agent.yield %k : !serve.kv<\"A\">", result="!serve.kv<\"A\">",
    )  # fmt: skip
    with pytest.raises(VerifyError, match="KV of 'A' meets a phase of 'B'"):
        verify(parse_module(text))
