"""What an engine is: a model on tp x pp devices of one kind, in one precision."""

from __future__ import annotations

from dataclasses import dataclass

from heterarch.catalog.device import Device
from heterarch.catalog.dtype import canonical_dtype
from heterarch.catalog.model import Model
from heterarch.cost.host import Host, host_work
from heterarch.cost.library import Library, default_library
from heterarch.errors import InputError


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One way to run a model: on tp x pp x attention_dp devices of one kind, weights in ``dtype``, KV in ``kv_dtype``.

    ``tp`` devices share each attention layer. ``attention_dp`` such groups each serve their own sequences, and all of
    them share the experts: ``ep`` ways by whole experts, the rest within each expert. ``engine`` names the serving
    engine (vllm, sglang, trtllm; "" for any), ``engine_version`` its release. ``graphs``: whether passes are captured
    as graphs or launched kernel by kernel. ``peers``: whether devices reach each other's memory over PCIe, as below the
    switches of a server of 8; NCCL by default does not across the host bridge of a CPU, from which the cards of small
    machines hang, and an IOMMU may deny it: there messages go through host memory. ``library`` holds the calibrations
    that its kernels come from, ``host`` the host's times; by default the shipped ones.

    Raises:
        InputError: ``tp`` does not divide the attention heads, the model has fewer layers than ``pp``, or ``ep`` does
            not divide the devices or the experts.
    """

    device: Device
    model: Model
    tp: int = 1
    pp: int = 1
    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    ep: int = 1
    attention_dp: int = 1
    engine: str = ""
    engine_version: str = ""
    graphs: bool = True
    peers: bool = True
    library: Library | None = None
    host: Host | None = None

    def __post_init__(self) -> None:
        sizes = {"tp": self.tp, "pp": self.pp, "ep": self.ep, "attention_dp": self.attention_dp}
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"an engine needs {name} of at least 1", observed=f"{name} {size}")
        if self.model.heads % self.tp:
            raise InputError(
                f"tp {self.tp} does not divide the {self.model.heads} attention heads of {self.model.id}",
                expected="a divisor of the head count",
            )
        if self.pp > self.model.layers:
            raise InputError(f"pp {self.pp} is more than the {self.model.layers} layers of {self.model.id}")
        if self.ep > 1 and (self.group % self.ep or not self.model.experts or self.model.experts % self.ep):
            raise InputError(
                f"ep {self.ep} does not divide the experts of {self.model.id} over its devices",
                observed=f"{self.model.experts} experts, tp x attention_dp = {self.group} devices",
                expected="a divisor of both",
            )

    @property
    def devices(self) -> int:
        """Devices of one engine."""
        return self.group * self.pp

    @property
    def group(self) -> int:
        """Devices of one pipeline stage, which share the experts."""
        return self.tp * self.attention_dp

    @property
    def staged(self) -> bool:
        """Whether collectives go through host memory: without a link of their own, drivers deny it to GeForce cards."""
        own_link = self.tp <= (self.device.scaleup_domain or 0) and self.device.scaleup_bytes_per_s
        return not own_link and (not self.peers or self.device.device_class == "gpu-consumer")

    @property
    def compute_dtype(self) -> str:
        """The format in which linear layers multiply; raises InputError where the device has no peak for it.

        That of the weights where the device has it. Weights of 4 bits are otherwise unpacked to 16 bits and multiplied
        as such (MXFP4 on Hopper and CDNA3 in vLLM), because the activations are not quantised.
        """
        dtype = canonical_dtype(self.dtype)
        return self.device.compute_dtype("bf16" if dtype == "fp4" and dtype not in self.device.peaks else dtype)

    @property
    def conversions(self) -> tuple[str, ...]:
        """A sentence on each format that the device does not compute in as such, empty where it does them all."""
        device, formats = self.device, {"weights": (self.dtype, self.compute_dtype)}
        if not self.model.encoder:
            formats["KV"] = (self.kv_dtype, device.compute_dtype(self.kv_dtype))
        return tuple(
            f"{device.id} has no {dtype} arithmetic: {what} in {dtype} {'is' if what == 'KV' else 'are'} multiplied in "
            f"{native}. Converting is not timed, and whether your engine has kernels for it is not checked."
            for what, (dtype, native) in formats.items()
            if canonical_dtype(dtype) != native
        )

    @property
    def kernels(self) -> Library:
        """The calibrations that its kernels come from: its own, or the shipped one."""
        return self.library or default_library()

    @property
    def host_work(self) -> Host:
        """Host work: its own, or that of the device class."""
        return self.host or host_work(self.device.device_class)

    @property
    def name(self) -> str:
        """For tables: ``h100-sxm TP4 fp8``."""
        sizes = {"PP": self.pp, "DP": self.attention_dp, "EP": self.ep}
        split = "".join(f" {name}{size}" for name, size in sizes.items() if size > 1)
        return f"{self.device.id} TP{self.tp}{split} {self.dtype}"
