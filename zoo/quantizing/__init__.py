"""Quantization: models that round to integers of eight bits."""

from zoo.quantizing.making import quantize
from zoo.quantizing.report import QuantizeReport

__all__ = ["QuantizeReport", "quantize"]
