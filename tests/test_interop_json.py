"""Weights of Haste and models of RTNeural and GuitarML, against loops over their own equations."""

import json
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import interop
from tolerances import assert_close

T, B, I, H = 6, 3, 4, 5


def close(actual: Any, expected: Any, what: str) -> None:
    __tracebackhide__ = True
    assert_close(actual, expected, dtype="float64", K=I + H, T=T, what=what)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def normal(rng: np.random.Generator, *shape: int) -> Any:
    return rng.standard_normal(shape) * 0.5


# ---- Haste ----------------------------------------------------------------------------------------------------------


def haste_lstm(weights: Any, x: Any, zoneout: float) -> Any:
    """Haste's loop: gates i g f o; zoneout of h alone."""
    h = c = np.zeros((x.shape[1], H))
    ys = []
    for x_t in x:
        i, g, f, o = np.split(x_t @ weights["kernel"] + h @ weights["recurrent_kernel"] + weights["bias"], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = zoneout * h + (1 - zoneout) * sigmoid(o) * np.tanh(c)
        ys.append(h)
    return np.stack(ys)


def haste_gru(weights: Any, x: Any, zoneout: float) -> Any:
    """Gates z r h; reset after the product."""
    h = np.zeros((x.shape[1], H))
    ys = []
    for x_t in x:
        x_z, x_r, x_g = np.split(x_t @ weights["kernel"] + weights["bias"], 3, axis=1)
        h_z, h_r, h_g = np.split(h @ weights["recurrent_kernel"] + weights["recurrent_bias"], 3, axis=1)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        h = zoneout * h + (1 - zoneout) * (z * h + (1 - z) * np.tanh(x_g + r * h_g))
        ys.append(h)
    return np.stack(ys)


def haste_weights(rng: np.random.Generator, kind: str) -> dict[str, Any]:
    G = 4 if kind == "LSTM" else 3
    weights = {"kernel": normal(rng, I, G * H), "recurrent_kernel": normal(rng, H, G * H), "bias": normal(rng, G * H)}
    return weights | ({"recurrent_bias": normal(rng, G * H)} if kind == "GRU" else {})


@pytest.mark.parametrize("zoneout", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_haste(kind, zoneout, rng):
    weights, x = haste_weights(rng, kind), normal(rng, T, B, I)
    expected = (haste_lstm if kind == "LSTM" else haste_gru)(weights, x, zoneout)
    layer = interop.from_haste(weights, zoneout=zoneout)
    close(layer(x)[0], expected, kind)
    named = {f"net.{name}": array for name, array in weights.items()} | {"head.weight": np.zeros(3)}
    assert interop.from_haste(named, "net.", zoneout=zoneout) == layer
    module = haste_module(kind, weights, zoneout)
    close(interop.from_haste(module)(x.swapaxes(0, 1))[0], expected.swapaxes(0, 1), "module")


def haste_module(kind: str, weights: Any, zoneout: float, **methods: Any) -> Any:
    """Has the attributes of Haste's modules."""
    base = type(kind, (), {"__module__": "haste_pytorch.layers", "forward": None, "state_dict": lambda self: weights})
    module = type("Mine", (base,), methods)()
    module.zoneout, module.dropout, module.batch_first = zoneout, 0.0, True
    return module


def test_haste_layers_that_are_refused(rng):
    weights = haste_weights(rng, "LSTM")
    for source, message in (
        (weights | {"gamma": np.ones((2, 20))}, "found LayerNormLSTM or LayerNormGRU, which has no counterpart"),
        ({"kernel": np.ones((4, 5)), "recurrent_scale": np.ones(5)}, "found IndRNN, which has no counterpart"),
        ({"kernel": np.ones((4, 20))}, "found no recurrent_kernel in the state dict"),
        (weights | {"peephole": np.ones(5)}, "beside the weights there are 'peephole'"),
        (weights | {"recurrent_bias": np.ones(20)}, "the number of biases is 2; expected 1 for four gates"),
        (weights | {"kernel": np.ones((4, 15))}, r"kernel has shape \(4, 15\); expected \(input_size, 20\)"),
        (haste_module("LSTM", weights, 0.0, forward=len), "Mine has 'forward' of its own.*expected LSTM"),
        (haste_module("IndRNN", weights, 0.0), "found Mine, which has no counterpart|found IndRNN"),
    ):
        with pytest.raises(ValueError, match=f"^from_haste: .*({message})"):
            interop.from_haste(source)
    with pytest.raises(TypeError, match=r"from_haste: got list; expected haste_pytorch\.LSTM or GRU, or a state dict"):
        interop.from_haste([])
    with pytest.raises(ValueError, match=r"from_haste: zoneout is 0\.5, but the layer has 0\.1"):
        interop.from_haste(haste_module("LSTM", weights, 0.1), zoneout=0.5)


# ---- RTNeural -------------------------------------------------------------------------------------------------------


def rtneural_lstm(weights: Any, x: Any) -> Any:
    kernel, recurrent, bias = weights
    h = c = np.zeros(len(recurrent))
    ys = []
    for x_t in x:
        i, f, g, o = np.split(x_t @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        ys.append(h)
    return np.stack(ys)


def rtneural_gru(weights: Any, x: Any) -> Any:
    kernel, recurrent, bias = weights
    h = np.zeros(len(recurrent))
    ys = []
    for x_t in x:
        x_z, x_r, x_c = np.split(x_t @ kernel + bias[0], 3)
        h_z, h_r, h_c = np.split(h @ recurrent + bias[1], 3)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        h = z * h + (1 - z) * np.tanh(x_c + r * h_c)
        ys.append(h)
    return np.stack(ys)


def entry(kind: str, size: int, weights: Any, activation: str = "") -> dict[str, Any]:
    shape = [None, None, size]
    return {"type": kind, "activation": activation, "shape": shape, "weights": [w.tolist() for w in weights]}


def model(rng: np.random.Generator, kind: str) -> tuple[dict[str, Any], Any]:
    """A file with dense layers around two recurrent ones, and a function that computes the same."""
    G, step = (4, rtneural_lstm) if kind == "lstm" else (3, rtneural_gru)
    first = [normal(rng, 2, I), normal(rng, I)]
    recurrent = [
        [normal(rng, n, G * H), normal(rng, H, G * H), normal(rng, *([G * H] if G == 4 else [2, G * H]))]
        for n in (I, H)
    ]
    head = [normal(rng, H, 2), normal(rng, 2)]
    layers = [entry("time-distributed-dense", I, first, "tanh"), *(entry(kind, H, w, "tanh") for w in recurrent)]
    layers += [entry("dense", 2, head, "sigmoid"), entry("activation", 2, [], "elu")]

    def run(x: Any) -> Any:
        y = step(recurrent[1], step(recurrent[0], np.tanh(x @ first[0] + first[1])))
        return sigmoid(y @ head[0] + head[1])  # elu changes nothing above zero

    return {"in_shape": [None, None, 2], "layers": layers}, run


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_rtneural(kind, rng, tmp_path):
    tree, run = model(rng, kind)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(tree))
    network = interop.load_rtneural(path, dtype=None)
    x = normal(rng, T, 2)
    close(network(x)[0], run(x), kind)
    assert network.layer.num_layers == 2
    parts = [network(x[:2])]
    parts.append(network(x[2:], parts[0][1]))
    np.testing.assert_array_equal(np.concatenate([y for y, _ in parts]), network(x)[0])
    skipping = interop.load_rtneural(tree | {"in_skip": 1}, dtype=None)
    close(skipping(x)[0], run(x) + x[:, :1], "in_skip")
    assert interop.load_rtneural(path).layer.dtype == np.float32


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_guitarml(kind, rng):
    layer = getattr(fusedrnn, kind)(2, 8, rng=0, dtype="float64")
    weight, bias = normal(rng, 1, 8), normal(rng, 1)
    state = {f"rec.{name}": array.tolist() for name, array in layer.state_dict().items()}
    state |= {"lin.weight": weight.tolist(), "lin.bias": bias.tolist()}
    data = {"model": "SimpleRNN", "input_size": 2, "skip": 1, "output_size": 1, "unit_type": kind, "num_layers": 1}
    data |= {"hidden_size": 8, "bias_fl": True}
    network = interop.load_rtneural({"model_data": data, "state_dict": state}, dtype=None)
    x = normal(rng, T, 2)
    close(network(x)[0], layer(x)[0] @ weight.T + bias + x[:, :1], kind)
    assert network.layer == layer
    alone = interop.load_rtneural(state, dtype=None)  # RTNeural's files for torch
    close(alone(x)[0], layer(x)[0] @ weight.T + bias, kind)
    for name, value in {"hidden_size": 9, "input_size": 1, "num_layers": 2, "output_size": 3}.items():
        with pytest.raises(ValueError, match=rf"^load_rtneural: model_data\.{name} is {value}, but the arrays are of"):
            interop.load_rtneural({"model_data": data | {name: value}, "state_dict": state})
    for change, message in {
        "kind": ({"unit_type": "LSTM" if kind == "GRU" else "GRU"}, "but the weights are those of"),
        "model": ({"model": "GatedConvNet"}, r"model_data\.model is 'GatedConvNet'; expected 'SimpleRNN'"),
        "skip": ({"skip": 3}, "skip is 3; expected 0, 1 or 1"),
    }.values():
        with pytest.raises(ValueError, match=f"^load_rtneural: .*{message}"):
            interop.load_rtneural({"model_data": data | change, "state_dict": state})
    with pytest.raises(ValueError, match=r"beside the weights there are 'conv"):
        interop.load_rtneural({"model_data": data, "state_dict": state | {"conv.weight": [[1.0]]}})


def changed(tree: Any, **changes: Any) -> Any:
    return {**tree, "layers": [{**tree["layers"][1], **changes}], "in_shape": [None, None, I]}


def test_rtneural_files_that_are_refused(rng, tmp_path):
    tree, _ = model(rng, "gru")
    for source, message in (
        (changed(tree, type="conv1d"), r"found layer 0 \('conv1d'\), which has no counterpart"),
        (changed(tree, activation="relu"), r"the activation of layer 0 \('gru'\) is 'relu'; expected 'tanh'"),
        (changed(tree, shape=[None, None, 6]), r"the kernel of .* has shape \(4, 15\); expected \(4, 18\)"),
        (changed(tree, shape=[None, None, 10**30]), "expected \\(4, 30+\\)"),
        (changed(tree, shape=None), "the shape of layer 0 .* is None; expected a list"),
        (changed(tree, weights=[[1.0]]), "the number of arrays of layer 0 .* is 1; expected 3"),
        (changed(tree, weights=[[[1.0], [1.0, 2.0]], [], []]), "array 0 of layer 0|inhomogeneous"),
        (changed(tree, weights=3), "the weights of layer 0 .* is 3; expected a list"),
        ({"layers": []}, r"layers is \[\]; expected a list of layers"),
        ({"layers": [3], "in_shape": [1]}, "layer 0 is 'int'; expected an object"),
        ({"in_shape": [2], "layers": tree["layers"][:1]}, "found no lstm or gru in 1 layers"),
        (tree | {"in_gain": 3.0}, r"in_gain is 3\.0; expected 0"),
        (tree | {"in_skip": 2.5}, r"in_skip is 2\.5; expected an integer"),
        (
            {"in_shape": [2], "layers": [*tree["layers"], tree["layers"][1]]},
            "recurrent layers right upon each other|shape",
        ),
        ({}, "found no weight_ih_l0 and weight_hh_l0"),
    ):
        path = tmp_path / "model.json"
        path.write_text(json.dumps(source))
        with pytest.raises(ValueError, match=f"^load_rtneural: .*({message})"):
            interop.load_rtneural(path)
    for text, message in {
        "[" * 100000: "the JSON cannot be read",
        '{"layers": NaN}': "a number is 'NaN'; expected a finite one",
        '{"a": 1, "a": 2}': "there are several entries called 'a'",
        "3": "the JSON's top is 'int'; expected an object",
        '{"rec.weight_ih_l0": [[1e999]]}': "is 'not finite'; expected finite numbers",
        "\x00": "the JSON cannot be read",
    }.items():
        path = tmp_path / "model.json"
        path.write_text(text)
        with pytest.raises(ValueError, match=f"^load_rtneural: .*{message}"):
            interop.load_rtneural(path)
    with pytest.raises(TypeError, match="load_rtneural: got int; expected a path, or a mapping"):
        interop.load_rtneural(3)  # type: ignore[arg-type]


# ---- subclasses of other frameworks' classes ------------------------------------------------------------------------


def test_subclasses_with_methods_of_their_own_are_refused():
    """Stand-ins for classes of madmom, Paddle and DyNet, which need not be installed."""
    lstm = type("LSTMLayer", (), {"__module__": "madmom.ml.nn.layers", "activate": None, "forget_gate": 1})
    with pytest.raises(ValueError, match=r"from_madmom: Mine has 'activate' of its own.*expected LSTMLayer"):
        interop.from_madmom(type("Mine", (lstm,), {"activate": len})())
    gru = type("GRU", (), {"__module__": "paddle.nn.layer.rnn", "forward": None, "state_dict": dict})
    with pytest.raises(ValueError, match=r"from_paddle: Mine has 'forward' of its own.*expected GRU"):
        interop.from_paddle(type("Mine", (gru,), {"forward": len})())
    builder = type("GRUBuilder", (), {"__module__": "_dynet", "initial_state": None, "get_parameters": list})
    with pytest.raises(ValueError, match=r"from_dynet: Mine has 'initial_state' of its own.*expected GRUBuilder"):
        interop.from_dynet(type("Mine", (builder,), {"initial_state": len})())
    weights = {"0.cell.weight_ih": np.zeros((20, 3)), "0.cell.weight_hh": np.zeros((20, 5)), "0.cell.peephole": 1.0}
    with pytest.raises(ValueError, match=r"from_paddle: beside the weights there are '0\.cell\.peephole'"):
        interop.from_paddle(weights)
