"""The linear recurrence h_t = a_t h_{t-1} + b_t, forward and back in time.

The twin of `csrc/kernels/array_scan.h`. Units do not depend on each other: a step multiplies whole arrays. The state
before each step is kept for the gradient of a.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusedrnn.grads import ScanGrads
from fusedrnn.reference.array_checks import in_order, runs_and_cuts, sum_to_shape

Array = NDArray[Any]


@dataclass
class ScanTape:
    """What `scan_backward` needs."""

    a: Array  # broadcast to (T, B, H)
    before: Array  # (T, B, H): h_{t-1}, after a reset zero
    runs: Array  # (T, B)
    cuts: Array  # (T, B)
    reverse: bool
    a_shape: tuple[int, ...]
    real: tuple[bool, bool, bool]


def scan_forward(
    a: ArrayLike,
    b: ArrayLike,
    h_0: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
    dtype: Any = np.float64,
) -> tuple[Array, Array, ScanTape]:
    """h_t = a_t h_{t-1} + b_t.

    Parameters
    ----------
    a, b, h_0, lengths, mask, reset, reverse
        See `fusedrnn.functional.scan_forward`.
    dtype : dtype
        Real dtype of the computation; complex arguments make it the complex dtype of the same precision.

    Returns
    -------
    h : ndarray, shape (T, B, H)
    h_n : ndarray, shape (B, H)
    tape : ScanTape

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong dtype, shape or value.

    Examples
    --------
    >>> from fusedrnn.reference import scan_forward
    >>> scan_forward(0.5, np.ones((3, 1, 1)))[0].ravel()
    array([1.  , 1.5 , 1.75])
    """
    given = (np.asarray(a), np.asarray(b), None if h_0 is None else np.asarray(h_0))
    real = tuple(array is not None and array.dtype.kind != "c" for array in given)
    if any(array is not None and array.dtype.kind == "c" for array in given):
        dtype = np.result_type(dtype, np.complex64)
    b = given[1].astype(dtype)
    if b.ndim != 3:
        raise ValueError(f"scan_forward: b has shape {b.shape}; expected (T, B, H)")
    T, B, H = b.shape
    a = np.broadcast_to(given[0].astype(dtype), b.shape)
    h = np.zeros((B, H), dtype) if given[2] is None else given[2].astype(dtype)
    if h.shape != (B, H):
        raise ValueError(f"scan_forward: h_0 has shape {h.shape}; expected (B, H) = {(B, H)}")
    runs, cuts = runs_and_cuts("scan_forward", T, B, lengths, mask, reset, reverse)
    y, before = np.zeros_like(b), np.zeros_like(b)
    for t in in_order(T, reverse):
        h = np.where(cuts[t, :, None], 0, h)
        before[t] = h
        with np.errstate(all="ignore"):
            new = a[t] * h + b[t]
        h = np.where(runs[t, :, None], new, h)
        y[t] = np.where(runs[t, :, None], new, 0)
    return y, h, ScanTape(a, before, runs, cuts, reverse, given[0].shape, real)  # type: ignore[arg-type]


def scan_backward(tape: ScanTape, dh: ArrayLike | None = None, dh_n: ArrayLike | None = None) -> ScanGrads:
    """g_t = dh_t + conj(a_{t+1}) g_{t+1}; db_t = g_t, da_t = g_t conj(h_{t-1}).

    Parameters
    ----------
    tape : ScanTape
    dh : array_like, shape (T, B, H), or None for zeros
    dh_n : array_like, shape (B, H), or None for zeros

    Returns
    -------
    ScanGrads
        da in a's own shape.

    Raises
    ------
    ValueError
        There is no gradient at all.

    Examples
    --------
    >>> from fusedrnn.reference import scan_backward, scan_forward
    >>> scan_backward(scan_forward(0.5, np.ones((3, 1, 1)))[2], dh_n=np.ones((1, 1))).db.ravel()
    array([0.25, 0.5 , 1.  ])
    """
    if dh is None and dh_n is None:
        raise ValueError("scan_backward: dh, dh_n are both None; expected at least one gradient")
    T, B, H = tape.a.shape
    dtype = tape.before.dtype
    outputs = np.zeros((T, B, H), dtype) if dh is None else np.asarray(dh).astype(dtype)
    g = np.zeros((B, H), dtype) if dh_n is None else np.array(dh_n, dtype)
    da, db = np.zeros((T, B, H), dtype), np.zeros((T, B, H), dtype)
    for t in in_order(T, not tape.reverse):
        runs = tape.runs[t, :, None]
        with np.errstate(all="ignore"):
            total = outputs[t] + g
            da[t] = np.where(runs, total * tape.before[t].conj(), 0)
            db[t] = np.where(runs, total, 0)
            g = np.where(runs, tape.a[t].conj() * total, g)
        g = np.where(tape.cuts[t, :, None], 0, g)
    grads = (sum_to_shape(da, tape.a_shape), db, g)
    return ScanGrads(*(d.real if real else d for d, real in zip(grads, tape.real, strict=True)))
