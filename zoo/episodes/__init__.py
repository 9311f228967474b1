"""Few-shot episodes: how well a model's features tell new classes apart from a few rows of each."""
