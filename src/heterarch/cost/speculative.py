"""Speculative decoding: several drafted tokens verified in one pass, of which some are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from heterarch.cost.engine import decode_s
from heterarch.cost.step import StepCost, step_time_s
from heterarch.errors import InputError


@dataclass(frozen=True, slots=True)
class Speculation:
    """``draft_tokens`` drafted per pass, each kept with probability ``acceptance`` if all before it were.

    ``draft`` is the step cost of the draft model; None where heads of the model itself draft (MTP, Medusa), whose
    time per drafted token is ``head_share`` of a pass.

    Raises:
        InputError: no drafted token, or an acceptance or share outside 0..1.
    """

    draft_tokens: int
    acceptance: float
    draft: StepCost | None = None
    head_share: float = 0.0

    def __post_init__(self) -> None:
        if self.draft_tokens < 1:
            raise InputError("speculation drafts at least one token", observed=str(self.draft_tokens))
        for name, value in (("acceptance", self.acceptance), ("head_share", self.head_share)):
            if not 0 <= value <= 1:
                raise InputError(f"the {name} is a share", observed=f"{value:g}", expected="0..1")

    @property
    def tokens_per_pass(self) -> float:
        """Expected tokens of a pass: (1 - a^(k+1)) / (1 - a) (Leviathan et al., arXiv 2211.17192, equation 1)."""
        if self.acceptance == 1:
            return self.draft_tokens + 1.0
        return (1 - self.acceptance ** (self.draft_tokens + 1)) / (1 - self.acceptance)


def speculative_tpot_s(cost: StepCost, speculation: Speculation, batch: Any, context: Any) -> Any:
    """Seconds per output token of ``batch`` sequences of ``context`` tokens each.

    A pass verifies draft_tokens + 1 tokens per sequence while it reads each context once (the queries of a sequence
    share its KV), after the draft model decoded one token at a time.
    """
    verified = speculation.draft_tokens + 1
    verify_s = step_time_s(cost, batch * verified, 0, batch, batch * context)
    if speculation.draft is None:
        draft_s = speculation.draft_tokens * speculation.head_share * decode_s(cost, batch, context)
    else:
        draft_s = speculation.draft_tokens * decode_s(speculation.draft, batch, context)
    return (verify_s + draft_s) / speculation.tokens_per_pass


def speculative_speedup(cost: StepCost, speculation: Speculation, batch: Any, context: Any) -> Any:
    """How many times faster than plain decode; below 1 where verifying costs more than it saves."""
    return np.asarray(decode_s(cost, batch, context) / speculative_tpot_s(cost, speculation, batch, context))
