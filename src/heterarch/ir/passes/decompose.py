"""Lower ``agent`` work into granular ``serve`` operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Operation
from xdsl.passes import ModulePass

from heterarch.ir import agent, serve
from heterarch.ir.op import TaskOp
from heterarch.ir.rewrite import replace
from heterarch.ir.types import DATA, PROMPT, KVType, ListType


@dataclass(frozen=True)
class Decompose(ModulePass):
    """An LLM call becomes kv_lookup, prefill, kv_transfer, decode; retrieval becomes embed, search, rerank.

    Tools, embedding, re-ranking, speech and image models become their ``serve`` counterparts with their statistics.
    Ids get a suffix (``step.decode``); locations stay. Preserves results; applies to every ``agent`` work op.
    """

    name = "decompose"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite ``op`` in place."""
        for each in list(op.walk()):
            lower = _LOWERINGS.get(type(each))
            if lower is not None:
                lower(each)


def _model(op: agent.ModelOp) -> None:
    call = {"call": op.id, "model": op.model}
    kv = KVType(op.model)
    lookup = serve.KVLookupOp.build_op(
        f"{op.id.data}.kv_lookup", op.inputs, [PROMPT], call | _pick(op, "template", "tokens_in")
    )
    prefill = serve.PrefillOp.build_op(f"{op.id.data}.prefill", [lookup.outputs[0]], [kv], call)
    transfer = serve.KVTransferOp.build_op(f"{op.id.data}.kv_transfer", [prefill.outputs[0]], [kv], call)
    decode = serve.DecodeOp.build_op(
        f"{op.id.data}.decode",
        [transfer.outputs[0], lookup.outputs[0]],
        [value.type for value in op.outputs],
        call | _pick(op, "max_tokens", "tokens_out"),
    )
    lookup.outputs[0].name_hint = "prompt"
    prefill.outputs[0].name_hint = transfer.outputs[0].name_hint = "kv"
    replace(op, [lookup, prefill, transfer, decode], decode.outputs)


def _retrieve(op: agent.RetrieveOp) -> None:
    documents = [value.type for value in op.outputs]
    embed = serve.ServeEmbedOp.build_op(f"{op.id.data}.embed", op.inputs, [DATA], _renamed(op, embed_seconds="seconds"))
    search = serve.SearchOp.build_op(
        f"{op.id.data}.search",
        [embed.outputs[0], *op.inputs],
        documents,
        _pick(op, "index", "top_k", "callee", "seconds"),
    )
    rerank = serve.ServeRerankOp.build_op(
        f"{op.id.data}.rerank",
        [search.outputs[0], *op.inputs],
        [documents[0] if isinstance(documents[0], ListType) else ListType(documents[0])],
        _pick(op, "keep") | _renamed(op, rerank_seconds="seconds"),
    )
    replace(op, [embed, search, rerank], rerank.outputs)


def _same(target: type[TaskOp]) -> Callable[[TaskOp], None]:
    """Lower to the ``serve`` op of the same name, properties and id unchanged."""

    def lower(op: TaskOp) -> None:
        known = target.get_irdl_definition().properties
        kept = {key: value for key, value in op.properties.items() if key in known and key != "id"}
        new = target.build_op(op.id.data, op.inputs, [value.type for value in op.outputs], kept)
        replace(op, [new], new.outputs)

    return lower


def _pick(op: Operation, *names: str) -> dict[str, Attribute]:
    return {name: op.properties[name] for name in names if name in op.properties}


def _renamed(op: Operation, **names: str) -> dict[str, Attribute]:
    return {new: op.properties[old] for old, new in names.items() if old in op.properties}


_LOWERINGS: Mapping[type[Operation], Callable[..., None]] = {
    agent.ModelOp: _model,
    agent.RetrieveOp: _retrieve,
    agent.ToolOp: _same(serve.ServeToolOp),
    agent.EmbedOp: _same(serve.ServeEmbedOp),
    agent.RerankOp: _same(serve.ServeRerankOp),
    agent.AudioOp: _same(serve.ServeAudioOp),
    agent.ImageOp: _same(serve.ServeImageOp),
}
