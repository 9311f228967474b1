"""Rows: from a table to batches and targets, drawn and mixed."""
