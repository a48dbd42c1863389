"""The window of a QRNN, a causal convolution: what a step sees, functions, streams, groups and errors.

Layers with all their options against the reference are in test_combinations.py, the equations against torch's
convolution in conformance/test_elementwise_packages.py.
"""

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import functional, reference
from fusedrnn.reference.windows import sources
from problems import assert_same_bits

WINDOWS = pytest.mark.parametrize("window", [2, 3, 9])


def same(actual: Any, expected: Any) -> None:
    assert_same_bits(actual, expected, "bits")


def made(window: int, inputs: int = 5, hidden: int = 7, **options: Any) -> Any:
    return fusedrnn.QRNN(inputs, hidden, window=window, rng=3, **options)


# ---- what a step sees


def test_the_sources_of_a_step():
    """Row 0 is whole, row 1 skips step 1, row 2 starts anew before step 2."""
    valid, cut = np.ones((4, 3), bool), np.zeros((4, 3), bool)
    valid[1, 1] = False
    cut[2, 2] = True
    seen = sources(valid, cut, False, 2)
    assert seen[:, :, 0].tolist() == [[-1, 0], [0, 1], [1, 2], [2, 3]]
    assert seen[:, :, 1].tolist() == [[-1, 0], [-1, -1], [0, 2], [2, 3]]
    assert seen[:, :, 2].tolist() == [[-1, 0], [0, 1], [-1, 2], [2, 3]]
    assert sources(valid, cut, True, 2)[:, :, 0].tolist() == [[1, 0], [2, 1], [3, 2], [-1, 3]]


@WINDOWS
def test_a_window_is_a_layer_over_inputs_side_by_side(window, rng):
    layer = made(window, dtype="float64")
    x = rng.standard_normal((6, 4, 5))
    padded = np.concatenate([np.zeros((window - 1, 4, 5)), x])
    wide = np.concatenate([padded[k : k + 6] for k in range(window)], axis=2)
    plain = fusedrnn.QRNN(5 * window, 7, dtype="float64")
    plain.load_state_dict(layer.state_dict())
    same(layer(x)[0], plain(wide)[0])


# ---- functions


@WINDOWS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("reverse", "tokens", "rows"), [*itertools.product([False, True], [False, True], ["full", "all", "ragged"])]
)
def test_functions_equal_the_reference(window, dtype, reverse, tokens, rows, rng):
    T, B, I, H = 7, 5, 4, 9
    lengths, mask, reset = np.array([3, 7, 0, 6, 1]), rng.random((T, B)) < 0.7, rng.random((T, B)) < 0.3
    n = int(lengths.sum())
    grid = (n,) if rows == "ragged" else (T, B)
    x: Any = rng.integers(0, I, grid) if tokens else rng.standard_normal((*grid, I)).astype(dtype)
    steps: dict[str, Any] = {"reverse": reverse, "window": window, "zoneout_c": rng.random((*grid, H)) < 0.3}
    if rows == "all":
        steps |= {"lengths": lengths, "mask": mask, "reset": reset, "past_end": "hold"}
    elif rows == "ragged":
        x, steps["reset"] = (x, lengths), rng.random(n) < 0.3
    W, b = rng.standard_normal((3 * H, window * I)).astype(dtype), rng.standard_normal(3 * H).astype(dtype)
    state = [rng.standard_normal((B, H)).astype(dtype) for _ in range(2)]
    dy, *dstate = (rng.standard_normal(shape).astype(dtype) for shape in ((*grid, H), (B, H), (B, H)))
    found, expected = [], []
    for module, to in ((functional, found), (reference, expected)):
        *results, tape = module.qrnn_forward(x, *state, W, b, c_initial=b[:H], **steps)
        to += results
        for sparse in (False, True):
            grads = module.qrnn_backward(tape, dy, *dstate, sparse=sparse)
            dW = grads.dW_ih
            to += [*grads._replace(dW_ih=dW.to_dense() if sparse and tokens else dW)]
            to += [dW.ids, dW.values] if sparse and tokens else []
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            scale = max(1.0, np.abs(theirs).max(initial=0))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=scale * (1e-12 if dtype == np.float64 else 1e-5))


@WINDOWS
def test_the_reference_against_differences(window, rng):
    T, B, I, H = 5, 2, 3, 2
    arguments: dict[str, Any] = {
        "x": rng.standard_normal((T, B, I)),
        "h_0": None,
        "c_0": rng.standard_normal((B, H)),
        "W_ih": rng.standard_normal((3 * H, window * I)),
        "b_ih": rng.standard_normal(3 * H),
    }
    steps = {"window": window, "reset": rng.random((T, B)) < 0.3, "mask": rng.random((T, B)) < 0.8}
    dy = rng.standard_normal((T, B, H))
    *_, tape = reference.qrnn_forward(**arguments, **steps)
    grads = reference.qrnn_backward(tape, dy)._asdict()
    for name in ("x", "c_0", "W_ih", "b_ih"):
        along = rng.standard_normal(arguments[name].shape)
        ys = [
            (reference.qrnn_forward(**arguments | {name: arguments[name] + step * along}, **steps)[0] * dy).sum()
            for step in (1e-6, -1e-6)
        ]
        np.testing.assert_allclose((grads[f"d{name}"] * along).sum(), (ys[0] - ys[1]) / 2e-6, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("sizes", [(0, 3), (4, 0), (0, 0)])
def test_nothing_to_do(sizes):
    layer = made(3, bidirectional=True)
    y, _, tape = layer.forward(np.zeros((*sizes, 5), np.float32))
    grads = tape.backward(y)
    assert y.shape == (*sizes, 14)
    assert grads.x.shape == (*sizes, 5)
    assert not any(g.any() for g in grads.params.values())
    _, _, tape = layer.forward(np.zeros(sizes, int))
    assert not any(g.to_dense().any() for g in tape.backward(y, sparse=True).params.values() if hasattr(g, "ids"))


# ---- bits


@WINDOWS
@pytest.mark.parametrize("tokens", [False, True])
def test_threads_rows_streams_and_batches_give_the_same_bits(window, tokens, isa, rng):
    layer = made(window, 30, 66, num_layers=2)
    T, B = 13, 18
    x: Any = rng.integers(0, 30, (T, B)) if tokens else rng.standard_normal((T, B, 30)).astype(np.float32)
    dy = rng.standard_normal((T, B, 66)).astype(np.float32)
    steps = {"lengths": rng.integers(0, T + 1, B), "reset": rng.random((T, B)) < 0.2}

    def everything() -> list[Any]:
        y, state, tape = layer.forward(x, **steps)
        grads = tape.backward(dy)
        return [y, *state, *([] if tokens else [grads.x]), *grads.state, *grads.params.values(), layer(x, **steps)[0]]

    with fusedrnn.threads(1):
        expected = everything()
    for n in (2, 3, 16):
        with fusedrnn.threads(n):
            assert_same_bits(everything(), expected, f"{n} threads")
    y, state = layer(x)
    frozen = layer.freeze()
    assert_same_bits([*frozen(x)], [y, state], "frozen")
    assert_same_bits(layer(x[:, 3:4])[0], y[:, 3:4], "a row alone")
    stream = frozen.stream(B)
    assert_same_bits(np.stack([stream.step(row) for row in x]), y, "stream")
    assert_same_bits([*stream.state], [*state], "state of the stream")


def test_tokens_are_one_hot_rows_also_beside_floats_in_a_stream(rng):
    layer = made(3, 6, 8, num_layers=2)
    tokens = rng.integers(0, 6, (9, 2))
    hot = np.eye(6, dtype=np.float32)[tokens]
    expected, _, tape = layer.forward(hot)
    y, _, own = layer.forward(tokens)
    same(y, expected)
    ours, theirs = own.backward(np.ones_like(y)).params, tape.backward(np.ones_like(y)).params
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-5)
    stream = layer.freeze().stream(2)
    steps = [stream.step(tokens[t] if t % 3 else hot[t]) for t in range(9)]
    same(np.stack(steps), expected)


# ---- streams


def test_a_stream_keeps_its_inputs_and_its_copies_go_on(rng):
    layer = made(4, num_layers=2)
    x = rng.standard_normal((10, 3, 5)).astype(np.float32)
    y, _ = layer(x)
    stream = layer.freeze().stream(3)
    for row in x[:6]:
        stream.step(row)
    for other in (copy.copy(stream), copy.deepcopy(stream), pickle.loads(pickle.dumps(stream)), stream):
        same(np.stack([other.step(row) for row in x[6:]]), y[6:])


@pytest.mark.parametrize("learned_state", [False, True])
def test_a_reset_clears_the_window_of_its_rows(learned_state, rng):
    layer = made(3, num_layers=2, learned_state=learned_state)
    for name, value in layer.params.items():
        if "_0" in name:
            value[...] = rng.standard_normal(value.shape)
    x = rng.standard_normal((8, 3, 5)).astype(np.float32)
    reset = np.zeros((8, 3), bool)
    reset[5, 1] = True
    y, _ = layer(x, reset=reset)
    stream = layer.freeze().stream(3)
    found = []
    for t, row in enumerate(x):
        if t == 5:
            stream.reset(np.array([False, True, False]))
        found.append(stream.step(row))
    same(np.stack(found), y)
    stream.reset()
    same(np.stack([stream.step(row) for row in x]), layer(x)[0])


def test_a_state_has_no_inputs(rng):
    layer = made(2)
    x = rng.standard_normal((6, 3, 5)).astype(np.float32)
    _, state = layer(x[:4])
    y, _ = layer(x[4:], state)
    stream = layer.freeze().stream(3)
    for row in x[:4]:
        stream.step(row)
    same([*stream.state], [*state])
    stream.state = state
    same(np.stack([stream.step(row) for row in x[4:]]), y)
    assert not np.array_equal(y, layer(x)[0][4:])


def test_wrong_inputs_leave_a_stream_as_it_was(rng):
    stream = made(2).freeze().stream(2)
    x = rng.standard_normal((3, 2, 5)).astype(np.float32)
    stream.step(x[0])
    before = stream.get_inputs()
    for wrong in (np.array([0, 9]), np.ones((2, 4), np.float32), "x"):
        with pytest.raises((IndexError, ValueError, TypeError)):
            stream.step(wrong)
    same([*stream.get_inputs()], [*before])


# ---- the rest of what layers do


def test_groups_pickles_and_inspection(rng):
    x = rng.standard_normal((6, 3, 5)).astype(np.float32)
    first, second = made(2, 5, 6), made(3, 6, 4)
    stack = fusedrnn.Stack([first, second])
    y, _, tape = stack.forward(x)
    same(y, second(first(x)[0])[0])
    assert tape.backward(np.ones_like(y)).x.shape == x.shape
    stream = stack.freeze().stream(3)
    same(np.stack([stream.step(row) for row in x]), y)
    both = fusedrnn.Bidirectional(made(2), made(3))
    same(both(x)[0][..., 7:], made(3)(x[::-1])[0][::-1])
    ensemble = fusedrnn.Ensemble([fusedrnn.QRNN(5, 7, window=3), made(3)])
    same(ensemble(x)[0][1], made(3)(x)[0])

    layer = made(3, num_layers=2, zoneout=0.1)
    assert "window=3" in repr(layer)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert other == layer
        same(other(x)[0], layer(x)[0])
    assert layer != made(1, num_layers=2, zoneout=0.1)
    frozen = layer.freeze()
    thawed = pickle.loads(pickle.dumps(frozen))
    assert thawed == frozen
    same(thawed(x)[0], layer(x)[0])
    same(layer.inspect(x).outputs[-1], layer(x)[0])
    assert layer.inspect(np.zeros((6, 3), int)).gates["f"].shape == (2, 6, 3, 7)


def test_explain_computes_nothing(monkeypatch):
    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(fusedrnn._core, "widen", refuse)
    layer = fusedrnn.QRNN(512, 512, num_layers=2, window=2)
    found = fusedrnn.explain(layer, T=1000, B=64, training=True)
    assert found["multiply_adds"] > 3 * 2 * 1000 * 64 * 3 * 512 * 1024
    assert fusedrnn.explain(layer, T=10, tokens=True)["multiply_adds"] > 0


# ---- errors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fusedrnn.QRNN(3, 4, window=0), ValueError, "QRNN: window is 0"),
        (lambda: fusedrnn.QRNN(3, 4, window=1.5), TypeError, "QRNN: window"),
        (lambda: fusedrnn.QRNN(3, 4, window=10**12), (ValueError, MemoryError), "QRNN: "),
        (lambda: fusedrnn.QRNNCell(3, 4, window=2), TypeError, "window"),
        (
            lambda: functional.qrnn_forward(np.ones((2, 1, 3)), None, None, np.ones((12, 7)), window=2),
            ValueError,
            r"qrnn_forward: W_ih has shape \(12, 7\); expected \(3\*H, window\*I\) with window = 2",
        ),
        (
            lambda: functional.qrnn_forward(np.ones((2, 1, 3)), None, None, np.ones((12, 8)), window=2),
            ValueError,
            "qrnn_forward: x has shape",
        ),
        (lambda: made(2).freeze().c_weights(), ValueError, "QRNN: window is 2; the C API has no windows"),
        (lambda: made(2)(np.full((2, 1), 5)), IndexError, r"QRNN: .*5"),
        (lambda: made(2).freeze()(np.full((2, 1), 5)), IndexError, r"QRNN: .*5"),
        (
            lambda: made(2).load_state_dict(made(3).state_dict()),
            ValueError,
            r"\(3\*hidden_size, window\*input_size\) = \(21, 10\)",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
