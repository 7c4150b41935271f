"""The correction of whole engines: what it learns, and that it stays silent about what it has not seen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.fitting.coordinates import LENGTHS, coordinates
from heterarch.cost.fitting.correction import FUNCTIONS, CorrectionPart, corrected, fit_correction
from heterarch.cost.measured.served import ServingPoint, Split
from heterarch.cost.serving import Latency

FIRST_S, PROMPT, TOKEN = 0.1, 1.5, 1.2


def closed(point: ServingPoint) -> Latency:
    """A closed form of round numbers."""
    tpot = 5e-3 + 5e-5 * point.concurrency / point.decode.devices
    prefill = point.prompt * 2e-5 / point.decode.devices
    return Latency(prefill * (1 + point.concurrency / 64), tpot, point.concurrency, tpot, prefill, prefill)


def measured(point: ServingPoint) -> tuple[float, float]:
    """What the engine takes: constants, and time per token that grows with clients the faster the more devices."""
    latency = closed(point)
    shape = 1.2 ** ((math.log2(point.concurrency) - 4) * (math.log2(point.decode.devices) - 1) / 2)
    return FIRST_S + PROMPT * latency.ttft_s, TOKEN * shape * latency.tpot_s


def grid(catalog: Catalog, model: str = "Qwen3-32B", device: str = "h100-sxm") -> Iterator[ServingPoint]:
    for devices, clients, prompt in product((1, 2, 4, 8), (2.0, 4.0, 8.0, 16.0, 32.0, 64.0), (1024.0, 8192.0)):
        split = Split(devices)
        point = ServingPoint(
            catalog.model(model), catalog.device(device), "bf16", "vllm", split, None, clients, prompt, 1024.0, 300.0
        )
        ttft, tpot = measured(point)
        yield ServingPoint(*list(vars(point).values())[:-2], ttft_s=ttft, tpot_s=tpot)


@pytest.fixture(scope="module")
def points() -> list[ServingPoint]:
    return list(grid(Catalog.load()))


@pytest.fixture(scope="module")
def part(points: list[ServingPoint]) -> CorrectionPart:
    return fit_correction(points, [closed(point) for point in points])


def test_constants_and_residual_are_found(part: CorrectionPart, points: list[ServingPoint]) -> None:
    answer = corrected(part, points, [closed(point) for point in points])
    assert np.median(np.abs(answer.tpot_s / [point.tpot_s for point in points] - 1)) < 0.03
    assert np.median(np.abs(answer.ttft_s / [point.ttft_s for point in points] - 1)) < 0.10
    pairs = [index for index, point in enumerate(points) if point.decode.devices == 8]
    bare = [TOKEN * closed(points[index]).tpot_s / points[index].tpot_s - 1 for index in pairs]
    left = [answer.tpot_s[index] / points[index].tpot_s - 1 for index in pairs]
    assert np.abs(left).mean() < np.abs(bare).mean() / 4


def test_another_model_on_another_device_gets_the_constants_alone(part: CorrectionPart, catalog: Catalog) -> None:
    far = list(grid(catalog, "DeepSeek-R1", "b200"))
    latencies = [closed(point) for point in far]
    answer = corrected(part, far, latencies)
    host = next(host for host in part.hosts if host.backend == "vllm")
    assert answer.tpot_s == pytest.approx([host.token * latency.tpot_s for latency in latencies], rel=1e-3)
    assert answer.tpot_sigma == pytest.approx(part.tpot_far_sigma, rel=1e-2)


def test_an_engine_that_was_not_measured_gets_those_of_all(part: CorrectionPart, points: list[ServingPoint]) -> None:
    other = ServingPoint(**{**vars(points[0]), "backend": "llama.cpp"})
    answer = corrected(part, [other], [closed(other)])
    common = next(host for host in part.hosts if host.backend == "")
    assert math.log(answer.tpot_s[0] / (common.token * closed(other).tpot_s)) == pytest.approx(0, abs=0.3)


def test_a_faster_release_is_learned_and_others_lie_between(points: list[ServingPoint]) -> None:
    """The second release takes two thirds of the time per token, as one with speculative decoding would."""
    speed = {"0.9.0": 1.0, "0.10.0": 0.67}
    runs = [
        ServingPoint(**{**vars(point), "release": release, "tpot_s": factor * point.tpot_s})
        for release, factor in speed.items()
        for point in points
    ]
    found = fit_correction(runs, [closed(point) for point in runs])
    assert found.releases == {"vllm": ["0.9.0", "0.10.0"]}
    asked = [ServingPoint(**{**vars(points[0]), "release": name}) for name in ("0.9.0", "0.9.5", "0.10.0")]
    old, between, new = corrected(found, asked, [closed(point) for point in asked]).tpot_s
    assert new / old == pytest.approx(0.67, rel=0.05)
    assert new < between < old


def test_it_is_a_document(part: CorrectionPart, points: list[ServingPoint]) -> None:
    again = CorrectionPart.model_validate_json(part.model_dump_json())
    latencies = [closed(point) for point in points]
    assert corrected(again, points, latencies).tpot_s == pytest.approx(corrected(part, points, latencies).tpot_s)
    assert len(part.tpot_weights) == len(part.ttft_weights) == len(part.centres) <= FUNCTIONS
    assert part.axes == list(LENGTHS)


def test_coordinates_know_a_model_by_its_sizes_alone(points: list[ServingPoint], catalog: Catalog) -> None:
    renamed = [ServingPoint(**{**vars(point), "model": catalog.model("DeepSeek-V3")}) for point in points]
    same = [ServingPoint(**{**vars(point), "model": catalog.model("DeepSeek-R1")}) for point in points]
    assert np.array_equal(coordinates(renamed, {}), coordinates(same, {}))
    assert coordinates([], {}).shape == (0, len(LENGTHS))
