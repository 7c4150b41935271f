"""Policies: routers and admission, alike in the simulator and live."""
