"""`from_onnx(chain=True)` on generated graphs: every graph that is accepted equals onnxruntime; traps are refused.

A graph is one to three recurrent nodes and what lies around them, drawn from spellings of the same function, and in
half of the graphs a trap: a node that changes values, order or number of elements, or states and lengths that a stack
of layers cannot have.
"""

from typing import Any

import numpy as np
import pytest

from fusedrnn import Stack, interop
from tolerances import assert_close

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[conformance]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install '.[conformance]'")

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FLOAT, INT32, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64


class Drawn:
    """One graph: nodes, constants, what it is fed, and how the layer is called."""

    def __init__(self, k: int, trap: str | None) -> None:
        self.rng = rng = np.random.default_rng([2024, k])
        self.trap = trap
        self.nodes: list[Any] = []
        self.tensors: dict[str, Any] = {}
        self.feeds: dict[str, Any] = {}
        self.shapes: dict[str, list[Any]] = {}
        self.names = 0
        self.kind = list(GATES)[k % 3]
        self.layers = 2 + k % 2 if trap in BETWEEN or trap in HANDED else 1 + int(rng.integers(3))
        self.D = 2 if trap in TWO_WAYS else 1 if trap in ONE_WAY else 1 + int(rng.integers(2))
        self.T, self.B, self.I, self.H = (
            int(n) for n in (rng.integers(4, 8), rng.integers(2, 5), 3, rng.integers(2, 6))
        )
        self.merge = "concat"
        if trap in SQUARE:
            self.B = self.layers * self.D if trap == "states turned" else self.T
        self.fixed = trap in FIXED or (trap not in OPEN and bool(rng.integers(2)))
        self.batch_first = bool(rng.integers(2)) if trap not in HANDED else False
        self.state: Any = None
        self.lengths: Any = None

    # ---- building --------------------------------------------------------------------------------------------------

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Its outputs' names; of one output the name."""
        self.names += 1
        made = [f"t{self.names}_{n}" for n in range(outputs)]
        self.nodes.append(onnx.helper.make_node(op, list(inputs), made, **attributes))
        return made[0] if outputs == 1 else made

    def ints(self, *values: int) -> str:
        return self.tensor(np.array(values, np.int64))

    def tensor(self, value: Any) -> str:
        """A constant: an initializer, or a node Constant."""
        if self.rng.random() < 0.3:
            return self.node("Constant", value=onnx.numpy_helper.from_array(np.asarray(value)))
        self.names += 1
        self.tensors[f"k{self.names}"] = np.asarray(value)
        return f"k{self.names}"

    def normal(self, *shape: int) -> Any:
        return self.rng.standard_normal(shape).astype(np.float32)

    def fed(self, name: str, value: Any, axes: list[Any]) -> str:
        self.feeds[name] = value
        self.shapes[name] = list(value.shape) if self.fixed else axes
        return name

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def size(self, tensor: str, axis: int) -> str:
        """One size of a tensor, as a vector."""
        return self.pick(
            lambda: self.node("Gather", self.node("Shape", tensor), self.ints(axis)),
            lambda: self.node("Shape", tensor, start=axis, end=axis + 1),
            lambda: self.node("Slice", self.node("Shape", tensor), self.ints(axis), self.ints(axis + 1)),
            lambda: self.node(
                "Unsqueeze", self.node("Gather", self.node("Shape", tensor), self.tensor(np.int64(axis))), self.ints(0)
            ),
        )()

    def shaped(self, *parts: str) -> str:
        return self.node("Concat", *parts, axis=0)

    def model(self) -> Any:
        T, B, I, D, H = self.T, self.B, self.I, self.D, self.H
        x = 3 * (self.normal(B, T, I) if self.batch_first else self.normal(T, B, I))
        name = self.fed("x", x, ["b", "t", I] if self.batch_first else ["t", "b", I])
        if self.batch_first:
            name = self.node("Transpose", name, perm=[1, 0, 2])
        self.first, width = name, I
        initial = self.states()
        lens = self.all_lengths()
        direction = "bidirectional" if D == 2 else "forward"
        finals = None
        for k in range(self.layers):
            W, R, b = (self.normal(D, GATES[self.kind] * H, n) * 0.6 for n in (width, H, 2))
            inputs = [
                name,
                self.tensor(W),
                self.tensor(R),
                self.tensor(b.reshape(D, -1)[:, : 2 * GATES[self.kind] * H]),
            ]
            parts = initial[k]
            if self.trap == "states handed on" and finals:
                parts = finals
            options = {"activations": ["Relu"] * D} if self.kind == "RNN" and self.trap in BETWEEN else {}
            if self.kind == "GRU":
                options["linear_before_reset"] = 1
            Y, *finals = self.node(
                self.kind, *inputs, lens[k], *parts, outputs=2 + (self.kind == "LSTM"),
                hidden_size=H, direction=direction, **options,
            )  # fmt: skip
            last = k + 1 == self.layers
            if self.trap in BETWEEN and k == self.layers - 2:
                name = BETWEEN[self.trap](self, Y, name)
            else:
                name = self.merged(Y, last)
            below = width
            width = H if self.merge != "concat" else D * H
            if self.trap in BETWEEN and k == self.layers - 2:
                width = WIDTHS.get(self.trap, lambda d, _: d.D * d.H)(self, below)
        if self.batch_first:
            name = self.node("Transpose", name, perm=[1, 0, 2])
        make = onnx.helper.make_tensor_value_info
        kinds = {np.dtype(np.int32): INT32, np.dtype(np.int64): INT64}
        infos = [make(n, kinds.get(v.dtype, FLOAT), self.shapes[n]) for n, v in self.feeds.items()]
        made = [onnx.numpy_helper.from_array(value, n) for n, value in self.tensors.items()]
        graph = onnx.helper.make_graph(self.nodes, "drawn", infos, [make(name, FLOAT, None)], made)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)

    # ---- spellings of the same function ----------------------------------------------------------------------------

    def merged(self, Y: str, last: bool) -> str:
        """Y (T, D, B, H) as the next node reads it."""
        self.merge = "concat"
        if self.D == 1:
            return self.around(self.pick(*ONE_DIRECTION)(self, Y))
        choices = [*TWO_DIRECTIONS]
        if last:
            choices += [*MERGED]
        chosen = self.pick(*choices)
        self.merge = "concat" if chosen in TWO_DIRECTIONS else "other"
        return self.around(chosen(self, Y))

    def around(self, y: str) -> str:
        """What moves nothing."""
        return self.pick(
            lambda: y,
            lambda: y,
            lambda: self.node("Identity", y),
            lambda: self.node("Cast", y, to=FLOAT),
            lambda: self.node("Dropout", y),
            lambda: self.node("Squeeze", self.node("Unsqueeze", y, self.ints(-1)), self.ints(3)),
            lambda: self.node("Transpose", self.node("Transpose", y, perm=[2, 0, 1]), perm=[1, 2, 0]),
            lambda: self.node("Slice", y, self.ints(0), self.ints(2**63 - 1), self.ints(0)),
            lambda: self.node("Slice", y, self.ints(0), self.size(y, 1), self.ints(1)),
            lambda: self.node("Reshape", y, self.node("Shape", y)),
        )()

    def target(self, y: str, width: int) -> str:
        """The shape (T, B, width), spelled in one of many ways."""
        computed = [
            lambda: self.ints(0, 0, -1),
            lambda: self.ints(0, 0, width),
            lambda: self.shaped(self.size(y, 0), self.size(y, 1 if self.swapped else 2), self.ints(width)),
            lambda: self.shaped(self.size(self.first, 0), self.size(self.first, 1), self.ints(-1)),
        ]
        given = [lambda: self.ints(self.T, self.B, width), lambda: self.ints(-1, self.B, width)]
        return self.pick(*computed[0 if self.swapped else 2 :], *(given if self.fixed else []))()

    swapped = False  # whether Y was transposed to (T, B, D, H)

    def reshaped(self, Y: str) -> str:
        self.swapped = True
        turned = self.node("Transpose", Y, perm=[0, 2, 1, 3])
        y = self.node("Reshape", turned, self.target(turned, self.D * self.H))
        self.swapped = False
        return y

    def sides(self, Y: str) -> list[str]:
        """Each direction of Y, (T, B, H)."""
        one = self.ints(1)
        return self.pick(
            lambda: [self.node("Gather", Y, self.tensor(np.int64(d)), axis=1) for d in (0, -1)],
            lambda: [self.node("Squeeze", y, one) for y in self.node("Split", Y, outputs=2, axis=1, num_outputs=2)],
            lambda: [
                self.node("Squeeze", self.node("Slice", Y, self.ints(d), self.ints(d + 1), one), one) for d in (0, 1)
            ],
        )()

    # ---- states and lengths ----------------------------------------------------------------------------------------

    def states(self) -> list[list[str]]:
        """The initial state of each node: (h,) or (h, c), or nothing."""
        n = 1 + (self.kind == "LSTM")
        if self.trap in STATES:
            return STATES[self.trap](self, n)
        how = self.pick("none", "none", "zeros", "rows", "rows", "own")
        if how == "none" or self.trap == "states handed on" or self.trap in BETWEEN:
            return [[] for _ in range(self.layers)]
        if how == "zeros":
            return [[self.zeros() for _ in range(n)] for _ in range(self.layers)]
        values = self.whole(n)
        if how == "own":
            parts = [[v[k * self.D : (k + 1) * self.D] for v in values] for k in range(self.layers)]
            axes = [self.D, "b", self.H]
            return [
                [self.fed(f"{p}{k}", v, axes) for p, v in zip("hc", part, strict=False)] for k, part in enumerate(parts)
            ]
        return self.rows([self.fed(p, v, [len(v), "b", self.H]) for p, v in zip("hc", values, strict=False)])

    def whole(self, n: int) -> list[Any]:
        values = [self.normal(self.layers * self.D, self.B, self.H) for _ in range(n)]
        self.state = tuple(values) if n == 2 else values[0]
        return values

    def rows(self, names: list[str], order: Any = None) -> list[list[str]]:
        """Each node's rows of the whole states."""
        D = self.D
        order = range(self.layers) if order is None else order
        zero = self.ints(0)
        if self.rng.random() < 0.3 and list(order) == list(range(self.layers)) and self.layers > 1:
            split = self.ints(*[D] * self.layers)
            each = [self.node("Split", name, split, outputs=self.layers, axis=0) for name in names]
            return [[part[k] for part in each] for k in range(self.layers)]
        return [
            [self.node("Slice", name, self.ints(k * D), self.ints((k + 1) * D), zero) for name in names] for k in order
        ]

    def zeros(self, width: int | None = None) -> str:
        H = width or self.H
        shape = self.shaped(self.ints(self.D), self.size(self.first, 1), self.ints(H))
        choices = [
            lambda: self.node("ConstantOfShape", shape),
            lambda: self.node("Expand", self.tensor(np.float32(0)), shape),
            lambda: self.node("Expand", self.tensor(np.zeros((1, 1, H), np.float32)), shape),
            lambda: self.node(
                "Slice",
                self.node("ConstantOfShape", self.shaped(self.ints(7), self.size(self.first, 1), self.ints(H))),
                self.ints(2),
                self.ints(2 + self.D),
                self.ints(0),
            ),
        ]
        if self.fixed:
            choices.append(lambda: self.tensor(np.zeros((self.D, self.B, H), np.float32)))
        return self.pick(*choices)()

    def all_lengths(self) -> list[str]:
        lens = self.rng.integers(1, self.T + 1, self.B).astype(np.int32)
        lens[0] = self.T
        if self.trap in LENGTHS:
            self.lengths = lens
            return LENGTHS[self.trap](self, self.fed("lengths", lens, ["b"]))
        if self.trap not in BETWEEN and self.rng.random() < 0.25:
            self.lengths = lens
            wide = self.rng.random() < 0.3
            name = self.fed("lengths", lens.astype(np.int64) if wide else lens, ["b"])
            return [self.node("Cast", name, to=INT32) if wide else name for _ in range(self.layers)]
        return [""] * self.layers


def mean(d: Drawn, Y: str) -> str:
    first, second = d.sides(Y)
    total = d.node("Add", first, second)
    if d.rng.random() < 0.5:
        return d.node("Mul", total, d.tensor(np.float32(0.5)))
    return d.node("Div", total, d.tensor(np.array([2], np.float32)))


ONE_DIRECTION = [
    lambda d, Y: d.node("Squeeze", Y, d.ints(1)),
    lambda d, Y: d.node("Gather", Y, d.tensor(np.int64(0)), axis=1),
    lambda d, Y: d.reshaped(Y),
    lambda d, Y: d.node("Reshape", Y, d.target(Y, d.H)),
    lambda d, Y: d.node("ReduceSum", Y, d.ints(1), keepdims=0),
]
TWO_DIRECTIONS = [
    lambda d, Y: d.reshaped(Y),
    lambda d, Y: d.reshaped(Y),
    lambda d, Y: d.node("Concat", *d.sides(Y), axis=2),
    lambda d, Y: d.node("Concat", *d.sides(Y), axis=-1),
]
MERGED = [
    lambda d, Y: d.node("ReduceSum", Y, d.ints(1), keepdims=0),
    lambda d, Y: d.node("ReduceMean", Y, d.ints(-3), keepdims=0),
    lambda d, Y: d.node("ReduceProd", Y, d.ints(1), keepdims=0),
    lambda d, Y: d.node("Add", *d.sides(Y)),
    lambda d, Y: d.node("Mul", *d.sides(Y)),
    lambda d, Y: d.node("Mean", *d.sides(Y)),
    mean,
]


# ---- traps ----------------------------------------------------------------------------------------------------------


def plain(d: Drawn, Y: str) -> str:
    """Y as the next node would read it."""
    return d.reshaped(Y)


def cut(start: int, stop: int, axis: int, step: int = 1) -> Any:
    return lambda d, Y, x: d.node("Slice", plain(d, Y), d.ints(start), d.ints(stop), d.ints(axis), d.ints(step))


def applied(op: str, **attributes: Any) -> Any:
    return lambda d, Y, x: d.node(op, plain(d, Y), **attributes)


def scaled(op: str, value: Any) -> Any:
    return lambda d, Y, x: d.node(op, plain(d, Y), d.tensor(np.float32(value)))


def clipped(bound: float) -> Any:
    return lambda d, Y, x: d.node("Clip", plain(d, Y), *(d.tensor(np.float32(n)) for n in (-bound, bound)))


def through_half(d: Drawn, Y: str, x: str) -> str:
    return d.node("Cast", d.node("Cast", plain(d, Y), to=onnx.TensorProto.FLOAT16), to=FLOAT)


def mixed(d: Drawn, Y: str, x: str) -> str:
    """Rows and steps in each other's place, and then called (T, B, width)."""
    turned = d.node("Transpose", plain(d, Y), perm=[1, 0, 2])
    return d.node("Reshape", turned, d.ints(d.T, d.B, -1))


BETWEEN: dict[str, Any] = {
    "first steps": cut(0, 3, 0),
    "all steps but the first": cut(1, 2**31 - 1, 0),
    "steps up to a far one": cut(0, 1000, 0),
    "last steps": cut(-2, 2**31 - 1, 0),
    "steps reversed": cut(-1, -(2**31), 0, -1),
    "every second step": cut(0, 2**31 - 1, 0, 2),
    "features reversed": cut(-1, -(2**31), 2, -1),
    "clipped": lambda d, Y, x: d.node("Clip", plain(d, Y), d.tensor(np.float32(-5)), d.tensor(np.float32(5))),
    "clipped far away": lambda d, Y, x: d.node(
        "Clip", plain(d, Y), d.tensor(np.float32(-1e4)), d.tensor(np.float32(1e4))
    ),
    "relu": applied("Relu"),
    "negated": applied("Neg"),
    "tanh": applied("Tanh"),
    "doubled": scaled("Mul", 2),
    "shifted": scaled("Add", 1e-4),
    "divided": scaled("Div", 3),
    "half precision": through_half,
    "added to itself": lambda d, Y, x: d.node("Add", *[plain(d, Y)] * 2),
    "softmax": applied("Softmax", axis=-1),
    "normalized": lambda d, Y, x: d.node(
        "LayerNormalization", plain(d, Y), d.tensor(np.ones(d.D * d.H, np.float32)), axis=-1
    ),
    "rows and steps mixed": mixed,
    "rows and steps swapped": lambda d, Y, x: d.node("Transpose", plain(d, Y), perm=[1, 0, 2]),
    "rows and steps swapped, square": lambda d, Y, x: d.node("Transpose", plain(d, Y), perm=[1, 0, 2]),
    "features permuted": lambda d, Y, x: d.node("Gather", plain(d, Y), d.ints(*range(d.D * d.H)[::-1]), axis=2),
    "Y reshaped without turning": lambda d, Y, x: d.node("Reshape", Y, d.ints(0, -1, d.D * d.H)),
    "residual": lambda d, Y, x: d.node("Concat", plain(d, Y), x, axis=2),
    "directions exchanged": lambda d, Y, x: d.node("Concat", *d.sides(Y)[::-1], axis=2),
    "one direction": lambda d, Y, x: d.sides(Y)[int(d.rng.integers(2))],
    "one direction twice": lambda d, Y, x: d.node("Concat", *[d.sides(Y)[0]] * 2, axis=2),
    "a quarter of the sum": lambda d, Y, x: d.node("Mul", d.node("Add", *d.sides(Y)), d.tensor(np.float32(0.25))),
    "difference": lambda d, Y, x: d.node("Sub", *d.sides(Y)),
    "largest": lambda d, Y, x: d.node("Max", *d.sides(Y)),
    "features interleaved": lambda d, Y, x: d.node(
        "Reshape", d.node("Transpose", Y, perm=[0, 2, 3, 1]), d.ints(0, 0, d.D * d.H)
    ),
}
TWO_WAYS = {
    "directions exchanged", "one direction", "one direction twice", "a quarter of the sum", "difference", "largest",
    "features interleaved", "Y reshaped without turning",
}  # fmt: skip
ONE_WAY: set[str] = set()
#: What the next node reads, where this is not the width of both directions.
WIDTHS: dict[str, Any] = {
    "residual": lambda d, below: d.D * d.H + below,
    **dict.fromkeys(["one direction", "a quarter of the sum", "difference", "largest"], lambda d, below: d.H),
}


def computed_state(make: Any) -> Any:
    """All nodes start from what is made of their rows of an input."""

    def states(d: Drawn, n: int) -> list[list[str]]:
        names = [d.fed(p, v, [len(v), "b", d.H]) for p, v in zip("hc", d.whole(n), strict=False)]
        return [[make(d, part) for part in parts] for parts in d.rows(names)]

    return states


def of_x(d: Drawn, n: int) -> list[list[str]]:
    means = d.node("MatMul", d.node("ReduceMean", d.first, d.ints(0)), d.tensor(d.normal(d.I, d.H)))
    one = d.node("Expand", means, d.shaped(d.ints(d.D), d.size(d.first, 1), d.ints(d.H)))
    return [[one] * n] * d.layers


def of_one_node(d: Drawn, n: int) -> list[list[str]]:
    axes = [d.D, "b", d.H]
    names = [d.fed(p, d.normal(d.D, d.B, d.H), axes) for p in "hc"[:n]]
    full = [np.concatenate([d.feeds[p], np.zeros((d.D * (d.layers - 1), d.B, d.H), "f")]) for p in names]
    d.state = tuple(full) if n == 2 else full[0]
    return [names, *[[]] * (d.layers - 1)]


def shared(d: Drawn, n: int) -> list[list[str]]:
    names = [d.fed(p, d.normal(d.D, d.B, d.H), [d.D, "b", d.H]) for p in "hc"[:n]]
    full = [np.concatenate([d.feeds[p]] * d.layers) for p in names]
    d.state = tuple(full) if n == 2 else full[0]
    return [names] * d.layers


def other_order(d: Drawn, n: int) -> list[list[str]]:
    names = [d.fed(p, v, [len(v), "b", d.H]) for p, v in zip("hc", d.whole(n), strict=False)]
    return d.rows(names, range(d.layers)[::-1])


def turned_states(d: Drawn, n: int) -> list[list[str]]:
    """Rows of the batch and of layers in each other's place: both are as many."""
    names = [d.fed(p, v, [len(v), d.B, d.H]) for p, v in zip("hc", d.whole(n), strict=False)]
    return d.rows([d.node("Transpose", name, perm=[1, 0, 2]) for name in names], [*range(d.layers)])


STATES: dict[str, Any] = {
    "states negated": computed_state(lambda d, part: d.node("Neg", part)),
    "states squashed": computed_state(lambda d, part: d.node("Tanh", part)),
    "states halved": computed_state(lambda d, part: d.node("Mul", part, d.tensor(np.float32(0.5)))),
    "features of states reversed": computed_state(
        lambda d, part: d.node("Gather", part, d.ints(*range(d.H)[::-1]), axis=2)
    ),
    "states of x": of_x,
    "states of ones": lambda d, n: (
        [[d.node("Expand", d.tensor(np.float32(1)), d.shaped(d.ints(d.D), d.size(d.first, 1), d.ints(d.H)))] * n]
        * d.layers
    ),
    "states of one node only": of_one_node,
    "states that all nodes share": shared,
    "states in another order": other_order,
    "states turned": turned_states,
    "states of a wrong width": lambda d, n: [[d.zeros(d.H + 1) for _ in range(n)] for _ in range(d.layers)],
}
LENGTHS: dict[str, Any] = {
    "lengths of one node only": lambda d, L: [L, *[""] * (d.layers - 1)],
    "lengths of the last node only": lambda d, L: [*[""] * (d.layers - 1), L],
    "other lengths above": lambda d, L: [
        L, *[d.node("Max", d.node("Sub", L, d.tensor(np.int32(1))), d.tensor(np.int32(1)))] * (d.layers - 1)
    ],
    "computed lengths": lambda d, L: [d.node("Max", d.node("Sub", L, d.tensor(np.int32(1))), d.tensor(np.int32(1)))]
    * d.layers,
}  # fmt: skip
HANDED = {
    "states handed on", "states of one node only", "states that all nodes share", "states in another order",
    "states turned", "states of ones", "states of x", *LENGTHS,
}  # fmt: skip
SQUARE = {"rows and steps swapped, square", "states turned"}
FIXED = {"rows and steps mixed", "rows and steps swapped, square", "states turned"}
OPEN = {"steps up to a far one"}
TRAPS = ["states handed on", *BETWEEN, *STATES, *LENGTHS]


def run(model: Any, feeds: dict[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"], sess_options=options
    )
    return session.run(None, feeds)[0]


def call(layer: Any, drawn: Drawn) -> Any:
    state = drawn.state
    if isinstance(layer, Stack) and state is not None:
        rows = [slice(k * drawn.D, (k + 1) * drawn.D) for k in range(drawn.layers)]
        state = tuple(tuple(p[r] for p in state) if isinstance(state, tuple) else state[r] for r in rows)
    return layer(drawn.feeds["x"], state, lengths=drawn.lengths)[0]


@pytest.mark.parametrize("part", range(10))
def test_graphs_that_are_chains(part):
    """30 graphs each."""
    for k in range(30 * part, 30 * part + 30):
        drawn = Drawn(k, None)
        model = drawn.model()
        layer = interop.from_onnx(model, chain=True)
        assert layer.batch_first == drawn.batch_first
        expected = run(model, drawn.feeds)
        what = f"graph {k}: {layer!r}"
        assert_close(call(layer, drawn), expected, dtype="float32", K=16, T=drawn.T * drawn.layers, what=what)


@pytest.mark.parametrize("trap", TRAPS)
def test_graphs_that_are_no_chains(trap):
    """Seven graphs for each trap."""
    for k in range(7):
        drawn = Drawn(10_000 + 100 * TRAPS.index(trap) + k, trap)
        model = drawn.model()
        with pytest.raises(ValueError, match=r"^from_onnx: "):
            interop.from_onnx(model, chain=True)
        if trap == "states of a wrong width":
            with pytest.raises(Exception, match="initial_h"):
                run(model, drawn.feeds)
        else:
            run(model, drawn.feeds)
