"""What an engine is: a model on tp x pp devices of one kind, in one precision."""

from __future__ import annotations

from dataclasses import dataclass

from heterarch.catalog.device import Device
from heterarch.catalog.dtype import canonical_dtype
from heterarch.catalog.model import Model
from heterarch.cost.efficiency import Efficiency
from heterarch.errors import InputError


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One way to run a model: on ``tp`` x ``pp`` devices of one kind, weights in ``dtype``, KV in ``kv_dtype``.

    ``efficiency`` replaces the default of the device, for instance by a calibration of the user's own.

    Raises:
        InputError: ``tp`` does not divide the attention heads, or the model has fewer layers than ``pp``.
    """

    device: Device
    model: Model
    tp: int = 1
    pp: int = 1
    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    efficiency: Efficiency | None = None

    def __post_init__(self) -> None:
        if self.tp < 1 or self.pp < 1:
            raise InputError("an engine needs tp and pp of at least 1", observed=f"tp {self.tp}, pp {self.pp}")
        if self.model.heads % self.tp:
            raise InputError(
                f"tp {self.tp} does not divide the {self.model.heads} attention heads of {self.model.id}",
                expected="a divisor of the head count",
            )
        if self.pp > self.model.layers:
            raise InputError(f"pp {self.pp} is more than the {self.model.layers} layers of {self.model.id}")

    @property
    def devices(self) -> int:
        """Devices of one engine."""
        return self.tp * self.pp

    @property
    def compute_dtype(self) -> str:
        """The format in which linear layers multiply; raises InputError where the device has no peak for it.

        That of the weights where the device has it. Weights of 4 bits are otherwise unpacked to 16 bits and multiplied
        as such (MXFP4 on Hopper and CDNA3 in vLLM), because the activations are not quantised.
        """
        dtype = canonical_dtype(self.dtype)
        return self.device.compute_dtype("bf16" if dtype == "fp4" and dtype not in self.device.peaks else dtype)

    @property
    def name(self) -> str:
        """For tables: ``h100-sxm TP4 fp8``."""
        pipeline = f" PP{self.pp}" if self.pp > 1 else ""
        return f"{self.device.id} TP{self.tp}{pipeline} {self.dtype}"
