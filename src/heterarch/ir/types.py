"""Types and attributes that both dialects use: what flows on edges, and statistics with provenance."""

from __future__ import annotations

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Attribute, Data, ParametrizedAttribute, TypeAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.irdl.attributes import param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from heterarch.errors import InputError
from heterarch.units import Grade, Source
from heterarch.workload.distribution import DECLARED, Distribution


@irdl_attr_definition
class TextType(ParametrizedAttribute, TypeAttribute):
    """Text, such as a prompt, an answer or a tool result."""

    name = "agent.text"


@irdl_attr_definition
class DataType(ParametrizedAttribute, TypeAttribute):
    """Any JSON-like value."""

    name = "agent.data"


@irdl_attr_definition
class AudioType(ParametrizedAttribute, TypeAttribute):
    """Sampled sound."""

    name = "agent.audio"


@irdl_attr_definition
class ImageType(ParametrizedAttribute, TypeAttribute):
    """A picture."""

    name = "agent.image"


@irdl_attr_definition
class ChatType(ParametrizedAttribute, TypeAttribute):
    """A conversation: the messages so far, hence the prefix whose KV can be reused."""

    name = "agent.chat"


@irdl_attr_definition
class ListType(ParametrizedAttribute, TypeAttribute):
    """A list of values of one type."""

    name = "agent.list"
    element: Attribute = param_def()


@irdl_attr_definition
class FutureType(ParametrizedAttribute, TypeAttribute):
    """The result of an asynchronous sub-agent call, not there yet."""

    name = "agent.future"
    element: Attribute = param_def()


@irdl_attr_definition
class StreamType(ParametrizedAttribute, TypeAttribute):
    """A value that arrives in chunks; a reader that can may start on the first."""

    name = "agent.stream"
    element: Attribute = param_def()


@irdl_attr_definition
class PromptType(ParametrizedAttribute, TypeAttribute):
    """A rendered prompt of one LLM call and what is known of its cached prefix."""

    name = "serve.prompt"


@irdl_attr_definition
class KVType(ParametrizedAttribute, TypeAttribute):
    """Key-value cache of one sequence of ``model``."""

    name = "serve.kv"
    model: StringAttr = param_def()  # type: ignore[assignment]


TEXT, DATA, AUDIO, IMAGE, CHAT, PROMPT = (
    TextType(), DataType(), AudioType(), ImageType(), ChatType(), PromptType(),
)  # fmt: skip


@irdl_attr_definition
class DistributionAttr(Data[Distribution]):
    """A statistic: ``#agent.dist<216.0>`` or ``#agent.dist<p50 = 216.0, p95 = 1554.0, fitted "trace">``."""

    name = "agent.dist"

    def print_parameter(self, printer: Printer) -> None:
        """Print the points, then the source unless it is the author."""
        with printer.in_angle_brackets():
            printer.print_string(", ".join([*_points(self.data), *_source(self.data.source)]))

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Distribution:
        """Read what :meth:`print_parameter` prints."""
        with parser.in_angle_brackets():
            points: list[tuple[float, float]] = []
            source = DECLARED
            while True:
                word = parser.parse_optional_identifier()
                if word is None:
                    points.append((0.5, float(parser.parse_number())))
                elif word in set(Grade):
                    source = Source(Grade(word), parser.parse_str_literal())
                else:
                    parser.parse_punctuation("=")
                    points.append((_probability(parser, word), float(parser.parse_number())))
                if parser.parse_optional_punctuation(",") is None:
                    break
        try:
            return Distribution(tuple(p for p, _ in points), tuple(v for _, v in points), source)
        except InputError as error:
            parser.raise_error(str(error))


def _points(distribution: Distribution) -> list[str]:
    if len(distribution.values) == 1:
        return [_number(distribution.values[0])]
    pairs = zip(distribution.probabilities, distribution.values, strict=True)
    return [f"p{_percent(p)} = {_number(v)}" for p, v in pairs]


def _source(source: Source) -> list[str]:
    if source == DECLARED:
        return []
    quoted = source.citation.replace("\\", "\\\\").replace('"', '\\"')
    return [f'{source.grade} "{quoted}"']


def _percent(probability: float) -> str:
    return f"{round(probability * 100, 10):.10g}".replace(".", "_")


def _probability(parser: AttrParser, word: str) -> float:
    try:
        return round(float(word.removeprefix("p").replace("_", ".")) / 100, 12)
    except ValueError:
        parser.raise_error(f"expected a percentile such as p95, got {word}")


def _number(value: float) -> str:
    text = repr(float(value))
    mantissa, mark, exponent = text.partition("e")
    return f"{mantissa}.0e{exponent}" if mark and "." not in mantissa else text


def strip_stream(type_: Attribute) -> Attribute:
    """The type of the whole value: ``T`` for ``!agent.stream<T>``."""
    return type_.element if isinstance(type_, StreamType) else type_
