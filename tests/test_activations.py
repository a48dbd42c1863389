"""exp, sigmoid and tanh of every instruction set: accuracy, special values, symmetry, order.

Errors are in ulps of the nearest number of the dtype, against float64 for float32 and extended precision for float64.
The bounds are the largest errors found, rounded up; benchmarks/activation_accuracy.py measures all floats.
"""

from typing import Any

import numpy as np
import pytest

from fusedrnn import _core

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
FUNCTIONS = pytest.mark.parametrize("function", ["exp", "sigmoid", "tanh"])

# (dtype, function) -> largest allowed error in ulps. docs/accuracy.md explains them.
BOUNDS = {
    ("float32", "exp"): 1.0,
    ("float32", "sigmoid"): 2.5,
    ("float32", "tanh"): 1.5,
    ("float64", "exp"): 1.0,
    ("float64", "sigmoid"): 2.5,
    ("float64", "tanh"): 1.5,
}

# The range where exp is not clamped: its results are normal numbers there.
EXP_RANGE = {"float32": (-87.33, 88.37), "float64": (-708.39, 709.43)}

EXTENDED = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant


def wide_type(dtype: str) -> Any:
    if dtype == "float32":
        return np.float64
    if not EXTENDED:
        pytest.skip("this platform's long double is no more precise than float64")
    return np.longdouble


def exact(function: str, x: Any, dtype: str) -> Any:
    x = x.astype(wide_type(dtype))
    if function == "exp":
        return np.exp(x)
    if function == "tanh":
        return np.tanh(x)
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def finite_sample(dtype: str, rng: np.random.Generator) -> Any:
    """Every 4099th float32, or as many float64 of all magnitudes, and many more where the functions are curved."""
    if dtype == "float32":
        x = np.arange(0, 1 << 32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    else:
        magnitude = np.concatenate([2.0 ** rng.uniform(-1022, 1024, 100_000), 2.0 ** rng.uniform(-30, 10, 300_000)])
        x = np.where(rng.random(magnitude.size) < 0.5, -magnitude, magnitude)
    # The edges of polynomials, clamps and reductions, and their neighbours.
    edges = [0.0, np.log(2) / 2, np.log(2), 0.55, 0.625, 1, 5, 9, 16, 17, 18, 20, 40, 87, 88, 89, 100, 708, 709, 710]
    edges += [bound for bounds in EXP_RANGE.values() for bound in bounds]
    near = np.abs(np.array(edges, dtype)).view(f"u{x.itemsize}")[:, None] + np.arange(200, dtype=f"u{x.itemsize}")
    near = np.concatenate([near, near - near.dtype.type(200)]).ravel().view(dtype)
    curved = rng.uniform(-20, 20, 300_000).astype(dtype)
    x = np.concatenate([x, near, -near, curved])
    return x[np.isfinite(x)]


def in_range(function: str, x: Any) -> Any:
    low, high = EXP_RANGE[x.dtype.name] if function == "exp" else (-np.inf, np.inf)
    return x[(x >= low) & (x <= high)]


def ulp_errors(got: Any, expected: Any) -> Any:
    """The error of each element; a result that should be denormal may be zero or the smallest normal number."""
    tiny = np.finfo(got.dtype).tiny
    with np.errstate(under="ignore"):
        ulp = np.spacing(np.maximum(np.abs(expected), tiny).astype(got.dtype)).astype(expected.dtype)
        errors = np.abs(got - expected) / ulp
    return np.where((np.abs(expected) < tiny) & (np.abs(got) <= tiny), 0, errors)


@DTYPES
@FUNCTIONS
def test_accuracy(isa, dtype, function, rng):
    x = in_range(function, finite_sample(dtype, rng))
    errors = ulp_errors(_core.apply(function, x), exact(function, x, dtype))
    worst = errors.argmax()
    assert errors[worst] <= BOUNDS[dtype, function], f"{errors[worst]:.3f} ulp at {x[worst]!r}"


@DTYPES
@FUNCTIONS
def test_every_nan_stays_one(isa, dtype, function, rng):
    """Also signalling and negative NaNs, and NaNs with a payload, such as R's NA: 1954 in the low bits."""
    payloads = rng.integers(1, 1 << 22, 1000).astype(f"u{np.dtype(dtype).itemsize}")
    payloads = np.concatenate([payloads, np.array([1, 2, 255, 256, 1954], payloads.dtype)])
    infinity, nan = np.array([np.inf, np.nan], dtype).view(payloads.dtype)
    x = np.concatenate([infinity | payloads, nan | payloads, [nan]]).astype(payloads.dtype).view(dtype)
    x = np.concatenate([x, -x])
    assert np.isnan(x).all()
    lost = np.flatnonzero(~np.isnan(_core.apply(function, x)))
    assert lost.size == 0, f"{lost.size} of {x.size} NaNs became numbers"


@DTYPES
def test_infinities_saturate(isa, dtype):
    x = np.array([-np.inf, np.inf], dtype)
    np.testing.assert_array_equal(_core.apply("sigmoid", x), np.array([0, 1], dtype))
    np.testing.assert_array_equal(_core.apply("tanh", x), np.array([-1, 1], dtype))
    low, high = _core.apply("exp", x)
    finfo = np.finfo(dtype)
    assert finfo.tiny <= low <= 1.01 * finfo.tiny
    assert finfo.max / 2 <= high <= finfo.max


@DTYPES
def test_range(isa, dtype, rng):
    x = finite_sample(dtype, rng)
    for function, low in ("sigmoid", 0), ("tanh", -1):
        got = _core.apply(function, x)
        assert got.min() >= low
        assert got.max() <= 1


@DTYPES
def test_exact_values(isa, dtype):
    np.testing.assert_array_equal(_core.apply("exp", np.zeros(2, dtype)), 1)
    np.testing.assert_array_equal(_core.apply("sigmoid", np.array([0.0, -0.0], dtype)), 0.5)


@DTYPES
def test_tanh_keeps_the_sign_of_zero(isa, dtype):
    got = _core.apply("tanh", np.array([0.0, -0.0], dtype))
    assert not got.any()
    assert np.signbit(got).tolist() == [False, True]


@DTYPES
def test_tanh_is_odd(isa, dtype, rng):
    x = finite_sample(dtype, rng)
    x = x[np.abs(x) >= np.finfo(dtype).tiny]  # denormals are flushed
    np.testing.assert_array_equal(_core.apply("tanh", -x), -_core.apply("tanh", x))


@DTYPES
@FUNCTIONS
def test_rises_within_an_ulp(isa, dtype, function, rng):
    x = np.sort(in_range(function, finite_sample(dtype, rng)))
    got = _core.apply(function, x)
    falls = np.maximum.accumulate(got)[:-1] - got[1:]
    with np.errstate(under="ignore"):
        steps = falls / np.spacing(np.maximum(np.abs(got[1:]), np.finfo(dtype).tiny))
    worst = steps.argmax()
    assert steps[worst] <= 1, f"falls by {steps[worst]} ulp before {x[worst + 1]!r}"


@DTYPES
@FUNCTIONS
def test_result_does_not_depend_on_the_place_in_the_array(isa, dtype, function, rng):
    x = rng.standard_normal(67).astype(dtype)
    whole = _core.apply(function, x)
    for n in range(1, x.size):
        np.testing.assert_array_equal(_core.apply(function, x[n:]), whole[n:])
        np.testing.assert_array_equal(_core.apply(function, x[:n]), whole[:n])
    assert _core.apply(function, x[:0]).shape == (0,)
