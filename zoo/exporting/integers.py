"""Integers in an ONNX file: QuantizeLinear and DequantizeLinear, which ONNX Runtime turns into integer layers."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.contracts.rounding import LEAST, integers, layers_of, rounding_of, weight_of
from zoo.model import Model

__all__ = ["fold", "is_quantized", "write_integers"]

_OPSET = 20


def is_quantized(model: Model) -> bool:
    """Say whether any backbone of a model rounds to integers."""
    return any(rounding_of(backbone) is not None for backbone in model.backbones.values())


def write_integers(model: Model) -> None:
    """Make a model round by ONNX's own operators when it is traced; it cannot be run in torch afterwards."""
    for backbone in model.backbones.values():
        rounding = rounding_of(backbone)
        if rounding is not None:
            rounding.write = _activations
    for layer in layers_of(model.backbones.values()):
        whole, steps = integers(weight_of(layer))
        layer.register_buffer("whole", whole, persistent=False)
        layer.register_buffer("steps", steps, persistent=False)
        layer.register_buffer("zeros", torch.zeros(len(steps), dtype=torch.int8), persistent=False)
        layer.write_weight = _Weight(layer)


class _Weight:
    """Gives a layer's weight as integers that are turned into float."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, weight: Tensor) -> Tensor:
        held = self.layer._buffers
        return _symbolic("DequantizeLinear", [held["whole"], held["steps"], held["zeros"]], weight, torch.float32, 0)


def _activations(given: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Round by unsigned integers: ONNX Runtime has quick layers for unsigned activations with signed weights."""
    zero = (zero - LEAST).to(torch.uint8)
    whole = _symbolic("QuantizeLinear", [given, scale, zero], given, torch.uint8)
    return _symbolic("DequantizeLinear", [whole, scale, zero], given, torch.float32)


def _symbolic(name: str, inputs: list[Any], like: Tensor, dtype: torch.dtype, axis: int | None = None) -> Tensor:
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    made: Tensor = torch.onnx.ops.symbolic(name, inputs, attributes, dtype=dtype, shape=like.shape, version=_OPSET)
    return made


def fold(proto: Any) -> None:
    """Fold norms into the integer layers before them, write biases as integers, and leave out what runtimes trip over.

    Args:
        proto: An ONNX ``ModelProto``; it is changed in place.
    """
    graph = _Graph(proto.graph)
    for node in list(proto.graph.node):
        weight = graph.maker.get(node.input[1]) if node.op_type in ("Conv", "Gemm") else None
        if weight is not None and weight.op_type == "DequantizeLinear" and graph.known(weight.input):
            _integer_layer(graph, node, weight)
    _one_reader_each(proto.graph)
    for node in proto.graph.node:  # where in the source it came from, which is a third of a small file
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.value_info[:]
    used = {name for node in proto.graph.node for name in node.input}
    left = [one for one in proto.graph.initializer if one.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(left)


class _Graph:
    """A graph with what is constant in it, and who makes and reads what.

    Args:
        graph: An ONNX ``GraphProto``.
    """

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.graph = graph
        self.value: dict[str, Any] = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self.maker: dict[str, Any] = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def known(self, names: Iterable[str]) -> bool:
        """Say whether all of these are constant."""
        return all(name in self.value for name in names)

    def put(self, name: str, array: Any) -> str:
        """Add a constant."""
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        self.value[name] = array
        return name


def _integer_layer(graph: _Graph, node: Any, weight: Any) -> None:
    """Fold the norm after a layer into its integers, and write its bias as such."""
    bias = graph.value.get(node.input[2]) if len(node.input) > 2 else None
    readers = graph.readers.get(node.output[0], [])
    if len(readers) == 1 and readers[0].op_type == "BatchNormalization" and graph.known(readers[0].input[1:]):
        bias = _folded(graph, node, weight, readers[0], 0.0 if bias is None else bias)
    given = graph.maker.get(node.input[0])
    if bias is None:
        return
    name = node.output[0]
    if given is None or given.op_type != "DequantizeLinear" or not graph.known(given.input[1:]):
        node.input[:] = [*node.input[:2], graph.put(f"{name}.bias", np.asarray(bias, np.float32))]
        return
    most = 2**31 - 1
    steps = np.asarray(graph.value[given.input[1]], np.float64) * graph.value[weight.input[1]]
    steps = np.maximum(steps, np.abs(bias) / most * 2).astype(np.float32)
    whole = np.clip(np.round(np.asarray(bias, np.float64) / steps), -most, most).astype(np.int32)
    _insert(graph, node, [graph.put(f"{name}.bias", whole), graph.put(f"{name}.bias_steps", steps)])


def _insert(graph: _Graph, node: Any, inputs: list[str]) -> None:
    """Put what turns a bias of integers into float before its layer."""
    from onnx import helper

    made = helper.make_node("DequantizeLinear", inputs, [f"{inputs[0]}_float"], name=f"{inputs[0]}_float", axis=0)
    graph.graph.node.insert(next(n for n, one in enumerate(graph.graph.node) if one is node), made)
    node.input[:] = [*node.input[:2], made.output[0]]


def _folded(graph: _Graph, node: Any, weight: Any, norm: Any, bias: Any) -> Any:
    """Fold a norm into the layer before it, and give the new bias, ``(C,)``.

    It scales each channel by ``g = gamma / sqrt(var + eps)``: the integers stay, their steps are multiplied with
    ``|g|``, and their sign with that of ``g``.
    """
    gamma, beta, mean, var = (graph.value[name].astype(np.float64) for name in norm.input[1:])
    epsilon = next((one.f for one in norm.attribute if one.name == "epsilon"), 1e-5)
    factor = gamma / np.sqrt(var + epsilon)
    whole, steps = graph.value[weight.input[0]], graph.value[weight.input[1]]
    sign = np.where(factor < 0, -1, 1).astype(np.int8).reshape(-1, *[1] * (whole.ndim - 1))
    name = weight.output[0]
    weight.input[0] = graph.put(
        f"{name}.folded", np.where(factor.reshape(sign.shape) == 0, 0, whole * sign).astype(np.int8)
    )
    weight.input[1] = graph.put(f"{name}.folded_steps", np.maximum(np.abs(factor) * steps, 1e-30).astype(np.float32))
    node.output[0] = norm.output[0]
    graph.graph.node.remove(norm)
    return (bias - mean) * factor + beta


def _one_reader_each(graph: Any) -> None:
    """Give each reader of integers that become float a node of its own, by which runtimes find their layers."""
    readers = Counter(name for node in graph.node for name in node.input)
    made = []
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or readers[node.output[0]] < 2:
            continue
        others = [(one, k) for one in graph.node for k, name in enumerate(one.input) if name == node.output[0]]
        for number, (other, place) in enumerate(others[1:]):
            copied = copy.deepcopy(node)
            copied.name, copied.output[0] = f"{node.name}_{number}", f"{node.output[0]}_{number}"
            other.input[place] = copied.output[0]
            made.append((node.output[0], copied))
    for first, copied in made:
        at = next(n for n, one in enumerate(graph.node) if first in one.output)
        graph.node.insert(at + 1, copied)
