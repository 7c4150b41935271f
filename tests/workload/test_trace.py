"""Traces: what every form reads into, and what slicing keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.errors import InputError, TraceError
from heterarch.units import Grade, Source
from heterarch.workload.prefix import relation_of_block_ids
from heterarch.workload.summary import summarise
from heterarch.workload.trace import Trace, read_trace

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12)


def trace(prompts: list[list[int]], sessions: list[int] | None = None) -> Trace:
    """A trace of prompts given as block ids, one call a second within each session."""
    n = len(prompts)
    session = np.array(range(n) if sessions is None else sessions, np.int32)
    first = np.diff(session, prepend=-1) != 0
    time_s = np.arange(n) - np.maximum.accumulate(np.where(first, np.arange(n), 0)) if sessions else np.arange(n)
    parent, shared, count = relation_of_block_ids(prompts)
    return Trace(
        name="t",
        source=Source(Grade.DECLARED, "a test"),
        kind="sessions" if sessions else "open",
        block_tokens=16,
        session=session,
        time_s=time_s.astype(np.float64),
        gap_s=np.where(first, np.nan, 0.25),
        prompt_tokens=count.astype(np.int64) * 16,
        output_tokens=np.full(n, 5, np.int64),
        parent=parent,
        shared_blocks=shared,
        n_blocks=count,
    )


@given(PROMPTS, st.data())
def test_a_selection_shares_what_its_own_prompts_share(prompts: list[list[int]], data: st.DataObject) -> None:
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(prompts), max_size=len(prompts))))
    part = trace(prompts).select(keep)
    chosen = [prompt for prompt, kept in zip(prompts, keep, strict=True) if kept]
    assert len(part) == len(chosen)
    parent, shared, _ = relation_of_block_ids(chosen)
    assert part.parent.tolist() == parent.tolist()
    assert part.shared_blocks.tolist() == shared.tolist()


def test_head_and_window() -> None:
    whole = trace([[1], [1, 2], [1, 2, 3], [1, 2]])
    assert whole.head(2).n_blocks.tolist() == [1, 2]
    part = whole.window(1, 3)
    assert part.time_s.tolist() == [0, 1]
    assert part.parent.tolist() == [-1, 0]
    assert part.session.tolist() == [0, 1]
    with pytest.raises(InputError, match="no call lies in the window"):
        whole.window(100, 200)


def test_sessions_keep_their_clock_until_they_get_starts() -> None:
    two = trace([[1], [1, 2], [3], [3, 4]], sessions=[0, 0, 1, 1])
    assert two.time_s.tolist() == [0, 1, 0, 1]
    assert two.with_session_starts(np.array([10.0, 20.0])).time_s.tolist() == [10, 11, 20, 21]
    assert two.first_sessions(1).n_blocks.tolist() == [1, 2]
    with pytest.raises(InputError, match="2 starts"):
        two.with_session_starts(np.array([1.0]))
    with pytest.raises(InputError):
        two.with_session_starts(np.array([1.0, -1.0]))


def test_the_first_kept_call_of_a_session_has_no_gap() -> None:
    two = trace([[1], [1, 2], [3], [3, 4]], sessions=[0, 0, 1, 1])
    part = two.select(np.array([False, True, True, True]))
    assert np.isnan(part.gap_s).tolist() == [True, True, False]


def test_scaling_the_rate_leaves_gaps_inside_sessions() -> None:
    assert trace([[1], [2], [3]]).scaled_rate(4).time_s.tolist() == [0, 0.25, 0.5]
    two = trace([[1], [1, 2], [3], [3, 4]], sessions=[0, 0, 1, 1]).with_session_starts(np.array([0.0, 10.0]))
    assert two.scaled_rate(2).time_s.tolist() == [0, 1, 5, 6]
    with pytest.raises(InputError):
        two.scaled_rate(0)


def test_columns_of_unequal_length_are_refused() -> None:
    whole = trace([[1], [2]])
    with pytest.raises(InputError, match="equally long"):
        Trace(**{**{name: getattr(whole, name) for name in whole.__dataclass_fields__}, "gap_s": np.zeros(1)})


def test_summary_of_a_worked_example() -> None:
    summary = summarise(trace([[1], [1, 2], [1, 2, 3], [9]]))
    assert summary.calls == summary.sessions == 4
    assert summary.calls_per_s == pytest.approx(1)
    assert summary.interarrival_cv == pytest.approx(0)
    assert summary.ideal_hit_rate == pytest.approx(3 / 7)
    assert summary.fresh_tokens.mean == pytest.approx(16)
    assert summary.gap_s.n == 0
    assert summarise(trace([[1], [1]], sessions=[0, 0])).calls_per_s is None


def test_forms_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such trace"):
        read_trace(tmp_path / "absent.csv")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(TraceError, match="cannot tell the form"):
        read_trace(tmp_path / "notes.txt")
    with pytest.raises(TraceError, match="no such trace"):
        read_trace(tmp_path)  # a folder without requests.parquet
