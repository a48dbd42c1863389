"""Gradients through fusedrnn.interop.jax: the tape's bits, finite differences, jit, vmap, scan; unsupported uses."""

import numpy as np
import pytest

import fusedrnn

pytest.importorskip("jax", reason="jax is not installed: pip install jax")

import jax
import jax.numpy as jnp
from jax.test_util import check_grads

from fusedrnn.interop import jax as bridge
from fusedrnn.interop.jax import apply

T, B, I, H = 5, 3, 2, 4
LENGTHS = [3, 5, 0]
LAYERS = {
    "RNN": lambda **o: fusedrnn.RNN(I, H, **o),
    "GRU": lambda **o: fusedrnn.GRU(I, H, **o),
    "GRU reset before": lambda **o: fusedrnn.GRU(I, H, reset_after=False, **o),
    "LSTM": lambda **o: fusedrnn.LSTM(I, H, **o),
    "MinGRU": lambda **o: fusedrnn.MinGRU(I, H, activation="tanh", **o),
    "MinLSTM": lambda **o: fusedrnn.MinLSTM(I, H, activation="identity", **o),
    "IndRNN": lambda **o: fusedrnn.IndRNN(I, H, nonlinearity="tanh", **o),
    "QRNN": lambda **o: fusedrnn.QRNN(I, H, **o),
    "QRNN window": lambda **o: fusedrnn.QRNN(I, H, window=3, **o),
    "SRU": lambda **o: fusedrnn.SRU(I, H, **o),
    "LRU": lambda **o: fusedrnn.LRU(I, H, **o),
    "RGLRU": lambda **o: fusedrnn.RGLRU(I, H, **o),
}
#: Those whose state is (h, c).
PAIRS = ("LSTM", "QRNN", "QRNN window", "SRU")


enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64  # before JAX 0.8


@pytest.fixture(autouse=True)
def x64():
    with enable_x64(True):
        yield


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def problem(rng, name, dtype="float64", **options):
    layer = LAYERS[name](dtype=dtype, rng=rng, **options)
    rows = layer.num_layers * (1 + layer.bidirectional)
    state = tuple(rng.standard_normal((rows, B, H)).astype(dtype) for _ in range(2 if name in PAIRS else 1))
    return layer, rng.standard_normal((T, B, I)).astype(dtype), state if name in PAIRS else state[0]


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["dense", "lengths"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["one", "two both ways"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_bits_of_the_layer(name, dtype, options, lengths, jitted, rng):
    layer, x, state = problem(rng, name, dtype, **options)
    y, state_n, tape = layer.forward(x, state, lengths=lengths)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dstate = tuple(rng.standard_normal(part.shape).astype(dtype) for part in parts(state_n))
    expected = tape.backward(dy, dstate if name in PAIRS else dstate[0])

    def run(params, x, state):
        return apply(layer, params, x, state, lengths=lengths)

    def gradients(params, x, state):
        out, vjp = jax.vjp(run, params, x, state)
        return out, vjp((dy, dstate if name in PAIRS else dstate[0]))

    if jitted:
        run, gradients = jax.jit(run), jax.jit(gradients)
    for got in (run(layer.params, x, state), gradients(layer.params, x, state)[0]):
        np.testing.assert_array_equal(got[0], y)
        for a, b in zip(parts(got[1]), parts(state_n), strict=True):
            np.testing.assert_array_equal(a, b)
    d_params, dx, d_state = gradients(layer.params, x, state)[1]
    np.testing.assert_array_equal(dx, expected.x)
    assert dx.dtype == dtype
    for a, b in zip(parts(d_state), parts(expected.state), strict=True):
        np.testing.assert_array_equal(a, b)
    for key, d in expected.params.items():
        np.testing.assert_array_equal(d_params[key], d)


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_lengths(name, jitted, rng):
    layer, _, state = problem(rng, name, num_layers=2, bidirectional=True)
    lengths = np.arange(B) + 1
    values = rng.standard_normal((int(lengths.sum()), I))
    y, state_n, tape = layer.forward((values, lengths), state)
    dy = rng.standard_normal(y.shape)
    expected = tape.backward(dy)

    def gradients(params, values, lengths, state):
        (y, state_n), vjp = jax.vjp(lambda p, v, s: apply(layer, p, (v, lengths), s), params, values, state)
        return y, state_n, vjp((dy, jax.tree.map(jnp.zeros_like, state_n)))

    run = jax.jit(gradients) if jitted else gradients
    got, got_state, (d_params, d_values, _) = run(layer.params, values, lengths, state)
    np.testing.assert_array_equal(got, y)
    for a, b in zip(parts(got_state), parts(state_n), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(d_values, expected.x)
    for key, d in expected.params.items():
        np.testing.assert_array_equal(d_params[key], d)
    other = np.ascontiguousarray(lengths[::-1])  # the same compiled function, as the shapes are the same
    np.testing.assert_array_equal(run(layer.params, values, other, state)[0], layer((values, other), state)[0])
    with pytest.raises(TypeError, match="x is a tuple of arrays"):
        apply(layer, None, (values, values))
    with pytest.raises(Exception, match="sum to"):
        jax.block_until_ready(apply(layer, None, (values, lengths + 1)))


@pytest.mark.parametrize("name", LAYERS)
def test_finite_differences(name, rng):
    layer, x, state = problem(rng, name)

    def loss(params, x, state):
        y, state_n = apply(layer, params, x, state, lengths=jnp.asarray(LENGTHS))
        return jnp.sum(jnp.sin(y)) + sum(jnp.sum(part**2) for part in parts(state_n))

    check_grads(jax.jit(loss), (dict(layer.params), x, state), order=1, modes=["rev"])


def test_backward_runs_forward_again_where_the_tape_is_gone(rng):
    layer, x, _ = problem(rng, "GRU", num_layers=2, dropout=0.5)
    y, vjp = jax.vjp(lambda x: apply(layer, None, x, key=jax.random.key(3))[0], x)
    first = vjp(y)[0]
    again = vjp(y)[0]  # the tape is used up
    np.testing.assert_array_equal(first, again)
    vjps = [jax.vjp(lambda x: apply(layer, None, x)[0], x)[1] for _ in range(bridge.MOST_TAPES + 3)]
    assert len(bridge._tapes) <= bridge.MOST_TAPES
    for other in vjps:
        np.testing.assert_array_equal(other(y)[0], vjps[0](y)[0])


def test_dropout_takes_a_key(rng):
    layer, x, _ = problem(rng, "GRU", num_layers=2, dropout=0.5)

    @jax.jit
    def run(key):
        return apply(layer, None, x, key=key)[0]

    a, b, c = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    np.testing.assert_array_equal(apply(layer, None, x)[0], layer(x)[0])
    dx = jax.grad(lambda x: apply(layer, None, x)[0].sum())(x)  # without a key there is no dropout
    layer.dropout = 0.0
    y, _, tape = layer.forward(x)
    np.testing.assert_array_equal(dx, tape.backward(np.ones_like(y)).x)


def test_vmap_and_scan(rng):
    layer, x, _ = problem(rng, "LSTM")
    xs = jnp.stack([x, 2 * x, 3 * x])
    d = jax.vmap(jax.grad(lambda x: apply(layer, None, x)[0].sum()))(xs)
    for one, dx in zip(xs, d, strict=True):
        np.testing.assert_array_equal(dx, jax.grad(lambda x: apply(layer, None, x)[0].sum())(one))

    def chunks(params):
        def step(state, x):
            y, state = apply(layer, params, x, state)
            return state, y

        zeros = (jnp.zeros((1, B, H)),) * 2
        return jax.lax.scan(step, zeros, x[:, None])[1].sum()

    whole = jax.grad(lambda p: apply(layer, p, x)[0].sum())(layer.params)
    parts_ = jax.jit(jax.grad(chunks))(layer.params)
    for key in whole:
        np.testing.assert_allclose(parts_[key], whole[key], rtol=1e-12, atol=1e-12)


def test_tokens(rng):
    layer = fusedrnn.GRU(7, H, dtype="float64")
    x = rng.integers(0, 7, (T, B))
    y, _, tape = layer.forward(x)
    d = jax.jit(jax.grad(lambda p: apply(layer, p, x)[0].sum()))(layer.params)
    np.testing.assert_array_equal(d["weight_ih_l0"], tape.backward(np.ones_like(y)).params["weight_ih_l0"])
    with pytest.raises(Exception, match="IndexError: GRU: x holds token 9"):
        jax.block_until_ready(apply(layer, None, np.full((T, B), 9)))


def test_tokens_of_a_large_vocabulary(rng):
    layer = fusedrnn.LSTM(5000, H, dtype="float64", bidirectional=True)
    x = rng.integers(0, 5000, (T, B))
    y, _, tape = layer.forward(x)
    y_jax, _ = jax.jit(lambda p: apply(layer, p, x))(layer.params)
    np.testing.assert_array_equal(y_jax, y)
    d = jax.jit(jax.grad(lambda p: apply(layer, p, x)[0].sum()))(layer.params)
    for name, expected in tape.backward(np.ones_like(y)).params.items():
        np.testing.assert_array_equal(d[name], expected, err_msg=name)


def test_one_number_for_one_configuration(rng):
    layer, x, _ = problem(rng, "GRU")
    apply(layer, None, x)
    before = len(bridge._calls)
    apply(layer, None, 2 * x)
    apply(LAYERS["GRU"](dtype="float64"), None, x)
    assert len(bridge._calls) == before


def test_errors(rng):
    layer, x, _ = problem(rng, "GRU")
    with pytest.raises(TypeError, match="apply: layer is a GRUCell; expected an RNN, GRU or LSTM"):
        apply(fusedrnn.GRUCell(2, 3), None, x)
    with pytest.raises(TypeError, match="GRU: params is a list; expected a mapping"):
        apply(layer, [1], x)
    with pytest.raises(ValueError, match="GRU: x has shape"):
        apply(layer, None, x[..., :1])
    with enable_x64(False), pytest.raises(ValueError, match="GRU: dtype is float64 while jax_enable_x64 is off"):
        apply(layer, None, x)


def test_another_abi_is_refused():
    """A frame of another layout must not be read; the handler reports it as an XLA error."""
    import ctypes

    from fusedrnn.interop import _xla_ffi as ffi

    messages = []

    @ffi._CREATE_ERROR
    def create(wanted):
        messages.append(wanted.contents.message.decode())
        return 1

    api = ffi._Api(create_error=create)
    frame = ffi._CallFrame(struct_size=8, api=ctypes.pointer(api), stage=ffi.EXECUTE)
    for api.version.major, api.version.minor in ((1, 0), (0, 3)):  # the second frame is too short
        assert bridge._infer_handler(ctypes.byref(frame)) == 1
    assert "foreign function interface is version 1.0, frames of 8 bytes; expected 0.1 or a later 0.x" in messages[0]
    assert "version 0.3, frames of 8 bytes" in messages[1]


def test_versions_of_the_abi():
    """Minor versions are compatible in both directions; other major versions are refused before XLA gets a handler."""
    from fusedrnn.interop import _xla_ffi as ffi

    header = "#define XLA_FFI_API_MAJOR {}\n// ...\n#define XLA_FFI_API_MINOR {}\n"
    assert ffi.read_version(header.format(0, 12)) == (0, 12)
    assert [ffi.claimed(version) for version in ((0, 1), (0, 2), (0, 3), (0, 12))] == [(0, 1), (0, 2), (0, 3), (0, 3)]
    for version in ((0, 0), (1, 0), (1, 4), (2, 1)):
        with pytest.raises(ImportError, match=rf"version {version[0]}\.{version[1]}; expected 0\.1 or a later 0\.x"):
            ffi.claimed(version)
    with pytest.raises(ImportError, match="unknown"):
        ffi.read_version("")
    assert ffi.claimed(ffi._version()) <= ffi.NEWEST


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("options", [{"learned_state": True}, {"bidirectional": True}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_masks_and_resets(name, options, jitted, rng):
    """The bits of the layer, with a given state; flags may be traced."""
    layer, x, state = problem(rng, name, **options)
    mask, reset = rng.random((T, B)) < 0.7, rng.random((T, B)) < 0.4
    if options.get("batch_first"):
        x, mask, reset = x.swapaxes(0, 1), mask.T, reset.T
    y, state_n, tape = layer.forward(x, state, mask=mask, reset=reset)
    dy = rng.standard_normal(y.shape)
    dstate = tuple(np.zeros_like(part) for part in parts(state_n))
    expected = tape.backward(dy, dstate if name in PAIRS else dstate[0])

    def run(params, x, state, mask, reset):
        return apply(layer, params, x, state, mask=mask, reset=reset)

    def loss(*arguments):
        return jnp.sum(run(*arguments)[0] * dy)

    gradient = jax.grad(loss, argnums=(0, 1, 2))
    if jitted:
        run, gradient = jax.jit(run), jax.jit(gradient)
    arguments = layer.params, x, state, mask, reset
    assert np.array_equal(run(*arguments)[0], y)
    dparams, dx, dstate_0 = gradient(*arguments)
    assert np.array_equal(dx, expected.x)
    for mine, theirs in zip(parts(dstate_0), parts(expected.state), strict=True):
        assert np.array_equal(mine, theirs)
    for key, d in expected.params.items():
        assert np.array_equal(dparams[key], d), key


def test_flags_that_are_no_bools_are_refused(rng):
    layer, x, state = problem(rng, "GRU")
    with pytest.raises(TypeError, match="GRU: reset has dtype float64; expected bool"):
        apply(layer, None, x, state, reset=np.zeros((T, B)))
