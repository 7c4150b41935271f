"""Mooncake JSON lines: one call a line, with ids of its 512-token KV blocks that are global to the file.

https://github.com/kvcache-ai/Mooncake, FAST25-release/traces.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from heterarch.errors import TraceError, Where
from heterarch.workload.formats.base import Calls, refuse
from heterarch.workload.prefix import relation_of_block_ids

BLOCK_TOKENS = 512


class _Line(msgspec.Struct):
    timestamp: float  # milliseconds
    input_length: int
    output_length: int
    hash_ids: list[int]


def read(path: Path) -> Calls:
    """Read ``.jsonl`` or ``.jsonl.gz``.

    Raises:
        TraceError: a line is not JSON or lacks a field, or ``hash_ids`` does not have one id per 512 tokens.
    """
    numbers, lines = [], []
    for number, line in _lines(path):
        numbers.append(number)
        lines.append(line)
    row = np.array(numbers, np.int64)
    prompt = np.array([line.input_length for line in lines], np.int64)
    parent, shared, blocks = relation_of_block_ids(line.hash_ids for line in lines)
    wrong = blocks != -(-prompt // BLOCK_TOKENS)
    refuse(path, row, wrong, f"hash_ids needs one id per {BLOCK_TOKENS} tokens of input_length", blocks)
    n = len(lines)
    return Calls(
        kind="open",
        block_tokens=BLOCK_TOKENS,
        row=row,
        session=np.arange(n, dtype=np.int32),
        time_s=np.array([line.timestamp for line in lines], np.float64) / 1e3,
        gap_s=np.full(n, np.nan),
        prompt_tokens=prompt,
        output_tokens=np.array([line.output_length for line in lines], np.int64),
        parent=parent,
        shared_blocks=shared,
        n_blocks=blocks,
    )


def _lines(path: Path) -> Iterator[tuple[int, _Line]]:
    decoder = msgspec.json.Decoder(_Line)
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, text in enumerate(stream, 1):
                if text.strip():
                    yield number, decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TraceError(
            f"cannot read the line as a Mooncake call: {error}",
            where=Where(str(path), number),
            expected=f"JSON with {', '.join(_Line.__struct_fields__)}",
        ) from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise TraceError(f"the compressed file is damaged: {error}", where=Where(str(path), number)) from None
