"""Results have the same bits, whatever the number of threads, the batch, the chunks, the memory layout or the time.

This holds on one instruction set; across instruction sets, results agree within the tolerances of test_sequence.py.
"""

import copy
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import functional
from fusedrnn.parameters import CLASSES
from problems import RECURRENT, Problem, assert_same_bits, make_problem

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
REVERSE = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])

# A call uses a second thread only if its steps take long enough, and sixteen only if there are enough panels and rows.
# These sizes satisfy both, ragged or not; sizes that do not divide evenly are deliberate.
LARGE = {"T": 9, "B": 34, "I": 150, "H": 203}
SMALL = {"T": 7, "B": 23, "I": 11, "H": 37}

#: What `cell` runs over: test_elementwise.py has such tests for the cells without a recurrent matrix.
SWEEP = RECURRENT


def rows_of(problem: Problem, rows: Any) -> Problem:
    """The problem for only these rows of the batch, in this order."""
    return problem.but(
        x=problem.x[:, rows],
        dy=problem.dy[:, rows],
        state=tuple(s[rows] for s in problem.state),
        dstate=tuple(s[rows] for s in problem.dstate),
        lengths=None if problem.lengths is None else problem.lengths[rows],
    )


def sums_of_results(results: dict[str, Any]) -> dict[str, Any]:
    """The gradients of the parameters."""
    return {name: results[name] for name in results if name.startswith(("dW", "db"))}


def rows_of_results(results: dict[str, Any], rows: Any) -> dict[str, Any]:
    """The results per batch row: all but the gradients of the parameters, which are sums over rows."""
    picked = {name: results[name][:, rows] for name in ("y", "dx") if results[name] is not None}
    return picked | {name: results[name][rows] for name in ("h_n", "c_n", "dh_0", "dc_0") if name in results}


def parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def layer_of(problem: Problem, **options: Any) -> Any:
    """A layer with the problem's parameters."""
    name, variant = problem.family
    sizes = problem.sizes
    cls = {name.lower(): cls for name, cls in CLASSES.items()}[name]
    layer = cls(sizes["I"], sizes["H"], dtype=problem.dtype, **variant, **options)
    given = [value for value in (*problem.weights, problem.W_peephole) if value is not None]
    for (_, array), value in zip(layer.params.items(), given, strict=True):
        array[:] = value
    return layer


def trained(layer: Any, x: Any, lengths: Any, threads: int) -> tuple[Any, ...]:
    """All results of a training step on this number of threads."""
    with fusedrnn.threads(threads):
        y, state, tape = layer.forward(x, lengths=lengths)
        grads = tape.backward(y, state)
    return y, state, grads.x, grads.state, grads.params


# ---- threads


# Two directions with small weights run side by side; with large weights, one after the other, each on all threads. Both
# ways must give the bits of one thread, including those of the sum of both dx.
@DTYPES
@pytest.mark.parametrize("merge", ["concat", "mul"])
@pytest.mark.parametrize(("I", "H"), [(40, 33), (90, 401)])
def test_both_directions_on_any_number_of_threads(dtype, merge, I, H, rng):
    layer = fusedrnn.LSTM(I, H, num_layers=2, bidirectional=True, merge=merge, dtype=dtype, rng=1)
    T, B = 12, 19
    x, lengths = rng.standard_normal((T, B, I)).astype(dtype), rng.integers(0, T + 1, B)
    expected = trained(layer, x, lengths, 1)
    for n in 2, 3, 5:
        assert_same_bits(trained(layer, x, lengths, n), expected, f"{n} threads")


@DTYPES
@pytest.mark.parametrize("options", [{}, {"lengths": True, "reverse": True}, {"tokens": True}], ids=str)
def test_any_number_of_threads(cell, isa, dtype, options, rng):
    problem = make_problem(rng, cell, dtype, **LARGE, **options)
    with fusedrnn.threads(1):
        expected = problem.run(functional)
    for n in 2, 3, 5, 16:
        with fusedrnn.threads(n):
            assert_same_bits(problem.run(functional), expected, f"{n} threads")


@pytest.mark.parametrize("H", [16, 48, 80, 129, 300])
@pytest.mark.parametrize("B", [1, 16, 100])
def test_any_number_of_threads_at_other_sizes(cell, isa, B, H, rng):
    problem = make_problem(rng, cell, "float32", T=5, B=B, I=500, H=H)
    with fusedrnn.threads(1):
        expected = problem.run(functional)
    for n in 2, 7:
        with fusedrnn.threads(n):
            assert_same_bits(problem.run(functional), expected, f"{n} threads")


FORMS = [
    ("rnn", {"zoneout": 0.2, "recurrent_dropout": 0.3}),
    ("gru", {"weight_dropout": 0.2, "num_layers": 2, "bidirectional": True}),
    ("gru", {"layer_norm": True, "recurrent_dropout": 0.3}),
    ("lstm", {"zoneout": (0.2, 0.1), "recurrent_dropout": 0.3, "peephole": "ifo"}),
    ("lstm", {"proj_size": 101, "zoneout": 0.1, "recurrent_dropout": 0.3}),
    ("lstm", {"layer_norm": True, "zoneout": 0.1}),
]


@DTYPES
@pytest.mark.parametrize(("kind", "options"), FORMS, ids=str)
@pytest.mark.parametrize(("T", "B"), [(9, 34), (2, 30)])  # the second has few rows for 353 inputs
def test_training_in_every_form_on_any_number_of_threads(kind, dtype, T, B, options, rng):
    x, lengths = rng.standard_normal((T, B, 150)).astype(dtype), rng.integers(0, T + 1, B)
    make = partial(getattr(fusedrnn, kind.upper()), 150, 203, dtype=dtype, rng=1, **options)  # the same masks each time
    expected = trained(make(), x, lengths, 1)
    for n in 2, 5, 16:
        assert_same_bits(trained(make(), x, lengths, n), expected, f"{n} threads")


# Inference over many rows gives each thread its own rows, both long and short. 16 threads need 32 rows.
@DTYPES
@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"backwards": True, "batch_first": True},
        {"bidirectional": True, "num_layers": 2},
        {"zoneout": 0.2},
        {"proj_size": 21},
    ],
    ids=str,
)
def test_threads_with_rows_of_their_own(kind, dtype, options, rng):
    if "proj_size" in options and kind != "lstm":
        pytest.skip("only an LSTM has projections")
    layer = getattr(fusedrnn, kind.upper())(40, 37, dtype=dtype, rng=1, **options)
    T, B = 30, 37
    x = rng.standard_normal((B, T, 40) if layer.batch_first else (T, B, 40)).astype(dtype)
    state = tuple(rng.standard_normal(p.shape).astype(dtype) for p in parts(layer(x)[1]))
    state = state if kind == "lstm" else state[0]
    lengths = rng.integers(0, T + 1, B)
    lengths[5] = T
    mask = rng.random(x.shape[:2]) < 0.8
    reset = rng.random(x.shape[:2]) < 0.1
    tokens = rng.integers(0, 40, x.shape[:2])
    frozen = layer.freeze()
    calls = (
        lambda: frozen(x),
        lambda: frozen(x, state),
        lambda: layer(x, state, lengths=lengths),
        lambda: layer(x, lengths=lengths * 0),
        lambda: layer(x, state, lengths=lengths, mask=mask, past_end="hold"),
        lambda: layer(x, state, reset=reset),
        lambda: layer(np.asfortranarray(x), state),
        lambda: layer(tokens, state),
    )
    for i, call in enumerate(calls):
        with fusedrnn.threads(1):
            expected = call()
        for n in (2, 3, 16):
            with fusedrnn.threads(n):
                assert_same_bits(list(call()), list(expected), f"call {i}, {n} threads")


# In inference, stacked layers may run side by side, some steps apart.
@DTYPES
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("rnn", {"batch_first": True}),
        ("gru", {"zoneout": 0.2}),
        ("gru", {"reset_after": False, "backwards": True}),
        ("lstm", {}),
        ("lstm", {"layer_norm": True, "learned_state": True}),
        ("lstm", {"proj_size": 21}),
    ],
    ids=str,
)
@pytest.mark.parametrize(("T", "B"), [(3, 2), (50, 1), (131, 5)])
def test_stacked_layers_on_any_number_of_threads(kind, dtype, options, T, B, rng):
    layer = getattr(fusedrnn, kind.upper())(40, 37, num_layers=5, dtype=dtype, rng=1, **options)
    shape = (B, T) if layer.batch_first else (T, B)
    x, tokens = rng.standard_normal((*shape, 40)).astype(dtype), rng.integers(0, 40, shape)
    state = tuple(rng.standard_normal(p.shape).astype(dtype) for p in parts(layer(x)[1]))
    state = state if kind == "lstm" else state[0]
    lengths, mask, reset = rng.integers(0, T + 1, B), rng.random(shape) < 0.8, rng.random(shape) < 0.1
    frozen = layer.freeze()
    twice = fusedrnn.Ensemble([layer, copy.deepcopy(layer)]).freeze()
    calls = (
        lambda: frozen(x),
        lambda: layer(x, state),
        lambda: frozen(tokens, state, lengths=lengths),
        lambda: frozen(x, state, mask=mask, past_end="hold"),
        lambda: frozen(x, state, lengths=lengths, reset=reset),
        lambda: twice(x),
    )
    for i, call in enumerate(calls):
        with fusedrnn.threads(1):
            expected = call()
        for n in (2, 3, 5, 16):
            with fusedrnn.threads(n):
                assert_same_bits(list(call()), list(expected), f"call {i}, {n} threads")


COUNT_THREADS = """
import os, numpy as np, fusedrnn
layer = fusedrnn.{layer}
x = np.zeros(({T}, {B}, {I}), np.float32)
before = len(os.listdir("/proc/self/task"))
with fusedrnn.threads(16):
    y, state, tape = layer.forward(x)
    forward = len(os.listdir("/proc/self/task")) - before
    tape.backward(y)
print(forward)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted through /proc")
@pytest.mark.skipif(fusedrnn._core.build_info()["openmp"].startswith("none"), reason="built without OpenMP")
@pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])
def test_the_sizes_above_do_use_several_threads(layer):
    script = COUNT_THREADS.format(layer=f"{layer}({LARGE['I']}, {LARGE['H']})", **LARGE)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert int(done.stdout) >= 3


# The steps are too short to be split; but each of the three layers may have its own thread.
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted through /proc")
@pytest.mark.skipif(fusedrnn._core.build_info()["openmp"].startswith("none"), reason="built without OpenMP")
@pytest.mark.parametrize(("layers", "threads"), [(1, 0), (3, 2)])
@pytest.mark.parametrize("arguments", ["x", "x, mask=np.ones((2000, 1), bool)"])
def test_stacked_layers_use_a_thread_each(layers, threads, arguments):
    script = f"""
import os, numpy as np, fusedrnn
frozen = fusedrnn.RNN(16, 16, num_layers={layers}).freeze()
x = np.zeros((2000, 1, 16), np.float32)
before = len(os.listdir("/proc/self/task"))
with fusedrnn.threads(16):
    frozen({arguments})
print(len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert int(done.stdout) == threads


# ---- batches


@DTYPES
@REVERSE
@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
def test_a_row_alone_is_the_row_in_a_batch(cell, isa, dtype, reverse, tokens, rng):
    problem = make_problem(rng, cell, dtype, **SMALL, reverse=reverse, tokens=tokens)
    whole = problem.run(functional)
    for rows in [0], [7], [22], [3, 4], [20, 1, 5], list(range(8)), list(range(13)):
        alone = rows_of(problem, rows).run(functional)
        assert_same_bits(rows_of_results(alone, slice(None)), rows_of_results(whole, rows), f"rows {rows}")


# A row without gradients only adds zeros to sums. But it may turn few rows into many, which are summed in another
# way, in the same order.
@DTYPES
@pytest.mark.parametrize("options", [{}, {"lengths": True, "reverse": True}, {"tokens": True}], ids=str)
@pytest.mark.parametrize(("I", "H"), [(40, 53), (97, 24)])
def test_few_rows_are_summed_as_many(cell, isa, dtype, I, H, options, rng):
    many = make_problem(rng, cell, dtype, T=2, B=40, I=I, H=H, **options)
    rows = np.sort(rng.choice(40, 9, replace=False))
    others = np.setdiff1d(np.arange(40), rows)
    many.dy[:, others] = 0
    for d in many.dstate:
        d[others] = 0
    few = rows_of(many, rows)
    expected = sums_of_results(many.run(functional))
    for n in 1, 2, 5:
        with fusedrnn.threads(n):
            assert_same_bits(sums_of_results(few.run(functional)), expected, f"{n} threads")


@DTYPES
def test_a_row_alone_is_the_row_in_a_batch_of_many_chunks(cell, isa, dtype, rng):
    problem = make_problem(rng, cell, dtype, T=260, B=7, I=5, H=20)
    whole = problem.run(functional)
    for rows in [0], [6], [5, 2, 3]:
        alone = rows_of(problem, rows).run(functional)
        assert_same_bits(rows_of_results(alone, slice(None)), rows_of_results(whole, rows), f"rows {rows}")


@DTYPES
@REVERSE
def test_a_ragged_row_is_the_row_alone(cell, isa, dtype, reverse, rng):
    problem = make_problem(rng, cell, dtype, **SMALL, lengths=True, reverse=reverse)
    whole = problem.run(functional)
    for b, n in enumerate(problem.lengths.tolist()):
        row = rows_of(problem, [b])
        alone = row.but(x=row.x[:n], dy=row.dy[:n], lengths=None).run(functional)
        expected = rows_of_results(whole, [b])
        for name in "y", "dx":
            assert not expected[name][n:].any(), f"{name} is not zero past the end"
            expected[name] = expected[name][:n]
        assert_same_bits(rows_of_results(alone, slice(None)), expected, f"row {b} of length {n}")


@DTYPES
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "ragged"])
def test_a_permuted_batch_gives_the_permuted_result(cell, isa, dtype, lengths, rng):
    problem = make_problem(rng, cell, dtype, **SMALL, lengths=lengths)
    order = rng.permutation(SMALL["B"])
    permuted = rows_of(problem, order).run(functional)
    assert_same_bits(
        rows_of_results(permuted, slice(None)), rows_of_results(problem.run(functional), order), "permuted"
    )


@DTYPES
def test_lengths_of_full_rows_are_no_lengths(cell, isa, dtype, rng):
    problem = make_problem(rng, cell, dtype, **SMALL)
    full = np.full(SMALL["B"], SMALL["T"])
    assert_same_bits(problem.but(lengths=full).run(functional), problem.run(functional), "full lengths")


# ---- chunks of time


@DTYPES
@REVERSE
def test_chunks_are_the_whole(cell, isa, dtype, reverse, rng):
    problem = make_problem(rng, cell, dtype, **SMALL, reverse=reverse)
    whole = problem.run(functional)
    cuts = [slice(0, 1), slice(1, 5), slice(5, 5), slice(5, 7)]
    order = cuts[::-1] if reverse else cuts

    state, tapes, y = problem.state, [], np.zeros_like(whole["y"])
    for cut in order:
        results, tape = problem.but(x=problem.x[cut], state=state).forward(functional)
        y[cut] = results.pop("y")
        state = tuple(results.values())
        tapes.append(tape)
    actual = {"y": y, "h_n": state[0]} | ({"c_n": state[1]} if len(state) == 2 else {})
    dstate, dx = problem.dstate, np.zeros_like(problem.x)
    for cut, tape in zip(reversed(order), reversed(tapes), strict=True):
        grads = problem.but(dy=problem.dy[cut], dstate=dstate).backward(functional, tape)
        dx[cut] = grads["dx"]
        dstate = tuple(grads[name] for name in ("dh_0", "dc_0") if name in grads)
    actual |= {"dx": dx, "dh_0": dstate[0]} | ({"dc_0": dstate[1]} if len(dstate) == 2 else {})
    assert_same_bits(actual, {name: whole[name] for name in actual}, "chunks")


@DTYPES
@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize("B", [1, 2, 13])
def test_step_by_step_is_the_whole(cell, isa, dtype, B, tokens, rng):
    problem = make_problem(rng, cell, dtype, **(SMALL | {"B": B}), tokens=tokens)
    layer = layer_of(problem)
    deep = type(layer)(SMALL["I"], SMALL["H"], 3, dtype=dtype, rng=1)
    for each in layer, deep:
        y, state = each(problem.x)
        stream = each.freeze().stream(B)
        assert_same_bits(np.stack([stream.step(x) for x in problem.x]), y, "y")
        assert_same_bits(stream.state, state, "state")


# ---- memory


def misaligned(array: Any) -> Any:
    """The same values, shifted in memory by one byte."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = np.frombuffer(memory.data, array.dtype, array.size, offset=1).reshape(array.shape)
    memory[1:] = np.frombuffer(array.tobytes(), np.uint8)
    assert not view.flags.aligned
    return view


def read_only(array: Any) -> Any:
    array = array.copy()
    array.flags.writeable = False
    return array


def spread(array: Any) -> Any:
    """Every third element of a larger array, on each axis."""
    large = np.full([3 * n for n in array.shape], -1, array.dtype)
    view = large[tuple(slice(1, None, 3) for _ in array.shape)]
    view[...] = array
    return view


LAYOUTS = {
    "misaligned": misaligned,
    "read-only": read_only,
    "Fortran": np.asfortranarray,
    "spread": spread,
    "negative": lambda a: a[tuple(slice(None, None, -1) for _ in a.shape)].copy()[
        tuple(slice(None, None, -1) for _ in a.shape)
    ],
    "batch first": lambda a: np.ascontiguousarray(a.swapaxes(0, a.ndim // 2)).swapaxes(0, a.ndim // 2),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "padded rows": lambda a: np.concatenate([a, a[..., :3]], axis=-1)[..., : a.shape[-1]],
}


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_any_argument(cell, isa, dtype, layout, rng):
    problem = make_problem(rng, cell, dtype, **SMALL, lengths=True)
    problem = problem.but(x=np.nan_to_num(problem.x), dy=np.nan_to_num(problem.dy))
    expected = problem.run(functional)
    change = LAYOUTS[layout]
    changed = problem.but(
        x=change(problem.x),
        dy=change(problem.dy),
        state=tuple(map(change, problem.state)),
        dstate=tuple(map(change, problem.dstate)),
        weights=tuple(map(change, problem.weights)),
    )
    assert_same_bits(changed.run(functional), expected, layout)
    layer = layer_of(problem)
    assert_same_bits(layer(changed.x), layer(problem.x), f"{layout}, layer")
    tokens = rng.integers(0, SMALL["I"], problem.x.shape[:2])
    assert_same_bits(layer(change(tokens)), layer(tokens), f"{layout}, tokens")


@DTYPES
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_zero_strides(cell, isa, dtype, axis, rng):
    problem = make_problem(rng, cell, dtype, **SMALL)
    first = tuple(slice(0, 1) if k == axis else slice(None) for k in range(3))
    x, dy = (np.broadcast_to(a[first], a.shape) for a in (problem.x, problem.dy))
    strided, copied = problem.but(x=x, dy=dy), problem.but(x=x.copy(), dy=dy.copy())
    assert_same_bits(strided.run(functional), copied.run(functional), f"axis {axis}")


@DTYPES
def test_arguments_are_not_written(cell, isa, dtype, rng):
    problem = make_problem(rng, cell, dtype, **SMALL, lengths=True)

    def arrays() -> list[Any]:
        return [problem.x, problem.dy, *problem.state, *problem.dstate, *problem.weights, problem.lengths]

    before = [array.copy() for array in arrays()]
    problem.run(functional)
    assert_same_bits(arrays(), before, "arguments")


# ---- repetition, and other ways to the same result


@DTYPES
def test_repeated(cell, isa, dtype, rng):
    problem = make_problem(rng, cell, dtype, **SMALL, lengths=True)
    expected = problem.run(functional)
    for _ in range(5):
        make_problem(rng, cell, dtype, T=3, B=40, I=9, H=50).run(functional)  # other numbers in pooled memory
        assert_same_bits(problem.run(functional), expected, "repeated")


@DTYPES
def test_a_tape_used_twice(cell, isa, dtype, rng):
    problem = make_problem(rng, cell, dtype, **SMALL, lengths=True)
    _, tape = problem.forward(functional)
    first = problem.backward(functional, tape)
    problem.but(dy=-problem.dy).backward(functional, tape)
    assert_same_bits(problem.backward(functional, tape), first, "second use")
    without = problem.backward(functional, tape, need_dx=False)
    assert_same_bits(without, first | {"dx": None}, "without dx")


@DTYPES
def test_a_tape_does_not_look_at_the_arguments_again(cell, isa, dtype, rng):
    problem = make_problem(rng, cell, dtype, **SMALL)
    expected = problem.backward(functional, problem.forward(functional)[1])
    copies = problem.but(
        x=problem.x.copy(),
        state=tuple(s.copy() for s in problem.state),
        weights=tuple(w.copy() for w in problem.weights),
    )
    results, tape = copies.forward(functional)
    for array in (copies.x, *copies.state, *copies.weights, *results.values()):
        array.fill(np.nan)
    assert_same_bits(problem.backward(functional, tape), expected, "gradients")


@DTYPES
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
def test_training_and_frozen_and_plain_forward(cell, isa, dtype, bidirectional, rng):
    problem = make_problem(rng, cell, dtype, **SMALL, lengths=True)
    layer = type(layer_of(problem))(SMALL["I"], SMALL["H"], 2, bidirectional=bidirectional, dtype=dtype, rng=3)
    expected = layer(problem.x, lengths=problem.lengths)
    *trained, _ = layer.forward(problem.x, lengths=problem.lengths)
    assert_same_bits(tuple(trained), expected, "forward")
    assert_same_bits(layer.freeze()(problem.x, lengths=problem.lengths), expected, "frozen")


@DTYPES
@REVERSE
def test_tokens_are_one_hot_vectors(cell, isa, dtype, reverse, rng):
    problem = make_problem(rng, cell, dtype, **SMALL, lengths=True, reverse=reverse, tokens=True)
    one_hot = np.zeros((*problem.x.shape, SMALL["I"]), dtype)
    np.put_along_axis(one_hot, np.maximum(problem.x, 0)[..., None], 1, axis=2)
    expected = problem.but(x=one_hot).run(functional)
    actual = problem.run(functional)
    assert actual["dx"] is None
    assert_same_bits(actual, expected | {"dx": None}, "tokens")


@DTYPES
def test_a_list_is_a_ragged_batch(cell, isa, dtype, rng):
    problem = make_problem(rng, cell, dtype, **SMALL, lengths=True)
    layer = layer_of(problem)
    y, state, tape = layer.forward(problem.x, lengths=problem.lengths)
    grads = tape.backward(problem.dy)
    cut = [(slice(n), b) for b, n in enumerate(problem.lengths.tolist())]
    y_list, state_list, tape_list = layer.forward([problem.x[c] for c in cut])
    grads_list = tape_list.backward([problem.dy[c] for c in cut])
    assert_same_bits(y_list, [y[c] for c in cut], "y")
    assert_same_bits(state_list, state, "state")
    assert_same_bits(grads_list.x, [grads.x[c] for c in cut], "dx")
    assert_same_bits(grads_list.params, grads.params, "parameters")


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize(("I", "H", "steps"), [(520, 1030, 4), (250, 350, 50)])
def test_a_large_stream_is_split_over_threads(cell, I, H, steps):
    """Weights larger than a core's cache: several threads compute a step (for the smaller size, only a step that
    follows immediately), with the bits of one thread."""
    layer = {"lstm": fusedrnn.LSTM, "gru": fusedrnn.GRU, "rnn": fusedrnn.RNN}[cell](I, H, num_layers=2, rng=0)
    x = np.random.default_rng(1).standard_normal((steps, 1, I)).astype(np.float32)
    with fusedrnn.threads(1):
        expected, _ = layer(x)
    for threads in (1, 2, 3, 16):
        with fusedrnn.threads(threads):
            stream = layer.freeze().stream()
            assert np.array_equal(np.stack([stream.step(row) for row in x]), expected), threads
