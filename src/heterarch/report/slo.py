"""Service-level objectives: a metric, where in the distribution, and the target.

Written as ``e2e.p95<=30s``, ``ttft.p95<=10s``, ``tpot.p50<=50ms``, ``cost.mean<=0.05`` (USD per request).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from heterarch.documents import parse_document
from heterarch.errors import InputError, UnknownNameError
from heterarch.units import format_duration, format_usd, parse_duration_s

#: metric name in an SLO -> name in a report, and what it counts
METRICS = {
    "e2e": "e2e_s",
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "cost": "cost_usd",
}


@dataclass(frozen=True, slots=True)
class SLO:
    """``metric`` (see :data:`METRICS`) at ``percentile`` (0..100, or -1 for the mean) at most ``target``.

    ``target`` is seconds for times and USD per request for cost. ``e2e`` is over agent requests; ``ttft`` and
    ``tpot`` are over LLM calls.
    """

    metric: str
    percentile: float
    target: float

    def __str__(self) -> str:
        where = "mean" if self.percentile < 0 else f"p{self.percentile:g}"
        target = format_usd(self.target) if self.metric == "cost" else format_duration(self.target).replace(" ", "")
        return f"{self.metric}.{where}<={target}"


def parse_slo(text: str) -> SLO:
    """Read ``metric.pNN<=target``.

    Raises:
        InputError: not of that form, an unknown metric, or a target that is not above zero.
    """
    match = re.fullmatch(r"\s*(\w+)\.(p[0-9.]+|mean)\s*<=?\s*\$?([^\s].*?)\s*", text)
    if match is None:
        raise InputError("cannot read the SLO", observed=repr(text), expected="for instance e2e.p95<=30s")
    metric, where, target = match.groups()
    if metric not in METRICS:
        raise UnknownNameError("SLO metric", metric, METRICS)
    percentile = -1.0 if where == "mean" else float(where[1:])
    value = float(target) if metric == "cost" else parse_duration_s(target)
    if value <= 0 or percentile > 100:
        raise InputError("an SLO needs a target above zero and a percentile up to 100", observed=repr(text))
    return SLO(metric, percentile, value)


class SLODocument(BaseModel):
    """An SLO file: the targets that a plan must meet, each written as for :func:`parse_slo`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    heterarch: Literal["slo"]
    version: Literal[1] = 1
    name: str = ""
    slo: list[str] = Field(min_length=1)

    @field_validator("slo")
    @classmethod
    def _readable(cls, texts: list[str]) -> list[str]:
        for text in texts:
            try:
                parse_slo(text)
            except InputError as error:
                raise ValueError(f"{error.what}: {text!r}") from None
        return texts


def read_slos(texts: Iterable[str]) -> list[SLO]:
    """SLOs from the command line: each text is one SLO, or the path of an SLO file.

    Raises:
        InputError: see :func:`parse_slo`; for a file with its line.
    """
    slos: list[SLO] = []
    for text in texts:
        is_file = text.endswith((".yaml", ".yml"))
        slos += map(parse_slo, parse_document(SLODocument, text).slo if is_file else [text])
    return slos
