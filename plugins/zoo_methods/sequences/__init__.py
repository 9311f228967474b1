"""Learning one task after another: one file an idea that keeps a model from forgetting."""
