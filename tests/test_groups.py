"""Groups of layers: stacks of any layers, two different directions, ensembles; all equal their members."""

import copy
import itertools
import pickle
from typing import Any, cast

import numpy as np
import pytest

import fusedrnn
from fusedrnn import GRU, LSTM, RNN, Bidirectional, Ensemble, Stack, calling, unroll
from problems import assert_same_bits

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def make_stack(dtype: Any = "float32", batch_first: bool = False, dropout: float = 0.0) -> Any:
    common: dict[str, Any] = {"dtype": dtype, "batch_first": batch_first}
    layers = [
        LSTM(3, 8, 2, bidirectional=True, rng=1, **common),
        GRU(16, 5, bidirectional=True, merge="mul", rng=2, **common),
        Stack([RNN(5, 7, rng=3, **common), GRU(7, 4, reset_after=False, rng=4, **common)]),
    ]
    return Stack(layers, dropout, rng=5)


def make_one_way(dtype: Any = "float32") -> Any:
    return Stack([LSTM(3, 8, 2, dtype=dtype, rng=1), GRU(8, 5, dtype=dtype, rng=2), RNN(5, 6, dtype=dtype, rng=3)])


def options(rng: np.random.Generator, T: int, B: int, batch_first: bool) -> list[dict[str, Any]]:
    mask, reset, lengths = rng.random((T, B)) < 0.6, rng.random((T, B)) < 0.3, rng.integers(0, T + 1, B)
    mask, reset = (mask.T, reset.T) if batch_first else (mask, reset)
    return [{}, {"lengths": lengths}, {"lengths": lengths, "mask": mask, "reset": reset, "past_end": "hold"}]


def gradient_like(rng: np.random.Generator, value: Any) -> Any:
    """Random numbers in the structure of a result."""
    if isinstance(value, (tuple, list)):
        return type(value)(gradient_like(rng, item) for item in value)
    return rng.standard_normal(value.shape).astype(value.dtype)


# ---- a stack


@DTYPES
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("tokens", [False, True])
def test_a_stack_is_its_layers_one_after_the_other(dtype, batch_first, which, tokens, rng):
    net = make_stack(dtype, batch_first)
    T, B = 9, 4
    given = options(rng, T, B, batch_first)[which]
    x: Any = rng.integers(0, 3, (T, B)) if tokens else rng.standard_normal((T, B, 3)).astype(dtype)
    x = x.swapaxes(0, 1) if batch_first else x
    _, like = net(x)
    state = gradient_like(rng, like)
    y, state_n = net(x, state, **given)
    again, finals, tape = net.forward(x, state, **given)
    assert_same_bits([again, finals], [y, state_n], "forward")
    dy, dstate = gradient_like(rng, y), gradient_like(rng, state_n)
    grads = tape.backward(dy, dstate)

    below, tapes = x, []
    for k, (layer, s) in enumerate(zip(net.layers, state, strict=True)):
        own = given if k == 2 else {name: value for name, value in given.items() if name != "past_end"}
        below, final, kept = layer.forward(below, s, **own)
        assert_same_bits(state_n[k], final, f"state {k}")
        tapes.append(kept)
    assert_same_bits(y, below, "y")
    for k in (2, 1, 0):
        expected = tapes[k].backward(dy, dstate[k])
        dy = expected.x
        assert_same_bits(grads.state[k], expected.state, f"dstate {k}")
        for name, value in expected.params.items():
            assert_same_bits(grads.params[f"{k}.{name}"], value, name)
    assert_same_bits(grads.x, dy, "dx")
    assert list(grads.params) == list(net.params) == list(net.state_dict())
    if not tokens:
        assert tape.backward(y, need_dx=False).x is None


@DTYPES
@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_equal_layers_in_a_stack_are_a_layer_of_several(kind, dtype, rng):
    layer = kind(3, 6, num_layers=3, dropout=0.4, dtype=dtype, rng=7)
    net = Stack([kind(n, 6, dtype=dtype) for n in (3, 6, 6)], dropout=0.4)
    for name, array in layer.state_dict().items():
        stem, _, k = name.rpartition("_l")
        net.params[f"{k}.{stem}_l0"][:] = array
    x, lengths = rng.standard_normal((8, 5, 3)).astype(dtype), [8, 0, 3, 8, 5]
    net.rng = layer.rng = np.random.default_rng(3)
    y, _, tape = layer.forward(x, lengths=lengths)
    layer.rng = net.rng = np.random.default_rng(3)
    y_net, _, tape_net = net.forward(x, lengths=lengths)
    assert_same_bits(y_net, y, "y")
    dy = gradient_like(rng, y)
    grads, grads_net = tape.backward(dy), tape_net.backward(dy)
    assert_same_bits(grads_net.x, grads.x, "dx")
    assert_same_bits(list(grads_net.params.values()), list(grads.params.values()), "parameters")
    assert tape_net.nbytes == tape.nbytes


def test_a_stack_takes_a_list(rng):
    net = make_stack(dropout=0.5)
    xs = [rng.standard_normal((n, 3)).astype("f4") for n in (5, 0, 7)]
    ys, states = net(xs)
    for b, x in enumerate(xs):
        y, state = net(x)
        assert_same_bits(ys[b], y, f"y of row {b}")
        assert_same_bits(states[1][:, b], state[1], f"state of row {b}")
    ys, _, tape = net.forward(xs)
    grads = tape.backward(gradient_like(rng, ys))
    assert [g.shape for g in grads.x] == [x.shape for x in xs]


def test_dropout_of_a_stack_has_exact_gradients(rng):
    net = make_stack("float64", dropout=0.3)
    x, dy = rng.standard_normal((6, 3, 3)), rng.standard_normal((6, 3, 4))

    def loss(x: Any) -> float:
        net.rng = np.random.default_rng(8)
        return float((net.forward(x)[0] * dy).sum())

    net.rng = np.random.default_rng(8)
    _, _, tape = net.forward(x)
    direction = rng.standard_normal(x.shape)
    slope = (loss(x + 1e-5 * direction) - loss(x - 1e-5 * direction)) / 2e-5
    assert slope == pytest.approx(float((tape.backward(dy).x * direction).sum()), rel=1e-6)
    assert np.abs(net(x)[0] - net.forward(x)[0]).max() > 0.01


def test_gradients_of_a_lower_state_alone(rng):
    net = make_one_way("float64")
    x = rng.standard_normal((6, 3, 3))
    _, state, tape = net.forward(x)
    dh = gradient_like(rng, state[1])
    grads = tape.backward(dstate=(None, dh, None))
    assert not any(grads.params[name].any() for name in grads.params if name.startswith("2."))
    assert not grads.state[2].any()
    lower = Stack(net.layers[:2])
    expected = lower.forward(x)[2].backward(dstate=(None, dh))
    assert_same_bits(grads.x, expected.x, "dx")
    with pytest.raises(ValueError, match="Stack: backward got neither dy nor dstate"):
        tape.backward(dstate=(None, None, None))
    with tape:
        pass
    with pytest.raises(ValueError, match="Stack: this tape was released"):
        tape.backward(dstate=(None, dh, None))
    assert tape.nbytes == 0


def test_stacks_save_load_copy_compare_and_print():
    net = make_stack()
    assert repr(net) == (
        "Stack([LSTM(3, 8, num_layers=2, bidirectional=True), GRU(16, 5, bidirectional=True, merge='mul'), "
        "Stack([RNN(5, 7), GRU(7, 4, reset_after=False)])])"
    )
    assert repr(make_stack(dropout=0.5)).endswith("], dropout=0.5)")
    assert (net.input_size, net.output_size, net.dtype, net.batch_first) == (3, 4, np.float32, False)
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert other == net
        other.params["2.1.bias_ih_l0"] += 1
        assert other != net
        report = other.load_state_dict(net.state_dict())
        assert other == net
        assert report == ([], [])
    assert copy.copy(net).layers[0] is net.layers[0]
    assert net != make_stack(dropout=0.5)
    saved = net.state_dict()
    saved["0.weight_ih_l0"] = np.zeros((2, 2))
    saved["x"] = saved.pop("1.bias_ih_l0")
    before = net.state_dict()
    with pytest.raises(
        ValueError, match=r"missing: 1\.bias_ih_l0 \| unexpected: x \| 0\.weight_ih_l0 has shape \(2, 2\)"
    ):
        net.load_state_dict(saved)
    assert_same_bits(net.state_dict(), before, "unchanged")


def test_parameters_of_a_stack_are_live():
    net = make_one_way()
    w = net.params["1.weight_hh_l0"]
    assert w is net.layers[1].weight_hh_l0
    new = np.zeros_like(w)
    net.params["1.weight_hh_l0"] = new
    assert net.layers[1].weight_hh_l0 is new
    assert len(net.params) == 8 + 4 + 4
    assert "1.weight_hh_l0" in net.params
    assert "3.weight_hh_l0" not in net.params
    with pytest.raises(KeyError):
        net.params["weight"] = new
    with pytest.raises(TypeError, match="cannot be deleted"):
        del net.params["1.weight_hh_l0"]
    with pytest.raises(AttributeError, match="Stack: input_size is fixed"):
        net.input_size = 4
    net.dropout = 0.5
    with pytest.raises(ValueError, match="expected 0 <= dropout < 1"):
        net.dropout = 1.5


@pytest.mark.parametrize("which", range(3))
def test_frozen_stacks(which, rng):
    net = make_stack()
    frozen = net.freeze()
    x = rng.standard_normal((9, 4, 3)).astype("f4")
    given = options(rng, 9, 4, False)[which]
    expected = net(x, **given)
    out = np.empty_like(expected[0])
    y, state = frozen(x, out=out, **given)
    assert y is out
    assert_same_bits([y, state], list(expected), "frozen")
    thawed = pickle.loads(pickle.dumps(frozen))
    assert thawed == frozen == copy.deepcopy(frozen)
    assert_same_bits(list(thawed(x, **given)), list(expected), "thawed")
    assert repr(frozen) == f"<frozen {net!r}, float32, {frozen.isa}>"
    assert frozen.params.keys() == net.params.keys()
    assert frozen.nbytes > sum(array.nbytes for array in net.params.values())
    with pytest.raises(AttributeError, match="frozen Stack: precision cannot be set"):
        frozen.precision = "float64"
    with pytest.raises(ValueError, match="out overlaps x"):
        Stack([RNN(3, 3), RNN(3, 3)]).freeze()(x, out=x)


@DTYPES
def test_streams_of_stacks(dtype, rng):
    net = make_one_way(dtype)
    x = rng.standard_normal((9, 4, 3)).astype(dtype)
    y, state = net(x)
    stream = net.freeze().stream(4)
    out = np.empty((4, 6), dtype)
    for t, x_t in enumerate(x):
        if t == 5:
            stream = pickle.loads(pickle.dumps(copy.copy(stream)))
        assert stream.step(x_t, out=out) is out
        assert_same_bits(out, y[t], f"step {t}")
    assert_same_bits(stream.state, state, "state")
    stream.reset(np.array([True, False, True, False]))
    assert not stream.state[1][:, [0, 2]].any()
    assert_same_bits(stream.state[1][:, [1, 3]], state[1][:, [1, 3]], "kept rows")
    stream.state = None
    assert not stream.state[1].any()
    assert stream.batch_size == 4
    with pytest.raises(ValueError, match="stream of a bidirectional layer"):
        make_stack().freeze().stream()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Stack([]), ValueError, "Stack: layers is empty; expected at least one layer"),
        (lambda: Stack(GRU(3, 4)), TypeError, "Stack: layers is a GRU; expected a sequence of layers"),
        (
            lambda: Stack([1]),
            TypeError,
            "Stack: layers[0] is an int; expected a layer, or a group of layers",
        ),
        (
            lambda: Stack([GRU(3, 4), RNN(5, 6)]),
            ValueError,
            "Stack: RNN(5, 6) has input_size 5; expected 4, the width of GRU(3, 4)",
        ),
        (
            lambda: Stack([GRU(3, 4), GRU(4, 4, dtype="f8")]),
            TypeError,
            "Stack: layers[1] has dtype float64; expected float32, that of layers[0]",
        ),
        (
            lambda: Stack([GRU(3, 4), GRU(4, 4, batch_first=True)]),
            ValueError,
            "Stack: layers[1] has batch_first=True; expected False, as layers[0] has",
        ),
        (
            lambda: Stack([GRU(3, 4, bidirectional=True, merge=None), GRU(4, 4)]),
            ValueError,
            "Stack: GRU(3, 4, bidirectional=True, merge=None) has merge=None, so puts out a pair; expected that of the "
            "last layer alone",
        ),
        (lambda: Stack([GRU(3, 4)], 1.0), ValueError, "Stack: dropout is 1.0; expected 0 <= dropout < 1"),
    ],
)
def test_stacks_that_cannot_be(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


def test_a_layer_twice_is_refused():
    layer = GRU(3, 3)
    with pytest.raises(ValueError, match=r"layers\[2\] is layers\[0\]; expected a layer of its own"):
        Stack([layer, GRU(3, 3), layer])
    with pytest.warns(UserWarning, match="dropout=0.5 does nothing with one layer"):
        Stack([layer], 0.5)


def test_wrong_states_of_a_stack_are_refused():
    net, x = make_one_way(), np.zeros((2, 1, 3), np.float32)
    for call in (net, net.forward, net.freeze()):
        with pytest.raises(TypeError, match="Stack: state is an ndarray; expected a tuple of 3, one for each layer"):
            call(x, np.zeros((1, 1, 8)))
        with pytest.raises(ValueError, match="Stack: state has 2 entries; expected 3, one for each layer"):
            call(x, (None, None))
        with pytest.raises(ValueError, match=r"GRU: state h has shape \(1, 1, 4\)"):
            call(x, (None, np.zeros((1, 1, 4)), None))


def test_the_last_layer_of_a_stack_may_put_out_a_pair(rng):
    net = Stack([GRU(3, 4), GRU(4, 5, bidirectional=True, merge=None)])
    x = rng.standard_normal((6, 2, 3)).astype("f4")
    (first, second), _, tape = net.forward(x)
    assert first.shape == second.shape == (6, 2, 5)
    assert tape.backward((first, None)).x.shape == x.shape
    assert net.merge is None


def test_threads_change_no_bit_of_a_stack(rng):
    net = Stack([LSTM(64, 120, rng=1), GRU(120, 90, bidirectional=True, rng=2)])
    x = rng.standard_normal((12, 20, 64)).astype("f4")
    results = []
    for n in (1, 2, 5):
        with fusedrnn.threads(n):
            y, state, tape = net.forward(x)
            grads = tape.backward(y, state)
            results.append([y, state, grads.x, grads.state, grads.params])
    for one, other in itertools.pairwise(results):
        assert_same_bits(other, one, "threads")


# ---- two directions

MERGES = pytest.mark.parametrize("merge", ["concat", "sum", "mean", "mul", None])
SUFFIXES = {"forward": "", "backward": "_reverse"}


def make_two_ways(merge: Any = "concat", dtype: Any = "float32", batch_first: bool = False) -> Any:
    common: dict[str, Any] = {"dtype": dtype, "batch_first": batch_first}
    H = 6 if merge in ("concat", None) else 4
    return Bidirectional(
        LSTM(3, 4, peephole="ifo", rng=1, **common), GRU(3, H, 2, learned_state=True, rng=2, **common), merge
    )


@DTYPES
@MERGES
@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_two_equal_layers_are_a_bidirectional_one(kind, merge, dtype, rng):
    layer = kind(3, 5, bidirectional=True, merge=merge, dtype=dtype, rng=1)
    net = Bidirectional(kind(3, 5, dtype=dtype), kind(3, 5, dtype=dtype), merge)
    for name in net.params:
        way, _, rest = name.partition(".")
        net.params[name][:] = layer.params[rest + SUFFIXES[way]]
    x = rng.standard_normal((7, 4, 3)).astype(dtype)
    for given in options(rng, 7, 4, False):
        _, like = layer(x)
        state = gradient_like(rng, like)
        parts = state if kind is LSTM else (state,)

        def own(parts: Any, single: bool = kind is not LSTM) -> Any:
            pairs = [tuple(part[k : k + 1] for part in parts) for k in (0, 1)]
            return tuple(pair[0] if single else pair for pair in pairs)

        y, end, tape = layer.forward(x, state, **given)
        y_net, end_net, tape_net = net.forward(x, own(parts), **given)
        assert_same_bits(y_net, y, "y")
        assert_same_bits(end_net, own(end if kind is LSTM else (end,)), "state")
        assert_same_bits(net(x, own(parts), **given), (y, end_net), "inference")
        assert tape_net.nbytes == tape.nbytes
        dy, dend = gradient_like(rng, y), gradient_like(rng, end_net)
        joined = tuple(np.concatenate(p) for p in zip(*dend, strict=True)) if kind is LSTM else np.concatenate(dend)
        grads, grads_net = tape.backward(dy, joined), tape_net.backward(dy, dend)
        np.testing.assert_allclose(grads_net.x, grads.x, rtol=0, atol=40 * np.finfo(dtype).eps * np.abs(grads.x).max())
        assert_same_bits(grads_net.state, own(grads.state if kind is LSTM else (grads.state,)), "dstate")
        for name, d in grads_net.params.items():
            way, _, rest = name.partition(".")
            assert_same_bits(d, grads.params[rest + SUFFIXES[way]], name)


@DTYPES
@MERGES
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
def test_two_different_layers(merge, dtype, batch_first, tokens, rng):
    net = make_two_ways(merge, dtype, batch_first)
    forward_layer, backward_layer = net.layers
    turned = GRU(
        3, backward_layer.hidden_size, 2, learned_state=True, backwards=True, dtype=dtype, batch_first=batch_first
    )
    turned.load_state_dict(backward_layer.state_dict())
    T, B = 7, 4
    x: Any = rng.integers(0, 3, (T, B)) if tokens else rng.standard_normal((T, B, 3)).astype(dtype)
    x = x.swapaxes(0, 1) if batch_first else x
    for given in options(rng, T, B, batch_first):
        y, state, tape = net.forward(x, **given)
        a, a_n, tape_a = forward_layer.forward(x, **given)
        b, b_n, tape_b = turned.forward(x, **given)
        joined = {
            "concat": lambda a, b: np.concatenate((a, b), -1),
            "sum": lambda a, b: a + b,
            "mean": lambda a, b: (a + b) * a.dtype.type(0.5),
            "mul": lambda a, b: a * b,
            None: lambda a, b: (a, b),
        }[merge](a, b)
        assert_same_bits(y, joined, "y")
        assert_same_bits(state, (a_n, b_n), "state")
        frozen = net.freeze()
        assert_same_bits(frozen(x, **given), (y, state), "frozen")
        out = tuple(map(np.empty_like, y)) if merge is None else np.empty_like(y)
        y_out, _ = frozen(x, out=out, **given)
        assert (y_out[0] if merge is None else y_out) is (out[0] if merge is None else out)
        assert_same_bits(out, y, "out")
        dy, dstate = gradient_like(rng, y), gradient_like(rng, state)
        grads = tape.backward(dy, dstate)
        if merge is None:
            d_a, d_b = dy
        elif merge == "concat":
            d_a, d_b = dy[..., :4], dy[..., 4:]
        else:
            half = a.dtype.type(0.5)
            d_a, d_b = {"sum": (dy, dy), "mean": (dy * half, dy * half), "mul": (dy * b, dy * a)}[merge]
        first, second = tape_a.backward(d_a, dstate[0]), tape_b.backward(d_b, dstate[1])
        if tokens:
            assert grads.x is None
        else:
            assert_same_bits(grads.x, first.x + second.x, "dx")
        assert_same_bits(grads.state, (first.state, second.state), "dstate")
        for name, d in first.params.items():
            assert_same_bits(grads.params[f"forward.{name}"], d, name)
        for name, d in second.params.items():
            assert_same_bits(grads.params[f"backward.{name}"], d, name)
        assert list(grads.params) == list(net.params)
        assert tape.backward(dy, need_dx=False).x is None


@MERGES
def test_two_directions_take_a_list(merge, rng):
    net = make_two_ways(merge)
    xs = [rng.standard_normal((n, 3)).astype("f4") for n in (5, 0, 7)]
    ys, _, tape = net.forward(xs)
    grads = tape.backward(gradient_like(rng, ys))
    assert [g.shape for g in grads.x] == [x.shape for x in xs]
    for b, x in enumerate(xs):
        y = net(x)[0]
        assert_same_bits((ys[0][b], ys[1][b]) if merge is None else ys[b], y, f"row {b}")
    with pytest.raises(ValueError, match="Bidirectional: out given with a list"):
        net.freeze()(xs, out=np.zeros((7, 3, 10), "f4"))
    net([])


@MERGES
def test_gradients_of_two_directions_are_slopes(merge, rng):
    net = make_two_ways(merge, "float64")
    x = rng.standard_normal((6, 3, 3))
    y, _, tape = net.forward(x, lengths=[6, 2, 0])
    dy = gradient_like(rng, y)

    def loss() -> float:
        out = net(x, lengths=[6, 2, 0])[0]
        return sum(float((a * b).sum()) for a, b in (zip(out, dy, strict=True) if merge is None else [(out, dy)]))

    grads = tape.backward(dy)
    for array, d in [(x, grads.x), *((net.params[name], grads.params[name]) for name in net.params)]:
        direction, before = rng.standard_normal(array.shape), array.copy()
        array[:] = before + 1e-5 * direction
        above = loss()
        array[:] = before - 1e-5 * direction
        slope = (above - loss()) / 2e-5
        array[:] = before
        assert slope == pytest.approx(float((d * direction).sum()), rel=1e-6, abs=1e-8)


def test_two_directions_in_a_stack(rng):
    inner = [make_two_ways("concat", "float64"), Bidirectional(RNN(10, 5, dtype="f8"), GRU(10, 2, dtype="f8"), None)]
    net = Stack(inner, dropout=0.2)
    x = rng.standard_normal((6, 3, 3))
    (a, b), state = net(x)
    assert (a.shape, b.shape) == ((6, 3, 5), (6, 3, 2))
    below, end = inner[0](x)
    assert_same_bits(((a, b), state[1]), inner[1](below), "above")
    assert_same_bits(state[0], end, "below")
    assert_same_bits(net.freeze()(x), ((a, b), state), "frozen")
    grads = net.forward(x)[2].backward((None, np.ones_like(b)))
    assert grads.x.shape == x.shape
    assert not grads.params["1.forward.weight_ih_l0"].any()
    assert net == pickle.loads(pickle.dumps(net))
    assert "1.backward.weight_hh_l0" in net.state_dict()


def test_two_directions_save_load_copy_compare_and_print():
    net = make_two_ways("mean")
    shown = "LSTM(3, 4, peephole='ifo'), GRU(3, 4, num_layers=2, learned_state=True)"
    assert repr(net) == f"Bidirectional({shown}, merge='mean')"
    assert repr(make_two_ways()).endswith("learned_state=True))")
    assert (net.input_size, net.output_size, net.merge) == (3, 4, "mean")
    assert make_two_ways().output_size == 10
    assert net != Bidirectional(*net.layers)
    frozen = net.freeze()
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert other == net
        assert other.freeze() == frozen
        other.params["backward.bias_ih_l0"] += 1
        assert other != net
        assert other.freeze() != frozen
        other.load_state_dict(net.state_dict())
        assert other == net
    assert frozen == pickle.loads(pickle.dumps(frozen))
    older = pickle.dumps(net, 0).replace(b"cfusedrnn.bidirectional\n", b"cfusedrnn.two_ways\n")
    assert b"two_ways" in older
    assert pickle.loads(older) == net
    x = np.ones((4, 2, 3), "f4")
    assert_same_bits(pickle.loads(pickle.dumps(frozen))(x), net(x), "thawed")
    assert frozen.params.keys() == net.params.keys()
    assert repr(frozen) == f"<frozen {net!r}, float32, {frozen.isa}>"
    with pytest.raises(ValueError, match="Bidirectional: stream of a bidirectional layer"):
        frozen.stream()
    with pytest.raises(ValueError, match="Bidirectional: out overlaps x"):
        Bidirectional(RNN(3, 3), GRU(3, 3), "sum").freeze()(x, out=x)
    with pytest.raises(AttributeError, match="Bidirectional: merge is fixed"):
        net.merge = "sum"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Bidirectional(GRU(3, 4), 1),
            TypeError,
            "Bidirectional: backward_layer is an int; expected an RNN, GRU, LSTM or Stack",
        ),
        (
            lambda: Bidirectional(Bidirectional(GRU(3, 4), GRU(3, 4)), GRU(3, 4)),
            TypeError,
            "Bidirectional: forward_layer is a Bidirectional; expected an RNN, GRU, LSTM or Stack",
        ),
        (
            lambda: Bidirectional(GRU(3, 4), Stack([GRU(3, 4), GRU(4, 4, bidirectional=True)])),
            ValueError,
            "Bidirectional: backward_layer is bidirectional; expected a one-way layer",
        ),
        (
            lambda: Bidirectional(GRU(3, 4), GRU(3, 4, bidirectional=True)),
            ValueError,
            "Bidirectional: backward_layer is bidirectional; expected a one-way layer",
        ),
        (
            lambda: Bidirectional(GRU(3, 4, backwards=True), GRU(3, 4)),
            ValueError,
            "Bidirectional: forward_layer has backwards=True; expected backwards=False",
        ),
        (
            lambda: Bidirectional(GRU(3, 4), GRU(2, 4)),
            ValueError,
            "Bidirectional: backward_layer has input_size=2; expected 3, as forward_layer has",
        ),
        (
            lambda: Bidirectional(GRU(3, 4), GRU(3, 4, batch_first=True)),
            ValueError,
            "Bidirectional: backward_layer has batch_first=True; expected False, as forward_layer has",
        ),
        (
            lambda: Bidirectional(GRU(3, 4), GRU(3, 4, dtype="f8")),
            TypeError,
            "Bidirectional: backward_layer has dtype float64; expected float32, that of forward_layer",
        ),
        (
            lambda: Bidirectional(*[GRU(3, 4)] * 2),
            ValueError,
            "Bidirectional: backward_layer is forward_layer; expected a layer of its own (copy.deepcopy)",
        ),
        (
            lambda: Bidirectional(GRU(3, 4), GRU(3, 5), "sum"),
            ValueError,
            "Bidirectional: merge is 'sum', but the layers put out 4 and 5 columns; expected equal widths, 'concat' or "
            "None",
        ),
        (
            lambda: make_two_ways().forward(np.ones((2, 1, 3), "f4"))[2].backward(np.ones((2, 1, 9))),
            ValueError,
            "Bidirectional: dy has shape (2, 1, 9); expected (T, B, output_size) = (2, 1, 10)",
        ),
        (
            lambda: make_two_ways().forward(np.ones((2, 1, 3), "f4"))[2].backward(),
            ValueError,
            "Bidirectional: backward got neither dy nor dstate; expected at least one gradient",
        ),
        (
            lambda: make_two_ways()(np.ones((2, 1, 3), "f4"), np.ones((1, 1, 4))),
            TypeError,
            "Bidirectional: state is an ndarray; expected a tuple of 2, one for each layer",
        ),
    ],
)
def test_two_directions_that_cannot_be(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


# ---- ensembles


def nets(which: str, dtype: Any = "float32") -> list[Any]:
    return [
        {
            "lstm": lambda seed: LSTM(3, 5, 2, bidirectional=True, dtype=dtype, rng=seed),
            "gru": lambda seed: GRU(3, 5, dtype=dtype, learned_state=True, rng=seed),
            "pair": lambda seed: Bidirectional(
                RNN(3, 4, dtype=dtype, rng=seed), LSTM(3, 5, dtype=dtype, rng=seed), None
            ),
            "stack": lambda seed: Stack([LSTM(3, 4, dtype=dtype, rng=seed), RNN(4, 2, dtype=dtype, rng=seed)]),
        }[which](seed)
        for seed in range(3)
    ]


def take(value: Any, e: int) -> Any:
    """The part that belongs to one network."""
    return type(value)(take(item, e) for item in value) if isinstance(value, (tuple, list)) else value[e]


@DTYPES
@pytest.mark.parametrize("which", ["lstm", "gru", "pair", "stack"])
@pytest.mark.parametrize("form", ["floats", "tokens", "list"])
def test_an_ensemble_is_its_nets(which, dtype, form, rng):
    members = nets(which, dtype)
    net = Ensemble(members)
    x: Any = rng.standard_normal((7, 4, 3)).astype(dtype)
    if form == "tokens":
        x = rng.integers(0, 3, (7, 4))
    elif form == "list":
        x = [rng.standard_normal((n, 3)).astype(dtype) for n in (5, 0, 7)]
    for given in [{}] if form == "list" else options(rng, 7, 4, False):
        _, like = net(x)
        state = gradient_like(rng, like)
        y, state_n, tape = net.forward(x, state, **given)
        assert_same_bits(net(x, state, **given), (y, state_n), "inference")
        assert_same_bits(net.freeze()(x, state, **given), (y, state_n), "frozen")
        dy, dstate = gradient_like(rng, y), gradient_like(rng, state_n)
        grads = tape.backward(dy, dstate)
        dx: Any = None
        for e, member in enumerate(members):
            own, own_n, own_tape = member.forward(x, take(state, e), **given)
            assert_same_bits(take(y, e), own, f"y of {e}")
            assert_same_bits(take(state_n, e), own_n, f"state of {e}")
            expected = own_tape.backward(take(dy, e), take(dstate, e))
            assert_same_bits(take(grads.state, e), expected.state, f"dstate of {e}")
            for name, d in expected.params.items():
                assert_same_bits(grads.params[f"{e}.{name}"], d, name)
            own_dx = expected.x
            if dx is None or own_dx is None:
                dx = own_dx
            else:
                dx = [a + b for a, b in zip(dx, own_dx, strict=True)] if form == "list" else dx + own_dx
        assert_same_bits(grads.x, dx, "dx")
        assert list(grads.params) == list(net.params)
    assert_same_bits(net(x)[0], Ensemble(members)(x, None)[0], "initial states")
    assert tape.backward(dy, need_dx=False).x is None
    assert tape.nbytes > 0
    tape.release()
    with pytest.raises(ValueError, match="Ensemble: this tape was released"):
        tape.backward(dy)


def test_ensembles_save_load_copy_compare_and_print():
    net = Ensemble(nets("gru"))
    shown = "GRU(3, 5, learned_state=True)"
    assert repr(net) == f"Ensemble([{shown}, {shown}, {shown}])"
    assert (len(net), net.input_size, net.output_size, net.dtype) == (3, 3, 5, np.float32)
    frozen = net.freeze()
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert other == net
        other.params["2.bias_ih_l0"] += 1
        assert other != net
        other.load_state_dict(net.state_dict())
        assert other == net
    assert pickle.loads(pickle.dumps(frozen)) == frozen
    assert frozen.params.keys() == net.params.keys()
    assert repr(frozen) == f"<frozen {net!r}, float32, {frozen.isa}>"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Ensemble([]), ValueError, "Ensemble: layers is empty; expected at least one layer"),
        (
            lambda: Ensemble([GRU(3, 4), GRU(3, 5)]),
            ValueError,
            "Ensemble: layers[1] is GRU(3, 5); expected GRU(3, 4), as layers[0] is",
        ),
        (
            lambda: Stack([Ensemble([GRU(3, 4)]), GRU(4, 4)]),
            TypeError,
            "Stack: layers[0] is an Ensemble, whose outputs have an axis more; expected a layer",
        ),
        (
            lambda: Ensemble([GRU(3, 4), GRU(3, 4)])(np.zeros((2, 1, 3)), np.zeros((1, 1, 4))),
            ValueError,
            "Ensemble: state has shape (1, 1, 4); expected a first axis of 2, one for each net",
        ),
        (
            lambda: Ensemble([LSTM(3, 4)])(np.zeros((2, 1, 3)), (None, np.zeros((2, 1, 1, 4)))),
            ValueError,
            "Ensemble: state[1] has shape (2, 1, 1, 4); expected a first axis of 1, one for each net",
        ),
        (
            lambda: Ensemble([GRU(3, 4)]).forward(np.zeros((2, 1, 3)))[2].backward(),
            ValueError,
            "Ensemble: backward got neither dy nor dstate; expected at least one gradient",
        ),
    ],
)
def test_ensembles_that_cannot_be(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


# ---- what all groups have in common


def groups(dtype: Any = "float32") -> dict[str, Any]:
    """One group of each kind, and groups in groups; all read 3 features."""

    def stack(seed: int, inputs: int = 3) -> Any:
        layers = [LSTM(inputs, 6, 2, dtype=dtype, rng=seed), GRU(6, 4, learned_state=True, dtype=dtype, rng=seed)]
        return Stack(layers, dropout=0.3, rng=seed)

    def pair(seed: int) -> Any:
        return Bidirectional(stack(seed), RNN(3, 5, dtype=dtype, rng=seed + 1))

    return {
        "stack": stack(1),
        "pair": pair(1),
        "pair of stacks": Bidirectional(stack(1), stack(2), "mul"),
        "stack of pairs": Stack([pair(1), Bidirectional(GRU(9, 4, dtype=dtype), stack(3, 9), None)], 0.2, rng=1),
        "ensemble": Ensemble([LSTM(3, 5, bidirectional=True, dtype=dtype, rng=seed) for seed in range(3)]),
        "ensemble of stacks": Ensemble([Stack([pair(seed), RNN(9, 2, dtype=dtype, rng=seed)]) for seed in range(3)]),
    }


GROUPS = pytest.mark.parametrize("which", list(groups()))


def test_a_pair_of_stacks_is_two_stacks(rng):
    net = groups()["pair of stacks"]
    first, second = copy.deepcopy(net.layers)
    turned = Stack([LSTM(3, 6, 2, backwards=True), GRU(6, 4, learned_state=True, backwards=True)], dropout=0.3, rng=2)
    turned.load_state_dict(second.state_dict())
    turned.rng = np.random.default_rng(4)
    second.rng = np.random.default_rng(4)
    net = Bidirectional(first, second, "mul")
    x = rng.standard_normal((7, 4, 3)).astype("f4")
    for given in options(rng, 7, 4, False):
        first.rng, second.rng, turned.rng = (np.random.default_rng(seed) for seed in (3, 4, 4))
        y, state, tape = net.forward(x, **given)
        first.rng = np.random.default_rng(3)
        a, state_a, tape_a = first.forward(x, **given)
        b, state_b, tape_b = turned.forward(x, **given)
        assert_same_bits((y, state), (a * b, (state_a, state_b)), "forward")
        assert_same_bits(net(x, **given)[0], first(x, **given)[0] * turned(x, **given)[0], "inference")
        dy, dstate = gradient_like(rng, y), gradient_like(rng, state)
        grads = tape.backward(dy, dstate)
        grads_a, grads_b = tape_a.backward(dy * b, dstate[0]), tape_b.backward(dy * a, dstate[1])
        assert_same_bits(grads.x, grads_a.x + grads_b.x, "dx")
        assert_same_bits(grads.state, (grads_a.state, grads_b.state), "dstate")
        for way, own in (("forward", grads_a), ("backward", grads_b)):
            for name, d in own.params.items():
                assert_same_bits(grads.params[f"{way}.{name}"], d, name)


def without_dropout(net: Any) -> None:
    if hasattr(net, "dropout"):
        net.dropout = 0.0
    for layer in getattr(net, "layers", ()):
        without_dropout(layer)


@DTYPES
@GROUPS
def test_gradients_of_groups_are_slopes(which, dtype, rng):
    net = groups(dtype)[which]
    x = rng.standard_normal((6, 3, 3)).astype(dtype)
    y, state = net(x, lengths=[6, 2, 0])
    frozen = net.freeze()
    assert_same_bits(frozen(x, lengths=[6, 2, 0]), (y, state), "frozen")
    assert_same_bits(pickle.loads(pickle.dumps(frozen))(x, lengths=[6, 2, 0]), (y, state), "thawed")
    without_dropout(net)
    y, _, tape = net.forward(x, lengths=[6, 2, 0])
    dy = gradient_like(rng, y)
    grads = tape.backward(dy)
    assert grads.params.keys() == net.params.keys()
    if dtype == "float32":
        return

    def loss() -> float:
        out = net(x, lengths=[6, 2, 0])[0]
        pairs = zip(out, dy, strict=True) if isinstance(out, tuple) else [(out, dy)]
        return sum(float((a * b).sum()) for a, b in pairs)

    for array, d in [(x, grads.x), *((net.params[name], grads.params[name]) for name in net.params)]:
        direction, before = rng.standard_normal(array.shape), array.copy()
        array[:] = before + 1e-5 * direction
        above = loss()
        array[:] = before - 1e-5 * direction
        slope = (above - loss()) / 2e-5
        array[:] = before
        assert slope == pytest.approx(float((d * direction).sum()), rel=1e-5, abs=1e-8)


@GROUPS
def test_threads_change_no_bit_of_groups(which, rng):
    """Members run side by side on 1 to 7 threads, more than most machines have, and compute the same as alone."""

    def wider(layer: Any) -> Any:
        """The same structure at sizes large enough for several threads."""
        if isinstance(layer, Bidirectional):
            return Bidirectional(*map(wider, layer.layers), layer.merge)
        if isinstance(layer, (Stack, Ensemble)):
            return type(layer)([wider(member) for member in layer.layers])
        sizes = 20 if layer.input_size == 3 else 12 * layer.input_size, 12 * layer.hidden_size, layer.num_layers
        return type(layer)(*sizes, bidirectional=layer.bidirectional, rng=layer.hidden_size)

    net = wider(groups()[which])
    x = rng.standard_normal((20, 24, 20)).astype("f4")
    lengths = rng.integers(0, 21, 24)
    results: list[Any] = []
    for n in (1, 2, 3, 5, 7):
        with fusedrnn.threads(n):
            y, state, tape = net.forward(x, lengths=lengths, past_end="hold")
            dy = gradient_like(np.random.default_rng(5), y)
            grads = tape.backward(dy, state)
            ran = [y, state, grads.x, grads.state, grads.params, *net(x), *net.freeze()(x, state)]
        results.append(ran)
        assert_same_bits(ran, results[0], f"{n} threads")
    if isinstance(net, Ensemble):
        for e, member in enumerate(net.layers):
            assert_same_bits(take(results[0][0], e), member(x, lengths=lengths, past_end="hold")[0], f"net {e}")


def test_ensembles_of_nets_that_exceed_a_cores_cache(rng):
    """They run one after the other; only a pair can have one member that fits and one that does not."""
    nets_ = [LSTM(8, 330, rng=seed) for seed in range(3)]
    pair = Bidirectional(LSTM(8, 330, rng=0), GRU(8, 20, rng=1))
    x = rng.standard_normal((5, 6, 8)).astype("f4")
    for n in (1, 2, 3):
        with fusedrnn.threads(n):
            y, _, tape = Ensemble(nets_).forward(x)
            grads = tape.backward(np.ones_like(y))
            own = [net.forward(x) for net in nets_]
            alone = [tape.backward(np.ones_like(y)) for y, _, tape in own]
            assert_same_bits(list(y), [y for y, _, _ in own], "y")
            assert_same_bits(grads.x, alone[0].x + alone[1].x + alone[2].x, "dx")
            y, _, tape = pair.forward(x)
            results = [y, tape.backward(np.ones_like(y)).x]
            if n == 1:
                first = results
            assert_same_bits(results, first, "pair")


@GROUPS
def test_a_frozen_group_writes_where_it_is_told(which, rng):
    net = groups()[which]
    x = rng.standard_normal((7, 4, 3)).astype("f4")
    y, _ = net(x)
    out = tuple(map(np.empty_like, y)) if isinstance(y, tuple) else np.empty_like(y)
    written, _ = net.freeze()(x, out=out)
    assert_same_bits(out, y, "out")
    assert all(a is b for a, b in zip(written, out, strict=True)) if isinstance(y, tuple) else written is out
    with pytest.raises(ValueError, match="out"):
        net.freeze()(x, out=tuple(a[:-1] for a in out) if isinstance(y, tuple) else out[:-1])


def with_masks(seed: int, dropped: float = 0.4, dropout: float = 0.0) -> Any:
    return Stack(
        [
            Bidirectional(
                LSTM(3, 4, 2, recurrent_dropout=dropped, zoneout=(0.1, 0.2), dropout=dropout, rng=seed),
                GRU(3, 5, weight_dropout=dropped, rng=seed),
            ),
            RNN(9, 3, zoneout=0.3, rng=seed),
        ],
        dropout,
    )


@pytest.mark.parametrize("ensemble", [False, True])
def test_masks_of_groups_are_their_members(ensemble, rng):
    net: Any = Ensemble([with_masks(seed, dropout=0.5) for seed in (1, 2)]) if ensemble else with_masks(1, dropout=0.5)
    x = rng.standard_normal((7, 4, 3)).astype("f4")
    y, state, tape = net.forward(x)
    names = [f"0.forward.{name}" for name in ("recurrent_dropout", "zoneout_h", "zoneout_c", "dropout")]
    names = ["dropout_0", *names, "0.backward.weight_dropout", "1.zoneout_h"]
    assert list(tape.masks) == ([f"{e}.{name}" for e in (0, 1) for name in names] if ensemble else names)
    other, _, _ = net.forward(x)
    assert np.abs(other - y).max() > 0.01
    again, state_again, tape_again = net.forward(x, masks=tape.masks)
    assert_same_bits((again, state_again), (y, state), "the same masks")
    dy = gradient_like(rng, y)
    grads, grads_again = tape.backward(dy), tape_again.backward(dy)
    assert_same_bits((grads.x, grads.params), (grads_again.x, grads_again.params), "gradients")
    some = {name: mask for name, mask in tape.masks.items() if "zoneout" in name}
    drawn = net.forward(x, masks=some)[2].masks
    for name, mask in some.items():
        assert_same_bits(drawn[name], mask, name)


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        (5, TypeError, "Stack: masks is an int; expected a mapping of names to arrays of bools"),
        (
            {"zoneout_h": 0},
            ValueError,
            "Stack: masks has 'zoneout_h'; expected 'dropout_0', or a layer's name of a mask after one of '0.', '1.'",
        ),
        (
            {"2.zoneout_h": 0},
            ValueError,
            "Stack: masks has '2.zoneout_h'; expected 'dropout_0', or a layer's name of a mask after one of '0.', '1.'",
        ),
        ({"1.zoneout_c": 0}, ValueError, "RNN: masks has 'zoneout_c', but this layer has zoneout=0"),
        (
            {"0.backward.zoneout": 0},
            ValueError,
            "GRU: masks has 'zoneout'; expected some of 'weight_dropout', 'recurrent_dropout', 'zoneout_h', "
            "'zoneout_c', 'dropout'",
        ),
        ({"dropout_0": 0}, ValueError, "Stack: masks has 'dropout_0', but this layer has dropout=0"),
        ({"0.backward.dropout": 0}, ValueError, "GRU: masks has 'dropout', but this layer has dropout=0"),
        (
            {"1.zoneout_h": np.zeros((1, 7, 4, 3))},
            TypeError,
            "RNN: masks['zoneout_h'] has dtype float64; expected bool",
        ),
        (
            {"1.zoneout_h": np.zeros((1, 7, 4, 2), bool)},
            ValueError,
            "RNN: masks['zoneout_h'] has shape (1, 7, 4, 2); expected (num_layers*directions, T, B, hidden_size) = "
            "(1, 7, 4, 3)",
        ),
    ],
)
def test_masks_that_cannot_be(masks, error, message):
    with pytest.raises(error) as caught:
        with_masks(1).forward(np.zeros((7, 4, 3), "f4"), masks=masks)
    assert str(caught.value) == message


@GROUPS
def test_inspect_of_a_group_shows_its_members(which, rng):
    net = groups()[which]
    x = rng.standard_normal((7, 4, 3)).astype("f4")
    lengths = [7, 0, 5, 2]
    seen = net.inspect(x, lengths=lengths)

    def expected(layer: Any, x: Any, turned: bool) -> Any:
        if isinstance(layer, Ensemble):
            return [expected(member, x, turned) for member in layer.layers]
        if isinstance(layer, Bidirectional):
            first, second = layer.layers
            return expected(first, x, False), expected(second, x, True)
        if isinstance(layer, Stack):
            shown = []
            for member in layer.layers:
                shown.append(expected(member, x, turned))
                x = (member._reversed() if turned else member)(x, lengths=lengths)[0]
            return tuple(shown)
        return (layer._reversed() if turned else layer).inspect(x, lengths=lengths)

    def compare(actual: Any, wanted: Any, pick: Any) -> None:
        if isinstance(wanted, tuple):
            assert len(actual) == len(wanted)
            for a, w in zip(actual, wanted, strict=True):
                compare(a, w, pick)
            return
        assert_same_bits(pick(actual.outputs), wanted.outputs, "outputs")
        assert_same_bits(None if actual.c is None else pick(actual.c), wanted.c, "c")
        assert actual.gates.keys() == wanted.gates.keys()
        for name, gate in wanted.gates.items():
            np.testing.assert_allclose(pick(actual.gates[name]), gate, rtol=1e-5, atol=1e-6)

    wanted = expected(net, x, False)
    if isinstance(net, Ensemble):
        for e, own in enumerate(wanted):
            compare(seen, own, lambda array, e=e: array[e])
    else:
        compare(seen, wanted, lambda array: array)


def test_runs_side_by_side_go_level_by_level():
    """The kernels get independent calls or the calls of one stack; each run gets the results of its own calls."""

    def run(name: str, *steps: list[str]) -> unroll.Run[str]:
        for calls in steps:
            returned = yield cast(Any, calls)
            assert returned == [call.upper() for call in calls]
        return name

    given: list[list[str]] = []

    def kernels(calls: Any) -> Any:
        given.append(list(calls))
        return [call.upper() for call in calls]

    def stacked(calls: Any) -> Any:
        return kernels(["stack", *calls])[1:]

    stack: Any = unroll.StackedCalls
    runs = [
        run("a", ["a1"], ["a2", "a3"]),
        run("b", stack(["b1", "b2", "b3"])),
        run("c", ["c1"], ["c2"], stack(["c3", "c4"])),
    ]
    assert unroll.run_to_end(unroll.side_by_side(runs), kernels, stacked) == ["a", "b", "c"]
    assert given == [["a1", "b1", "c1"], ["b2"], ["b3"], ["a2", "a3", "c2"], ["stack", "c3", "c4"]]


@pytest.mark.parametrize("net", ["layer", "ensemble of one", "ensemble", "directions"])
def test_stacked_layers_are_said_to_be_stacked(net, monkeypatch):
    layers = [LSTM(3, 4, num_layers=2, rng=seed, learned_state=True) for seed in range(2)]
    made: Any = {
        "layer": lambda: layers[0],
        "ensemble of one": lambda: Ensemble(layers[:1]),
        "ensemble": lambda: Ensemble(layers),
        "directions": lambda: Bidirectional(*layers),
    }[net]()
    seen: list[tuple[str, int]] = []

    def infer_all(calls: Any) -> Any:
        seen.append(("all", len(calls)))
        return unroll.infer_all(calls)

    def infer_stacked(calls: Any) -> Any:
        seen.append(("stacked", len(calls)))
        assert calls[1][1] is calls[0][3], "x of the upper layer is y of the lower one"
        return unroll.infer_stacked(calls)

    monkeypatch.setattr(calling, "infer_all", infer_all)
    monkeypatch.setattr(calling, "infer_stacked", infer_stacked)
    made(np.ones((5, 2, 3), np.float32))
    alone = net in ("layer", "ensemble of one")
    assert seen == ([("stacked", 2)] if alone else [("all", 2)] * 2)


def test_streams_are_of_one_way_stacks_alone():
    for which, message in (
        ("pair", "Bidirectional: stream of a bidirectional layer"),
        ("stack of pairs", "Stack: stream of a bidirectional layer"),
        ("ensemble", "Ensemble: stream of a bidirectional layer"),
    ):
        with pytest.raises(ValueError, match=message):
            groups()[which].freeze().stream()
    with pytest.raises(ValueError, match="Stack: stream of a layer that runs backwards"):
        Stack([GRU(3, 4, backwards=True)]).freeze().stream()
    with pytest.raises(ValueError, match="Ensemble: stream of an ensemble; expected its layers to be frozen"):
        Ensemble([GRU(3, 4)]).freeze().stream()
    with pytest.raises(ValueError, match="batch_size"):
        groups()["stack"].freeze().stream(0)
