"""Traces, fitted profiles and arrival processes."""
