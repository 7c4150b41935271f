"""Admission: whether a request may start now. Each built-in is one function on array views, live and compiled alike.

A host asks when the first LLM call of a request comes to its pool; later calls of an admitted request pass, so that no
work is thrown away. A call told to wait stands in line before its pool; whenever a call there makes its first token or
ends, the first in line is asked for again. Calls that come meanwhile join the line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple, Protocol

from heterarch.errors import InputError, UnknownNameError
from heterarch.policy.base import Bools, Floats, Ints


class Admission(IntEnum):
    """What an admission policy decides."""

    ADMIT = 0
    REJECT = 1
    WAIT = 2


class AdmissionView(NamedTuple):
    """What an admission policy sees of one pool when a request's first call arrives; one row per engine of the pool.

    ``waited_s``: since the call was submitted. ``wait_s``: predicted seconds until the call's first token on each
    engine, of a hosted API until its rate limits let the call pass. Other fields as in
    :class:`heterarch.policy.base.RouterView`.
    """

    now_s: float
    waited_s: float
    prompt_tokens: int
    age_s: Floats
    wait_s: Floats
    pending_tokens: Ints
    decode_tokens: Ints
    queued: Ints
    running: Ints
    healthy: Bools


class AdmissionPolicy(Protocol):
    """Decides about requests: an :class:`Admission`, or its number."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def decide(self, view: AdmissionView) -> int:
        """Admit, reject or wait."""
        ...


def always(view: AdmissionView, limit: float) -> bool:
    """Room for everything."""
    return True


def pending_below(view: AdmissionView, limit: float) -> bool:
    """Whether a healthy engine has fewer than ``limit`` prompt tokens to prefill; so too where none is healthy.

    As Splitwise refuses beyond 8,192 pending tokens per machine (arXiv 2311.18677, its simulator).
    """
    none_healthy = True
    for row in range(view.pending_tokens.shape[0]):
        if view.healthy[row]:
            none_healthy = False
            if view.pending_tokens[row] < limit:
                return True
    return none_healthy


def first_token_within(view: AdmissionView, limit: float) -> bool:
    """Whether a healthy engine is predicted to give the first token within ``limit`` seconds of submission."""
    none_healthy = True
    for row in range(view.wait_s.shape[0]):
        if view.healthy[row]:
            none_healthy = False
            if view.waited_s + view.wait_s[row] <= limit:
                return True
    return none_healthy


@dataclass(frozen=True, slots=True)
class BuiltinAdmission:
    """A built-in policy: admits where ``room(view, limit)``, else decides ``otherwise``; ``unit``: of the limit."""

    name: str
    room: Callable[[AdmissionView, float], bool]
    otherwise: Admission = Admission.REJECT
    limit: float = math.inf
    unit: str = ""

    def decide(self, view: AdmissionView) -> int:
        """Admit, or ``otherwise``."""
        return Admission.ADMIT if self.room(view, self.limit) else self.otherwise


#: built-in policies by name, in the order of the codes that the compiled simulator uses; their default limits
ADMISSIONS: dict[str, BuiltinAdmission] = {
    "all": BuiltinAdmission("all", always),
    "queue-limit": BuiltinAdmission("queue-limit", pending_below, Admission.REJECT, 8192, "tokens"),
    "queue-hold": BuiltinAdmission("queue-hold", pending_below, Admission.WAIT, 8192, "tokens"),
    "deadline": BuiltinAdmission("deadline", first_token_within, Admission.REJECT, 10.0, "seconds"),
}


def admission(text: str, ttft_s: float | None = None) -> BuiltinAdmission:
    """The built-in policy of ``name`` or ``name:limit``.

    Args:
        text: ``queue-limit:4096``, for one.
        ttft_s: the limit of ``deadline`` where the text has none: the SLO's TTFT.

    Raises:
        UnknownNameError: no such policy.
        InputError: the limit is no number above zero, or the policy takes none.
    """
    name, _, limit = text.partition(":")
    if name not in ADMISSIONS:
        raise UnknownNameError("admission policy", name, ADMISSIONS)
    found = ADMISSIONS[name]
    if limit:
        return replace(found, limit=_limit(found, limit))
    return replace(found, limit=ttft_s) if name == "deadline" and ttft_s is not None else found


def _limit(policy: BuiltinAdmission, text: str) -> float:
    if not policy.unit:
        raise InputError(f"the admission policy {policy.name!r} takes no limit", observed=text)
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise InputError(
            f"the limit of the admission policy {policy.name!r} is wrong",
            observed=text,
            expected=f"{policy.unit}, above zero",
        )
    return limit
