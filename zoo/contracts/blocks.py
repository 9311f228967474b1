"""The parts of a stage: the blocks that follow one another in it, and what kind of parameter each is.

Libraries number what they repeat: ``layer1.0``, ``blocks.3``, ``encoder_layer_7``, ``s1.b2``. A block of a stage is the
module nearest to the root that such a number names, if the stage holds more than one of its kind. What is so small that
it has a single weight matrix is no block but a layer, and a plain sequence that is numbered is opened: its own elements
are the blocks. What stands before the first block of a stage belongs to it, all else to the block before.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from torch import nn

from zoo.contracts.backbone import Backbone
from zoo.contracts.outline import BackboneOutline, StageOutline

__all__ = ["Part", "blocks_of", "layer_of", "outline_of", "part_of"]

Part = Literal["weights", "biases", "adapters"]
"""What a parameter is, for a plan that trains a part of a stage."""

ADAPTERS, NATIVE = "adapters", "native"
_NUMBERED = re.compile(r"(.*?)\d+")


def part_of(name: str) -> Part:
    """Say what a parameter is: an adapter's, a bias (the shift of a norm among them), or another weight.

    Args:
        name: Its path in the backbone, or in a head.
    """
    if name.startswith(f"{ADAPTERS}."):
        return "adapters"
    return "biases" if name.rpartition(".")[2] == "bias" else "weights"


def layer_of(backbone: Backbone, name: str) -> str | None:
    """Give the path in the native module of a parameter, or of the layer beside which an adapter's parameter stands.

    An adapter's tensors are called ``adapters.<adapter>.parts.<path of the layer>.<names of its own>``.

    Args:
        backbone: The backbone.
        name: The parameter's path in the backbone.

    Returns:
        The path; None for what belongs to no layer.
    """
    room, _, rest = name.partition(".")
    if room == NATIVE:
        return rest
    module, path = backbone.native, list[str]()
    for step in rest.split(".")[2:] if room == ADAPTERS else ():
        found = module._modules.get(step)
        if found is None:
            break
        module, path = found, [*path, step]
    return ".".join(path) or None


def blocks_of(backbone: Backbone) -> dict[str, int]:
    """Give the number of each parameter's block, counted from 0 inside its stage.

    Args:
        backbone: The backbone, cut or whole.

    Returns:
        Path in the native module to number, for every parameter and every module that holds some; each stage that has
        any begins at 0. A module's number is that of its first parameter.

    Example:
        >>> import zoo
        >>> vit = zoo.build("timm:test_vit", weights=None).backbones["main"]
        >>> {name: number for name, number in blocks_of(vit).items() if name.endswith("qkv.weight")}
        {'blocks.0.attn.qkv.weight': 0, 'blocks.1.attn.qkv.weight': 1, 'blocks.2.attn.qkv.weight': 0, \
'blocks.3.attn.qkv.weight': 0, 'blocks.4.attn.qkv.weight': 0, 'blocks.5.attn.qkv.weight': 1}
    """
    stages: dict[str, list[str]] = {}
    for name, _ in backbone.native.named_parameters():
        stages.setdefault(backbone.stage_of(name), []).append(name)
    found: dict[str, int] = {}
    for names in stages.values():
        found |= _numbered(backbone.native, names)
    for name, block in list(found.items()):
        steps = name.split(".")
        for depth in range(1, len(steps)):
            found.setdefault(".".join(steps[:depth]), block)
    return found


def outline_of(backbone: Backbone, blocks: Mapping[str, int] | None = None) -> BackboneOutline:
    """Give the stages of a backbone and what is in them; an adapter is in the stage of its layers.

    Args:
        backbone: The backbone, cut or whole.
        blocks: As :func:`blocks_of` gives them; None to find them.
    """
    blocks = blocks_of(backbone) if blocks is None else blocks
    counts: dict[str, Counter[str]] = {stage.name: Counter() for stage in backbone.spec.stages}
    last: dict[str, int] = {}
    for name, parameter in backbone.named_parameters():
        layer = layer_of(backbone, name)
        stage = backbone.spec.stages[-1].name if layer is None else backbone.stage_of(layer)
        counts[stage] += Counter({"all": parameter.numel(), part_of(name): parameter.numel()})
        last[stage] = max(last.get(stage, 0), blocks.get(layer or "", 0))
    return BackboneOutline(
        tuple(
            StageOutline(stage, last.get(stage, -1) + 1, count["all"], count["biases"], count["adapters"])
            for stage, count in counts.items()
        )
    )


def _numbered(native: nn.Module, names: list[str]) -> dict[str, int]:
    """Number the blocks of one stage, whose parameters stand in the order of definition."""
    chains = {name: _elements(name) for name in names}
    weights = [name for name in names if native.get_parameter(name).ndim > 1]
    matrices = Counter(element for name in weights for element in chains[name])
    elements = {element for element, count in matrices.items() if count > 1 and not _plain(native, element)}
    kinds = Counter(map(_kind, elements))
    order: dict[str, int] = {}
    found: dict[str, int] = {}
    for name in names:
        block = next((one for one in chains[name] if one in elements and kinds[_kind(one)] > 1), None)
        if block is not None:
            order.setdefault(block, len(order))
        found[name] = order[block] if block is not None else max(0, len(order) - 1)
    return found


def _elements(name: str) -> list[str]:
    """Give the modules above a parameter that a number names, the one nearest to the root first."""
    steps = name.split(".")[:-1]
    return [".".join(steps[: depth + 1]) for depth, step in enumerate(steps) if _NUMBERED.fullmatch(step)]


def _kind(element: str) -> str:
    """Give what an element has in common with those beside it: the path without its number."""
    found = _NUMBERED.fullmatch(element)
    return element if found is None else found[1]


def _plain(native: nn.Module, path: str) -> bool:
    """Say whether a module is a mere sequence of others that may be blocks themselves."""
    module = native.get_submodule(path)
    held = [sum(p.ndim > 1 for p in child.parameters()) for child in module.children()]
    return type(module) in (nn.Sequential, nn.ModuleList) and any(held) and all(count != 1 for count in held)
