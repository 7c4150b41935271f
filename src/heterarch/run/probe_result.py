"""What a probe of an endpoint measured: its file, its provenance, and whether the token counts are honest."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from heterarch.documents import write_text
from heterarch.report.aggregate import Status

#: counts that differ by more are flagged
HONEST = 0.2
LONG = 512  # words of a prompt beside which the template of a chat is small


@dataclass(frozen=True)
class ProbeRow:
    """One answered request; moments in seconds since the probe began. ``pieces`` of text arrived; the counts of tokens
    are the server's (``counted``), or the pieces."""

    submitted_s: float
    first_token_s: float
    finish_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    concurrency: int
    asked_words: int
    asked_tokens: int
    pieces: int
    finish_reason: str
    counted: bool
    status: int = int(Status.COMPLETED)


@dataclass
class ProbeResult:
    """What a probe has measured so far.

    ``stopped`` says what cut it short, ``errors`` counts failures by their text; ``tokens`` and ``usd`` are spent.
    """

    rows: list[ProbeRow] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    stopped: str = ""
    requests: int = 0
    tokens: int = 0
    usd: float = 0.0

    @property
    def flags(self) -> list[str]:
        """Why the counts of the server cannot be trusted; empty when they can."""
        return flags(self.rows)


def flags(rows: Sequence[ProbeRow]) -> list[str]:
    """What is wrong with the token counts that came with the answers."""
    if not rows:
        return []
    found = []
    per_word = sorted(row.prompt_tokens / row.asked_words for row in rows)[len(rows) // 2]
    checks: dict[str, Callable[[ProbeRow], bool]] = {
        "the server does not count its tokens: pieces of text stand in for them": lambda row: not row.counted,
        "the server says that a prompt has 0 tokens": lambda row: row.counted and not row.prompt_tokens,
        "more cached than prompt tokens": lambda row: row.cached_tokens > row.prompt_tokens,
        "a prompt that was never sent before is said to be cached by more than 20 %": lambda row: (
            row.asked_words >= LONG and HONEST * row.prompt_tokens < row.cached_tokens <= row.prompt_tokens
        ),
        "the prompt tokens do not follow the words that were sent (off by more than 20 %)": lambda row: (
            row.prompt_tokens > 0 and row.asked_words >= LONG and _off(row.prompt_tokens / row.asked_words, per_word)
        ),
        "the output tokens are not those that arrived (off by more than 20 %)": lambda row: (
            row.counted and _off(row.output_tokens, _arrived(row))
        ),
    }
    for what, wrong in checks.items():
        bad = [row for row in rows if wrong(row)]
        if bad:
            found.append(f"{what}: {len(bad)} of {len(rows)} answers, such as {_counts(bad[0])}")
    return found


def _arrived(row: ProbeRow) -> int:
    """Output tokens as far as the client can tell: an answer cut for its length has those that were asked for."""
    return row.asked_tokens if row.finish_reason == "length" else row.pieces


def _off(count: float, expected: float) -> bool:
    return expected > 0 and abs(count / expected - 1) > HONEST


def _counts(row: ProbeRow) -> str:
    return (
        f"{row.asked_words:,} words sent, {row.prompt_tokens:,} prompt tokens said, {row.cached_tokens:,} cached; "
        f"{row.pieces:,} pieces of text came, {row.output_tokens:,} output tokens said"
    )


def save_probe(
    result: ProbeResult, path: Path | str, *, url: str, model: str, date: str, options: Mapping[str, object]
) -> None:
    """Write the answers as CSV, and beside it (``.provenance.json``) where they come from and what limited them.

    The CSV is what :func:`heterarch.cost.measured.logs.read_log` reads. Both files appear whole or not at all.

    Raises:
        InputError: the folder is absent or may not be written.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(ProbeRow.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in asdict(row).items()} for row in result.rows)
    text = stream.getvalue()
    provenance = {
        "kind": "probe",
        "url": _without_secrets(url),
        "model": model,
        "date": date,
        "file": Path(path).name,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "options": dict(options),
        "answers": len(result.rows),
        "requests": result.requests,
        "tokens": result.tokens,
        "usd": round(result.usd, 6),
        "whole": not result.stopped,
        "stopped": result.stopped,
        "errors": dict(result.errors),
        "flags": result.flags,
    }
    write_text(path, text)
    write_text(provenance_path(path), json.dumps(provenance, indent=2) + "\n")


def provenance_path(path: Path | str) -> Path:
    """Where the provenance of a measurement file lies."""
    return Path(path).with_suffix(".provenance.json")


def _without_secrets(url: str) -> str:
    """The URL without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _cell(value: object) -> object:
    return f"{value:.6f}" if isinstance(value, float) else int(value) if isinstance(value, bool) else value
