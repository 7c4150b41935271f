"""Number formats as kernels use them: what weights and activations take, and which peak multiplies them."""

from __future__ import annotations

from dataclasses import dataclass

from heterarch.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class Format:
    """Bytes of a stored weight (with block scales) and of an activation, the peak that computes, and what is alike."""

    weight_bytes: float
    activation_bytes: float
    compute: str  # a key of Device.peaks, or the next wider one
    alike: tuple[str, ...] = ()  # formats whose fits stand in for it, the nearest first


#: kernel formats; "mxfp4" weights are multiplied in 16 bits (W4A16), "mxfp4-fp8" with 8-bit activations
FORMATS: dict[str, Format] = {
    "fp32": Format(4.0, 4.0, "fp32", ("bf16",)),
    "bf16": Format(2.0, 2.0, "bf16"),
    "fp8": Format(1.0, 1.0, "fp8", ("fp8-block", "bf16")),
    "fp8-block": Format(1.0, 1.0, "fp8", ("fp8", "bf16")),
    "int8": Format(1.0, 1.0, "int8", ("fp8", "bf16")),
    "int4": Format(0.53125, 2.0, "bf16", ("mxfp4", "bf16")),
    "fp4": Format(0.5625, 0.5625, "fp4", ("mxfp4-fp8", "fp8", "bf16")),
    "mxfp4": Format(0.53125, 2.0, "bf16", ("int4", "bf16")),
    "mxfp4-fp8": Format(0.53125, 1.0, "fp8", ("fp4", "fp8", "bf16")),
}

#: names in measurement files -> kernel formats
NAMES = {
    "bfloat16": "bf16",
    "half": "bf16",
    "float16": "bf16",
    "fp16": "bf16",
    "float32": "fp32",
    "fp8_e4m3": "fp8",
    "fp8_static": "fp8",
    "fp8_ootb": "fp8",
    "sm90_fp8": "fp8",
    "mxfp8": "fp8-block",
    "fp8_block": "fp8-block",
    "nvfp4": "fp4",
    "int4_wo": "int4",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4-fp8",
}


def kernel_format(name: str) -> str:
    """The key of :data:`FORMATS` for a name that an engine or a measurement file uses.

    Raises:
        UnknownNameError: no such format.
    """
    key = NAMES.get(name.lower(), name.lower())
    if key not in FORMATS:
        raise UnknownNameError("kernel format", name, [*FORMATS, *NAMES])
    return key


def fallbacks(name: str) -> tuple[str, ...]:
    """The format and those whose fits stand in for it, in order."""
    return (name, *FORMATS[name].alike)
