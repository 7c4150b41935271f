"""Distributions as fields of documents: a number, or quantiles with their grade and source.

tokens_out: {p5: 89, p50: 216, p95: 1554, grade: fitted, source: "354 recorded sessions"}
think_s: 30
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, ValidationError, WithJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from heterarch.errors import InputError, nearest
from heterarch.units import Grade, Source
from heterarch.workload.distribution import DECLARED, Distribution, constant, quantiles

_FORM = "a number that is not negative, or quantiles such as {p50: 216, p95: 1554}"
_PERCENTAGE = r"^p\d{1,3}([._]\d+)?$"


def distribution_from(value: object) -> Distribution:
    """The distribution that a document's number or mapping of quantiles stands for.

    Raises:
        pydantic.ValidationError: neither, or quantiles that fall; it points at the key that is wrong.
    """
    if isinstance(value, Distribution):
        return value
    try:
        if isinstance(value, Mapping):
            return _from_mapping(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return constant(value)
    except InputError as error:
        observed = f": {error.observed}" if error.observed is not None else ""
        raise _wrong((), f"{error.what}{observed}", value) from None
    raise _wrong((), _FORM, value)


def distribution_to(value: Distribution) -> float | dict[str, float | str]:
    """The inverse of :func:`distribution_from`; a declared constant becomes a number."""
    if len(value.values) == 1 and value.source == DECLARED:
        return value.values[0]
    points: dict[str, float | str] = {
        f"p{round(100 * p, 10):.12g}": v for p, v in zip(value.probabilities, value.values, strict=True)
    }
    return points | {"grade": str(value.source.grade), "source": value.source.citation}


def _from_mapping(value: Mapping[Any, Any]) -> Distribution:
    points = {str(key): entry for key, entry in value.items() if key not in ("grade", "source")}
    for key, entry in points.items():
        if not re.match(_PERCENTAGE, key):
            near = ", ".join(nearest(key, ("grade", "source", "p50", "p95")))
            raise _wrong((key,), f"a percentage such as p50, grade or source (nearest: {near})", key)
        if not isinstance(entry, int | float) or isinstance(entry, bool):
            raise _wrong((key,), "a number", entry)
    if not points:
        raise _wrong((), _FORM, dict(value))
    return quantiles(source=_source(value), **points)


def _source(value: Mapping[Any, Any]) -> Source:
    grade, citation = value.get("grade", DECLARED.grade), value.get("source", DECLARED.citation)
    if grade not in list(Grade):
        raise _wrong(("grade",), "one of " + ", ".join(Grade), grade)
    if not isinstance(citation, str):
        raise _wrong(("source",), "text that says where the numbers come from", citation)
    return Source(Grade(grade), citation)


def _wrong(location: tuple[str, ...], expected: str, observed: object) -> ValidationError:
    kind = PydanticCustomError("distribution", "{expected}", {"expected": expected})
    detail = InitErrorDetails(type=kind, loc=location, input=observed)
    return ValidationError.from_exception_data("Distribution", [detail])


#: a :class:`Distribution` in a pydantic document
DistributionField = Annotated[
    Distribution,
    PlainValidator(distribution_from),
    PlainSerializer(distribution_to),
    WithJsonSchema(
        {
            "description": _FORM,
            "anyOf": [
                {"type": "number", "minimum": 0},
                {
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": False,
                    "patternProperties": {_PERCENTAGE: {"type": "number", "minimum": 0}},
                    "properties": {
                        "grade": {"enum": [str(grade) for grade in Grade]},
                        "source": {"type": "string"},
                    },
                },
            ],
        }
    ),
]
