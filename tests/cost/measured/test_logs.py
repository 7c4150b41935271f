"""Logs of users as iterations of an engine, and the engine fitted to them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from heterarch.cost.fitting.engine_fit import Iterations, fit_engine
from heterarch.cost.measured.logs import read_log
from heterarch.cost.step import StepCost, step_time_s
from heterarch.errors import InputError, RefusedFitError
from heterarch.report.aggregate import CALL
from heterarch.report.records import write_parquet

COST = StepCost(4e-3, 2e-5, pair_s=1e-9, context_s=4e-8, sequence_s=1e-5)
REAL = (2e-3, 1.3, 0.7)  # overhead, linear, attention: what the fit should find
FIT = {"device": "h100-sxm", "dtype": "bf16", "engine": "vllm"}


def iterations(cost: StepCost = COST, rows: int = 200, overhead_s: float = REAL[0]) -> Iterations:
    """A log of an engine that is REAL against ``cost``."""
    draw = np.random.default_rng(7)
    prefill = np.where(draw.random(rows) < 0.3, np.round(2 ** draw.uniform(5, 12, rows)), 0.0)
    sequences = np.round(2 ** draw.uniform(0, 8, rows))
    context = sequences * np.round(2 ** draw.uniform(6, 14, rows))
    pairs = prefill * (prefill + 1) / 2
    linear = step_time_s(cost, prefill + sequences, 0, 0, 0)
    attention = step_time_s(cost, prefill + sequences, pairs, sequences, context) - linear
    noise = np.exp(draw.normal(0, 0.02, rows))
    return Iterations(prefill, pairs, sequences, context, (overhead_s + REAL[1] * linear + REAL[2] * attention) * noise)


def write_iterations(path: Path, log: Iterations, unit: float = 1e3, column: str = "latency_ms") -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["prefill_tokens", "decode_sequences", "context", column])
        writer.writerows(zip(log.prefill_tokens, log.sequences, log.context, log.seconds * unit, strict=True))
    return path


def test_overhead_and_factors_are_found() -> None:
    fit = fit_engine(COST, iterations(), **FIT)
    assert (fit.linear, fit.attention) == (pytest.approx(REAL[1], rel=0.1), pytest.approx(REAL[2], rel=0.1))
    assert fit.held_out < 0.05 < fit.prior
    applied = fit.apply(COST)
    log = iterations()
    predicted = step_time_s(applied, log.prefill_tokens + log.sequences, log.pairs, log.sequences, log.context)
    assert np.median(np.abs(predicted / log.seconds - 1)) < 0.03


def test_what_the_log_does_not_show_stays_as_predicted() -> None:
    log = iterations()
    only = Iterations(*(values[log.prefill_tokens == 0] for values in log))
    fit = fit_engine(COST._replace(context_s=0.0, sequence_s=0.0), only._replace(context=0 * only.context), **FIT)
    assert fit.attention == pytest.approx(1.0, abs=0.01)


def test_a_fit_that_does_not_help_is_refused() -> None:
    log = iterations()
    seconds = step_time_s(COST, log.prefill_tokens + log.sequences, log.pairs, log.sequences, log.context)
    with pytest.raises(RefusedFitError, match="no better than the prior, which stays"):
        fit_engine(COST, log._replace(seconds=seconds), **FIT)


@pytest.mark.parametrize(
    ("factor", "says"),
    [
        (1e-3, r"another unit \(seconds in a column of milliseconds\)"),
        (1e3, r"another unit \(milliseconds in a column of seconds\)"),
        (12.0, "more than 5x from the predicted ones"),
    ],
)
def test_times_that_cannot_be_of_this_engine(factor: float, says: str) -> None:
    log = iterations(overhead_s=0.0)
    with pytest.raises(InputError, match=says):
        fit_engine(COST, log._replace(seconds=log.seconds * factor), **FIT)


def test_a_short_log_keeps_the_prior() -> None:
    with pytest.raises(
        RefusedFitError, match="too short to calibrate an engine: the prior stays\n  observed: 19 usable"
    ):
        fit_engine(COST, iterations(rows=19), **FIT)


def test_iteration_logs_in_every_form(tmp_path: Path) -> None:
    log = iterations()
    found = read_log(write_iterations(tmp_path / "a.csv", log)).iterations
    assert np.allclose(np.stack(found), np.stack(log))
    lines = [
        {"tokens": p + s, "sequences": s, "context_tokens": c, "seconds": t}
        for p, s, c, t in zip(log.prefill_tokens, log.sequences, log.context, log.seconds, strict=True)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert np.allclose(np.stack(read_log(tmp_path / "a.jsonl").iterations), np.stack(log))


def test_bad_iterations_are_left_out_and_counted(tmp_path: Path) -> None:
    log = iterations()
    spoilt = log._replace(seconds=np.where(np.arange(200) % 50 == 4, -1.0, log.seconds))
    found = read_log(write_iterations(tmp_path / "a.csv", spoilt))
    assert len(found.iterations.seconds) == 196
    assert "left out 4 of 200 iterations without tokens or a time above 0: the first is" in found.notes[0]
    assert "a.csv:6" in found.notes[0]
    with pytest.raises(InputError, match="no iteration of the log is usable"):
        read_log(write_iterations(tmp_path / "b.csv", log._replace(seconds=0 * log.seconds)))


def calls(count: int = 3, apart_s: float = 100.0, each_s: float = 10.0) -> np.ndarray:
    """Calls of 1,000 tokens of which 200 are cached: 1 s to the first token, 101 tokens in ``each_s`` more."""
    table = np.zeros(count, CALL)
    for number, row in enumerate(table):
        row["submitted_s"] = row["scheduled_s"] = number * apart_s
        row["first_token_s"], row["finish_s"] = row["submitted_s"] + 1, row["submitted_s"] + 1 + each_s
        row["prompt_tokens"], row["cached_tokens"], row["output_tokens"], row["status"] = 1000, 200, 101, 1
    return table


def test_records_of_calls_one_after_another(tmp_path: Path) -> None:
    write_parquet(calls(), tmp_path / "calls.parquet")
    found = read_log(tmp_path / "calls.parquet").iterations
    decode, prefill = found.part(found.prefill_tokens == 0), found.part(found.prefill_tokens > 0)
    assert decode.seconds == pytest.approx([0.1] * 3)
    assert decode.sequences == pytest.approx([1.0] * 3)
    assert decode.context == pytest.approx([1050.5] * 3)
    assert prefill.prefill_tokens == pytest.approx([800] * 3)
    assert prefill.pairs == pytest.approx([800 * (200 + 400.5)] * 3)
    assert prefill.seconds == pytest.approx([1.0] * 3)


def test_time_in_the_queue_is_not_prefill(tmp_path: Path) -> None:
    table = calls()
    table["submitted_s"] -= 30.0
    write_parquet(table, tmp_path / "calls.parquet")
    assert read_log(tmp_path / "calls.parquet").iterations.seconds.max() == pytest.approx(1.0)


def test_calls_side_by_side_share_iterations(tmp_path: Path) -> None:
    write_parquet(calls(2, apart_s=0.0), tmp_path / "calls.parquet")
    found = read_log(tmp_path / "calls.parquet").iterations
    assert found.sequences == pytest.approx([2.0, 2.0])  # and no prefill was alone
    table = calls(2, apart_s=0.0)
    table["decode_engine"] = [0, 1]
    write_parquet(table, tmp_path / "apart.parquet")
    found = read_log(tmp_path / "apart.parquet").iterations
    assert found.sequences.max() == pytest.approx(1.0)


def test_prefill_of_others_is_part_of_a_calls_iterations(tmp_path: Path) -> None:
    write_parquet(calls(2, apart_s=5.0), tmp_path / "calls.parquet")
    found = read_log(tmp_path / "calls.parquet").iterations
    first = int(np.argmax(found.sequences < 1.55))
    assert found.prefill_tokens[first] == pytest.approx(800 / 100)  # of 100 iterations


def test_unusable_calls_are_counted(tmp_path: Path) -> None:
    table = calls(4)
    table["status"][1] = 3
    table["cached_tokens"][2] = 5000
    write_parquet(table, tmp_path / "calls.parquet")
    found = read_log(tmp_path / "calls.parquet")
    assert (
        "left out 2 of 4 requests, whose tokens or times are missing or out of order: the first is number 2"
        in found.notes[0]
    )
    table["status"] = 3
    write_parquet(table, tmp_path / "none.parquet")
    with pytest.raises(InputError, match="no request of the log is usable"):
        read_log(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("prompt_tokens,output_tokens,ttft_ms,latency_ms", "the requests have no moment of submission"),
        ("arrival_s,prompt_tokens,output_tokens,ttft_ms", "the requests have no end"),
        ("day,rain,mood,wind", "the columns are those of no engine log"),
    ],
)
def test_logs_that_say_too_little(tmp_path: Path, header: str, says: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n1,2,3,4\n")
    with pytest.raises(InputError, match=says):
        read_log(tmp_path / "a.csv")


def span(number: int, **attributes: object) -> dict[str, object]:
    kinds = {int: "intValue", float: "doubleValue", str: "stringValue"}
    start = 1_800_000_000_000_000_000 + number * 100_000_000_000
    return {
        "name": "chat m",
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + 11_000_000_000),
        "attributes": [{"key": k, "value": {kinds[type(v)]: str(v) if type(v) is int else v}} for k, v in attributes.items()],
    }  # fmt: skip


GENAI = {
    "gen_ai.usage.input_tokens": 1000, "gen_ai.usage.cache_read.input_tokens": 200, "gen_ai.usage.output_tokens": 101,
    "gen_ai.response.time_to_first_chunk": 1.0, "server.address": "here",
}  # fmt: skip
VLLM = {
    "gen_ai.usage.prompt_tokens": 1000, "gen_ai.usage.completion_tokens": 101, "gen_ai.latency.time_to_first_token": 1.0,
}  # fmt: skip


def otlp(*spans: dict[str, object]) -> dict[str, object]:
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": list(spans)}]}]}


@pytest.mark.parametrize(("attributes", "new"), [(GENAI, 800), (VLLM, 1000)])
def test_spans_of_llm_calls(tmp_path: Path, attributes: dict[str, object], new: int) -> None:
    others = [span(7, **{"http.method": "GET"}), span(8, **attributes, **{"error.type": "timeout"})]
    spans = [span(number, **attributes) for number in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(otlp(*spans, *others)))
    found = read_log(tmp_path / "a.json").iterations
    assert len(found.seconds) == 6
    assert found.prefill_tokens.max() == pytest.approx(new)
    assert found.seconds.min() == pytest.approx(0.1, rel=1e-4)
    (tmp_path / "lines.json").write_text("\n".join(json.dumps(otlp(one)) for one in spans))
    assert np.allclose(np.stack(read_log(tmp_path / "lines.json").iterations), np.stack(found))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not OTLP JSON"),
        ('{"spans": []}', "not OTLP JSON of spans\n  observed: spans\n  expected: resourceSpans"),
        ("[1]", "not OTLP JSON of spans\n  observed: list"),
        (json.dumps(otlp(span(1, **{"http.method": "GET"}))), "no span tells the tokens and the first token"),
    ],
)
def test_spans_that_say_nothing(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=says):
        read_log(tmp_path / "a.json")


def test_a_real_run_of_requests(shared_data: Path) -> None:
    """300 requests of a real engine: TPOT between 20 and 60 ms, up to 128 sequences at once."""
    found = read_log(shared_data / "measured" / "vllm_runs" / "RTXPRO6000__Llama-3.1-8B.csv").iterations
    assert len(found.seconds) >= 300
    assert 20 < found.sequences.max() <= 128.5
    assert 0.01 < np.median(found.seconds) < 0.06
    fit = fit_engine(StepCost(9e-3, 3e-5, context_s=7e-8), found, **FIT)
    assert fit.held_out < 0.1
