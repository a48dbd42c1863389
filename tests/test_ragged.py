"""Sequences of different lengths as ``(values, lengths)``: the bits of a padded batch, and no padding anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

import fusedrnn
from fusedrnn import GRU, LSTM, RNN, _core, functional, reference
from problems import VARIANTS, assert_results, assert_same_bits, cell_of, make_problem, with_structure
from test_properties import cells, examples, strided

KINDS = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
OVER_STEPS = ("zoneout_h", "zoneout_c", "dropout")  # masks with axes of steps and rows

# ---- problems


class Rows:
    """Which entry of a packed array is which entry of a padded one."""

    def __init__(self, lengths: Any) -> None:
        self.lengths = np.array(lengths, np.int64)
        self.T, self.B, self.N = max(lengths, default=0), len(lengths), int(self.lengths.sum())
        self.time = np.concatenate([np.arange(0), *map(np.arange, self.lengths)]).astype(int)
        self.row = np.repeat(np.arange(self.B), self.lengths)

    def pack(self, padded: Any, lead: int = 0) -> Any:
        """(..., T, B, ...) -> (..., N, ...), after `lead` axes."""
        return padded[(slice(None),) * lead + (self.time, self.row)]

    def pad(self, packed: Any, fill: Any, lead: int = 0) -> Any:
        before, after = packed.shape[:lead], packed.shape[lead + 1 :]
        padded = np.full((*before, self.T, self.B, *after), fill, packed.dtype)
        padded[(slice(None),) * lead + (self.time, self.row)] = packed
        return padded

    def pack_masks(self, masks: dict[str, Any]) -> dict[str, Any]:
        def packed(name: str, mask: Any) -> Any:
            own = name.rpartition(".")[2]
            if own.startswith("dropout_"):
                return self.pack(mask)
            return self.pack(mask, 1) if own in OVER_STEPS else mask

        return {name: packed(name, mask) for name, mask in masks.items()}


@st.composite
def layers(draw: Any, inner: bool = False) -> Any:
    """A layer with any options, those of training included."""
    if draw(st.integers(0, 5)) == 0:
        family, options = draw(st.sampled_from(["gru", "lstm"])), {"layer_norm": True}
    else:
        family, options = draw(cells())
    I, H = draw(st.integers(1, 20), "I"), draw(st.integers(1, 35), "H")
    if family == "lstm" and H > 1 and "layer_norm" not in options and options.get("peephole") is None:
        options["proj_size"] = draw(st.integers(0, H - 1))
    bidirectional = not inner and draw(st.booleans())
    layer = KINDS[family](
        I,
        H,
        num_layers=draw(st.integers(1, 3)),
        bias=draw(st.sampled_from([True, False, "single"])),
        batch_first=not inner and draw(st.booleans()),
        bidirectional=bidirectional,
        backwards=not bidirectional and not inner and draw(st.booleans()),
        merge=draw(st.sampled_from(["concat", "sum", "mean", "mul", None])) if bidirectional else "concat",
        learned_state=draw(st.booleans()),
        dtype=draw(st.sampled_from(["float32", "float64"])),
        zoneout=draw(st.sampled_from([0.0, 0.0, 0.3])),
        recurrent_dropout=draw(st.sampled_from([0.0, 0.0, 0.4])),
        weight_dropout=draw(st.sampled_from([0.0, 0.0, 0.3])),
        rng=draw(st.integers(0, 1000)),
        **options,
    )
    if layer.num_layers > 1:
        layer.dropout = draw(st.sampled_from([0.0, 0.5]))
    return layer


#: Rows of any lengths; few long ones among many short ones; and nothing at all.
LENGTHS = (
    st.lists(st.integers(0, 12), max_size=9)
    | st.tuples(st.integers(13, 60), st.integers(1, 40)).map(lambda pair: [1] * pair[1] + [pair[0]] + [2, 0])
    | st.integers(0, 30).map(lambda B: [0] * B)
    | st.integers(0, 30).map(lambda B: [3] * B)
)


def parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def arrays_like(value: Any, rng: np.random.Generator) -> Any:
    """Random numbers in the structure of a state."""
    if isinstance(value, tuple):
        return tuple(arrays_like(item, rng) for item in value)
    return rng.standard_normal(value.shape).astype(value.dtype)


def compare(layer: Any, draw: Any) -> None:
    """Forward, backward, inference and frozen inference of (values, lengths), beside a padded batch with lengths."""
    rows = Rows(draw(LENGTHS, "lengths"))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    dtype, I, tokens = layer.dtype, layer.input_size, draw(st.booleans(), "tokens")
    values = rng.integers(0, I, rows.N) if tokens else rng.standard_normal((rows.N, I)).astype(dtype)
    cuts = rng.random(rows.N) < 0.3 if draw(st.booleans(), "reset") else None
    threads = draw(st.integers(1, 3), "threads")
    note(f"{layer!r} {dtype}")

    def turn(array: Any) -> Any:
        return array.swapaxes(0, 1) if layer.batch_first else array

    x = turn(rows.pad(values, -1 if tokens else np.nan))
    steps: dict[str, Any] = {"lengths": rows.lengths}
    more: dict[str, Any] = {}
    if cuts is not None:
        steps["reset"], more["reset"] = turn(rows.pad(cuts, False)), cuts
    given_values = strided(values, draw)
    given_values.flags.writeable = False
    lengths = rows.lengths.astype(draw(st.sampled_from(["int64", "int32", "uint8"])))
    packed = given_values, lengths.tolist() if draw(st.booleans()) else lengths
    ones = layer(x, lengths=rows.lengths)[1]
    state = arrays_like(ones, rng) if draw(st.booleans(), "state") else None

    with fusedrnn.threads(threads):
        y, state_n, tape = layer.forward(x, state, **steps)
        ours, our_state, our_tape = layer.forward(packed, state, **more, masks=rows.pack_masks(tape.masks))
        assert_same_bits(our_state, state_n, "state")
        for a, b in zip(parts(ours), parts(y), strict=True):
            assert_same_bits(a, rows.pack(turn(b)), "y")
        dys = [rng.standard_normal(a.shape).astype(dtype) for a in parts(ours)]
        dy = tuple(turn(rows.pad(d, np.nan)) for d in dys) if isinstance(y, tuple) else turn(rows.pad(dys[0], np.nan))
        dstate = arrays_like(state_n, rng)
        grads = tape.backward(dy, dstate)
        found = our_tape.backward(tuple(dys) if isinstance(y, tuple) else dys[0], dstate)
        assert_same_bits(found.x, None if tokens else rows.pack(turn(grads.x)), "dx")
        assert_same_bits(found.state, grads.state, "dstate")
        assert_same_bits(found.params, grads.params, "parameters")

        frozen = layer.freeze()
        y, state_n = layer(x, state, **steps)
        for run in (layer, frozen):
            ours, our_state = run(packed, state, **more)
            assert_same_bits(our_state, state_n, "state in inference")
            for a, b in zip(parts(ours), parts(y), strict=True):
                assert_same_bits(a, rows.pack(turn(b)), "y in inference")
        out = tuple(np.empty_like(a) for a in parts(ours))
        frozen(packed, state, **more, out=out if len(out) == 2 else out[0])
        assert_same_bits(out, parts(ours), "out")
    assert_same_bits(lengths.astype(np.int64), rows.lengths, "the caller's lengths")


@given(st.data())
@examples(800)
def test_layers_give_the_bits_of_a_padded_batch(data):
    compare(data.draw(layers()), data.draw)


@st.composite
def groups(draw: Any) -> Any:
    """Stacks, directions of two kinds and ensembles, also within each other."""
    one = draw(layers(inner=True))
    make, I, dtype = type(one), one.input_size, one.dtype
    other = GRU(I, draw(st.integers(1, 20)), 2, dropout=0.4, dtype=dtype, rng=1)
    widths = one._plan.widths[0], other._plan.widths[0]
    kind = draw(st.sampled_from(["stack", "directions", "ensemble", "stack of directions", "ensemble of stacks"]))
    if kind == "stack":
        return fusedrnn.Stack([one, LSTM(widths[0], 7, bidirectional=True, dtype=dtype, rng=2)], dropout=0.5, rng=3)
    if kind == "directions":
        merge = draw(st.sampled_from(["concat", None, *(["mul", "sum"] if widths[0] == widths[1] else [])]))
        return fusedrnn.Bidirectional(one, other, merge=merge)
    if kind == "ensemble":
        return fusedrnn.Ensemble([make(I, 6, dtype=dtype, rng=seed) for seed in range(3)])
    if kind == "ensemble of stacks":
        stacks = [fusedrnn.Stack([make(I, 6, dtype=dtype, rng=k), GRU(6, 4, dtype=dtype, rng=k + 9)]) for k in range(2)]
        return fusedrnn.Ensemble(stacks)
    both = fusedrnn.Bidirectional(RNN(I, 5, dtype=dtype, rng=4), GRU(I, 5, dtype=dtype, rng=5), merge="mul")
    return fusedrnn.Stack([both, fusedrnn.Stack([LSTM(5, 8, dtype=dtype, rng=6), RNN(8, 3, dtype=dtype, rng=7)])])


@given(st.data())
@examples(200)
def test_groups_give_the_bits_of_a_padded_batch(data):
    draw = data.draw
    net = draw(groups())
    rows = Rows(draw(LENGTHS, "lengths"))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    lead = 1 if isinstance(net, fusedrnn.Ensemble) else 0
    note(repr(net))
    values = rng.standard_normal((rows.N, net.input_size)).astype(net.dtype)
    x, packed = rows.pad(values, np.nan), (values, rows.lengths)
    y, state_n, tape = net.forward(x, lengths=rows.lengths)
    ours, our_state, our_tape = net.forward(packed, masks=rows.pack_masks(tape.masks))
    assert_same_bits(our_tape.masks, rows.pack_masks(tape.masks), "masks")
    assert_same_bits(our_state, state_n, "state")
    for a, b in zip(parts(ours), parts(y), strict=True):
        assert_same_bits(a, rows.pack(b, lead), "y")
    dys = tuple(rng.standard_normal(a.shape).astype(net.dtype) for a in parts(ours))
    padded = tuple(rows.pad(d, 0, lead) for d in dys)
    pair = isinstance(y, tuple)
    found = our_tape.backward(dys if pair else dys[0], our_state)
    grads = tape.backward(padded if pair else padded[0], state_n)
    assert_same_bits(found.x, rows.pack(grads.x), "dx")
    assert_same_bits(found.state, grads.state, "dstate")
    assert_same_bits(found.params, grads.params, "parameters")
    assert_same_bits(net.freeze()(packed), net(packed), "frozen")
    assert_same_bits(parts(net(packed)[0]), [rows.pack(b, lead) for b in parts(net(x, lengths=rows.lengths)[0])], "y")


@given(st.data())
@examples(300)
def test_lists_give_the_bits_of_values_and_of_a_padded_batch(data):
    draw = data.draw
    layer = draw(layers())
    rows = Rows(draw(LENGTHS, "lengths"))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    values = rng.standard_normal((rows.N, layer.input_size)).astype(layer.dtype)
    valid = rng.random(rows.N) < 0.7 if draw(st.booleans(), "mask") else None
    cuts = rng.random(rows.N) < 0.2 if draw(st.booleans(), "reset") else None
    past_end = draw(st.sampled_from(["zero", "hold"]), "past_end")

    def split(array: Any) -> Any:
        return None if array is None else np.split(array, np.cumsum(rows.lengths)[:-1]) if rows.B else []

    def turn(array: Any) -> Any:
        return None if array is None else array.swapaxes(0, 1) if layer.batch_first else array

    xs, x = split(values), turn(rows.pad(values, np.nan))
    padded: dict[str, Any] = {"lengths": rows.lengths, "past_end": past_end}
    padded["mask"] = None if valid is None else turn(rows.pad(valid, True))
    padded["reset"] = None if cuts is None else turn(rows.pad(cuts, False))
    y, state_n, tape = layer.forward(x, **padded)
    masks = rows.pack_masks(tape.masks)
    own = {"mask": split(valid), "reset": split(cuts), "past_end": past_end}
    ours, our_state, our_tape = layer.forward(xs, **own, masks=masks)
    assert_same_bits(our_state, state_n, "state")
    dys = []
    for a, b in zip([ours] if layer.merge else ours, parts(y), strict=True):
        assert_same_bits(a, split(rows.pack(turn(b))), "y")
        dys.append([rng.standard_normal(part.shape).astype(layer.dtype) for part in a])
    flat = [
        np.concatenate([np.empty((0, width), layer.dtype), *d])
        for d, width in zip(dys, layer._plan.widths, strict=True)
    ]
    found = our_tape.backward(dys[0] if layer.merge else tuple(dys), our_state)
    padded_dys = tuple(turn(rows.pad(d, 0)) for d in flat)
    grads = tape.backward(padded_dys[0] if layer.merge else padded_dys, state_n)
    assert_same_bits(found.x, split(rows.pack(turn(grads.x))), "dx")
    assert_same_bits([found.state, found.params], [grads.state, grads.params], "gradients")
    if valid is None:
        y, state_n, tape = layer.forward((values, rows.lengths), reset=cuts, past_end=past_end, masks=masks)
        grads = tape.backward(flat[0] if layer.merge else tuple(flat), state_n)
        assert_same_bits(our_state, state_n, "state")
        assert_same_bits([found.state, found.params], [grads.state, grads.params], "gradients")
        assert_same_bits(found.x, split(grads.x), "dx")


@given(st.data())
@examples(200)
def test_a_row_has_the_bits_of_the_row_alone(data):
    draw = data.draw
    layer = draw(layers())
    rows = Rows(draw(LENGTHS, "lengths"))
    values = np.random.default_rng(rows.N).standard_normal((rows.N, layer.input_size)).astype(layer.dtype)
    y, state = layer((values, rows.lengths))
    for b in range(rows.B):
        own = rows.row == b
        y_b, state_b = layer(values[own])
        assert_same_bits([a[own] for a in parts(y)], list(parts(y_b)), f"y of row {b}")
        assert_same_bits([part[:, b] for part in parts(state)], list(parts(state_b)), f"state of row {b}")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_large_calls_on_several_threads(threads, bidirectional, rng):
    """Large enough that calls are cut by rows, run as a wavefront, or side by side with gradients apart."""
    rows = Rows([0, 700, 3, *rng.integers(1, 60, 90), 250])
    net = LSTM(24, 48, 3, bidirectional=bidirectional, rng=0)
    values = rng.standard_normal((rows.N, 24)).astype(np.float32)
    x = rows.pad(values, np.nan)
    with fusedrnn.threads(1):
        y, state, tape = net.forward(x, lengths=rows.lengths)
        dy = rng.standard_normal((rows.N, y.shape[2])).astype(np.float32)
        grads = tape.backward(rows.pad(dy, 0), state)
    with fusedrnn.threads(threads):
        ours, our_state, tape = net.forward((values, rows.lengths))
        found = tape.backward(dy, our_state)
        assert_same_bits([ours, our_state], [rows.pack(y), state], "forward")
        assert_same_bits(net((values, rows.lengths)), (ours, our_state), "inference")
    assert_same_bits(found.x, rows.pack(grads.x), "dx")
    assert_same_bits([found.state, found.params], [grads.state, grads.params], "gradients")


# ---- the functional interface and the reference


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("lengths", [[5, 0, 9, 1, 9], [1, 1, 40, 1], [0, 0], []], ids=str)
@pytest.mark.parametrize(
    ("cell", "structure"),
    [(cell, ()) for cell in VARIANTS]
    + [(cell, ("recurrent_mask", "zoneout_h", "zoneout_c")) for cell in VARIANTS if cell_of(cell).recurrent]
    + [(cell, ("W_hr", "zoneout_h")) for cell in VARIANTS if cell.startswith("lstm")],
)
def test_functions(cell, lengths, structure, tokens, reverse, rng):
    """Kernels and reference, each beside a padded batch, and beside each other."""
    rows = Rows(lengths)
    sizes = {"T": rows.T, "B": rows.B, "I": 6, "H": 11}
    problem = make_problem(rng, cell, "float64", **sizes, lengths=rows.lengths, tokens=tokens, reverse=reverse)
    problem = with_structure(problem.but(reset=rng.random((rows.T, rows.B)) < 0.2), rng, *structure)
    masks = {name: rows.pack(m) if name.startswith("zoneout") else m for name, m in problem.structure.items()}
    packed = problem.but(
        x=(rows.pack(problem.x), lengths), dy=rows.pack(problem.dy), reset=rows.pack(problem.reset), lengths=None,
        structure=masks,
    )  # fmt: skip
    found = {}
    for module in (functional, reference):
        expected, found[module] = problem.run(module), packed.run(module)
        expected |= {name: rows.pack(expected[name]) for name in ("y", "dx") if expected[name] is not None}
        assert_same_bits(found[module], expected, module.__name__)
    assert_results(found[functional], found[reference], problem)


# ---- input


def test_input_is_read_in_place_and_never_written(rng):
    layer = GRU(3, 5, rng=0)
    large = rng.standard_normal((9, 6)).astype(np.float32)
    values = large[::-1, ::2]  # negative strides
    values.flags.writeable = False
    before = large.copy()
    y, h, tape = layer.forward((values, [4, 5]))
    grads = tape.backward(y)
    other = np.ascontiguousarray(values)
    assert_same_bits((y, h), layer((other, [4, 5])), "strides")
    assert_same_bits((y, h), layer((other.astype(">f4"), np.array([4, 5], ">i2"))), "byte order")
    assert_same_bits((y, h), layer((np.repeat(other, 2, axis=0)[::2], (4, 5))), "gaps")
    assert grads.x.shape == values.shape
    assert_same_bits(large, before, "the caller's array")


def test_empty_batches():
    for layer in (LSTM(3, 5, 2, bidirectional=True), RNN(3, 5, bidirectional=True, merge=None)):
        for lengths in ([], [0], [0] * 50):
            y, state, tape = layer.forward((np.zeros((0, 3), np.float32), lengths))
            assert [a.shape[0] for a in parts(y)] == [0] * len(parts(y))
            assert {part.shape[1] for part in parts(state)} == {len(lengths)}
            grads = tape.backward(y, state)
            assert grads.x.shape == (0, 3)
            assert_same_bits(grads.state, state, "dstate")
            assert not any(g.any() for g in grads.params.values())
    assert LSTM(3, 5)((np.zeros(0, int), []))[0].shape == (0, 5)


def test_tuples_and_lists():
    """A list is a batch; a tuple is (values, lengths), except for a tuple of float sequences."""
    layer = GRU(3, 5, rng=0)
    a, b = np.array([0, 1, 2]), np.array([1, 2])
    assert [y.shape for y in layer([a, b])[0]] == [(3, 5), (2, 5)]
    assert layer((a, b))[0].shape == (3, 5)  # lengths 1 and 2
    floats = np.ones((3, 3), np.float32), np.ones((2, 3), np.float32)
    assert [y.shape for y in layer(floats)[0]] == [(3, 5), (2, 5)]
    assert layer(((0, 1, 2), (1, 1, 2)))[0].shape == (2, 3, 5), "nested numbers are an array"


def values(*shape: int, dtype: Any = np.float32) -> Any:
    return np.zeros(shape, dtype)


FORM = "(values, lengths): the steps of all rows, row after row, and integers (B,)"
ERRORS: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "sum": (
        (values(7, 8), [4, 2]), {}, ValueError,
        "LSTM: x[1], the lengths, sum to 6, and x[0], the values, has 7 steps; expected equal numbers (a batch of "
        "sequences is a list, not a tuple)",
    ),
    "negative": (
        (values(7, 8), [8, -1]), {}, ValueError, "LSTM: x[1][0] is 8; expected a length from 0 to len(values) = 7"
    ),
    "huge": (
        (values(7, 8), np.array([7, 2**64 - 7], np.uint64)), {}, ValueError,
        "LSTM: x[1][1] is 18446744073709551609; expected a length from 0 to len(values) = 7",
    ),
    "lengths of floats": (
        (values(7, 8), [4.0, 3.0]), {}, TypeError, f"LSTM: x[1] has dtype float64; expected the integers of {FORM}"
    ),
    "lengths of bools": (
        (values(7, 8), [True]), {}, TypeError, f"LSTM: x[1] has dtype bool; expected the integers of {FORM}"
    ),
    "values with three axes": (
        (values(7, 2, 8), [4, 3]), {}, ValueError,
        "LSTM: x[0] has shape (7, 2, 8); expected (sum of lengths, input_size) = (sum of lengths, 8)",
    ),
    "width": (
        (values(7, 9), [4, 3]), {}, ValueError,
        "LSTM: x[0] has shape (7, 9); expected (sum of lengths, input_size) = (sum of lengths, 8)",
    ),
    "integers with two axes": (
        (values(7, 8, dtype=np.int64), [4, 3]), {}, ValueError,
        "LSTM: x[0] holds integers (int64) in shape (7, 8); integers are tokens of shape (sum of lengths,); for values "
        "call .astype('float32')",
    ),
    "complex": (
        (values(7, 8, dtype=complex), [4, 3]), {}, TypeError,
        "LSTM: x[0] has dtype complex128; expected a real floating-point dtype, or integers for tokens",
    ),
    "token": (
        (np.array([0, 1, 2, 8, 0]), [2, 3]), {}, IndexError,
        "LSTM: x[0] holds token 8 at position 3 (t=1, b=1); expected 0 <= token < input_size = 8",
    ),
    "a state in x": (
        (values(4, 2, 8), values(1, 2, 16)), {}, TypeError,
        f"LSTM: x is a tuple of arrays of shapes (4, 2, 8), (1, 2, 16); expected {FORM} (a batch of sequences is a "
        f"list; a state is an argument of its own)",
    ),
    "a tuple of tokens": (
        tuple(np.zeros((4, 2), int)) * 2, {}, TypeError,
        f"LSTM: x is a tuple of arrays of shapes (2,), (2,), (2,), ...; expected {FORM} (a batch of sequences is a "
        f"list; a state is an argument of its own)",
    ),
    "lengths twice": (
        (values(7, 8), [4, 3]), {"lengths": [4, 3]}, ValueError,
        "LSTM: lengths given with (values, lengths); expected lengths=None",
    ),
    "mask": (
        (values(7, 8), [4, 3]), {"mask": np.ones(7, bool)}, ValueError,
        "LSTM: mask is an ndarray, but x is (values, lengths); expected None, as values can leave out skipped steps "
        "(a list of sequences may have a mask)",
    ),
    "reset": (
        (values(7, 8), [4, 3]), {"reset": np.zeros((4, 2), bool)}, ValueError,
        "LSTM: reset has shape (4, 2); expected (sum of lengths,) = (7,)",
    ),
    "reset of numbers": (
        (values(7, 8), [4, 3]), {"reset": np.zeros(7)}, TypeError, "LSTM: reset has dtype float64; expected bool"
    ),
    "state": (
        (values(7, 8), [4, 3]), {"state": (values(1, 7, 16), values(1, 7, 16))}, ValueError,
        "LSTM: state h has shape (1, 7, 16); expected (num_layers, B, hidden_size) = (1, 2, 16)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    x, options, error, message = ERRORS[name]
    layer = LSTM(8, 16, rng=0)
    for call in (layer, layer.forward, layer.freeze()):
        with pytest.raises(error) as info:
            call(x, **options)
        assert str(info.value) == message
        assert type(info.value) is error


def test_errors_of_outputs_and_gradients():
    layer = GRU(8, 4, rng=0)
    x = np.zeros((7, 8), np.float32), [4, 3]
    y, _, tape = layer.forward(x)
    with pytest.raises(
        ValueError, match=r"dy has shape \(4, 2, 4\); expected \(sum of lengths, hidden_size\) = \(7, 4\)"
    ):
        tape.backward(np.zeros((4, 2, 4), np.float32))
    with pytest.raises(
        ValueError, match=r"out has shape \(6, 4\); expected \(sum of lengths, hidden_size\) = \(7, 4\)"
    ):
        layer.freeze()(x, out=y[:6])
    wide = np.zeros((7, 8), np.float32)
    with pytest.raises(ValueError, match=r"out overlaps x\[0\] in memory"):
        layer.freeze()((wide, [4, 3]), out=wide[:, :4])
    with pytest.raises(ValueError, match=r"masks\['zoneout_h'\] has shape \(1, 4, 2, 4\); expected .*sum of lengths"):
        GRU(8, 4, zoneout=0.5).forward(x, masks={"zoneout_h": np.zeros((1, 4, 2, 4), bool)})


def test_errors_of_the_functions():
    weights = np.zeros((5, 3)), np.zeros((5, 5))
    with pytest.raises(ValueError, match="rnn_forward: lengths given with"):
        functional.rnn_forward((np.zeros((2, 3)), [2]), None, *weights, lengths=[2])
    with pytest.raises(TypeError, match="rnn_forward: x is a tuple of arrays"):
        functional.rnn_forward((np.zeros((2, 3)), np.zeros((2, 3))), None, *weights)
    with pytest.raises(ValueError, match="sum to 2"):
        reference.rnn_forward((np.zeros((2, 3)), [3]), None, *weights)
    with pytest.raises(TypeError, match="expected integers"):
        reference.rnn_forward((np.zeros((2, 3)), [2.0]), None, *weights)
    with pytest.raises(ValueError, match="lengths or mask given"):
        reference.rnn_forward((np.zeros((2, 3)), [2]), None, *weights, mask=np.ones((1, 2), bool))


def test_the_compiled_module_checks_lengths():
    with pytest.raises(ValueError, match="negative"):
        _core.Schedule.packed(np.array([3, -1]))
    with pytest.raises(ValueError, match="too large"):
        _core.Schedule.packed(np.array([2**62, 2**62]))
    with pytest.raises(ValueError, match="rise"):
        _core.Schedule.packed(np.array([1, 2]), True)
    with pytest.raises(ValueError, match="by row"):
        _core.Schedule.packed(np.array([2, 1]), True, np.ones(3, bool))
    with pytest.raises(ValueError, match="reset"):
        _core.Schedule.packed(np.array([2, 1]), False, None, np.ones(2, bool))


def test_inspect(rng):
    rows = Rows([3, 0, 6])
    layer = LSTM(3, 5, 2, bidirectional=True, rng=0)
    values = rng.standard_normal((9, 3)).astype(np.float32)
    seen, padded = layer.inspect((values, rows.lengths)), layer.inspect(rows.pad(values, 0), lengths=rows.lengths)
    assert_same_bits(seen.outputs, rows.pack(padded.outputs, 1), "outputs")
    assert_same_bits(seen.c, rows.pack(padded.c, 1), "c")
    assert {name: gate.shape for name, gate in seen.gates.items()} == dict.fromkeys("ifgo", (4, 9, 5))


def test_drawn_masks_have_no_padding_and_are_drawn_again_from_the_same_seed():
    values = np.ones((9, 3), np.float32)
    layer = LSTM(3, 5, 2, dropout=0.5, zoneout=0.3, recurrent_dropout=0.2, rng=0)
    shapes = {"recurrent_dropout": (2, 2, 5), "zoneout_h": (2, 9, 5), "zoneout_c": (2, 9, 5), "dropout": (1, 9, 5)}
    results = []
    for x in ((values, [2, 7]), [values[:2], values[2:]]):
        layer.rng = 7
        y, _, tape = layer.forward(x)
        assert {name: mask.shape for name, mask in tape.masks.items()} == shapes
        results.append((np.concatenate(y) if isinstance(y, list) else y, tape.masks))
    assert_same_bits(results[0], results[1], "values and list")
    stack = fusedrnn.Stack([GRU(3, 5, rng=0), GRU(5, 4, rng=0)], dropout=0.5, rng=0)
    assert stack.forward((values, [2, 7]))[2].masks["dropout_0"].shape == (9, 5)


# ---- memory

MEASURE = """
import sys
import numpy as np, fusedrnn
kind, shape = sys.argv[1:]
rng = np.random.default_rng(0)
N, B, I, H = 20000, 400, 8, 64
lengths = np.full(B, N // B)
if shape == "lognormal":
    weights = rng.lognormal(0, 1.5, B)
    lengths = np.diff(np.round(np.cumsum(weights) / weights.sum() * (N - B)).astype(int), prepend=0) + 1
if shape == "one":
    lengths = np.ones(B, int)
    lengths[7] += N - B
assert lengths.sum() == N and lengths.min() > 0
values = rng.standard_normal((N, I)).astype(np.float32)
net = fusedrnn.Stack([fusedrnn.LSTM(I, H, rng=0), fusedrnn.GRU(H, H, rng=0), fusedrnn.LSTM(H, H, rng=0)])
if kind == "packed":
    import torch
    from fusedrnn.interop.torch import LSTM
    net = LSTM(I, H)
    rows = [torch.from_numpy(part) for part in np.split(values, np.cumsum(lengths)[:-1])]
    sequence = torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)
    small = torch.nn.utils.rnn.pack_sequence(rows[:2], enforce_sorted=False)
elif kind == "list":
    sequence = np.split(values, np.cumsum(lengths)[:-1])
    small = sequence[:2]
else:
    sequence, small = (values, lengths), (values[:2], [1, 1])

def call(x):
    if kind == "packed":
        net(x)[0].data.sum().backward()
    elif kind == "forward":
        net(x)
    else:
        y, _, tape = net.forward(x)
        tape.backward(y)

def resident(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))  # KiB

call(small)
open("/proc/self/clear_refs", "w").write("5")  # the peak is counted from here on
before = resident("VmRSS")
call(sequence)
print(resident("VmHWM") - before)
"""


@pytest.mark.parametrize("kind", ["forward", "backward", "list", "packed"])
def test_memory_follows_the_sum_of_the_lengths(kind):
    """The peak beside that of as many steps in rows of equal length: a padded copy of `one` would be 400 times N."""
    if kind == "packed":
        pytest.importorskip("torch")

    def peak(shape: str) -> int:
        alone = os.environ | {"OMP_NUM_THREADS": "1"}  # thousands of steps whose threads wait for each other take long
        program = [sys.executable, "-c", MEASURE, kind, shape]
        done = subprocess.run(program, capture_output=True, text=True, check=False, env=alone)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    equal = peak("equal")
    assert equal > 4000, "measured in KiB, and more than the outputs of one layer"
    for shape in ("lognormal", "one"):
        assert peak(shape) <= 1.2 * equal + 2048, shape  # memory comes in pages of up to 2 MiB


def test_the_reference_equals_the_kernels_on_a_whole_layer(rng):
    """One comparison with numbers that no compiled code computes."""
    layer = LSTM(3, 5, dtype="float64", rng=0)
    values, lengths = rng.standard_normal((11, 3)), [4, 0, 7]
    y, (h, c) = layer((values, lengths))
    weights = [layer.params[name] for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]
    expected, (h_n, c_n), _ = reference.forward(cell_of("lstm"), (values, lengths), (None, None), *weights)
    for ours, theirs in ((y, expected), (h[0], h_n), (c[0], c_n)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-14)
