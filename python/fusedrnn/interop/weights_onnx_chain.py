"""ONNX -> fusedrnn: a model's recurrent nodes as one layer, if each reads the outputs of the node below.

What lies between two nodes (squeezed axes, transposes, a merge of directions) is not recognised by its pattern: ONNX's
own reference runs it on random outputs, and what comes out must be those outputs, merged in one of our ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _messages
from .conventions import GATES, Array, Pair, Part, assemble
from .onnx_constants import Constants
from .onnx_nodes import OnnxNode

if TYPE_CHECKING:
    import onnx

MERGES = ("concat", "sum", "mean", "mul")


def read_chain(owner: str, nodes: Sequence[OnnxNode], constants: Constants, dtype: Any) -> Any:
    """All nodes as one layer; see `from_onnx`."""
    floors: dict[str, list[OnnxNode]] = {}  # nodes by what they read, from bottom to top
    for node in nodes:
        refuse_own(owner, constants, node)
        floors.setdefault(node.inputs["X"], []).append(node)
    parts: list[Part | Pair] = []
    names = list(floors)
    for k, floor in enumerate(floors.values()):
        below = [node.outputs[0] for node in floor]
        if k + 1 < len(names):
            between = Between(constants, floor, names[k + 1])
            merge = between.merge() if between.reads == set(below) else None
            if merge is None:
                raise ValueError(_messages.no_chain(owner, floors[names[k + 1]][0].name, [node.name for node in floor]))
        else:
            merge = last_merge(constants, floor)
        parts.append(as_part(owner, floor, merge))
    return assemble(owner, parts, dtype, batch_first=bool(nodes[0].layout))


def refuse_own(owner: str, constants: Constants, node: OnnxNode) -> None:
    """A layer's lengths and initial states come with its call, or are zero."""
    for what, constant in (("sequence_lens", node.lengths), ("initial_h or initial_c", node.state)):
        parts = constant if isinstance(constant, tuple) else (constant,)
        if constant is not None and (what == "sequence_lens" or any(np.any(part) for part in parts)):
            raise ValueError(_messages.own_of_node(owner, node.name, what))
    for what in ("initial_h", "initial_c"):
        if what in node.inputs and not comes_from_caller(constants, node.inputs[what]):
            raise ValueError(_messages.own_of_node(owner, node.name, what))


def comes_from_caller(constants: Constants, tensor: str) -> bool:
    """Whether a tensor's values, not only its shape, come from what the model is fed."""
    producers, fed, looked = constants.producers, constants.fed, set()
    rest = [tensor]
    while rest:
        constants.evaluator.step()
        name = rest.pop()
        if name in fed:
            return True
        if name in looked or name not in producers or producers[name].op_type == "Shape":
            continue
        looked.add(name)
        rest += [i for i in producers[name].input if i]
    return False


class Between:
    """The nodes that lead from the outputs of some recurrent nodes to a tensor."""

    def __init__(self, constants: Constants, floor: Sequence[OnnxNode], tensor: str) -> None:
        self.evaluator = constants.evaluator
        self.floor = floor
        self.tensor = tensor
        self.layout = floor[0].layout
        self.values: dict[str, Array] = {}  # those that are constant
        self.reads: set[str] = set()  # what is neither constant nor made by these nodes
        self.nodes: list[onnx.NodeProto] = []  # each after what it reads
        producers = constants.producers
        begun: set[int] = set()
        done: set[int] = set()
        rest = [tensor]
        while rest:
            self.evaluator.step()
            name = rest[-1]
            node = producers.get(name)
            if name in self.values or name in self.reads or id(node) in done:
                rest.pop()
            elif id(node) in begun:  # in a cycle, too, which no valid graph has
                done.add(id(node))
                self.nodes.append(node)
            elif (value := constants(name)) is not None:
                self.values[name] = value
            elif node is None or node.op_type in GATES:
                self.reads.add(name)
            else:
                begun.add(id(node))
                rest += [each for each in node.input if each]

    def run(self, outputs: Iterable[Array]) -> Any:
        """The tensor, from the outputs Y of the recurrent nodes; None if it is not known how."""
        values = self.values | dict(zip([node.outputs[0] for node in self.floor], outputs, strict=True))
        for node in self.nodes:
            if not self.evaluator.takes(node) or any(name and name not in values for name in node.input):
                return None
            values |= self.evaluator(node, values)
        return values.get(self.tensor)

    def sides(self) -> tuple[list[Array], list[Array]]:
        """Random outputs Y of the recurrent nodes, and of each direction in it, (T, B, H)."""
        rng, outputs, sides = np.random.default_rng(0), [], []
        for node in self.floor:
            own = [node._part] if isinstance(node._part, Part) else node._part[:2]
            D, H = len(node.layer._plan.ways), own[0].directions[0].W_hh.shape[1]
            Y = rng.standard_normal((3, D, 2, H)).astype(node.layer.dtype)  # (T, D, B, H)
            outputs.append(np.ascontiguousarray(Y.transpose(2, 0, 1, 3)) if self.layout else Y)
            sides += [Y[:, d] for d in range(D)]
        return outputs, sides

    def merge(self) -> str | None:
        """How the directions come out as x; None if as nothing that a layer could read."""
        outputs, sides = self.sides()
        x = self.run(outputs)
        if x is not None and self.layout:
            x = x.swapaxes(0, 1) if x.ndim > 1 else None
        return next((merge for merge in MERGES if equal(x, joined(merge, sides))), None)


def last_merge(constants: Constants, floor: Sequence[OnnxNode]) -> str | None:
    """How the model's own outputs have the directions of the last nodes; "concat" if they do not tell."""
    alone = set()
    for output in constants.evaluator.model.graph.output:
        between = Between(constants, floor, output.name)
        if between.reads != {node.outputs[0] for node in floor}:
            if len(between.reads) == 1 and len(floor) == 2:  # one of two nodes, as it is
                alone |= between.reads & {node.outputs[0] for node in floor}
            continue
        outputs, sides = between.sides()
        if len(sides) == 1:
            break
        y = between.run(outputs)
        for turned in (y, y.swapaxes(0, 1)) if np.ndim(y) == 3 else ():
            for merge in MERGES:
                if equal(turned, joined(merge, sides)):
                    return merge
            alone |= {str(k) for k, side in enumerate(sides) if equal(turned, side)}
    return None if len(alone) == 2 else "concat"


def joined(merge: str, sides: list[Array]) -> Any:
    """Both directions in one, (T, B, width); None where they cannot be."""
    if len(sides) == 1:
        return sides[0] if merge == "concat" else None
    first, second = sides
    if merge == "concat":
        return np.concatenate((first, second), -1)
    if first.shape != second.shape:
        return None
    return {"sum": first + second, "mean": (first + second) / 2, "mul": first * second}[merge]


def equal(x: Any, y: Any) -> bool:
    """Within rounding."""
    return y is not None and np.shape(x) == np.shape(y) and np.allclose(x, y, rtol=1e-5, atol=1e-6)


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
