"""What a sweep covers, as a file or from the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from heterarch.documents import parse_document

Item = TypeVar("Item", bound=Hashable)
Load = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SweepDocument(BaseModel):
    """Every plan with every router under every load, once per seed.

    ``routers``: empty for each plan's own. ``loads``: factors of the workload's session rate. ``seeds``: how many,
    from 0. ``requests``: of each run. ``workload``: a packaged one or a file; empty for the one of the plans, which
    must then be the same. ``baseline``: what the others are compared with: plan, router or ``plan/router``; empty for
    the first. ``steady``, ``until_s`` and ``cache`` are those of :func:`heterarch.sim.simulate.run_simulation`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    heterarch: Literal["sweep"] = "sweep"
    version: Literal[1] = 1
    plans: list[str] = Field(min_length=1)
    routers: list[str] = []
    loads: list[Load] = Field(default=[1.0], min_length=1)
    seeds: int = Field(default=10, ge=1)
    requests: int = Field(default=1000, ge=1)
    workload: str = ""
    baseline: str = ""
    steady: bool = True
    until_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    cache: Literal["engine", "unbounded"] = "engine"

    @field_validator("plans", "routers", "loads")
    @classmethod
    def _once(cls, items: list[Item]) -> list[Item]:
        twice = [item for item, count in Counter(items).items() if count > 1]
        if twice:
            raise ValueError(f"each only once; {twice[0]} is there twice")
        return items


def read_sweep(path: Path | str) -> SweepDocument:
    """A sweep file; the files that it names are relative to its folder.

    Raises:
        InputError: see :func:`heterarch.documents.parse_document`.
    """
    read = parse_document(SweepDocument, path)
    folder = Path(path).parent
    beside = folder / read.workload
    workload = str(beside) if read.workload and beside.is_file() else read.workload
    return read.model_copy(update={"plans": [str(folder / plan) for plan in read.plans], "workload": workload})
