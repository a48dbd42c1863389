"""Tokens of a large vocabulary: the bits of a call that packs every column, at the cost of the columns that occur.

The kernels themselves, with tokens, are tested in test_sequence.py and test_determinism.py; these tests are about
fusedrnn.tokens, `fusedrnn.SparseGrad` and everything that uses them.
"""

import copy
import pickle
import subprocess
import sys
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

import fusedrnn
from fusedrnn import SparseGrad, _core, functional, one_direction, recurrent, recurrent_cell, reference
from problems import assert_same_bits
from test_properties import KINDS, examples, strided

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])

CELLS: list[tuple[str, dict[str, Any]]] = [
    ("rnn", {}),
    ("rnn", {"activation": "softsign", "clip": 0.9}),
    ("gru", {}),
    ("gru", {"reset_after": False}),
    ("gru", {"reset_gate": False}),
    ("gru", {"layer_norm": True}),
    ("lstm", {}),
    ("lstm", {"peephole": "ifo"}),
    ("lstm", {"coupled": True}),
    ("lstm", {"layer_norm": True}),
]


@contextmanager
def every_column() -> Any:
    """Calls pack all columns of weight_ih, and gradients have all columns from the start."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (recurrent, recurrent_cell, one_direction):
            patch.setattr(module, "see", lambda *_: None)
        yield


@st.composite
def vocabularies(draw: Any) -> int:
    """Sizes below, near and far above the number of steps."""
    return int(draw(st.integers(1, 8) | st.integers(9, 70) | st.sampled_from([127, 128, 1000, 5000])))


def tokens_of(draw: Any, shape: tuple[int, ...], V: int) -> Any:
    """All the same, some that repeat, or all distinct (as far as the vocabulary goes)."""
    rng = np.random.default_rng(draw(st.integers(0, 1000), "seed of tokens"))
    way = draw(st.sampled_from(["same", "few", "any", "distinct"]), "tokens")
    count = int(np.prod(shape))
    if way == "same":
        return np.full(shape, rng.integers(V))
    if way == "few":
        return rng.integers(0, V, 3)[rng.integers(0, 3, shape)]
    if way == "any":
        return rng.integers(0, V, shape)
    return np.resize(rng.permutation(V), count).reshape(shape)


def dense(params: Any) -> dict[str, Any]:
    return {name: d.to_dense() if isinstance(d, SparseGrad) else d for name, d in params.items()}


# ---- numbers and columns ---------------------------------------------------------------------------------------------


@given(st.data())
@examples(400)
def test_tokens_are_numbered(data):
    draw = data.draw
    T, B = draw(st.integers(0, 40)), draw(st.integers(0, 20))
    V = draw(vocabularies() | st.sampled_from([100_000, 2**31 - 1]))  # by a bitmap, and by sorting
    x = tokens_of(draw, (T, B), V) if V < 10_000 else np.random.default_rng(T).integers(0, V, (T, B))
    rng = np.random.default_rng(B)
    lengths = rng.integers(0, T + 1, B) if draw(st.booleans()) else None
    mask = rng.random((B, T)) < 0.7 if draw(st.booleans()) else None
    reset = rng.random((B, T)) < 0.2 if draw(st.booleans()) else None
    ran = np.ones((T, B), bool) if lengths is None else np.arange(T)[:, None] < lengths
    if mask is not None:
        ran &= mask.T
    poisoned = np.where(ran, x, -1)
    ids, numbers = _core.number_tokens(poisoned, _core.Schedule(T, B, lengths, mask, reset), V)
    assert_same_bits(ids, np.unique(x[ran]), "ids")
    assert_same_bits(numbers[ran], np.searchsorted(ids, x[ran]), "numbers")
    assert not numbers[~ran].any()


def test_numbering_refuses_what_is_no_token():
    for token in (-1, 5, 2**62):
        with pytest.raises(IndexError, match=r"tokens\[1\]\[0\] is .*input_size = 5"):
            _core.number_tokens(np.array([[0], [token]]), _core.Schedule(2, 1), 5)
    with pytest.raises(ValueError, match="no such column"):
        _core.take_columns(np.ones((3, 4)), np.array([4]))


@given(st.data())
@examples(300)
def test_columns_of_any_layout(data):
    draw = data.draw
    dtype = draw(st.sampled_from(["float32", "float64"]))
    rows, V = draw(st.integers(1, 300)), draw(st.integers(1, 2500))
    rng = np.random.default_rng(rows)
    W = rng.standard_normal((rows, V)).astype(dtype)
    ids = np.unique(rng.integers(0, V, draw(st.sampled_from([0, 1, 17, 1000, 2500]))))
    given_W = strided(W, draw)
    if draw(st.booleans(), "unaligned"):
        raw = np.empty(W.nbytes + 1, np.uint8)[1:].view(W.dtype).reshape(W.shape)
        raw[...] = W
        given_W = raw
    taken = _core.take_columns(given_W, ids)
    assert taken.flags.c_contiguous
    assert_same_bits(taken, W[:, ids], "columns")


# ---- layers ----------------------------------------------------------------------------------------------------------


@st.composite
def layers(draw: Any, V: int) -> Any:
    family, options = draw(st.sampled_from(CELLS))
    bidirectional = draw(st.booleans())
    return KINDS[family](
        V,
        draw(st.integers(1, 35), "H"),
        num_layers=draw(st.integers(1, 2)),
        bias=draw(st.sampled_from([True, False])) if not options.get("layer_norm") else True,
        batch_first=draw(st.booleans()),
        bidirectional=bidirectional,
        merge=draw(st.sampled_from(["concat", "sum", None])) if bidirectional else "concat",
        dtype=draw(st.sampled_from(["float32", "float64"])),
        learned_state=draw(st.booleans()),
        recurrent_dropout=draw(st.sampled_from([0.0, 0.3])),
        weight_dropout=draw(st.sampled_from([0.0, 0.3])),
        rng=draw(st.integers(0, 1000)),
        **options,
    )


def backward(y: Any, tape: Any, **options: Any) -> Any:
    dy = (
        tuple(2 * part for part in y)
        if isinstance(y, tuple)
        else [2 * part for part in y]
        if isinstance(y, list)
        else 2 * y
    )
    return tape.backward(dy, need_dx=False, **options)


@given(st.data())
@examples(800)
def test_layers_have_the_bits_of_all_columns(data):
    draw = data.draw
    V = draw(vocabularies())
    layer = draw(layers(V))
    T, B = draw(st.integers(0, 12), "T"), draw(st.integers(0, 9), "B")
    x = tokens_of(draw, (T, B), V)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    steps: dict[str, Any] = {}
    if draw(st.booleans(), "lengths"):
        steps["lengths"] = rng.integers(0, T + 1, B)
    if draw(st.booleans(), "mask"):
        steps["mask"] = rng.random((B, T) if layer.batch_first else (T, B)) < 0.7
    if draw(st.booleans(), "reset"):
        steps["reset"] = rng.random((B, T) if layer.batch_first else (T, B)) < 0.2
    ran = np.arange(T)[:, None] < steps.get("lengths", np.full(B, T))
    if "mask" in steps:
        ran = ran & (steps["mask"].T if layer.batch_first else steps["mask"])
    given_x = np.where(ran, x, 10**12)
    if layer.batch_first:
        given_x = np.ascontiguousarray(given_x.T)
    for name in ("weight_ih_l0", "weight_ih_l0_reverse"):
        if name in layer.params:
            layer.params[name] = strided(layer.params[name], draw)
    layer.params["weight_hh_l0"] = strided(layer.params["weight_hh_l0"], draw)
    note(f"{layer!r} {steps}")

    expected = layer.freeze()(given_x, **steps)
    assert_same_bits(layer(given_x, **steps), expected, "inference")
    with every_column():
        assert_same_bits(layer(given_x, **steps), expected, "inference, all columns")
        *all_results, all_tape = layer.forward(given_x, **steps)
        masks = all_tape.masks
        all_grads = backward(all_results[0], all_tape)
    *results, tape = layer.forward(given_x, masks=masks, **steps)
    assert_same_bits(tuple(results), tuple(all_results), "forward")
    grads, sparse = backward(results[0], tape), backward(results[0], tape, sparse=True)
    assert_same_bits(grads.params, all_grads.params, "dense")
    assert_same_bits(grads.state, all_grads.state, "dstate")
    assert_same_bits(sparse.state, all_grads.state, "dstate, sparse")
    assert_same_bits(dense(sparse.params), all_grads.params, "sparse")
    for name, d in sparse.params.items():
        if name.startswith("weight_ih_l0"):
            assert_same_bits(d.ids, np.unique(x[ran]), "ids")
            assert d.shape == layer.params[name].shape
        else:
            assert isinstance(d, np.ndarray), name


@given(st.data())
@examples(150)
def test_tokens_of_a_large_vocabulary_are_one_hot_vectors(data):
    draw = data.draw
    V = draw(st.integers(20, 200))
    family, options = draw(st.sampled_from(CELLS))
    layer = KINDS[family](V, draw(st.integers(1, 20)), dtype=draw(st.sampled_from(["float32", "float64"])), **options)
    T, B = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    x = tokens_of(draw, (T, B), V)
    one_hot = np.eye(V, dtype=layer.dtype)[x]
    assert_same_bits(layer(x), layer(one_hot), "inference")
    y, _, tape = layer.forward(x)
    _, _, other = layer.forward(one_hot)
    assert_same_bits(dense(backward(y, tape, sparse=True).params), backward(y, other).params, "gradients")


@DTYPES
@pytest.mark.parametrize("layout", ["batch", "unbatched", "list"])
def test_every_layout(dtype, layout, rng):
    layer = fusedrnn.GRU(500, 9, dtype=dtype, bidirectional=True, rng=0)
    x: Any = {"batch": rng.integers(0, 500, (6, 3)), "unbatched": rng.integers(0, 500, 6).astype(np.uint16)}.get(
        layout, [rng.integers(0, 500, n) for n in (4, 0, 6)]
    )
    assert_same_bits(layer(x), layer.freeze()(x), "inference")
    y, _, tape = layer.forward(x)
    grads = backward(y, tape, sparse=True)
    assert_same_bits(dense(grads.params), backward(y, tape).params, "sparse")
    ids = np.unique(np.concatenate(x) if layout == "list" else x)
    assert_same_bits(grads.params["weight_ih_l0_reverse"].ids, ids.astype(np.int64), "ids")


@DTYPES
def test_threads_and_chunks_have_the_same_bits(dtype, rng):
    layer = fusedrnn.LSTM(30_000, 203, dtype=dtype, bidirectional=True, rng=0)
    x = rng.integers(0, 30_000, (40, 34))
    results = []
    for n in (1, 2, 5):
        with fusedrnn.threads(n):
            y, state, tape = layer.forward(x)
            results.append((y, state, backward(y, tape).params, dense(backward(y, tape, sparse=True).params)))
    with every_column(), fusedrnn.threads(1):
        y, state, tape = layer.forward(x)
        params = backward(y, tape).params
        results.append((y, state, params, params))
    for other in results[1:]:
        assert_same_bits(other, results[0], "threads")


def test_every_instruction_set(isa, rng):
    layer = fusedrnn.LSTM(700, 21, rng=0)
    x = rng.integers(0, 700, (9, 4))
    y, _, tape = layer.forward(x)
    with every_column():
        y_all, _, tape_all = layer.forward(x)
        expected = backward(y, tape_all).params
    assert_same_bits(y, y_all, "y")
    assert_same_bits(dense(backward(y, tape, sparse=True).params), expected, "sparse")


def test_a_tape_owns_its_tokens(rng):
    layer = fusedrnn.GRU(300, 7, rng=0)
    x = rng.integers(0, 300, (5, 2))
    y, _, tape = layer.forward(x)
    before = backward(y, tape).params
    x[:] = 0
    layer.weight_ih_l0[:] = np.nan
    assert_same_bits(backward(y, tape).params, before, "after the caller's arrays changed")
    first, again = (backward(y, tape, sparse=True).params["weight_ih_l0"] for _ in range(2))
    first.values[:] = 0
    assert again.values.any()


@pytest.mark.parametrize("x", [np.zeros((0, 3), np.int64), np.zeros((4, 0), np.int64)])
def test_no_token_at_all(x):
    layer = fusedrnn.LSTM(100, 6, rng=0)
    y, state, tape = layer.forward(x)
    assert_same_bits((y, state), layer(x), "no step runs")
    d = tape.backward(y, sparse=True).params["weight_ih_l0"]
    assert (d.ids.shape, d.values.shape, d.shape) == ((0,), (24, 0), (24, 100))
    assert_same_bits(tape.backward(y).params["weight_ih_l0"], np.zeros((24, 100), np.float32), "zeros")
    y, state, tape = layer.forward(np.full((3, 2), 5), lengths=[0, 0])
    assert len(tape.backward(y, sparse=True).params["weight_ih_l0"].ids) == 0


def test_floats_have_dense_gradients(rng):
    y, _, tape = fusedrnn.GRU(3, 5).forward(np.ones((4, 2, 3), np.float32))
    assert_same_bits(tape.backward(y, sparse=True).params, tape.backward(y).params, "floats")
    with pytest.raises(TypeError, match="sparse"):
        tape.backward(y, sparse=2)


# ---- cells, functions, groups ----------------------------------------------------------------------------------------


@given(st.data())
@examples(200)
def test_cells(data):
    draw = data.draw
    V = draw(vocabularies())
    family, options = draw(st.sampled_from([c for c in CELLS if "layer_norm" not in c[1]]))
    kind = {"rnn": fusedrnn.RNNCell, "gru": fusedrnn.GRUCell, "lstm": fusedrnn.LSTMCell}[family]
    cell = kind(V, draw(st.integers(1, 30)), dtype=draw(st.sampled_from(["float32", "float64"])), rng=1, **options)
    cell.params["weight_ih"] = strided(cell.params["weight_ih"], draw)
    shape = draw(st.sampled_from([(), (1,), (5,), (40,), (0,)]))
    x = tokens_of(draw, shape, V)
    state, tape = cell.forward(x)
    with every_column():
        expected, all_tape = cell.forward(x)
        all_params = all_tape.backward(expected, need_dx=False).params
    assert_same_bits(state, expected, "forward")
    assert_same_bits(cell(x), expected, "step")
    assert_same_bits(tape.backward(state).params, all_params, "dense")
    sparse = tape.backward(state, sparse=True)
    assert sparse.x is None
    assert_same_bits(dense(sparse.params), all_params, "sparse")
    assert_same_bits(sparse.params["weight_ih"].ids, np.unique(x).astype(np.int64), "ids")


@given(st.data())
@examples(150)
def test_functions(data):
    draw = data.draw
    V, H = draw(vocabularies()), draw(st.integers(1, 20))
    T, B = draw(st.integers(0, 6)), draw(st.integers(0, 5))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    rng = np.random.default_rng(V)
    name, G = draw(st.sampled_from([("rnn", 1), ("gru", 3), ("lstm", 4)]))
    x = tokens_of(draw, (T, B), V)
    W_ih, W_hh = rng.standard_normal((G * H, V)).astype(dtype), rng.standard_normal((G * H, H)).astype(dtype)
    forward, back = getattr(functional, f"{name}_forward"), getattr(functional, f"{name}_backward")
    states = (None,) * (1 + (name == "lstm"))
    given_W = strided(W_ih, draw)
    if draw(st.booleans(), "swapped bytes"):
        given_W = given_W.astype(given_W.dtype.newbyteorder())
    y, *final, tape = forward(x, *states, given_W, W_hh)
    with every_column():
        y_all, *final_all, all_tape = forward(x, *states, W_ih, W_hh)
        expected = back(all_tape, y_all, need_dx=False)
    assert_same_bits((y, tuple(final)), (y_all, tuple(final_all)), "forward")
    assert_same_bits(tuple(back(tape, y)), tuple(expected), "dense")
    sparse = back(tape, y, sparse=True)
    assert_same_bits(tuple(sparse._replace(dW_ih=sparse.dW_ih.to_dense())), tuple(expected), "sparse")
    *_, own = getattr(reference, f"{name}_forward")(x, *states, W_ih, W_hh)
    theirs = getattr(reference, f"{name}_backward")(own, np.ones((T, B, H)), sparse=True).dW_ih
    assert_same_bits(theirs.ids, sparse.dW_ih.ids, "ids")
    assert_same_bits(
        theirs.to_dense(), getattr(reference, f"{name}_backward")(own, np.ones((T, B, H))).dW_ih, "reference"
    )


GROUPS = {
    "stack": lambda: fusedrnn.Stack([fusedrnn.LSTM(400, 8, rng=0), fusedrnn.GRU(8, 5, rng=1)]),
    "bidirectional": lambda: fusedrnn.Bidirectional(fusedrnn.LSTM(400, 8, rng=0), fusedrnn.GRU(400, 5, rng=1)),
    "ensemble": lambda: fusedrnn.Ensemble([fusedrnn.GRU(400, 8, num_layers=2, rng=k) for k in range(3)]),
    "stack of bidirectional": lambda: fusedrnn.Stack(
        [fusedrnn.Bidirectional(fusedrnn.RNN(400, 8, rng=0), fusedrnn.GRU(400, 5, rng=1)), fusedrnn.RNN(13, 4, rng=2)]
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups(name, rng):
    net = GROUPS[name]()
    x = rng.integers(0, 400, (7, 4))
    x[:, 1] = 11
    lengths = [7, 3, 0, 5]
    x[3:, 1] = -7
    expected = net.freeze()(x, lengths=lengths)
    assert_same_bits(net(x, lengths=lengths), expected, "inference")
    y, _, tape = net.forward(x, lengths=lengths)
    with every_column():
        all_tape = net.forward(x, lengths=lengths)[-1]
        all_params = all_tape.backward(y, need_dx=False).params
    assert_same_bits(y, expected[0], "forward")
    assert_same_bits(tape.backward(y).params, all_params, "dense")
    sparse = tape.backward(y, sparse=True)
    assert_same_bits(dense(sparse.params), all_params, "sparse")
    found = {key for key, d in sparse.params.items() if isinstance(d, SparseGrad)}
    assert found == {key for key, w in net.params.items() if w.shape[-1] == 400}
    repr(sparse)


def test_inspect_reads_columns(rng):
    layer = fusedrnn.LSTM(400, 8, rng=0)
    x = rng.integers(0, 400, (5, 2))
    seen = layer.inspect(x)
    layer.params["weight_ih_l0"] = np.asfortranarray(layer.params["weight_ih_l0"])
    again = layer.inspect(x)
    assert_same_bits(again.outputs, layer(x)[0][None], "outputs")
    assert_same_bits(again.gates, seen.gates, "gates")


def test_explain_counts_the_columns_that_are_packed():
    layer = fusedrnn.LSTM(50_000, 16)
    calls = [stage["calls"][0] for stage in fusedrnn.explain(layer, 20, 3, tokens=True)["forward"]]
    assert calls[0]["input_size"] == 60
    seen = fusedrnn.explain(layer, 20, 3, tokens=True, training=True)
    assert seen["tape_bytes"] == layer.forward(np.zeros((20, 3), np.int64))[-1].nbytes
    assert seen["backward"][0]["calls"][0]["scratch_bytes"] < 10**6


# ---- sparse gradients ------------------------------------------------------------------------------------------------


def example(rng: Any, dtype: str = "float32", V: int = 50) -> SparseGrad:
    ids = np.unique(rng.integers(0, V, 12))
    return SparseGrad(ids, rng.standard_normal((8, len(ids))).astype(dtype), V)


@DTYPES
def test_a_sparse_gradient(dtype, rng):
    d = example(rng, dtype)
    expected = np.zeros((8, 50), dtype)
    expected[:, d.ids] = d.values
    assert_same_bits(d.to_dense(), expected, "to_dense")
    assert (d.shape, d.dtype, d.nbytes) == ((8, 50), np.dtype(dtype), d.ids.nbytes + d.values.nbytes)
    assert repr(d) == f"SparseGrad(shape=(8, 50), ids={len(d.ids)}, dtype={dtype})"
    for other in (pickle.loads(pickle.dumps(d)), copy.copy(d), copy.deepcopy(d)):
        assert other == d
        assert_same_bits((other.ids, other.values), (d.ids, d.values), "copies")
    assert not np.shares_memory(copy.deepcopy(d).values, d.values)
    assert d != SparseGrad(d.ids, d.values, 51)
    assert d != 3
    with pytest.raises(TypeError):
        hash(d)


@given(st.data())
@examples(100)
def test_adding_to_an_array_of_any_layout(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    d = example(rng, data.draw(st.sampled_from(["float32", "float64"])))
    w = rng.standard_normal((8, 50)).astype(d.dtype)
    expected = w.copy()
    expected -= 0.1 * d.to_dense()
    array = strided(w, data.draw)
    d.add_to(array, -0.1)
    assert_same_bits(array, expected, "a step")
    d.add_to(array)
    assert_same_bits(array, expected + d.to_dense(), "without a factor")


def test_wrong_sparse_gradients(rng):
    d = example(rng)
    for array, error, match in (
        (np.zeros((8, 49), np.float32), ValueError, r"shape \(8, 49\); expected \(8, 50\)"),
        ([1.0], TypeError, "list"),
        (np.zeros((8, 50), int), TypeError, "int64"),
        (np.broadcast_to(np.float32(0), (8, 50)), ValueError, "read-only"),
    ):
        with pytest.raises(error, match=match):
            d.add_to(array)  # type: ignore[arg-type]
    for ids, values, V, error in (
        ([1], d.values, 50, TypeError),
        (d.ids, d.values.astype(int), 50, TypeError),
        (d.ids[1:], d.values, 50, ValueError),
        (d.ids, d.values, 3, ValueError),
        (d.ids, d.values[0], 50, ValueError),
    ):
        with pytest.raises(error, match="SparseGrad"):
            SparseGrad(ids, values, V)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0, np.inf])
def test_clipping_by_norm(norm, rng):
    layer = fusedrnn.LSTM(900, 6, dtype="float64", rng=0)
    y, _, tape = layer.forward(rng.integers(0, 900, (30, 4)))
    plain, sparse = backward(y, tape), backward(y, tape, sparse=True)
    before, other = (fusedrnn.clip_grad_norm(g, 0.25, norm) for g in (plain, sparse))
    assert before == pytest.approx(other, rel=1e-13)
    assert before > 0.25
    for name, d in dense(sparse.params).items():
        np.testing.assert_allclose(d, plain.params[name], rtol=1e-12, err_msg=name)
    assert fusedrnn.clip_grad_norm([sparse.params["weight_ih_l0"], None], 9.0, norm) == pytest.approx(
        fusedrnn.clip_grad_norm(plain.params["weight_ih_l0"], 9.0, norm), rel=1e-13
    )


def test_clipping_by_value(rng):
    layer = fusedrnn.GRU(900, 6, rng=0)
    y, _, tape = layer.forward(rng.integers(0, 900, (30, 4)))
    plain, sparse = backward(y, tape), backward(y, tape, sparse=True)
    for g in (plain, sparse):
        fusedrnn.clip_grad_value(g, 0.01)
    assert_same_bits(dense(sparse.params), plain.params, "clipped")
    bad = example(rng)
    bad.values[0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="1 of"):
        fusedrnn.clip_grad_norm({"w": bad}, 1.0)


# ---- memory ----------------------------------------------------------------------------------------------------------

PEAK = """
import resource, sys
import numpy as np, fusedrnn

V, H = 1_000_000, 8
layer = object.__new__(fusedrnn.LSTM)
params = {"weight_ih_l0": np.zeros((4 * H, V), np.float32, order=%r), "weight_hh_l0": np.zeros((4 * H, H), np.float32)}
params |= {name: np.zeros(4 * H, np.float32) for name in ("bias_ih_l0", "bias_hh_l0")}
layer.__setstate__({"version": 1, "params": params, "input_size": V, "hidden_size": H, "rng": np.random.default_rng(0)})
cell = object.__new__(fusedrnn.LSTMCell)
own = {name.removesuffix("_l0"): array for name, array in params.items()}
cell.__setstate__({"version": 1, "params": own, "input_size": V, "hidden_size": H, "rng": np.random.default_rng(0)})
small = fusedrnn.LSTM(10, H)  # everything that a first call makes
y, _, tape = small.forward(np.zeros((9, 3), int))
tape.backward(y, sparse=True)
fusedrnn.explain(small, 9, 3, tokens=True)
rng = np.random.default_rng(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(3):
    x = rng.integers(0, V, (9, 3))
    layer(x)
    cell(x[0])
    fusedrnn.explain(layer, 9, 3, tokens=True)
    fusedrnn.functional.lstm_forward(x, None, None, *params.values())
    y, _, tape = layer.forward(x)
    d = tape.backward(y, sparse=True).params["weight_ih_l0"]
    fusedrnn.clip_grad_norm({"w": d}, 1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_call_holds_no_copy_of_the_vocabulary(order):
    """weight_ih has 128 MB, of which no page is touched before the calls."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK % order], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 << 10, f"{done.stdout} KiB"
