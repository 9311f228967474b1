"""The backbone under examination: built once, never changed by a check, and built anew for those that change it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from zoo.assembly import plan_model
from zoo.catalog import resolve
from zoo.contracts.backbone import Backbone
from zoo.contracts.examples import example_input, example_inputs
from zoo.contracts.features import Features, Want
from zoo.contracts.initialising import skip_initialisers
from zoo.reference import Reference
from zoo.registry import registry
from zoo.spec import BackboneSpec
from zoo.testing.rules import rule
from zoo.wrapping import WRAPPED, rewrap

__all__ = ["Subject", "everything", "tensors_of"]


class Subject:
    """A backbone that is examined.

    Args:
        given: A reference, which is built with random weights, or a whole backbone, which is copied.

    Raises:
        ZooError: If there is no such backbone, or no spec of it.
    """

    def __init__(self, given: str | Reference | Backbone) -> None:
        self.given = given
        self.asked: Reference | None = None
        if isinstance(given, Backbone):
            self.spec = given.spec
        else:
            self.asked = resolve(given).reference
            with torch.random.fork_rng(devices=[]):
                self.spec = plan_model(self.asked).streams["main"].backbone

    @property
    def name(self) -> str:
        """What to call it."""
        return self.given.spec.reference if isinstance(self.given, Backbone) else str(self.given)

    def build(self, spec: BackboneSpec | None = None) -> Backbone:
        """Build it from a spec, by default its own; with random weights where that can be, in eval mode."""
        spec = spec or self.spec
        if spec.provider != WRAPPED:
            return registry().provider(spec.provider).build(spec, weights=None).eval()
        assert isinstance(self.given, Backbone)
        return rewrap(spec, copy.deepcopy(self.given.native)).eval()

    @cached_property
    def backbone(self) -> Backbone:
        """The one backbone that all checks look at; no weight of it is exactly what an initialiser leaves."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = copy.deepcopy(self.given).eval() if isinstance(self.given, Backbone) else self.build()
            _shake(made)
        return made

    def twin(self) -> Backbone:
        """Give another one with the same tensors, to be changed at will."""
        with skip_initialisers():
            other = self.build()
        other.load_state_dict(self.backbone.state_dict(), strict=True)
        return other

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """Two random rows."""
        return self.examples()

    def examples(self, batch: int = 2) -> dict[str, Tensor]:
        """Make random inputs."""
        return example_inputs(self.spec, batch)

    @property
    def main(self) -> str:
        """Name of the main input."""
        return self.spec.inputs[0].name

    def sized(self, size: tuple[int, int], batch: int = 1) -> dict[str, Tensor]:
        """Make random inputs whose pictures have a certain size."""
        generator = torch.Generator().manual_seed(0)
        entry = self.spec.inputs[0]
        return {**self.examples(batch), self.main: example_input(entry, batch, generator, size=size)}

    @cached_property
    def features(self) -> Features:
        """All that it gives for the two rows."""
        return self.run(self.backbone, everything(self.spec))

    @property
    def pooled(self) -> Tensor:
        """The pooled vectors of the two rows."""
        found = self.features.pooled
        rule(found is not None, "pooled must be given where it is wanted.")
        assert found is not None
        return found

    def run(self, backbone: Backbone, want: Want | None = None, inputs: Mapping[str, Tensor] | None = None) -> Features:
        """Run without gradients; the two rows by default."""
        with torch.no_grad():
            found = backbone(self.inputs if inputs is None else inputs, want)
        rule(isinstance(found, Features), f"extract must give Features, got {type(found).__name__}.")
        return found

    def wants(self) -> list[tuple[str, Want]]:
        """List all that can be wanted by itself, each with what to call it."""
        spec, found = self.spec, []
        if "pooled" in spec.capabilities:
            found.append(("the pooled vector", Want()))
        found += [(f"the map {stage.name}", Want(pooled=False, maps=(stage.name,))) for stage in spec.maps]
        if "tokens" in spec.capabilities:
            found.append(("the tokens", Want(pooled=False, tokens=True)))
        if "embed" in spec.capabilities:
            found.append(("the embedding", Want(pooled=False, embed=True)))
        return found


def everything(spec: BackboneSpec) -> Want:
    """Want all that a backbone can give."""
    return Want(
        pooled="pooled" in spec.capabilities,
        tokens="tokens" in spec.capabilities,
        maps=tuple(stage.name for stage in spec.maps),
        embed="embed" in spec.capabilities,
    )


def tensors_of(features: Features) -> dict[str, Tensor]:
    """Give all tensors of features by name."""
    found: dict[str, Any] = {f"the map {name}": map_ for name, map_ in features.maps.items()}
    for field in ("pooled", "tokens", "prefix", "embed"):
        found[field] = getattr(features, field)
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def _shake(backbone: nn.Module) -> None:
    """Move every parameter and running statistic a little: what an initialiser sets to zero would hide faults."""
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
        for module in backbone.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                module.running_mean.add_(torch.randn_like(module.running_mean), alpha=0.05)
                assert module.running_var is not None
                module.running_var.mul_(1 + 0.1 * torch.rand_like(module.running_var))
