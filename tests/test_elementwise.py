"""Layers without a recurrent matrix: what they alone have, and what they lack. The rest is in test_families.py."""

import math
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import functional, reference
from problems import assert_same_bits

FAMILIES = ("MinGRU", "MinLSTM", "IndRNN", "QRNN", "SRU", "LRU", "RGLRU")
EACH = pytest.mark.parametrize("family", FAMILIES)


def made(family: str, inputs: int, hidden: int, **options: Any) -> Any:
    return getattr(fusedrnn, family)(inputs, hidden, rng=3, **options)


def parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


# ---- bits


@EACH
@pytest.mark.parametrize(("inputs", "hidden"), [(5, 38), (204, 204)], ids=["narrow", "wide"])
def test_threads_rows_chunks_and_streams_give_the_same_bits(family, inputs, hidden, isa, rng):
    layer = made(family, inputs, hidden, num_layers=2)
    T, B = 13, 34
    x, dy = (rng.standard_normal((T, B, n)).astype(np.float32) for n in (inputs, hidden))
    lengths, reset = rng.integers(0, T + 1, B), rng.random((T, B)) < 0.2

    def everything() -> list[Any]:
        found: list[Any] = []
        for steps in ({}, {"lengths": lengths}, {"reset": reset}):
            y, state, tape = layer.forward(x, **steps)
            grads = tape.backward(dy)
            found += [y, *parts(state), grads.x, *parts(grads.state), *grads.params.values(), layer(x, **steps)[0]]
        return found

    with fusedrnn.threads(1):
        expected = everything()
    for n in (2, 3, 5, 16):
        with fusedrnn.threads(n):
            assert_same_bits(everything(), expected, f"{n} threads")
    y = expected[0]
    assert_same_bits(layer(x[:, 3:4])[0], y[:, 3:4], "a row alone")
    first, state = layer(x[:6])
    assert_same_bits(np.concatenate([first, layer(x[6:], state)[0]]), y, "two chunks")
    stream = layer.freeze().stream(B)
    assert_same_bits(np.stack([stream.step(row) for row in x]), y, "stream")


@EACH
def test_a_layer_trains_alike_whether_rows_are_few_or_many(family, rng):
    """Gradients of many rows in several chunks are sums; a single long row crosses the limits of chunks, too."""
    layer = made(family, 6, 6, dtype="float64")
    x = rng.standard_normal((800, 2, 6))
    y, _, tape = layer.forward(x)
    grads = tape.backward(np.ones_like(y))
    cell = layer._reference_cell()
    weights = list(layer.params.values())
    unit = weights[2] if len(weights) > 2 else None
    _, _, own = reference.forward(cell, x, (None,) * cell.states, weights[0], None, weights[1], W_peephole=unit)
    expected = reference.backward(own, np.ones_like(y), (None,) * cell.states)
    for name, value in zip(grads.params, (expected.dW_ih, expected.db_ih, expected.dW_peephole), strict=False):
        scale = np.abs(value).max()
        np.testing.assert_allclose(grads.params[name], value, rtol=0, atol=1e-12 * scale)


# ---- parameters


@EACH
def test_there_is_no_recurrent_matrix_and_one_bias(family):
    layer = made(family, 3, 4, bidirectional=True)
    assert not any("hh" in name for name in layer.params)
    assert [n for n in layer.params if "bias" in n] == ["bias_ih_l0", "bias_ih_l0_reverse"]
    assert not any("bias" in name for name in made(family, 3, 4, bias=False).params)


@EACH
@pytest.mark.parametrize("name", ["recurrent_dropout", "weight_dropout"])
def test_what_acts_on_the_recurrent_product_is_refused(family, name):
    with pytest.raises(TypeError, match=name):
        made(family, 3, 4, **{name: 0.1})
    with pytest.raises(AttributeError, match=f"{family}: {name} acts on the recurrent product"):
        setattr(made(family, 3, 4), name, 0.1)


def test_initial_parameters_are_the_papers():
    u = fusedrnn.IndRNN(3, 1000, rng=0).weight_unit_l0
    assert u.min() >= 0
    assert u.max() <= 1
    assert abs(u.mean() - 0.5) < 0.05

    decay = np.exp(-8 * np.logaddexp(0, fusedrnn.RGLRU(1000, 1000, rng=0, dtype="float64").weight_unit_l0))
    assert 0.9 <= decay.min() < 0.91
    assert 0.99 < decay.max() <= 0.999

    nu, theta, g = fusedrnn.LRU(3, 2000, r_min=0.4, r_max=0.8, max_phase=0.5, rng=0, dtype="float64").weight_unit_l0
    size = np.exp(-np.exp(nu))
    assert 0.4 <= size.min() < size.max() <= 0.8
    assert abs(np.mean(size**2) - 0.4) < 0.02  # uniform over the area
    assert 0 < np.exp(theta).max() <= 0.5
    np.testing.assert_allclose(np.exp(g), np.sqrt(1 - size**2), rtol=1e-12)

    layer = fusedrnn.SRU(7, 400, highway_bias=-2.0, rng=0)
    b = layer.bias_ih_l0.reshape(4, 400)
    assert not b[[0, 1, 3]].any()
    assert (b[2] == -2).all()
    assert abs(layer.weight_ih_l0[:400].std() - math.sqrt(1 / 7)) < 0.02


# ---- x itself as an operand


@pytest.mark.parametrize(("family", "gates"), [("SRU", 3), ("RGLRU", 2)])
def test_x_itself_is_an_operand_where_every_layer_has_as_many_inputs_as_units(family, gates):
    for options, inputs, own in (
        ({}, 6, True),
        ({}, 5, False),
        ({"num_layers": 2}, 6, True),
        ({"num_layers": 2, "bidirectional": True}, 6, False),
        ({"num_layers": 2, "bidirectional": True, "merge": "sum"}, 6, True),
        ({"bidirectional": True}, 6, True),
    ):
        assert made(family, inputs, 6, **options).weight_ih_l0.shape[0] == 6 * (gates if own else gates + 1), options


@pytest.mark.parametrize(("family", "gates"), [("SRU", 3), ("RGLRU", 2)])
def test_a_product_with_the_identity_is_x_itself(family, gates, rng):
    own = made(family, 6, 6, dtype="float64", **({"rescale": False} if family == "SRU" else {}))
    x, dy = rng.standard_normal((9, 4, 6)), rng.standard_normal((9, 4, 6))
    name, rows = family.lower(), own.weight_ih_l0
    forward, backward = getattr(functional, f"{name}_forward"), getattr(functional, f"{name}_backward")
    states = (None,) * (2 if family == "SRU" else 1)
    wide = np.concatenate([rows, np.eye(6)]), np.concatenate([own.bias_ih_l0, np.zeros(6)]), own.weight_unit_l0
    y, *_, tape = forward(x, *states, *wide)
    expected, _, own_tape = own.forward(x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(backward(tape, dy).dx, own_tape.backward(dy).x, rtol=0, atol=1e-13)


@pytest.mark.parametrize("family", ["SRU", "RGLRU"])
def test_tokens_are_one_hot_rows_of_x(family, rng):
    layer = made(family, 6, 6)
    tokens = rng.integers(0, 6, (5, 3))
    y, _, tape = layer.forward(tokens)
    hot, _, hot_tape = layer.forward(np.eye(6, dtype=np.float32)[tokens])
    np.testing.assert_allclose(y, hot, rtol=0, atol=1e-6)
    ours, theirs = tape.backward(np.ones_like(y)), hot_tape.backward(np.ones_like(y))
    for name, value in ours.params.items():
        np.testing.assert_allclose(value, theirs.params[name], rtol=0, atol=1e-5)


# ---- zoneout of a QRNN


def test_zoneout_keeps_c_and_inference_mixes(rng):
    layer = fusedrnn.QRNN(3, 5, zoneout=0.5, dtype="float64", rng=1)
    x = rng.standard_normal((6, 2, 3))
    y, (_, c), tape = layer.forward(x)
    kept = tape.masks["zoneout_c"]
    assert kept.shape == (1, 6, 2, 5)
    _, _, own = reference.qrnn_forward(x, None, None, layer.weight_ih_l0, layer.bias_ih_l0, zoneout_c=kept[0])[1:]
    np.testing.assert_allclose(own.states[-1, 1], c[0], rtol=1e-12)
    step = own.states[1:, 1] == own.states[:-1, 1]
    assert (step[kept[0]]).all()
    y, _ = layer(x)
    plain = fusedrnn.QRNN(3, 5, dtype="float64", rng=1)
    assert not np.allclose(y, plain(x)[0])
    stream = layer.freeze().stream(2)
    assert_same_bits(np.stack([stream.step(row) for row in x]), y, "stream")


# ---- errors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fusedrnn.MinGRU(3, 4, activation="relu"), ValueError, "MinGRU: activation is 'relu'"),
        (lambda: fusedrnn.IndRNN(3, 4, nonlinearity="g"), ValueError, "IndRNN: nonlinearity is 'g'"),
        (lambda: fusedrnn.QRNN(3, 4, zoneout=1.0), ValueError, "QRNN: zoneout is 1.0"),
        (lambda: fusedrnn.SRU(3, 4, highway_bias=float("nan")), ValueError, "SRU: highway_bias"),
        (lambda: fusedrnn.LRU(3, 5), ValueError, "LRU: hidden_size is 5; expected an even number"),
        (lambda: fusedrnn.LRU(3, 4, r_min=0.9, r_max=0.5), ValueError, "LRU: r_min is 0.9 and r_max is 0.5"),
        (
            lambda: functional.sru_forward(np.ones((2, 1, 3)), None, None, np.ones((15, 3)), None, np.ones((2, 5))),
            ValueError,
            "x itself is an operand, which needs I = H = 5",
        ),
        (
            lambda: functional.indrnn_forward(np.ones((2, 1, 3)), None, np.ones((5, 3)), None, np.ones((2, 5))),
            ValueError,
            r"indrnn_forward: W_unit has shape \(2, 5\); expected \(1, H\)",
        ),
        (
            lambda: functional.mingru_forward(np.ones((2, 1, 3)), None, np.ones((5, 3))),
            ValueError,
            r"mingru_forward: W_ih has shape \(5, 3\); expected \(2\*H, I\)",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_infinite_and_missing_numbers_stay_where_they_are(rng):
    for family in FAMILIES:
        layer = made(family, 6, 6)
        x = rng.standard_normal((5, 3, 6)).astype(np.float32)
        clean, _ = layer(x)
        x[2, 1, 0] = np.nan
        y, _ = layer(x)
        assert_same_bits(y[:, [0, 2]], clean[:, [0, 2]], family)
        assert_same_bits(y[:2, 1], clean[:2, 1], family)
        assert np.isnan(y[2, 1]).any()


def test_the_policy_knows_that_threads_never_meet():
    load = fusedrnn._core.measure
    layer = fusedrnn.MinGRU(64, 128)
    weights = layer._pack(False)[0]
    found = load(weights, fusedrnn._core.Schedule(1000, 1), False, False)
    assert found["forward"]["barriers"] == 0
    assert found["forward"]["weight_bytes"] == 0
    assert "MinGRU" in str(fusedrnn.explain(layer, T=1000, B=1))
