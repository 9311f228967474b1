"""A backbone's tensors and a linear layer, poured into the library's own classifier: strictly, key by key."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.contracts.weights import fit_weights
from zoo.errors import ConfigError, WeightsError
from zoo.exporting.parts import Parts

__all__ = ["joined"]


def joined(who: str, make: Callable[[], nn.Module], parts: Parts, *, prefix: str) -> nn.Module:
    """Make the library's own classifier and give it the tensors of the parts.

    Args:
        who: The backbone's reference, for messages.
        make: Makes the library's model with as many classes.
        parts: The parts.
        prefix: What the keys of the backbone begin with in that model.

    Returns:
        The model, in eval mode.

    Raises:
        ConfigError: If the model has another classifier than one linear layer, or other tensors than the backbone.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            model = make()
    except Exception as error:  # what a library's constructor raises has no common type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{who}: {parts.backbone.spec.library} makes no classifier of it: {reason}.") from error
    own = model.state_dict()
    given = {prefix + key: tensor for key, tensor in parts.backbone.native.state_dict().items()}
    path = _classifier(who, model, [key for key in own if key not in given], prefix)
    given |= {f"{path}.{key}": tensor for key, tensor in _layer(who, parts.linear, own, path).items()}
    try:
        fit_weights(model, given, where=f"the bundle of {who}")
    except WeightsError as error:
        raise ConfigError(f"{who}: the library's classifier is another module than its backbone: {error}") from error
    return model.eval()


def _classifier(who: str, model: nn.Module, more: list[str], prefix: str) -> str:
    """Find the linear layer that the library's model has and the backbone has not."""
    inside = [key for key in more if prefix and key.startswith(prefix)]
    if inside:
        raise ConfigError(f"{who}: the library's own classifier has tensors that the backbone lacks: {inside[0]!r}.")
    paths = sorted({key.rpartition(".")[0] for key in more})
    modules = {path: model.get_submodule(path) for path in paths}
    if len(paths) == 1 and isinstance(modules[paths[0]], nn.Linear):
        return paths[0]
    told = ", ".join(f"{path} (a {type(module).__name__})" for path, module in modules.items()) or "none"
    raise ConfigError(f"{who}: the library's own classifier must be one linear layer, and is {told}.")


def _layer(who: str, linear: nn.Linear, own: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    tensors = linear.state_dict()
    wanted = {key: own[f"{path}.{key}"] for key in ("weight", "bias") if f"{path}.{key}" in own}
    if "weight" not in wanted or tensors["weight"].shape != wanted["weight"].shape:
        theirs, ours = (_sides(weight) for weight in (wanted.get("weight"), tensors["weight"]))
        raise ConfigError(
            f"{who}: the library's classifier {path} takes {theirs}, ours is {ours}: it reads another vector than the "
            "pooled one."
        )
    if "bias" in tensors and "bias" not in wanted and tensors["bias"].any():
        raise ConfigError(f"{who}: the library's classifier {path} has no bias, and ours has.")
    return {key: tensors[key] for key in wanted}


def _sides(weight: Tensor | None) -> str:
    return "nothing" if weight is None else " × ".join(map(str, weight.shape))
