"""What flows on the edges of a live run: ``str``, ``list``, :class:`Chat`, or anything."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from heterarch.run.engines.base import Message

_PLACE = re.compile(r"\{(\d+)\}")


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation: its messages so far, and which engine of each pool holds its KV (pool name, row)."""

    messages: tuple[Message, ...] = ()
    homes: tuple[tuple[str, int], ...] = ()

    def said(self, *messages: Message) -> Chat:
        """The chat with more messages."""
        return Chat(self.messages + messages, self.homes)

    def at(self, pool: str, engine: int) -> Chat:
        """The chat, its KV now on that engine of ``pool``."""
        others = tuple(home for home in self.homes if home[0] != pool)
        return Chat(self.messages, (*others, (pool, engine)))

    def home(self, pool: str) -> int:
        """Row of the engine of ``pool`` that served the chat last, -1 if none did."""
        return next((row for name, row in self.homes if name == pool), -1)

    def __str__(self) -> str:
        return "\n".join(f"{message.role}: {message.text}" for message in self.messages)


def text_of(value: object) -> str:
    """A value as text for a prompt: text as it is, lists one item per line, data as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "\n".join(text_of(item) for item in value)
    if isinstance(value, bool | int | float | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return str(value)


def render(template: str, inputs: Sequence[object]) -> str:
    """``template`` with ``{0}``, ``{1}``, ... replaced by the inputs; without one, the inputs one per line.

    Braces that are no place of an input stay as they are, so JSON may stand in a template.
    """
    texts = [text_of(value) for value in inputs]
    if not template:
        return "\n".join(texts)

    def fill(match: re.Match[str]) -> str:
        number = int(match.group(1))
        return texts[number] if number < len(texts) else match.group(0)

    return _PLACE.sub(fill, template)
