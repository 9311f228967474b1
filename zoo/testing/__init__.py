"""The conformance kit: what zoo's own plugins pass and what plugin authors run.

Each ``check_…`` raises an ``AssertionError`` that names the first rule that is broken::

    from zoo.testing import check_backbone, check_head, check_method

    def test_my_backbone_conforms():
        check_backbone("acme:tinynet")

``backbone_checks`` gives what came of each check of a backbone; ``zoo.testing.pytest_plugin`` makes a test of each.
Importing this package imports no torch; each name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__all__ = ["CHECKS", "Check", "Outcome", "backbone_checks", "check_backbone", "check_head", "check_method"]

# public name -> the module that has it
_FACE = {
    "CHECKS": "zoo.testing.backbones",
    "Check": "zoo.testing.backbones",
    "Outcome": "zoo.testing.backbones",
    "backbone_checks": "zoo.testing.backbones",
    "check_backbone": "zoo.testing.backbones",
    "check_head": "zoo.testing.heads",
    "check_method": "zoo.testing.methods",
}

if TYPE_CHECKING:
    from zoo.testing.backbones import CHECKS as CHECKS
    from zoo.testing.backbones import Check as Check
    from zoo.testing.backbones import Outcome as Outcome
    from zoo.testing.backbones import backbone_checks as backbone_checks
    from zoo.testing.backbones import check_backbone as check_backbone
    from zoo.testing.heads import check_head as check_head
    from zoo.testing.methods import check_method as check_method
else:

    def __getattr__(name: str) -> object:
        try:
            module = _FACE[name]
        except KeyError:
            raise AttributeError(f"module 'zoo.testing' has no attribute {name!r}") from None
        value = getattr(importlib.import_module(module), name)
        globals()[name] = value
        return value
