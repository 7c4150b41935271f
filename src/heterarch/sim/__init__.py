"""The simulator: a plan on a workload or a trace, one event per engine iteration, compiled."""

from heterarch.sim.simulate import Simulation, evaluator, run_simulation, simulate

__all__ = ["Simulation", "evaluator", "run_simulation", "simulate"]
