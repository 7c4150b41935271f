"""The common shape of every op of both dialects, and its custom syntax.

    %chat1, %reply = agent.model "step"(%chat, %task) {model = "..."} : (!agent.chat, !agent.text) -> (...)

An op has an ``id`` (unique in the module, kept by passes), operands, results, properties and regions. Subclasses
declare the properties they accept and check their own signature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from xdsl.dialects.builtin import (
    UNKNOWN_LOC,
    DictionaryAttr,
    FileLineColLoc,
    IntAttr,
    LocationAttr,
    StringAttr,
)
from xdsl.ir import Attribute, Operation, Region, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    opt_prop_def,
    prop_def,
    var_operand_def,
    var_region_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from heterarch.errors import Where, nearest


class TaskOp(IRDLOperation):
    """An op with an id; the base of every op but ``agent.graph`` and ``agent.yield``."""

    id = prop_def(StringAttr)
    inputs = var_operand_def()
    outputs = var_result_def()
    bodies = var_region_def()

    #: number of regions, -1 for any
    REGION_COUNT: ClassVar[int] = 0

    @classmethod
    def build_op(
        cls,
        id_: str,
        inputs: Sequence[SSAValue],
        outputs: Sequence[Attribute],
        properties: Mapping[str, Attribute] | None = None,
        regions: Sequence[Region] = (),
        where: Where | None = None,
    ) -> Self:
        """A new op; properties whose value is None are left out."""
        op = cls(
            operands=[list(inputs)],
            result_types=[list(outputs)],
            properties={"id": StringAttr(id_), **(properties or {})},
            regions=[list(regions)],
        )
        op.location = location(where)
        return op

    def print(self, printer: Printer) -> None:
        """Custom syntax; see the module."""
        printer.print_string(" ")
        printer.print_attribute(self.id)
        with printer.in_parens():
            printer.print_list(self.inputs, printer.print_ssa_value)
        settings = {key: value for key, value in sorted(self.properties.items()) if key != "id"}
        if settings:
            printer.print_string(" ")
            printer.print_attr_dict(settings)
        if self.attributes:
            printer.print_op_attributes(self.attributes, print_keyword=True)
        printer.print_string(" : ")
        printer.print_function_type([v.type for v in self.inputs], [v.type for v in self.outputs])
        for region in self.bodies:
            printer.print_string(" ")
            printer.print_region(region)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Read what :meth:`print` prints."""
        id_ = parser.parse_str_literal()
        names = parser.parse_comma_separated_list(
            parser.Delimiter.PAREN, parser.parse_unresolved_operand, " in operand list"
        )
        settings = parser.parse_optional_attr_dict()
        extra = parser.parse_optional_attr_dict_with_keyword()
        parser.parse_punctuation(":")
        position = parser.pos
        type_ = parser.parse_function_type()
        operands = parser.resolve_operands(names, type_.inputs.data, position)
        regions = []
        while (region := parser.parse_optional_region()) is not None:
            regions.append(region)
        unknown = set(settings) - set(cls.get_irdl_definition().properties)
        if unknown:
            parser.raise_error(unknown_field(cls, min(unknown)), position)
        op = cls.build_op(id_, operands, type_.outputs.data, settings, regions)
        op.attributes.update(extra.data if isinstance(extra, DictionaryAttr) else {})
        return op

    def verify_(self) -> None:
        """Check the number of regions, then what the subclass asks for."""
        if self.REGION_COUNT >= 0 and len(self.bodies) != self.REGION_COUNT:
            raise VerifyException(f"has {len(self.bodies)} regions, expected {self.REGION_COUNT}")
        self.check()

    def check(self) -> None:
        """What a subclass asks of its operands, results and properties beyond their kinds."""


class PlacedOp(TaskOp):
    """An op that does work somewhere: ``pool`` names where once it is placed."""

    pool = opt_prop_def(StringAttr)


def unknown_field(op: type[TaskOp], field: str) -> str:
    """The message for a property that the op does not have, with the nearest names."""
    known = set(op.get_irdl_definition().properties) - {"id"}
    return f"{op.name} has no field {field!r}; did you mean {', '.join(nearest(field, known))}?"


def location(where: Where | None) -> LocationAttr:
    """MLIR location of a place in the user's program."""
    if where is None:
        return UNKNOWN_LOC
    return FileLineColLoc(StringAttr(where.file), IntAttr(where.line), IntAttr(where.column))


def where(op: Operation) -> Where:
    """The place in the user's program that ``op`` comes from, nearest enclosing op first."""
    current: Operation | None = op
    while current is not None:
        if isinstance(current.location, FileLineColLoc):
            spot = current.location
            return Where(spot.filename.data, spot.line.data, spot.column.data)
        current = current.parent_op()
    return Where("")
