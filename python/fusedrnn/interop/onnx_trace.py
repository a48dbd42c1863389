"""What is known of each tensor of an ONNX model, found by going through the nodes that it follows from; nothing runs.

Nodes that no rule of `onnx_rules` covers give new sources, whose shapes come from ONNX's own inference of one node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import _messages
from .conventions import GATES
from .onnx_constants import Constants
from .onnx_functions import plain_domain
from .onnx_rules import RULES
from .onnx_uses import Results, Use
from .onnx_values import (
    NUMBERS,
    Fill,
    Hidden,
    Merged,
    Numbers,
    Part,
    Side,
    Size,
    Source,
    Tensor,
    UnclearError,
    Value,
    axis_of,
    features,
    source_of,
)
from .stored import MOST_AXES


def label(node: Any) -> str:
    """A node in words."""
    return f"{node.op_type} node {node.name or next(filter(None, node.output), '')!r}"


def is_recurrent(node: Any) -> bool:
    return node.op_type in GATES and not plain_domain(node.domain)


def trace(scope: Constants, tensor: str) -> Value:
    """What is known of a tensor that a graph can see."""
    waiting = [(scope, tensor)]
    begun: set[int] = set()
    while waiting:
        at, name = waiting[-1]
        home = at.home(name)
        if home is None or name in home.traced:
            waiting.pop()
            continue
        home.evaluator.step()
        node = home.producers.get(name)
        value = home(name)
        if value is not None or node is None or name in home.fed:
            home.traced[name] = fed(home, name) if value is None else value
        elif id(node) in begun:  # in a cycle, too, which no valid graph has
            inputs = [known(home, i) if i else None for i in node.input]
            for output, result in zip(node.output, results_of(home, node, inputs), strict=True):
                if output:
                    home.traced[output] = result
        else:
            begun.add(id(node))
            waiting += [(home, i) for i in node.input if i]
    return known(scope, tensor)


def known(scope: Constants, tensor: str) -> Value:
    """What was found before."""
    home = scope.home(tensor)
    value: Value | None = None if home is None else home.traced.get(tensor)
    return Hidden(Source(tensor, f"no node makes tensor {tensor!r}", False)) if value is None else value


def fed(scope: Constants, name: str) -> Value:
    """An input of the model; that of a subgraph, such as a step of a loop, is hidden."""
    info = next((i for i in scope.graph.input if i.name == name), None)
    if scope.outer is not None or info is None:
        return Hidden(Source(name, f"{name!r} is an input of a subgraph", True))
    kind = info.type.tensor_type
    source = Source(name, "", False)
    if not kind.HasField("shape") or len(kind.shape.dim) > MOST_AXES:
        return Hidden(source)
    shape = [
        # Names of sizes are not believed: nothing holds callers to them. Numbers are checked before a model runs.
        Size(d.dim_value) if d.dim_value > 0 else Size(1, (f"{name}.shape[{k}]",))
        for k, d in enumerate(kind.shape.dim)
    ]
    return source_of(source, shape, kind.elem_type)


def results_of(scope: Constants, node: Any, inputs: Sequence[Value | None]) -> list[Value]:
    """What is known of a node's outputs."""
    evaluator = scope.evaluator
    if is_recurrent(node):
        return recurrent(scope, node, inputs)
    if not plain_domain(node.domain) and node.op_type in RULES:
        try:
            return with_all(scope, node, inputs, RULES[node.op_type](use_of(scope, node, inputs)))
        except MemoryError:
            raise
        except (UnclearError, ArithmeticError, LookupError, TypeError, AttributeError):
            pass
        except ValueError as error:
            if str(error).startswith(evaluator.owner):  # no room for more
                raise
    concrete = [number_array(value) for value in inputs]
    if evaluator.takes(node) and all(c is not None or i is None for c, i in zip(concrete, inputs, strict=True)):
        values = {name: value for name, value in zip(node.input, concrete, strict=True) if name}
        found = evaluator(node, values)
        return [
            found[name] if name else Hidden(Source("", _messages.does_more(label(node)), False)) for name in node.output
        ]
    return with_all(scope, node, inputs, [])


def use_of(scope: Constants, node: Any, inputs: Sequence[Value | None]) -> Use:
    import onnx

    if node.op_type == "Transpose" and isinstance(inputs[0], Hidden):  # its axes are as many as are permuted
        (perm,) = (a.ints for a in node.attribute if a.name == "perm")
        shape = [Size(1, (f"{node.input[0]}.shape[{k}]",)) for k in range(len(perm))]
        inputs = [source_of(inputs[0].source, shape)]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return Use(node, attributes, inputs, scope.evaluator)


def with_all(scope: Constants, node: Any, inputs: Sequence[Value | None], results: Results) -> list[Value]:
    """The results that a rule gives, and new sources for the others."""
    everything = [*results, *[None] * (len(node.output) - len(results))][: len(node.output)]
    if None not in everything:
        return [value for value in everything if value is not None]
    cause, after = _messages.does_more(label(node)), False
    for value in inputs:
        source = value.source if isinstance(value, Hidden) else None
        if isinstance(value, Tensor):
            after |= any(isinstance(part.content, (Side, Merged)) for part in value.parts)
            source = value.content if isinstance(value.content, Source) else None
        if source is not None and source.after:
            cause, after = source.cause, True
            break
    shapes = inferred(scope, node, inputs)
    made: list[Value] = []
    for output, value in zip(node.output, everything, strict=True):
        source = Source(output, cause, after)
        shape, dtype = shapes.get(output, (None, 0))
        if value is None:
            value = Hidden(source) if shape is None else source_of(source, shape, dtype)
        made.append(value)
    return made


def number_array(value: Value | None) -> Any:
    """A constant, or sizes that are known; None otherwise."""
    if isinstance(value, Numbers) and all(size.known is not None for size in value.array.reshape(-1)):
        flat = [size.known for size in value.array.reshape(-1)]
        return np.array(flat, np.int32 if value.dtype == 6 else np.int64).reshape(value.array.shape)
    return value if isinstance(value, np.ndarray) else None


def recurrent(scope: Constants, node: Any, inputs: Sequence[Value | None]) -> list[Value]:
    """Y of a recurrent node has sides; its states are sources."""
    found = form_of(scope, node)
    results: list[Value] = [Hidden(Source(o, f"{o!r} is a final state of {label(node)}", True)) for o in node.output]
    if found is None or not node.output or not node.output[0]:
        return results
    D, H, layout, dtype = found
    T, B = steps_and_rows(inputs[0] if inputs else None, node, layout)
    part = Part(Side(node.output[0], 0), Size(H))
    parts = tuple(Part(Side(node.output[0], way), Size(H)) for way in range(D))
    t, b, d, f = axis_of("T", T), axis_of("B", B), axis_of("D", Size(D)), features([part])
    results[0] = Tensor((b, t, d, f) if layout else (t, d, b, f), parts, dtype)
    return results


def form_of(scope: Constants, node: Any) -> tuple[int, int, int, int] | None:
    """D, H, layout and data type of a recurrent node, if R tells them."""
    import onnx

    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    R = scope(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if R is None or R.ndim != 3:
        return None
    try:
        dtype = onnx.helper.np_dtype_to_tensor_dtype(R.dtype)
    except (KeyError, ValueError):
        dtype = 0
    return R.shape[0], R.shape[2], int(attributes.get("layout", 0) == 1), dtype


def steps_and_rows(X: Value | None, node: Any, layout: int) -> tuple[Size, Size]:
    """T and B of a recurrent node."""
    if isinstance(X, Tensor) and len(X.axes) == 3:
        first, second, _ = X.shape
    else:
        first, second = (Size(1, (f"{node.input[0]}.shape[{k}]",)) for k in range(2))
    return (second, first) if layout else (first, second)


# ---- shapes of what no rule covers ----------------------------------------------------------------------------------


def inferred(scope: Constants, node: Any, inputs: Sequence[Value | None]) -> Mapping[str, tuple[list[Size], int]]:
    """Shapes and data types of a node's outputs by ONNX's inference, as far as it knows them."""
    import onnx
    import onnx.shape_inference

    evaluator = scope.evaluator
    if plain_domain(node.domain) or any(a.HasField("g") or len(a.graphs) or a.ref_attr_name for a in node.attribute):
        return {}
    sizes: dict[str, Size] = {}
    types: dict[str, Any] = {}
    data: dict[str, Any] = {}
    helper = onnx.helper
    for name, value in zip(node.input, inputs, strict=True):
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "fiub":
                return {}
            types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            if value.size <= NUMBERS and value.dtype.kind in "iu":
                data[name] = onnx.numpy_helper.from_array(value, name)
        elif isinstance(value, (Tensor, Numbers)):
            dims: list[str | int] = []
            for size in value.shape:
                sizes[str(size)] = size
                dims.append(str(size) if size.known is None else size.known)
            types[name] = helper.make_tensor_type_proto(value.dtype or 1, dims)
        elif name:
            return {}
    try:
        schema = onnx.defs.get_schema(node.op_type, evaluator.opset(node), "")
        proto = onnx.NodeProto(op_type=node.op_type, input=node.input, output=node.output, attribute=node.attribute)
        found = onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=list(evaluator.opset_import(node))
        )
    except MemoryError:
        raise
    except Exception:  # the node is not what the standard says, or its inference gives up
        return {}
    shapes = {}
    for output, kind in found.items():
        tensor = kind.tensor_type
        if not tensor.HasField("shape") or len(tensor.shape.dim) > MOST_AXES:
            continue
        shape = [
            Size(d.dim_value) if d.dim_value > 0 else sizes.get(d.dim_param, Size(1, (f"{output}.shape[{k}]",)))
            for k, d in enumerate(tensor.shape.dim)
        ]
        shapes[output] = (shape, tensor.elem_type)
    return shapes


# ---- initial states and lengths -------------------------------------------------------------------------------------


def are_zeros(owner: str, name: str, value: Value, expected: Sequence[Size]) -> bool:
    """Whether a computed initial state is zeros; a shape that the node cannot have is refused."""
    if not isinstance(value, Tensor):
        return False
    zeros = isinstance(value.content, Fill) and value.content.value == 0
    got = value.shape
    wrong = len(got) != len(expected) or any(
        # Sizes that only a call knows may be the same under two names, but zeros of a computed shape tell.
        one != other and (one.known is None) == (other.known is None) and (zeros or one.known is not None)
        for one, other in zip(got, expected, strict=True)
    )
    if wrong:
        shown = (f"({', '.join(map(str, shape))})" for shape in (got, expected))
        raise ValueError(_messages.sizes_differ(owner, name, *shown))
    return zeros


def are_all_steps(value: Value, T: Size) -> bool:
    """Whether computed lengths are the number of steps, for all rows."""
    return isinstance(value, Tensor) and isinstance(value.content, Fill) and value.content.value == T
