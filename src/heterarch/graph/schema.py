"""The schema of an agent written in YAML; every node kind is one model, and unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from heterarch.workload.fields import DistributionField


class _Node(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class ConstNode(_Node):
    """A literal."""

    op: Literal["const"]
    value: str | list[str] | dict[str, object] | float


class ChatNode(_Node):
    """A new conversation; ``tokens`` is the length of its system prompt."""

    op: Literal["chat"]
    system: str
    tokens: DistributionField | None = None


class ModelNode(_Node):
    """An LLM call; parts ``chat`` and ``text`` (the default)."""

    op: Literal["model"]
    model: str
    inputs: list[str]
    template: str | None = None
    tokens_in: DistributionField | None = None
    tokens_out: DistributionField | None = None
    max_tokens: int | None = None
    streaming: bool = False


class CallableNode(_Node):
    """A tool or a computation: ``using`` names a Python function as ``file.py:name`` or ``package.module:name``."""

    op: Literal["tool", "compute"]
    using: str
    inputs: list[str] = []
    seconds: DistributionField | None = None
    effects: bool = False
    gives: Literal["text", "data", "list", "audio", "image"] = "text"


class ServiceNode(_Node):
    """Embedding, speech, image or a person."""

    op: Literal["embed", "stt", "tts", "image", "human"]
    input: str
    using: str | None = None
    seconds: DistributionField | None = None


class RetrieveNode(_Node):
    """Retrieval from ``index``."""

    op: Literal["retrieve"]
    query: str
    index: str
    using: str | None = None
    top_k: int = 20
    keep: int = 5
    embed_seconds: DistributionField | None = None
    search_seconds: DistributionField | None = None
    rerank_seconds: DistributionField | None = None


class RerankNode(_Node):
    """Order documents by relevance."""

    op: Literal["rerank"]
    documents: str
    query: str
    keep: int = 5
    using: str | None = None
    seconds: DistributionField | None = None


class LoadNode(_Node):
    """The session's value of ``key``, or ``default``."""

    op: Literal["load"]
    key: str
    default: str


class StoreNode(_Node):
    """Keep ``value`` for the session's next request."""

    op: Literal["store"]
    key: str
    value: str


class LoopNode(_Node):
    """``carry`` names the carried values and where they start; ``yield`` says what the next trip gets."""

    op: Literal["loop"]
    carry: dict[str, str]
    nodes: dict[str, Node]
    yield_: Annotated[list[str], Field(alias="yield")]
    trips: DistributionField | None = None
    until: str | None = None
    max_trips: int | None = None


class CaseBody(_Node):
    """One case of a branch."""

    nodes: dict[str, Node] = {}
    yield_: Annotated[str, Field(alias="yield")]
    probability: float | None = None


class BranchNode(_Node):
    """Runs the case that the text of ``on`` names."""

    op: Literal["branch"]
    on: str
    cases: dict[str, CaseBody]


class MapNode(_Node):
    """Runs ``nodes`` once per item of the list ``over``; inside, the item is called ``as``."""

    op: Literal["map"]
    over: str
    as_: Annotated[str, Field(alias="as")] = "item"
    nodes: dict[str, Node]
    yield_: Annotated[str, Field(alias="yield")]
    width: DistributionField | None = None
    join: str | None = None


class CallNode(_Node):
    """A sub-agent: another YAML file, or ``file.py:name``; ``spawn`` goes on at once, ``wait`` gets its result."""

    op: Literal["call", "spawn"]
    agent: str
    inputs: list[str] = []


class WaitNode(_Node):
    """The result of a ``spawn``."""

    op: Literal["wait"]
    future: str


Node = Annotated[
    ConstNode
    | ChatNode
    | ModelNode
    | CallableNode
    | ServiceNode
    | RetrieveNode
    | RerankNode
    | LoadNode
    | StoreNode
    | LoopNode
    | BranchNode
    | MapNode
    | CallNode
    | WaitNode,
    Field(discriminator="op"),
]


class AgentDocument(_Node):
    """An agent: typed inputs, nodes by name, and which values are its outputs."""

    heterarch: Literal["agent"]
    version: Literal[1] = 1
    name: str
    inputs: dict[str, Literal["text", "data", "list", "audio", "image"]]
    nodes: dict[str, Node]
    outputs: list[str]


for _model in (LoopNode, CaseBody, BranchNode, MapNode, AgentDocument):
    _model.model_rebuild()
