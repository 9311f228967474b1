"""Heads that learn on kept features: which are linear, standardised, solved at once."""
