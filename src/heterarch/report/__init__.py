"""Reports: what happened, simulated or live, in one schema."""
