"""Backbones that members have in common, byte for byte: found when an ensemble is made, run once for each batch.

A group is found by comparing tensors, not only their digests: equal specs, and every parameter and buffer of equal
name, shape, dtype, layout and bytes. When a member's tensors change afterwards (training, another device), which their
version counters and addresses show, groups are found anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Features, Want
from zoo.model import Model
from zoo.spec import StreamSpec

__all__ = ["Group", "Sharing"]

Key = tuple[str, str]
"""A member's name, and that of the stream that owns the module."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Backbones of several members that are one.

    Args:
        backbone: The one that runs.
        want: All that any of the members wants of it.
        members: Whose they are.
    """

    backbone: Backbone
    want: Want
    members: tuple[Key, ...]


class Sharing:
    """Finds the groups of an ensemble, and runs a backbone of each.

    Args:
        members: Member name to model.
    """

    def __init__(self, members: Mapping[str, Model]) -> None:
        self._members = members
        self._groups: dict[Key, Group] = {}
        self._stamps: list[tuple[int, int]] | None = None

    def groups(self) -> list[Group]:
        """List the groups of two or more."""
        return list(dict.fromkeys(self._found().values()))

    def group(self, member: str, stream: str) -> Group | None:
        """Give the group of a member's stream; None if no other member has the same backbone."""
        return self._found().get((member, self._members[member].spec.owner(stream)))

    def runs(self) -> Callable[[str], Callable[[str, Any], Features]]:
        """Begin a batch: gives, for a member, what runs its streams; each group runs once for each input.

        Frozen or not, a member in training mode runs its own: dropout differs, and gradients are its own.
        """
        found = {} if any(model.training for model in self._members.values()) else self._found()
        done: dict[tuple[int, int], tuple[Any, Features]] = {}

        def of(member: str) -> Callable[[str, Any], Features]:
            model = self._members[member]

            def run(stream: str, seen: Any) -> Features:
                owner = model.spec.owner(stream)
                group = found.get((member, owner))
                if group is None:
                    features: Features = model.backbones[owner](seen, model.wants[stream])
                    return features
                key = (id(group), id(seen))
                if key not in done:  # the input is kept, so that no other gets its id
                    done[key] = (seen, group.backbone(seen, group.want))
                return replace(done[key][1])

            return run

        return of

    def _found(self) -> dict[Key, Group]:
        stamps = list(self._stamp())
        if stamps != self._stamps:
            self._groups = _groups(self._members)
            self._stamps = stamps
        return self._groups

    def _stamp(self) -> Iterator[tuple[int, int]]:
        """Give what changes when a tensor of a backbone does."""
        for model in self._members.values():
            for tensor in chain(model.backbones.parameters(), model.backbones.buffers()):
                yield tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _groups(members: Mapping[str, Model]) -> dict[Key, Group]:
    alike: list[list[Key]] = []
    for name, model in members.items():
        for stream in model.backbones:
            key = (name, stream)
            group = next((group for group in alike if _same(members, group[0], key)), None)
            if group is None:
                alike.append([key])
            else:
                group.append(key)
    found: dict[Key, Group] = {}
    for keys in alike:
        if len(keys) > 1:
            name, stream = keys[0]
            want = Want(pooled=False)
            for member, owner in keys:
                want = want | members[member].wants[owner]
            group_ = Group(members[name].backbones[stream], want, tuple(keys))
            found |= dict.fromkeys(keys, group_)
    return found


def _same(members: Mapping[str, Model], one: Key, other: Key) -> bool:
    """Say whether two backbones are one: in what they are, what is kept of them, and each tensor's bytes."""
    models = members[one[0]], members[other[0]]
    specs = models[0].spec.streams[one[1]], models[1].spec.streams[other[1]]
    if _described(specs[0]) != _described(specs[1]):
        return False
    ours, theirs = models[0].backbones[one[1]], models[1].backbones[other[1]]
    if ours is theirs:
        return True
    scales = [[adapter.spec for adapter in model.adapters] for model in models]
    return scales[0] == scales[1] and _equal(_tensors(ours), _tensors(theirs))


def _described(entry: StreamSpec) -> Any:
    """Give what decides a pass: all but where the weights came from."""
    backbone = replace(entry.backbone, reference="", weights=None, license=None)
    return replace(entry, backbone=backbone, input="image", shares=None)


def _tensors(backbone: Backbone) -> dict[str, Tensor]:
    return dict(chain(backbone.named_parameters(), backbone.named_buffers()))


def _equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(_identical(tensor, theirs[name]) for name, tensor in ours.items())


def _identical(one: Tensor, other: Tensor) -> bool:
    """Say whether two tensors are alike to the last bit, and lie alike in memory."""
    forms = [(t.dtype, t.shape, t.stride(), t.device) for t in (one, other)]
    if forms[0] != forms[1]:
        return False
    first, second = (t.detach().reshape(-1).view(torch.uint8) for t in (one, other))
    return first.data_ptr() == second.data_ptr() or torch.equal(first, second)
