"""heterarch plans, simulates and runs AI agents on the hardware you have.

Public names are loaded on first use, so ``import heterarch`` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOMES = {
    "heterarch.graph.python": (
        "agent", "branch", "chat", "compute", "embed", "human", "image", "load", "loop", "map", "model", "rerank",
        "retrieve", "spawn", "speech_to_text", "store", "text_to_speech", "tool", "wait",
    ),
    "heterarch.graph.values": ("Audio", "Chat", "Data", "Image", "List", "Text"),
    "heterarch.workload.distribution": ("constant", "lognormal", "quantiles", "uniform"),
    "heterarch.units": ("Source", "Grade"),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - by topic
    "__version__",
    "agent", "branch", "chat", "compute", "embed", "human", "image", "load", "loop", "map", "model", "rerank",
    "retrieve", "spawn", "speech_to_text", "store", "text_to_speech", "tool", "wait",
    "Audio", "Chat", "Data", "Image", "List", "Text",
    "constant", "lognormal", "quantiles", "uniform",
    "Source", "Grade",
]  # fmt: skip

if TYPE_CHECKING:
    from heterarch.graph.python import (
        agent as agent,
    )
    from heterarch.graph.python import (
        branch as branch,
    )
    from heterarch.graph.python import (
        chat as chat,
    )
    from heterarch.graph.python import (
        compute as compute,
    )
    from heterarch.graph.python import (
        embed as embed,
    )
    from heterarch.graph.python import (
        human as human,
    )
    from heterarch.graph.python import (
        image as image,
    )
    from heterarch.graph.python import (
        load as load,
    )
    from heterarch.graph.python import (
        loop as loop,
    )
    from heterarch.graph.python import (
        map as map,
    )
    from heterarch.graph.python import (
        model as model,
    )
    from heterarch.graph.python import (
        rerank as rerank,
    )
    from heterarch.graph.python import (
        retrieve as retrieve,
    )
    from heterarch.graph.python import (
        spawn as spawn,
    )
    from heterarch.graph.python import (
        speech_to_text as speech_to_text,
    )
    from heterarch.graph.python import (
        store as store,
    )
    from heterarch.graph.python import (
        text_to_speech as text_to_speech,
    )
    from heterarch.graph.python import (
        tool as tool,
    )
    from heterarch.graph.python import (
        wait as wait,
    )
    from heterarch.graph.values import (
        Audio as Audio,
    )
    from heterarch.graph.values import (
        Chat as Chat,
    )
    from heterarch.graph.values import (
        Data as Data,
    )
    from heterarch.graph.values import (
        Image as Image,
    )
    from heterarch.graph.values import (
        List as List,
    )
    from heterarch.graph.values import (
        Text as Text,
    )
    from heterarch.units import Grade as Grade
    from heterarch.units import Source as Source
    from heterarch.workload.distribution import (
        constant as constant,
    )
    from heterarch.workload.distribution import (
        lognormal as lognormal,
    )
    from heterarch.workload.distribution import (
        quantiles as quantiles,
    )
    from heterarch.workload.distribution import (
        uniform as uniform,
    )


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'heterarch' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
