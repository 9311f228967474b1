"""Chains: several steps on one model, such as pre-train, fine-tune, distil, prune, quantise, export."""
