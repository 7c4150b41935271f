"""Attention kernels: of the queries of a prompt or a chunk of it (prefill), and of one new token per sequence (decode).

Both take the columns :data:`COLUMNS`: ``batch`` sequences, each with ``query`` new tokens and ``context`` tokens in
all, the new ones included (a prompt: query = context; a chunk after ``done`` cached tokens: context = done + query;
decode: query 1); ``heads`` and ``kv_heads`` of one device, ``head_dim``, and ``window``, the most keys that a query
sees (0: all before it). Scores and their product with V are multiplied in 16 bits whatever the format of the KV cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from heterarch.cost.kernels.base import Family, Floats, Shapes, Work, columns, log2
from heterarch.cost.kernels.formats import FORMATS

COLUMNS = ("batch", "query", "context", "heads", "kv_heads", "head_dim", "window")
WIDE_BYTES = 2.0  # queries and results are 16-bit in every engine
ROWS = 128.0  # prefill: queries that one thread block takes
BLOCKS = 64.0  # prefill: thread blocks that fill a device; fewer leave the rest of it idle
TILE = 64.0  # decode: rows of a tensor-core tile, and keys whose read takes as long as a sequence needs to start
UNPACKED = 1.0  # step of the axis between kernels that pack the queries of a KV head and those that do not
LONG = 2.0**14, 2.0**13  # (queries, keys) of a prompt beyond which the share of the peak changes no more
LARGE = 2.0**28  # values of K and V beyond which caches do not matter and the share of the bandwidth changes no more


class _Shape(NamedTuple):
    batch: Floats
    query: Floats
    context: Floats
    heads: Floats
    kv_heads: Floats
    head_dim: Floats
    window: Floats

    @property
    def keys(self) -> Floats:
        """Keys that a query sees, on average over the queries of a sequence."""
        seen = np.where(self.window > 0, self.window, np.inf)
        done = self.context - self.query
        growing = np.clip(seen - done, 0.0, self.query)  # queries that see all tokens before them
        full = (self.query - growing) * np.minimum(seen, self.context)
        return np.asarray((growing * (done + (growing + 1) / 2) + full) / self.query)

    @property
    def span(self) -> Floats:
        """Keys that some query of a sequence sees."""
        return np.asarray(
            np.where(self.window > 0, np.minimum(self.context, self.query + self.window - 1), self.context)
        )

    @property
    def flops(self) -> Floats:
        """2 per multiply-add of unmasked pairs in Q K^T and P V (FlashAttention-2, arXiv 2307.08691, section 4.1)."""
        return np.asarray(4 * self.batch * self.heads * self.head_dim * self.query * self.keys)

    @property
    def wide(self) -> Floats:
        """Bytes of queries and results."""
        return np.asarray(2 * WIDE_BYTES * self.batch * self.query * self.heads * self.head_dim)

    @property
    def kv_values(self) -> Floats:
        """Values of K and V of one token, over the batch."""
        return np.asarray(2 * self.batch * self.kv_heads * self.head_dim)

    @property
    def group(self) -> Floats:
        """log2 of the queries that share a KV head."""
        return log2(self.heads / self.kv_heads)


def prefill_work(shapes: Shapes, dtype: str) -> Work:
    """Work of prompts or chunks; KV of ``dtype`` is read once. ``at``: the axes of :data:`PREFILL`.

    FLOP are those for which a device is busy: a thread block works on :data:`ROWS` queries of one head, whether these
    are so many or not, and goes through their keys alone (FlashAttention-2, arXiv 2307.08691, section 3.2).
    """
    shape = _Shape(*columns(shapes, COLUMNS))
    rows = np.maximum(shape.query, ROWS)
    blocks = shape.batch * shape.heads * rows / ROWS
    busy = rows / shape.query * np.maximum(1.0, BLOCKS / blocks)
    moved = shape.wide + FORMATS[dtype].activation_bytes * shape.kv_values * shape.span
    query, keys = np.minimum(shape.query, LONG[0]), np.minimum(shape.keys, LONG[1])
    at = [log2(shape.batch * shape.heads), log2(query), log2(keys), shape.group, log2(shape.head_dim)]
    return Work(shape.flops * busy, moved, np.stack(at, axis=1), shape.flops)


def decode_work(shapes: Shapes, dtype: str) -> Work:
    """Work of one new token per sequence; KV of ``dtype`` is read once for all queries of its head.

    FLOP are those of whole tiles: the queries of a KV head fill at least one of :data:`TILE` rows. ``at``: the axes of
    :data:`DECODE`. Kernels pack the queries of a KV head into one tile unless there is one only, or a window, so the
    axis of the group runs from packed (positive) to unpacked (negative).
    """
    shape = _Shape(*columns(shapes, COLUMNS))
    rows = TILE * shape.kv_heads / (shape.heads * shape.query)
    moved = shape.wide + shape.kv_values * (FORMATS[dtype].activation_bytes * shape.span + WIDE_BYTES * TILE)
    packed = (shape.window == 0) & (shape.group > 0)
    at = [
        log2(np.minimum(shape.kv_values * shape.span, LARGE)),
        log2(shape.span) - log2(shape.batch * shape.kv_heads),
        np.where(packed, shape.group, -UNPACKED - shape.group),
        log2(shape.head_dim),
    ]
    return Work(shape.flops * np.maximum(1.0, rows), moved, np.stack(at, axis=1), shape.flops)


def mla_prefill(
    batch: Floats, query: Floats, context: Floats, heads: float, *, nope_dim: int, rope_dim: int, value_dim: int
) -> dict[str, Floats]:
    """Columns of :data:`PREFILL` for latent attention, whose K and V are written out for every head before.

    Q K^T takes nope + rope multiply-adds per pair and head and P V takes value (DeepSeek-V2, arXiv 2405.04434, section
    2.1), so the mean of the two is the ``head_dim`` of the same FLOP and bytes. K and V are 16-bit there: the format is
    ``bf16`` whatever the cache holds.
    """
    head_dim = (nope_dim + rope_dim + value_dim) / 2
    return _latent(batch, query, context, heads, heads, head_dim)


def mla_decode(
    batch: Floats, query: Floats, context: Floats, heads: float, *, rank: int, rope_dim: int
) -> dict[str, Floats]:
    """Columns of :data:`DECODE` for latent attention in absorbed form: all heads read one latent vector per token.

    2 x heads x (2 rank + rope) FLOP per token of context, and rank + rope values read once (DeepSeek-V2, arXiv
    2405.04434, section 2.1.2). K and V share these values, which a ``kv_heads`` below one says: 2 x kv_heads x head_dim
    = rank + rope.
    """
    head_dim = rank + rope_dim / 2
    return _latent(batch, query, context, heads, (rank + rope_dim) / (2 * head_dim), head_dim)


def _latent(
    batch: Floats, query: Floats, context: Floats, heads: float, kv_heads: float, head_dim: float
) -> dict[str, Floats]:
    sizes = (batch, query, context, heads, kv_heads, head_dim, 0.0)
    return dict(zip(COLUMNS, (np.asarray(size, np.float64) for size in sizes), strict=True))


PREFILL = Family(
    "attention_prefill",
    COLUMNS,
    ("log2 batch x heads", "log2 query", "log2 keys", "log2 group", "log2 head_dim"),
    (4.0, 4.0, 4.0, 4.0, 0.7),
    160,
    prefill_work,
    compute="bf16",
)
DECODE = Family(
    "attention_decode",
    COLUMNS,
    ("log2 KV values", "log2 keys per KV head", "log2 group, packed or not", "log2 head_dim"),
    (3.0, 7.0, 3.0, 0.6),
    160,
    decode_work,
    ((1.5, 4.0, 2.0, 0.5),),
    compute="bf16",
    uncached=float(np.log2(LARGE)),
)
