"""Asking a policy: an answer that is a number, or an error that says which policy went wrong, where and how."""

from __future__ import annotations

import operator
import traceback
from types import TracebackType
from typing import Any, Protocol, TypeVar

from heterarch.errors import PolicyError, Where

View = TypeVar("View", contravariant=True)


class Decider(Protocol[View]):
    """What every policy has."""

    def decide(self, view: View) -> int:
        """The decision."""
        ...


def name_of(policy: object) -> str:
    """What messages call a policy: its name, or its class where it has none."""
    return str(getattr(policy, "name", "") or type(policy).__name__)


def ask(topic: str, policy: Decider[View], view: View) -> int:
    """The decision of ``policy``.

    Args:
        topic: what the policy is for: ``router``, ``admission policy``.
        policy: the policy.
        view: what it sees; hosts hand out arrays that cannot be written.

    Raises:
        PolicyError: it raised an exception (file and line of the policy, and what it raised), wrote to its view, or
            answered with something that is no whole number.
    """
    who = f"{topic} {name_of(policy)!r}"
    try:
        answer: Any = policy.decide(view)
    except Exception as error:
        where = _where(error.__traceback__)
        if isinstance(error, ValueError | AttributeError) and _is_write(error):
            fix = "copy the array first: a view is what the host knows, not what it does"
            raise PolicyError(f"{who} wrote to its view", observed=str(error), where=where, fix=fix) from error
        raise PolicyError(f"{who} raised {type(error).__name__}", observed=str(error) or None, where=where) from error
    try:
        if isinstance(answer, bool):
            raise TypeError
        return operator.index(answer)
    except TypeError:
        raise PolicyError(
            f"{who} gave no whole number", observed=f"{answer!r} ({type(answer).__name__})", expected="an int"
        ) from None


def _is_write(error: Exception) -> bool:
    return "read-only" in str(error) or "can't set attribute" in str(error)


def _where(trace: TracebackType | None) -> Where | None:
    """The deepest line in the policy's own file."""
    frames = traceback.extract_tb(trace)[1:]
    mine = [frame for frame in frames if frame.filename == frames[0].filename]
    return Where(mine[-1].filename, mine[-1].lineno or 0) if mine else None
