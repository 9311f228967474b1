"""What each member sees: its own tensor of a sample, made once for all members that see the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from zoo.data import PRESENT, Preparer
from zoo.ensembling.sharing import Sharing
from zoo.ensembling.spec import ViewSpec
from zoo.ensembling.views import viewing
from zoo.errors import ConfigError, ShapeError
from zoo.model import Model

__all__ = ["Feeding"]


@dataclass(frozen=True, slots=True)
class OwnForm:
    """Prepares samples for members that each need their own form of a picture, and refuses ready tensors.

    Args:
        prepare: The member's own function.
        input: Name of the input.
    """

    prepare: Callable[[Any], Any]
    input: str

    def __call__(self, opened: Any) -> Any:
        """Prepare one."""
        if isinstance(opened, Tensor) and opened.is_floating_point():
            raise _no_tensors(self.input)
        return self.prepare(opened)


def _no_tensors(name: str) -> ShapeError:
    return ShapeError(
        f"The members normalise the input {name!r} in different ways, so no tensor fits all of them; give pictures."
    )


class Feeding:
    """Prepares samples for all members, and deals them out.

    Args:
        members: Member name to model.
        sharing: Says which backbones are the same.
        views: The views that every member sees.

    Raises:
        ConfigError: If members take an input of one name for different things.
    """

    def __init__(self, members: Mapping[str, Model], sharing: Sharing, views: ViewSpec | None) -> None:
        self._members = members
        self._sharing = sharing
        self._views = views
        self._lacking: ConfigError | None = None
        self._made: tuple[dict[str, Preparer], dict[str, dict[str, str]], dict[str, bool]] | None = None
        self.modalities: dict[str, str] = {}
        for member, model in members.items():
            for name, modality in model.modalities.items():
                if self.modalities.setdefault(name, modality) != modality:
                    raise ConfigError(
                        f"The input {name!r} is {self.modalities[name]} for some members and {modality} for "
                        f"{member!r}; rename it."
                    )

    def preparers(self) -> dict[str, Preparer]:
        """Give the functions from samples to what :meth:`by_member` takes, by key.

        A key is the input's name, or ``member.key`` where members see it in forms of their own.

        Raises:
            ConfigError: If a backbone has no way from a sample to its input.
        """
        found = dict(self._known()[0])
        if self._lacking is not None:
            raise ConfigError(str(self._lacking)) from self._lacking
        return found

    def keys(self) -> dict[str, str]:
        """Give what samples are, by key of :meth:`preparers` and by input name."""
        return {**self.modalities, **{key: preparer.modality for key, preparer in self._known()[0].items()}}

    def by_member(self, inputs: Any) -> dict[str, Any]:
        """Give each member what it sees of a batch; what several see is one object.

        Args:
            inputs: A tensor; or what the preparers gave, by key; or input name to a tensor that fits all members.

        Raises:
            ShapeError: If one tensor is given for members that normalise it in different ways.
        """
        if isinstance(inputs, Tensor):
            self._check_one_form(*self.modalities)
            return dict.fromkeys(self._members, inputs)
        known = {key for key in inputs if key != PRESENT}
        if not known & self.keys().keys():
            return dict.fromkeys(self._members, inputs)  # the backbone's own input names, such as input_ids
        plain = known & set(self.modalities)
        self._check_one_form(*plain)
        given = {}
        for member, routes in self._known()[1].items():
            own = {key: inputs[route] for key, route in routes.items() if route in inputs}
            own |= {name: inputs[name] for name in self._members[member].input_names if name in plain}
            given[member] = {**own, PRESENT: inputs[PRESENT]} if PRESENT in inputs else own
        return given

    def _check_one_form(self, *names: str) -> None:
        if len(self._members) > 1:
            for name in names:
                if not self._known()[2][name]:
                    raise _no_tensors(name)

    def _known(self) -> tuple[dict[str, Preparer], dict[str, dict[str, str]], dict[str, bool]]:
        """Give the preparers, each member's keys to ours, and which inputs have one normalisation for all."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> tuple[dict[str, Preparer], dict[str, dict[str, str]], dict[str, bool]]:
        forms: dict[str, list[tuple[str, Preparer, list[tuple[str, str]]]]] = {name: [] for name in self.modalities}
        for member, model in self._members.items():
            try:
                own_preparers = model.preparers()
            except ConfigError as error:  # it takes tensors alone, and the caller knows of which form
                self._lacking = error
                continue
            for key, preparer in own_preparers.items():
                known = forms[preparer.input]
                same = next((form for form in known if self._alike((member, key, preparer), form)), None)
                if same is None:
                    known.append((f"{member}.{key}", preparer, [(member, key)]))
                else:
                    same[2].append((member, key))
        preparers: dict[str, Preparer] = {}
        routes: dict[str, dict[str, str]] = {member: {} for member in self._members}
        one_form = {}
        for name, found in forms.items():
            one_form[name] = len({_normalisation(preparer, place) for place, preparer, _ in found}) <= 1
            for place, preparer, users in found:
                key = name if len(found) == 1 else place
                made = viewing(preparer, self._views)
                if not one_form[name] and preparer.modality == "image":
                    made = replace(made, prepare=OwnForm(made.prepare, name))
                preparers[key] = made
                for member, own in users:
                    routes[member][own] = key
        return preparers, routes, one_form

    def _alike(self, given: tuple[str, str, Preparer], form: tuple[str, Preparer, list[tuple[str, str]]]) -> bool:
        """Say whether a member's preparer makes the same of a sample as one that is known."""
        member, key, preparer = given
        _, known, users = form
        if preparer.optional != known.optional:
            return False
        if preparer.like(known):
            return preparer.size == known.size
        groups = [self._sharing.group(m, self._stream(m, k)) for m, k in ((member, key), users[0])]
        return groups[0] is not None and groups[0] is groups[1]

    def _stream(self, member: str, key: str) -> str:
        """Name a stream that sees what is under a key of a member."""
        streams = self._members[member].spec.streams
        return key if key in streams else next(name for name, entry in streams.items() if entry.input == key)


def _normalisation(preparer: Preparer, place: str) -> Any:
    """Give what a ready tensor must have gone through; its size is the caller's choice."""
    recipe = preparer.recipe
    if recipe is None:
        return place
    return (recipe.mean, recipe.std, recipe.scale, recipe.order, recipe.channels)
