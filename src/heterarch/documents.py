"""Documents: YAML with line numbers into validated models, JSON schemas out, files written in one stroke."""

from __future__ import annotations

import datetime
import io
import json
import os
import typing
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarstring import LiteralScalarString

from heterarch.errors import InputError, UnknownNameError, Where

Model = TypeVar("Model", bound=BaseModel)
Location = Sequence[str | int]
Locate = Callable[[Location], Where]

#: kind of document -> what is in it, and the command that reads it
KINDS = {
    "agent": ("name, inputs, nodes, outputs", "heterarch plan FILE"),
    "fleet": ("name, site, devices", "heterarch plan AGENT --fleet FILE"),
    "workload": ("name, arrivals, call", "heterarch plan AGENT --workload FILE"),
    "slo": ("slo", "heterarch plan AGENT --slo FILE"),
    "faults": ("changes, random", "heterarch simulate PLAN --faults FILE"),
    "plan": ("pools, placement", "heterarch simulate FILE, or heterarch run FILE"),
    "sweep": ("plans, routers, loads, seeds", "heterarch sweep --file FILE"),
}


def read_text(path: Path | str) -> str:
    """The text of a file in UTF-8.

    Raises:
        InputError: the file is absent, a folder, unreadable, or not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError("the file is not UTF-8 text", observed=f"byte {error.start}", where=str(path)) from None
    except OSError as error:
        raise InputError("cannot read the file", observed=error.strerror, where=str(path)) from None


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` as UTF-8 so that a reader sees the old file or the new one, never half of either.

    Raises:
        InputError: the folder is absent or may not be written.
    """
    with replacing(path) as stream:
        stream.write(text.encode())


@contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """A stream into a new file, which takes the place of ``path`` at the end of the block.

    After an error ``path`` is as it was, and nothing is left beside it. A device or a pipe is written as it stands.

    Raises:
        InputError: the folder is absent or may not be written, or the disk is full.
    """
    target = Path(path)
    special = target.exists() and not target.is_file()
    partial = target if special else target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")
    try:
        with open(partial, "wb" if special else "xb") as stream:
            yield stream
        if not special:
            os.replace(partial, target)
    except OSError as error:
        raise InputError("cannot write the file", observed=error.strerror or str(error), where=str(path)) from None
    finally:
        if not special:
            partial.unlink(missing_ok=True)


def load_yaml(path: Path | str) -> tuple[Any, Locate]:
    """Read one YAML document: plain data, and a function from a place in it to its file, line and column.

    Dates come back as ISO text. ``locate(("devices", 2, "limit"))`` gives the place of that key, or of the
    nearest enclosing one where it is absent.

    Raises:
        InputError: the file cannot be read, or is not one valid YAML document (with line and column).
    """
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, name: str) -> tuple[Any, Locate]:
    """As :func:`load_yaml`, from text; ``name`` stands for the file in messages."""
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Where(name, mark.line + 1, mark.column + 1) if mark else Where(name)
        raise InputError("not valid YAML", observed=_sentence(error), where=where) from None
    except YAMLError as error:
        raise InputError("not valid YAML", observed=str(error).strip(), where=Where(name)) from None
    return _plain(tree), lambda location: _locate(tree, location, name)


def yaml_text(data: object) -> str:
    """YAML of plain data, keys in their order, texts of several lines as literal blocks."""
    stream = io.StringIO()
    writer = YAML(typ="rt")
    writer.width = 110
    writer.indent(mapping=2, sequence=4, offset=2)
    writer.dump(_literal(data), stream)
    return stream.getvalue()


def parse_document(model: type[Model], path: Path | str) -> Model:
    """Read a YAML file as a ``model``.

    Raises:
        InputError: the file cannot be read, or a field is missing, misspelt or of the wrong kind; the message
            names the file, the line, the field, and for a misspelt one the nearest that exist.
    """
    data, locate = load_yaml(path)
    return validate(model, data, locate)


def validate(model: type[Model], data: Any, locate: Locate) -> Model:
    """``data`` as a ``model``; see :func:`parse_document` for the errors."""
    if not isinstance(data, Mapping):
        observed = "nothing" if data is None else type(data).__name__
        raise InputError("the document must be a mapping of fields", observed=observed,
                         expected=", ".join(model.model_fields), where=locate(()))  # fmt: skip
    _check_kind(model, data, locate)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _input_error(model, error, locate) from None
    except InputError as error:
        error.where = error.where or locate(())
        raise


def schema_json(model: type[BaseModel]) -> str:
    """The JSON schema of a document, as JSON text with a stable key order."""
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def _check_kind(model: type[BaseModel], data: Mapping[Any, Any], locate: Locate) -> None:
    """Refuse a document of another kind for what it is, not for its first unknown field."""
    stated = model.model_fields.get("heterarch")
    literal = typing.get_args(stated.annotation)[:1] if stated is not None else ()
    wanted = _kind_of({name: None for name in model.model_fields} | {"heterarch": "".join(map(str, literal))})
    found = _kind_of(data)
    if wanted is None or found is None or wanted == found:
        return
    holds, command = KINDS[found]
    raise InputError(
        f"this is {_article(found)} ({holds}); {_article(wanted)} was expected",
        expected=f"{_article(wanted)} ({KINDS[wanted][0]})",
        where=locate(()),
        fix=f"{_article(found)} is read by {command}",
    )


def _kind_of(data: Mapping[Any, Any]) -> str | None:
    """The kind that a document says it is, or that its telltale keys show."""
    stated = data.get("heterarch")
    if stated:
        return stated if isinstance(stated, str) and stated in KINDS else None
    if "nodes" in data:
        return "agent"
    if "site" in data and ("devices" in data or "endpoints" in data):
        return "fleet"
    return "workload" if "arrivals" in data else None


def _article(kind: str) -> str:
    return (
        f"an {kind}" if kind == "agent" else {"slo": "an SLO file", "faults": "a file of faults"}.get(kind, f"a {kind}")
    )


def _sentence(error: MarkedYAMLError) -> str:
    parts = [part.strip() for part in (error.context, error.problem) if part]
    return ", ".join(parts).splitlines()[0] if parts else "a syntax error"


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {_plain(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple | set):
        return [_plain(item) for item in node]
    if isinstance(node, datetime.date):
        return node.isoformat()
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _literal(data: object) -> object:
    if isinstance(data, Mapping):
        return {key: _literal(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_literal(item) for item in data]
    if isinstance(data, str) and "\n" in data:
        return LiteralScalarString(data)
    return data


def _locate(tree: Any, location: Location, name: str) -> Where:
    marks = getattr(tree, "lc", None)
    place = (marks.line, marks.col) if marks is not None and marks.line is not None else (-1, -1)
    node = tree
    for key in location:
        if isinstance(node, CommentedMap) and key in node:
            place = node.lc.key(key)
        elif isinstance(node, CommentedSeq) and isinstance(key, int) and key < len(node):
            place = node.lc.item(key)
        else:
            continue  # a union tag of pydantic's, or a field that is missing
        node = node[key]
    return Where(name, place[0] + 1, place[1] + 1)


def _input_error(model: type[BaseModel], error: ValidationError, locate: Locate) -> InputError:
    errors = error.errors(include_url=False)
    first = min(errors, key=lambda entry: _rank(entry, locate))
    where, more = locate(first["loc"]), len(errors) - 1
    fix = f"correct this, then {more} more in this document" if more else None
    *parents, last = first["loc"] or ("",)
    if first["type"] == "extra_forbidden":
        return UnknownNameError("field", str(last), _fields_at(model, parents), where=where, fix=fix)
    if first["type"] == "union_tag_invalid":
        known = [word.strip().strip("'") for word in first["ctx"]["expected_tags"].split(",")]
        return UnknownNameError(
            first["ctx"]["discriminator"].strip("'"), first["ctx"]["tag"], known, where=where, fix=fix
        )
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return InputError(f"the field {field!r} is missing", where=where, fix=fix)
    message = first["msg"].removeprefix("Value error, ")
    expected, observed = message[:1].lower() + message[1:], repr(first["input"])
    what = f"the field {field!r} is wrong" if field else "the document is wrong"
    return InputError(what, observed=observed, expected=expected, where=where, fix=fix)


def _rank(entry: ErrorDetails, locate: Locate) -> tuple[bool, int]:
    return entry["type"] == "missing", locate(entry["loc"]).line


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    models = union = [model]
    for key in location:
        inner = [
            found
            for parent in models
            if isinstance(key, str) and key in parent.model_fields
            for found in _models_in(parent.model_fields[key].annotation)
        ]
        union = inner or union
        models = inner or [found for found in union if key in _tags(found)] or models
    return sorted({field.alias or name for found in models for name, field in found.model_fields.items()})


def _tags(model: type[BaseModel]) -> list[object]:
    """What pydantic calls a model of a union in a place: its class, or a value of the literal that tells it apart."""
    literals = [field.annotation for field in model.model_fields.values() if field.is_required()]
    return [
        model.__name__,
        *(tag for kind in literals if typing.get_origin(kind) is Literal for tag in typing.get_args(kind)),
    ]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)
