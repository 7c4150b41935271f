"""Speculative decoding in the core against a loop that draws the accepted tokens."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from heterarch.cost.speculative import Speculation, speculative_tpot_s
from heterarch.cost.step import step_time_s
from heterarch.plan.document import SpeculationPart, StepPart

from .worlds import calls_of, mixed, run

STEP = StepPart(fixed_s=0.01, token_s=2e-5, bends_s={64: 1e-5}, context_s=2e-7, sequence_s=1e-5, pair_s=1e-9)
SPEC = Speculation(draft_tokens=4, acceptance=0.7)
PART = SpeculationPart(tokens_per_step=SPEC.tokens_per_pass, draft_tokens=4, draft_s=0.004)


def engine(**changes):
    values = {"concurrency": 64, "max_batched_tokens": 512, "kv_tokens": 10**7, "step": STEP, "speculation": PART}
    return mixed(**{**values, **changes})


def brute_force(prompts, outputs, at, budget, rng):
    """One engine, first come first served: decodes first, then prefill chunks, up to the budget of a pass."""
    cost = STEP.cost()
    n, now = len(prompts), 0.0
    left, done = np.array(outputs), np.zeros(n, int)
    first, finish = np.full(n, np.nan), np.full(n, np.nan)
    while np.isnan(finish).any():
        decoding = [k for k in range(n) if not np.isnan(first[k]) and np.isnan(finish[k])]
        room, chunks = budget - 5 * len(decoding), []
        for k in range(n):
            if at[k] <= now and done[k] < prompts[k] and room > 0:
                take = min(room, prompts[k] - done[k])
                chunks.append((k, take))
                room -= take
        if not decoding and not chunks:
            now = min(at[k] for k in range(n) if done[k] < prompts[k])
            continue
        context = sum(prompts[k] + outputs[k] - left[k] for k in decoding)
        pairs = sum(c * (done[k] + c / 2) for k, c in chunks)
        tokens = 5 * len(decoding) + sum(c for _, c in chunks)
        now += float(step_time_s(cost, tokens, pairs, len(decoding), context)) + (0.004 if decoding else 0.0)
        for k in decoding:
            kept = 1 + int(np.cumprod(rng.random(4) < 0.7).sum())
            left[k] = max(0, left[k] - kept)
            if left[k] == 0:
                finish[k] = now
        for k, c in chunks:
            done[k] += c
            if done[k] == prompts[k]:
                first[k], left[k] = now, outputs[k] - 1
                if left[k] == 0:
                    finish[k] = now
    return first, finish


@pytest.mark.parametrize("gap_s", [0.05, 0.4])
def test_mean_times_are_those_of_a_loop_that_draws_accepted_tokens(gap_s):
    rng = np.random.default_rng(5)
    n = 150
    prompts, outputs = rng.integers(50, 900, n), rng.integers(100, 300, n)
    at = np.cumsum(rng.exponential(gap_s, n))
    calls = run([engine()], calls_of(prompts, outputs, at)).sequences
    first, finish = brute_force(prompts, outputs, at, 512, rng)
    tpot = (finish - first) / (outputs - 1)
    ours = (calls["finish_s"] - calls["first_s"]) / (outputs - 1)
    assert ours.mean() == pytest.approx(tpot.mean(), rel=0.03)
    assert calls["finish_s"].max() == pytest.approx(finish.max(), rel=0.03)
    assert (calls["finish_s"] - at).mean() == pytest.approx((finish - at).mean(), rel=0.03)


def test_an_undisturbed_batch_takes_what_the_cost_model_says():
    calls = run(
        [engine(max_batched_tokens=1024, speculation=PART.model_copy(update={"draft_s": 0.0}))],
        calls_of([100] * 8, [401] * 8),
    ).sequences
    tpot = (calls["finish_s"] - calls["first_s"]) / 400
    assert tpot == pytest.approx(float(speculative_tpot_s(STEP.cost(), SPEC, 8, 100 + 201)), rel=2e-3)


def test_a_prefill_alone_is_a_plain_pass():
    work = calls_of([1000], [1])
    with_it, without = run([engine()], work), run([engine(speculation=None)], work)
    assert with_it.sequences["first_s"][0] == without.sequences["first_s"][0]


def test_one_token_per_step_with_free_drafts_differs_by_what_is_verified_only():
    free = StepPart(fixed_s=0.01, token_s=0.0)
    none = SpeculationPart(tokens_per_step=1.0, draft_tokens=3)
    work = calls_of([100] * 5, [50] * 5, np.arange(5) * 0.1)
    a, b = run([engine(step=free, speculation=none)], work), run([engine(step=free, speculation=None)], work)
    assert a.sequences["finish_s"].tolist() == b.sequences["finish_s"].tolist()


def test_more_kept_than_drafted_is_refused():
    with pytest.raises(ValidationError, match="at most draft_tokens"):
        SpeculationPart(tokens_per_step=4.5, draft_tokens=3)
