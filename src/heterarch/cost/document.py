"""The calibration document: what was fitted, from which files, and how wrong it is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from heterarch.cost.fitting.engine_fit import EngineFit
from heterarch.cost.kernels.base import Law
from heterarch.cost.kernels.families import FAMILIES
from heterarch.cost.residual import Basis
from heterarch.documents import read_text, write_text
from heterarch.errors import InputError
from heterarch.units import Grade

#: sd of the log error of a law alone, where no measurement lies near
LAW_SIGMA = 0.25


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MeasurementFile(_Part):
    """A file that a calibration was fitted from."""

    file: str
    sha256: str
    rows: int


class Centres(_Part):
    """The residual functions of one family, shared by all its fits: where they lie and how far they reach, by axis."""

    axes: list[str]
    scales: list[list[float]]
    centres: list[list[float]]


class ErrorPart(_Part):
    """Absolute relative error of predictions, as a share: median and mean over ``rows``."""

    rows: int
    median: float
    mean: float


class Fit(_Part):
    """One kernel family on one device in one format, as one engine runs it."""

    family: str
    device: str
    dtype: str
    engine: str
    engine_version: str = ""
    compute: float = Field(gt=0)
    memory: float = Field(gt=0)
    overhead_s: float = Field(ge=0)
    sharpness: float = Field(gt=0)
    host_s: float = Field(default=0.0, ge=0)
    weights: list[float] = []
    rows: int
    fitted: ErrorPart
    held_out: ErrorPart
    sigma: float  # sd of the log error on held-out shapes
    law_sigma: float = LAW_SIGMA  # the same of the law alone
    domain: dict[str, tuple[float, float]] = {}
    grade: Grade = Grade.FITTED

    @property
    def law(self) -> Law:
        """The law of the fit."""
        return Law(self.compute, self.memory, self.overhead_s, self.sharpness, self.host_s)


class HostPart(_Part):
    """Constants of a serving engine, fitted to whole runs: seconds and factors of the closed form.

    TTFT = ``first_s`` + ``expert_layer_s`` x layers with experts + ``prompt`` x (TTFT of the closed form + ``rush`` x
    clients / 2 x seconds per prompt), where ``rush`` is the share of requests that come in the first burst of a
    benchmark; TPOT = ``token`` x its closed form.
    """

    backend: str
    disaggregated: bool
    first_s: float
    expert_layer_s: float
    prompt: float
    rush: float
    token: float


class CorrectionPart(_Part):
    """The fitted correction: constants by engine, and Gaussian processes of what they leave of log TPOT and log TTFT.

    Both are spanned by the same ``centres``; a covariance is the sum of one function of each kind of ``lengths``, times
    its variance. ``releases``: the releases of each engine that were measured, oldest first.
    ``*_sigma``: sd of the log error near measurements, on held-out configurations; ``*_far_sigma``: of the constants
    alone. ``tpot_error``, ``ttft_error``: median absolute relative error on held-out configurations.
    """

    hosts: list[HostPart]
    axes: list[str]
    releases: dict[str, list[str]]
    lengths: list[list[float]]  # [kinds, axes]
    tpot_variances: list[float]  # [kinds]
    ttft_variances: list[float]
    centres: list[list[float]]  # [functions, axes]
    tpot_weights: list[float]  # [functions]
    ttft_weights: list[float]
    rows: int
    tpot_error: float
    ttft_error: float
    tpot_sigma: float
    ttft_sigma: float
    tpot_far_sigma: float
    ttft_far_sigma: float

    @cached_property
    def bases(self) -> tuple[Basis, ...]:
        """The functions of each kind."""
        return tuple(Basis(np.array(self.centres), np.array(lengths)) for lengths in self.lengths)


class Calibration(_Part):
    """Fits of kernel families, and the files that they come from."""

    kind: Literal["calibration"] = "calibration"
    name: str
    date: str
    files: list[MeasurementFile] = []
    families: dict[str, Centres] = {}
    fits: list[Fit] = []
    engines: list[EngineFit] = []
    correction: CorrectionPart | None = None

    @cached_property
    def by_key(self) -> Mapping[tuple[str, str], tuple[Fit, ...]]:
        """(family, format) -> fits."""
        found: dict[tuple[str, str], list[Fit]] = {}
        for fit in self.fits:
            found.setdefault((fit.family, fit.dtype), []).append(fit)
        return {key: tuple(fits) for key, fits in found.items()}

    @cached_property
    def bases(self) -> Mapping[str, Basis]:
        """Family -> its radial basis."""
        return {name: Basis(np.array(part.centres), np.array(part.scales)) for name, part in self.families.items()}

    def save(self, path: Path | str) -> None:
        """Write it as JSON, whole or not at all."""
        write_text(path, self.model_dump_json(indent=None, exclude_defaults=True) + "\n")


def load_calibration(path: Path | str) -> Calibration:
    """Read a calibration document.

    Raises:
        InputError: the file cannot be read or is not a calibration.
    """
    text = read_text(path)
    try:
        found = Calibration.model_validate_json(text)
    except ValueError as error:
        raise InputError("not a calibration document", observed=str(error).splitlines()[0], where=str(path)) from None
    for name, part in found.families.items():
        known = FAMILIES[name].axes if name in FAMILIES else ()
        if tuple(part.axes) != known:
            raise InputError(
                f"the calibration was made for other axes of {name}",
                observed=", ".join(part.axes),
                expected=", ".join(known) or f"a family of {', '.join(FAMILIES)}",
                where=str(path),
                fix="calibrate again with this release",
            )
    for number, fit in enumerate(found.fits):
        _check_fit(fit, found.families.get(fit.family), f"{path}: fit {number} ({fit.family} on {fit.device})")
    return found


def _check_fit(fit: Fit, part: Centres | None, where: str) -> None:
    centres = part.centres if part else []
    if part and np.shape(part.scales) != np.shape(centres):
        raise InputError("scales and centres differ in shape", where=where, fix="calibrate again")
    if len(fit.weights) > len(centres):
        raise InputError(
            "a fit has more weights than its family has functions",
            observed=f"{len(fit.weights)} weights",
            expected=f"at most {len(centres)}",
            where=where,
            fix="calibrate again",
        )
    missing = [axis for axis in part.axes if axis not in fit.domain] if part and fit.domain else []
    if missing:
        raise InputError("the domain of a fit lacks axes", observed=", ".join(missing), where=where)


@lru_cache(maxsize=1)
def shipped() -> Calibration:
    """The calibration that comes with the package."""
    return load_calibration(Path(str(resources.files("heterarch.cost") / "data" / "calibration.json")))
