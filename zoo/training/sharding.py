"""A model in pieces over the processes that train it: weights, gradients and the optimizer's state.

torch's ``fully_shard`` divides each tensor along its first dimension. Modules that a pass calls as a whole are put
together one after the other, and taken apart again when they are done; what is not inside one of them is put together
for the whole pass. For all that looks at a model, measures it or writes it down, it is made whole for a while.

Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023, arXiv:2304.11277.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from zoo.contracts.objective import Objective
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.training.planning.settings import Settings
from zoo.training.ranks import Ranks

__all__ = ["Sharding", "alone", "check_sharded", "divided", "divided_state", "gathered", "in_pieces", "wanted"]

LAUNCHED = "ACCELERATE_USE_FSDP"
"""What a launcher sets where the user asks it for FSDP."""
LARGEST = 4
"""A unit has at most this part of all numbers, if it can be had in smaller ones."""
SMALLEST = 1024
"""What has less than this part of all numbers is no unit by itself, which would cost more than it saves."""
_TRUE = ("true", "1")
_HOOKS = (
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs"),
    *("_forward_hooks_always_called", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


def wanted(asked: bool) -> bool:
    """Say whether a run is to have its model in pieces: as its user says, or as the launcher was told.

    Raises:
        ConfigError: If the launcher was told to keep pieces on the CPU.
    """
    launched = os.environ.get(LAUNCHED, "false").lower() in _TRUE
    if launched and os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() in _TRUE:
        raise ConfigError("zoo keeps the pieces of a model where it trains; launch without --fsdp_offload_params.")
    return asked or launched


@contextmanager
def alone() -> Iterator[None]:
    """Keep accelerate from dividing, too, what is divided here, for as long as the context is open."""
    held = os.environ.pop(LAUNCHED, None)
    try:
        yield
    finally:
        if held is not None:
            os.environ[LAUNCHED] = held


class Sharding:
    """A module in pieces, from when it is made until it is :meth:`released`.

    The pieces are torch's ``DTensor``; the module's own parameters are empty meanwhile, and the very same objects have
    their values again when it is whole. All processes must do everything here at once.

    Args:
        module: What is trained, as a whole in this process, with the values of all others.
        units: The modules in it that are put together one after the other, none inside another.
        aside: Parameters that stay whole in each process.
        place: Where the run is.

    Raises:
        ConfigError: If a parameter cannot be divided.
    """

    def __init__(
        self, module: nn.Module, units: Sequence[nn.Module], aside: set[nn.Parameter], place: torch.device
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        for name, parameter in module.named_parameters():
            if parameter.ndim == 0 and parameter not in aside:
                raise ConfigError(
                    f"sharded=True divides each parameter along its first dimension, and {name.removeprefix('model.')} "
                    "has none; leave it out."
                )
        mesh = init_device_mesh(place.type, (torch.distributed.get_world_size(),))
        own = {
            (inner, name): parameter
            for inner in module.modules()
            for name, parameter in inner._parameters.items()
            if parameter is not None and parameter not in aside
        }
        before = {each: _shape(each) for each in module.modules()}
        held = [fully_shard(unit, mesh=mesh, ignored_params=aside) for unit in (*units, module)]
        for parameter in own.values():
            parameter.data = parameter.data.new_empty(0)
        for each in held:
            each.unshard()  # the first time registers what is left to register
            each.reshard()
        self._added = {each: _added(each, *was) for each, was in before.items()}
        self._own = own
        self._pieces: dict[tuple[nn.Module, str], nn.Parameter] = {
            (inner, name): piece for inner, name in own if (piece := inner._parameters[name]) is not None
        }
        self._whole = False

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have the module whole in every process, as a plain one, for as long as the context is open.

        What changes its weights meanwhile is forgotten; its buffers are those of this process, as ever.
        """
        if self._whole:
            yield
            return
        self._put_together()
        hooks = self._take_hooks()
        self._whole = True
        try:
            yield
        finally:
            self._whole = False
            self._give_hooks(hooks)
            for (inner, name), piece in self._pieces.items():
                inner._parameters[name] = piece
            for parameter in self._own.values():
                parameter.data = parameter.data.new_empty(0)

    def release(self) -> None:
        """Make the module whole for good, and the plain module that it was; its gradients are gone."""
        self._put_together()
        for parameter in self._own.values():
            parameter.grad = None
        for inner, (kind, keys, hooks) in self._added.items():
            inner.__class__ = kind
            for what, found in hooks.items():
                for key in found:
                    vars(inner)[what].pop(key, None)
            for key in keys:
                vars(inner).pop(key, None)

    @torch.no_grad()
    def _put_together(self) -> None:
        done = set()
        for (inner, name), piece in self._pieces.items():
            parameter = self._own[inner, name]
            if id(parameter) not in done:
                done.add(id(parameter))
                parameter.data = _full(piece)
                parameter.requires_grad_(piece.requires_grad)
            inner._parameters[name] = parameter

    def _take_hooks(self) -> list[tuple[dict[Any, Any], Any, Any]]:
        """Take out what would put modules together in a pass."""
        taken = []
        for inner, (_, _, hooks) in self._added.items():
            for what, keys in hooks.items():
                held = vars(inner)[what]
                taken += [(held, key, held.pop(key)) for key in keys if key in held]
        return taken

    def _give_hooks(self, taken: list[tuple[dict[Any, Any], Any, Any]]) -> None:
        for held, key, hook in taken:
            held[key] = hook
        for inner, (_, _, hooks) in self._added.items():
            for key in hooks["_forward_pre_hooks"]:
                vars(inner)["_forward_pre_hooks"].move_to_end(key, last=False)  # before all that looks at weights


Additions = tuple[type, set[str], dict[str, list[Any]]]


def _shape(module: nn.Module) -> tuple[type, set[str], dict[str, set[Any]]]:
    """Give a module's class, its attributes, and its hooks."""
    return type(module), set(vars(module)), {what: set(vars(module).get(what, ())) for what in _HOOKS}


def _added(module: nn.Module, kind: type, keys: set[str], hooks: Mapping[str, set[Any]]) -> Additions:
    """Give what was added to a module since, with the class that it had."""
    now = vars(module)
    return kind, set(now) - keys, {what: [k for k in now.get(what, ()) if k not in had] for what, had in hooks.items()}


def in_pieces(
    module: nn.Module,
    inside: Sequence[nn.Module],
    run: Callable[[], Any],
    place: torch.device,
    *,
    never: set[nn.Parameter],
) -> Sharding:
    """Divide a module over the processes; by a pass in eval mode it is found out how.

    A module inside can be put together by itself if it is called once in a pass, and no weight of it is used but while
    it runs: libraries call parts of modules, and use their weights, past the module itself. Nor may it give a view.

    Args:
        module: What is trained.
        inside: The modules among whose children such modules are looked for.
        run: Runs a few rows through it.
        place: Where the run is.
        never: The parameters that never train; what of them the pass does not need either is not divided.

    Raises:
        ConfigError: If a parameter cannot be divided.
    """
    uses = _watched(module, run)
    total = sum(parameter.numel() for parameter in module.parameters())
    units: list[nn.Module] = []
    for each in inside:
        _walk(each, uses, total, units)
    return Sharding(module, units, {each for each in never if id(each) not in uses.used}, place)


def _watched(module: nn.Module, run: Callable[[], Any]) -> _Uses:
    """Give what a pass in eval mode and without gradients calls and uses."""
    owners: dict[int, set[int]] = {}
    for each in module.modules():
        for parameter in each.parameters():
            owners.setdefault(id(parameter), set()).add(id(each))
    uses = _Uses(owners)
    hooks: list[Any] = []
    for each in module.modules():
        hooks.append(each.register_forward_pre_hook(uses.enter, prepend=True))
        hooks.append(each.register_forward_hook(uses.leave))
    modes = {each: each.training for each in module.modules()}
    try:
        module.eval()
        with torch.no_grad(), uses:
            run()
    finally:
        for each, mode in modes.items():
            each.training = mode
        for hook in hooks:
            hook.remove()
    return uses


def _walk(module: nn.Module, uses: _Uses, total: int, found: list[nn.Module]) -> None:
    for child in module.children():
        size = sum(parameter.numel() for parameter in child.parameters())
        if size * SMALLEST < total or child in found:
            continue
        fits, before = uses.fits(child), len(found)
        if not fits or size * LARGEST > total:
            _walk(child, uses, total, found)
        if fits and len(found) == before:
            found.append(child)


class _Uses(TorchFunctionMode):
    """Notes which modules are called, and of which a weight is used while they do not run."""

    def __init__(self, owners: Mapping[int, set[int]]) -> None:
        super().__init__()
        self._owners = owners
        self._calls: Counter[int] = Counter()
        self._running: list[int] = []
        self._loose: set[int] = set()
        self.used: set[int] = set()
        """The parameters that the pass used, by ``id``."""

    def enter(self, module: nn.Module, given: Any) -> None:
        """Note that a module begins."""
        self._calls[id(module)] += 1
        self._running.append(id(module))

    def leave(self, module: nn.Module, given: Any, found: Any) -> None:
        """Note that it is done; what gives a view is not fit, since to write into that would undo its hooks."""
        self._running.remove(id(module))
        if any(isinstance(leaf, Tensor) and leaf._is_view() for leaf in tree_leaves(found)):
            self._loose.add(id(module))

    def fits(self, module: nn.Module) -> bool:
        """Say whether a module can be put together by itself."""
        return self._calls[id(module)] == 1 and id(module) not in self._loose

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at what a function of torch is given; to ask a weight for its type or size is no use of it."""
        if getattr(func, "__name__", "") != "__get__":
            for leaf in tree_leaves((args, kwargs or {})):
                if isinstance(leaf, nn.Parameter):
                    self.used.add(id(leaf))
                    self._loose |= self._owners.get(id(leaf), set()).difference(self._running)
        return func(*args, **(kwargs or {}))


def _is_piece(tensor: Any) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _full(piece: Any) -> Tensor:
    """Give the whole of a tensor, wherever its pieces are kept."""
    from torch.distributed.tensor import DTensor

    held = piece.detach()
    if held.to_local().device.type != held.device_mesh.device_type:  # kept on the CPU, where NCCL does not speak
        local = held.to_local().to(held.device_mesh.device_type)
        held = DTensor.from_local(
            local, held.device_mesh, held.placements, run_check=False, shape=held.shape, stride=held.stride()
        )
    found: Tensor = held.full_tensor()
    return found


def gathered(tree: Any, *, keep: bool) -> Any:
    """Give a tree of values with its pieces made whole; all processes must do it at once.

    Args:
        tree: Nested dicts, lists and tuples of values.
        keep: Whether this process needs them; else None stands in their place, so that no memory is spent.
    """

    def make(value: Any) -> Any:
        if not _is_piece(value):
            return value
        found = _full(value)
        return found.cpu() if keep else None

    return tree_map(make, tree)


def divided(values: Mapping[Any, Any], like: Mapping[Any, Tensor]) -> dict[Any, Any]:
    """Give this process's pieces of whole values, as other tensors are divided; it waits for nobody.

    Args:
        values: The values, whole in every process; what ``like`` has not, or in another shape, stays as it is.
        like: Tensors with the same keys.
    """
    from torch.distributed.tensor import distribute_tensor

    found = dict(values)
    for key, value in values.items():
        other: Any = like.get(key)
        if _is_piece(other) and isinstance(value, Tensor) and value.shape == other.shape and not _is_piece(value):
            place = value.to(other.device)
            found[key] = distribute_tensor(place, other.device_mesh, other.placements, src_data_rank=None)
    return found


def divided_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Give an optimizer's whole state in pieces, each value as the parameter that it belongs to; plain ones stay whole.

    Args:
        state: As ``state_dict`` of the optimizer gave it, made whole.
        optimizer: The optimizer.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    held = {
        number: divided(values, dict.fromkeys(values, parameters[number])) for number, values in state["state"].items()
    }
    return {**state, "state": held}


def check_sharded(model: Model, objective: Objective | None, run: Settings, method: str, ranks: Ranks) -> None:
    """Refuse a model in pieces where something needs it whole, before any data is read.

    Args:
        model: The model.
        objective: What the method trains beside the heads' losses; None for these alone.
        run: The user's settings.
        method: The method's name.
        ranks: The processes.

    Raises:
        ConfigError: If there is but one process, or the method or a head looks at weights in other ways than by a pass.
    """
    if not run.sharded:
        return
    if not ranks.several:
        raise ConfigError(
            "sharded=True divides a model over several processes, and this is the only one; start more with torchrun, "
            "or leave it out."
        )
    if objective is not None:
        raise ConfigError(f"sharded=True has the model in pieces, and the method {method!r} looks at a whole one.")
    for name, head in model.heads.items():
        if head.balances:
            raise ConfigError(f"sharded=True has the model in pieces, and the head {name!r} balances by whole weights.")
        if any(task.learns_features for task in head.tasks().values()):
            raise ConfigError(
                f"sharded=True has the model in pieces, and the head {name!r} learns from features of a whole one."
            )
