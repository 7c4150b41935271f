"""How much of a data sheet an engine reaches: shares of the peaks and fixed times, by device and by device class.

The form per kernel family is max(flops / (peak x share), bytes / (bandwidth x share)) + fixed time, which reaches
12-17 % on GEMM and 14-26 % on attention where a plain roofline is 40-80 % off. GEMM and attention shares are fitted
(log error, least absolute) on the vLLM kernel measurements of aiconfigurator-core 0.12.0; all-reduces are alpha-beta
fits of vLLM's custom all-reduce in graph mode; the shares of 8-bit and 4-bit GEMM and the host times are set so that
whole TensorRT-LLM passes of Llama-3.1-70B come out right, because vLLM's kernels of that release are slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from heterarch.catalog.device import Device
from heterarch.units import Grade, Source


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares (0..1) of a device's dense peaks that the kernels of an engine reach, and times (s) that no peak explains.

    ``compute`` is by the format that computes, ``attention_bandwidth`` by that of the KV; ``""`` stands for every
    format that is not named.
    """

    compute: Mapping[str, float]  # linear layers at many tokens
    weight_bandwidth: float  # linear layers at few tokens, of the memory bandwidth
    attention_compute: float  # prefill attention, of the 16-bit peak
    attention_bandwidth: Mapping[str, float]  # decode attention reading KV, of the memory bandwidth
    elementwise_bandwidth: float  # norms, activations, residuals, of the memory bandwidth
    kernel_s: float  # fixed time of one kernel
    step_s: float  # host work of one iteration: scheduling, graph launch, output
    sequence_s: float  # host work per sequence of an iteration
    link: float  # bus bandwidth of an all-reduce, of the link rate per direction
    all_reduce_s: float  # latency of an all-reduce of two devices
    all_reduce_device_s: float  # added by each further device
    hop_s: float  # latency of handing activations to the next pipeline stage
    source: Source
    launch_s: float = 0.0  # host time to launch one kernel where passes are not captured as graphs

    def compute_share(self, dtype: str) -> float:
        """The share of the dense peak that linear layers computing in ``dtype`` reach."""
        return self.compute.get(dtype, self.compute[""])

    def kv_share(self, kv_dtype: str) -> float:
        """The share of the memory bandwidth at which decode attention reads KV in ``kv_dtype``."""
        return self.attention_bandwidth.get(kv_dtype, self.attention_bandwidth[""])


def efficiency(device: Device) -> Efficiency:
    """The device's own fit where its kernels were measured, else a sibling's, else the default of its class."""
    return BY_DEVICE.get(device.id) or BY_CLASS.get(device.device_class) or BY_CLASS["npu"]


def eager(share: Efficiency) -> Efficiency:
    """The same kernels launched one by one, without captured graphs (vLLM ``--enforce-eager``, releases of 2023).

    The host needs 43 us per kernel, which hides behind weight reads: between the token times of Llama-2-70B at TP 8
    on A100 (predicted 0.77 of measured) and on H100 (1.14), splitwise-sim 8f99e7d. An all-reduce starts 17 us later
    (aiconfigurator-core 0.12.0).
    """
    source = Source(share.source.grade, f"{share.source.citation}; eager launches fitted on splitwise-sim")
    return replace(share, launch_s=43e-6, all_reduce_s=share.all_reduce_s + 17e-6, source=source)


def _shares(other: float, **shares: float) -> Mapping[str, float]:
    return MappingProxyType({"": other, **shares})


def _derived(share: Efficiency, sibling: str, error: str) -> Efficiency:
    return replace(share, source=Source(Grade.DERIVED, f"shares of {sibling}; {error}"))


_FITTED = "aiconfigurator-core 0.12.0 vLLM kernels, this device; host times from whole passes"

_A100 = Efficiency(
    compute=_shares(0.78),
    weight_bandwidth=0.73,
    attention_compute=0.50,
    attention_bandwidth=_shares(0.65),
    elementwise_bandwidth=0.80,
    kernel_s=4e-6,
    step_s=0.5e-3,
    sequence_s=5e-6,
    link=0.60,
    all_reduce_s=5.0e-6,
    all_reduce_device_s=0.28e-6,
    hop_s=12e-6,
    source=Source(Grade.FITTED, _FITTED),
)
_H100 = replace(
    _A100,
    compute=_shares(0.80, fp8=0.72),
    weight_bandwidth=0.84,
    attention_compute=0.50,
    attention_bandwidth=_shares(0.80, fp8=0.62),
    link=0.66,
    all_reduce_s=4.3e-6,
    all_reduce_device_s=0.18e-6,
)
_B200 = replace(
    _A100,
    compute=_shares(0.70, fp8=0.66, fp4=0.45),
    weight_bandwidth=0.77,
    attention_compute=0.40,
    attention_bandwidth=_shares(0.82, fp8=0.76),
    link=0.57,
    all_reduce_s=7.1e-6,
    all_reduce_device_s=0.20e-6,
)
_RTX_PRO_6000 = replace(
    _A100,
    compute=_shares(0.80, fp8=0.68, fp4=0.60),
    weight_bandwidth=0.80,
    attention_compute=0.54,
    attention_bandwidth=_shares(0.80),
    link=0.45,
    all_reduce_s=4.3e-6,
    all_reduce_device_s=3.65e-6,
)
_B60 = replace(
    _RTX_PRO_6000,
    compute=_shares(0.90, fp8=0.45),
    weight_bandwidth=0.95,
    attention_compute=0.53,
    attention_bandwidth=_shares(0.82, fp8=0.73),
    kernel_s=15e-6,
)

#: devices whose kernels were measured, and their siblings
BY_DEVICE: Mapping[str, Efficiency] = MappingProxyType(
    {
        "a100-80-sxm": _A100,
        "h100-sxm": _H100,
        "b200": _B200,
        "gb200-nvl72": replace(_B200, attention_compute=0.36),
        "rtx-pro-6000-se": _RTX_PRO_6000,
        "arc-pro-b60": _B60,
        "h200-sxm": _derived(_H100, "h100-sxm", "transfer costs 12 % GEMM, 19 % prefill, 21 % decode attention"),
        "b300": _derived(_B200, "b200", "transfer costs 18 % GEMM, 29 % prefill, 18 % decode attention"),
        "gb300-nvl72": _derived(_B200, "gb200-nvl72", "transfer costs 17 % GEMM, 31 % prefill attention"),
        "l40s": _derived(_RTX_PRO_6000, "rtx-pro-6000-se", "another generation: transfer costs 30-40 %"),
        **{
            name: _derived(_A100, "a100-80-sxm", "the same chip")
            for name in ("a100-40-sxm", "a100-40-pcie", "a100-80-pcie")
        },
        **{name: _derived(_H100, "h100-sxm", "the same chip") for name in ("h100-pcie", "h100-nvl", "gh200")},
    }
)

_DATACENTRE = replace(
    _A100,
    compute=_shares(0.75, fp8=0.65, fp4=0.45),
    weight_bandwidth=0.78,
    attention_compute=0.45,
    attention_bandwidth=_shares(0.75, fp8=0.68),
    source=Source(Grade.GUESS, "means of the fits of A100, H100 and B200; this device was not measured"),
)
_PCIE = replace(_RTX_PRO_6000, source=Source(Grade.GUESS, "shares of rtx-pro-6000-se; this device was not measured"))


def _guess(share: Efficiency, kernel_s: float, compute: float, bandwidth: float) -> Efficiency:
    return replace(
        share,
        compute=_shares(compute),
        weight_bandwidth=bandwidth,
        attention_compute=compute * 0.6,
        attention_bandwidth=_shares(bandwidth * 0.9),
        elementwise_bandwidth=bandwidth,
        kernel_s=kernel_s,
        source=Source(Grade.GUESS, "no public kernel measurements of this class"),
    )


#: the default of each device class of the catalogue
BY_CLASS: Mapping[str, Efficiency] = MappingProxyType(
    {
        "gpu-dc": _DATACENTRE,
        "rack": _DATACENTRE,
        "superchip": _DATACENTRE,
        "gpu-consumer": _PCIE,
        "gpu-workstation": _PCIE,
        "accelerator": replace(_guess(_DATACENTRE, 8e-6, 0.65, 0.75), all_reduce_s=12e-6),
        "soc": _guess(_PCIE, 10e-6, 0.60, 0.75),
        "edge": replace(_guess(_PCIE, 15e-6, 0.50, 0.70), step_s=2e-3),
        "npu": _guess(_PCIE, 30e-6, 0.40, 0.60),
        "cpu": _guess(_PCIE, 5e-6, 0.40, 0.65),
    }
)
