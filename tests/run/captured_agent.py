"""An agent as a user writes it, for the test that goes from capture to a live run."""

from __future__ import annotations

from heterarch.graph import python as ha


@ha.tool(seconds=0.01)
def grep(pattern: str) -> str:
    return f"3 matches of {len(pattern)} characters"


@ha.compute
def parts(text: str) -> list[str]:
    return [text[:8], text[8:16]]


def done(chat: object, text: str) -> bool:
    return len(chat.messages) >= 5  # type: ignore[attr-defined]


@ha.agent
def coder(task: ha.Text) -> ha.Text:
    chat = ha.load("chat", ha.chat("You edit code.", tokens=10))

    def step(chat: ha.Chat, text: ha.Text) -> tuple[ha.Chat, ha.Text]:
        chat, reply = ha.model(
            "llama-3.1-8b", chat, text, template="Next: {0}", tokens_in=20, max_tokens=6, name="step"
        )
        return chat, grep(reply)

    chat, seen = ha.loop(step, chat, task, trips=3, until=done, max_trips=4)
    notes = ha.map(lambda part: ha.model("llama-3.1-8b", part, max_tokens=3, name="note"), parts(seen), width=2)
    ha.store("chat", chat)
    return ha.model("llama-3.1-8b", notes, max_tokens=5, name="sum")
