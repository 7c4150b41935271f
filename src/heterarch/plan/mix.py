"""The calls that one model serves, as a sample: what a pool of engines sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from heterarch.plan.prefix import ReuseCurve
from heterarch.policy.base import Floats, Ints

ROWS = 800  # of the sample; more do not change a plan


@dataclass(frozen=True)
class Mix:
    """Calls of one model: tokens and seconds, one row per sampled call; ``calls_per_s`` in all.

    See :data:`heterarch.plan.walk.CALL` for the columns.
    """

    model: str
    calls_per_s: float
    table: NDArray[np.void]

    @cached_property
    def op(self) -> Ints:
        """The decode op of each row."""
        return self.table["op"].astype(np.int64)

    @cached_property
    def output(self) -> Floats:
        """Tokens generated."""
        return self.table["output"].astype(np.float64)

    @cached_property
    def prompt(self) -> Floats:
        """Tokens of context and appended."""
        return np.asarray(self.table["context"] + self.table["appended"])

    @cached_property
    def missed(self) -> Floats:
        """Tokens to prefill when the chat's context has been evicted; the shared system prompt never is."""
        return np.asarray(self.prompt - self.table["shared"])

    def found(self, keeps_output: bool) -> Floats:
        """Tokens to prefill when the context is cached: what is appended, and the last answer where it is not kept.

        An engine that decodes keeps the KV of what it generated; one that only prefills never had it.
        """
        extra = 0.0 if keeps_output else self.table["previous"]
        return np.asarray(self.table["appended"] + extra)

    @cached_property
    def gap_s(self) -> Floats:
        """Idle time of the chat before each call; infinite for its first."""
        return np.asarray(self.table["gap_s"])

    def left(self, keeps_output: bool) -> Floats:
        """Tokens that each call leaves in the cache beyond the shared ones."""
        return np.asarray(self.missed + (self.output if keeps_output else 0.0))

    def reuse(self, keeps_output: bool) -> ReuseCurve:
        """How long what calls leave behind waits for the chat's next call."""
        return ReuseCurve(self.table["next_gap_s"], self.left(keeps_output))

    @cached_property
    def mean_output(self) -> float:
        """E[output]."""
        return float(self.output.mean())

    @cached_property
    def mean_prompt(self) -> float:
        """E[prompt]."""
        return float(self.prompt.mean())

    @cached_property
    def running_context(self) -> float:
        """Mean context of a sequence in decode, weighted by how long it decodes: E[o (prompt + o/2)] / E[o]."""
        return float((self.output * (self.prompt + self.output / 2)).mean() / self.mean_output)

    @cached_property
    def longest(self) -> float:
        """The most tokens that one call of the sample occupies."""
        return float((self.prompt + self.output).max())

    def share(self, work: Floats, op: int) -> float:
        """The share of ``work`` (per row) that falls to the calls of ``op``."""
        total = float(work.sum())
        return float(work[self.op == op].sum()) / total if total else 0.0

    def calls_of(self, op: int) -> float:
        """Calls per second of ``op``."""
        return self.calls_per_s * float((self.op == op).mean())


def mix_of(model: str, calls_per_s: float, calls: NDArray[np.void], ops: list[int], seed: int = 0) -> Mix:
    """The calls of ``ops`` among ``calls``, thinned to at most :data:`ROWS` rows."""
    table = calls[np.isin(calls["op"], ops)]
    if len(table) > ROWS:
        table = table[np.sort(np.random.default_rng(seed).choice(len(table), ROWS, replace=False))]
    return Mix(model, calls_per_s, table)
