"""State-dict keys: from the spelling of a weights file to that of the architecture that it fits."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["lukemelas_to_timm"]

TRUNK = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}

# The first stage has no expansion, so its layers carry other numbers.
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LATER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def lukemelas_to_timm(key: str, depths: Sequence[int]) -> str:
    """Translate a key of the EfficientNet by L. Melas-Kyriazi into timm's.

    The former counts blocks through the whole network, the latter within a stage.

    Args:
        key: Such as ``_blocks.3._bn0.weight``.
        depths: Number of blocks in each stage.

    Raises:
        KeyError: If there is no such layer.
        IndexError: If there is no such block.

    Example:
        >>> lukemelas_to_timm("_blocks.3._expand_conv.weight", [1, 2, 2])
        'blocks.2.0.conv_pw.weight'
    """
    layer, _, rest = key.partition(".")
    if layer != "_blocks":
        return f"{TRUNK[layer]}.{rest}"
    number, layer, tensor = rest.split(".", 2)
    block, stage = int(number), 0
    while block >= depths[stage]:
        block -= depths[stage]
        stage += 1
    return f"blocks.{stage}.{block}.{(LATER if stage else FIRST)[layer]}.{tensor}"
