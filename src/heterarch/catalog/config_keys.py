"""The keys of a ``config.json``, with the place of each for messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterarch.documents import Locate, load_yaml, read_text
from heterarch.errors import InputError, Where


@dataclass(frozen=True)
class Keys:
    """The keys of one configuration, and where they stand: under ``prefix``."""

    cells: Mapping[str, Any]
    locate: Locate
    prefix: tuple[str, ...]

    def where(self, key: str) -> Where:
        """The place of a key."""
        return self.locate((*self.prefix, key))

    def find(self, *names: str) -> str | None:
        """The first of ``names`` that has a value."""
        return next((name for name in names if self.cells.get(name) is not None), None)

    def integer(self, *names: str, default: int | None = None, least: int = 0) -> int:
        """The first of ``names`` as a whole number of at least ``least``; without default it must be there."""
        name = self.find(*names)
        if name is None:
            if default is None:
                raise InputError(f"the key {names[0]!r} is missing", expected=" or ".join(names), where=self.where(""))
            return default
        value = self.cells[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            expected = f"a whole number of at least {least}"
            raise InputError(
                f"the key {name!r} is wrong", observed=repr(value), expected=expected, where=self.where(name)
            )
        return value

    def text(self, *names: str, default: str = "") -> str:
        """The first of ``names`` as text."""
        name = self.find(*names)
        return str(self.cells[name]) if name else default


def read_keys(path: Path | str) -> Keys:
    """The keys of a configuration; of a multimodal one those of its language model, with the quantisation of the whole.

    Raises:
        InputError: unreadable, not JSON (with its line), or not an object.
    """
    text = read_text(path)
    try:
        cells = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError("not JSON", observed=error.msg, where=Where(str(path), error.lineno, error.colno)) from None
    if not isinstance(cells, dict):
        raise InputError("a configuration must be an object of keys", observed=type(cells).__name__, where=str(path))
    _, locate = load_yaml(path)
    nested = next((key for key in ("text_config", "llm_config") if isinstance(cells.get(key), dict)), None)
    if nested is None:
        return Keys(cells, locate, ())
    outer = {key: cells[key] for key in ("quantization_config", "tie_word_embeddings", "_name_or_path") if key in cells}
    return Keys({**outer, **cells[nested]}, locate, (nested,))
