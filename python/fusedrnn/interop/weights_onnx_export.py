"""fusedrnn -> ONNX: a model with one RNN, GRU or LSTM node for each layer. The conventions are in `weights_onnx`.

`Graph` collects a model's nodes, and puts those of groups together; `LayerNodes` makes those of one layer object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..bidirectional import Bidirectional
from ..stack import Stack
from . import _messages
from .conventions import GATES, Array, Direction, directions_of, refuse_others, reorder
from .packages import needs
from .weights_onnx import ACTIVATION_OPTIONS, ACTIVATIONS, ONNX_GATES, ONNX_PEEPHOLES

if TYPE_CHECKING:
    import onnx

#: Operator set of the models: the first in which all reductions take their axes as an input.
OPSET = 18
IR_VERSION = 9

#: Options that the operators have, too; and kinds of dropout, which do nothing outside training.
KNOWN = (
    "num_layers",
    "nonlinearity",
    "bias",
    "batch_first",
    "dropout",
    "recurrent_dropout",
    "weight_dropout",
    "bidirectional",
    "merge",
    "dtype",
    "reset_after",
    "activation",
    "recurrent_activation",
    "output_activation",
    "clip",
    "backwards",
    "coupled",
    "learned_state",
)

#: Our activations with their default numbers -> ONNX's with alpha and beta, where the names alone do not say it.
OTHERWISE_NAMED: dict[Any, tuple[str, tuple[float, ...]]] = {
    "linear": ("Affine", (1.0, 0.0)),
    "hard_sigmoid": ("HardSigmoid", (1 / 6, 0.5)),
}

#: Our name of an activation -> ONNX's.
ONNX_NAMES = {
    "relu": "Relu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "softsign": "Softsign",
    "softplus": "Softplus",
    "affine": "Affine",
    "leaky_relu": "LeakyRelu",
    "thresholded_relu": "ThresholdedRelu",
    "scaled_tanh": "ScaledTanh",
    "hard_sigmoid": "HardSigmoid",
    "elu": "Elu",
}


def to_onnx(layer: Any, *, lengths: bool = False, state: bool = False, name: str = "fusedrnn") -> onnx.ModelProto:
    """Convert a layer to an equivalent ONNX model; onnxruntime can run it (only in float32, for which it has kernels).

    Parameters
    ----------
    layer : RNN, GRU, LSTM, Stack or Bidirectional
        With options that the operators have.
    lengths : bool
        Whether the model has an input ``lengths``, int32 (B,).
    state : bool
        Whether the model has inputs ``h_0`` and, of an LSTM, ``c_0``, (L*D, B, H); else they are zeros, or learned. In
        a group they have their member's prefix, as parameters have: ``"0.h_0"``.
    name : str
        Of the graph.

    Returns
    -------
    onnx.ModelProto
        Input ``x``, (T, B, I) or with ``batch_first`` (B, T, I); outputs ``y``, ``h_n`` and, of an LSTM, ``c_n``, in
        the layer's shapes; with ``merge=None`` ``y`` and ``y_reverse``; of groups ``"0.h_n"`` and so on.

    Raises
    ------
    TypeError
        `layer` is not a layer.
    ValueError
        The layer has an option that the operators do not have.
    """
    onnx = needs("to_onnx", "onnx")
    if type(layer).__name__ not in (*GATES, "Stack", "Bidirectional"):
        raise TypeError(_messages.wrong_source("to_onnx", layer, "RNN, GRU, LSTM, Stack or Bidirectional"))
    return Graph(layer, lengths, state).model(onnx, name)


class Graph:
    """Collects nodes and initializers of one model, and what goes in and out."""

    def __init__(self, layer: Any, lengths: bool, state: bool) -> None:
        self.layer = layer
        self.lengths = lengths
        self.state = state
        self.nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
        self.tensors: dict[str, Array] = {}
        self.inputs: list[tuple[str, list[Any]]] = []  # names and shapes
        self.results: list[tuple[str, list[Any]]] = []

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """One node of one output."""
        self.nodes.append((op, inputs, [output], attributes))
        return output

    def tensor(self, name: str, value: Any) -> str:
        """A constant."""
        self.tensors[name] = np.asarray(value, order="C")
        return name

    def integers(self, *values: int) -> str:
        """A constant vector of integers, such as axes."""
        return self.tensor("_".join(["integers", *map(str, values)]).replace("-", "minus"), np.array(values, np.int64))

    def model(self, onnx: Any, name: str) -> onnx.ModelProto:
        """The whole model."""
        layer, dtype = self.layer, onnx.helper.np_dtype_to_tensor_dtype(self.layer.dtype)
        time = ["batch", "time"] if layer.batch_first else ["time", "batch"]
        x = self.node("Transpose", ["x"], "x_time_first", perm=[1, 0, 2]) if layer.batch_first else "x"
        ys = self.add(layer, x, "")
        outputs: list[tuple[str, list[Any]]] = []
        for y, output, width in zip(ys, ("y", "y_reverse"), layer._plan.widths, strict=False):
            op, attributes = ("Transpose", {"perm": [1, 0, 2]}) if layer.batch_first else ("Identity", {})
            outputs.append((self.node(op, [y], output, **attributes), [*time, width]))

        def infos(named: list[tuple[str, list[Any]]]) -> list[Any]:
            return [onnx.helper.make_tensor_value_info(tensor, dtype, shape) for tensor, shape in named]

        inputs = infos([("x", [*time, layer.input_size])])
        if self.lengths:
            inputs.append(onnx.helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, ["batch"]))
        inputs += infos(self.inputs)
        nodes = [onnx.helper.make_node(op, i, o, name=f"{op}_{n}", **a) for n, (op, i, o, a) in enumerate(self.nodes)]
        tensors = [onnx.numpy_helper.from_array(value, key) for key, value in self.tensors.items()]
        graph = onnx.helper.make_graph(nodes, name, inputs, infos([*outputs, *self.results]), tensors)
        opset = [onnx.helper.make_opsetid("", OPSET)]
        model: onnx.ModelProto = onnx.helper.make_model(
            graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="fusedrnn"
        )
        onnx.checker.check_model(model)
        return model

    def add(self, layer: Any, x: str, prefix: str) -> list[str]:
        """The nodes of a layer or a group over x (T, B, I); its outputs, (T, B, width): two of ``merge=None``."""
        if isinstance(layer, Stack):
            for name, member in layer._members.items():
                ys = self.add(member, x, f"{prefix}{name}.")
                x = ys[0]
            return ys
        if isinstance(layer, Bidirectional):
            ys = [self.add(member, x, f"{prefix}{name}.")[0] for name, member in layer._directed().items()]
            if layer.merge is None:
                return ys
            op = {"concat": "Concat", "sum": "Add", "mean": "Mean", "mul": "Mul"}[layer.merge]
            axis = {"axis": 2} if op == "Concat" else {}
            return [self.node(op, ys, f"{prefix}joined", **axis)]
        if type(layer).__name__ not in GATES:
            raise TypeError(_messages.wrong_source("to_onnx", layer, "RNN, GRU, LSTM, Stack or Bidirectional"))
        return LayerNodes(self, layer, prefix).add(x)


class LayerNodes:
    """The nodes of one layer object; all names that it makes have its prefix."""

    def __init__(self, graph: Graph, layer: Any, prefix: str) -> None:
        self.graph = graph
        self.layer = layer
        self.prefix = prefix
        self.kind = type(layer).__name__
        self.D = 1 + layer.bidirectional
        peephole = getattr(layer, "peephole", None)
        known = (*KNOWN, "peephole") if peephole in (None, "ifo") else KNOWN
        refuse_others("to_onnx", layer, known, f", as ONNX's {self.kind} has nothing else")

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """One node of one output."""
        return self.graph.node(op, inputs, self.prefix + output, **attributes)

    def tensor(self, name: str, value: Any) -> str:
        """A constant."""
        return self.graph.tensor(self.prefix + name, value)

    def integers(self, *values: int) -> str:
        """A constant vector of integers, such as axes; all layers share them."""
        return self.graph.integers(*values)

    def add(self, x: str) -> list[str]:
        """All nodes over x; the outputs."""
        layer, graph, prefix = self.layer, self.graph, self.prefix
        parts = ("h", "c") if self.kind == "LSTM" else ("h",)
        shape = [layer.num_layers * self.D, "batch", layer.hidden_size]
        if graph.state:
            graph.inputs += [(f"{prefix}{part}_0", shape) for part in parts]
        final: dict[str, list[str]] = {part: [] for part in parts}
        for k, directions in enumerate(directions_of(layer.state_dict(), layer.num_layers, layer.bidirectional)):
            outputs = [f"{prefix}Y_{k}", *(f"{prefix}{part}_n_{k}" for part in parts)]
            graph.nodes.append((self.kind, self.inputs_of(k, x, directions, parts), outputs, self.attributes()))
            for part, output in zip(parts, outputs[1:], strict=True):
                final[part].append(output)
            last = k + 1 == layer.num_layers
            ys = self.merged(outputs[0], layer.merge if last else layer.merge or "concat", k)
            x = ys[0]
        graph.results += [(self.node("Concat", final[part], f"{part}_n", axis=0), shape) for part in parts]
        return ys

    def inputs_of(self, k: int, x: str, directions: list[Direction], parts: tuple[str, ...]) -> list[str]:
        """Names of X, W, R, B, sequence_lens, initial_h, initial_c and P of layer k; the weights become tensors."""
        ours, theirs = GATES[self.kind], ONNX_GATES[self.kind]
        if getattr(self.layer, "coupled", False):
            ours = ours.replace("f", "")
        names = [x]
        names.append(self.tensor(f"W_{k}", [with_all_gates(d.W_ih, ours, theirs) for d in directions]))
        names.append(self.tensor(f"R_{k}", [with_all_gates(d.W_hh, ours, theirs) for d in directions]))
        if directions[0].b_ih is None:
            names.append("")
        else:
            pairs = [(d.b_ih, np.zeros_like(d.b_ih) if d.b_hh is None else d.b_hh) for d in directions]
            both = [[with_all_gates(np.asarray(b), ours, theirs) for b in pair] for pair in pairs]
            names.append(self.tensor(f"B_{k}", np.reshape(both, (self.D, -1))))
        names.append("lengths" if self.graph.lengths else "")
        for part, field in zip(parts, ("h_0", "c_0"), strict=False):
            names.append(self.initial(k, part, [getattr(d, field) for d in directions], x))
        if directions[0].peephole is not None:
            names += [""] * (len(parts) == 1)
            seen = "io" if getattr(self.layer, "coupled", False) else "ifo"
            rows = [d.peephole for d in directions if d.peephole is not None]
            P = [with_all_gates(row, seen, ONNX_PEEPHOLES).reshape(-1) for row in rows]
            names.append(self.tensor(f"P_{k}", P))
        while not names[-1]:
            names.pop()
        return names

    def initial(self, k: int, part: str, learned: list[Array | None], x: str) -> str:
        """Layer k's rows of the input, or the learned state for each row of the batch, or nothing: zeros."""
        if self.graph.state:
            ends = [self.integers(k * self.D), self.integers((k + 1) * self.D)]
            return self.node("Slice", [f"{self.prefix}{part}_0", *ends, self.integers(0)], f"{part}_0_{k}")
        if learned[0] is None:
            return ""
        vectors = self.tensor(f"{part}_0_{k}_learned", np.stack([v for v in learned if v is not None])[:, None])
        batch = f"batch_{k}_{part}"
        rows = self.node("Shape", [x], batch, start=1, end=2)
        shape = self.node("Concat", [self.integers(1), rows, self.integers(1)], f"{batch}_shape", axis=0)
        return self.node("Expand", [vectors, shape], f"{part}_0_{k}")

    def merged(self, Y: str, merge: str | None, k: int) -> list[str]:
        """Y (T, D, B, H) as what the next layer, or the caller, gets."""
        if self.D == 1:
            return [self.node("Squeeze", [Y, self.integers(1)], f"y_{k}")]
        if merge == "concat":
            turned = self.node("Transpose", [Y], f"Y_{k}_turned", perm=[0, 2, 1, 3])
            return [self.node("Reshape", [turned, self.integers(0, 0, -1)], f"y_{k}")]
        if merge is None:
            return [
                self.node("Gather", [Y, self.tensor(f"direction_{d}", np.array(d, np.int64))], f"y_{k}_{d}", axis=1)
                for d in range(2)
            ]
        op = {"sum": "ReduceSum", "mean": "ReduceMean", "mul": "ReduceProd"}[merge]
        return [self.node(op, [Y, self.integers(1)], f"y_{k}", keepdims=0)]

    def attributes(self) -> dict[str, Any]:
        """The operator's attributes; those at their defaults are left out."""
        layer = self.layer
        direction = "bidirectional" if self.D == 2 else "reverse" if layer._plan.ways[0] else "forward"
        attributes: dict[str, Any] = {"hidden_size": layer.hidden_size, "direction": direction}
        if self.kind == "GRU":
            attributes["linear_before_reset"] = int(layer.reset_after)
        if getattr(layer, "coupled", False):
            attributes["input_forget"] = 1
        if getattr(layer, "clip", None) is not None:
            attributes["clip"] = float(layer.clip)
        chosen = activations_of(layer, self.kind)
        if chosen != [default for _, default in ACTIVATION_OPTIONS[self.kind]]:
            pairs = [onnx_activation(value) for value in chosen] * self.D
            attributes["activations"] = [name for name, _ in pairs]
            alphas = [numbers[0] for _, numbers in pairs if numbers]
            betas = [numbers[1] for _, numbers in pairs if len(numbers) > 1]
            if alphas:
                attributes["activation_alpha"] = alphas
            if betas:
                attributes["activation_beta"] = betas
        return attributes


def activations_of(layer: Any, kind: str) -> list[Any]:
    """The layer's activations in the operator's order, f, g, h."""
    state = getattr(layer, "activation", None)
    if state is None:
        state = getattr(layer, "nonlinearity", "tanh")
    values = {
        "recurrent_activation": getattr(layer, "recurrent_activation", "sigmoid"),
        "activation": state,
        "output_activation": getattr(layer, "output_activation", None) or state,
    }
    return [values[option] for option, _ in ACTIVATION_OPTIONS[kind]]


def onnx_activation(value: Any) -> tuple[str, tuple[float, ...]]:
    """ONNX's name of an activation with its alpha and beta."""
    name, *numbers = (value,) if isinstance(value, str) else value
    if not numbers and name in OTHERWISE_NAMED:
        return OTHERWISE_NAMED[name]
    if name not in ONNX_NAMES:
        raise ValueError(
            _messages.attribute("to_onnx", "an activation", value, f"one of {_messages.listed(ONNX_NAMES)}")
        )
    defaults = ACTIVATIONS[ONNX_NAMES[name].lower()][1]
    rest = defaults[len(numbers) :]
    return ONNX_NAMES[name], (*map(float, numbers), *(1.0 if number is None else number for number in rest))


def with_all_gates(rows: Array, ours: str, theirs: str) -> Array:
    """Blocks in ONNX's order, with zeros for a gate that the layer does not have."""
    missing = [gate for gate in theirs if gate not in ours]
    H = len(rows) // len(ours)
    zeros = np.zeros((H * len(missing), *rows.shape[1:]), rows.dtype)
    return reorder(np.concatenate([rows, zeros]), ours + "".join(missing), theirs)
