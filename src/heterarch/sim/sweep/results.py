"""The results file: a line of settings, then one line per finished run, only ever appended to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from heterarch.documents import read_text
from heterarch.errors import InputError, Where
from heterarch.sim.sweep.runs import Run, Settings


class Header(BaseModel):
    """The first line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    heterarch: Literal["sweep-results"] = "sweep-results"
    version: Literal[1] = 1
    settings: Settings


class Results:
    """The runs of one sweep that have finished, in memory and, where ``path`` is given, in that file.

    A file that is there is continued: its runs need not be made again. A last line that was cut off is dropped.

    Raises:
        InputError: the file is something else, of a sweep with other settings, or may not be written.
    """

    def __init__(self, settings: Settings, path: Path | None = None) -> None:
        self.path = path
        self.runs: dict[str, Run] = {}
        if path is None:
            return
        if path.exists() and path.stat().st_size:
            self._read(path, settings)
        if not path.exists() or not path.stat().st_size:
            self._append(Header(settings=settings).model_dump_json())

    def add(self, run: Run) -> None:
        """Keep a run.

        Raises:
            InputError: it cannot be written, for instance because the disk is full.
        """
        self._append(run.model_dump_json())
        self.runs[run.key] = run

    def finished(self, key: str) -> bool:
        """Whether the run of that key is there; one that failed is made again."""
        return key in self.runs and self.runs[key].status == "done"

    def _append(self, line: str) -> None:
        if self.path is None:
            return
        try:
            with open(self.path, "ab", buffering=0) as stream:
                data = line.encode() + b"\n"
                if stream.write(data) < len(data):
                    raise OSError(0, "no room for the whole line")
                os.fsync(stream.fileno())
        except OSError as error:
            raise InputError(
                "cannot write the results", observed=error.strerror, where=str(self.path),
                fix="make room, then run the same sweep again: it goes on where it stopped",
            ) from None  # fmt: skip

    def _read(self, path: Path, settings: Settings) -> None:
        whole, _, torn = read_text(path).rpartition("\n")
        lines = whole.splitlines()
        if lines:
            _check(_header(lines[0], path).settings, settings, path)
        elif not torn.startswith('{"heterarch":"sweep-results"'[: len(torn)]):
            raise _foreign(path)
        for number, line in enumerate(lines[1:], 2):
            try:
                run = Run.model_validate_json(line)
            except ValidationError:
                raise InputError("not a run of a sweep", where=Where(str(path), number)) from None
            self.runs[run.key] = run
        if torn:
            os.truncate(path, path.stat().st_size - len(torn.encode()))


def _header(line: str, path: Path) -> Header:
    try:
        return Header.model_validate_json(line)
    except ValidationError:
        raise _foreign(path) from None


def _foreign(path: Path) -> InputError:
    return InputError(
        "the file does not hold the results of a sweep", where=str(path), fix="name another file; this one is kept"
    )


def _check(there: Settings, here: Settings, path: Path) -> None:
    """Refuse to mix two sweeps, and say in what they differ."""
    old, new = there.model_dump(), here.model_dump()
    different = [name for name in old if old[name] != new[name]]
    if different:
        raise InputError(
            "the file holds the results of another sweep",
            observed=", ".join(f"{name} {_short(old[name])}" for name in different),
            expected=", ".join(f"{name} {_short(new[name])}" for name in different),
            where=str(path),
            fix="name another file, or repeat the sweep that is there"
            + ("; request_s is what the first plan predicts" if "request_s" in different else ""),
        )


def _short(value: object) -> str:
    return f"{value:.12}" if isinstance(value, str) else str(value)
