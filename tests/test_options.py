"""Options of cells: peepholes, coupled gates, clips, activations, no reset gate, a single bias.

The reference is compared with finite differences and with numbers computed by hand, the kernels with the reference and
with onnxruntime. test_properties.py combines options with layers, lengths, directions and tokens of any kind.
"""

import copy
import pickle
import zlib
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import functional, reference
from fusedrnn.reference.activations import ACTIVATIONS, activation_of
from problems import assert_results, assert_same_bits, has_kinks, make_problem
from test_reference import assert_equal_results, central_difference, make_case

#: Every activation, with its parameters if it has any.
FUNCTIONS: list[Any] = [
    "tanh", "sigmoid", "relu", "hard_sigmoid", ("hard_sigmoid", 0.2, 0.5), "hard_tanh", "softsign", "softplus",
    "leaky_relu", ("leaky_relu", -0.3), "elu", ("elu", 0.7), ("affine", 0.4, 0.1), ("scaled_tanh", 1.7, 0.6),
    ("thresholded_relu", 0.3125), "linear",
]  # fmt: skip
assert {f if isinstance(f, str) else f[0] for f in FUNCTIONS} == set(ACTIVATIONS)

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *(("rnn", {"activation": f}) for f in FUNCTIONS),
    ("rnn", {"clip": 0.8}),
    *(
        ("gru", form | options)
        for form in ({"reset_after": True}, {"reset_after": False}, {"reset_gate": False})
        for options in (
            {"activation": "softsign"},
            {"recurrent_activation": "hard_sigmoid", "activation": ("elu", 0.7)},
            {"clip": 0.7},
        )
    ),
    *(
        ("lstm", {"peephole": peephole, "coupled": coupled} | options)
        for peephole in (None, "ifo", "o_prev")
        for coupled in (False, True)
        for options in (
            {},
            {"cell_clip": 0.6},
            {"clip": 0.9, "recurrent_activation": "softsign", "output_activation": "sigmoid"},
            {"activation": ("scaled_tanh", 1.7, 0.6), "cell_clip": 1.5, "clip": 2.0},
        )
    ),
    ("lstm", {"activation": "relu", "output_activation": "linear", "recurrent_activation": ("hard_sigmoid", 0.2)}),
]  # fmt: skip


def name_of(given: Any) -> str:
    return str(given).replace(" ", "") if isinstance(given, dict) else str(given)


each_option = pytest.mark.parametrize(("family", "options"), OPTIONS, ids=name_of)


# ---- the reference


@each_option
def test_the_references_gradients_are_those_of_differences(family, options, rng):
    case = make_case(rng, family, lengths=[3, 0, 4], reverse=True, sizes=(4, 3, 2, 3), options=options)
    grads = case.grads()
    for name in case.args:
        expected = central_difference(case, name)
        assert_equal_results(grads[name], expected, f"{family} {options}: gradient of {name}", "central_difference")


@pytest.mark.parametrize("f", FUNCTIONS, ids=str)
def test_slopes_of_the_reference_are_differences(f):
    function, x = activation_of(f), np.linspace(-4.03, 4.04, 300)
    differences = (function(x + 1e-6) - function(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(function.slope(x), differences, rtol=0, atol=1e-8)


def lstm_step(i: float, f: float, g: float, o: float, c: float, p: list[float], **options: Any) -> tuple[float, float]:
    """h and c after a step of one unit, whose cell depends on nothing but the given pre-activations."""
    gates = [i, g, o] if options.get("coupled") else [i, f, g, o]
    W = np.zeros((len(gates), 1))
    W_peephole = np.reshape(p, (-1, 1)) if p else None
    run = [
        module.lstm_forward(np.zeros((1, 1, 1)), None, [[c]], W, W, np.array(gates), W_peephole=W_peephole, **options)
        for module in (reference, functional)
    ]
    (_, h, c_n, _), (_, h_2, c_2, _) = run
    assert_equal_results(h_2, h, "h of functional and reference")
    assert_equal_results(c_2, c_n, "c of functional and reference")
    return float(h[0, 0]), float(c_n[0, 0])


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def test_peepholes_are_in_the_order_i_f_o_and_o_sees_the_new_cell():
    # ONNX has the order i o f: with the last two rows swapped, c and h differ.
    i, f, g, o, c, p = 0.3, -0.2, 0.7, 0.5, 0.9, [0.4, -0.8, 1.1]
    c_new = sigmoid(f + p[1] * c) * c + sigmoid(i + p[0] * c) * np.tanh(g)
    h, c_n = lstm_step(i, f, g, o, c, p, peephole="ifo")
    assert c_n == pytest.approx(c_new, abs=1e-15)
    assert h == pytest.approx(sigmoid(o + p[2] * c_new) * np.tanh(c_new), abs=1e-15)
    swapped = lstm_step(i, f, g, o, c, [p[0], p[2], p[1]], peephole="ifo")
    assert abs(swapped[1] - c_n) > 0.1


def test_gradients_of_peepholes_are_in_the_order_i_f_o():
    # If only one gate's slope is nonzero, only that gate's row has a gradient.
    for row, gate in enumerate((0, 1, 3)):
        bias = np.where(np.arange(4) == gate, 0.3, 40.0)
        bias[2] = 0.5
        W = np.zeros((4, 1))
        _, _, _, tape = functional.lstm_forward(
            np.zeros((1, 1, 1)), None, [[0.9]], W, W, bias, W_peephole=np.full((3, 1), 0.1), peephole="ifo"
        )
        d = functional.lstm_backward(tape, dh_n=np.ones((1, 1))).dW_peephole.ravel()
        assert abs(d[row]) > 1e-2, gate
        assert np.abs(np.delete(d, row)).max() < 1e-12, gate


def test_o_prev_sees_the_old_cell():
    i, f, g, o, c = 0.3, -0.2, 0.7, 0.5, 0.9
    h, c_n = lstm_step(i, f, g, o, c, [1.1], peephole="o_prev")
    c_new = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    assert c_n == pytest.approx(c_new, abs=1e-15)
    assert h == pytest.approx(sigmoid(o + 1.1 * c) * np.tanh(c_new), abs=1e-15)


def test_coupled_gates_share_one():
    i, g, o, c, p = 0.3, 0.7, 0.5, 0.9, [0.4, 1.1]
    h, c_n = lstm_step(i, 0.0, g, o, c, p, peephole="ifo", coupled=True)
    gate = sigmoid(i + p[0] * c)
    c_new = (1 - gate) * c + gate * np.tanh(g)
    assert c_n == pytest.approx(c_new, abs=1e-15)
    assert h == pytest.approx(sigmoid(o + p[1] * c_new) * np.tanh(c_new), abs=1e-15)


def test_clips_act_before_anything_sees_the_value():
    i, f, g, o, c = 3.0, 2.0, 2.5, 0.5, 0.9
    h, c_n = lstm_step(i, f, g, o, c, [0.0, 0.0, 2.0], peephole="ifo", cell_clip=0.4)
    assert c_n == 0.4
    assert h == pytest.approx(sigmoid(o + 2.0 * 0.4) * np.tanh(0.4), abs=1e-15)
    h, c_n = lstm_step(i, f, g, o, c, [1.0, 1.0, 1.0], peephole="ifo", clip=0.2)
    c_new = sigmoid(0.2) * c + sigmoid(0.2) * np.tanh(0.2)
    assert c_n == pytest.approx(c_new, abs=1e-15)
    assert h == pytest.approx(sigmoid(0.2) * np.tanh(c_new), abs=1e-15)


def test_coupled_gates_are_four_gates_of_which_f_is_the_negated_i(rng):
    # sigmoid(-a) = 1 - sigmoid(a): the coupled cell is the plain cell with f's rows set to those of i, negated.
    x, state = rng.standard_normal((6, 4, 3)), rng.standard_normal((2, 4, 5))
    i, g, o = (
        (rng.standard_normal((5, 3)), rng.standard_normal((5, 5)), rng.standard_normal(5), rng.standard_normal(5))
        for _ in range(3)
    )
    three = [np.concatenate(parts) for parts in zip(i, g, o, strict=True)]
    four = [np.concatenate([a, -a, b, c]) for a, b, c in zip(i, g, o, strict=True)]
    for module in (reference, functional):
        y, *_ = module.lstm_forward(x, *state, *three, coupled=True)
        expected, *_ = module.lstm_forward(x, *state, *four)
        assert_equal_results(y, expected, "coupled")


# ---- the kernels


@each_option
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels_equal_the_reference(isa, family, options, dtype):
    if dtype == "float32" and has_kinks(options):
        pytest.skip("rounding would decide on which side of a kink a gradient is taken; float64 has it")
    seed = zlib.crc32(f"{family} {options}".encode())
    for k, (T, B, I, H) in enumerate([(6, 5, 7, 19), (5, 1, 4, 70), (3, 17, 20, 33), (130, 7, 3, 4)]):
        lengths, reverse, tokens, bias = (bool((seed + k) >> bit & 1) for bit in range(4))
        problem = make_problem(
            np.random.default_rng(seed + k), family, dtype,
            T=T, B=B, I=I, H=H, lengths=lengths, reverse=reverse, tokens=tokens, bias=bias, options=options,
        )  # fmt: skip
        if T == 130 and not bounded(options):
            continue  # linear and similar functions diverge
        assert_results(problem.run(functional), problem.run(reference), problem)


def bounded(options: dict[str, Any]) -> bool:
    """Whether states stay bounded, however long the sequence."""
    small = {"tanh", "sigmoid", "hard_sigmoid", "hard_tanh", "softsign", "scaled_tanh"}
    functions = [v for k, v in options.items() if k.endswith("activation") and v is not None]
    return all((f if isinstance(f, str) else f[0]) in small for f in functions)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("f", FUNCTIONS, ids=str)
def test_activations_and_their_slopes(isa, dtype, f):
    # One layer without recurrence: a unit's output is the function of its input, and dx is the function's slope.
    x = np.concatenate([np.linspace(-12, 12, 4001), np.logspace(-8, 3, 300), -np.logspace(-8, 3, 300), [0.0, -0.0]])
    x = x.astype(dtype)[None, :, None]
    W, zero = np.ones((1, 1), dtype), np.zeros((1, 1), dtype)
    for clip in (None, 2.5):
        y, _, tape = functional.rnn_forward(x, None, W, zero, activation=f, clip=clip)
        dx = functional.rnn_backward(tape, np.ones_like(y)).dx
        function, wide = activation_of(f, clip), x.astype("f8")
        # Errors are relative to each value, because scales differ over the range; a kink may be within rounding.
        unit = 8 * np.finfo(dtype).eps
        expected = function(wide)
        assert (np.abs(y - expected) <= unit * (np.abs(expected) + np.minimum(np.abs(wide), 1))).all()
        near, expected = [function.slope(wide * (1 + d)) for d in (-unit, unit)], function.slope(wide)
        error = np.abs(dx - expected)
        assert (error <= np.maximum(unit * 2, np.maximum(*[np.abs(s - expected) for s in near]))).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("f", FUNCTIONS, ids=str)
def test_activations_of_what_is_not_finite(isa, dtype, f):
    x = np.array([np.nan, np.inf, -np.inf], dtype)[None, :, None]
    y, _, _ = functional.rnn_forward(x, None, np.ones((1, 1), dtype), np.zeros((1, 1), dtype), activation=f)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = activation_of(f)(x.astype("f8"))
    assert np.isnan(y[0, 0, 0])
    for k in (1, 2):
        np.testing.assert_allclose(y[0, k, 0], expected[0, k, 0].astype(dtype), rtol=0, atol=1e-30)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lanes_without_a_unit_stay_finite(isa, dtype, rng):
    # Gates of 2 + a: without weights, c would double at every step and overflow within the sequence.
    T, H = 1100 if dtype == "float64" else 150, 3
    options = {"recurrent_activation": ("affine", 1.0, 2.0)}
    problem = make_problem(rng, "lstm", dtype, T=T, B=2, I=4, H=H, options=options)
    W_ih, W_hh, b_ih, b_hh = (w * w.dtype.type(0.1) for w in problem.weights)
    b_ih = (b_ih - np.repeat([1.5, 1.5, 0, 1.5], H)).astype(dtype)
    results = problem.but(weights=(W_ih, W_hh, b_ih, b_hh)).run(functional)
    assert all(np.isfinite(value).all() for value in results.values() if value is not None)


def test_usual_functions_spelled_out_are_the_usual_cell():
    plain = fusedrnn.LSTM(3, 4, rng=0)
    spelled = fusedrnn.LSTM(3, 4, rng=0, activation="tanh", recurrent_activation="sigmoid", output_activation="tanh")
    x = np.ones((5, 2, 3), np.float32)
    assert_same_bits(spelled(x), plain(x), "LSTM")
    relu = fusedrnn.RNN(3, 4, rng=0, nonlinearity="relu")
    assert_same_bits(fusedrnn.RNN(3, 4, rng=0, activation="relu")(x), relu(x), "RNN")


# ---- against onnxruntime

ONNX_ORDER = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}
ONNX_FUNCTIONS = [
    ({}, None),
    ({"recurrent_activation": ("hard_sigmoid", 0.2, 0.5), "activation": "softsign"}, ["HardSigmoid", "Softsign"]),
    ({"activation": "softplus"}, ["Sigmoid", "Softplus"]),
    ({"recurrent_activation": "tanh", "activation": ("leaky_relu", 0.2)}, ["Tanh", "LeakyRelu"]),
]


@pytest.mark.parametrize(("functions", "names"), ONNX_FUNCTIONS, ids=["usual", "hard", "softplus", "leaky"])
@pytest.mark.parametrize("clip", [None, 0.8])
@pytest.mark.parametrize(
    ("operator", "family", "options"),
    [
        ("GRU", "gru", {"reset_after": True}),
        ("GRU", "gru", {"reset_after": False}),
        ("LSTM", "lstm", {}),
        ("LSTM", "lstm", {"peephole": "ifo"}),
    ],
    ids=["gru-after", "gru-before", "lstm", "lstm-ifo"],
)
def test_outputs_are_onnxruntimes(operator, family, options, clip, functions, names, rng):
    onnx = pytest.importorskip("onnx", reason="onnx is optional: pip install onnx onnxruntime")
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is optional: pip install onnxruntime")
    options = options | functions | ({} if clip is None else {"clip": clip})
    problem = make_problem(rng, family, "float32", T=6, B=3, I=4, H=5, options=options)
    H, order = 5, ONNX_ORDER[operator]
    W, R, Wb, Rb = (w.reshape(len(order), H, -1)[order].reshape(1, len(order) * H, -1) for w in problem.weights)
    inputs = {"X": problem.x, "W": W, "R": R, "B": np.concatenate([Wb[..., 0], Rb[..., 0]], 1)}
    attributes: dict[str, Any] = {"hidden_size": H}
    if clip is not None:
        attributes["clip"] = clip
    if operator == "GRU":
        attributes["linear_before_reset"] = int(options["reset_after"])
    if names is not None:
        attributes["activations"] = [*names, names[1]] if operator == "LSTM" else names
        attributes |= {
            "HardSigmoid": {"activation_alpha": [0.2], "activation_beta": [0.5]},
            "Tanh": {"activation_alpha": [0.2] * (2 if operator == "LSTM" else 1)},
        }.get(names[0], {})
    inputs["initial_h"] = problem.state[0][None]
    node_inputs = ["X", "W", "R", "B", "", "initial_h"]
    if operator == "LSTM":
        inputs["initial_c"] = problem.state[1][None]
        node_inputs.append("initial_c")
        if problem.W_peephole is not None:
            inputs["P"] = problem.W_peephole[[0, 2, 1]].reshape(1, 3 * H)  # ONNX: i o f
            node_inputs.append("P")
    helper = onnx.helper
    node = helper.make_node(operator, node_inputs, ["Y", "Y_h"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v.shape) for k, v in inputs.items()],
        [helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, None) for k in ("Y", "Y_h")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    Y, Y_h = session.run(None, inputs)
    results, _ = problem.forward(functional)
    # onnxruntime's tanh is a rational function with an error of about 1e-6, the only reason for a larger bound.
    np.testing.assert_allclose(results["y"], Y[:, 0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(results["h_n"], Y_h[0], rtol=0, atol=1e-5)


# ---- layers


MADE = [
    (fusedrnn.RNN, {"activation": ("leaky_relu", 0.2), "clip": 3.0, "bias": "single"}),
    (fusedrnn.GRU, {"reset_gate": False, "bias": "single"}),
    (fusedrnn.GRU, {"recurrent_activation": "hard_sigmoid", "bias": "single"}),
    (fusedrnn.LSTM, {"peephole": "ifo", "bias": False}),
    (fusedrnn.LSTM, {"peephole": "o_prev", "bias": "single", "cell_clip": 1.0}),
    (fusedrnn.LSTM, {"peephole": "ifo", "coupled": True, "output_activation": "linear"}),
]


def test_parameters_of_options():
    def shapes(layer: Any) -> dict[str, tuple[int, ...]]:
        return {name: w.shape for name, w in layer.params.items()}

    assert shapes(fusedrnn.LSTM(3, 4, peephole="ifo", bias="single")) == {
        "weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4), "bias_ih_l0": (16,), "weight_peephole_l0": (3, 4),
    }  # fmt: skip
    assert shapes(fusedrnn.LSTM(3, 4, peephole="ifo", coupled=True, bidirectional=True, bias=False)) == {
        "weight_ih_l0": (12, 3), "weight_hh_l0": (12, 4), "weight_peephole_l0": (2, 4),
        "weight_ih_l0_reverse": (12, 3), "weight_hh_l0_reverse": (12, 4), "weight_peephole_l0_reverse": (2, 4),
    }  # fmt: skip
    assert shapes(fusedrnn.LSTMCell(3, 4, peephole="o_prev"))["weight_peephole"] == (1, 4)
    assert shapes(fusedrnn.GRU(3, 4, reset_gate=False))["bias_hh_l0"] == (8,)


@pytest.mark.parametrize(("make", "options"), MADE, ids=name_of)
def test_objects_keep_their_options(make, options):
    layer = make(3, 5, num_layers=2, rng=0, **options)
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype("f4")
    frozen = layer.freeze()
    stream = frozen.stream(2)
    y, state = layer(x)
    for name in options:
        assert name in repr(layer)
        assert getattr(layer, name) == options[name]
    for twin in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin == layer
        assert_same_bits(twin(x), (y, state), "a copy")
    assert_same_bits(pickle.loads(pickle.dumps(frozen))(x), (y, state), "frozen")
    assert_same_bits(np.stack([stream.step(x_t) for x_t in x]), y, "stream")
    assert eval(repr(layer), {name: getattr(fusedrnn, name) for name in ("RNN", "GRU", "LSTM")})._config() == (
        layer._config()
    )


@pytest.mark.parametrize(("make", "options"), MADE, ids=name_of)
def test_cells_step_as_layers_do(make, options):
    cell = getattr(fusedrnn, make.__name__ + "Cell")(3, 5, rng=0, **options)
    layer = make(3, 5, rng=0, **options)
    assert [name.removesuffix("_l0") for name in layer.params] == list(cell.params)
    x = np.random.default_rng(0).standard_normal((1, 2, 3)).astype("f4")
    y, state, tape = layer.forward(x)
    new, cell_tape = cell.forward(x[0])
    assert_same_bits(new[0] if isinstance(new, tuple) else new, y[0], "h")
    dstate = tuple(np.ones_like(s[0]) for s in state) if isinstance(state, tuple) else np.ones_like(state[0])
    grads = tape.backward(dstate=tuple(d[None] for d in dstate) if isinstance(dstate, tuple) else dstate[None])
    cell_grads = cell_tape.backward(dstate)
    for name, value in cell_grads.params.items():
        assert_same_bits(value, grads.params[f"{name}_l0"], name)


@pytest.mark.parametrize(("kind", "options"), [("RNN", {}), ("GRU", {}), ("GRU", {"reset_after": False}), ("LSTM", {})])
def test_a_single_bias_is_two_of_which_one_is_zero(kind, options):
    single = getattr(fusedrnn, kind)(3, 5, num_layers=2, bidirectional=True, bias="single", rng=0, **options)
    both = getattr(fusedrnn, kind)(3, 5, num_layers=2, bidirectional=True, **options)
    for name, value in both.params.items():
        value[...] = single.params.get(name, 0)
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype("f4")
    y, state, tape = single.forward(x)
    y_2, state_2, tape_2 = both.forward(x)
    assert_same_bits((y, state), (y_2, state_2), "results")
    grads, grads_2 = tape.backward(y), tape_2.backward(y)
    assert list(grads.params) == [name for name in both.params if not name.startswith("bias_hh")]
    for name, value in grads.params.items():
        assert_same_bits(value, grads_2.params[name], name)


@pytest.mark.parametrize("threads", [2, 3])
def test_gradients_of_peepholes_do_not_depend_on_threads(threads, rng):
    layer = fusedrnn.LSTM(30, 130, peephole="ifo", rng=0)
    x = rng.standard_normal((40, 33, 30)).astype("f4")
    results = []
    for n in (1, threads):
        with fusedrnn.threads(n):
            y, _, tape = layer.forward(x, lengths=np.arange(33) + 7)
            results.append(tape.backward(y).params)
    assert_same_bits(*results, "gradients")


@pytest.mark.parametrize(
    ("make", "options", "values", "states"),
    [
        (fusedrnn.RNN, {"activation": "softsign"}, 2, 1),
        (fusedrnn.GRU, {"reset_gate": False}, 3, 1),
        (fusedrnn.GRU, {"clip": 1.0}, 5, 1),
        (fusedrnn.LSTM, {"peephole": "ifo", "cell_clip": 1.0}, 6, 2),
        (fusedrnn.LSTM, {"coupled": True}, 5, 2),
    ],
    ids=name_of,
)
def test_tapes_keep_what_their_table_says(make, options, values, states):
    T, B, I, H = 9, 4, 32, 64  # whole vectors everywhere
    _, _, tape = make(I, H, **options).forward(np.zeros((T, B, I), np.float32))
    expected = 4 * (T * B * (values * H + I) + B * H * states)
    assert expected <= tape.nbytes <= expected + 1024  # alignment


# ---- refusals

X, W, R = np.zeros((2, 1, 3)), np.zeros((16, 3)), np.zeros((16, 4))
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "no reset gate to be before": (
        lambda: fusedrnn.GRU(3, 4, reset_gate=False, reset_after=False),
        ValueError,
        "GRU: reset_after is False, but reset_gate=False; there is no reset gate to act",
    ),
    "clip of zero": (
        lambda: fusedrnn.RNN(3, 4, clip=0.0),
        ValueError,
        "RNN: clip is 0.0; expected a number > 0, or None",
    ),
    "endless clip": (
        lambda: fusedrnn.LSTM(3, 4, cell_clip=float("inf")),
        ValueError,
        "LSTM: cell_clip is inf; expected a finite number",
    ),
    "clip of a name": (
        lambda: fusedrnn.LSTM(3, 4, clip="1"),  # type: ignore[arg-type]
        TypeError,
        "LSTM: clip is '1' (str); expected a finite number",
    ),
    "too many parameters": (
        lambda: fusedrnn.GRUCell(3, 4, recurrent_activation=("sigmoid", 1.0)),
        ValueError,
        "GRUCell: recurrent_activation is ('sigmoid', 1.0) with 1 parameters; sigmoid has no parameters",
    ),
    "too few parameters": (
        lambda: fusedrnn.LSTM(3, 4, activation="scaled_tanh"),
        ValueError,
        "LSTM: activation is 'scaled_tanh'; expected ('scaled_tanh', alpha, beta)",
    ),
    "parameter": (
        lambda: fusedrnn.LSTM(3, 4, output_activation=("elu", "1")),  # type: ignore[arg-type]
        TypeError,
        "LSTM: alpha of output_activation is '1' (str); expected a finite number",
    ),
    "coupled": (
        lambda: fusedrnn.LSTM(3, 4, coupled=1),  # type: ignore[arg-type]
        TypeError,
        "LSTM: coupled is 1 (int); expected True or False",
    ),
    "peepholes missing": (
        lambda: functional.lstm_forward(X, None, None, W, R, peephole="ifo"),
        ValueError,
        "lstm_forward: W_peephole is None; expected (3, hidden_size) = (3, 4)",
    ),
    "peepholes unwanted": (
        lambda: functional.lstm_forward(X, None, None, W, R, W_peephole=np.zeros((3, 4))),
        ValueError,
        "lstm_forward: W_peephole is an ndarray, but peephole=None; expected None",
    ),
    "peepholes of o_prev": (
        lambda: functional.lstm_forward(X, None, None, W, R, W_peephole=np.zeros((3, 4)), peephole="o_prev"),
        ValueError,
        "lstm_forward: W_peephole has shape (3, 4); expected (1, hidden_size) = (1, 4)",
    ),
    "rows of coupled gates": (
        lambda: functional.lstm_forward(X, None, None, W, R, coupled=True),
        ValueError,
        "lstm_forward: W_hh has shape (16, 4); expected (3*hidden_size, hidden_size), hidden_size >= 1",
    ),
    "rows of a layer's coupled gates": (
        lambda: fusedrnn.LSTM(3, 4, coupled=True).load_state_dict(fusedrnn.LSTM(3, 4).state_dict()),
        ValueError,
        "LSTM: load_state_dict changed nothing. weight_ih_l0 has shape (16, 3); expected (3*hidden_size, input_size) "
        "= (12, 3) | weight_hh_l0 has shape (16, 4); expected (3*hidden_size, hidden_size) = (12, 4) | bias_ih_l0 has "
        "shape (16,); expected (3*hidden_size,) = (12,) | bias_hh_l0 has shape (16,); expected (3*hidden_size,) "
        "= (12,)",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_meaning_is_refused(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_unknown_activations_are_refused():
    with pytest.raises(ValueError, match="LSTM: activation is 'gelu'; expected one of 'tanh', 'sigmoid', 'relu'"):
        fusedrnn.LSTM(3, 4, activation="gelu")
    for value in (3, (), (1.0, "elu")):
        with pytest.raises(TypeError, match=r"RNN: activation is .*; expected a name, \(name, alpha\)"):
            fusedrnn.RNN(3, 4, activation=value)  # type: ignore[arg-type]
