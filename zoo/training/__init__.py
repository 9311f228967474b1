"""Training: data and a method in, a trained model and its history out.

The engine is ``transformers.Trainer``; nothing here runs an optimizer step of its own, but for the
search for a learning rate, whose steps are thrown away. ``fitting`` is the way through:
what the user sets (``settings``), data (``targets``, ``batches``), frozen features computed once (``features``), the
optimizer's groups (``groups``), the engine and what happens between epochs (``engine``), one run of it (``running``),
metrics (``evaluation``), and what is told of it (``history``).
"""
