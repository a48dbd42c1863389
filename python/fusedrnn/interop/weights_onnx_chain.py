"""ONNX -> fusedrnn: a model's recurrent nodes as one layer, if it is proved that each reads the outputs of those below.

What lies between two nodes (squeezed axes, transposes, a merge of directions) is followed for any number of steps and
rows (`onnx_trace`): the upper node must read the outputs of the lower ones, each element once and in its place, or two
directions in one of our merges. Initial states must be zeros or the rows of the model's inputs, in a layer's order, and
lengths one input for all nodes. ONNX's own reference then runs what lies between, on values of several scales, as a
second proof. Everything else is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _messages
from .conventions import Array, Pair, Part, assemble
from .onnx_constants import Constants
from .onnx_nodes import OnnxNode
from .onnx_trace import is_recurrent, known, trace
from .onnx_values import (
    Axis,
    Hidden,
    Merged,
    Numbers,
    Side,
    Size,
    Source,
    Tensor,
    Value,
    features,
)
from .onnx_values import Part as TracedPart

#: Steps and rows of the two probes, where the model leaves them open.
PROBES = ((7, 3), (4, 5))

#: Parts of an initial state, as the operators call them.
STATES = ("initial_h", "initial_c")

Floor = list[OnnxNode]


def read_chain(owner: str, found: Sequence[tuple[OnnxNode, Constants]], scope: Constants, dtype: Any) -> Any:
    """All nodes as one layer; see `from_onnx`."""
    for node, home in found:
        if home is not scope:
            raise ValueError(_messages.in_subgraph(owner, node.name))
    return Chain(owner, [node for node, _ in found], scope).layer(dtype)


class Chain:
    """A model's recurrent nodes, by floors: the nodes of a floor read the same."""

    def __init__(self, owner: str, nodes: Sequence[OnnxNode], scope: Constants) -> None:
        self.owner = owner
        self.scope = scope
        self.nodes = nodes
        self.reads = [trace(scope, node.inputs["X"]) for node in nodes]
        self.floors: list[Floor] = []
        self.merges: list[str | None] = []

    def layer(self, dtype: Any) -> Any:
        """The layer, a `Stack` or a `Bidirectional`."""
        owner = self.owner
        self.stand()
        self.refuse_readers()
        ordered = [node for floor in self.floors for node in floor]
        self.check_lengths(ordered)
        self.check_states(ordered)
        batch_first = self.orders()[0]
        if batch_first is None:
            batch_first = bool(self.floors[0][0].layout)
        self.merges.append(self.last_merge())
        parts = [as_part(owner, floor, merge) for floor, merge in zip(self.floors, self.merges, strict=True)]
        return assemble(owner, parts, dtype, batch_first=batch_first)

    # ---- which node stands upon which -------------------------------------------------------------------------------

    def stand(self) -> None:
        """Sort the nodes into floors, from bottom to top."""
        rest = list(range(len(self.nodes)))
        lowest = [k for k in rest if not follows(self.reads[k])]
        self.floors.append(self.taken(rest, lowest[0] if lowest else rest[0]))
        while rest:
            floor = self.floors[-1]
            outputs = {node.outputs[0] for node in floor}
            above = next((k for k in rest if reads_of(self.reads[k]) & outputs), rest[0])
            node, value = self.nodes[above], self.reads[above]
            merge = None
            if isinstance(value, Tensor):
                merge = merged_as(floor, value)
                merge = merge if in_order(value.axes[:2], "BT" if node.layout else "TB") else None
            if merge is None:
                names = [below.name for below in floor]
                raise ValueError(_messages.no_chain(self.owner, node.name, names, self.why(value)))
            self.probe(floor, node, merge)
            self.merges.append(merge)
            self.floors.append(self.taken(rest, above))

    def taken(self, rest: list[int], first: int) -> Floor:
        """All nodes that read the same as this one, the forward one first."""
        nodes, reads = self.nodes, self.reads
        same = [k for k in rest if k == first or alike(nodes[k], reads[k], nodes[first], reads[first])]
        for k in same:
            rest.remove(k)
        return sorted((nodes[k] for k in same), key=lambda node: node.layer._plan.ways)

    def why(self, value: Value) -> str:
        """Where a tensor comes from, if not from where it should."""
        source = source_of_value(value)
        if source is not None and source.cause:
            return source.cause
        names = [source.tensor] if source is not None else sorted(reads_of(value))
        return _messages.turned_otherwise(names) if names else "it is a constant"

    def refuse_readers(self) -> None:
        """Outputs of the model must not follow from Y of a lower floor other than through the floors above."""
        inner = {node.outputs[0]: node.name for floor in self.floors[:-1] for node in floor if node.outputs[0]}
        seen: set[str] = set()
        for output in self.scope.graph.output:
            rest = [output.name]
            while rest:
                self.scope.evaluator.step()
                name = rest.pop()
                node = self.scope.producers.get(name)
                if name in seen or node is None:
                    continue
                seen.add(name)
                if name in inner:
                    raise ValueError(_messages.other_reader(self.owner, output.name, inner[name]))
                if not is_recurrent(node) and node.op_type not in ("Shape", "Size"):
                    rest += [i for i in node.input if i]

    # ---- lengths, states, axes --------------------------------------------------------------------------------------

    def check_lengths(self, nodes: Sequence[OnnxNode]) -> None:
        """One input of the model for all nodes, or none."""
        first = nodes[0]
        for node in nodes:
            if node.lengths is not None:
                raise ValueError(_messages.own_of_node(self.owner, node.name, "sequence_lens", "it is a constant"))
            if ("sequence_lens" in node.inputs) != ("sequence_lens" in first.inputs):
                pair = (node, first) if "sequence_lens" in node.inputs else (first, node)
                raise ValueError(
                    _messages.some_have(self.owner, pair[0].name, "sequence_lens", pair[1].name, "lengths")
                )
        if "sequence_lens" not in first.inputs:
            return
        values = [trace(self.scope, node.inputs["sequence_lens"]) for node in nodes]
        for node, value in zip(nodes, values, strict=True):
            source = source_of_value(value)
            if source is None or source.cause or source.ndim > 1:
                cause = self.why(value)
                raise ValueError(_messages.own_of_node(self.owner, node.name, "sequence_lens", cause))
            if source.tensor != getattr(source_of_value(values[0]), "tensor", None):
                cause = f"from input {source.tensor!r}"
                raise ValueError(_messages.own_of_node(self.owner, node.name, "sequence_lens", cause))

    def check_states(self, nodes: Sequence[OnnxNode]) -> None:
        """Zeros for all nodes; or the rows of one input of the model, in their order, or one input for each node."""
        wanted = [(node, what) for node in nodes for what in STATES[: 1 + is_lstm(node)]]
        for node, _ in wanted:
            for what, part in zip(STATES, node.state if isinstance(node.state, tuple) else (node.state,), strict=False):
                if np.any(part):
                    raise ValueError(_messages.own_of_node(self.owner, node.name, what, "it is a constant"))
        given = [(node, what) for node, what in wanted if what in node.inputs]
        if not given:
            return
        origins = {(node.name, what): self.rows_of(node, what) for node, what in given}
        for node, what in wanted:
            if what not in node.inputs:
                first, its = given[0]
                raise ValueError(_messages.some_have(self.owner, first.name, its, node.name, what))
        taken: dict[str, str] = {}  # input of the model -> for which part of the state
        for part in STATES:
            those = [node for node, what in wanted if what == part]
            sources = [origins[node.name, part] for node in those]
            shared = len({source.tensor for source in sources}) == 1
            row = 0
            for node, source in zip(those, sources, strict=True):
                D, last = len(node.layer._plan.ways), node is those[-1]
                rows = self.rows_in(source.tensor)
                fits = (source.start or 0) == row and ((not last and shared) or rows in (None, row + D))
                if not fits or taken.get(source.tensor, part) != part or (source.tensor in taken and not shared):
                    cause = _messages.other_rows(source.tensor, source.start or 0, D, row if shared else 0)
                    raise ValueError(_messages.own_of_node(self.owner, node.name, part, cause))
                taken[source.tensor] = part
                row += D if shared else 0

    def rows_in(self, tensor: str) -> int | None:
        """How many rows an input of the model has, if it says so."""
        value = trace(self.scope, tensor)
        return value.shape[0].known if isinstance(value, Tensor) and value.axes else None

    def rows_of(self, node: OnnxNode, what: str) -> Source:
        """The input of the model whose rows a state is, in a layer's order of axes."""
        value = trace(self.scope, node.inputs[what])
        source = source_of_value(value)
        fits = False
        if source is not None and not source.cause and isinstance(value, Tensor) and len(value.axes) == 3:
            axes = swapped(value.axes) if node.layout else value.axes
            # Without an axis of the batch, the input is that of one row.
            fits = in_order(axes, {3: "012", 2: "0-1"}.get(source.ndim, "---"))
        elif source is not None and not source.cause and isinstance(value, Hidden):
            fits = not node.layout
        if source is None or not fits:
            raise ValueError(_messages.own_of_node(self.owner, node.name, what, self.why(value)))
        return source

    def orders(self) -> tuple[bool | None, bool]:
        """Whether what the chain reads has the batch first, None if this cannot be told; and whether it is an input."""
        node = self.floors[0][0]
        value = trace(self.scope, node.inputs["X"])
        source = source_of_value(value)
        if source is None or source.ndim != 3 or not isinstance(value, Tensor) or len(value.axes) != 3:
            return None, False
        axes = swapped(value.axes) if node.layout else value.axes
        return turned(axes, "012"), not source.cause

    def last_merge(self) -> str | None:
        """How the model's own outputs have the directions of the last nodes; "concat" if they do not tell."""
        floor = self.floors[-1]
        own, is_input = self.orders()
        alone: set[Side] = set()
        found: str | None = None
        for output in self.scope.graph.output:
            value = trace(self.scope, output.name)
            if not isinstance(value, Tensor) or not reads_of(value) & {node.outputs[0] for node in floor}:
                continue
            merge = merged_as(floor, value)
            if merge is None:
                alone |= {value.content} if isinstance(value.content, Side) else set()
                continue
            found = found or merge
            order = turned(value.axes, "TBF")
            if is_input and None not in (own, order) and own != order:
                raise ValueError(_messages.two_layouts(self.owner, output.name, bool(own)))
        return found or (None if len(alone) == 2 else "concat")

    # ---- the second proof -------------------------------------------------------------------------------------------

    def probe(self, floor: Floor, above: OnnxNode, merge: str) -> None:
        """Run what lies between on values of several scales, and refuse what comes out otherwise."""
        between = Between(self.scope, [node.outputs[0] for node in floor], above.inputs["X"])
        for k, (T, B) in enumerate(PROBES):
            outputs, sides, sizes = drawn(self.scope, floor, np.random.default_rng(k), T, B)
            x = between.run(outputs, sizes)
            expected = joined(merge, sides)
            if x is None or not equal(x, expected.swapaxes(0, 1) if above.layout else expected):
                cause = "ONNX's reference gives other values"
                names = [node.name for node in floor]
                raise ValueError(_messages.no_chain(self.owner, above.name, names, cause))


class Between:
    """The nodes that lead from the outputs of some recurrent nodes to a tensor."""

    def __init__(self, scope: Constants, outputs: Sequence[str], tensor: str) -> None:
        self.scope = scope
        self.tensor = tensor
        self.values: dict[str, Array] = {}  # those that are constant
        self.sizes: dict[str, Numbers] = {}
        self.nodes: list[Any] = []  # each after what it reads
        begun: set[int] = set()
        done: set[int] = set()
        rest = [tensor]
        while rest:
            scope.evaluator.step()
            name = rest[-1]
            node = scope.producers.get(name)
            value = known(scope, name)
            if isinstance(value, Numbers):
                self.sizes[name] = value
            if isinstance(value, np.ndarray):
                self.values[name] = value
            if isinstance(value, (Numbers, np.ndarray)) or name in outputs or node is None or id(node) in done:
                rest.pop()
            elif id(node) in begun:
                done.add(id(node))
                self.nodes.append(node)
            else:
                begun.add(id(node))
                rest += [each for each in node.input if each]

    def run(self, outputs: dict[str, Array], sizes: dict[str, int]) -> Any:
        """The tensor, from the outputs Y of the recurrent nodes; None if it does not follow from these alone."""
        values = self.values | outputs
        for name, numbers in self.sizes.items():
            flat = [size.under(sizes) for size in numbers.array.reshape(-1)]
            values[name] = np.array(flat, np.int32 if numbers.dtype == 6 else np.int64).reshape(numbers.array.shape)
        for node in self.nodes:
            if not self.scope.evaluator.takes(node) or any(name and name not in values for name in node.input):
                return None
            values |= self.scope.evaluator(node, values)
        return values.get(self.tensor)


class Sizes(dict[str, int]):
    """Numbers for sizes that only a call knows: 2, where nothing else is said."""

    def __missing__(self, symbol: str) -> int:
        return 2


def drawn(
    scope: Constants, floor: Floor, rng: np.random.Generator, T: int, B: int
) -> tuple[dict[str, Array], list[Array], Sizes]:
    """Outputs Y of the recurrent nodes, each direction of them, (T, B, H), and the sizes that they have."""
    import onnx

    outputs, sides, sizes = {}, [], Sizes()
    for node in floor:
        value = known(scope, node.outputs[0])
        assert isinstance(value, Tensor)
        rows, steps = value.shape[:2] if node.layout else (value.shape[2], value.shape[0])
        for size, number in ((steps, T), (rows, B)):
            if len(size.symbols) == 1:
                sizes[size.symbols[0]] = number
        shape = [size.under(sizes) for size in value.shape]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.dtype) if value.dtype else np.dtype(np.float32)
        Y = (rng.standard_normal(shape) * 10.0 ** rng.integers(-2, 3, shape)).astype(dtype)
        outputs[node.outputs[0]] = Y
        Y = Y.transpose(1, 2, 0, 3) if node.layout else Y
        sides += [Y[:, d] for d in range(Y.shape[1])]
    return outputs, sides, sizes


# ---- what a value has -----------------------------------------------------------------------------------------------


def is_lstm(node: OnnxNode) -> bool:
    part = node._part if isinstance(node._part, Part) else node._part.forward
    return part.kind == "LSTM"


def follows(value: Value) -> bool:
    """Whether a tensor follows from the outputs of recurrent nodes."""
    source = source_of_value(value)
    return bool(reads_of(value)) or (source is not None and source.after)


def reads_of(value: Value) -> set[str]:
    """The recurrent nodes whose outputs Y a tensor has, by their names of Y."""
    if not isinstance(value, Tensor):
        return set()
    sides: set[Side] = set()
    for part in value.parts:
        sides |= {part.content} if isinstance(part.content, Side) else set()
        sides |= part.content.of if isinstance(part.content, Merged) else set()
    return {side.node for side in sides}


def source_of_value(value: Value) -> Source | None:
    """Where the elements arose, if not in recurrent nodes."""
    if isinstance(value, Hidden):
        return value.source
    content = value.content if isinstance(value, Tensor) else None
    return content if isinstance(content, Source) else None


def swapped(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    return (axes[1], axes[0], *axes[2:])


def in_order(axes: Sequence[Axis], letters: str) -> bool:
    """Whether the axes are these atoms, where they have more than one element."""
    return len(axes) == len(letters) and all(
        [atom.letter for atom in axis] in ([], [letter]) for axis, letter in zip(axes, letters, strict=True)
    )


def turned(axes: Sequence[Axis], letters: str) -> bool | None:
    """Whether the first two axes are swapped; None if this cannot be told."""
    first, second = ([atom.letter for atom in axis] for axis in axes[:2])
    if in_order(axes[:2], letters[:2]):
        return False if first or second else None
    return True if in_order(axes[:2], letters[1::-1]) else None


def alike(one: OnnxNode, value: Value, other: OnnxNode, theirs: Value) -> bool:
    """Whether two nodes read the same."""
    if one.inputs["X"] == other.inputs["X"]:
        return one.layout == other.layout
    both = isinstance(value, Tensor) and isinstance(theirs, Tensor) and value.same(theirs)
    return both and one.layout == other.layout


def sides_of(floor: Floor) -> tuple[TracedPart, ...]:
    """The directions of all nodes of a floor."""
    sides = []
    for node in floor:
        own = [node._part] if isinstance(node._part, Part) else node._part[:2]
        width = Size(own[0].directions[0].W_hh.shape[1])
        sides += [TracedPart(Side(node.outputs[0], d), width) for d in range(len(node.layer._plan.ways))]
    return tuple(sides)


def merged_as(floor: Floor, value: Tensor) -> str | None:
    """How a tensor of three axes has the directions of a floor in its last axis; None if in no way of a layer."""
    sides = sides_of(floor)
    if len(value.axes) != 3 or (turned(value.axes, "TB") is None and any(value.axes[:2])):
        return None
    if value.parts == sides and value.axes[2] == features(sides):
        return "concat"
    content = value.content
    if not isinstance(content, Merged) or content.of != {side.content for side in sides}:
        return None
    return content.how if value.axes[2] == features(value.parts) else None


def joined(merge: str, sides: list[Array]) -> Any:
    """Both directions in one, (T, B, width)."""
    if merge == "concat":
        return np.concatenate(sides, -1)
    first, second = sides
    return {"sum": first + second, "mean": (first + second) / 2, "mul": first * second}[merge]


def equal(x: Any, y: Any) -> bool:
    """Within rounding."""
    return np.shape(x) == np.shape(y) and np.allclose(x, y, rtol=1e-5, atol=0)


def as_part(owner: str, floor: Sequence[OnnxNode], merge: str | None) -> Part | Pair:
    """Nodes over one input: one, or one for each direction."""
    if len(floor) == 1:
        (part,) = (node._part for node in floor)
        if isinstance(part, Pair):
            return part._replace(merge=merge)
        if len(part.directions) == 1:
            return part
        return part._replace(options=part.options | {"merge": merge})
    ways = [node.layer._plan.ways for node in floor]
    if len(floor) > 2 or sorted(ways) != [(False,), (True,)]:
        raise ValueError(_messages.several_over_one(owner, [node.name for node in floor]))
    first, second = (node._part for node in floor)
    assert isinstance(first, Part)
    assert isinstance(second, Part)
    if ways[0] == (True,):
        raise ValueError(_messages.several_over_one(owner, [node.name for node in floor]))
    second = second._replace(options={name: value for name, value in second.options.items() if name != "backwards"})
    return Pair(first, second, merge)
