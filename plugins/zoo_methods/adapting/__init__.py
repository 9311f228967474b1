"""Domain adaptation: what brings two domains together, and the statistics of norms."""
