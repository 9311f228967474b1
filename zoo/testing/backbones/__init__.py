"""What must hold of every backbone: named checks, each a small function.

``check`` says what a check is, ``subject`` what is examined, and ``examining`` runs the checks. The checks themselves:
``description`` (the spec), ``giving`` (features), ``taking`` (inputs and refusals), ``preparing`` (preprocessing),
``stages``, ``training`` (gradients, trim, checkpointing), ``keeping`` (copies and bundles), ``running`` (layout,
precision, export, compile).
"""

from zoo.contracts.examples import example_inputs
from zoo.testing.backbones.check import Check, Outcome, Unfit
from zoo.testing.backbones.examining import CHECKS, backbone_checks, check_backbone, run_check
from zoo.testing.backbones.subject import Subject

__all__ = [
    "CHECKS",
    "Check",
    "Outcome",
    "Subject",
    "Unfit",
    "backbone_checks",
    "check_backbone",
    "example_inputs",
    "run_check",
]
