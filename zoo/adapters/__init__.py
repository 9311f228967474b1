"""Adapters: small trainable layers beside those of a backbone, by PEFT; the backbone itself stays as it was.

Nothing is imported here, so that reading a manifest imports neither torch nor PEFT.
"""
