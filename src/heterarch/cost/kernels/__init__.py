"""Kernel families: what a kernel computes and moves, and the law that turns it into seconds."""
