"""The kernels equal the reference: every cell, dtype and instruction set, on both sides of every tile edge.

Both get the same numbers, rounded to the dtype under test; the reference computes in float64. It runs once per problem,
whatever the number of instruction sets.
"""

import functools
import itertools
import zlib

import numpy as np
import pytest

from fusedrnn import functional, reference
from problems import Problem, Results, assert_results, make_problem

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])

# All combinations of (lengths, reverse, tokens, bias), and short names for them.
OPTIONS = list(itertools.product([False, True], repeat=4))


def name_of(options: tuple[bool, ...]) -> str:
    names = ("lengths", "reverse", "tokens", "bias")
    return "-".join(name for name, on in zip(names, options, strict=True) if on) or "none"


@functools.cache
def solved(cell: str, dtype: str, T: int, B: int, I: int, H: int, options: tuple[bool, ...]) -> tuple[Problem, Results]:
    """A problem, the same in every run, and the reference's results for it."""
    lengths, reverse, tokens, bias = options
    seed = zlib.crc32(repr((cell, dtype, T, B, I, H, options)).encode())
    problem = make_problem(
        np.random.default_rng(seed), cell, dtype,
        T=T, B=B, I=I, H=H, lengths=lengths, reverse=reverse, tokens=tokens, bias=bias, near_kinks=False,
    )  # fmt: skip
    return problem, problem.run(reference)


# ---- sizes

# H, I and B take every value from 1 to 70 (29 and 43 have no factor in common with 70), and are never all small: errors
# are relative to an array's scale, and a single element may be the difference of larger terms. Each size gets a
# different combination of options for each cell. Odd sizes above 70: more panels than one run of segments, and an odd
# number of panels.
SIZES = [(1 + n % 4, 1 + (n * 43 + 20) % 70, 1 + (n * 29 + 10) % 70, 1 + n) for n in range(70)]
assert all({size[k] for size in SIZES} == set(range(1, 71)) for k in (1, 2, 3))
WIDE = [(3, 2, 131, 129), (2, 7, 70, 193), (3, 1, 257, 300), (2, 3, 1, 321), (2, 13, 300, 1), (3, 40, 1, 1)]


@DTYPES
@pytest.mark.parametrize("sizes", SIZES + WIDE, ids="T{0[0]}-B{0[1]}-I{0[2]}-H{0[3]}".format)
def test_every_size(cell, isa, dtype, sizes):
    options = OPTIONS[zlib.crc32(f"{cell} {sizes}".encode()) % len(OPTIONS)]
    problem, expected = solved(cell, dtype, *sizes, options)
    assert_results(problem.run(functional), expected, problem)


@DTYPES
@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
@pytest.mark.parametrize("sizes", [(7, 9, 13, 17), (5, 4, 33, 67)], ids="T{0[0]}-B{0[1]}-I{0[2]}-H{0[3]}".format)
def test_every_combination_of_options(cell, isa, dtype, sizes, options):
    problem, expected = solved(cell, dtype, *sizes, options)
    assert_results(problem.run(functional), expected, problem)


# With at most a quarter as many rows as inputs, the weight gradients are summed in place.
FEW_ROWS = [(1 + n % 3, 1 + n % 4, 30 + n, 30 + (n * 29 + 10) % 70) for n in range(0, 70, 3)]
assert all(4 * T * B <= I + H for T, B, I, H in FEW_ROWS)


@DTYPES
@pytest.mark.parametrize("sizes", FEW_ROWS, ids="T{0[0]}-B{0[1]}-I{0[2]}-H{0[3]}".format)
def test_few_rows(cell, isa, dtype, sizes):
    options = OPTIONS[zlib.crc32(f"{cell} {sizes}".encode()) % len(OPTIONS)]
    problem, expected = solved(cell, dtype, *sizes, options)
    assert_results(problem.run(functional), expected, problem)


# Forward has chunks of 192 rows, backward of 768: fewer, exactly as many, and more; and steps larger than a chunk.
CHUNKED = [(400, 1), (97, 2), (64, 3), (65, 3), (256, 3), (257, 3), (12, 64), (41, 70), (2, 193), (3, 769)]


@DTYPES
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize(("T", "B"), CHUNKED)
def test_chunks_of_steps(cell, isa, dtype, T, B, lengths):
    options = (lengths, T % 2 == 0, B == 2, True)
    problem, expected = solved(cell, dtype, T, B, 3, 5, options)
    assert_results(problem.run(functional), expected, problem)


# ---- states and gradients alone


@DTYPES
def test_no_initial_state_is_zeros(cell, isa, dtype):
    problem, _ = solved(cell, dtype, 4, 3, 5, 19, (True, False, False, True))
    problem = problem.but(state=(None,) * len(problem.state))
    assert_results(problem.run(functional), problem.run(reference), problem)


@DTYPES
@pytest.mark.parametrize("given", ["dy", "dh", "dc", "dstate", "dy and dc"])
def test_gradients_of_some_results_alone(cell, isa, dtype, given):
    if "dc" in given and not cell.startswith("lstm"):
        given = "dstate"
    problem, _ = solved(cell, dtype, 5, 6, 7, 18, (True, True, False, True))
    wanted = {"dh": (True, False), "dc": (False, True), "dstate": (True, True), "dy and dc": (False, True)}
    keep = wanted.get(given, (False, False))
    problem = problem.but(
        dy=problem.dy if "dy" in given else None,
        dstate=tuple(d if k else None for d, k in zip(problem.dstate, keep, strict=False)),
    )
    assert_results(problem.run(functional), problem.run(reference), problem)


@DTYPES
def test_gradient_of_the_input_can_be_left_out(cell, isa, dtype):
    problem, expected = solved(cell, dtype, 4, 3, 5, 19, (True, False, False, True))
    _, tape = problem.forward(functional)
    grads = problem.backward(functional, tape, need_dx=False)
    assert grads["dx"] is None
    assert_results(grads, {name: expected[name] for name in grads} | {"dx": None}, problem)


# ---- nothing to do


@DTYPES
@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("T", "B", "lengths"),
    [(0, 3, False), (4, 0, False), (0, 0, False), (0, 3, [0, 0, 0]), (4, 0, []), (4, 3, [0, 0, 0])],
    ids=["T0", "B0", "T0-B0", "T0-lengths", "B0-lengths", "zero-lengths"],
)
def test_empty(cell, isa, dtype, T, B, lengths, reverse, tokens, rng):
    lengths = lengths if lengths is False else np.array(lengths, np.int64)
    problem = make_problem(rng, cell, dtype, T=T, B=B, I=5, H=6, lengths=lengths, reverse=reverse, tokens=tokens)
    results = problem.run(functional)
    assert_results(results, problem.run(reference), problem)
    np.testing.assert_array_equal(results["h_n"], problem.state[0])
    np.testing.assert_array_equal(results["dh_0"], problem.dstate[0])
    for name in ("y", "dW_ih", "dW_hh", "db_ih", "db_hh", "dW_unit"):
        assert results.get(name) is None or not results[name].any(), f"{name} is not zero"
    assert results["dW_ih"] is not None


# ---- special values


@DTYPES
def test_a_row_with_nan_or_infinity_leaves_other_rows_alone(cell, isa, dtype, rng):
    problem = make_problem(rng, cell, dtype, T=4, B=5, I=6, H=20)
    x = problem.x.copy()
    x[1, 1, 2], x[2, 3, 0], x[0, 4] = np.nan, np.inf, -np.inf
    clean, _ = problem.forward(functional)
    dirty, _ = problem.but(x=x).forward(functional)
    assert np.isnan(dirty["y"][1:, 1]).any()
    for name in clean:
        np.testing.assert_array_equal(dirty[name][..., [0, 2], :], clean[name][..., [0, 2], :])
    np.testing.assert_array_equal(dirty["y"][0, 1], clean["y"][0, 1])


@DTYPES
def test_saturated_gates(cell, isa, dtype, rng):
    if cell == "rnn_relu":
        pytest.skip("relu does not saturate")
    problem = make_problem(rng, cell, dtype, T=4, B=3, I=5, H=20)
    # The input part of a is up to 1000 and exact, so that no rounding error of this size reaches a gate that is not
    # saturated: W_ih of integers, x and the biases of eighths.
    W_ih, W_hh, *biases = problem.weights
    eighths = [None if a is None else np.round(8 * a) / 8 for a in (problem.x, *biases)]
    problem = problem.but(x=eighths[0], weights=(np.round(W_ih * 1000), W_hh, *eighths[1:]))
    results, expected = problem.run(functional), problem.run(reference)
    for name, value in results.items():
        assert value is None or np.isfinite(value).all(), name
    for name in ("y", "h_n"):
        assert_results({name: results[name]}, {name: expected[name]}, problem)
