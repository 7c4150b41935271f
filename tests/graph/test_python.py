"""Capturing Python: what is recorded, and what is refused with a line and the construct to use."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import heterarch as ha
from heterarch.errors import CaptureError, HeterarchError, VerifyError, Where
from heterarch.ir.text import print_module


@ha.tool(seconds=2, effects=True)
def act(text: str) -> str:
    """A tool."""
    return text.upper()


@ha.compute
def parts(text: str) -> list[str]:
    """A list."""
    return text.split()


@ha.compute
def kind(text: str) -> str:
    """A case."""
    return "long" if len(text) > 10 else "short"


def glue(items: list[str]) -> str:
    return " ".join(items)


def enough(text: str) -> bool:
    return len(text) > 3


def find(vector: object, query: str) -> list[str]:
    return [query]


def test_every_construct_is_recorded() -> None:
    @ha.agent
    def helper(text: ha.Text) -> ha.Text:
        return ha.model("M", text, name="inner")

    @ha.agent
    def everything(text: ha.Text, sound: ha.Audio) -> tuple[ha.Text, ha.Audio]:
        heard = ha.speech_to_text(sound, seconds=0.1)
        later = ha.spawn(helper, text)
        pieces = ha.map(lambda piece: ha.model("M", piece), parts(heard), width=3, join=glue)
        docs = ha.retrieve(text, index="wiki", using=find, search_seconds=0.01)
        best = ha.rerank(docs, text, keep=2)
        vector = ha.embed(text)
        picture = ha.image(text, seconds=3)
        chat = ha.load("chat", ha.chat("system", tokens=10))
        chat, answer = ha.model("M", chat, "Use {0}, {1}, {2}", pieces, best, vector, template="{0}", streaming=True)
        answer2 = ha.branch(
            kind(text), {"long": lambda t: ha.human(t, seconds=60), "short": lambda t: t}, text,
            probabilities={"long": 0.2, "short": 0.8},
        )  # fmt: skip
        final = ha.loop(lambda t: act(t), answer2, trips=ha.quantiles(p0=1, p100=4), until=enough, max_trips=5)
        ha.store("chat", chat)
        told = ha.model("M", final, ha.wait(later), picture)
        return told, ha.text_to_speech(answer)

    text = print_module(everything.module, locations=False)
    for op in ("audio", "call", "await", "map", "retrieve", "rerank", "embed", "image", "memory_load", "memory_store",
               "chat", "model", "branch", "human", "loop", "tool", "compute", "const"):  # fmt: skip
        assert f"agent.{op} " in text, op
    assert 'agent.model "helper.inner"' in text
    assert "agent.stream" in text
    assert set(everything.callables) >= {"act", "parts", "kind", "glue", "enough", "find"}
    assert everything.callables["act"].ref.endswith(":act")


def test_callables_still_work_outside_an_agent() -> None:
    assert act("a") == "A"


def test_numbering_of_nodes_without_a_name() -> None:
    @ha.agent
    def twice(text: ha.Text) -> ha.Text:
        return act(act(text))

    assert 'agent.tool "act"' in (text := print_module(twice.module))
    assert 'agent.tool "act_2"' in text


def bad(body: Callable[..., Any]) -> HeterarchError:
    with pytest.raises(HeterarchError) as caught:
        ha.agent(body)
    return caught.value


def line_of(body: Callable[..., Any], text: str) -> int:
    lines, start = inspect.getsourcelines(body)
    return start + next(i for i, line in enumerate(lines) if text in line)


def with_if(text: ha.Text) -> ha.Text:
    if text:  # here
        return text
    return text


def with_for(text: ha.List) -> ha.Text:
    for _ in text:  # here
        pass
    return ha.model("M", text)


def with_compare(text: ha.Text) -> ha.Text:
    return text if text == "x" else act(text)  # here


def with_fstring(text: ha.Text) -> ha.Text:
    return ha.model("M", f"Say {text}")  # here


def with_index(text: ha.List) -> Any:
    return text[0]  # here


def with_addition(text: ha.Text) -> Any:
    return "Say " + text  # here


@pytest.mark.parametrize(
    ("body", "words"),
    [(with_if, ("branch", "loop")), (with_for, ("map", "loop")), (with_compare, ("branch",)),
     (with_fstring, ("template",)), (with_index, ("compute",)), (with_addition, ("template",))],
)  # fmt: skip
def test_python_control_flow_on_traced_values(body: Callable[..., Any], words: tuple[str, ...]) -> None:
    error = bad(body)
    assert isinstance(error, CaptureError)
    assert f"test_python.py:{line_of(body, '# here')}" in str(error)
    assert all(word in str(error) for word in words)


def with_lambda(text: ha.Text) -> ha.Text:
    return ha.loop(act, text, until=lambda t: True)  # here


def with_closure(text: ha.Text) -> ha.Text:
    limit = 3

    def until(t: str) -> bool:
        return len(t) > limit

    return ha.loop(act, text, until=until)  # here


@pytest.mark.parametrize("body", [with_lambda, with_closure])
def test_what_a_plan_could_not_name_again_is_refused_with_its_line(body: Callable[..., Any]) -> None:
    error = bad(body)
    assert f"test_python.py:{line_of(body, '# here')}" in str(error)
    assert "module level" in str(error)


def test_other_mistakes() -> None:
    def untyped(text) -> ha.Text:  # type: ignore[no-untyped-def]
        return ha.model("M", text)

    def unused(text: ha.Text) -> ha.Text:
        ha.model("M", text)
        return text

    def one_name_twice(text: ha.Text) -> ha.Text:
        return ha.model("M", ha.model("M", text, name="a"), name="a")

    def wrong_arity(text: ha.Text) -> ha.Text:
        return ha.loop(lambda a, b: a, text)

    def not_a_list(text: ha.Text) -> Any:
        return ha.map(act, text)

    def cases(text: ha.Text) -> ha.Text:
        return ha.branch(text, {"a": lambda: ha.model("M", text)}, probabilities={"b": 1.0})

    def not_a_value(text: ha.Text) -> Any:
        return 3

    expected = {
        untyped: "needs a type", unused: "unreachable", one_name_twice: "two nodes", wrong_arity: "takes 2 values",
        not_a_list: "needs a list", cases: "do not name the cases", not_a_value: "not a value of the agent",
    }  # fmt: skip
    for body, message in expected.items():
        assert message in str(bad(body)), body
    assert isinstance(bad(unused), VerifyError)


def test_outside_an_agent() -> None:
    with pytest.raises(CaptureError, match="outside an agent"):
        ha.model("M", "hello")


def with_in(text: ha.Text) -> ha.Text:
    return ha.model("M", "found" if "x" in text else "not")


def test_in_is_answered_with_a_branch() -> None:
    error = bad(with_in)
    assert "`in`" in str(error)
    assert "ha.branch" in str(error)
    assert isinstance(error.where, Where)
    assert error.where.line == line_of(with_in, '"x" in')


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("x {1}", "place {1} and the call gives 1 inputs"),
        ("x {0} {2}", "place {2}"),
        ("x {}", "'{}', which is no place"),
        ("x {text}", "'{text}', which is no place"),
        ("x {0!r}", "'{0!r}', which is no place"),
        ("x {0", "'{0', which is no place"),
    ],
)
def test_a_template_without_its_input_is_refused_with_its_line(template: str, message: str) -> None:
    def plain(text: ha.Text) -> ha.Text:
        return ha.model("M", text, template=template)

    def chatty(text: ha.Text) -> ha.Text:
        return ha.model("M", ha.chat("s"), text, template=template)[1]

    for body in (plain, chatty):
        error = bad(body)
        assert message in str(error)
        assert isinstance(error.where, Where)
        assert error.where.line == line_of(body, "template=")


@pytest.mark.parametrize("template", ["{0}", 'As {"a": {0}}, {} if none', "a{2,3} {0}", "{{0}} {x}", "x", "{0.5} {0}"])
def test_other_braces_may_stand_in_a_template(template: str) -> None:
    @ha.agent
    def good(text: ha.Text) -> ha.Text:
        return ha.model("M", text, template=template)

    assert good.name == "good"


def test_a_wrong_statistic_names_its_line() -> None:
    def negative(text: ha.Text) -> ha.Text:
        return ha.model("M", text, tokens_out=-5)

    def falling(text: ha.Text) -> ha.Text:
        return ha.model("M", text, tokens_out=ha.quantiles(p50=2, p95=1))

    def words(text: ha.Text) -> ha.Text:
        return ha.model("M", text, tokens_out="5")  # type: ignore[call-overload,no-any-return]

    for body, message in ((negative, "-5"), (falling, "p50=2, p95=1"), (words, "a number or a distribution")):
        error = bad(body)
        assert message in str(error)
        assert isinstance(error.where, Where)
        assert error.where.file.endswith("test_python.py")
        assert error.where.line == line_of(body, "tokens_out")


def test_an_input_without_annotation() -> None:
    def untyped(text):  # type: ignore[no-untyped-def]
        return ha.model("M", text)

    assert "the input 'text'" in str(bad(untyped))
    assert "no annotation" in str(bad(untyped))
