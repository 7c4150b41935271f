"""The room that plans leave for the error of step times."""

from __future__ import annotations

import math

import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.config import EngineConfig
from heterarch.cost.document import Calibration, shipped
from heterarch.cost.fitting.engine_fit import EngineFit
from heterarch.cost.library import library_of
from heterarch.cost.margin import margins, step_margin

MODEL = "Meta-Llama-3.1-8B"


def test_less_known_devices_get_more_room() -> None:
    found = margins()
    assert 1.0 < found["same"] < found["sibling"] < found["other"] < found["guess"] < 3.0


def test_the_room_of_a_device_is_what_its_held_out_shapes_err_by() -> None:
    """Half the fits of the shipped calibration err by more, half by less."""
    over = [math.exp(fit.sigma) > margins()["same"] for fit in shipped().fits]
    assert sum(over) / len(over) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("device", "relation"),
    [("h100-sxm", "same"), ("h200-sxm", "sibling"), ("l40s", "other"), ("gaudi3", "guess"), ("mi300x", "guess")],
)
def test_an_engine_has_the_margin_of_its_least_known_kernel(catalog: Catalog, device: str, relation: str) -> None:
    config = EngineConfig(catalog.device(device), catalog.model(MODEL))
    assert step_margin(config) == margins()[relation]


def test_the_log_of_an_engine_says_its_own(catalog: Catalog) -> None:
    plain = EngineConfig(catalog.device("gaudi3"), catalog.model(MODEL))
    fit = EngineFit(
        engine="vllm", device="gaudi3", dtype="bf16", model=MODEL, split=plain.name, overhead_s=0.0, linear=1.2,
        attention=1.0, rows=100, held_out=0.04, prior=0.3,
    )  # fmt: skip
    library = library_of([Calibration(name="mine", date="2026-01-01", engines=[fit])], catalog.devices)
    measured = EngineConfig(plain.device, plain.model, library=library)
    assert step_margin(measured) == 1.04
    assert step_margin(EngineConfig(plain.device, plain.model, 2, library=library)) == margins()["guess"]
