"""Tensors of an ONNX model that are constant, or follow from constants, without running unbounded computations.

ONNX's own reference evaluates one node at a time: of the operators in `COSTS` only, which have neither loops nor
subgraphs, and only if the result is no larger than the model gives reason for. The model's own functions are never run:
`onnx_functions` puts their nodes in the place of each call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _messages
from .conventions import Array
from .onnx_functions import InlinedNode, functions_of, inlined, plain_domain
from .stored import reading

if TYPE_CHECKING:
    import onnx

#: How many elements may be computed: as many as this, and so many for each element that the model has.
ELEMENTS = 2**24
ELEMENTS_EACH = 32

#: How many nodes may be evaluated, and how many may be gone through to find out what leads where.
NODES = 10_000
STEPS = 1_000_000

Cost = Callable[[Any, Sequence[Any], Mapping[str, Any]], float]


# ---- how many elements an operator makes, before it runs -----------------------------------------------------------


def size_of(value: Any) -> int:
    """Elements of an input; None is one that is left out."""
    return 0 if value is None else int(np.size(value))


def times(numbers: Iterable[Any]) -> float:
    """A product; infinite where no memory holds so many, as products of long lists take long."""
    result = 1.0
    for number in numbers:
        result *= abs(int(number))
        if result > 2.0**63 or not result:
            break
    return result


def integers(value: Any) -> list[int]:
    return [int(n) for n in np.asarray(value).reshape(-1).tolist()]


def joined(shapes: Sequence[Sequence[int]]) -> float:
    """Shapes that are broadcast."""
    axes = max(map(len, shapes), default=0)
    aligned = [(1,) * (axes - len(shape)) + tuple(shape) for shape in shapes]
    return times(0 if 0 in lengths else max(lengths) for lengths in zip(*aligned, strict=True))


def as_inputs(node: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> float:
    """At most what goes in."""
    return sum(map(size_of, inputs))


def broadcast(node: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> float:
    return joined([np.shape(value) for value in inputs if value is not None])


def expand(node: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> float:
    x, shape = inputs
    return joined([np.shape(x), integers(shape)])


def tile(node: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> float:
    x, repeats = inputs
    return times([size_of(x), *integers(repeats)])


def filled(node: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> float:
    (shape,) = inputs
    return times(integers(shape))


def counted(node: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> float:
    start, limit, delta = (float(np.asarray(value).reshape(())) for value in inputs)
    count = (limit - start) / delta if delta else math.inf
    return math.inf if math.isnan(count) else max(count, 0.0)


def padded(node: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> float:
    pads = integers(inputs[1]) if len(inputs) > 1 else attributes.get("pads", attributes.get("paddings", []))
    more = sum(map(abs, pads))
    return times(n + more for n in np.shape(inputs[0]))


def gathered(node: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> float:
    x, indices = inputs
    axis = attributes.get("axis", 0)
    return times([*np.shape(x)[:axis], *np.shape(x)[axis:][1:], size_of(indices)])


def product(node: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> float:
    """The elements, or the multiplications where these are more than so many for each."""
    a, b, *c = inputs
    inner = max(1, np.shape(a)[0 if attributes.get("transA") else -1])
    elements = times([size_of(a) // inner, size_of(b) // inner])
    work: float = elements * inner / 64
    return max(elements, work) + sum(map(size_of, c))


#: Operators whose results are as large as what goes in, or smaller, or none of it.
AS_INPUTS = """
Identity Cast CastLike Transpose Reshape Squeeze Unsqueeze Flatten Slice Split Concat Shape Size Constant Dropout
DequantizeLinear QuantizeLinear DynamicQuantizeLinear Abs Neg Sign Floor Ceil Round Sqrt Reciprocal Exp Log Not Clip
Relu Sigmoid Tanh ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare
"""

#: Operators whose inputs are broadcast.
BROADCAST = """
Add Sub Mul Div Pow Mod Min Max Mean Sum And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual Where BitShift
"""

#: Operators of the standard's own domain that are evaluated.
COSTS: dict[str, Cost] = {
    **dict.fromkeys(AS_INPUTS.split(), as_inputs),
    **dict.fromkeys(BROADCAST.split(), broadcast),
    "Expand": expand,
    "Tile": tile,
    "ConstantOfShape": filled,
    "Range": counted,
    "Pad": padded,
    "Gather": gathered,
    "MatMul": product,
    "Gemm": product,
}


class Evaluator:
    """Evaluates nodes of a model, each on arrays, as long as there is room."""

    def __init__(self, owner: str, model: onnx.ModelProto) -> None:
        self.owner = owner
        self.model = model
        self.functions = functions_of(owner, model)
        self.calls = 0  # of functions
        self.inlined = 0  # nodes of functions
        self.earned: dict[int, Any] = {}  # attributes of nodes in functions that were counted, by identity
        self.elements: float = ELEMENTS
        self.nodes = NODES
        self.steps = STEPS

    def step(self) -> None:
        """Count a visited node."""
        if self.steps == 0:
            raise ValueError(_messages.too_large(self.owner, "what lies between nodes", "more steps", str(STEPS)))
        self.steps -= 1

    def earn(self, array: Array) -> None:
        """The model contains this array, so the budget grows."""
        self.elements += ELEMENTS_EACH * array.size

    def spend(self, what: str, elements: float) -> None:
        """Count computed elements."""
        if elements > self.elements:
            left = f"{self.elements:.0f} more, as the model's own tensors give reason for"
            raise ValueError(_messages.too_large(self.owner, what, f"{elements:.0f} elements", left))
        self.elements -= elements

    def takes(self, node: onnx.NodeProto) -> bool:
        """Whether this is a node that is evaluated: an operator of the standard."""
        plain = not any(a.HasField("g") or len(a.graphs) or a.ref_attr_name for a in node.attribute)
        return plain and not plain_domain(node.domain) and node.op_type in COSTS

    def opset_import(self, node: Any) -> Any:
        """The operator sets of a node: those of its function, or the model's."""
        return getattr(node, "opset_import", None) or self.model.opset_import

    def opset(self, node: Any) -> int:
        """The version of the standard that a node follows."""
        return next((o.version for o in self.opset_import(node) if not plain_domain(o.domain)), 1)

    def __call__(self, node: onnx.NodeProto, values: Mapping[str, Any]) -> dict[str, Any]:
        """The node's outputs."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        outputs = [name for name in node.output if name]
        what = f"node {node.name or ', '.join(outputs)!r} ({node.op_type})"
        if self.nodes == 0:
            raise ValueError(_messages.too_large(self.owner, what, "one node more", f"{NODES} that are evaluated"))
        self.nodes -= 1
        sparse = [a.sparse_tensor for a in node.attribute if a.HasField("sparse_tensor")]
        if node.op_type == "Constant" and sparse:
            return {outputs[0]: self.filled(what, sparse[0], "", False)}
        inputs = [values[name] if name else None for name in node.input]
        with reading(self.owner, what):
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            elements = COSTS[node.op_type](node, inputs, attributes)
        self.spend(what, elements)

        def infos(names: Any) -> list[onnx.ValueInfoProto]:
            return [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in names]

        with reading(self.owner, what), np.errstate(all="ignore"):
            feeds = {name: values[name] for name in node.input if name}
            proto = onnx.NodeProto(op_type=node.op_type, input=node.input, output=node.output, attribute=node.attribute)
            graph = onnx.helper.make_graph([proto], "constant", infos(feeds), infos(outputs))
            model = onnx.helper.make_model(graph, opset_imports=self.opset_import(node))
            results = [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feeds)]
        if node.op_type == "Constant" and self.counts(node):
            self.earn(results[0])
        return dict(zip(outputs, results, strict=True))

    def counts(self, node: Any) -> bool:
        """Whether a constant is the model's own, and was not counted before, in another call of its function."""
        if not isinstance(node, InlinedNode):
            return True
        (attribute,) = node.attribute
        new = id(attribute) not in self.earned
        self.earned[id(attribute)] = attribute
        return new

    def filled(self, what: str, sparse: onnx.SparseTensorProto, folder: str, own: bool) -> Array:
        """A sparse tensor with its zeros; whether it is the model's own, so that the budget grows."""
        import onnx

        with reading(self.owner, what):
            values = np.asarray(onnx.numpy_helper.to_array(sparse.values, folder))
            places = np.asarray(onnx.numpy_helper.to_array(sparse.indices, folder))
            shape = tuple(sparse.dims)
            if values.ndim != 1 or places.shape not in ((len(values),), (len(values), len(shape))):
                raise ValueError(_messages.sparse_shapes(values.shape, places.shape))
            if min(shape, default=0) < 0:
                raise ValueError(_messages.negative_shape(shape))
            elements = times(shape)
        if own:
            self.earn(values)
        self.spend(what, elements)
        with reading(self.owner, what):
            flat = places if places.ndim == 1 else np.ravel_multi_index(list(places.T), shape)
            if len(flat) and (flat[0] < 0 or flat[-1] >= elements or np.any(np.diff(flat) <= 0)):
                raise ValueError(_messages.SPARSE_ORDER)
            array = np.zeros(int(elements), values.dtype)
            array[flat] = values
            return array.reshape(shape)


class Constants:
    """Tensors of a graph and of those around it that do not depend on what the model is fed."""

    def __init__(
        self,
        evaluator: Evaluator,
        graph: onnx.GraphProto,
        outer: Constants | None,
        given: Mapping[str, Array],
        folder: str,
    ) -> None:
        self.evaluator = evaluator
        self.outer = outer
        self.folder = folder
        self.nodes = inlined(evaluator, graph.node)
        self.stored: dict[str, Any] = {t.name: t for t in graph.initializer}
        self.stored |= {t.values.name: t for t in graph.sparse_initializer}
        self.graph = graph
        self.traced: dict[str, Any] = {}  # what is known of tensors that are no constants, see onnx_trace
        self.fed = {i.name for i in graph.input}
        self.known: dict[str, Array | None] = dict.fromkeys(self.fed - self.stored.keys(), None)
        self.known |= given
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self.begun: set[int] = set()  # nodes whose inputs were asked for

    def __call__(self, name: str) -> Array | None:
        """The value, or None if it is not constant."""
        waiting: list[tuple[Constants, str]] = [(self, name)]
        while waiting:
            scope = waiting[-1][0].home(waiting[-1][1])
            wanted = waiting[-1][1]
            if scope is None or wanted in scope.known:
                waiting.pop()
            elif wanted in scope.stored:
                scope.known[wanted] = scope.decoded(wanted)
            elif id(node := scope.producers[wanted]) not in scope.begun and scope.evaluator.takes(node):
                scope.begun.add(id(node))  # asked for once more in a cycle, which no valid graph has: not constant
                waiting += [(scope, i) for i in node.input if i]
            else:
                scope.known |= dict.fromkeys(filter(None, node.output), None)
                scope.evaluate(node)
        home = self.home(name)
        return None if home is None else home.known[name]

    def used(self, name: str) -> Array | None:
        """The value, for a layer that takes a copy: many nodes may share what the model has once."""
        value = self(name)
        if value is not None:
            self.evaluator.spend(f"reading {name!r}", value.size)
        return value

    def home(self, name: str) -> Constants | None:
        """The graph, this one or one around it, that has the tensor."""
        scope: Constants | None = self
        while scope is not None and not any(name in of for of in (scope.known, scope.stored, scope.producers)):
            scope = scope.outer
        return scope

    def evaluate(self, node: onnx.NodeProto) -> None:
        """A node all of whose inputs were looked for."""
        homes = {name: self.home(name) for name in node.input if name}
        values = {name: None if home is None else home.known.get(name) for name, home in homes.items()}
        if self.evaluator.takes(node) and all(value is not None for value in values.values()):
            self.known |= self.evaluator(node, values)

    def decoded(self, name: str) -> Array:
        """An initializer, which may lie in a file beside the model."""
        import onnx

        stored, what = self.stored[name], f"initializer {name!r}"
        if isinstance(stored, onnx.SparseTensorProto):
            return self.evaluator.filled(what, stored, self.folder, True)
        with reading(self.evaluator.owner, what):
            array = np.asarray(onnx.numpy_helper.to_array(stored, self.folder))
        self.evaluator.earn(array)
        return array
