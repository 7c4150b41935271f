"""Sweeps: many simulations, plans x routers x loads x seeds, in parallel, with intervals over the seeds."""

from heterarch.sim.sweep.document import SweepDocument
from heterarch.sim.sweep.report import SweepReport, sweep_report
from heterarch.sim.sweep.results import Results
from heterarch.sim.sweep.sweep import Placed, Sweep, run_sweep

__all__ = ["Placed", "Results", "Sweep", "SweepDocument", "SweepReport", "run_sweep", "sweep_report"]
