"""The functions that a selective scan is made of, of every instruction set: accuracy and special values.

Errors are in ulps of the nearest number of the dtype, against float64 for float32 and extended precision for float64.
The bounds are the largest errors found, rounded up.
"""

import numpy as np
import pytest

from fusedrnn import _core
from test_activations import DTYPES, finite_sample, ulp_errors, wide_type

FUNCTIONS = pytest.mark.parametrize("function", ["exp2", "softplus", "phi", "sine"])

# (dtype, function) -> the range of x, and the largest allowed error in ulps there.
BOUNDS = {
    ("float32", "exp2"): ((-125.9, 127.4), 1.25),
    ("float64", "exp2"): ((-1021.9, 1023.4), 1.25),
    ("float32", "softplus"): ((-87.3, np.inf), 2.5),
    ("float64", "softplus"): ((-708.3, np.inf), 2.0),
    ("float32", "phi"): ((-np.inf, 87.0), 3.0),
    ("float64", "phi"): ((-np.inf, 708.0), 3.0),
}

# An angle of this many quarter turns is reduced with errors of a few units of its own last place.
ANGLES = {"float32": 3e4, "float64": 1e6}


def exact(function, x, dtype):
    x = x.astype(wide_type(dtype))
    if function == "exp2":
        return np.exp2(x)
    if function == "softplus":
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return np.where(x == 0, 1, np.expm1(x) / np.where(x == 0, 1, x))


@DTYPES
@pytest.mark.parametrize("function", ["exp2", "softplus", "phi"])
def test_accuracy(isa, dtype, function, rng):
    (low, high), allowed = BOUNDS[dtype, function]
    x = finite_sample(dtype, rng)
    x = x[(x >= low) & (x <= high) & ((np.abs(x) >= np.finfo(dtype).tiny) | (x == 0))]
    with np.errstate(all="ignore"):
        errors = ulp_errors(_core.selective_functions(function, x), exact(function, x, dtype))
    worst = errors.argmax()
    assert errors[worst] <= allowed, f"{errors[worst]:.3f} ulp at {x[worst]!r}"


@DTYPES
def test_sine(isa, dtype, rng):
    x = np.concatenate([rng.uniform(-10, 10, 100_000), rng.uniform(-1, 1, 100_000) * ANGLES[dtype]]).astype(dtype)
    errors = np.abs(_core.selective_functions("sine", x) - np.sin(x.astype(wide_type(dtype))))
    eps = np.finfo(dtype).eps
    near = np.abs(x) <= 10
    assert errors[near].max() <= 1.0 * eps
    assert (errors / np.maximum(1, np.abs(x) * 1e-2)).max() <= 1.0 * eps


@DTYPES
@FUNCTIONS
def test_every_nan_stays_one(isa, dtype, function):
    bits = np.array([np.nan, np.inf], dtype).view(f"u{np.dtype(dtype).itemsize}")
    x = (bits[1] | np.array([1, 2, 255, 1954, bits[0] & ~bits[1]], bits.dtype)).view(dtype)
    x = np.concatenate([x, -x])
    assert np.isnan(x).all()
    assert np.isnan(_core.selective_functions(function, x)).all()


@DTYPES
def test_special_values(isa, dtype):
    x = np.array([-np.inf, -1e30, -2000, 0, -0.0, 1, 2000, np.inf], dtype)
    np.testing.assert_array_equal(_core.selective_functions("exp2", x), [0, 0, 0, 1, 1, 2, np.inf, np.inf])
    softplus = _core.selective_functions("softplus", x)
    assert softplus[:3].max() <= 2 * np.finfo(dtype).tiny
    np.testing.assert_array_equal(softplus[-2:], [2000, np.inf])
    phi = _core.selective_functions("phi", x)
    np.testing.assert_array_equal(phi[3:5], 1)
    np.testing.assert_allclose(phi[:3], [0, 1e-30, 1 / 2000], rtol=1e-6, atol=1e-37)
    np.testing.assert_array_equal(_core.selective_functions("sine", x[3:5]), 0)
    angles = np.array([1e9, -1e20, 3e37], dtype)
    assert np.abs(_core.selective_functions("sine", angles)).max() <= 1
