"""Fit the packaged workload profiles to recorded data, and print every fitted distribution as one JSON object.

    python benchmarks/fit_profiles.py [folder of shared data]

The keys of `profiles` are their names and the paths of their fields; the values are what stands in
src/heterarch/workload/data/*.yaml. Fields that no data supports (grades vendor and guess) are not fitted here.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from heterarch.units import Grade, Source
from heterarch.workload.distribution import Distribution, fit
from heterarch.workload.fields import distribution_to
from heterarch.workload.formats import weka
from heterarch.workload.formats.base import Calls
from heterarch.workload.trace import Trace, read_trace

Fits = dict[str, Distribution]
TRACES = "traces"
SPOKEN_TOKENS = 1_200  # a longer prompt is not a voice turn
TOOLS = {
    "Bash": "shell",
    "Read": "read",
    "Edit": "edit",
    "Write": "write",
    "Grep": "search",
    "Glob": "glob",
    "WebSearch": "web_search",
    "WebFetch": "web_fetch",
    "Task": "subagent",
}
RARE = ("WebSearch", "WebFetch", "Task")  # too few calls in one set of runs: both are used


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit everything and print one JSON object."""
    from machine import data_folder, facts, show, show_skipped  # beside this script; tests import this one by its path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="shared data, default HETERARCH_DATA")
    data = parser.parse_args(arguments).folder or data_folder()
    if data is None:
        return show_skipped("fit_profiles")
    first = facts("fit_profiles")
    document = {name: {path: distribution_to(d) for path, d in fits.items()} for name, fits in profiles(data).items()}
    show({**first, "profiles": document})


def profiles(data: Path) -> Mapping[str, Fits]:
    """The fitted distributions of every packaged profile, by path of the field."""
    traces = data / TRACES
    return {"coding-fleet": coding_fleet(traces), "chat": chat(traces), "voice": voice(traces), "rag": rag(traces)}


def coding_fleet(traces: Path) -> Fits:
    """Recorded Claude Code sessions, with tool seconds of recorded SWE-rebench runs.

    A session of the profile is a stretch of work in one context: calls that each extend the prompt of the one before.
    A recorded session holds about three, because contexts are compacted, edited and rewound. Its context is what is
    not shared with an earlier one, so the fresh tokens per call come out as recorded.
    """
    source = "kv-cache-tester sessions of Claude Code, {n} {what}"
    path = traces / "claude_code_weka" / "requests.parquet"
    table = pq.read_table(path)
    calls = weka.read(path, table)
    types, think_s = (
        table[name].to_numpy(zero_copy_only=False)[calls.row - 1] for name in ("input_types", "think_time")
    )
    asked = np.array(["tool_result" not in str(kind) for kind in types])
    waits = np.isfinite(think_s) & (np.diff(calls.session, prepend=-1) == 0)
    root = roots(calls)
    opening = np.unique(root)
    fresh = np.maximum(1, calls.prompt_tokens - calls.shared_blocks.astype(np.int64) * calls.block_tokens)
    requests = np.maximum(1, np.bincount(root[asked], minlength=len(root))[opening])
    fits = {
        "requests_per_session": fitted(requests, source, "contexts: calls that a person's text starts"),
        "think_s": fitted(think_s[waits & asked], source, "gaps before a person's text"),
        "call.context_tokens": fitted(fresh[opening], source, "contexts: first prompts less what earlier ones share"),
        "call.tokens_in": fitted(appended(calls), source, "later calls: growth of the prompt less the last answer"),
        "call.tokens_out": fitted(calls.output_tokens, source, "calls"),
        "tools.step": fitted(
            think_s[waits & ~asked], source, "gaps after tool results: all tools of a step, approvals too"
        ),
    }
    return fits | tool_seconds(traces)


def tool_seconds(traces: Path) -> Fits:
    """Seconds of each tool; runs with a cloud model, because in the others one machine ran tools and model."""
    table = pq.read_table(traces / "swe_agent_agentcgroup" / "tool_calls.parquet").to_pylist()
    fits = {}
    for tool, name in TOOLS.items():
        rows = [r for r in table if r["tool"] == tool and (r["run"] == "haiku" or tool in RARE)]
        seconds = np.array([r["dur_s"] for r in rows], np.float64)
        fits[f"tools.{name}"] = fitted(seconds, "AgentCgroup runs of SWE-rebench, {n} {what}", f"{tool} calls")
    return fits


def chat(traces: Path) -> Fits:
    """Mooncake's conversations: a prompt that extends an earlier one whole is the next turn of its session."""
    source = "Mooncake conversation trace, {n} {what}"
    trace = read_trace(traces / "mooncake" / "conversation_trace.jsonl.gz")
    turn = extends(trace)
    turns = np.bincount(roots(trace))
    between_s = (trace.time_s - trace.time_s[trace.parent])[turn]
    return {
        "requests_per_session": fitted(
            turns[turns > 0], source, "sessions: chains of prompts within 59 min, so a lower bound"
        ),
        "think_s": fitted(between_s, source, "times from turn to turn, the answer included"),
        "call.context_tokens": fitted(trace.prompt_tokens[~turn], source, "first prompts"),
        "call.tokens_in": fitted(appended(trace), source, "later turns: growth of the prompt less the last answer"),
        "call.tokens_out": fitted(trace.output_tokens, source, "calls"),
    }


def voice(traces: Path) -> Fits:
    """Azure's conversation calls with prompts as short as those of a spoken exchange."""
    source = "Azure LLM inference trace 2023 conv, {n} {what}"
    trace = read_trace(traces / "azure_llm_2023" / "conv.parquet")
    short = trace.prompt_tokens <= SPOKEN_TOKENS
    return {
        "call.context_tokens": fitted(trace.prompt_tokens[short], source, "prompts up to 1,200 tokens"),
        "call.tokens_out": fitted(trace.output_tokens[short], source, "answers to prompts up to 1,200 tokens"),
    }


def rag(traces: Path) -> Fits:
    """Long-document summarisation lengths."""
    source = "arXiv summarisation lengths of Vidur, {n} {what}"
    trace = read_trace(traces / "lengths" / "arxiv_summarization.parquet", rate_per_s=1.0)
    return {
        "call.context_tokens": fitted(trace.prompt_tokens, source, "prompts"),
        "call.tokens_out": fitted(trace.output_tokens, source, "answers"),
    }


def roots(trace: Trace | Calls) -> NDArray[np.int64]:
    """[n] the call at which each call's context starts: its parent's where it extends that, else itself."""
    root = np.arange(len(trace.parent))
    for row in np.flatnonzero(extends(trace)):
        root[row] = root[trace.parent[row]]
    return root


def extends(trace: Trace | Calls) -> NDArray[np.bool_]:
    """[n] whether a call's prompt holds its parent's whole; the last block may differ, more than one must be shared."""
    before = np.where(trace.parent >= 0, trace.n_blocks[trace.parent], 0)
    return (trace.shared_blocks > 1) & (trace.shared_blocks >= before - 1)


def appended(trace: Trace | Calls) -> NDArray[np.int64]:
    """Tokens that each call which extends its parent adds to the parent's prompt and answer, at least 1."""
    call = np.flatnonzero(extends(trace))
    before = trace.parent[call]
    growth = trace.prompt_tokens[call] - trace.prompt_tokens[before] - trace.output_tokens[before]
    added: NDArray[np.int64] = np.maximum(growth, 1)
    return added


def fitted(sample: ArrayLike, source: str, what: str) -> Distribution:
    """The fit of a sample, four figures a value."""
    values = np.asarray(sample, np.float64)
    exact = fit(values, Source(Grade.FITTED, source.format(n=f"{values.size:,}", what=what)))
    return Distribution(exact.probabilities, tuple(map(_four_figures, exact.values)), exact.source)


def _four_figures(value: float) -> float:
    return round(value, 3 - math.floor(math.log10(value))) if value > 0 else 0.0


if __name__ == "__main__":
    main()
