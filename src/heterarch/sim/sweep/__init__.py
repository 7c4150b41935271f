"""Sweeps: many simulations, plans x routers x loads x seeds, in parallel, with intervals over the seeds."""

from heterarch.sim.sweep.document import SweepDocument
from heterarch.sim.sweep.report import SweepReport
from heterarch.sim.sweep.sweep import Sweep, run_sweep

__all__ = ["Sweep", "SweepDocument", "SweepReport", "run_sweep"]
