"""Layers and cells as objects: parameters, initialisation, saving, copying, comparing, showing; shapes and layouts.

Values are compared between two ways to compute the same result; test_sequence.py compares them with the reference.
"""

from __future__ import annotations

import copy
import gc
import math
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

LAYERS: list[type[Any]] = [RNN, GRU, LSTM]
CELLS: list[type[Any]] = [RNNCell, GRUCell, LSTMCell]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
MERGES = ["concat", "sum", "mean", "mul", None]

Array = np.ndarray[Any, Any]

each_layer = pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
each_cell = pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind.__name__)
each = pytest.mark.parametrize("kind", LAYERS + CELLS, ids=lambda kind: kind.__name__)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_merge = pytest.mark.parametrize("merge", MERGES)


def parts(state: Any) -> tuple[Array, ...]:
    """The arrays of h, or of (h, c)."""
    return state if isinstance(state, tuple) else (state,)


def like(state: Any, arrays: list[Array]) -> Any:
    """`arrays` packed as `state` is."""
    return tuple(arrays) if isinstance(state, tuple) else arrays[0]


def outputs(y: Any) -> tuple[Any, ...]:
    """The outputs of one merge, or both of merge=None."""
    return y if isinstance(y, tuple) else (y,)


def same(a: Any, b: Any) -> bool:
    """Equal bits in equal structure."""
    if isinstance(a, (tuple, list)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)


# ---- names and shapes of parameters ---------------------------------------------------------------------------------


@each_layer
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_parameters_are_named_and_ordered_as_in_torch(kind: type[Any], bias: bool, bidirectional: bool) -> None:
    layer = kind(3, 5, 2, bias=bias, bidirectional=bidirectional)
    G, D = GATES[kind.__name__], 1 + bidirectional
    expected = {}
    for level in range(2):
        for suffix in ("", "_reverse")[:D]:
            expected[f"weight_ih_l{level}{suffix}"] = (G * 5, 5 * D if level else 3)
            expected[f"weight_hh_l{level}{suffix}"] = (G * 5, 5)
            if bias:
                expected[f"bias_ih_l{level}{suffix}"] = (G * 5,)
                expected[f"bias_hh_l{level}{suffix}"] = (G * 5,)
    assert [(name, w.shape) for name, w in layer.params.items()] == list(expected.items())
    assert all(w.dtype == np.float32 and w.flags.writeable for w in layer.params.values())


@each_merge
def test_merge_decides_what_upper_layers_see(merge: str | None) -> None:
    layer = LSTM(3, 5, 2, bidirectional=True, merge=merge)
    width = 10 if merge in ("concat", None) else 5
    assert layer.weight_ih_l1.shape == layer.weight_ih_l1_reverse.shape == (20, width)


@each_cell
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_of_cells(kind: type[Any], bias: bool) -> None:
    cell = kind(3, 5, bias)
    rows = GATES[kind.__name__.removesuffix("Cell")] * 5
    expected = {"weight_ih": (rows, 3), "weight_hh": (rows, 5)}
    if bias:
        expected |= {"bias_ih": (rows,), "bias_hh": (rows,)}
    assert {name: w.shape for name, w in cell.params.items()} == expected


def test_arguments_are_torchs_and_in_its_order() -> None:
    assert repr(RNN(3, 5, 2, "relu", False, True, 0.25, True)) == (
        "RNN(3, 5, num_layers=2, nonlinearity='relu', bias=False, batch_first=True, dropout=0.25, bidirectional=True)"
    )
    for kind in (GRU, LSTM):
        assert repr(kind(3, 5, 2, False, True, 0.25, True)) == (
            f"{kind.__name__}(3, 5, num_layers=2, bias=False, batch_first=True, dropout=0.25, bidirectional=True)"
        )
    assert repr(LSTM(3, 5, 1, True, False, 0.0, False, 0)) == "LSTM(3, 5)"
    assert repr(RNNCell(3, 5, False, "relu")) == "RNNCell(3, 5, bias=False, nonlinearity='relu')"


@each
def test_numpy_integers_are_sizes(kind: type[Any]) -> None:
    assert repr(kind(np.int32(3), np.uint8(5))) == f"{kind.__name__}(3, 5)"


# ---- initialisation -------------------------------------------------------------------------------------------------


@each
@each_dtype
def test_parameters_start_uniform_within_one_over_root_h(kind: type[Any], dtype: str) -> None:
    layer = kind(60, 100, dtype=dtype, rng=1)
    bound = 1 / math.sqrt(100)
    values = np.concatenate([w.ravel() for w in layer.params.values()]).astype(np.float64)
    assert np.abs(values).max() <= bound
    for w in layer.params.values():
        assert w.dtype == dtype
        assert np.abs(w).max() > 0.9 * bound
    # A uniform distribution: each tenth of the range gets its share, to five standard deviations.
    counts, _ = np.histogram(values, 10, (-bound, bound))
    assert np.abs(counts - values.size / 10).max() < 5 * math.sqrt(values.size * 0.09)


@each
def test_initialisation_is_reproducible(kind: type[Any]) -> None:
    assert kind(3, 5, rng=7) == kind(3, 5, rng=7) == kind(3, 5, rng=np.random.default_rng(7))
    assert kind(3, 5, rng=7) != kind(3, 5, rng=8)
    assert kind(3, 5) != kind(3, 5)
    rng = np.random.default_rng(7)
    assert kind(3, 5, rng=rng) != kind(3, 5, rng=rng)  # a generator moves on


@each
def test_both_dtypes_start_from_the_same_numbers(kind: type[Any]) -> None:
    single, double = kind(3, 5, rng=7), kind(3, 5, dtype=np.float64, rng=7)
    for name, w in double.params.items():
        assert same(single.params[name], w.astype(np.float32))


def test_parameters_are_drawn_in_torchs_order() -> None:
    layer = GRU(3, 5, 2, rng=7, dtype="f8")
    rng = np.random.default_rng(7)
    for w in layer.params.values():
        assert same(w, rng.uniform(-1 / math.sqrt(5), 1 / math.sqrt(5), w.shape))


# ---- live parameters ------------------------------------------------------------------------------------------------


@each_layer
def test_parameters_are_live(kind: type[Any]) -> None:
    layer, x = kind(3, 5, rng=0), np.ones((4, 2, 3), np.float32)
    before, _ = layer(x)
    layer.params["bias_ih_l0"] += 1
    after, _ = layer(x)
    assert not same(before, after)
    layer.params["bias_ih_l0"] = layer.params["bias_ih_l0"] - 1
    assert np.allclose(layer(x)[0], before, atol=1e-6)


@each
def test_parameters_are_attributes(kind: type[Any]) -> None:
    layer = kind(3, 5, rng=0)
    for name, w in layer.params.items():
        assert getattr(layer, name) is w
        assert name in dir(layer)
        new = np.zeros_like(w)
        setattr(layer, name, new)
        assert layer.params[name] is new
        assert name not in vars(layer)


@each_layer
@pytest.mark.parametrize("change", ["fortran", "view", "unaligned", "read-only", "subclass"])
def test_parameters_of_any_layout_are_used_as_they_are(kind: type[Any], change: str) -> None:
    layer, x = kind(3, 5, rng=0), np.ones((4, 2, 3), np.float32)
    expected, _ = layer(x)
    w = layer.weight_ih_l0
    if change == "fortran":
        new = np.asfortranarray(w)
    elif change == "view":
        new = np.repeat(w, 2, axis=1)[:, ::2]
    elif change == "unaligned":
        new = np.frombuffer(b"x" + w.tobytes(), np.uint8)[1:].view(np.float32).reshape(w.shape)
    elif change == "read-only":
        new = w.copy()
        new.flags.writeable = False
    else:
        new = w.copy().view(np.memmap)
    layer.params["weight_ih_l0"] = new
    assert same(layer(x)[0], expected)
    assert same(layer.freeze()(x)[0], expected)


def test_configuration() -> None:
    layer = GRU(3, 5, 2, False, True, 0.25, True, reset_after=False, merge="sum", dtype="f8", rng=0)
    assert (layer.input_size, layer.hidden_size, layer.num_layers) == (3, 5, 2)
    assert (layer.bias, layer.batch_first, layer.dropout, layer.bidirectional) == (False, True, 0.25, True)
    assert (layer.reset_after, layer.merge, layer.dtype) == (False, "sum", np.float64)
    assert isinstance(layer.rng, np.random.Generator)
    layer.dropout = 0.5
    layer.rng = 3
    assert layer.dropout == 0.5
    assert layer.rng.random() == np.random.default_rng(3).random()


# ---- state_dict -----------------------------------------------------------------------------------------------------


@each
def test_state_dict_is_a_copy(kind: type[Any]) -> None:
    layer = kind(3, 5, rng=0)
    saved = layer.state_dict()
    assert same(saved, layer.params)
    for w in saved.values():
        w += 1
    assert layer == kind(3, 5, rng=0)
    other = kind(3, 5)
    arrays = dict(other.params)
    report = other.load_state_dict(saved)
    assert report == ([], [])
    assert same(other.params, saved)
    assert all(other.params[name] is array for name, array in arrays.items())  # values were copied into them


def test_load_state_dict_not_strict() -> None:
    layer = RNN(3, 5, rng=0)
    before = layer.state_dict()
    report = layer.load_state_dict({"bias_ih_l0": np.ones(5), "head.weight": np.ones(3)}, strict=False)
    assert report.missing_keys == ["weight_ih_l0", "weight_hh_l0", "bias_hh_l0"]
    assert report.unexpected_keys == ["head.weight"]
    assert same(layer.state_dict(), before | {"bias_ih_l0": np.ones(5, np.float32)})


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", "i8", ">f4"])
def test_load_state_dict_casts(dtype: str) -> None:
    layer = RNN(1, 2)
    layer.load_state_dict({name: np.full(w.shape, 3).astype(dtype) for name, w in layer.params.items()})
    assert all(w.dtype == np.float32 and (w == 3).all() for w in layer.params.values())
    layer.load_state_dict({name: np.full(w.shape, 4).tolist() for name, w in layer.params.items()})
    assert all(w.dtype == np.float32 and (w == 4).all() for w in layer.params.values())


def test_load_state_dict_repairs_what_was_replaced() -> None:
    layer, good = RNN(3, 5, rng=0), RNN(3, 5, rng=1)
    layer.params["weight_ih_l0"] = np.zeros(3)
    layer.params["weight_hh_l0"] = good.weight_hh_l0.astype(np.float64)
    layer.params["bias_ih_l0"] = np.broadcast_to(np.float32(0), (5,))
    del layer.params["bias_hh_l0"]
    layer.load_state_dict(good.state_dict())
    assert layer(np.ones((2, 1, 3)))[0].shape == (2, 1, 5)
    assert layer.state_dict().keys() == good.state_dict().keys()
    assert same({name: layer.params[name] for name in good.params}, good.params)


def test_load_state_dict_from_its_own_views() -> None:
    layer = RNN(5, 5, rng=0)
    ih, hh = layer.weight_ih_l0.copy(), layer.weight_hh_l0.copy()
    layer.load_state_dict({"weight_ih_l0": layer.weight_hh_l0, "weight_hh_l0": layer.weight_ih_l0.T}, strict=False)
    assert same(layer.weight_ih_l0, hh)
    assert same(layer.weight_hh_l0, np.ascontiguousarray(ih.T))


# ---- pickling, copying, comparing, showing --------------------------------------------------------------------------

CONFIGURED: list[Any] = [
    RNN(3, 5, 2, "relu", False, True, 0.25, True, merge="mul", rng=0),
    RNN(3, 5, bidirectional=True, merge=None, rng=0),
    GRU(3, 5, 2, dropout=0.5, reset_after=False, dtype="f8", rng=0),
    LSTM(3, 5, 2, bidirectional=True, rng=0),
    RNNCell(3, 5, nonlinearity="relu", rng=0),
    GRUCell(3, 5, False, reset_after=False, rng=0),
    LSTMCell(3, 5, dtype=np.float64, rng=0),
]
each_configured = pytest.mark.parametrize("layer", CONFIGURED, ids=repr)


@each_configured
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(layer: Any, protocol: int) -> None:
    loaded = pickle.loads(pickle.dumps(layer, protocol))
    assert loaded == layer
    assert repr(loaded) == repr(layer)
    assert vars(loaded).keys() == vars(layer).keys()
    assert not any(np.shares_memory(loaded.params[name], w) for name, w in layer.params.items())
    assert loaded.rng.bit_generator.state == layer.rng.bit_generator.state
    x = np.ones((2, 3))
    assert same(loaded(x), layer(x))
    assert loaded.dtype is layer.dtype


@each_configured
def test_deepcopy_shares_nothing(layer: Any) -> None:
    other = copy.deepcopy(layer)
    assert other == layer
    for w in other.params.values():
        w += 1
    assert other != layer
    assert other.rng is not layer.rng


@each_configured
def test_shallow_copy_shares_arrays_but_not_the_dict(layer: Any) -> None:
    other = copy.copy(layer)
    assert other == layer
    assert all(other.params[name] is w for name, w in layer.params.items())
    other.params["weight"] = np.zeros(1)
    assert "weight" not in layer.params


def test_attributes_of_subclasses_are_pickled() -> None:
    layer = Tagged(3, 5, rng=0)
    layer.tag = "mine"
    loaded = pickle.loads(pickle.dumps(layer))
    assert loaded.tag == "mine"
    assert loaded == layer
    assert repr(loaded) == "Tagged(3, 5)"
    with pytest.raises(ValueError, match=r"^Tagged: x has shape"):
        loaded(np.zeros((1, 1, 4)))


class Tagged(GRU):
    """A layer with an attribute of its own."""

    tag: str


@each_configured
def test_equality(layer: Any) -> None:
    assert layer == layer
    assert layer != "layer"
    assert (layer == object()) is False
    other = copy.deepcopy(layer)
    name = next(iter(other.params))
    other.params[name].flat[0] = np.nan
    assert other != layer
    assert other == copy.deepcopy(other)  # NaN is where it was
    with pytest.raises(TypeError, match="unhashable"):
        hash(layer)


def test_equality_compares_configuration() -> None:
    layer = GRU(3, 5, rng=0)
    assert layer != GRU(3, 5, reset_after=False, rng=0)
    assert layer != GRU(3, 5, batch_first=True, rng=0)
    assert layer != GRU(3, 5, dtype="f8", rng=0)
    assert RNN(3, 5, rng=0) != RNNCell(3, 5, rng=0)
    assert layer != Tagged(3, 5, rng=0)
    changed = GRU(3, 5, rng=0)
    changed.rng = 9
    assert layer == changed


@each_configured
def test_repr_makes_the_same_configuration(layer: Any) -> None:
    made = eval(repr(layer), vars(fusedrnn))
    made.load_state_dict(layer.state_dict())
    assert made == layer


def test_repr() -> None:
    assert repr(LSTM(80, 256, num_layers=2, bidirectional=True)) == "LSTM(80, 256, num_layers=2, bidirectional=True)"
    assert repr(GRU(3, 5, reset_after=False, dtype=np.float64)) == "GRU(3, 5, reset_after=False, dtype='float64')"
    assert repr(RNN(3, 5, bidirectional=True, merge=None)) == "RNN(3, 5, bidirectional=True, merge=None)"


def test_repr_of_tapes_and_gradients() -> None:
    layer = RNN(3, 5, bias=False, rng=0)
    y, _, tape = layer.forward([np.ones((n, 3), np.float32) for n in (4, 2, 0, 1)])
    assert repr(tape) == "<Tape of RNN, 0.0 MiB>"
    assert repr(tape.backward(y)) == (
        "Grads(x=[(4, 3), (2, 3), (0, 3), ... 4 in all], state=(1, 4, 5), "
        "params={'weight_ih_l0': (5, 3), 'weight_hh_l0': (5, 5)}, dtype=float32)"
    )
    tape.release()
    assert repr(tape) == "<Tape of RNN, released>"


# ---- shapes ---------------------------------------------------------------------------------------------------------


@each_layer
@each_dtype
@each_merge
@pytest.mark.parametrize("layout", ["time", "batch_first", "unbatched", "list"])
@pytest.mark.parametrize("tokens", [False, True])
def test_shapes(kind: type[Any], dtype: str, merge: str | None, layout: str, tokens: bool) -> None:
    T, B, I, H, L = 4, 3, 6, 5, 2
    layer = kind(I, H, L, bidirectional=True, merge=merge, dtype=dtype, batch_first=layout == "batch_first", rng=0)
    width = 2 * H if merge == "concat" else H
    lead = {"time": (T, B), "batch_first": (B, T), "unbatched": (T,)}
    if layout == "list":
        lengths = [4, 0, 2]
        x: Any = [np.zeros(n, int) if tokens else np.zeros((n, I)) for n in lengths]
        y_shape: Any = [(n, width) for n in lengths]
    else:
        x = np.zeros(lead[layout], int) if tokens else np.zeros((*lead[layout], I))
        y_shape = (*lead[layout], width)
    state_shape = (2 * L, H) if layout == "unbatched" else (2 * L, B, H)

    def shapes(value: Any) -> Any:
        return [shapes(item) for item in value] if isinstance(value, list) else value.shape

    for y, state in (layer(x), layer.forward(x)[:2], layer.freeze()(x)):
        assert isinstance(y, tuple) == (merge is None)
        for one in outputs(y):
            assert shapes(one) == y_shape
            for array in one if isinstance(one, list) else [one]:
                assert array.dtype == dtype
                assert array.flags.c_contiguous
        assert isinstance(state, tuple) == (kind is LSTM)
        assert [part.shape for part in parts(state)] == [state_shape] * (2 if kind is LSTM else 1)
        assert all(part.dtype == dtype for part in parts(state))

    y, state, tape = layer.forward(x)
    grads = tape.backward(y, state)
    assert grads.x is None if tokens else shapes(grads.x) == shapes(x)
    assert [part.shape for part in parts(grads.state)] == [state_shape] * (2 if kind is LSTM else 1)
    assert [(name, w.shape, w.dtype) for name, w in grads.params.items()] == [
        (name, w.shape, w.dtype) for name, w in layer.params.items()
    ]


@each_layer
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("T", "B"), [(0, 2), (3, 0), (0, 0)])
def test_empty_sequences_are_defined(kind: type[Any], bidirectional: bool, T: int, B: int) -> None:
    layer = kind(3, 5, 2, bidirectional=bidirectional, rng=0)
    D = 1 + bidirectional
    x = np.zeros((T, B, 3), np.float32)
    zero = layer(x)[1]
    state = like(zero, [np.full(part.shape, k + 1, np.float32) for k, part in enumerate(parts(zero))])
    y, state_n, tape = layer.forward(x, state)
    assert y.shape == (T, B, 5 * D)
    assert same(state_n, state)  # passes through
    grads = tape.backward(y, state)
    assert grads.x.shape == x.shape
    assert same(grads.state, state)
    assert all((w == 0).all() for w in grads.params.values())
    assert same(layer(x, state), (y, state_n))
    assert same(layer.freeze()(x, state, lengths=[0] * B), (y, state_n))


def test_tuples_of_arrays_are_lists() -> None:
    layer = GRU(3, 5, rng=0)
    arrays = [np.ones((n, 3), np.float32) for n in (2, 2)]
    y, h, tape = layer.forward(tuple(arrays))
    assert same((y, h), layer(arrays))
    assert same(tape.backward(tuple(y)).x, tape.backward(y).x)


def test_empty_list() -> None:
    layer = GRU(3, 5, rng=0)
    y, h, tape = layer.forward([])
    assert y == []
    assert h.shape == (1, 0, 5)
    assert tape.backward([]).x == []


# ---- layouts give the same bits -------------------------------------------------------------------------------------


@each_layer
@each_merge
def test_layouts_agree(kind: type[Any], merge: str | None, rng: np.random.Generator) -> None:
    T, B, I, H = 6, 3, 4, 5
    arguments: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "merge": merge, "rng": 0}
    layer, first = kind(I, H, **arguments), kind(I, H, batch_first=True, **arguments)
    x = rng.normal(size=(T, B, I)).astype(np.float32)
    lengths = [4, 6, 0]
    for b, n in enumerate(lengths):
        x[n:, b] = np.nan  # must not be read
    y, state, tape = layer.forward(x, lengths=lengths)
    dy = tuple(rng.normal(size=one.shape).astype(np.float32) for one in outputs(y))
    for one in dy:
        for b, n in enumerate(lengths):
            one[n:, b] = np.nan
    dstate = like(state, [rng.normal(size=part.shape).astype(np.float32) for part in parts(state)])
    grads = tape.backward(dy if merge is None else dy[0], dstate)
    assert np.isfinite(grads.x).all()
    for b, n in enumerate(lengths):
        assert (grads.x[n:, b] == 0).all()
        assert all((one[n:, b] == 0).all() for one in outputs(y))

    def check(y_2: Any, state_2: Any, grads_2: Any, rows: Any) -> None:
        for one, two in zip(outputs(y), outputs(y_2), strict=True):
            assert all(same(np.ascontiguousarray(one[:n, b]), rows(two)[b][:n]) for b, n in enumerate(lengths))
        assert same(state_2, state)
        assert all(same(grads.x[:n, b], rows(grads_2.x)[b][:n]) for b, n in enumerate(lengths))
        assert same(grads_2.state, grads.state)
        assert same(grads_2.params, grads.params)

    x_2 = np.ascontiguousarray(x.swapaxes(0, 1))
    y_2, state_2, tape = first.forward(x_2, lengths=np.array(lengths, np.uint8))
    dy_2 = tuple(one.swapaxes(0, 1) for one in dy)
    check(y_2, state_2, tape.backward(dy_2 if merge is None else dy_2[0], dstate), lambda array: array)

    for one in (layer, first):
        y_2, state_2, tape = one.forward([x[:n, b] for b, n in enumerate(lengths)])
        dy_3 = tuple([d[:n, b] for b, n in enumerate(lengths)] for d in dy)
        check(y_2, state_2, tape.backward(dy_3 if merge is None else dy_3[0], dstate), lambda rows: rows)

    for b, n in enumerate(lengths):  # unbatched
        start = like(state, [np.zeros((4, H)) for _ in parts(state)])
        y_2, state_2, tape = first.forward(x[:n, b], start)
        assert all(same(np.ascontiguousarray(a[:n, b]), c) for a, c in zip(outputs(y), outputs(y_2), strict=True))
        assert same(like(state, [part[:, b] for part in parts(state)]), state_2)
        dy_4 = tuple(d[:n, b] for d in dy)
        dstate_4 = like(state, [part[:, b] for part in parts(dstate)])
        grads_4 = tape.backward(dy_4 if merge is None else dy_4[0], dstate_4)
        assert same(grads_4.x, np.ascontiguousarray(grads.x[:n, b]))
        assert same(grads_4.state, like(state, [part[:, b] for part in parts(grads.state)]))


@each_layer
def test_arrays_of_any_layout_and_dtype(kind: type[Any], rng: np.random.Generator) -> None:
    layer = kind(4, 5, rng=0)
    x = rng.integers(-8, 8, size=(6, 3, 4)).astype(np.float32)  # exact in every float
    y, state, tape = layer.forward(x)
    grads = tape.backward(x[..., :1].repeat(5, axis=2))
    frozen = np.frombuffer(b"x" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    variants = {
        "fortran": np.asfortranarray(x),
        "strided": np.repeat(np.repeat(x, 2, axis=2), 2, axis=0)[::2, :, ::2],
        "negative": x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        "unaligned and read-only": frozen,
        "swapped bytes": x.astype(x.dtype.newbyteorder()),
        "float16": x.astype(np.float16),
        "float64": x.astype(np.float64),
        "longdouble": x.astype(np.longdouble),
        "nested list": x.tolist(),
        "subclass": x.view(np.memmap),
        "dlpack": OnlyDLPack(x),
    }
    for name, variant in variants.items():
        before = pickle.dumps(variant) if isinstance(variant, np.ndarray) else None
        assert same(layer(variant), (y, state)), name
        y_2, state_2, tape = layer.forward(variant)
        assert same((y_2, state_2), (y, state)), name
        d = np.asarray(x)[..., :1].repeat(5, axis=2)
        assert same(tape.backward(np.asfortranarray(d).astype(np.float64)).params, grads.params), name
        assert before is None or before == pickle.dumps(variant), name
    broadcast = np.broadcast_to(x[:1, :1], x.shape)
    assert same(layer(broadcast), layer(broadcast.copy()))


class OnlyDLPack:
    """An array of another library that supports only DLPack."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __dlpack__(self, **arguments: Any) -> Any:
        return self._array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


@each_layer
def test_tokens_are_one_hot_rows(kind: type[Any], rng: np.random.Generator) -> None:
    layer = kind(7, 5, 2, dtype="f8", rng=0)
    tokens = rng.integers(0, 7, size=(6, 3))
    y, state, tape = layer.forward(tokens)
    y_2, _, tape_2 = layer.forward(np.eye(7)[tokens])
    assert np.allclose(y, y_2, rtol=0, atol=1e-14)
    one, two = tape.backward(y, state), tape_2.backward(y, state)
    assert one.x is None
    assert all(np.allclose(one.params[name], two.params[name], rtol=0, atol=1e-12) for name in layer.params)
    for dtype in ("i1", "u2", ">i4", "u8"):
        assert same(layer(tokens.astype(dtype))[0], y)
    assert same(layer(tokens.tolist())[0], y)
    assert same(layer(list(tokens[:, 0]))[0], layer(tokens[:, 0])[0])  # NumPy scalars are not arrays


# ---- state, tapes, gradients ----------------------------------------------------------------------------------------


@each_layer
@each_dtype
def test_chunks_carry_the_state(kind: type[Any], dtype: str, rng: np.random.Generator) -> None:
    layer = kind(4, 5, 3, dtype=dtype, rng=0)
    x = rng.normal(size=(9, 2, 4)).astype(dtype)
    y, state = layer(x)
    a, middle = layer(x[:4])
    b, end = layer(x[4:], middle)
    assert same(np.concatenate([a, b]), y)
    assert same(end, state)


@each_layer
@pytest.mark.parametrize("batch_first", [False, True])
def test_states_of_any_layout_and_dtype(kind: type[Any], batch_first: bool, rng: np.random.Generator) -> None:
    """Plain arrays take a shorter path than others; results and errors are the same."""
    layer = kind(4, 5, 2, batch_first=batch_first, rng=0)
    net = fusedrnn.Stack([layer, kind(5, 3, batch_first=batch_first, rng=1)])
    x = rng.normal(size=(3, 6, 4)).astype(np.float32)
    B = 3 if batch_first else 6
    state = like(layer(x)[1], [rng.normal(size=(2, B, 5)).astype(np.float32) for _ in parts(layer(x)[1])])
    upper = net(x)[1][1]
    expected, expected_net = layer.forward(x, state)[:2], net.forward(x, (state, upper))[:2]
    views: list[Callable[[Array], Any]] = [
        lambda part: part,
        lambda part: part.astype(np.float64),
        lambda part: part.astype(">f4"),
        lambda part: np.asfortranarray(part),
        lambda part: np.repeat(part, 2, axis=2)[:, :, ::2],
        lambda part: part.tolist(),
        lambda part: np.frombuffer(part.tobytes(), np.float32).reshape(part.shape),  # read-only
    ]
    for view in views:
        given = like(state, [view(part) for part in parts(state)])
        for one in (layer, layer.freeze()):
            assert same(one(x, given), expected)
        for one in (net, net.freeze()):
            assert same(one(x, (given, upper)), expected_net)
    for wrong in (like(state, [part[:, :-1] for part in parts(state)]), (*parts(state), parts(state)[0])):
        for one in (layer, layer.freeze()):
            with pytest.raises((TypeError, ValueError), match=f"{kind.__name__}: .*state"):
                one(x, wrong)
        for one in (net, net.freeze()):
            with pytest.raises((TypeError, ValueError), match="state"):
                one(x, (wrong, upper))
            with pytest.raises(ValueError, match="state"):
                one(x, (state,))


@each_layer
def test_inputs_may_change_before_backward(kind: type[Any], rng: np.random.Generator) -> None:
    for merge in MERGES:
        layer = kind(4, 5, 2, dropout=0.3, bidirectional=True, merge=merge, rng=0)
        x = rng.normal(size=(6, 2, 4)).astype(np.float32)
        zero = layer(x)[1]
        state = like(zero, [rng.normal(size=part.shape).astype(np.float32) for part in parts(zero)])
        y, state_n, tape = layer.forward(x, state)
        dy = tuple(one.copy() for one in y) if merge is None else y.copy()
        expected = tape.backward(dy)
        for array in (x, *parts(state), *outputs(y), *parts(state_n), *layer.params.values()):
            array[...] = np.nan
        again = tape.backward(dy)
        assert same(again.x, expected.x)
        assert same(again.state, expected.state)
        assert same(again.params, expected.params)


@each_layer
def test_need_dx_skips_only_dx(kind: type[Any]) -> None:
    layer = kind(4, 5, 3, bidirectional=True, rng=0)
    y, state, tape = layer.forward(np.ones((6, 2, 4), np.float32))
    full, short = tape.backward(y, state), tape.backward(y, state, need_dx=False)
    assert short.x is None
    assert same((short.state, short.params), (full.state, full.params))


@each_layer
def test_gradients_add_up(kind: type[Any], rng: np.random.Generator) -> None:
    layer = kind(4, 5, 2, bidirectional=True, dtype="f8", rng=0)
    y, state, tape = layer.forward(rng.normal(size=(6, 2, 4)))
    both, from_y, from_state = tape.backward(y, state), tape.backward(dy=y), tape.backward(dstate=state)
    assert np.allclose(both.x, from_y.x + from_state.x, rtol=0, atol=1e-13)
    for name in layer.params:
        assert np.allclose(both.params[name], from_y.params[name] + from_state.params[name], rtol=0, atol=1e-12)
    if kind is LSTM:
        h, c = tape.backward(dstate=(state[0], None)), tape.backward(dstate=(None, state[1]))
        assert np.allclose(h.x + c.x, from_state.x, rtol=0, atol=1e-13)


def test_one_gradient_of_a_pair() -> None:
    layer = GRU(4, 5, 2, bidirectional=True, merge=None, rng=0)
    (a, b), _, tape = layer.forward(np.ones((6, 2, 4), np.float32))
    one = tape.backward((a, None))
    assert (one.params["weight_hh_l1_reverse"] == 0).all()
    assert same(one.params, tape.backward((a, np.zeros_like(b))).params)


def test_tapes_are_released() -> None:
    layer = LSTM(4, 5, 2, dropout=0.5, bidirectional=True, merge="mul", rng=0)
    y, _, tape = layer.forward(np.ones((6, 2, 4), np.float32))
    assert tape.nbytes >= 4 * (6 * 12 * 5 * 4)  # four runs of 12 steps, six values of each of five units
    assert not tape.released
    with tape as same_tape:
        assert same_tape is tape
        tape.backward(y)
    assert tape.released
    assert tape.nbytes == 0
    tape.release()


def test_tape_outlives_its_layer() -> None:
    layer = GRU(4, 5, rng=0)
    y, _, tape = layer.forward(np.ones((6, 2, 4), np.float32))
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None
    assert tape.backward(y).x.shape == (6, 2, 4)


@each_layer
def test_many_threads_share_a_layer(kind: type[Any], rng: np.random.Generator) -> None:
    layer = kind(4, 5, 2, bidirectional=True, rng=0)
    frozen = layer.freeze()
    x = rng.normal(size=(6, 2, 4)).astype(np.float32)
    y, state, tape = layer.forward(x)
    expected = tape.backward(y).params
    wrong = []

    def work() -> None:
        for _ in range(20):
            ok = same(layer(x), (y, state)) and same(frozen(x), (y, state)) and same(tape.backward(y).params, expected)
            if not ok:
                wrong.append(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- dropout --------------------------------------------------------------------------------------------------------


def test_dropout_acts_in_forward_only() -> None:
    layer, plain = (GRU(4, 64, 2, dropout=p, rng=0) for p in (0.5, 0.0))
    x = np.ones((20, 3, 4), np.float32)
    assert same(layer(x), plain(x))
    assert same(layer.freeze()(x), plain(x))
    first, second = layer.forward(x)[0], layer.forward(x)[0]
    assert not same(first, plain(x)[0])
    assert not same(first, second)  # the generator moves on
    layer.rng = 5
    one = layer.forward(x)[0]
    layer.rng = 5
    assert same(layer.forward(x)[0], one)
    layer.dropout = 0.0
    assert same(layer.forward(x)[0], plain(x)[0])


def test_dropout_is_the_same_in_both_dtypes() -> None:
    x = np.ones((20, 3, 4))
    y = [RNN(4, 8, 3, dropout=0.5, dtype=dtype, rng=0).forward(x)[0] for dtype in ("f4", "f8")]
    assert np.allclose(y[0], y[1], atol=1e-5)


def test_dropout_scales_what_it_keeps() -> None:
    # Layer 2 passes its input on (relu of the identity), so y shows the outputs of layer 1.
    p, H = 0.25, 400
    layer = RNN(4, H, 2, "relu", bias=False, dropout=p, rng=0)
    layer.weight_ih_l0[...] = 1
    layer.weight_hh_l0[...] = 0
    layer.weight_ih_l1[...] = np.eye(H)
    layer.weight_hh_l1[...] = 0
    y, _, tape = layer.forward(np.full((10, 3, 4), 0.25, np.float32))
    kept = y != 0
    assert np.allclose(y[kept], 1 / (1 - p))
    assert abs(kept.mean() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / y.size)
    grads = tape.backward(np.ones_like(y))
    assert np.allclose(grads.x, (kept / (1 - p)).sum(axis=2)[..., None], rtol=1e-5)


def test_nothing_is_dropped_from_the_last_layer() -> None:
    layer = GRU(4, 8, 2, dropout=0.9, rng=0)
    y, _, _ = layer.forward(np.ones((20, 3, 4), np.float32))
    assert (y != 0).all()


# ---- frozen layers and streams --------------------------------------------------------------------------------------


@each_layer
@each_merge
@pytest.mark.parametrize("layout", ["time", "batch_first", "unbatched"])
def test_frozen_layers_write_into_out(
    kind: type[Any], merge: str | None, layout: str, rng: np.random.Generator
) -> None:
    layer = kind(4, 5, 2, bidirectional=True, merge=merge, batch_first=layout == "batch_first", rng=0)
    frozen = layer.freeze()
    x = rng.normal(size=(6, 4) if layout == "unbatched" else (6, 3, 4)).astype(np.float32)
    lengths = None if layout == "unbatched" else [3] * x.shape[1 if layout == "time" else 0]
    y, state = layer(x, lengths=lengths)
    out: Any = tuple(np.full((*one.shape[:-1], 2 * one.shape[-1]), 7, np.float32) for one in outputs(y))
    views: Any = tuple(one[..., : one.shape[-1] // 2] for one in out)
    y_2, state_2 = frozen(x, lengths=lengths, out=views if merge is None else views[0])
    assert y_2 is views[0] if merge is not None else all(a is b for a, b in zip(y_2, views, strict=True))
    assert same(y_2, y)
    assert same(state_2, state)
    assert all((one[..., one.shape[-1] // 2 :] == 7).all() for one in out)


def test_frozen_layers_do_not_change() -> None:
    layer = LSTM(4, 5, rng=0)
    frozen, x = layer.freeze(precision="float32"), np.ones((6, 3, 4), np.float32)
    expected = frozen(x)
    for w in layer.params.values():
        w += 1
    assert same(frozen(x), expected)
    with pytest.raises(ValueError, match="read-only"):
        frozen.params["bias_ih_l0"][0] = 1
    with pytest.raises(TypeError):
        frozen.params["bias_ih_l0"] = np.zeros(20, np.float32)  # type: ignore[index]
    assert copy.copy(frozen) is copy.deepcopy(frozen) is frozen


@each_layer
def test_frozen_layers_pickle_and_compare(kind: type[Any]) -> None:
    layer = kind(4, 5, 2, bidirectional=True, merge="sum", batch_first=True, dtype="f8", rng=0)
    frozen = layer.freeze()
    loaded = pickle.loads(pickle.dumps(frozen))
    assert loaded == frozen == layer.freeze()
    assert frozen != kind(4, 5, 2, bidirectional=True, merge="sum", batch_first=True, dtype="f8", rng=1).freeze()
    assert frozen != layer
    x = np.ones((3, 6, 4))
    assert same(loaded(x), layer(x))
    assert (loaded.input_size, loaded.hidden_size, loaded.num_layers) == (4, 5, 2)
    assert (loaded.bidirectional, loaded.batch_first, loaded.dtype) == (True, True, np.float64)
    assert (loaded.precision, loaded.isa) == ("float64", fusedrnn.current_isa())
    assert loaded.nbytes > sum(w.nbytes for w in layer.params.values())
    assert repr(loaded) == f"<frozen {layer!r}, float64, {fusedrnn.current_isa()}>"
    with pytest.raises(TypeError, match="unhashable"):
        hash(frozen)


@each_layer
@each_dtype
@pytest.mark.parametrize("tokens", [False, True])
def test_steps_are_the_sequence(kind: type[Any], dtype: str, tokens: bool, rng: np.random.Generator) -> None:
    layer = kind(4, 5, 2, dtype=dtype, rng=0)
    x = rng.integers(0, 4, size=(6, 3)) if tokens else rng.normal(size=(6, 3, 4)).astype(dtype)
    y, state = layer(x)
    stream = layer.freeze().stream(3)
    assert stream.batch_size == 3
    out = np.empty((3, 5), dtype)
    for t in range(6):
        before = stream.state
        assert same(stream.step(x[t]), y[t])
        stream.state = before
        assert stream.step(x[t], out=out) is out
        assert same(out, y[t])
    assert same(stream.state, state)


def test_streams_reset_and_resume() -> None:
    stream = LSTM(4, 5, 2, rng=0).freeze().stream(2)
    x = np.ones((2, 4), np.float32)
    first = stream.step(x)
    assert not same(stream.step(x), first)
    for resumed in (copy.copy(stream), copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        assert same(resumed.state, stream.state)
        assert not same(resumed.step(x), first)
        resumed.reset()
        assert not any(part.any() for part in resumed.state)
        assert same(resumed.step(x), first)
    stream.reset([True, False])
    h, c = stream.state
    assert not h[:, 0].any()
    assert h[:, 1].all()
    assert not c[:, 0].any()
    assert same(stream.step(x)[0], first[0])
    h[...] = 3  # a copy
    assert not (stream.state[0] == 3).any()
    stream.state = (np.asfortranarray(h, np.float64), c.tolist())
    assert (stream.state[0] == 3).all()
    stream.state = None
    assert not any(part.any() for part in stream.state)
    assert repr(stream).startswith("<stream of <frozen LSTM(4, 5, num_layers=2), float32, ")


def test_streams_take_arrays_of_any_kind() -> None:
    stream = GRU(4, 5, rng=0).freeze().stream(2)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    expected = stream.step(x)
    for variant in (x.tolist(), x.astype("f8"), x.astype(">f4"), np.asfortranarray(x), x.repeat(2, axis=1)[:, ::2]):
        stream.reset()
        assert same(stream.step(variant), expected)


# ---- cells ----------------------------------------------------------------------------------------------------------


@each_cell
@each_dtype
def test_cells_step_as_layers_do(kind: type[Any], dtype: str, rng: np.random.Generator) -> None:
    layer = {RNNCell: RNN, GRUCell: GRU, LSTMCell: LSTM}[kind](4, 5, dtype=dtype, rng=0)
    cell = kind(4, 5, dtype=dtype)
    cell.load_state_dict({name.removesuffix("_l0"): w for name, w in layer.params.items()})
    x = rng.normal(size=(6, 3, 4)).astype(dtype)
    y, state_n, tape = layer.forward(x)
    state, tapes = None, []
    for t in range(6):
        assert same(cell(x[t], state), cell.forward(x[t], state)[0])
        state, step = cell.forward(x[t], state)
        tapes.append(step)
        assert same(parts(state)[0], y[t])
    assert same(parts(state), tuple(part[0] for part in parts(state_n)))

    grads = tape.backward(dstate=state_n)
    dstate: Any = like(state_n, [part[0] for part in parts(state_n)])
    for t in reversed(range(6)):
        one = tapes[t].backward(dstate)
        assert np.allclose(one.x, grads.x[t], atol=1e-5 if dtype == "float32" else 1e-13)
        dstate = one.state
    for ours, theirs in zip(parts(dstate), parts(grads.state), strict=True):
        assert ours.shape == (3, 5)
        assert np.allclose(ours, theirs[0], atol=1e-5 if dtype == "float32" else 1e-13)
    assert list(one.params) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]


@each_cell
def test_cells_without_a_batch(kind: type[Any], rng: np.random.Generator) -> None:
    cell = kind(4, 5, rng=0)
    x = rng.normal(size=4).astype(np.float32)
    state, tape = cell.forward(x[None])
    state_1, tape_1 = cell.forward(x)
    assert same(like(state, [part[0] for part in parts(state)]), state_1)
    assert same(cell(x, state_1), like(state, [part[0] for part in parts(cell(x[None], state))]))
    grads, grads_1 = tape.backward(state), tape_1.backward(state_1)
    assert same(grads.x[0], grads_1.x)
    assert same(grads.params, grads_1.params)
    assert grads_1.state.shape == (5,) if kind is not LSTMCell else grads_1.state[1].shape == (5,)
    assert tape_1.backward(state_1, need_dx=False).x is None
    with tape_1:
        assert tape_1.nbytes > 0
    assert tape_1.released


@each_cell
def test_cells_take_tokens(kind: type[Any]) -> None:
    cell = kind(4, 5, rng=0)
    state = cell(np.eye(4, dtype=np.float32)[[2, 0]])
    assert all(np.allclose(a, b, atol=1e-7) for a, b in zip(parts(cell([2, 0])), parts(state), strict=True))
    assert same(cell(2), like(state, [part[0] for part in parts(cell([2, 0]))]))
    new, tape = cell.forward(np.array([2, 0], np.uint8))
    assert tape.backward(new).x is None


# ---- clipping -------------------------------------------------------------------------------------------------------


def test_clip_grad_norm_takes_gradients_in_any_container() -> None:
    layer = GRU(4, 5, rng=0)
    y, _, tape = layer.forward(np.ones((6, 2, 4), np.float32))
    grads = tape.backward(y)
    x = grads.x.copy()
    norm = math.sqrt(sum(float((w.astype(np.float64) ** 2).sum()) for w in grads.params.values()))
    assert math.isclose(fusedrnn.clip_grad_norm(dict(grads.params), 1e9), norm, rel_tol=1e-12)
    assert math.isclose(fusedrnn.clip_grad_norm(list(grads.params.values()), 1e9), norm, rel_tol=1e-12)
    assert math.isclose(fusedrnn.clip_grad_norm(iter([grads, None, {}]), 1e9), norm, rel_tol=1e-12)
    assert math.isclose(fusedrnn.clip_grad_norm(grads, norm / 2), norm, rel_tol=1e-12)
    assert math.isclose(fusedrnn.clip_grad_norm(grads, 1e9), norm / 2, rel_tol=1e-5)
    assert same(grads.x, x)  # only parameter gradients count
    fusedrnn.clip_grad_value([grads], 1e-3)
    assert max(np.abs(w).max() for w in grads.params.values()) == np.float32(1e-3)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", ">f4"])
def test_clip_grad_norm_of_views(norm_type: float, dtype: str, rng: np.random.Generator) -> None:
    base = rng.normal(size=(300, 500)).astype(dtype)
    arrays = [base[::2, ::3], base[1::2].T, np.zeros((0, 3), dtype), np.array(3.0, dtype)]
    values = np.concatenate([np.abs(array.astype(np.float64)).ravel() for array in arrays])
    expected = values.max() if norm_type == math.inf else (values**norm_type).sum() ** (1 / norm_type)
    norm = fusedrnn.clip_grad_norm(arrays, expected / 2, norm_type)
    assert type(norm) is float
    assert math.isclose(norm, expected, rel_tol=1e-12)
    after = np.concatenate([np.abs(array.astype(np.float64)).ravel() for array in arrays])
    rtol, atol = (2e-3, 1e-7) if dtype == "f2" else (1e-6, 0.0)  # float16 rounds the factor, too
    assert np.allclose(after, values / 2, rtol=rtol, atol=atol)


def test_clip_grad_norm_neither_overflows_nor_underflows() -> None:
    assert fusedrnn.clip_grad_norm([np.full(10**6, 3e38, np.float32)], 1e300) == pytest.approx(3e41, rel=1e-6)
    assert fusedrnn.clip_grad_norm([np.full(4, 1e300)], 1e308) == pytest.approx(2e300, rel=1e-12)
    assert fusedrnn.clip_grad_norm([np.full(4, 1e-300)], 1.0) == pytest.approx(2e-300, rel=1e-12)
    assert fusedrnn.clip_grad_norm([np.zeros(4), np.zeros(0)], 1.0) == 0.0
    assert fusedrnn.clip_grad_norm([], 0.0) == 0.0
    g = np.full(4, 1e300)
    fusedrnn.clip_grad_norm(g, 1.0)
    assert np.allclose(g, 0.5)


def test_clip_grad_value() -> None:
    g = np.array([-np.inf, -3, -0.5, 0, np.nan, 2, np.inf])
    fusedrnn.clip_grad_value({"g": g, "none": None}, 1)
    assert np.array_equal(g, [-1, -1, -0.5, 0, np.nan, 1, 1], equal_nan=True)


# ---- threads, instruction sets, the package itself ------------------------------------------------------------------


def test_threads_are_restored() -> None:
    before = fusedrnn.get_num_threads()
    limit = fusedrnn.threads(1)
    with limit as n:
        assert n == fusedrnn.get_num_threads() == 1
        with fusedrnn.threads(3), limit:
            assert fusedrnn.get_num_threads() == 1
        seen = []
        other = threading.Thread(target=lambda: seen.append(fusedrnn.get_num_threads()))
        other.start()
        other.join()
        assert seen == [before]
    assert fusedrnn.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), fusedrnn.threads(1):
        1 / 0  # noqa: B018
    assert fusedrnn.get_num_threads() == before


def test_set_num_threads() -> None:
    before = fusedrnn.get_num_threads()
    try:
        fusedrnn.set_num_threads(np.int8(3))  # type: ignore[arg-type]
        assert fusedrnn.get_num_threads() == 3
    finally:
        fusedrnn.set_num_threads(before)


def test_use_isa_is_restored() -> None:
    before = fusedrnn.current_isa()
    for name in fusedrnn.available_isas():
        force = fusedrnn.use_isa(name)
        with force as used, force:
            assert used == fusedrnn.current_isa() == name
        assert fusedrnn.current_isa() == before


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    fusedrnn.show_config()
    shown = capsys.readouterr().out
    assert shown.startswith("fusedrnn ")
    assert fusedrnn.__version__ in shown
    assert fusedrnn.current_isa() in shown


def test_public_names() -> None:
    assert dir(fusedrnn) == sorted(fusedrnn.__all__)
    for name in fusedrnn.__all__:
        assert getattr(fusedrnn, name) is not None
