"""Gradients through fusedrnn.interop.autograd: finite differences, the tape's gradients, and unsupported uses."""

import numpy as np
import pytest

import fusedrnn

pytest.importorskip("autograd", reason="autograd is not installed: pip install autograd")

import autograd.numpy as anp
from autograd import elementwise_grad, grad, make_vjp, value_and_grad
from autograd.test_util import check_grads

from fusedrnn.interop.autograd import apply

T, B, I, H = 5, 3, 2, 4
LENGTHS = [3, 5, 0]

LAYERS = {
    "RNN": lambda **o: fusedrnn.RNN(I, H, **o),
    "RNN relu": lambda **o: fusedrnn.RNN(I, H, nonlinearity="relu", **o),
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


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def total(*arrays):
    """A scalar to which every element of every array contributes differently."""
    return sum(anp.sum(anp.sin(a) * anp.arange(1.0, 1.0 + a.size).reshape(a.shape)) for a in arrays)


def problem(rng, name, **options):
    """A layer, x and an initial state."""
    layer = LAYERS[name](dtype="float64", rng=rng, **options)
    rows = layer.num_layers * (1 + layer.bidirectional)
    state = tuple(rng.standard_normal((rows, B, H)) for _ in range(2 if name in PAIRS else 1))
    return layer, rng.standard_normal((T, B, I)), state if name in PAIRS else state[0]


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["dense", "lengths"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["one", "two both ways"])
@pytest.mark.parametrize("name", LAYERS)
def test_finite_differences(name, options, lengths, rng):
    layer, x, state = problem(rng, name, **options)

    def loss(params, x, state):
        y, state_n = apply(layer, params, x, state, lengths=lengths)
        return total(y, *parts(state_n))

    check_grads(loss, modes=["rev"], order=1)(layer.params, x, state)


@pytest.mark.parametrize("name", LAYERS)
def test_bits_of_the_tape(name, rng):
    layer, x, state = problem(rng, name)
    y, state_n, tape = layer.forward(x, state)
    dy = rng.standard_normal(y.shape)
    dstate = tuple(rng.standard_normal(part.shape) for part in parts(state_n))
    expected = tape.backward(dy, dstate if name in PAIRS else dstate[0])

    def run(params, x, state):
        y, state_n = apply(layer, params, x, state)
        return anp.sum(y * dy) + sum(anp.sum(a * d) for a, d in zip(parts(state_n), dstate, strict=True))

    d_params, dx, d_state = grad(run, (0, 1, 2))(layer.params, x, state)
    np.testing.assert_array_equal(dx, expected.x)
    for mine, theirs in zip(parts(d_state), parts(expected.state), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert list(d_params) == list(layer.params)
    for key, d in d_params.items():
        np.testing.assert_array_equal(d, expected.params[key])


def test_one_forward_and_one_backward(monkeypatch):
    counted = []
    for owner, method in ((fusedrnn.LSTM, "forward"), (fusedrnn.Tape, "backward")):
        original = getattr(owner, method)

        def counting(self, *args, _original=original, _method=method, **kwargs):
            counted.append((_method, kwargs))
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(owner, method, counting)
    layer = fusedrnn.LSTM(I, H, rng=0)
    value_and_grad(lambda p: anp.sum(apply(layer, p, np.ones((T, B, I)))[0]))(layer.params)
    assert [method for method, _ in counted] == ["forward", "backward"]
    assert counted[1][1] == {"need_dx": False}  # dx is not requested


def test_untraced_is_inference(rng):
    layer = fusedrnn.GRU(I, H, num_layers=2, dropout=0.5, rng=1)
    x = rng.standard_normal((T, B, I))
    for given in (layer.params, None):
        for mine, theirs in zip(apply(layer, given, x), layer(x), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert isinstance(apply(layer, None, x)[0], np.ndarray)


def test_traced_drops_out_from_the_layers_rng(rng):
    x = rng.standard_normal((T, B, I))
    drawn = []
    for _ in range(2):
        layer = fusedrnn.GRU(I, H, num_layers=2, dropout=0.5, rng=1)
        drawn.append(grad(lambda x, layer=layer: anp.sum(apply(layer, None, x)[0]))(x))
    layer = fusedrnn.GRU(I, H, num_layers=2, dropout=0.5, rng=1)
    y, _, tape = layer.forward(x)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], tape.backward(np.ones_like(y)).x)


def test_own_parameters_are_left_alone(rng):
    layer, x, _ = problem(rng, "LSTM")
    others = {name: 2 * w for name, w in layer.params.items()}
    before = layer.state_dict()
    twin = fusedrnn.LSTM(I, H, dtype="float64")
    twin.load_state_dict(others)
    np.testing.assert_array_equal(apply(layer, others, x)[0], twin(x)[0])
    grad(lambda p: anp.sum(apply(layer, p, x)[0]))(others)
    for name, w in before.items():
        np.testing.assert_array_equal(layer.params[name], w)


def test_states_carried_on_are_differentiated_through(rng):
    """Two halves, the second starting from the final state of the first, have the gradients of the whole sequence."""
    layer, x, _ = problem(rng, "LSTM")

    def whole(params):
        return total(apply(layer, params, x)[0])

    def halves(params):
        first, state = apply(layer, params, x[:2])
        second, _ = apply(layer, params, x[2:], state)
        return total(anp.concatenate([first, second]))

    a, b = grad(whole)(layer.params), grad(halves)(layer.params)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_cells(name, rng):
    cell = getattr(fusedrnn, f"{name}Cell")(I, H, dtype="float64", rng=0)
    state = tuple(rng.standard_normal((B, H)) for _ in range(2 if name in PAIRS else 1))

    def loss(params, x, state):
        for _ in range(2):
            state = apply(cell, params, x, state)
        return total(*parts(state))

    x = rng.standard_normal((B, I))
    check_grads(loss, modes=["rev"], order=1)(cell.params, x, state if name in PAIRS else state[0])


def test_stacks(rng):
    stack = fusedrnn.Stack([fusedrnn.LSTM(I, H, dtype="float64"), fusedrnn.GRU(H, 3, dtype="float64")])
    x = rng.standard_normal((T, B, I))

    def loss(params, x):
        y, state = apply(stack, params, x)
        y, ((h, c), g) = apply(stack, params, x, state)
        return total(y, h, c, g)

    check_grads(loss, modes=["rev"], order=1)(dict(stack.params), x)
    with pytest.raises(ValueError, match="Stack: params has 'w', which is no parameter of this object"):
        apply(stack, {"w": x}, x)


def test_lists_of_sequences(rng):
    layer, _, _ = problem(rng, "GRU", bidirectional=True)
    xs = [rng.standard_normal((n, I)) for n in (3, 1, 5)]

    def loss(params, xs):
        ys, h = apply(layer, params, xs)
        assert isinstance(ys, list)
        return total(*ys, h)

    check_grads(loss, modes=["rev"], order=1)(layer.params, xs)


def test_values_and_lengths(rng):
    layer, _, state = problem(rng, "LSTM", num_layers=2, bidirectional=True)
    B = parts(state)[0].shape[1]
    lengths = np.arange(B) + 1
    values = rng.standard_normal((int(lengths.sum()), I))

    def loss(params, values, state):
        y, state_n = apply(layer, params, (values, lengths), state)
        return total(y, *parts(state_n))

    check_grads(loss, modes=["rev"], order=1)(layer.params, values, state)

    def of_pair(params, pair):
        y, _ = apply(layer, params, pair)
        return anp.sum(y**2)

    y, _, tape = layer.forward((values, lengths))
    expected = tape.backward(2 * y)
    np.testing.assert_array_equal(grad(of_pair)(layer.params, (values, lengths))["weight_ih_l0"],
                                  expected.params["weight_ih_l0"])  # fmt: skip
    d_values = grad(lambda v: of_pair(layer.params, (v, lengths.tolist())))(values)
    np.testing.assert_array_equal(d_values, expected.x)
    assert apply(layer, layer.params, (np.zeros(3, int), [1, 2]))[0].shape == (3, y.shape[1])


def test_merge_none(rng):
    layer, x, _ = problem(rng, "GRU", bidirectional=True, merge=None)

    def loss(params, x):
        (ahead, back), _ = apply(layer, params, x)
        return total(ahead, 2 * back)

    check_grads(loss, modes=["rev"], order=1)(layer.params, x)


def test_tokens(rng):
    layer = fusedrnn.LSTM(7, H, dtype="float64")
    x = rng.integers(0, 7, (T, B))
    check_grads(lambda p: total(apply(layer, p, x)[0]), modes=["rev"], order=1)(layer.params)


def test_dtypes_of_the_arguments(rng):
    layer = fusedrnn.GRU(I, H)
    params = {name: w.astype(np.float64) for name, w in layer.params.items()}
    x = rng.standard_normal((T, B, I)).astype(np.float16)
    d_params, dx = grad(lambda p, x: anp.sum(apply(layer, p, x)[0]), (0, 1))(params, x)
    assert {d.dtype for d in d_params.values()} == {np.dtype(np.float64)}
    assert dx.dtype == np.float16


def test_vjp_may_be_used_again(rng):
    layer, x, _ = problem(rng, "GRU")
    vjp, y = make_vjp(lambda x: apply(layer, None, x)[0])(x)
    g = rng.standard_normal(y.shape)
    np.testing.assert_array_equal(vjp(g), vjp(g))


def test_twice_is_refused(rng):
    layer, x, _ = problem(rng, "GRU")
    first = elementwise_grad(lambda x: apply(layer, None, x)[0])
    with pytest.raises(NotImplementedError, match="GRU: differentiated twice; expected once"):
        elementwise_grad(first)(x)


def test_errors(rng):
    layer, x, _ = problem(rng, "GRU")
    with pytest.raises(TypeError, match=r"GRU: params is a list; expected a mapping of names to arrays, or None"):
        apply(layer, [1, 2], x)
    with pytest.raises(ValueError, match="GRU: params has no weight_hh_l0"):
        grad(lambda w: anp.sum(apply(layer, {"weight_ih_l0": w}, x)[0]))(layer.weight_ih_l0)
    with pytest.raises(ValueError, match=r"GRU: x has shape"):
        grad(lambda x: anp.sum(apply(layer, None, x)[0]))(x[..., :1])


@pytest.mark.parametrize("options", [{"learned_state": True}, {"bidirectional": True, "num_layers": 2}], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_differences_with_masks_and_resets(name, options, rng):
    """The given state, the learned state, the weights and x."""
    layer, x, state = problem(rng, name, **options)
    steps = {"mask": rng.random((T, B)) < 0.8, "reset": rng.random((T, B)) < 0.4}

    def loss(params, x, state):
        y, state_n = apply(layer, params, x, state, **steps)
        return total(y, *parts(state_n))

    check_grads(loss, modes=["rev"], order=1)(dict(layer.params), x, state)
