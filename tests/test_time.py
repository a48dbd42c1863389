"""Where a layer starts, and from which state: reverse one-directional layers, and learned initial states."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import GRU, LSTM, RNN
from problems import assert_same_bits

KINDS = pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def reverse_half(kind: Any, dtype: str) -> tuple[Any, Any]:
    """A bidirectional layer, and a layer with only its reverse direction."""
    both = kind(3, 6, bidirectional=True, merge=None, dtype=dtype, rng=1)
    alone = kind(3, 6, backwards=True, dtype=dtype)
    alone.load_state_dict({name.removesuffix("_reverse"): w for name, w in both.params.items() if "reverse" in name})
    return both, alone


# ---- backwards


@KINDS
@DTYPES
@pytest.mark.parametrize("past_end", ["zero", "hold"])
def test_a_backwards_layer_is_the_reverse_direction(kind, dtype, past_end, rng):
    both, alone = reverse_half(kind, dtype)
    x = rng.standard_normal((7, 4, 3)).astype(dtype)
    given = {"lengths": [7, 3, 0, 5], "mask": rng.random((7, 4)) < 0.7, "reset": rng.random((7, 4)) < 0.3}
    for options in ({}, given | {"past_end": past_end}):
        (_, expected), state, tape = both.forward(x, **options)
        y, state_n, own = alone.forward(x, **options)
        assert_same_bits(y, expected, "y")
        assert_same_bits([p[0] for p in parts(state_n)], [p[1] for p in parts(state)], "state")
        assert_same_bits(list(alone(x, **options)), [y, state_n], "call")
        assert_same_bits(list(alone.freeze()(x, **options)), [y, state_n], "frozen")
        dy = rng.standard_normal(y.shape).astype(dtype)
        grads, expected_grads = own.backward(dy), tape.backward((None, dy))
        assert_same_bits(grads.x, expected_grads.x, "dx")
        for name, gradient in grads.params.items():
            assert_same_bits(gradient, expected_grads.params[f"{name}_reverse"], name)


@KINDS
def test_backwards_is_forwards_over_the_turned_sequence(kind, rng):
    layer = kind(3, 6, num_layers=2, backwards=True, rng=1)
    forwards = kind(3, 6, num_layers=2)
    forwards.load_state_dict(layer.state_dict())
    x = rng.standard_normal((7, 1, 3)).astype("f4")
    y, state = layer(x)
    turned, expected = forwards(np.ascontiguousarray(x[::-1]))
    assert_same_bits([y, state], [turned[::-1], expected], "turned")


def test_backwards_is_part_of_a_layer():
    layer = GRU(3, 4, backwards=True, rng=0)
    assert repr(layer) == "GRU(3, 4, backwards=True)"
    assert pickle.loads(pickle.dumps(layer)) == copy.deepcopy(layer) == layer
    assert GRU(3, 4, rng=0) != layer
    x = np.ones((5, 2, 3), np.float32)
    x[0] = 2
    frozen = layer.freeze()
    assert_same_bits(list(pickle.loads(pickle.dumps(frozen))(x)), list(layer(x)), "thawed")
    with pytest.raises(ValueError, match="GRU: stream of a layer that runs backwards; expected backwards=False"):
        frozen.stream()
    with pytest.raises(ValueError, match="LSTM: backwards is True, but bidirectional=True; expected a one-way layer"):
        LSTM(3, 4, bidirectional=True, backwards=True)
    with pytest.raises(TypeError, match="RNN: backwards is 1"):
        RNN(3, 4, backwards=1)  # type: ignore[arg-type]


# ---- learned initial states


def learned(kind: Any, dtype: str, bidirectional: bool = False) -> Any:
    layer = kind(3, 6, num_layers=2, bidirectional=bidirectional, learned_state=True, dtype=dtype, rng=1)
    rng = np.random.default_rng(2)
    for name, w in layer.params.items():
        if "_0_l" in name:
            assert not w.any()
            w[:] = rng.standard_normal(w.shape)
    return layer


@KINDS
@DTYPES
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_learned_state_is_where_all_rows_start(kind, dtype, bidirectional, rng):
    layer = learned(kind, dtype, bidirectional)
    suffixes = [f"_l{k}{way}" for k in range(2) for way in ("", "_reverse")[: 1 + bidirectional]]
    names = ["h_0"] + (["c_0"] if kind is LSTM else [])
    assert list(layer.params)[-len(names) * len(suffixes) :] == [n + s for s in suffixes for n in names]
    state = tuple(np.stack([np.tile(layer.params[n + s], (4, 1)) for s in suffixes]) for n in names)
    state = state if kind is LSTM else state[0]
    x = rng.standard_normal((7, 4, 3)).astype(dtype)
    for options in ({}, {"lengths": [7, 3, 0, 5], "reset": rng.random((7, 4)) < 0.4}):
        y, state_n, tape = layer.forward(x, **options)
        again, final, given = layer.forward(x, state, **options)
        assert_same_bits([again, final], [y, state_n], "given")
        assert_same_bits(list(layer(x, **options)), [y, state_n], "call")
        assert_same_bits(list(layer.freeze()(x, **options)), [y, state_n], "frozen")
        dy = rng.standard_normal(y.shape).astype(dtype)
        grads, expected = tape.backward(dy), given.backward(dy)
        assert_same_bits([grads.x, grads.state], [expected.x, expected.state], "gradients")
        assert list(grads.params) == list(layer.params)
        for i, suffix in enumerate(suffixes):
            for name, part in zip(names, parts(expected.state), strict=True):
                after_resets = expected.params[name + suffix]
                total = part[i].sum(axis=0) + after_resets
                np.testing.assert_allclose(grads.params[name + suffix], total, rtol=0, atol=1e-5, err_msg=name)
                assert bool(after_resets.any()) == bool(options)


@KINDS
def test_a_stream_starts_from_the_learned_state(kind, rng):
    layer = learned(kind, "float32")
    x = rng.standard_normal((5, 3, 3)).astype("f4")
    reset = rng.random((5, 3)) < 0.5
    stream = layer.freeze().stream(3)
    steps = []
    for x_t, reset_t in zip(x, reset, strict=True):
        stream.reset(reset_t)
        steps.append(stream.step(x_t))
    y, state = layer(x, reset=reset)
    assert_same_bits([np.stack(steps), stream.state], [y, state], "stream")
    stream.state = None
    assert_same_bits(stream.step(x[0]), layer(x[:1])[0][0], "again")


def test_an_unbatched_row_starts_from_the_learned_state(rng):
    layer = learned(LSTM, "float64")
    x = rng.standard_normal((5, 3))
    y, (h, c) = layer(x)
    y_batch, (h_batch, c_batch) = layer(x[:, None])
    assert_same_bits([y, h, c], [y_batch[:, 0], h_batch[:, 0], c_batch[:, 0]], "unbatched")
    assert "learned_state=True" in repr(layer)
    assert pickle.loads(pickle.dumps(layer)) == layer
    assert fusedrnn.Stack([layer]).params.keys() == {f"0.{name}" for name in layer.params}
