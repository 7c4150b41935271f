"""Dense matrix multiplications: an M x K activation by a K x N weight."""

from __future__ import annotations

import numpy as np

from heterarch.cost.kernels.base import Family, Floats, Shapes, Work, columns, log2
from heterarch.cost.kernels.formats import FORMATS
from heterarch.cost.residual import CONSTANT

WIDE_BYTES = 2.0  # activations come and results go in 16 bits in every engine
SIZES = ("log2 m", "log2 n", "log2 k")
TILES = {
    "ragged m": 0.4,
    "ragged n, k": 0.4,
    "waste m 64": 0.35,
    "waste m 256": 0.35,
    "waste n 256": 0.35,
    "k of 3": 0.4,
}
AXES = (*SIZES, *TILES)


def work(shapes: Shapes, dtype: str) -> Work:
    """2 M N K FLOP; reads M K + K N values of ``dtype``, writes M N 16-bit values.

    Where activations take less than 16 bits they are quantised first: M K values are read wide and written narrow.
    """
    m, n, k = columns(shapes, ("m", "n", "k"))
    form = FORMATS[dtype]
    narrow = form.activation_bytes
    activation = narrow if narrow >= WIDE_BYTES else WIDE_BYTES + 2 * narrow
    moved = activation * m * k + form.weight_bytes * k * n + WIDE_BYTES * m * n
    return Work(2.0 * m * n * k, moved, _at(m, n, k))


def _at(m: Floats, n: Floats, k: Floats) -> Floats:
    """Sizes, and what tiles and memory channels make of them.

    Kernels want m in fours and n, k in 128s; tiles of 64 and 256 are padded; rows of 3 x 2^j values fall on few of
    the channels of a memory that has 3 x 2^i of them.
    """
    ragged = [m % 4 != 0, (n % 128 != 0) | (k % 128 != 0)]
    waste = [_waste(m, 64), _waste(m, 256), _waste(n, 256)]
    return np.stack([log2(m), log2(n), log2(k), *ragged, *waste, k % 3 == 0], axis=1)


def _waste(size: Floats, tile: int) -> Floats:
    """Padding over content of a dimension that is cut into tiles, at most 1."""
    return np.asarray(np.minimum(np.ceil(size / tile) * tile / size - 1, 1.0))


def _sizes(m: float, n: float, k: float) -> tuple[float, ...]:
    """Lengths of functions of the sizes alone."""
    return (m, n, k, *[CONSTANT] * len(TILES))


def _tiles(axis: str) -> tuple[float, ...]:
    """Lengths of functions that tell ``axis`` apart and are broad in the sizes."""
    return (3.0, 4.0, 4.0, *(TILES[name] if name == axis else CONSTANT for name in TILES))


GEMM = Family(
    "gemm",
    ("m", "n", "k"),
    AXES,
    _sizes(2.0, 3.0, 3.0),
    160,
    work,
    # finer functions predict held-out m, n and k worse than these do
    (_sizes(4.0, 5.0, 5.0), _sizes(1.5, 2.0, 2.0), *map(_tiles, TILES)),
    flags=tuple(TILES),
)
