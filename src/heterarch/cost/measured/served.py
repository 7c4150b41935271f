"""Measured serving points: which engines of which kind served how many clients, read from benchmark tables.

The tables (the ``silicon_sample`` schema of AIConfigurator, whose points come mostly from InferenceX) give sizes as
several importers understood them; :func:`read_served` puts them on one footing.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.device import Device
from heterarch.catalog.model import Model
from heterarch.cost.config import EngineConfig
from heterarch.cost.engine import step_cost
from heterarch.cost.kernels.formats import kernel_format
from heterarch.cost.memory import most_sequences
from heterarch.cost.serving import Latency, Load, aggregated, disaggregated
from heterarch.cost.step import StepCost
from heterarch.errors import HeterarchError, InputError, UnknownNameError

NODE = 8  # devices of a server of accelerators; more of them in one engine span servers or a rack
LOW_LATENCY = 400  # clients up to which decode engines of at most NODE devices come in several
CROWD = 48  # clients per device above which attention is data parallel
HELD = 20.0  # iterations for which TensorRT-LLM holds prompts back to balance groups of data-parallel attention
FILL = 0.9  # mean length of prompts and outputs, of the nominal one (drawn from 0.8 to 1.0 of it)
EPOCH = date(2025, 1, 1)
Row = Mapping[str, str]


class Split(NamedTuple):
    """Equal engines of one role: how many (0: as many as keep up), and how each spreads over its devices."""

    devices: int
    attention_dp: int = 1
    ep: int = 1
    engines: int = 1


@dataclass(frozen=True)
class ServingPoint:
    """A closed loop of ``concurrency`` clients on ``decode`` engines, with prompts on ``prefill`` ones.

    ``prefill`` is None where the same engine does both. ``release`` is that of the engine as the table writes it, "" if
    unknown; ``day``, of the measurement, counts from 2025-01-01, NaN if unknown. ``ttft_s`` and ``tpot_s`` are what was
    measured, NaN if nothing was.
    """

    model: Model
    device: Device
    dtype: str
    backend: str
    decode: Split
    prefill: Split | None
    concurrency: float
    prompt: float
    output: float
    day: float = math.nan
    release: str = ""
    ttft_s: float = math.nan
    tpot_s: float = math.nan

    def config(self, split: Split) -> EngineConfig:
        """The engine of a split; raises InputError where it cannot run."""
        tp = split.devices // split.attention_dp
        if self.model.heads % tp:
            raise InputError(f"{self.model.id} has {self.model.heads} heads, which {tp} devices cannot share")
        kv = "bf16" if self.dtype in ("bf16", "int4") else "fp8"
        ep = math.gcd(split.ep, self.model.experts) if self.model.experts else 1
        return EngineConfig(
            self.device, self.model, tp, 1, self.dtype, kv, ep=ep, attention_dp=split.attention_dp, engine=self.backend
        )


def predict(point: ServingPoint, cost_of: Callable[[EngineConfig], StepCost] = step_cost) -> Latency:
    """The closed form of a point: :func:`heterarch.cost.serving.aggregated` or ``disaggregated``.

    Pools are taken to keep up with each other and to hold the KV of their clients, as deployments are sized to do;
    tables often give the number of prefill engines of one group of several.

    Raises:
        InputError: an engine cannot run or be costed.
    """
    config = point.config(point.decode)
    load = Load(point.concurrency, point.prompt * FILL, point.output * FILL)
    if point.prefill is None:
        held = HELD if point.backend == "trtllm" and point.decode.attention_dp > 1 else 0.0
        return aggregated(cost_of(config), load._replace(most_running=_slots(config, load), held=held))
    prefill = cost_of(point.config(point.prefill))
    return disaggregated(prefill, cost_of(config), load, decode_engines=point.decode.engines)


def _slots(config: EngineConfig, load: Load) -> float:
    """Sequences whose KV fits, at their mean length: engines admit more when some are young. Unlimited where not even
    one would fit: that the engine was measured shows that it keeps less than is thought.
    """
    return most_sequences(config, round(load.prompt + load.output / 2)) or math.inf


class Unread(NamedTuple):
    """A row that could not be read, and why."""

    line: int
    reason: str


def read_served(path: Path, catalog: Catalog) -> tuple[list[ServingPoint], list[Unread]]:
    """The points of a table, and the rows that the catalogue does not know.

    Raises:
        InputError: the file lacks a column.
    """
    found: list[ServingPoint] = []
    unread: list[Unread] = []
    with path.open(newline="") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            try:
                found.append(served(row, catalog))
            except KeyError as error:
                raise InputError(f"column {error} is missing", where=str(path)) from None
            except HeterarchError as error:
                unread.append(Unread(line, str(error).splitlines()[0]))
    return found, unread


def served(row: Row, catalog: Catalog) -> ServingPoint:
    """The point of one row; raises UnknownNameError where the catalogue has no such model or device."""
    device, model = catalog.find_device(row["hardware"]), catalog.find_model(row["model"])
    clients = _number(row, "concurrency") or _number(row, "batch_size") * max(_number(row, "attention_dp_size"), 1)
    prompt, output = _number(row, "isl"), _number(row, "osl")
    if min(clients, prompt, output) <= 0:
        raise InputError("no clients, prompt or output above 0", expected="concurrency or batch_size, isl, osl")
    if row["mode"] == "disagg":
        prefill, decode = _pools(row, model, device, clients)
    else:
        prefill, decode = None, _aggregate(row, clients)
        if decode.devices not in (1, 2, 4, NODE, 2 * NODE):
            prefill, decode = _parts(decode.devices, clients, prompt / output)
    ttft_s, tpot_s = ((_number(row, name) or math.nan) / 1e3 for name in ("ttft_ms", "tpot_ms"))
    return ServingPoint(
        model, device, _dtype(row, model), row["backend"], decode, prefill, clients, prompt, output,
        _day(row.get("measured_date") or ""), row.get("backend_version") or "", ttft_s, tpot_s,
    )  # fmt: skip


def _dtype(row: Row, model: Model) -> str:
    """The format of the weights: as the row says, else that of its GEMM, else that the model is published in."""
    given = row["precision"] or row.get("gemm_quant_mode") or ""
    try:
        name = kernel_format(given)
    except UnknownNameError:
        return model.dtype if given.lower() in ("", "nan", "auto") else given
    return {"fp8-block": "fp8", "mxfp4": "fp4", "mxfp4-fp8": "fp4"}.get(name, name)


def _aggregate(row: Row, clients: float) -> Split:
    if _number(row, "attention_dp_size"):
        return _split(row, "")
    groups = max(1, round(clients / (_number(row, "batch_size") or clients)))
    devices = max(1, round(_number(row, "tp_size")))
    return Split(devices, groups if devices % groups == 0 else 1, max(1, round(_number(row, "moe_ep_size"))))


def _split(row: Row, role: str) -> Split:
    """One engine. Older importers of aggregated rows multiply TP by EP though EP lies within TP: then moe_tp = TP."""
    tp, dp, moe_tp, ep = (
        max(1, round(_number(row, role + name)))
        for name in ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    )
    if moe_tp == ep > 1 and not role:
        devices = moe_tp
    elif tp == dp:
        devices = tp
    else:
        devices = tp * dp
    return Split(devices, min(dp, devices), math.gcd(ep, devices))


def _pools(row: Row, model: Model, device: Device, clients: float) -> tuple[Split, Split]:
    """Prefill and decode engines; where their number or size is not given, what such deployments have."""
    prefill, decode = _split(row, "prefill_"), _split(row, "decode_")
    if prefill.devices == decode.devices > NODE and _rack(device):
        return _parts(decode.devices, clients, _number(row, "isl") / _number(row, "osl"))
    if prefill.devices == decode.devices == 1 and model.experts:
        large = clients > LOW_LATENCY
        prefill, decode = Split(NODE // 2), Split(4 * NODE if large else NODE // 2)
    if decode.devices > (NODE if _rack(device) else 2 * NODE) or clients / decode.devices > CROWD:
        decode = decode._replace(attention_dp=decode.devices, ep=decode.devices)
    prompts, outputs = (round(_number(row, f"{role}_num_workers")) for role in ("prefill", "decode"))
    several = decode.devices <= NODE and decode.attention_dp == 1 and clients <= LOW_LATENCY and _spreads(row, device)
    return prefill._replace(engines=prompts), decode._replace(engines=outputs or (4 if several else 1))


def _rack(device: Device) -> bool:
    """Whether the scale-up link joins more devices than a server has."""
    return (device.scaleup_domain or 1) > NODE


def _spreads(row: Row, device: Device) -> bool:
    return row["backend"] == "trtllm" or _rack(device)


def _parts(devices: int, clients: float, ratio: float) -> tuple[Split, Split]:
    """A rack of which only the number of devices is known: engines of 4 for prompts, the rest for outputs."""
    if clients <= LOW_LATENCY and devices < 6 * NODE:
        return Split(4, 4, 4, 0), Split(NODE, 1, 1, max(1, (devices - 4) // NODE))
    few = 4 if ratio <= 1 else devices // 3
    decode = 2 ** int(math.log2(max(devices - few, 4)))
    return Split(4, 4, 4, 0), Split(decode, decode, decode)


def _number(row: Row, name: str) -> float:
    try:
        value = float(row[name] or 0)
    except ValueError:
        raise InputError(f"column {name!r} holds no number", observed=repr(row[name])) from None
    return 0.0 if math.isnan(value) else value


def _day(text: str) -> float:
    try:
        return float((date.fromisoformat(text[:10]) - EPOCH).days)
    except ValueError:
        return math.nan
