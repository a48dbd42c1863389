"""Weights of other frameworks run unchanged: against each framework's own equations, written in its convention.

Tests that need the frameworks themselves are in tests/conformance/.
"""

import ast
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import interop
from fusedrnn.parameters import Parameterized
from tolerances import assert_close

T, B, I, H = 6, 3, 4, 5


def close(actual: Any, expected: Any, what: str) -> None:
    """Both use float64 and the same equations."""
    __tracebackhide__ = True
    assert_close(actual, expected, dtype="float64", K=I + H, T=T, what=what)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def normal(rng: np.random.Generator, *shape: int) -> Any:
    return rng.standard_normal(shape) * 0.5


def loop(step: Any, x: Any, states: int, reverse: bool = False) -> Any:
    """Outputs of ``step(x_t, *state) -> state`` over x (B, T, I), as (B, T, H)."""
    state = (np.zeros((len(x), H)),) * states
    ys = [None] * x.shape[1]
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        state = step(x[:, t], *state)
        ys[t] = state[0]
    return np.stack(ys, axis=1)


# ---- Keras ----------------------------------------------------------------------------------------------------------


def keras_lstm(kernel, recurrent, bias):
    def step(x, h, c):
        i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    return step


def keras_gru(kernel, recurrent, bias):
    def step(x, h):
        b_x, b_h = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
        x_z, x_r, x_h = np.split(x @ kernel + b_x, 3, axis=1)
        h_z, h_r, _ = np.split(h @ recurrent + b_h, 3, axis=1)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        U = recurrent[:, 2 * H :]
        new = np.tanh(x_h + (r * (h @ U + b_h[2 * H :]) if bias.ndim == 2 else (r * h) @ U))
        return (z * h + (1 - z) * new,)

    return step


def keras_rnn(kernel, recurrent, bias):
    return lambda x, h: (np.tanh(x @ kernel + h @ recurrent + bias),)


KERAS = {
    "LSTM": (keras_lstm, 4, 2),
    "GRU after": (keras_gru, 3, 1),
    "GRU before": (keras_gru, 3, 1),
    "RNN": (keras_rnn, 1, 1),
}


def keras_weights(rng: np.random.Generator, name: str) -> list[Any]:
    G = KERAS[name][1]
    bias = normal(rng, 2, G * H) if name == "GRU after" else normal(rng, G * H)
    return [normal(rng, I, G * H), normal(rng, H, G * H), bias]


@pytest.mark.parametrize("name", KERAS)
def test_keras_weight_lists(name, rng):
    step, _, states = KERAS[name]
    weights = keras_weights(rng, name)
    layer = interop.from_keras(weights)
    assert type(layer).__name__ == name.split()[0]
    x = normal(rng, B, T, I)
    close(layer(x)[0], loop(step(*weights), x, states), name)


@pytest.mark.parametrize("name", KERAS)
def test_keras_weight_lists_of_two_directions(name, rng):
    step, _, states = KERAS[name]
    forward, backward = keras_weights(rng, name), keras_weights(rng, name)
    layer = interop.from_keras([*forward, *backward], merge_mode="ave")
    x = normal(rng, B, T, I)
    expected = (loop(step(*forward), x, states) + loop(step(*backward), x, states, reverse=True)) / 2
    close(layer(x)[0], expected, name)


@pytest.mark.parametrize("name", ["LSTM", "GRU after"])
def test_cudnn_blocks_that_keras_2_saved(name, rng):
    """The buffers are torch's, gate by gate; only names and shapes are those of Keras' kernels."""
    step, G, states = KERAS[name]
    kernel, recurrent, bias = keras_weights(rng, name)
    blocks = [np.ascontiguousarray(block.T).reshape(I, H) for block in np.split(kernel, G, axis=1)]
    turned = [block.T for block in np.split(recurrent, G, axis=1)]
    halves = bias if bias.ndim == 2 else [0.25 * bias, 0.75 * bias]
    layer = interop.from_keras([np.hstack(blocks), np.hstack(turned), np.concatenate(halves)])
    x = normal(rng, B, T, I)
    close(layer(x)[0], loop(step(kernel, recurrent, bias), x, states), name)


def test_keras_conventions_that_contradict_are_refused(rng):
    kernel, recurrent, bias = keras_weights(rng, "GRU before")
    with pytest.raises(ValueError, match=r"reset_after is True, but the bias has shape \(15,\)"):
        interop.from_keras([kernel, recurrent, bias], reset_after=True)
    with pytest.raises(ValueError, match="kind is 'LSTM', but the weights are those of GRU"):
        interop.from_keras([kernel, recurrent, bias], kind="LSTM")
    with pytest.raises(ValueError, match="the bias has shape"):
        interop.from_keras([kernel, recurrent, bias[:-1]])
    with pytest.raises(ValueError, match="the recurrent weights have 5 rows for hidden_size 15"):
        interop.from_keras([kernel.T, recurrent.T, bias])
    with pytest.raises(TypeError, match="got dict; expected a Keras layer"):
        interop.from_keras({})


# ---- DyNet ----------------------------------------------------------------------------------------------------------


def test_dynet_lstm(rng):
    W_x, W_h, b = normal(rng, 4 * H, I), normal(rng, 4 * H, H), normal(rng, 4 * H)

    def step(x, h, c):
        i, f, o, g = np.split(x @ W_x.T + h @ W_h.T + b, 4, axis=1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    x = normal(rng, B, T, I)
    y, _ = interop.from_dynet([[W_x, W_h, b]], "LSTM")(x.transpose(1, 0, 2))
    close(y.transpose(1, 0, 2), loop(step, x, 2), "LSTM")


def test_dynet_gru(rng):
    z, r, n = ([normal(rng, H, I), normal(rng, H, H), normal(rng, H)] for _ in range(3))

    def step(x, h):
        update, reset = (sigmoid(x @ g[0].T + h @ g[1].T + g[2]) for g in (z, r))
        new = np.tanh(x @ n[0].T + (reset * h) @ n[1].T + n[2])
        return (update * new + (1 - update) * h,)

    x = normal(rng, B, T, I)
    y, _ = interop.from_dynet([[*z, *r, *n]])(x.transpose(1, 0, 2))
    close(y.transpose(1, 0, 2), loop(step, x, 1), "GRU")
    with pytest.raises(ValueError, match="kind is 'LSTM', but the weights are those of GRU"):
        interop.from_dynet([[*z, *r, *n]], "LSTM")
    with pytest.raises(ValueError, match="the number of arrays of layer 0 is 11"):
        interop.from_dynet([[*z, *r, *n, z[0], z[1]]])  # coupled gates with full peepholes


# ---- madmom ---------------------------------------------------------------------------------------------------------


class Gate:
    """Has the attributes of madmom's Gate and Cell."""

    def __init__(self, rng, function=sigmoid, peephole=False):
        self.weights, self.recurrent_weights = normal(rng, I, H), normal(rng, H, H)
        self.bias = normal(rng, H)
        self.activation_fn = function
        self.peephole_weights = normal(rng, H) if peephole else None

    def __call__(self, x, h, c=None):
        a = x @ self.weights + self.bias + h @ self.recurrent_weights
        return self.activation_fn(a if self.peephole_weights is None else a + c * self.peephole_weights)


def madmom_gru(rng):
    layer = types.SimpleNamespace(
        reset_gate=Gate(rng), update_gate=Gate(rng), cell=Gate(rng, np.tanh), init=np.zeros(H), activation_fn=np.tanh
    )

    def step(x, h):
        r, u, cell = layer.reset_gate(x, h), layer.update_gate(x, h), layer.cell
        new = np.tanh(x @ cell.weights + cell.bias + r * (h @ cell.recurrent_weights))
        return (u * new + (1 - u) * h,)

    return layer, step


def madmom_lstm(rng, peephole):
    names = ("input_gate", "forget_gate", "output_gate")
    gates = {name: Gate(rng, peephole=peephole) for name in names}
    layer = types.SimpleNamespace(**gates, cell=Gate(rng, np.tanh), activation_fn=np.tanh, init=None, cell_init=None)

    def step(x, h, c):
        i, f = layer.input_gate(x, h, c), layer.forget_gate(x, h, c)
        c = layer.cell(x, h) * i + c * f
        return np.tanh(c) * layer.output_gate(x, h, c), c

    return layer, step


def test_madmom_gru(rng):
    """Its update gate is inverted, and its reset gate is applied after the product, without a bias."""
    layer, step = madmom_gru(rng)
    x = normal(rng, 1, T, I)
    close(interop.from_madmom(layer)(x[0])[0], loop(step, x, 1)[0], "GRULayer")


def test_madmom_layers_of_two_directions(rng):
    (forward, step), (backward, back) = madmom_gru(rng), madmom_gru(rng)
    layer = interop.from_madmom(types.SimpleNamespace(fwd_layer=forward, bwd_layer=backward))
    x = normal(rng, 1, T, I)
    expected = np.concatenate([loop(step, x, 1)[0], loop(back, x, 1, reverse=True)[0]], axis=1)
    close(layer(x[0])[0], expected, "BidirectionalLayer")


@pytest.mark.parametrize("peephole", [False, True], ids=["plain", "peepholes"])
def test_madmom_lstm(peephole, rng):
    layer, step = madmom_lstm(rng, peephole)
    x = normal(rng, 1, T, I)
    close(interop.from_madmom(layer)(x[0])[0], loop(step, x, 2)[0], "LSTMLayer")


def test_madmom_refusals(rng):
    layer, _ = madmom_gru(rng)
    layer.cell.activation_fn = np.sin
    with pytest.raises(ValueError, match=r"activation_fn of the cell is 'sin'; expected one of"):
        interop.from_madmom(layer)
    with pytest.raises(TypeError, match="got object; expected a RecurrentLayer"):
        interop.from_madmom(object())


# ---- thinc ----------------------------------------------------------------------------------------------------------


def test_thinc_vector(rng):
    """Blocks f i o g, with the biases after each matrix."""
    W_x, b_x, W_h, b_h = normal(rng, 4 * H, I), normal(rng, 4 * H), normal(rng, 4 * H, H), normal(rng, 4 * H)

    def step(x, h, c):
        f, i, o, g = np.split(x @ W_x.T + b_x + h @ W_h.T + b_h, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    vector = np.concatenate([part.ravel() for part in (W_x, b_x, W_h, b_h)])
    x = normal(rng, B, T, I)
    y, _ = interop.from_thinc(vector, nI=I, nO=H)(x.transpose(1, 0, 2))
    close(y.transpose(1, 0, 2), loop(step, x, 2), "LSTM.v1")
    with pytest.raises(ValueError, match=r"the vector has shape \(219,\); expected \(220,\)"):
        interop.from_thinc(vector[1:], nI=I, nO=H)


# ---- names: torch, Paddle -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "model.encoder.", "rnn_"])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_torch_names_behind_any_prefix(kind, prefix):
    layer = getattr(fusedrnn, kind)(I, H, num_layers=2, bidirectional=True, rng=0)
    named = {f"{prefix}{name}": array for name, array in layer.state_dict().items()}
    named["decoder.weight"] = np.zeros(3)
    assert interop.from_torch(named) == layer
    assert interop.from_torch(named, prefix) == layer
    cell = getattr(fusedrnn, f"{kind}Cell")(I, H, rng=0, dtype="float64")
    assert interop.from_torch({f"{prefix}{name}": array for name, array in cell.state_dict().items()}) == cell


def test_torch_state_dicts_that_are_refused():
    a = {f"a.{name}": array for name, array in fusedrnn.GRU(I, H).state_dict().items()}
    b = {f"b.{name}": array for name, array in fusedrnn.LSTM(I, H).state_dict().items()}
    with pytest.raises(ValueError, match=r"several recurrent modules: 'a\.', 'b\.'; choose one with prefix="):
        interop.from_torch(a | b)
    assert type(interop.from_torch(a | b, "b")).__name__ == "LSTM"
    with pytest.raises(ValueError, match="found no weight_ih_l0 and weight_hh_l0 in the state dict under prefix 'c'"):
        interop.from_torch(a | b, "c")
    with pytest.raises(
        ValueError, match=r"kind is 'LSTM', but the weights are those of GRU: weight_hh_l0 has shape \(15, 5\)"
    ):
        interop.from_torch(a, kind="LSTM")
    with pytest.raises(ValueError, match="weight_ih_l0 has shape"):
        interop.from_torch(a | {"a.weight_ih_l0": np.zeros((4, 15))})
    with pytest.raises(ValueError, match="have 10 rows for hidden_size 5"):
        interop.from_torch({"weight_ih_l0": np.zeros((10, I)), "weight_hh_l0": np.zeros((10, H))})
    with pytest.raises(ValueError, match="missing: bias_hh_l0"):
        interop.from_torch({name: array for name, array in a.items() if "bias_hh" not in name})
    with pytest.raises(TypeError, match="weight_ih_l0 has dtype complex128; expected real numbers"):
        interop.from_torch(a | {"a.weight_ih_l0": np.zeros((15, I), complex)})
    with pytest.raises(TypeError, match=r"got list; expected a torch\.nn\.Module, a state dict, or"):
        interop.from_torch([])


TORCH = {
    "LSTM": ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "LSTM without bias": ("LSTM", {"bias": False}),
    "GRU": ("GRU", {"num_layers": 3, "dropout": 0.25}),
    "RNN": ("RNN", {"nonlinearity": "relu", "bidirectional": True}),
    "LSTMCell": ("LSTMCell", {}),
    "GRUCell": ("GRUCell", {"bias": False}),
    "RNNCell": ("RNNCell", {"nonlinearity": "relu"}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TORCH)
def test_torch_modules_there_and_back(name, dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
    kind, options = TORCH[name]
    module = getattr(torch.nn, kind)(I, H, dtype=getattr(torch, dtype), **options)
    layer = interop.from_torch(torch.nn.Sequential(torch.nn.Linear(2, I), module))
    ours = {key: value.name if key == "dtype" else value for key, value in layer._config().items()}
    assert type(layer).__name__ == kind
    assert {key: ours[key] for key in options} == options
    assert ours["dtype"] == dtype
    back = interop.to_torch(layer)
    assert repr(back) == repr(module)
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), module.state_dict().values(), strict=True))
    assert interop.from_torch(back) == layer
    assert not torch.nn.utils.parameters_to_vector(module.parameters()).eq(0).all()


def test_torch_modules_that_are_refused():
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
    with pytest.raises(ValueError, match=r"reset_after=False; expected True, as torch has nothing else"):
        interop.to_torch(fusedrnn.GRU(I, H, reset_after=False))
    with pytest.raises(ValueError, match=r"merge='sum'; expected 'concat'"):
        interop.to_torch(fusedrnn.GRU(I, H, bidirectional=True, merge="sum"))
    with pytest.raises(TypeError, match="got dict; expected RNN, GRU, LSTM or one of their cells"):
        interop.to_torch({})
    with pytest.raises(ValueError, match="found no RNN, GRU or LSTM in Linear"):
        interop.from_torch(torch.nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"several recurrent modules: .b., .t.; choose one with prefix="):
        interop.from_torch(torch.nn.ModuleDict({"t": torch.nn.GRU(2, 3), "b": torch.nn.LSTM(3, 2)}))
    with pytest.raises(ValueError, match="kind is 'GRU', but the weights are those of LSTM"):
        interop.from_torch(torch.nn.LSTM(2, 3), kind="GRU")


def test_torch_modules_upon_each_other(rng):
    torch = pytest.importorskip("torch")
    modules = [torch.nn.LSTM(3, 6, bidirectional=True), torch.nn.Dropout(0.5), torch.nn.GRU(12, 4), torch.nn.RNN(4, 2)]
    shown = "Stack([LSTM(3, 6, bidirectional=True), GRU(12, 4), RNN(4, 2)])"
    x = torch.randn(7, 4, 3)
    y = x
    for module in modules:
        if not isinstance(module, torch.nn.Dropout):
            y, state = module(y)
    for container in (torch.nn.Sequential(*modules), torch.nn.ModuleList(modules)):
        net = interop.from_torch(container)
        assert repr(net) == shown
        ours, finals = net(x.numpy())
        np.testing.assert_allclose(ours, y.detach().numpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(finals[2], state.detach().numpy(), rtol=1e-4, atol=1e-6)
    named = torch.nn.ModuleDict({"top": modules[3], "low": modules[0], "mid": modules[2]})
    for source in (named, named.state_dict()):
        assert interop.from_torch(source, ["low", "mid.", "top"]) == net
        with pytest.raises(ValueError, match=r"several recurrent modules: .*; choose one with prefix=, or some"):
            interop.from_torch(source)
        with pytest.raises(ValueError, match=r"from_torch: Stack: RNN\(4, 2\) has input_size 4; expected 12"):
            interop.from_torch(source, ["low", "top"])
        with pytest.raises(ValueError, match=r"from_torch: found no names of modules in prefix=\[\]"):
            interop.from_torch(source, [])
    for layer, module in zip(net.layers, (modules[0], *modules[2:]), strict=True):
        for name, tensor in interop.to_torch(layer).state_dict().items():
            assert torch.equal(tensor, module.state_dict()[name])
    with pytest.raises(TypeError, match=r"to_torch: got Stack; expected RNN, GRU, LSTM or one of their cells; torch"):
        interop.to_torch(net)


def test_torch_half_precision_and_scripted_modules():
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
    for dtype in (torch.float16, torch.bfloat16):
        module = torch.nn.GRU(I, H, dtype=dtype)
        layer = interop.from_torch(module)
        assert layer.dtype == np.float32
        np.testing.assert_array_equal(layer.weight_hh_l0, module.weight_hh_l0.detach().float().numpy())
    module = torch.nn.RNN(I, H, nonlinearity="relu")
    normed = torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    layer = interop.from_torch(normed)
    np.testing.assert_array_equal(layer.weight_hh_l0, normed.weight_hh_l0.detach().numpy())
    assert layer.nonlinearity == "relu"


def test_paddle_names():
    layer = fusedrnn.GRU(I, H, num_layers=2, bidirectional=True, batch_first=True, rng=0)
    named = {}
    for name, array in layer.state_dict().items():
        what, k = name.removesuffix("_reverse").split("_l")
        named[f"rnn.{k}.cell_{'bw' if name.endswith('_reverse') else 'fw'}.{what}"] = array
    assert interop.from_paddle(named) == layer
    both = named | {f"rnn.{name}": array for name, array in layer.state_dict().items()}
    assert interop.from_paddle(both, "rnn") == layer


# ---- what is wrong -------------------------------------------------------------------------------------------------

W2 = {"weight_ih_l0": np.ones((4, 1)), "weight_hh_l0": np.ones((4, 1))}
VECTOR = np.zeros(4 * H * (I + H) + 8 * H)

WRONG: dict[str, Any] = {
    "torch scalar": (lambda: interop.from_torch(W2 | {"weight_ih_l0": np.float32(1)}), "no weight_ih_l0 of two axes"),
    "torch one axis": (lambda: interop.from_torch(W2 | {"weight_hh_l0": np.ones(4)}), "no weight_hh_l0 of two axes"),
    "torch projection": (lambda: interop.from_torch(W2 | {"weight_hr_l0": np.ones(4)}), "no weight_hr_l0 of two axes"),
    "torch names": (lambda: interop.from_torch(W2 | {3: np.ones(4)}), r"a name is 3 \(int\); expected strings"),
    "torch bytes": (lambda: interop.from_torch(W2 | {b"a": np.ones(4)}), r"a name is b'a' \(bytes\); expected strings"),
    "torch cell and layer": (lambda: interop.from_torch(W2 | {"bias_ih": np.ones(4)}), "unexpected: bias_ih"),
    "torch layer far up": (
        lambda: interop.from_torch(W2 | {"bias_ih_l99999999": 1.0}),
        "unexpected: bias_ih_l99999999",
    ),
    "torch ragged": (
        lambda: interop.from_torch(W2 | {"weight_ih_l0": [[1.0], [2.0, 3.0]]}),
        "cannot be read as an arr",
    ),
    "torch object": (lambda: interop.from_torch(W2 | {"weight_ih_l0": object()}), "has dtype object; expected real"),
    "torch none": (lambda: interop.from_torch(W2 | {"weight_ih_l0": None}), "has dtype object; expected real"),
    "torch prefix": (lambda: interop.from_torch(W2, 3), "prefix is 3; expected a string or a sequence of strings"),
    "torch prefixes": (lambda: interop.from_torch(W2, [[""]]), r"a name is \[''\] \(list\); expected strings"),
    "torch kind": (lambda: interop.from_torch(W2, kind=["LSTM"]), r"kind is \['LSTM'\]; expected one of 'RNN'"),
    "paddle names": (lambda: interop.from_paddle({3: np.ones(4)}), r"a name is 3 \(int\); expected strings"),
    "paddle one axis": (
        lambda: interop.from_paddle(W2 | {"weight_hh_l0": np.ones(4)}, activation="relu"),
        "no weight_hh",
    ),
    "paddle prefix": (lambda: interop.from_paddle(W2, ["a"]), r"prefix is \['a'\]; expected a string"),
    "dynet nothing": (lambda: interop.from_dynet([]), "got list; expected a builder"),
    "dynet number": (lambda: interop.from_dynet([3]), "got int; expected a list of the arrays of layer 0"),
    "dynet array": (
        lambda: interop.from_dynet([np.float32(3)]),
        "got float32; expected a list of the arrays of layer 0",
    ),
    "dynet no arrays": (lambda: interop.from_dynet([[]]), "the number of arrays of layer 0 is 0; expected 3"),
    "dynet scalars": (lambda: interop.from_dynet([[1.0] * 3]), r"W_h of layer 0 has shape \(\); expected"),
    "dynet scalars of a GRU": (
        lambda: interop.from_dynet([[1.0] * 9]),
        r"W_h of z of layer 0 has shape \(\); expected",
    ),
    "dynet input": (
        lambda: interop.from_dynet([[np.ones(20), np.ones((20, 5)), np.ones(20)]]),
        "W_x of layer 0 has sha",
    ),
    "dynet bias": (
        lambda: interop.from_dynet([[np.ones((20, 3)), np.ones((20, 5)), np.ones(9)]]),
        "b of layer 0 has shap",
    ),
    "dynet forget_bias": (lambda: interop.from_dynet([[1.0] * 3], forget_bias="1"), "forget_bias is '1'"),
    "madmom nothing": (lambda: interop.from_madmom([]), "found no layer in an empty list"),
    "madmom number": (lambda: interop.from_madmom([3]), "got int; expected a RecurrentLayer"),
    "madmom half a layer": (
        lambda: interop.from_madmom(types.SimpleNamespace(forget_gate=3)),
        "got SimpleNamespace; expected a layer or gate of madmom, which has input_gate",
    ),
    "madmom gate": (
        lambda: interop.from_madmom(types.SimpleNamespace(reset_gate=3, update_gate=3, cell=3)),
        "got int; expected a layer or gate of madmom, which has weights",
    ),
    "keras nothing": (lambda: interop.from_keras([]), "got list; expected a Keras layer"),
    "keras scalars": (lambda: interop.from_keras([1.0, 1.0]), r"the kernel has shape \(\); expected"),
    "keras second way": (
        lambda: interop.from_keras([np.ones((3, 20)), np.ones((5, 20)), np.ones((3, 20)), 1.0]),
        r"the recurrent kernel has shape \(\); expected",
    ),
    "keras number": (lambda: interop.from_keras([np.ones((3, 20))] * 7), "the number of arrays is 7"),
    "keras merge_mode": (
        lambda: interop.from_keras([np.ones((3, 20)), np.ones((5, 20))] * 2, merge_mode=[]),
        r"merge_mode is \[\]; expected one of 'concat'",
    ),
    "thinc sizes": (lambda: interop.from_thinc(VECTOR, nI="3", nO=5), r"nI is '3' \(str\); expected an integer"),
    "thinc depth": (lambda: interop.from_thinc(VECTOR, nI=I, nO=H, depth=2**31 - 1), r"has shape \(220,\); expected"),
    "thinc odd": (lambda: interop.from_thinc(VECTOR, nI=I, nO=H, bi=True), "nO is 5; expected an even number"),
    "thinc axes": (lambda: interop.from_thinc(VECTOR[None], nI=I, nO=H), r"has shape \(1, 220\); expected"),
    "thinc words": (lambda: interop.from_thinc(["a"], nI=I, nO=H), "has dtype <U1; expected real numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_arrays_that_are_none(case):
    call, message = WRONG[case]
    with pytest.raises((ValueError, TypeError), match=f"^from_{case.split()[0]}: .*{message}|^[A-Z]+: .*{message}"):
        call()


def test_bridges_do_not_draw_parameters(monkeypatch):
    """A few names with large numbers, or shapes without data, could otherwise take very long."""

    def draw(self: Any) -> None:
        raise AssertionError("drew parameters")

    monkeypatch.setattr(Parameterized, "_draw", draw)
    for call in (
        lambda: interop.from_torch(W2),
        lambda: interop.from_keras([np.ones((3, 15)), np.ones((5, 15))]),
        lambda: interop.from_dynet([[np.ones((20, 3)), np.ones((20, 5)), np.ones(20)]]),
        lambda: interop.from_thinc(VECTOR, nI=I, nO=H),
    ):
        assert call().params


def test_torch_tensors_of_short_floats():
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
    for dtype in (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2):
        weights = {name: torch.ones((4, 1)).to(dtype) for name in W2}
        layer = interop.from_torch(weights)
        assert layer.dtype == np.float32
        np.testing.assert_array_equal(layer.weight_hh_l0, 1)
    with pytest.raises(TypeError, match=r"^from_torch: weight_ih_l0 cannot be read: NotImplementedError"):
        interop.from_torch({name: torch.ones((4, 1), device="meta") for name in W2})


# ---- files ----------------------------------------------------------------------------------------------------------

LAYERS = {
    "RNN": lambda: fusedrnn.RNN(I, H, nonlinearity="relu", rng=0),
    "GRU": lambda: fusedrnn.GRU(I, H, 2, reset_after=False, bidirectional=True, merge="sum", rng=0, dtype="float64"),
    "GRU pair": lambda: fusedrnn.GRU(I, H, bidirectional=True, merge=None, batch_first=True, bias=False, rng=0),
    "LSTM": lambda: fusedrnn.LSTM(I, H, 2, dropout=0.25, rng=0),
    "LSTMCell": lambda: fusedrnn.LSTMCell(I, H, rng=0),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_files_hold_all_of_a_layer(form, name, tmp_path):
    if form == "safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed: pip install safetensors")
    layer = LAYERS[name]()
    path = tmp_path / "layer.weights"
    getattr(interop, f"save_{form}")(layer, path)
    assert getattr(interop, f"load_{form}")(path) == layer


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_files_that_others_wrote(form, tmp_path):
    layer = fusedrnn.LSTM(I, H, rng=0)
    named = {f"encoder.{name}": array for name, array in layer.state_dict().items()} | {"head.weight": np.zeros(3)}
    path = tmp_path / "file"
    if form == "npz":
        with open(path, "wb") as file:
            np.savez(file, **named)
        assert interop.load_npz(path) == layer
    else:
        numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed: pip install safetensors")
        numpy.save_file(named, path)
        assert interop.load_safetensors(path, "encoder") == layer


def test_files_that_are_refused(tmp_path):
    path = tmp_path / "file.npz"
    np.savez(path, fusedrnn=np.array('{"version": 99, "class": "LSTM", "arguments": {}}'))
    with pytest.raises(ValueError, match="load_npz: the file's version is 99; expected 1"):
        interop.load_npz(path)
    np.savez(path, fusedrnn=np.array('{"version": 1, "class": "Exception", "arguments": {}}'))
    with pytest.raises(ValueError, match="the file's class is 'Exception'; expected a layer or a cell"):
        interop.load_npz(path)
    np.savez(path, fusedrnn=np.array("[1"))
    with pytest.raises(ValueError, match="is no description of a layer"):
        interop.load_npz(path)
    with pytest.raises(TypeError, match="save_npz: got dict; expected a layer or a cell"):
        interop.save_npz({}, path)


# ---- the package ----------------------------------------------------------------------------------------------------


def test_no_framework_is_imported():
    code = """
import sys, fusedrnn, numpy as np
assert "fusedrnn.interop" not in sys.modules
from fusedrnn import interop
for name in interop.__all__:
    getattr(interop, name)
interop.from_torch(fusedrnn.LSTM(2, 3).state_dict())
interop.from_keras([np.zeros((2, 9)), np.zeros((3, 9)), np.zeros((2, 9))])
interop.from_paddle(fusedrnn.GRU(2, 3).state_dict())
interop.from_thinc(np.zeros(4 * 3 * (2 + 3) + 8 * 3), nI=2, nO=3)
found = {"torch", "keras", "tensorflow", "onnx", "onnxruntime", "paddle", "thinc", "madmom"} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_function_is_there():
    for name in interop.__all__:
        assert getattr(interop, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'from_caffe'"):
        _ = interop.from_caffe


# ---- messages -------------------------------------------------------------------------------------------------------


def test_messages_stand_in_one_place_and_once():
    """All messages are in _validate.py, those of the weight bridges in _messages.py; no bridge writes its own."""
    folder = Path(interop.__file__).parent
    for path in folder.glob("[!_]*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                text = node.exc.args[0]
                again = path.name == "conventions.py" and ast.unparse(text) == "f'{owner}: {error}'"  # with a prefix
                assert (
                    again
                    or not isinstance(text, (ast.Constant, ast.JoinedStr))
                    or not ast.unparse(node.exc).startswith(("ValueError", "TypeError"))
                ), f"{path.name}:{node.lineno}"
    places: dict[str, set[str]] = {}
    for path in (*folder.glob("_messages*.py"), folder.parent / "_validate.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for node in ast.walk(function) if isinstance(function, ast.FunctionDef) else ():
                if isinstance(node, ast.JoinedStr):
                    words = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                    if len(words) > 55:  # shorter ones are templates, such as "{}: {} has dtype {}; expected {}"
                        places.setdefault(words, set()).add(f"{path.name}: {function.name}")
    assert not {words: where for words, where in places.items() if len(where) > 1}
