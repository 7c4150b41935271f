"""The document loader: every mistake is answered with file, line and field."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from heterarch.documents import (
    load_yaml,
    parse_document,
    parse_yaml,
    read_text,
    schema_json,
    validate,
    write_text,
    yaml_text,
)
from heterarch.errors import InputError, UnknownNameError, Where


class Wheel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    radius: float = 1.0
    spokes: int = Field(default=3, ge=3)

    @field_validator("radius")
    @classmethod
    def _refuse_thirteen(cls, value: float) -> float:
        if value == 13:
            raise InputError("no thirteens")
        return value


class Cart(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    wheels: list[Wheel] = []
    spare: Wheel | None = None
    by_name: dict[str, Wheel] = {}


def _error(text: str) -> InputError:
    data, locate = parse_yaml(text, "cart.yaml")
    with pytest.raises(InputError) as caught:
        validate(Cart, data, locate)
    return caught.value


def test_a_document_becomes_a_model(tmp_path: Path) -> None:
    path = tmp_path / "cart.yaml"
    path.write_text("name: red\nwheels:\n  - spokes: 5\n  - {radius: 0.5}\n")
    assert parse_document(Cart, path) == Cart(name="red", wheels=[Wheel(spokes=5), Wheel(radius=0.5)])


@pytest.mark.parametrize(
    ("text", "line", "name", "near"),
    [
        ("name: x\nwheels:\n  - spokes: 3\n  - spoks: 4\n", 4, "spoks", "spokes"),
        ("name: x\n\nwheles: []\n", 3, "wheles", "wheels"),
        ("name: x\nspare:\n  radios: 1\n", 3, "radios", "radius"),
        ("name: x\nby_name:\n  left:\n    spok: 4\n", 4, "spok", "spokes"),
    ],
)
def test_a_misspelt_field_is_answered_with_line_and_nearest_names(text: str, line: int, name: str, near: str) -> None:
    error = _error(text)
    assert isinstance(error, UnknownNameError)
    assert isinstance(error.where, Where)
    assert (error.where.file, error.where.line, error.name) == ("cart.yaml", line, name)
    assert near in error.near


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("wheels: []\n", 1, "'name' is missing"),
        ("name: x\nwheels:\n  - spokes: two\n", 3, "wheels.0.spokes"),
        ("name: x\nwheels:\n  - spokes: 2\n", 3, "greater than or equal to 3"),
        ("name: x\nwheels: 7\n", 2, "wheels"),
        ("", 0, "must be a mapping"),
        ("- 1\n", 1, "must be a mapping"),
        ("name: x\nspare: {radius: 13}\n", 1, "no thirteens"),
    ],
)
def test_a_wrong_value_is_answered_with_line_and_field(text: str, line: int, said: str) -> None:
    error = _error(text)
    assert isinstance(error.where, Where)
    assert error.where.line == line
    assert said in str(error)


def test_several_mistakes_are_counted() -> None:
    assert "then 1 more" in str(_error("name: x\na: 1\nb: 2\n"))


@pytest.mark.parametrize(
    "text", ["a: [1\n", "a: 1\na: 2\n", "a: 1\n---\nb: 2\n", "a: *nowhere\n", "\ta: 1\n", "a: \x07\n"]
)
def test_text_that_is_not_one_yaml_document_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(InputError, match="not valid YAML") as caught:
        parse_yaml(text, "f.yaml")
    assert isinstance(caught.value.where, Where)
    assert caught.value.where.file == "f.yaml"


def test_data_is_plain_and_dates_are_text() -> None:
    data, _ = parse_yaml("a: 2026-11-01\nb: 1e3\nc: 2_000\nd: [yes, true, null]\ne: 0.5\n", "f")
    assert data == {"a": "2026-11-01", "b": 1000.0, "c": 2000, "d": ["yes", True, None], "e": 0.5}
    assert {type(value) for value in data.values()} == {str, float, int, list}


def test_a_place_that_is_absent_is_the_nearest_enclosing_one(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("a:\n  b:\n    - x\n    - y\n")
    _, locate = load_yaml(path)
    assert locate(("a", "b", 1)).line == 4
    assert locate(("a", "b", 9)).line == locate(("a", "b")).line == 2
    assert str(locate(("a",))) == f"{path}:1:1"


def test_files_that_cannot_be_read_are_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / "latin"):
        with pytest.raises(InputError) as caught:
            read_text(path)
        assert str(path) in str(caught.value)


def test_writing_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.yaml"
    write_text(path, "old, and longer than the new\n")
    write_text(path, "new\r\nü\n")
    assert path.read_bytes() == "new\r\nü\n".encode()
    assert os.listdir(tmp_path) == ["out.yaml"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_failed_write_keeps_the_old_file_and_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "out.yaml"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert os.listdir(tmp_path) == ["out.yaml"]
    assert path.read_text() == "old"
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path / "no" / "folder.yaml", "x")
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path, "x")


def test_the_schema_agrees_with_the_model() -> None:
    schema = json.loads(schema_json(Cart))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"name": "x", "wheels": [{"spokes": 3}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "x", "wheeels": []}, schema)
    assert schema_json(Cart) == schema_json(Cart)


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"])),
)


@given(
    st.recursive(
        _SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.from_regex("[a-z]{1,8}", fullmatch=True), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_what_is_written_reads_back(data: object) -> None:
    assert parse_yaml(yaml_text({"data": data}), "f")[0] == {"data": data}


def test_text_of_several_lines_is_a_literal_block() -> None:
    text = yaml_text({"module": "a\n  b\nc\n"})
    assert text == "module: |\n  a\n    b\n  c\n"


def test_few_names_are_all_listed_and_of_many_the_nearest() -> None:
    few = UnknownNameError("router", "randm", ["round-robin", "random", "b", "c", "d", "e"])
    assert str(few.expected).startswith("one of random, ")
    assert len(few.near) == 6
    many = UnknownNameError("device", "h100-sx", ["h100-sxm", "h100-pcie", *(f"zz-{i}" for i in range(49))])
    assert many.expected == "did you mean h100-sxm, h100-pcie? (of 51)"
    assert UnknownNameError("device", "@", [f"x{i}" for i in range(9)]).expected == "one of 9, none alike"
    assert UnknownNameError("device", "a", []).expected is None
