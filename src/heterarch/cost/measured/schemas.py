"""The kinds of files with measured kernels: the columns they are known by, and what each row of them ran."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.model import Model
from heterarch.cost.measured.columns import Columns, Floats, Mask
from heterarch.cost.measured.measurements import Defaults, Labels, Rows, Schema
from heterarch.errors import InputError

#: names of collectives in files -> families
COLLECTIVES = {
    "alltoall": "all_to_all",
    "reducescatter": "reduce_scatter",
    "allreduce": "all_reduce",
    "allgather": "all_gather",
}
#: the ``node`` of a file of collectives -> (device, devices that share a link)
NODES = {"a100_dgx": ("a100_sxm", 8), "h100_dgx": ("h100_sxm", 8)}
#: kernel libraries that a MoE kernel's name may contain
BACKENDS = ("trtllm", "cutlass", "marlin", "triton")
#: (hidden, inner) sizes of models whose experts have no gate (squared ReLU); releases 0.14 ran them gated
PLAIN = {(2688.0, 1856.0), (1024.0, 2688.0), (2048.0, 5120.0)}
#: the ``hardware`` of a file of layer operators -> device
PARTS = {"a100": "a100_sxm", "h100": "h100_sxm"}


def _read_gemm(columns: Columns, defaults: Defaults, catalog: Catalog) -> Iterator[Rows]:
    shapes = {name: columns.numbers(name) for name in ("m", "n", "k")}
    yield _rows(columns, "gemm", shapes, _labels(columns, defaults, "dtype"))


def _read_prefill(columns: Columns, defaults: Defaults, catalog: Catalog) -> Iterator[Rows]:
    prompt = columns.numbers("isl")
    shapes = _heads(columns) | {"query": prompt, "context": prompt}
    yield _rows(columns, "attention_prefill", shapes, _labels(columns, defaults, "kv_cache_dtype"))


def _read_decode(columns: Columns, defaults: Defaults, catalog: Catalog) -> Iterator[Rows]:
    context = columns.numbers("kv_len")
    shapes = _heads(columns) | {"query": np.ones(len(columns)), "context": context}
    yield _rows(columns, "attention_decode", shapes, _labels(columns, defaults, "kv_cache_dtype"))


def _heads(columns: Columns) -> dict[str, Floats]:
    window = columns.numbers("window_size", default=0.0) if "window_size" in columns else np.zeros(len(columns))
    return {
        "batch": columns.numbers("batch_size"),
        "heads": columns.numbers("num_heads"),
        "kv_heads": columns.numbers("num_key_value_heads"),
        "head_dim": columns.numbers("head_dim"),
        "window": window,
    }


_MOE = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")


def _read_moe(columns: Columns, defaults: Defaults, catalog: Catalog) -> Iterator[Rows]:
    shapes = {name: columns.numbers(name) for name in _MOE}
    shapes["skew"] = np.array([_skew(text) for text in columns.texts("distribution", "balanced")])
    labels = _labels(columns, defaults, "moe_dtype")
    released = [not version.startswith("0.14") for version in labels.versions]
    plain = [model in PLAIN for model in zip(shapes["hidden_size"], shapes["inter_size"], strict=True)]
    shapes["matrices"] = np.where(np.array(plain) & np.array(released), 2.0, 3.0)
    backends = _backends(columns.texts("kernel_source", ""), labels, shapes)
    yield _rows(columns, "moe", shapes, labels._replace(engines=backends))


def _backends(kernels: list[str], labels: Labels, shapes: Mapping[str, Floats]) -> list[str]:
    """The engine of each row: a second backend that an engine keeps for models of its own is another engine.

    Which backend runs a model follows from the model, so that two backends with the same models are one kernel.
    """
    names = [next((name for name in BACKENDS if name in kernel), "") for kernel in kernels]
    models = list(zip(shapes["hidden_size"], shapes["inter_size"], shapes["num_experts"], strict=True))
    served: dict[tuple[str, str], dict[str, set[object]]] = {}
    for device, dtype, name, model in zip(labels.devices, labels.dtypes, names, models, strict=True):
        served.setdefault((device, dtype), {}).setdefault(name, set()).add(model)
    found = []
    for device, dtype, engine, name in zip(labels.devices, labels.dtypes, labels.engines, names, strict=True):
        own = served[device, dtype]
        main = max(own, key=lambda backend: (len(own[backend]), backend))
        found.append(engine if name == main or own[name] & own[main] else f"{engine}-{name}")
    return found


def _skew(distribution: str) -> float:
    """The exponent of ``power_law_A``; 0 where the experts are equally loaded."""
    found = re.match(r"power_law_(\d+(\.\d+)?)", distribution)
    if found is None and distribution.startswith("power_law_"):
        expected = "balanced, or power_law_ and a number"
        raise InputError("the load of experts is not known", observed=distribution, expected=expected)
    return float(found[1]) if found else 0.0


def _read_collective(columns: Columns, defaults: Defaults, catalog: Catalog) -> Iterator[Rows]:
    engines = [name.lower().replace("_", "-") for name in columns.texts("kernel_source", defaults.engine)]
    shapes = {"message_bytes": columns.numbers("message_bytes"), "devices": columns.numbers("num_gpus")}
    versions = columns.texts("library_version", defaults.engine_version)
    labels = _labels(columns, defaults)._replace(engines=engines, versions=versions)
    yield from _by_collective(columns, columns.texts("op_name"), shapes, labels, np.ones(len(columns), dtype=bool))


def _read_node_collective(columns: Columns, defaults: Defaults, catalog: Catalog) -> Iterator[Rows]:
    """Rows between machines, and beyond the devices that share a link, are left out."""
    nodes = [NODES.get(node, (node, 8)) for node in columns.texts("node")]
    devices = columns.numbers("num_workers")
    inside = (devices <= columns.numbers("devices_per_node")) & (devices <= np.array([most for _, most in nodes]))
    shapes = {"message_bytes": columns.numbers("message_bytes"), "devices": devices}
    labels = _labels(columns, Defaults(engine="vidur"))._replace(devices=[device for device, _ in nodes])
    yield from _by_collective(columns, columns.texts("collective"), shapes, labels, inside)


def _by_collective(
    columns: Columns, names: list[str], shapes: Mapping[str, Floats], labels: Labels, chosen: Mask
) -> Iterator[Rows]:
    """The ``chosen`` rows of each collective; its time depends on bytes alone, so every format counts as 16 bits."""
    for name in sorted({*names}):
        own = chosen & np.array([other == name for other in names])
        yield _part(_rows(columns, COLLECTIVES.get(name, name), shapes, labels), own)


def _read_layers(columns: Columns, defaults: Defaults, catalog: Catalog) -> Iterator[Rows]:
    """Operators of a layer: four projections, and what is element-wise between them."""
    tokens, tp, hidden = (columns.numbers(name) for name in ("num_tokens", "tp", "n_embd"))
    heads, kv_heads, inner = (columns.numbers(name) for name in ("n_head", "n_kv_head", "n_expanded_embd"))
    layer = Layer(hidden, hidden / heads, heads / tp, kv_heads / tp, inner / tp)
    labels = _labels(columns, replace(defaults, engine="vidur"))
    labels = labels._replace(devices=[PARTS.get(name, name) for name in labels.devices])
    for column, name in _LAYER_COLUMNS.items():
        family, shapes = layer.operator(name, tokens)
        yield _rows(columns, family, shapes, labels, columns.numbers(column) * 1e-3)


def _read_profile(columns: Columns, defaults: Defaults, catalog: Catalog) -> Iterator[Rows]:
    """Operators of whole models by the name of their layer; shapes come from the models of the catalogue."""
    layers, tables = np.array(columns.texts("layer")), np.array(columns.texts("table"))
    layer, labels = _layers_of(columns, catalog), _labels(columns, replace(defaults, engine="vllm"))
    tokens = np.fmax(columns.numbers("tokens"), columns.numbers("sequences"))
    for name, operator in _PROFILE_LAYERS.items():
        yield _part(_rows(columns, *layer.operator(operator, tokens), labels), layers == name)
    query, sequences, one = columns.numbers("prefill_chunk"), columns.numbers("n_decode"), np.ones(len(columns))
    heads = {"heads": layer.heads, "kv_heads": layer.kv_heads, "head_dim": layer.size, "window": 0 * one}
    chunk = heads | {"batch": one, "query": query, "context": query + columns.numbers("kv_prefill")}
    decode = heads | {"batch": sequences, "query": one, "context": columns.numbers("kv_decode")}
    attention = tables == "attention"
    yield _part(_rows(columns, "attention_prefill", chunk, labels), attention & (sequences == 0))
    yield _part(_rows(columns, "attention_decode", decode, labels), attention & (query == 0))


@dataclass(frozen=True)
class Layer:
    """Sizes of the part of a transformer layer that one device holds, a row per measurement."""

    hidden: Floats
    size: Floats
    heads: Floats
    kv_heads: Floats
    inner: Floats
    vocab: Floats | None = None

    def operator(self, name: str, tokens: Floats) -> tuple[str, dict[str, Floats]]:
        """(family, shape columns) of an operator over ``tokens``; element-wise ones count values read and written."""
        rotated = (self.heads + self.kv_heads) * self.size
        gemms = {  # n, k
            "qkv": (rotated + self.kv_heads * self.size, self.hidden),
            "attention output": (self.hidden, self.heads * self.size),
            "gate and up": (2 * self.inner, self.hidden),
            "down": (self.hidden, self.inner),
            "output head": (self.vocab, self.hidden),
        }
        if name in gemms:
            n, k = gemms[name]
            return "gemm", {"m": tokens, "n": np.asarray(n), "k": k}
        values = {
            "activation": 3 * self.inner,
            "rotation": 2 * rotated,
            "norm": 2 * self.hidden,
            "norm and add": 4 * self.hidden,
            "add": 3 * self.hidden,
        }
        return "elementwise", {"values": tokens * values[name]}


_LAYER_COLUMNS = {
    "attn_pre_proj_ms": "qkv",
    "attn_post_proj_ms": "attention output",
    "mlp_up_proj_ms": "gate and up",
    "mlp_down_proj_ms": "down",
    "mlp_act_ms": "activation",
    "attn_rope_ms": "rotation",
    "input_layernorm_ms": "norm",
    "add_ms": "add",
}
_PROFILE_LAYERS = {
    "qkv_proj": "qkv",
    "o_proj": "attention output",
    "gate_up_proj": "gate and up",
    "down_proj": "down",
    "lm_head": "output head",
    "act_fn": "activation",
    "rotary_emb": "rotation",
    "qk_norm": "rotation",
    "layernorm": "norm and add",
}


def _layers_of(columns: Columns, catalog: Catalog) -> Layer:
    """The layer of each row's model, split over the row's ``tp`` devices."""
    found = {name: catalog.find_model(name) for name in {*columns.texts("model")}}
    models, tp = [found[name] for name in columns.texts("model")], columns.numbers("tp")

    def sizes(read: Callable[[Model], float]) -> Floats:
        return np.array([read(model) for model in models], dtype=np.float64)

    return Layer(
        hidden=sizes(lambda model: model.hidden),
        size=sizes(lambda model: model.head_dim),
        heads=sizes(lambda model: model.heads) / tp,
        kv_heads=np.maximum(sizes(lambda model: model.kv_heads) / tp, 1),
        inner=sizes(lambda model: model.ffn_dense) / tp,
        vocab=sizes(lambda model: model.vocab) / tp,
    )


def _labels(columns: Columns, defaults: Defaults, dtype: str = "") -> Labels:
    """Device, format (the column ``dtype``, else 16 bits), engine and version of each row."""
    return Labels(
        columns.texts("hardware", defaults.device),
        columns.texts(dtype, "bf16"),
        [name.lower() for name in columns.texts("framework", defaults.engine)],
        columns.texts("version", defaults.engine_version),
    )


def _rows(columns: Columns, family: str, shapes: Mapping[str, Floats], labels: Labels,
          seconds: Floats | None = None) -> Rows:  # fmt: skip
    """All rows of a file as kernels of one family."""
    times = columns.times() if seconds is None else seconds
    return Rows(family, shapes, times, labels, np.arange(columns.first, columns.first + len(columns), dtype=np.float64))


def _part(rows: Rows, chosen: Mask) -> Rows:
    """Some of the rows."""
    shapes = {name: values[chosen] for name, values in rows.shapes.items()}
    return Rows(rows.family, shapes, rows.seconds[chosen], rows.labels.part(chosen), rows.places[chosen])


_ATTENTION = ("hardware", "kv_cache_dtype", "batch_size", "num_heads", "num_key_value_heads", "head_dim")
#: what :func:`heterarch.cost.measured.measurements.read_kernels` can read
SCHEMAS = (
    Schema("gemm", ("hardware", "dtype", "m", "n", "k"), _read_gemm),
    Schema("attention_prefill", (*_ATTENTION, "isl"), _read_prefill),
    Schema("attention_decode", (*_ATTENTION, "kv_len"), _read_decode),
    Schema("moe", ("hardware", "moe_dtype", *_MOE), _read_moe),
    Schema("collective", ("hardware", "op_name", "num_gpus", "message_bytes"), _read_collective),
    Schema(
        "collective by node",
        ("node", "collective", "num_workers", "devices_per_node", "message_bytes"),
        _read_node_collective,
    ),
    Schema(
        "layer operators",
        ("hardware", "tp", "num_tokens", "n_head", "n_kv_head", "n_embd", "n_expanded_embd", *_LAYER_COLUMNS),
        _read_layers,
    ),
    Schema(
        "operator profile",
        ("hardware", "model", "tp", "table", "layer", "tokens", "sequences", "prefill_chunk", "kv_prefill",
         "n_decode", "kv_decode"),
        _read_profile,
    ),
)  # fmt: skip
