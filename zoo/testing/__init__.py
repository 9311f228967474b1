"""The conformance kit: what zoo's own plugins pass and what plugin authors run.

Each check raises an ``AssertionError`` that names the first rule that is broken::

    from zoo.testing import check_backbone, check_head, check_method

    def test_my_backbone_conforms():
        check_backbone("acme:tinynet")
"""

from zoo.testing.backbones import check_backbone
from zoo.testing.heads import check_head
from zoo.testing.methods import check_method

__all__ = ["check_backbone", "check_head", "check_method"]
