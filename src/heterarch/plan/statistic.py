"""Which distribution holds for an op: the program's own, else the workload's."""

from __future__ import annotations

from heterarch.errors import InputError
from heterarch.ir.flat import FlatProgram, OpKind, Slot
from heterarch.workload.distribution import Distribution, constant
from heterarch.workload.profile import Workload

NOTHING = constant(0.0)
COMPACTED = 0.3  # share of the window that an agent keeps when its chat outgrows it; a guess


def seconds_of(flat: FlatProgram, op: int, workload: Workload) -> Distribution:
    """Seconds of one task of an op that is not an LLM call: declared, else the workload's tool of its name.

    A tool is looked up by the op's id, its last part, the function of its callee, and its task (stt, tts);
    ``compute`` takes no time by default.

    Raises:
        InputError: neither the program nor the workload says.
    """
    own = flat.statistic(op, Slot.SECONDS)
    if own is not None:
        return own
    for name in tool_names(flat, op):
        if name in workload.tools:
            return workload.tools[name]
    if flat.kind[op] in (OpKind.COMPUTE, OpKind.TRANSFER):
        return NOTHING
    raise InputError(
        f"nothing says how long {flat.names[op]!r} takes",
        where=flat.where[op],
        fix=f"declare its seconds, or add it to `tools` of the workload {workload.name}",
    )


def tool_names(flat: FlatProgram, op: int) -> list[str]:
    """The names under which a workload may list the op, most exact first."""
    callee = str(flat.attrs[op].get("callee", ""))
    task = str(flat.attrs[op].get("task", ""))
    parts = [
        flat.names[op],
        flat.names[op].rsplit(".", 1)[-1],
        callee,
        callee.replace(":", ".").rsplit(".", 1)[-1],
        task,
    ]
    return [name for name in dict.fromkeys(parts) if name]


def count_of(flat: FlatProgram, op: int) -> Distribution:
    """Trips of a loop or width of a map.

    Raises:
        InputError: the program does not say.
    """
    own = flat.statistic(op, Slot.COUNT)
    if own is None:
        kind = "trips" if flat.kind[op] == OpKind.LOOP else "width"
        raise InputError(f"nothing says the {kind} of {flat.names[op]!r}", where=flat.where[op], fix=f"declare {kind}")
    return own


def shares_of(flat: FlatProgram, op: int) -> tuple[float, ...]:
    """Probability of each case of a branch; even where the program does not say."""
    cases = len(flat.regions_of(op))
    declared = flat.attrs[op].get("probabilities")
    return tuple(float(p) for p in declared) if isinstance(declared, tuple) else (1.0 / cases,) * cases


def fit_window(
    context: float, shared: float, appended: float, output: float, window: float
) -> tuple[float, float, float]:
    """Tokens of (context, appended, answer) of a call on a chat of ``context`` tokens, within a window of ``window``.

    A call appends and generates no more than the window takes. Where the rest of the window does not hold the chat,
    the agent compacts it: it keeps the shared system prompt and a summary, together at most :data:`COMPACTED` of the
    window (and never so much that the call does not fit). All but the system prompt is new text then, so its KV is
    computed once; later calls find it again. (Recorded coding sessions: 0.5-0.7 % of prompts drop by over 40 %.)
    """
    output = min(output, window - 1)
    appended = min(appended, window - output)
    room = window - appended - output
    if context > room:
        context = max(min(shared, room), min(context, COMPACTED * window, room), 0.0)
    return context, appended, output
