"""Checkpoints of a run, and going on from them."""
