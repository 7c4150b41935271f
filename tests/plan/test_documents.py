"""Plans as files, as text for the reader, and scaled down to a laptop."""

from __future__ import annotations

from pathlib import Path

import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.fleet import fleet
from heterarch.errors import InputError, StalePlanError, UnknownNameError
from heterarch.plan import (
    Authored,
    Plan,
    check_plan,
    load_plan,
    plan,
    plan_lines,
    plan_sha256,
    plan_text,
    save_plan,
    scaled_down,
)

from .programs import looped, lower, workload


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load()


@pytest.fixture(scope="module")
def made(catalog: Catalog) -> Plan:
    flat, place = lower(looped)
    return plan(
        Authored("looped", "programs.py", place), flat, fleet("mixed"), catalog, workload(5.0, 4.0), accounting="rental"
    )


def test_two_pools_of_one_name_are_refused(made: Plan, tmp_path: Path) -> None:
    path = tmp_path / "a.plan.yaml"
    save_plan(made.model_copy(update={"pools": [*made.pools, made.pools[0]]}), path)
    with pytest.raises(InputError, match=f"{made.pools[0].name} stands there twice"):
        load_plan(path)


def test_round_trip_and_stable_text(made: Plan, tmp_path: Path, catalog: Catalog) -> None:
    path = tmp_path / "a.plan.yaml"
    save_plan(made, path)
    again = load_plan(path)
    assert again.model_dump() == made.model_dump()
    assert plan_text(again) == plan_text(made) == path.read_text()
    assert "  module: |" in path.read_text()
    assert plan_sha256(again) == plan_sha256(made)
    check_plan(again, catalog)


@pytest.mark.parametrize(
    ("old", "new", "error", "text"),
    [
        ("version: 1", "version: 99", StalePlanError, "another version of the format"),
        ("heterarch_version: 0.", "heterarch_version: 7.", StalePlanError, "another major version"),
        ("heterarch: plan", "heterarch: fleet", InputError, "not a plan"),
        ("accounting:", "acounting:", UnknownNameError, r"a.plan.yaml:\d+.*acounting"),
        ("engines: 1", "engines: many", InputError, r"a.plan.yaml:\d+"),
        ("fixed_s: ", "fixed_s: .nan #", InputError, "fixed_s' is wrong"),
        ("token_s: ", "token_s: .nan #", InputError, "token_s' is wrong"),
        ("usd_per_engine_h: ", "usd_per_engine_h: .inf #", InputError, "usd_per_engine_h' is wrong"),
        ("concurrency: ", "concurrency: 10000000000000000000 #", InputError, "concurrency' is wrong"),
        ("start_s: ", "start_s: .inf #", InputError, "start_s' is wrong"),
    ],
)
def test_bad_files(made: Plan, tmp_path: Path, old: str, new: str, error: type[Exception], text: str) -> None:
    path = tmp_path / "a.plan.yaml"
    written = plan_text(made)
    assert old in written
    path.write_text(written.replace(old, new, 1))
    with pytest.raises(error, match=text):
        load_plan(path)


def test_a_changed_catalogue_makes_the_plan_stale(made: Plan, catalog: Catalog, tmp_path: Path) -> None:
    overlay = tmp_path / "prices.csv"
    overlay.write_text(
        "device_id,provider,kind,usd_per_device_hour,date,source\nh100-sxm,mine,on-demand,0.5,2026-01-01,my contract\n"
    )
    with pytest.raises(StalePlanError, match="quotes:h100-sxm"):
        check_plan(made, Catalog.load(overlay))


@pytest.mark.parametrize("width", [80, 120])
def test_the_reader_sees_everything_within_the_width(made: Plan, width: int) -> None:
    lines = plan_lines(made, width)
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    for word in ("Pools", "Placement", "Predicted", "Alternatives", "step.decode", "Left out: gaudi3:", "Note:"):
        assert word in text


def test_scaled_down(made: Plan, catalog: Catalog) -> None:
    small = scaled_down(made, engines=2, max_tokens=8)
    assert small.agent == made.agent
    assert small.placement == made.placement
    assert small.policies == made.policies
    for pool, old in zip(small.pools, made.pools, strict=True):
        if old.role == "tool":
            assert pool == old
        else:
            assert pool.local is not None
            assert (pool.role, pool.local.kind, pool.local.model_path, pool.engines) == (
                old.role,
                "xllamacpp",
                "tiny",
                2,
            )
    seconds = {op.op: op.mean_s for op in small.predictions.ops}
    before = {op.op: op.mean_s for op in made.predictions.ops}
    assert 0 < seconds["step.decode"] < before["step.decode"]
    assert seconds["search"] == before["search"]
    with pytest.raises(InputError):
        scaled_down(made, engines=0)
