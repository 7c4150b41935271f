"""Source cells of the catalogue tables: short codes, with exceptions for single fields."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from heterarch.errors import UnknownNameError, Where
from heterarch.units import Grade, Source

_LITERAL = re.compile(rf"\s*({'|'.join(Grade)})\s*:\s*(\S.*)", re.DOTALL)
_PLACEHOLDER = "placeholder"


@dataclass(frozen=True)
class CellSources:
    """What a source cell says: the source of its columns, and of the words that it names as exceptions."""

    default: Source | None = None
    exceptions: Mapping[str, Source] = field(default_factory=dict)

    def of(self, *words: str) -> Source | None:
        """The source of a field known by ``words``: its own exception first, else the default."""
        return next((self.exceptions[word] for word in words if word in self.exceptions), self.default)


def read_cell(cell: str, codes: Mapping[str, Source], words: Iterable[str], where: Where) -> CellSources:
    """Read ``"AIC;tf32,fp32 DS"`` (codes, then ``fields code``) or ``"measured: citation"``.

    Text in brackets and after a code is a remark and joins the citation. Several codes for one field: the first
    gives the grade, all are cited.

    Raises:
        UnknownNameError: a code that is in no table of sources.
    """
    literal = _LITERAL.fullmatch(cell)
    if literal:
        return CellSources(Source(Grade(literal.group(1)), literal.group(2).strip()))
    known = set(words)
    found: dict[str, list[Source]] = {}
    fields: tuple[str, ...] = ("",)
    for entry in re.split(r";(?![^(]*\))", cell):
        if not entry.strip():
            continue
        named, source = _read_entry(entry, codes, known, where)
        fields = named or fields
        for word in fields:
            found.setdefault(word, []).append(source)
    merged = {word: Source(parts[0].grade, "; ".join(p.citation for p in parts)) for word, parts in found.items()}
    return CellSources(merged.pop("", None), merged)


def _read_entry(
    entry: str, codes: Mapping[str, Source], known: set[str], where: Where
) -> tuple[tuple[str, ...], Source]:
    remarks = re.findall(r"\(([^)]*)\)", entry)
    words = re.sub(r"\([^)]*\)", " ", entry).split() or [entry.strip()]
    fields = tuple(words[0].split(","))
    named = fields if known.issuperset(fields) else ()
    rest = words[1:] if named else words
    at = next((i for i, word in enumerate(rest) if word.split("=")[0] in codes), None)
    if at is None:
        raise UnknownNameError(
            "source code",
            words[0],
            codes,
            where=where,
            fix="use a code of sources.csv, add one there, or write 'grade: citation'",
        )
    code, *scale = rest[at].split("=", 1)
    remark = " ".join([*rest[:at], *(f"= {part}" for part in scale), *rest[at + 1 :], *remarks])
    source = codes[code]
    grade = Grade.GUESS if _PLACEHOLDER in remark else source.grade
    return named, Source(grade, f"{source.citation} ({remark})" if remark else source.citation)
