"""How close two results must be: one table, with the only numbers of this kind in the tests.

Errors are relative to the scale of an array, the largest magnitude in the expected array: a sum of K products has a
rounding error in proportion to its largest terms, even where they cancel.
"""

import math
from typing import Any, Literal

import numpy as np

# (dtype, quantity) -> allowed error as a fraction of the scale, and the reason.
# "sequence" is any result of a layer: outputs, states, gradients. README promises these two lines.
TABLE: dict[tuple[str, str], tuple[float, str]] = {
    ("float64", "sequence"): (
        1e-12,
        "4500 times the rounding unit: room for any order of summation, none for a wrong term",
    ),
    ("float32", "sequence"): (
        4 * float(np.finfo(np.float32).eps),
        "for each doubling of K*T: blocked sums err like log2(K), and steps carry errors on; see `bound`",
    ),
    ("float64", "torch"): (
        1e-12,
        "the same maths in the same precision by somebody else, so nothing but the order of summation differs",
    ),
    ("float64", "central_difference"): (
        1e-7,
        "the formula itself errs by 1e-11 (step 1e-3) or, for relu, 2e-9 (step 1e-6): measured, then room to spare",
    ),
}


def bound(dtype: Any, K: int, T: int, quantity: str = "sequence") -> float:
    """Allowed error as a fraction of the scale, for dot products of length K over T steps.

    float32: 4 * eps * ceil(log2(K*T)), and never less than for K*T = 2, because one product and one step still round.
    """
    name = np.dtype(dtype).name
    fraction, _ = TABLE[name, quantity]
    if name == "float32":
        return fraction * max(1, math.ceil(math.log2(max(K, 1) * max(T, 1))))
    return fraction


Quantity = Literal["y", "state_n", "dx", "dstate", "dW_ih", "dW_hh", "db_ih", "db_hh", "dW_peephole"]


def dot_length(quantity: Quantity, *, gates: int, T: int, B: int, I: int, H: int) -> int:
    """The K of a result of one layer: the longest sum that any of its elements depends on.

    Pre-activations sum over I + H; gradients that pass through the weights also over gates * H; the gradient of a
    parameter also over all rows and steps.
    """
    lengths = [I + H]
    if quantity not in ("y", "state_n"):
        lengths.append(gates * H)
    if quantity in ("dW_ih", "dW_hh", "db_ih", "db_hh", "dW_peephole"):
        lengths.append(B * T)
    return max(lengths)


def assert_close(
    actual: Any, expected: Any, *, dtype: Any, K: int, T: int, what: str, quantity: str = "sequence"
) -> None:
    """Fail unless `actual` is of `dtype` and, element by element, within `bound` of `expected`.

    If all expected values are zero, all of `actual` must be zero. NaN and infinities must be in the same places. None
    (a missing gradient) equals only None.
    """
    __tracebackhide__ = True
    if actual is None or expected is None:
        assert actual is expected, f"{what}: got {_kind(actual)}, expected {_kind(expected)}"
        return
    actual = np.asarray(actual)
    wide = np.asarray(expected, np.result_type(expected, np.float64))
    assert actual.dtype == np.dtype(dtype), f"{what}: dtype is {actual.dtype}, expected {np.dtype(dtype)}"
    assert actual.shape == wide.shape, f"{what}: shape is {actual.shape}, expected {wide.shape}"

    finite = np.isfinite(wide)
    same = (actual == wide) | (np.isnan(actual) & np.isnan(wide))
    scale = float(np.abs(wide[finite]).max(initial=0.0))
    allowed = bound(dtype, K, T, quantity) * scale
    error = np.zeros(wide.shape)
    np.subtract(actual, wide, out=error, where=finite & np.isfinite(actual))
    error = np.where(same, 0.0, np.where(finite & np.isfinite(actual), np.abs(error), np.inf))
    if error.size == 0 or error.max() <= allowed:
        return
    worst = tuple(int(k) for k in np.unravel_index(error.argmax(), error.shape))
    raise AssertionError(
        f"{what}: {np.count_nonzero(error > allowed)} of {error.size} elements are too far off; worst at {worst}: "
        f"got {actual[worst]:.9g}, expected {wide[worst]:.9g}, error {error[worst]:.3g} > bound {allowed:.3g} "
        f"(= {bound(dtype, K, T, quantity):.3g} * scale {scale:.3g}; {np.dtype(dtype).name} {quantity}, K={K}, T={T})"
    )


def _kind(value: Any) -> str:
    return "None" if value is None else f"an array {np.shape(value)}"
