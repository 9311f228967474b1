"""Frozen features and prefixes: computed once, checked, kept and given again."""
