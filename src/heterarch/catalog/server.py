"""Servers, links and sites: the machine around a device, the wire between two, and the place with its power."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from heterarch.errors import InputError, UnknownNameError
from heterarch.units import Grade, Source


def parse_source(text: object) -> object:
    """A Source from ``"grade: citation"``; anything else passes through.

    Raises:
        ValueError: no grade of that name, or no citation.
    """
    if not isinstance(text, str):
        return text
    grade, _, citation = text.partition(":")
    if grade.strip() not in list(Grade) or not citation.strip():
        raise ValueError(f"a source is 'grade: citation' with a grade of {', '.join(Grade)}")
    return Source(Grade(grade.strip()), citation.strip())


SourceField = Annotated[
    Source,
    BeforeValidator(parse_source, json_schema_input_type=str),
    PlainSerializer(str, return_type=str),
]


class _Entry(BaseModel):
    """A row with an id, in which every number has a source: that of its field, or that under ``"*"``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    sources: Mapping[str, SourceField] = {}
    note: str = ""

    def __hash__(self) -> int:
        return hash((type(self), self.id))

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> Self:
        numbers = {name for name in type(self).model_fields if isinstance(getattr(self, name), int | float)}
        bare = sorted(numbers & self.model_fields_set - set(self.sources))
        if bare and "*" not in self.sources:
            raise ValueError(f"{', '.join(bare)} of {self.id!r} without a source: give sources['*'] or one each")
        unknown = sorted(set(self.sources) - set(type(self).model_fields) - {"*"})
        if unknown:
            raise ValueError(f"a source for {', '.join(unknown)}, which {self.id!r} does not have")
        return self

    def source(self, name: str) -> Source:
        """Where the number in the field ``name`` comes from.

        Raises:
            UnknownNameError: no such field.
            InputError: the field has no source because the row does not give it.
        """
        if name not in type(self).model_fields:
            raise UnknownNameError("field", name, type(self).model_fields)
        found = self.sources.get(name) or self.sources.get("*")
        if found is None:
            raise InputError(f"{self.id} does not give {name}, so it has no source")
        return found


class Server(_Entry):
    """A machine with ``devices`` devices of one kind on one scale-up domain.

    ``host_device``: catalogue id of one CPU socket, of which there are ``host_sockets``; ``host_vcpus``: hardware
    threads in all. ``idle_w``: everything but the accelerators, powered without work; ``overhead_w``: the same under
    load. ``scaleup``, ``host_link``, ``nic``: ids of links (NIC: one of ``nics``). A rack counts as one server.
    """

    device: str
    devices: int = Field(ge=1)
    host_device: str = ""
    host_sockets: int = Field(default=1, ge=1)
    host_vcpus: int | None = Field(default=None, ge=1)
    host_mem_bytes: int | None = Field(default=None, ge=1)
    disk_bytes: int | None = Field(default=None, ge=0)
    idle_w: float | None = Field(default=None, ge=0)
    overhead_w: float | None = Field(default=None, ge=0)
    embodied_kgco2e: float | None = Field(default=None, ge=0)
    scaleup: str = ""
    host_link: str = ""
    nic: str = ""
    nics: int = Field(default=0, ge=0)


class Link(_Entry):
    """A link: bytes/s per direction as its standard states it, and seconds of latency for a small message."""

    bytes_per_s: float = Field(gt=0)
    latency_s: float = Field(ge=0)


class Site(_Entry):
    """A place: power price, power usage effectiveness (facility / IT energy), grid carbon and egress price."""

    usd_per_kwh: float = Field(ge=0)
    pue: float = Field(default=1.0, ge=1)
    gco2e_per_kwh: float | None = Field(default=None, ge=0)
    water_l_per_kwh: float | None = Field(default=None, ge=0)
    egress_usd_per_gb: float | None = Field(default=None, ge=0)
