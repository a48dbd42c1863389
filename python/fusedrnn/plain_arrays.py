"""Arguments of the functions on plain arrays (`scans.py`, `state_spaces.py`): dtypes, steps, gradients, tapes."""

from __future__ import annotations

from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from . import _core, _validate
from .tape import TapeBase

Array = NDArray[Any]

#: dtypes of a computation, from the widest; each argument's dtype is cast to the first that holds all of them.
SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


def read_numbers(owner: str, name: str, value: Any, complex_too: bool) -> Array:
    """An array-like of real numbers, or of real or complex ones, in its own dtype."""
    array = _validate.as_array(owner, name, value)
    if not (complex_too and array.dtype.kind == "c"):
        what = "a real or complex floating-point dtype" if complex_too else "a real floating-point dtype"
        _validate.real_dtype(owner, name, array.dtype, what)
    return array


def common_dtype(values: list[tuple[Any, Array]], complex_too: bool) -> np.dtype[Any]:
    """The dtype of a computation: single precision if no array is wider than float32, else double precision.

    `values` are pairs of an argument and its array. Python's own numbers adapt to the arrays; integers count as double.
    """
    single = True
    for value, array in values:
        if isinstance(value, (int, float, complex)) and not isinstance(value, np.generic):
            continue
        narrow = array.dtype.kind in "fc" and array.dtype.itemsize <= (8 if array.dtype.kind == "c" else 4)
        single = single and (narrow or array.dtype.name == "bfloat16")
    if complex_too:
        return np.dtype(np.complex64 if single else np.complex128)
    return SINGLE if single else DOUBLE


def cast(array: Array, dtype: np.dtype[Any], axes: int = 1) -> Array:
    """`array` in native `dtype`, aligned, its last `axes` axes in C order; copied only if necessary."""
    array = array.astype(dtype, copy=False)
    stride, good = dtype.itemsize, array.flags.aligned
    for size, step in zip(array.shape[::-1][:axes], array.strides[::-1][:axes], strict=True):
        good = good and (size <= 1 or step == stride)
        stride *= size
    return array if good else np.array(array, dtype, order="C")


class StepsOfRows(NamedTuple):
    """Which rows run at which steps; `flags` is None if all rows run all steps and nothing is reset."""

    reverse: bool
    flags: _core.StepFlags | None

    @overload
    def in_order(self, array: Array) -> Array: ...
    @overload
    def in_order(self, array: Array | None) -> Array | None: ...
    def in_order(self, array: Array | None) -> Array | None:
        """The view of an array over time in which the steps run from the first to the last."""
        if array is None or not self.reverse or array.shape[0] == 1:
            return array
        return array[::-1]


def read_steps(owner: str, T: int, B: int, lengths: Any, mask: Any, reset: Any, reverse: Any) -> StepsOfRows:
    """Lengths (B,), mask and reset (T, B), checked and copied."""
    reverse = _validate.flag(owner, "reverse", reverse)
    if lengths is None and mask is None and reset is None:
        return StepsOfRows(reverse, None)
    if lengths is not None:
        lengths = _validate.lengths(owner, lengths, T, B, "batch")
    flags: list[Any] = []
    for name, value in (("mask", mask), ("reset", reset)):
        if value is not None:
            array = _validate.as_array(owner, name, value)
            if array.dtype != np.bool_:
                raise _validate.not_bool(owner, name, array.dtype)
            _validate.exact_shape(owner, name, array, (T, B), "(T, B)")
            value = np.array(array, order="C")
        flags.append(value)
    if T * B == 0:
        return StepsOfRows(reverse, None)
    return StepsOfRows(reverse, _core.StepFlags(T, B, lengths, flags[0], flags[1], reverse))


def read_state(owner: str, name: str, value: Any, shape: tuple[int, int], formula: str, dtype: np.dtype[Any]) -> Any:
    """A state or its gradient, (B, units) in C order and copied; or None."""
    if value is None:
        return None
    array = read_numbers(owner, name, value, dtype.kind == "c")
    _validate.exact_shape(owner, name, array, shape, formula)
    return np.array(array, dtype, order="C")


def read_gradient(owner: str, name: str, value: Any, shape: tuple[int, ...], formula: str, dtype: np.dtype[Any]) -> Any:
    """The gradient of an output over time, with a contiguous last axis; or None."""
    if value is None:
        return None
    array = read_numbers(owner, name, value, dtype.kind == "c")
    _validate.exact_shape(owner, name, array, shape, formula)
    return cast(array, dtype)


def no_gradient(owner: str, *names: str) -> ValueError:
    """Backward without any gradient to start from."""
    return ValueError(f"{owner}: {', '.join(names)} are all None; expected at least one gradient")


class ArrayTape(TapeBase):
    """The data that a forward function on plain arrays keeps for its backward function.

    Has ``nbytes``, ``released`` and ``release()``, and may be used in a ``with`` block and more than once, as `Tape`.
    Unlike the tape of a layer, which owns copies, this tape refers to arrays over time that were given to the forward
    function, and for a scan to the result h: a copy of these would take as long as the scan. They must not be changed
    before backward, or its gradients are those of a mixture.
    """

    __slots__ = ("_made_by",)

    def __init__(self, made_by: str, saved: Any) -> None:
        super().__init__(made_by, saved)
        self._made_by = made_by
