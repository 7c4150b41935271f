"""A tiny model on disk, and the check that no worker process is left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from heterarch.run.engines.gguf_model import write_gguf


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("xllamacpp")
    return write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def no_orphans() -> Iterator[None]:
    """No process that the test started is alive at its end."""
    here = psutil.Process(os.getpid())
    before = set(here.children(recursive=True))
    yield
    left = [process for process in here.children(recursive=True) if process not in before]
    _, alive = psutil.wait_procs(left, timeout=5)
    assert alive == []
