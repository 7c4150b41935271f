"""Every kernel family by name."""

from __future__ import annotations

from heterarch.cost.kernels.attention import DECODE, PREFILL
from heterarch.cost.kernels.base import Family
from heterarch.cost.kernels.collective import COLLECTIVES
from heterarch.cost.kernels.elementwise import ELEMENTWISE
from heterarch.cost.kernels.gemm import GEMM
from heterarch.cost.kernels.moe import MOE

ALL = (GEMM, PREFILL, DECODE, MOE, ELEMENTWISE, *COLLECTIVES)
FAMILIES: dict[str, Family] = {family.name: family for family in ALL}
