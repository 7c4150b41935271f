"""Number formats of weights and KV: their bytes, and the format a device computes in when it lacks one."""

from __future__ import annotations

from heterarch.errors import UnknownNameError

#: bytes of one value; block scales of the 4-bit formats (3-6 %) are left out
BYTES_PER_VALUE = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5, "int4": 0.5}

#: the next wider format; int4 is a storage format whose weights are multiplied as bf16 (GPTQ, AWQ, llama.cpp)
WIDER = {"fp4": "fp8", "fp8": "bf16", "int8": "bf16", "int4": "bf16", "bf16": "fp32"}

_ALIASES = {
    "bfloat16": "bf16",
    "float16": "bf16",
    "fp16": "bf16",
    "half": "bf16",
    "float32": "fp32",
    "float": "fp32",
    "float8": "fp8",
    "fp8_e4m3": "fp8",
    "mxfp4": "fp4",
    "nvfp4": "fp4",
}


def canonical_dtype(name: str) -> str:
    """The key of :data:`BYTES_PER_VALUE` that ``name`` (``bfloat16``, ``fp16``, ``mxfp4``, ...) stands for.

    Raises:
        UnknownNameError: no such format.
    """
    key = name.lower().removeprefix("torch.")
    key = _ALIASES.get(key, key)
    if key not in BYTES_PER_VALUE:
        raise UnknownNameError("dtype", name, BYTES_PER_VALUE)
    return key


def bytes_per_value(dtype: str) -> float:
    """Bytes of one value of ``dtype``; raises UnknownNameError for no such format."""
    return BYTES_PER_VALUE[canonical_dtype(dtype)]
