"""What one LLM call takes on an engine that has nothing else to do, from the plan's own coefficients."""

from __future__ import annotations

from heterarch.cost.step import step_time_s
from heterarch.plan.document import Pool

#: what a call of a local engine takes beside its iterations: HTTP, template, tokenising; fitted as the step of the
#: built-in tiny model is (plan/scale.py)
LOCAL_REQUEST_S = 0.013


def unloaded_s(kind: str, pool: Pool, prompt: float, cached: float, output: float) -> float | None:
    """Mean seconds of one phase, None where the plan has no coefficients for it.

    Args:
        kind: "prefill", "kv_transfer" (on the pool that receives) or "decode".
        pool: where it runs.
        prompt: tokens of the prompt, of which ``cached`` are in the cache. output: tokens of the answer.
    """
    if pool.step is None:
        return None
    step = pool.step.cost()
    if kind == "prefill":
        fresh = max(prompt - cached, 1.0)
        request_s = LOCAL_REQUEST_S if pool.local is not None else 0.0
        return request_s + float(step_time_s(step, fresh, fresh * (prompt - fresh / 2), 0.0, 0.0))
    if kind == "decode":
        return max(output - 1.0, 0.0) * float(step_time_s(step, 1.0, 0.0, 1.0, prompt + output / 2))
    if kind == "kv_transfer" and pool.role == "decode" and pool.transfer_bytes_per_s:
        return pool.transfer_latency_s + prompt * pool.kv_bytes_per_token / pool.transfer_bytes_per_s
    return None
