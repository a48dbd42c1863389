"""The nodes of an ONNX graph, with calls of the model's own functions replaced by the nodes of these functions.

A call is not run: its nodes become nodes of the graph around the call, under names of their own. A function that calls
itself, a deep nest of calls, and a small file that stands for very many nodes are a ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from . import _messages

if TYPE_CHECKING:
    import onnx

#: How deep calls may be nested, and how many nodes all calls of a model may stand for.
DEPTH = 64
INLINED = 100_000

Key = tuple[str, str, str]
Attributes = Mapping[str, "onnx.AttributeProto"]


class Budget(Protocol):
    """The model, and how much of it may still be gone through: an `Evaluator` of `onnx_constants`."""

    owner: str
    model: onnx.ModelProto
    functions: dict[Key, onnx.FunctionProto]
    calls: int  # of functions
    inlined: int  # nodes of functions
    earned: dict[int, Any]  # attributes that make the budget grow no more, by identity

    def step(self) -> None: ...

    def spend(self, what: str, elements: float) -> None: ...


@dataclass(eq=False)
class InlinedNode:
    """A node of a function, as a node of the graph that calls the function; read like an onnx.NodeProto."""

    name: str
    op_type: str
    domain: str
    overload: str
    input: Sequence[str]
    output: Sequence[str]
    attribute: Sequence[onnx.AttributeProto]
    opset_import: Sequence[onnx.OperatorSetIdProto]


@dataclass
class Call:
    """Where a call is: the nodes that are left, and what their names and attributes mean outside of the function."""

    nodes: Iterator[Any]
    opset_import: Sequence[onnx.OperatorSetIdProto]
    name: str = ""
    prefix: str = ""
    names: dict[str, str] = field(default_factory=dict)
    attributes: Attributes = field(default_factory=dict)

    def renamed(self, tensor: str) -> str:
        return self.names.get(tensor, self.prefix + tensor) if tensor else ""


def plain_domain(domain: str) -> str:
    """The standard's own domain has two names."""
    return "" if domain == "ai.onnx" else domain


def key_of(node: Any) -> Key:
    """What a call and a function have in common."""
    return plain_domain(node.domain), node.op_type, getattr(node, "overload", "")


def functions_of(owner: str, model: onnx.ModelProto) -> dict[Key, onnx.FunctionProto]:
    """The model's own functions, none of which calls itself, nor is at the end of more than so many calls."""
    functions = {(plain_domain(f.domain), f.name, getattr(f, "overload", "")): f for f in model.functions}
    calls = {key: called(function) & functions.keys() for key, function in functions.items()}
    depths: dict[Key, int] = {}
    for start in functions:
        path = [(start, iter(calls[start]))]
        while path:
            key, rest = path[-1]
            inner = next((k for k in rest if k not in depths), None)
            if inner is None:
                depths[key] = 1 + max((depths[k] for k in calls[key]), default=0)
                path.pop()
            elif len(path) > DEPTH or any(inner == outer for outer, _ in path):
                raise ValueError(_messages.too_deep(owner, inner[1], DEPTH))
            else:
                path.append((inner, iter(calls[inner])))
            if depths.get(key, 0) > DEPTH:
                raise ValueError(_messages.too_deep(owner, key[1], DEPTH))
    return functions


def called(function: onnx.FunctionProto) -> set[Key]:
    """What a function's nodes may call, those of subgraphs, too."""
    keys: set[Key] = set()
    rest = [iter(function.node)]
    while rest:
        node = next(rest[-1], None)
        if node is None:
            rest.pop()
            continue
        keys.add(key_of(node))
        for attribute in node.attribute:
            rest += [iter(g.node) for g in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)]
    return keys


def inlined(evaluator: Budget, nodes: Iterable[Any]) -> list[Any]:
    """These nodes, with the nodes of functions instead of their calls."""
    functions = evaluator.functions
    if not functions:
        return list(nodes)
    result: list[Any] = []
    calls = [Call(iter(nodes), evaluator.model.opset_import)]
    while calls:
        call = calls[-1]
        node = next(call.nodes, None)
        if node is None:
            calls.pop()
            continue
        evaluator.step()
        if len(calls) > 1:
            node = inside(evaluator, node, call)
        function = functions.get(key_of(node))
        if function is None:
            result.append(node)
        else:
            calls.append(begun(evaluator, node, function))
    return result


def begun(evaluator: Budget, node: Any, function: onnx.FunctionProto) -> Call:
    """The call of a function by a node."""
    evaluator.calls += 1
    names = dict.fromkeys(function.input, "")
    names |= dict(zip(function.input, node.input, strict=False))
    names |= {inner: outer for inner, outer in zip(function.output, node.output, strict=False) if outer}
    attributes = {a.name: a for a in function.attribute_proto} | {a.name: a for a in node.attribute}
    name = node.name or next(filter(None, node.output), node.op_type)
    prefix = f"{name}.{evaluator.calls}."
    return Call(iter(function.node), function.opset_import, name, prefix, names, attributes)


def inside(evaluator: Budget, node: Any, call: Call) -> InlinedNode:
    """A function's node under the names of the graph that calls the function."""
    if evaluator.inlined == INLINED:
        what = f"a call of a function, {call.name!r},"
        raise ValueError(_messages.too_large(evaluator.owner, what, "one node more", f"{INLINED} in functions"))
    evaluator.inlined += 1
    return InlinedNode(
        f"{call.name}/{node.name}" if node.name else "",
        node.op_type,
        node.domain,
        getattr(node, "overload", ""),
        [call.renamed(name) for name in node.input],
        [call.renamed(name) for name in node.output],
        list(attributes_inside(evaluator, node.attribute, call)),
        call.opset_import,
    )


def attributes_inside(evaluator: Budget, attributes: Iterable[Any], call: Call) -> Iterator[onnx.AttributeProto]:
    """A node's attributes, with those that the call gives, and with subgraphs that see the call's names."""
    import onnx

    for attribute in attributes:
        meant = call.attributes.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
        if meant is None:  # neither given nor with a default: the node does not have it
            continue
        graphs = meant.HasField("g") or len(meant.graphs)
        if meant is not attribute or graphs:
            evaluator.spend(f"a call of a function, {call.name!r},", meant.ByteSize())
            copy = onnx.AttributeProto()
            copy.CopyFrom(meant)
            copy.name = attribute.name
            evaluator.earned[id(copy)] = copy  # only what the model itself holds makes its budget grow
            meant, given = copy, meant is not attribute
            if graphs and not given:  # a graph that the call gives has the names of the caller already
                for graph in (*([copy.g] if copy.HasField("g") else []), *copy.graphs):
                    rename(evaluator, graph, call)
        yield meant


def rename(evaluator: Budget, graph: onnx.GraphProto, call: Call) -> None:
    """A subgraph of a function's node under the names of the graph that calls the function, in place."""
    new: Callable[[str], str] = call.renamed
    for named in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        named.name = new(named.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = new(sparse.values.name)
    for node in graph.node:
        evaluator.step()
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        attributes = list(attributes_inside(evaluator, node.attribute, call))
        del node.attribute[:]
        node.attribute.extend(attributes)
