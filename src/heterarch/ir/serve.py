"""Dialect ``serve``: granular operators that a plan places on pools."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import BoolAttr, IntegerAttr, StringAttr
from xdsl.ir import Attribute, Dialect, Operation
from xdsl.irdl import irdl_op_definition, opt_prop_def, prop_def
from xdsl.utils.exceptions import VerifyException

from heterarch.ir.agent import CallableOp
from heterarch.ir.op import PlacedOp
from heterarch.ir.types import ChatType, DistributionAttr, KVType, PromptType, TextType, strip_stream

Signature = tuple[tuple[type[Attribute], ...], tuple[type[Attribute], ...]]


class CallPartOp(PlacedOp):
    """One phase of an LLM call; ``call`` is the id of the call that it comes from."""

    call = prop_def(StringAttr)
    model = prop_def(StringAttr)

    SIGNATURE: ClassVar[Signature] = ((), ())

    def check(self) -> None:
        """Operands and results have the kinds of ``SIGNATURE`` (the inputs of a lookup are free)."""
        for values, kinds, what in (
            (self.inputs, self.SIGNATURE[0], "operand"),
            (self.outputs, self.SIGNATURE[1], "result"),
        ):
            seen = [strip_stream(value.type) for value in values]
            if len(seen) < len(kinds) or not all(isinstance(t, k) for t, k in zip(seen, kinds, strict=False)):
                wanted = ", ".join("!" + str(getattr(kind, "name", kind)) for kind in kinds)
                raise VerifyException(f"{what}s are ({', '.join(map(str, seen))}), expected ({wanted})")
        for value in (*self.inputs, *self.outputs):
            if isinstance(value.type, KVType) and value.type.model != self.model:
                raise VerifyException(f"KV of {value.type.model.data!r} meets a phase of {self.model.data!r}")


@irdl_op_definition
class KVLookupOp(CallPartOp):
    """Renders the prompt (optional chat, then inputs) and finds the longest cached prefix."""

    name = "serve.kv_lookup"
    template = opt_prop_def(StringAttr)
    tokens_in = opt_prop_def(DistributionAttr)
    SIGNATURE: ClassVar[Signature] = ((), (PromptType,))


@irdl_op_definition
class PrefillOp(CallPartOp):
    """Computes the KV of the prompt tokens that are not cached, and the first token."""

    name = "serve.prefill"
    SIGNATURE: ClassVar[Signature] = ((PromptType,), (KVType,))


@irdl_op_definition
class KVTransferOp(CallPartOp):
    """Moves KV from the engine that prefilled to the engine that decodes; free when they are one."""

    name = "serve.kv_transfer"
    SIGNATURE: ClassVar[Signature] = ((KVType,), (KVType,))


@irdl_op_definition
class DecodeOp(CallPartOp):
    """Generates the answer token by token; gives the chat after the call, and the answer."""

    name = "serve.decode"
    max_tokens = opt_prop_def(IntegerAttr)
    tokens_out = opt_prop_def(DistributionAttr)
    SIGNATURE: ClassVar[Signature] = ((KVType, PromptType), (ChatType, TextType))


@irdl_op_definition
class ServeToolOp(CallableOp):
    """A tool call on a pool of tool workers; ``effects`` as in ``agent.tool``."""

    name = "serve.tool"
    effects = opt_prop_def(BoolAttr)


@irdl_op_definition
class ServeEmbedOp(CallableOp):
    """Text to vectors, on an embedding engine or a CPU pool."""

    name = "serve.embed"


@irdl_op_definition
class SearchOp(CallableOp):
    """The ``top_k`` nearest documents of ``index``."""

    name = "serve.search"
    index = prop_def(StringAttr)
    top_k = prop_def(IntegerAttr)


@irdl_op_definition
class ServeRerankOp(CallableOp):
    """Orders documents by relevance and keeps ``keep`` of them."""

    name = "serve.rerank"
    keep = opt_prop_def(IntegerAttr)


@irdl_op_definition
class ServeAudioOp(CallableOp):
    """A speech model run, ``task`` stt or tts."""

    name = "serve.audio"
    task = prop_def(StringAttr)


@irdl_op_definition
class ServeImageOp(CallableOp):
    """An image model run."""

    name = "serve.image"


@irdl_op_definition
class TransferOp(PlacedOp):
    """Moves a value between sites."""

    name = "serve.transfer"

    def check(self) -> None:
        """What goes in comes out."""
        if [v.type for v in self.inputs] != [v.type for v in self.outputs]:
            raise VerifyException("a transfer must not change types")


OPS: list[type[Operation]] = [
    KVLookupOp, PrefillOp, KVTransferOp, DecodeOp, ServeToolOp, ServeEmbedOp, SearchOp, ServeRerankOp, ServeAudioOp,
    ServeImageOp, TransferOp,
]  # fmt: skip
Serve = Dialect("serve", OPS, [PromptType, KVType])
