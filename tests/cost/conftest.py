"""Fixtures of the cost tests: the packaged catalogue, and engines without losses."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.config import EngineConfig
from heterarch.cost.document import Calibration, ErrorPart, Fit
from heterarch.cost.host import Host
from heterarch.cost.kernels.families import FAMILIES
from heterarch.cost.library import Library
from heterarch.units import Grade, Source

NO_HOST = Host(0.0, 0.0, 0.0, 0.0, Source(Grade.DECLARED, "no host work"))
EXACT = ErrorPart(rows=1, median=0.0, mean=0.0)
FREE = 1e12  # a share so large that the kernel takes no time


class Ideal(Protocol):
    """Makes the engine of a device and a model by name, of kernels that reach the roofline."""

    def __call__(self, device: str, model: str, tp: int = 1, pp: int = 1, **fields: Any) -> EngineConfig: ...


def lossless(family: str, device: str = "h100-sxm", **fields: Any) -> Fit:
    """A fit that says max(compute, memory) of the data sheet, exactly; ``fields`` say otherwise."""
    exact: dict[str, Any] = dict(dtype="bf16", engine="", compute=1.0, memory=1.0, overhead_s=0.0, sharpness=1000.0)
    errors: dict[str, Any] = dict(rows=1, fitted=EXACT, held_out=EXACT, sigma=0.01)
    return Fit(family=family, device=device, **(exact | errors | fields))


def ideal_library(catalog: Catalog, *, free: tuple[str, ...] = ("elementwise",)) -> Library:
    """One lossless fit for each family; those in ``free`` take no time at all. Other formats and GPUs use its law."""
    shares = {name: FREE if name in free else 1.0 for name in FAMILIES}
    fits = [lossless(name, compute=share, memory=share) for name, share in shares.items()]
    return Library([Calibration(name="ideal", date="2026-01-01", fits=fits)], catalog.devices)


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog.load()


@pytest.fixture(scope="session")
def ideal(catalog: Catalog) -> Ideal:
    """Engines of kernels without losses, whose elementwise kernels and host work take no time."""
    library = ideal_library(catalog)

    def engine(device: str, model: str, tp: int = 1, pp: int = 1, **fields: Any) -> EngineConfig:
        given: dict[str, Any] = {"library": library, "host": NO_HOST} | fields
        return EngineConfig(catalog.device(device), catalog.model(model), tp, pp, **given)

    return engine
