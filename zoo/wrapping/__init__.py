"""Modules that no provider knows, as backbones: ``zoo.wrap``.

``making`` is the way from a module to a backbone: ``inputs`` says what it takes, ``looking`` runs it and ``tracing``
writes down what ran, ``layouts`` says which dimensions are height and width, ``stages`` where the stages end, ``specs``
writes the spec, ``proving`` runs it once more. ``backbone`` has the backbone itself, ``taps`` takes its maps.
"""

from zoo.wrapping.backbone import WRAPPED, WrappedBackbone, rewrap
from zoo.wrapping.making import wrap

__all__ = ["WRAPPED", "WrappedBackbone", "rewrap", "wrap"]
