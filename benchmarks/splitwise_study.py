"""Splitwise's cluster designs (arXiv 2311.18677) under its nine SLOs, with KV caches of their real size.

    python benchmarks/splitwise_study.py [--quick]

For each design and budget the highest Poisson rate of Azure conversation requests (rows drawn anew from the trace,
not clipped) at which all SLOs hold, by bisection with common random numbers; sizes of split pools are searched.
Budgets: the power of 40 DGX-H100 (or 70 DGX-A100), or their cost (86 DGX-A100). Sources of the seconds of iterations:

* ``measured``: medians of the Splitwise profile, decodes by the number of sequences
* ``as_published``: the same, decodes as splitwise-sim looks them up, KV of full multi-head attention
* ``predicted``, ``predicted_bloom``: our kernel laws, for Llama-2-70B and for BLOOM-176B

Pools keep their size: there is no pool of mixed machines. KV goes over 200 GB/s, nine tenths of it behind the prompt
pass. A slowdown is over the same request alone on a DGX-A100.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import data_folder, facts, show, show_skipped
from numpy.typing import NDArray
from sim_cases import calls
from splitwise import BUILTIN, KV_BYTES, MEMORY_BYTES, WEIGHTS_BYTES, profile, server, simulated, steps

from heterarch.catalog import Catalog
from heterarch.cost.config import EngineConfig
from heterarch.cost.engine import decode_s, prefill_s, step_cost
from heterarch.plan.document import Pool, StepPart
from heterarch.report.aggregate import ttft_s
from heterarch.sim import outcome
from heterarch.sim.tasks import Tasks

Floats = NDArray[np.float64]
COST, POWER = {"a100": 2.21, "h100": 4.76}, {"a100": 24.8, "h100": 44.0}  # of a DGX, normalised as in the paper
SERVERS = 40  # DGX-H100 of either budget
LINK_BYTES_PER_S = 10 * 200e9  # a tenth of the KV is still to send when the prompt pass ends
SLOS = {"ttft": (2.0, 3.0, 6.0), "tbt": (1.25, 1.5, 5.0), "e2e": (1.25, 1.5, 5.0)}  # slowdowns at PERCENTILES
PERCENTILES = (50, 90, 99)
DEVICES = {"a100": "a100-80-sxm", "h100": "h100-sxm"}
PROFILED = {"a100": "a100-80gb", "h100": "h100-80gb"}
HIGHEST_PER_S, CLOSE = 1024.0, 0.01
BASELINES = ("a100", "h100")


class Fleet(NamedTuple):
    """Kind and number of the servers for prompts, and of those for decodes; with none of these the first do both."""

    prefill: tuple[str, int]
    decode: tuple[str, int]

    def total(self, each: Mapping[str, float]) -> float:
        """The sum of a property over its servers."""
        return sum(each[kind] * count for kind, count in self)


class Costs(NamedTuple):
    """What a model takes: pool fields by kind of server; seconds of prompt pass and of a token alone on a DGX-A100."""

    pools: Mapping[str, dict[str, Any]]
    alone: Callable[[Any], tuple[Floats, Floats]]


class Load(NamedTuple):
    """Requests drawn once: gaps at one per second, prompt and output tokens; seconds to simulate, and not to judge."""

    gaps: Floats
    prompt: NDArray[np.int64]
    output: NDArray[np.int64]
    seconds: float
    warm_s: float

    def at(self, per_s: float) -> Tasks:
        """The requests at this rate."""
        arrival = np.cumsum(self.gaps) / per_s
        n = int(np.searchsorted(arrival, self.seconds))
        return calls({"arrival_s": arrival[:n], "prompt": self.prompt[:n], "output": self.output[:n]})


class Best(NamedTuple):
    """The highest rate of a design, with which fleet, and the slowdowns there."""

    per_s: float
    fleet: Fleet
    slowdowns: dict[str, list[float]]


def load(folder: Path, seconds: float, seed: int = 0) -> Load:
    """Rows of the conversation trace drawn with replacement, at gaps of a Poisson process."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "traces" / "azure_llm_2023" / "conv.parquet")
    rng = np.random.default_rng(seed)
    count = int(HIGHEST_PER_S * seconds * 1.1)
    rows = rng.integers(len(table), size=count)
    prompt, output = (table[name].to_numpy()[rows] for name in ("prompt_tokens", "output_tokens"))
    return Load(rng.exponential(1.0, count), prompt, np.maximum(output, 2), seconds, seconds / 5)


def measured(folder: Path, as_published: bool) -> Costs:
    """Llama-2-70B from the profile."""
    rows = {kind: profile(folder, "llama2-70b", name) for kind, name in PROFILED.items()}
    kv = 8 * KV_BYTES if as_published else KV_BYTES
    fields = {"kv_bytes_per_token": kv, "kv_tokens": int((MEMORY_BYTES - WEIGHTS_BYTES) / kv)}
    pools = {kind: {**steps(found, not as_published), **fields} for kind, found in rows.items()}
    prompt, token = (
        steps(rows["a100"], by)[name].cost() for by, name in ((False, "prefill_step"), (False, "decode_step"))
    )
    return Costs(pools, lambda tokens: (prefill_s(prompt, tokens), decode_s(token, tokens, 0)))


def predicted(model_id: str) -> Costs:
    """Any model of the catalogue from the kernel laws, bf16, TP8."""
    catalog = Catalog.load()
    model = catalog.model(model_id)
    configs = {kind: EngineConfig(catalog.device(name), model, tp=8) for kind, name in DEVICES.items()}
    kv = model.kv_bytes_per_token("bf16")
    fields = {"kv_bytes_per_token": kv, "kv_tokens": int((MEMORY_BYTES - model.weight_bytes("bf16")) / kv)}
    alone = step_cost(configs["a100"])
    pools = {kind: {"step": StepPart.of(step_cost(config)), **fields} for kind, config in configs.items()}
    return Costs(pools, lambda tokens: (prefill_s(alone, tokens), decode_s(alone, 1, tokens)))


def pools_of(fleet: Fleet, costs: Costs) -> list[Pool]:
    """One mixed pool, or one for prompts and one for decodes."""
    roles = zip(("prefill", "decode") if fleet.decode[1] else ("mixed",), fleet, strict=False)
    link = {"transfer_bytes_per_s": LINK_BYTES_PER_S}
    return [server(role, count, costs.pools[kind], role=role, **link) for role, (kind, count) in roles]


def slowdowns(fleet: Fleet, costs: Costs, load: Load, per_s: float) -> dict[str, list[float]]:
    """TTFT, time between tokens and end-to-end time over those of the request alone, at the percentiles."""
    work = load.at(per_s)
    work.rows["decode_pool"] = 1 if fleet.decode[1] else 0
    state = simulated(work, pools_of(fleet, costs), BUILTIN)
    rows = outcome.call_records(state, work)
    rows = rows[rows["submitted_s"] > load.warm_s]
    prompt_s, token_s = costs.alone(rows["prompt_tokens"])
    later = rows["output_tokens"] - 1
    found = {
        "ttft": ttft_s(rows) / prompt_s,
        "tbt": (rows["finish_s"] - rows["first_token_s"]) / later / token_s,
        "e2e": (rows["finish_s"] - rows["submitted_s"]) / (prompt_s + later * token_s),
    }
    return {name: np.percentile(np.nan_to_num(x, nan=np.inf), PERCENTILES).tolist() for name, x in found.items()}


def holds(found: Mapping[str, list[float]]) -> bool:
    """Whether all nine SLOs hold."""
    return all(x <= most for name, row in found.items() for x, most in zip(row, SLOS[name], strict=True))


def highest(fleets: Iterable[Fleet], costs: Costs, load: Load) -> Best | None:
    """The fleet with the highest rate; a fleet that fails just above the best rate so far is not looked at further."""
    best: Best | None = None
    for fleet in fleets:
        low = best.per_s * (1 + CLOSE) if best else 1.0
        found = slowdowns(fleet, costs, load, low)
        if holds(found):
            best = _raised(Best(low, fleet, found), costs, load)
    return best


def _raised(start: Best, costs: Costs, load: Load) -> Best:
    """The same fleet at its highest rate: doubled until an SLO breaks, then halved in between."""
    best, low, high = start, start.per_s, HIGHEST_PER_S
    broken = False
    while low * (1 + CLOSE) < high:
        middle = (low * high) ** 0.5 if broken else min(2 * low, high)
        tried = slowdowns(start.fleet, costs, load, middle)
        if holds(tried):
            best, low = Best(middle, start.fleet, tried), middle
        else:
            high, broken = middle, True
    return best


def designs(each: Mapping[str, float], step: int) -> Iterator[tuple[str, list[Fleet]]]:
    """The designs within the budget of 40 DGX-H100, each with the sizes to try.

    Args:
        each: what a server takes of the budget.
        step: between the sizes.
    """
    budget = SERVERS * each["h100"]
    old = {"a100": 70 if each is POWER else 86, "h100": SERVERS}
    for kind in BASELINES:
        yield kind, [Fleet((kind, old[kind]), (kind, 0))]
    for kind in BASELINES:
        yield f"split_{kind}", [Fleet((kind, p), (kind, old[kind] - p)) for p in range(step, old[kind], step)]
    sizes = [(p, int((budget - p * each["h100"]) / each["a100"])) for p in range(step, SERVERS, step)]
    yield "split_h100_a100", [Fleet(("h100", p), ("a100", d)) for p, d in sizes]


def compared(found: Mapping[str, Best | None]) -> dict[str, Any]:
    """Each design: its rate, fleet, cost, power, the SLO that binds, and all three over both baselines."""
    rows = {name: _row(best) for name, best in found.items()}
    for name, row in rows.items():
        for base in BASELINES:
            if row["per_s"] and rows[base]["per_s"] and name != base:
                row[f"over_{base}"] = {
                    key: row[key] / rows[base][key] for key in ("per_s", "cost", "power", "per_cost")
                }
    return rows


def _row(best: Best | None) -> dict[str, Any]:
    if best is None:
        return {"per_s": 0.0}
    cost, power = best.fleet.total(COST), best.fleet.total(POWER)
    shares = {
        f"{name}_p{percentile}": x / most
        for name, row in best.slowdowns.items()
        for x, most, percentile in zip(row, SLOS[name], PERCENTILES, strict=True)
    }
    return {
        "per_s": best.per_s,
        "prefill_servers": best.fleet.prefill[1],
        "decode_servers": best.fleet.decode[1],
        "cost": cost,
        "power": power,
        "per_cost": best.per_s / cost,
        "binding": max(shares, key=lambda name: shares[name]),
        "slowdowns": best.slowdowns,
    }


def main() -> None:
    """Run the study and print its JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measured costs only, few sizes, a short time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = data_folder()
    if folder is None:
        return show_skipped("splitwise_study")
    first = facts("splitwise_study")
    requests = load(folder, 20.0 if options.quick else 120.0, options.seed)
    step = 20 if options.quick else 2
    costs = {"measured": measured(folder, False)}
    if not options.quick:
        laws = {"predicted": predicted("Llama-2-70B"), "predicted_bloom": predicted("BLOOM-176B")}
        costs |= {"as_published": measured(folder, True), **laws}
    budgets = {"same_power": POWER, "same_cost": COST}
    found = {
        source: {
            name: compared({design: highest(fleets, cost, requests) for design, fleets in designs(each, step)})
            for name, each in budgets.items()
        }
        for source, cost in costs.items()
    }
    show({**first, "seed": options.seed, "simulated_s": requests.seconds, "slowdown_slos": SLOS, "step_costs": found})


if __name__ == "__main__":
    main()
