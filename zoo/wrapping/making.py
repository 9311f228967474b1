"""From a module that no provider knows to a backbone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import get_args

from torch import nn

from zoo.contracts.backbone import Backbone
from zoo.errors import ConfigError
from zoo.preprocessing import Preprocessing
from zoo.spec import BackboneSpec
from zoo.wrapping.backbone import Layout, Pooling, Recipe, WrappedBackbone, rewrap
from zoo.wrapping.inputs import Given, read_inputs
from zoo.wrapping.looking import look
from zoo.wrapping.proving import prove, with_sizes
from zoo.wrapping.specs import make_spec
from zoo.wrapping.stages import find_stages, named_stages
from zoo.wrapping.tracing import as_found

__all__ = ["wrap"]

log = logging.getLogger("zoo")


def wrap(
    module: nn.Module,
    *,
    inputs: Given | None = None,
    name: str | None = None,
    stages: Mapping[str, str] | None = None,
    pooling: Pooling | None = None,
    layout: Layout | None = None,
    prefix_tokens: int | None = None,
    preprocessing: Preprocessing | None = None,
    spec: BackboneSpec | None = None,
) -> Backbone:
    """Make a backbone of a module that no provider knows; :func:`build` takes it in place of a reference.

    The module is run a few times, in eval mode and without gradients, on small random batches. What it gives decides
    the spec: two dimensions are the pooled vector, three are tokens, four are a map, and the parts of it that give maps
    of falling size are its stages. One line of the log says what was found. Nothing of the module is changed.

    Args:
        module: It must take tensors and give one tensor.
        inputs: An example batch; a dict of them where it takes several, by name; or the fields of an
            :class:`InputSpec`, such as ``{"channels": 3, "size": (224, 224)}``. Not needed with ``preprocessing``.
        name: What it is called in references; the name of its class by default.
        stages: Stage to the path of the module in which it ends, such as ``{"s1": "layer1", "s2": "layer2"}``.
        pooling: ``mean`` over space or tokens, ``class_token`` for the first token, ``output`` for a vector as it is.
        layout: ``NCHW``, ``NHWC`` or ``tokens``: how its parts give maps, where that cannot be seen.
        prefix_tokens: Number of class and register tokens, where that cannot be seen.
        preprocessing: From a picture to the input.
        spec: The spec of such a backbone, in place of all that.

    Returns:
        The backbone, around this very module.

    Raises:
        ConfigError: If something cannot be seen; the message says what to pass.
        UnknownName: If ``inputs`` has a field that an input does not have.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2))
        >>> backbone = wrap(net, inputs=torch.zeros(1, 3, 32, 32), name="tiny")
        >>> backbone.spec.pooled_dim, [(stage.name, stage.channels) for stage in backbone.spec.maps]
        (16, [('s1', 8), ('s2', 16)])
    """
    if not isinstance(module, nn.Module) or isinstance(module, Backbone):
        raise ConfigError(f"zoo.wrap takes a torch module that is no backbone yet, got {type(module).__name__}.")
    for what, value, known in (("layout", layout, get_args(Layout)), ("pooling", pooling, get_args(Pooling))):
        if value is not None and value not in known:
            raise ConfigError(f"zoo.wrap: {what} must be one of {', '.join(known)}, got {value!r}.")
    if spec is not None:
        told = (inputs, name, stages, pooling, layout, prefix_tokens, preprocessing)
        if any(value is not None for value in told):
            raise ConfigError("zoo.wrap takes a spec or what to make one of, got both; leave one out.")
        backbone = rewrap(spec, module)
        prove(backbone)
        return backbone
    entries, example, keywords = read_inputs(inputs, preprocessing)
    with as_found(module):
        seen = look(module, entries, example, keywords, layout=layout, prefix=prefix_tokens)
        cuts = (
            find_stages(module, seen.first, seen.read)
            if not stages
            else (named_stages(module, stages, seen.first, seen.read))
        )
        made = make_spec(module, seen, cuts, name or type(module).__name__, pooling, preprocessing)
        backbone = WrappedBackbone(made, module)
        if made.inputs[0].kind == "image":
            backbone.spec = with_sizes(backbone, seen)
    prove(backbone)
    log.info("%s", _told(backbone))
    return backbone


def _told(backbone: Backbone) -> str:
    """Say in one line what was found."""
    spec = backbone.spec
    entry = spec.inputs[0]
    recipe = Recipe(**spec.construction)
    size = "" if entry.size is None else f" of {entry.size[0]}×{entry.size[1]}"
    free = f", any size from {entry.least} pixels" if entry.size is not None and not entry.fixed_size else ""
    what = f"{entry.kind} with {entry.channels} channels" if entry.channels is not None else entry.kind
    maps = ", ".join(f"{stage.name} {stage.channels}@1/{stage.reduction:g} ({stage.module})" for stage in spec.maps)
    stages = ", ".join(f"{stage.name} ({stage.module})" for stage in spec.stages if stage.module)
    last = [part for part in backbone.native.modules() if not any(True for _ in part.children())][-1]
    scores = recipe.pooling == "output" and isinstance(last, nn.Linear)
    hint = "; if these are class scores, put nn.Identity() in place of the last layer first" if scores else ""
    return (
        f"Wrapped {recipe.code} as {spec.reference}: takes {what}{size}{free}; pooled {spec.pooled_dim} = "
        f"{recipe.pooling} of its {recipe.output}{hint}; "
        + (f"maps {maps}" if maps else f"no maps, stages {stages}")
        + f"; {spec.parameters:,} parameters."
    )
