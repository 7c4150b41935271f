"""Kernels that only move values: norms, activations, rotary embedding, residual sums."""

from __future__ import annotations

import numpy as np

from heterarch.cost.kernels.base import Family, Shapes, Work, columns, log2
from heterarch.cost.kernels.formats import FORMATS


def work(shapes: Shapes, dtype: str) -> Work:
    """``values``: elements read plus elements written, of the activations of ``dtype``; arithmetic is free.

    Per token and layer these are, with hidden size h: 2 h of a norm (4 h where it also adds the residual), 3 h of a
    sum, 3 i of a gated activation with i inner values, 2 (q + k) of the rotary embedding of q and k values.
    """
    (values,) = columns(shapes, ("values",))
    return Work(np.zeros_like(values), FORMATS[dtype].activation_bytes * values, log2(values)[:, None])


ELEMENTWISE = Family("elementwise", ("values",), ("log2 values",), (2.0,), 12, work)
