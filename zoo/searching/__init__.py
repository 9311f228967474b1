"""Searching: which blocks, or which backbone, head, method and rates, within limits and a budget."""
