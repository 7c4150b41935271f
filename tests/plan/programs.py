"""Small agents for the tests, lowered."""

from __future__ import annotations

from collections.abc import Callable

import heterarch as ha
from heterarch.graph.build import Agent
from heterarch.ir.flat import FlatProgram
from heterarch.ir.flatten import flatten
from heterarch.ir.passes.decompose import Decompose
from heterarch.ir.passes.place import Place
from heterarch.ir.text import context, print_module
from heterarch.workload.distribution import constant
from heterarch.workload.profile import Arrivals, CallStatistics, Workload

BIG = "Meta-Llama-3.1-70B"
SMALL = "Meta-Llama-3.1-8B"


@ha.tool(seconds=2.0)
def search(query: str) -> str:
    """A tool of two seconds."""
    return query


@ha.compute(seconds=0.25)
def split(text: str) -> list[str]:
    """Lines."""
    return text.splitlines()


@ha.agent
def single(question: ha.Text) -> ha.Text:
    """One call, no tool."""
    return ha.model(SMALL, question, tokens_in=1000, tokens_out=101, name="answer")


@ha.agent
def looped(question: ha.Text) -> ha.Text:
    """Three trips of a call and a tool on one chat that the session keeps."""

    def step(chat: ha.Chat, text: ha.Text) -> tuple[ha.Chat, ha.Text]:
        chat, text = ha.model(SMALL, chat, text, tokens_in=200, tokens_out=50, name="step")
        return chat, search(text)

    chat = ha.load("chat", ha.chat("You are brief.", tokens=1000))
    chat, text = ha.loop(step, chat, question, trips=3, max_trips=10)
    ha.store("chat", chat)
    return text


@ha.agent
def worker(item: ha.Text) -> ha.Text:
    """A tool, then a call."""
    return ha.model(SMALL, search(item), tokens_in=500, tokens_out=50, name="work")


@ha.agent
def fanned(question: ha.Text) -> ha.Text:
    """Four workers side by side, then a call of another model."""
    notes = ha.map(worker, split(question), width=4, name="workers")
    return ha.model(BIG, notes, tokens_in=800, tokens_out=100, name="write")


@ha.compute
def needs(heard: str) -> str:
    """Whether a search helps."""
    return "no"


@ha.agent
def spoken(audio: ha.Audio) -> ha.Audio:
    """Speech in, a call that sometimes searches first, speech out."""
    heard = ha.speech_to_text(audio, seconds=0.1)
    found = ha.branch(
        needs(heard), {"yes": lambda: search(heard), "no": lambda: heard}, probabilities={"yes": 0.25, "no": 0.75}
    )
    return ha.text_to_speech(ha.model(SMALL, found, tokens_in=300, tokens_out=80, name="reply"), seconds=0.2)


@ha.compute(seconds=1.0)
def outline(text: str) -> list[str]:
    """Two lines."""
    return [f"{text} a", f"{text} b"]


@ha.agent
def enclosing(question: ha.Text) -> ha.Text:
    """The bodies of a loop, a map and a branch read values of the function around them."""
    plan = search(question)

    def step(text: ha.Text) -> ha.Text:
        return ha.model(SMALL, text, plan, template="{0} given {1}", tokens_in=100, tokens_out=20, name="step")

    draft = ha.loop(step, question, trips=2, max_trips=2)
    parts = ha.map(
        lambda part: ha.model(SMALL, part, draft, template="{0} of {1}", tokens_in=50, tokens_out=10, name="part"),
        outline(draft),
        width=2,
    )
    return ha.branch(
        needs(question),
        {"yes": lambda: search(plan), "no": lambda: ha.model(SMALL, parts, tokens_in=9, tokens_out=9, name="sum")},
        probabilities={"yes": 0.0, "no": 1.0},
    )


@ha.agent
def background(question: ha.Text) -> ha.Text:
    """A sub-agent runs on while a branch is taken; the request ends with it."""
    ha.spawn(worker, question)
    return ha.model(SMALL, question, tokens_in=10, tokens_out=10, name="quick")


def lower(agent: Agent) -> tuple[FlatProgram, Callable[[dict[str, str]], str]]:
    """The flat program, and the text of its module for a placement."""
    module = agent.module.clone()
    Decompose().apply(context(), module)

    def place(placement: dict[str, str]) -> str:
        placed = module.clone()
        Place.of(placement).apply(context(), placed)
        return print_module(placed)

    return flatten(module), place


def workload(rate_per_s: float = 1.0, requests: float = 1.0, think_s: float = 60.0) -> Workload:
    """Constants everywhere."""
    return Workload(
        name="test",
        arrivals=Arrivals(rate_per_s=rate_per_s),
        requests_per_session=constant(requests),
        think_s=constant(think_s),
        call=CallStatistics(context_tokens=constant(2000.0), tokens_in=constant(100.0), tokens_out=constant(100.0)),
    )
