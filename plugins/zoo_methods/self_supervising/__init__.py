"""Self-supervised learning: one file a scheme, and what several of them are made of."""
