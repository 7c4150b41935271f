"""Fixtures of the cost tests: the packaged catalogue."""

from __future__ import annotations

import pytest

from heterarch.catalog.catalog import Catalog


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog.load()
