"""Mamba: finite differences of all gradients; lengths, masks, resets, directions, streams; groups, copies and files.

`tests/conformance/test_mamba_packages.py` compares with transformers.
"""

import copy
import pickle

import numpy as np
import pytest

import fusedrnn

T, B, M = 9, 3, 4
OPTIONS = [
    {},
    {"d_state": 3, "d_conv": 1, "expand": 1, "bias": True},
    {"d_state": 5, "d_conv": 3, "dt_rank": 2, "conv_bias": False, "backwards": True},
    {"d_conv": 12, "dt_init": "constant", "batch_first": True},
]
EACH = pytest.mark.parametrize("options", OPTIONS, ids=["usual", "no window", "backwards", "wide window"])


def layer_of(options: dict, dtype: type = np.float64) -> fusedrnn.Mamba:
    layer = fusedrnn.Mamba(M, **options, dtype=dtype, rng=0)
    rng = np.random.default_rng(1)
    for name, array in layer.params.items():
        if name not in ("A_log", "dt_proj.bias"):
            array[...] += 0.3 * rng.standard_normal(array.shape)
    return layer


def arguments(options: dict, rng: np.random.Generator, steps: str) -> tuple[np.ndarray, tuple, dict]:
    first = options.get("batch_first", False)
    x = rng.standard_normal((B, T, M) if first else (T, B, M))
    layer = fusedrnn.Mamba(M, **options)
    state = (
        rng.standard_normal((B, layer.d_inner, layer.d_conv)),
        rng.standard_normal((B, layer.d_inner, layer.d_state)),
    )
    flags = rng.random((2, B, T) if first else (2, T, B))
    given = {
        "dense": {},
        "lengths": {"lengths": [9, 0, 4]},
        "mask": {"mask": flags[0] < 0.7},
        "all": {"lengths": [9, 2, 5], "mask": flags[0] < 0.8, "reset": flags[1] < 0.2},
    }[steps]
    return x, state, given


STEPS = pytest.mark.parametrize("steps", ["dense", "lengths", "mask", "all"])


@EACH
@STEPS
def test_finite_differences(options, steps):
    rng = np.random.default_rng(2)
    layer = layer_of(options)
    x, state, given = arguments(options, rng, steps)
    y, state_n, tape = layer.forward(x, state, **given)
    dy, dstate = rng.standard_normal(y.shape), tuple(rng.standard_normal(s.shape) for s in state_n)
    grads = tape.backward(dy, dstate)

    def value() -> float:
        y, state_n = layer(x, state, **given)
        return float((y * dy).sum() + sum((s * d).sum() for s, d in zip(state_n, dstate, strict=True)))

    places = {"x": (x, grads.x), "conv": (state[0], grads.state[0]), "ssm": (state[1], grads.state[1])}
    places |= {name: (array, grads.params[name]) for name, array in layer.params.items()}
    for name, (array, gradient) in places.items():
        assert gradient.shape == array.shape
        for _ in range(4):
            at = tuple(rng.integers(n) for n in array.shape)
            before, eps = array[at], 1e-6
            array[at] = before + eps
            up = value()
            array[at] = before - eps
            down = value()
            array[at] = before
            np.testing.assert_allclose(
                gradient[at], (up - down) / (2 * eps), rtol=2e-6, atol=2e-7, err_msg=f"{name}{at}"
            )


@EACH
def test_a_sequence_in_two_calls(options):
    layer = layer_of(options)
    axis = 1 if layer.batch_first else 0
    x, state, _ = arguments(options, np.random.default_rng(3), "dense")
    whole, last = layer(x, state)
    parts = np.split(x, [4], axis)
    ys = {}
    for k in (1, 0) if layer.backwards else (0, 1):
        ys[k], state = layer(parts[k], state)
    np.testing.assert_allclose(np.concatenate([ys[0], ys[1]], axis), whole, rtol=1e-12, atol=1e-13)
    for mine, other in zip(state, last, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-13)


@EACH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lengths_are_rows_of_their_own(options, dtype):
    layer = layer_of(options, dtype)
    first = layer.batch_first
    x, state, given = arguments(options, np.random.default_rng(4), "lengths")
    x, lengths = x.astype(dtype), given["lengths"]
    (x if first else x.swapaxes(0, 1))[1:, 7:] = np.nan  # never read
    y, (conv, ssm), tape = layer.forward(x, state, lengths=lengths)
    grads = tape.backward(np.ones_like(y))
    assert all(np.isfinite(g).all() for g in (y, grads.x, *grads.params.values()))
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype is np.float32 else {"rtol": 1e-11, "atol": 1e-12}
    for b, n in enumerate(lengths):
        row = (lambda a, b=b: a[b]) if first else (lambda a, b=b: a[:, b])
        alone, (conv_b, ssm_b) = layer(row(x)[:n], (state[0][b], state[1][b]))
        np.testing.assert_allclose(row(y)[:n], alone, **close)
        assert not row(y)[n:].any()
        assert not row(grads.x)[n:].any()
        np.testing.assert_allclose(conv[b], conv_b, **close)
        np.testing.assert_allclose(ssm[b], ssm_b, **close)
    packed = np.concatenate([row[:n] for row, n in zip(x if first else x.swapaxes(0, 1), lengths, strict=True)])
    values, _ = layer((packed, lengths), state)
    expected = np.concatenate([row[:n] for row, n in zip(y if first else y.swapaxes(0, 1), lengths, strict=True)])
    np.testing.assert_allclose(values, expected, **close)
    many, _, tape = layer.forward([row[:n] for row, n in zip(x if first else x.swapaxes(0, 1), lengths, strict=True)])
    assert [len(part) for part in many] == lengths
    assert [len(part) for part in tape.backward([np.ones_like(part) for part in many]).x] == lengths


def test_a_reset_starts_anew():
    layer = layer_of({})
    x, state, _ = arguments({}, np.random.default_rng(5), "dense")
    reset = np.zeros((T, B), bool)
    reset[5] = True
    y, last = layer(x, state, reset=reset)
    np.testing.assert_allclose(y[:5], layer(x[:5], state)[0], rtol=1e-12)
    fresh, fresh_last = layer(x[5:])
    np.testing.assert_allclose(y[5:], fresh, rtol=1e-12)
    np.testing.assert_allclose(last[1], fresh_last[1], rtol=1e-12)


@pytest.mark.parametrize("options", [o for o in OPTIONS if not o.get("backwards")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stream(options, dtype):
    layer = layer_of(options, dtype)
    x = np.random.default_rng(6).standard_normal((T, B, M)).astype(dtype)
    frozen = layer.freeze()
    y, state = frozen(x.swapaxes(0, 1) if layer.batch_first else x)
    y = y.swapaxes(0, 1) if layer.batch_first else y
    layer.params["D"] += 1  # has no effect any more
    stream = frozen.stream(B)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype is np.float32 else {"rtol": 1e-12, "atol": 1e-13}
    out = np.empty((B, M), dtype)
    for t, x_t in enumerate(x):
        if t == 4:
            stream = pickle.loads(pickle.dumps(stream))
        assert stream.step(x_t, out=out) is out
        np.testing.assert_allclose(out, y[t], **close)
    for mine, other in zip(stream.state, state, strict=True):
        np.testing.assert_allclose(mine, other, **close)
    other = copy.copy(stream)
    stream.reset([True, False, False])
    assert not any(part[0].any() for part in stream.state)
    assert all(part[1].any() for part in stream.state)
    stream.state = other.state
    np.testing.assert_array_equal(stream.step(x[0]), other.step(x[0]))
    stream.state = None
    np.testing.assert_array_equal(stream.step(x[0]), frozen.stream(B).step(x[0]))


def test_a_frozen_layer_does_not_change():
    frozen = layer_of({}).freeze()
    assert frozen == pickle.loads(pickle.dumps(frozen)) == copy.deepcopy(frozen)
    assert repr(frozen).startswith("<frozen Mamba(4, dtype='float64'), float64, ")
    assert frozen.nbytes == sum(a.nbytes for a in frozen.params.values())
    with pytest.raises(ValueError, match="read-only"):
        frozen.params["D"][0] = 1
    with pytest.raises(AttributeError):
        frozen.precision = "int8"


def test_in_groups():
    rng = np.random.default_rng(7)
    x = rng.standard_normal((T, B, M))
    both = fusedrnn.Stack([layer_of({}), fusedrnn.GRU(M, M, dtype=np.float64, rng=0)])
    lengths, mask = [9, 3, 6], rng.random((T, B)) < 0.8
    y, state, tape = both.forward(x, lengths=lengths, mask=mask)
    below, own = both.layers[0](x, lengths=lengths, mask=mask)
    np.testing.assert_array_equal(y, both.layers[1](below, lengths=lengths, mask=mask)[0])
    np.testing.assert_array_equal(state[0][1], own[1])
    grads = tape.backward(np.ones_like(y))
    assert set(grads.params) == {f"0.{n}" for n in both.layers[0].params} | {f"1.{n}" for n in both.layers[1].params}
    stream = both.freeze().stream(B)
    steps = np.stack([stream.step(x_t) for x_t in x])
    np.testing.assert_allclose(steps, both(x)[0], rtol=1e-11, atol=1e-12)
    two_ways = fusedrnn.Bidirectional(layer_of({}), layer_of({"d_state": 3}))
    y, _, tape = two_ways.forward(x, lengths=lengths)
    backwards = layer_of({"d_state": 3, "backwards": True})
    np.testing.assert_array_equal(y[..., M:], backwards(x, lengths=lengths)[0])
    assert tape.backward(np.ones_like(y)).x.shape == x.shape


def test_copies_and_saved_states():
    layer = fusedrnn.Mamba(M, d_state=3, dt_rank=2, bias=True, rng=0)
    assert repr(layer) == "Mamba(4, d_state=3, dt_rank=2, bias=True)"
    assert layer == pickle.loads(pickle.dumps(layer)) == copy.deepcopy(layer)
    assert layer != fusedrnn.Mamba(M, d_state=3, dt_rank=2, bias=True, rng=1)
    names = [
        "A_log", "D", "in_proj.weight", "in_proj.bias", "conv1d.weight", "conv1d.bias", "x_proj.weight",
        "dt_proj.weight", "dt_proj.bias", "out_proj.weight", "out_proj.bias",
    ]  # fmt: skip
    assert list(layer.state_dict()) == names
    other = fusedrnn.Mamba(M, d_state=3, dt_rank=2, bias=True, rng=1)
    other.load_state_dict(layer.state_dict())
    assert layer == other
    with pytest.raises(ValueError, match=r"D has shape \(3,\); expected \(d_inner,\) = \(8,\)"):
        other.load_state_dict(layer.state_dict() | {"D": np.ones(3)})


def test_the_initial_step_sizes():
    layer = fusedrnn.Mamba(64, rng=0, dtype=np.float64)
    steps = np.log1p(np.exp(layer.params["dt_proj.bias"]))
    assert 1e-3 <= steps.min() < 2e-3
    assert 0.08 < steps.max() <= 0.1
    np.testing.assert_allclose(np.exp(layer.params["A_log"]), np.broadcast_to(np.arange(1, 17), (128, 16)))


@pytest.mark.parametrize("shape", [(0, 2, M), (3, 0, M), (0, 0, M)])
def test_empty(shape):
    layer = layer_of({})
    y, (conv, ssm), tape = layer.forward(np.ones(shape))
    assert (y.shape, conv.shape, ssm.shape) == (shape, (shape[1], 8, 4), (shape[1], 8, 16))
    grads = tape.backward(np.ones(shape))
    assert not any(g.any() for g in grads.params.values())


def test_a_tape_holds_no_states_of_all_steps():
    layer = fusedrnn.Mamba(16, rng=0)
    _, _, tape = layer.forward(np.ones((2048, 1, 16), np.float32))
    assert tape.nbytes < 12 * 2048 * layer.d_inner * 4  # the states of all steps alone would be 16 of these
    tape.release()
    assert tape.nbytes == 0


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "d_state", lambda layer: fusedrnn.Mamba(4, d_state=0)),
        (ValueError, "dt_init is 'zero'", lambda layer: fusedrnn.Mamba(4, dt_init="zero")),
        (ValueError, "dt_min is -1; expected a positive number", lambda layer: fusedrnn.Mamba(4, dt_min=-1)),
        (TypeError, "dt_rank", lambda layer: fusedrnn.Mamba(4, dt_rank="full")),
        (TypeError, "x has integers; expected floats", lambda layer: layer(np.zeros((5, 2), int))),
        (ValueError, "past_end is 'hold'", lambda layer: layer(np.ones((5, 2, 4)), lengths=[5, 2], past_end="hold")),
        (TypeError, r"state is an ndarray; expected a tuple \(conv, ssm\)",
         lambda layer: layer(np.ones((5, 2, 4)), np.ones(3))),
        (ValueError, r"state ssm has shape \(2, 8, 3\); expected \(B, d_inner, d_state\)",
         lambda layer: layer(np.ones((5, 2, 4)), (np.ones((2, 8, 4)), np.ones((2, 8, 3))))),
        (ValueError, "inspect is not available", lambda layer: layer.inspect(np.ones((5, 2, 4)))),
        (ValueError, "precision is 'int8'", lambda layer: layer.freeze("int8")),
        (ValueError, "stream of a layer that runs backwards",
         lambda layer: layer_of({"backwards": True}).freeze().stream()),
        (AttributeError, "d_state is fixed", lambda layer: setattr(layer, "d_state", 3)),
    ],
)  # fmt: skip
def test_errors(error, message, call):
    with pytest.raises(error, match=message):
        call(layer_of({}))
