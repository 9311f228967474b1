"""What must hold of every training method."""

from __future__ import annotations

from zoo.testing.methods.check import Conformance, check_method

__all__ = ["Conformance", "check_method"]
