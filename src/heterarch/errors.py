"""Every exception that heterarch raises on purpose.

    HeterarchError                 exit code 1
    ├── InputError                 2   a file, an argument or a program of the user's is wrong
    │   ├── UnknownNameError           a name that is in no table; carries the nearest names
    │   ├── CaptureError               the Python or YAML of an agent cannot be captured
    │   ├── VerifyError                a module breaks a rule of its dialect
    │   ├── TraceError                 a trace file cannot be read as what it claims to be
    │   ├── StalePlanError             a plan made by another version, catalogue or source
    │   └── PolicyError                a policy raised, wrote to its view or decided what cannot be
    ├── RefusedFitError            1   sound measurements, but what they predict is no better than what was there
    ├── InfeasibleError            3   no plan meets the limits; names what binds and what would relax it
    ├── EngineError                4   an engine does not answer, dies, or answers garbage
    │   ├── EngineUnavailableError     nothing accepts the connection, or no answer in time
    │   ├── StreamBrokenError          the engine died in the middle of an answer
    │   └── BadResponseError           the answer is not what the protocol says
    └── Interrupted                130 Ctrl-C; what was finished is kept

A message says what is wrong, the observed value, what was expected, where, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a user's file; ``line`` and ``column`` count from 1, 0 means unknown."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part)


class HeterarchError(Exception):
    """The root: one sentence of what is wrong, and what the reader needs to put it right."""

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        observed: object = None,
        expected: object = None,
        where: Where | str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.observed = observed
        self.expected = expected
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.observed is not None:
            lines.append(f"  observed: {self.observed}")
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class InputError(HeterarchError):
    """A file, an argument or a program of the user's is wrong."""

    exit_code = 2


class UnknownNameError(InputError):
    """A name that is in no table; the message lists all names when they are few, else the nearest."""

    FEW = 8

    def __init__(
        self,
        kind: str,
        name: str,
        known: Iterable[str],
        *,
        where: Where | str | None = None,
        fix: str | None = None,
    ) -> None:
        self.name = name
        names = set(known)
        self.near = nearest(name, names, max(4, len(names)) if len(names) <= self.FEW else 4)
        listed = ", ".join(self.near)
        if len(names) <= self.FEW:
            expected = f"one of {listed}" if names else None
        else:
            expected = f"did you mean {listed}? (of {len(names)})" if listed else f"one of {len(names)}, none alike"
        super().__init__(f"unknown {kind} {name!r}", expected=expected, where=where, fix=fix)


class CaptureError(InputError):
    """The Python or YAML of an agent cannot be captured."""


class VerifyError(InputError):
    """A module breaks a rule of its dialect."""


class TraceError(InputError):
    """A trace file cannot be read as what it claims to be."""


class StalePlanError(InputError):
    """A plan was made by another version, against other catalogue rows, or from other source."""


class PolicyError(InputError):
    """A policy raised, wrote to its view, or decided what cannot be; ``partial`` is what the host had done by then."""

    partial: object = None


class RefusedFitError(HeterarchError):
    """The measurements are sound, but a fit to them would predict no better than what was there."""


class InfeasibleError(HeterarchError):
    """No plan meets the limits; the message names what binds and what would relax it."""

    exit_code = 3


class EngineError(HeterarchError):
    """An engine does not answer, dies, or answers garbage."""

    exit_code = 4


class EngineUnavailableError(EngineError):
    """Nothing accepts the connection, or no answer came in time."""


class StreamBrokenError(EngineError):
    """The engine died in the middle of an answer."""


class BadResponseError(EngineError):
    """The answer is not what the protocol says."""


class Interrupted(HeterarchError):
    """Ctrl-C: what was finished is kept."""

    exit_code = 130


def nearest(name: str, known: Iterable[str], limit: int = 4) -> list[str]:
    """The names of ``known`` that a reader most likely meant, best first; all of them when few."""
    names = sorted(set(known))
    cutoff = 0.0 if len(names) <= limit else 0.4
    folded = {candidate.casefold(): candidate for candidate in names}
    if len(folded) < len(names) <= limit:
        folded = {candidate: candidate for candidate in names}  # names that differ in case alone
    close = difflib.get_close_matches(name.casefold(), folded, n=limit, cutoff=cutoff)
    inside = [key for key in folded if name.casefold() in key and key not in close]
    return [folded[key] for key in (close + inside)[:limit]]
