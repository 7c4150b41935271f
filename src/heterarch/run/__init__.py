"""Runs a plan for real: executor, engines, live routing, measurement."""
