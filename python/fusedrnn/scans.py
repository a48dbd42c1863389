"""The linear recurrence h_t = a_t h_{t-1} + b_t on plain arrays, forward and backward; part of `fusedrnn.functional`.

The kernels are in `csrc/kernels/array_scan.h`; the twin to be read is `fusedrnn.reference`'s `scan.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core, _validate
from .grads import ScanGrads
from .plain_arrays import (
    ArrayTape,
    StepsOfRows,
    cast,
    common_dtype,
    no_gradient,
    read_gradient,
    read_numbers,
    read_state,
    read_steps,
)

__all__ = ["ScanGrads", "scan_backward", "scan_forward"]

Array = NDArray[Any]

#: Rows of fewer units than this are joined to one row where nothing tells them apart: a row should fill whole vectors.
JOINED = 64


class Saved(NamedTuple):
    """The contents of a tape; the arrays over time are those of `_run`, in the caller's order of steps."""

    a: Array  # three axes, each of size 1 where a is broadcast
    h: Array
    h_0: Array | None
    steps: StepsOfRows
    shape: tuple[int, int, int]
    a_shape: tuple[int, ...]
    real: tuple[bool, ...]  # whether a, b and h_0 are given and real

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, those that others own, too."""
        return self.a.nbytes + self.h.nbytes + (0 if self.h_0 is None else self.h_0.nbytes)


def scan_forward(
    a: ArrayLike,
    b: ArrayLike,
    h_0: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[Array, Array, ArrayTape]:
    """Linear recurrence of independent units: h_t = a_t h_{t-1} + b_t.

    Parameters
    ----------
    a : array-like that broadcasts to (T, B, H)
        Factors of the old state: (T, B, H), (H,) for each unit, (T, 1, 1) for each step, or a number. A broadcast array
        is read as it is, not copied out.
    b : array-like (T, B, H)
    h_0 : array-like (B, H), or None for zeros
        The state before the first step.
    lengths : integers (B,), or None for T
        Number of valid steps of each row. Later steps are not read, and the state passes through.
    mask : bool (T, B), or None
        False skips a step, in addition to those past the row's length: nothing is read, and the state passes through.
    reset : bool (T, B), or None
        True at t cuts the row between t-1 and t: the state becomes zero before step t, t = 0 included, whatever h_0 is;
        in reverse it becomes zero before step t-1, and reset[0] has no effect. Not read past a row's length.
    reverse : bool
        Run each row from its last valid step to its first: h_t = a_t h_{t+1} + b_t. h stays aligned with b, and h_n is
        the state after time 0.

    Returns
    -------
    h : ndarray (T, B, H)
        Zero at skipped steps.
    h_n : ndarray (B, H)
        The state after each row's last step in running order.
    tape : ArrayTape
        For `scan_backward`. It refers to `a` and `h`, which must not be changed before.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or dtype; the wrong shape or value.
    MemoryError
        The result does not fit into memory.

    Notes
    -----
    All arrays may be complex. The computation is in single precision if `a` and `b` are (Python's own numbers adapt),
    else in double precision. Time runs in order, rows and units in parallel (docs/decisions/0017-time-in-order.md): the
    bits of a row depend on neither the number of threads nor the other rows, and a sequence in two calls, the second
    with the first one's h_n, gives the same bits as in one. The same recurrence, computed by a parallel scan: G. E.
    Blelloch, Prefix sums and their applications, 1990.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import scan_forward
    >>> h, h_n, tape = scan_forward(0.5, np.ones((3, 1, 2)))
    >>> h[:, 0, 0], h_n
    (array([1.  , 1.5 , 1.75]), array([[1.75, 1.75]]))
    """
    owner = "scan_forward"
    given_a, given_b = read_numbers(owner, "a", a, True), read_numbers(owner, "b", b, True)
    if given_b.ndim != 3:
        raise ValueError(f"{owner}: b has shape {given_b.shape}; expected (T, B, H)")
    T, B, H = shape = given_b.shape
    own = given_a.shape
    if len(own) > 3 or any(n not in (1, full) for n, full in zip(own[::-1], shape[::-1], strict=False)):
        raise ValueError(f"{owner}: a has shape {own}; expected one that broadcasts to (T, B, H) = {shape}, as of b")
    given_h = None if h_0 is None else read_numbers(owner, "h_0", h_0, True)
    real = tuple(array is not None and array.dtype.kind != "c" for array in (given_a, given_b, given_h))
    dtype = common_dtype([(a, given_a), (b, given_b)], not all(real[: 2 + (given_h is not None)]))
    _validate.room(owner, "h", T * B * H, dtype)
    initial = read_state(owner, "h_0", given_h, (B, H), "(B, H)", dtype)
    steps = read_steps(owner, T, B, lengths, mask, reset, reverse)
    cube = given_a.reshape((1,) * (3 - len(own)) + own)
    factors = _factors(cube, shape, dtype)
    h = _core.empty(shape, dtype)
    if h.size == 0:
        h_n = np.zeros((B, H), dtype) if initial is None else initial.copy()
    else:
        h_n = _core.empty((B, H), dtype)
        joined = _joined(factors, shape, steps)
        arrays = [joined_rows(x, joined) for x in (factors, cast(given_b, dtype), h)]
        running: list[Any] = [steps.in_order(x) for x in arrays]
        states: list[Any] = [x if x is None or not joined else x.reshape(1, -1) for x in (initial, h_n)]
        _core.scan_forward(running[0], running[1], states[0], running[2], states[1], steps.flags)
    return h, h_n, ArrayTape(owner, Saved(factors, h, initial, steps, shape, own, real))


def scan_backward(tape: ArrayTape, dh: ArrayLike | None = None, dh_n: ArrayLike | None = None) -> ScanGrads:
    """Gradients of a scalar with respect to everything that went into `scan_forward`.

    Parameters
    ----------
    tape : ArrayTape
        From `scan_forward`; may be used again.
    dh : array-like (T, B, H), or None for zeros
        Gradient with respect to h; not read at skipped steps.
    dh_n : array-like (B, H), or None for zeros
        Gradient with respect to h_n.

    Returns
    -------
    ScanGrads
        da (in a's own shape, summed in a fixed order), db (T, B, H) and dh_0 (B, H).

    Raises
    ------
    TypeError
        The tape is from another function, or a gradient is not an array of numbers.
    ValueError
        The tape was released, a shape is wrong, or there is no gradient at all.

    Notes
    -----
    g_t = dh_t + conj(a_{t+1}) g_{t+1}, da_t = g_t conj(h_{t-1}), db_t = g_t. The gradient with respect to a complex
    number z is dL/d(re z) + i dL/d(im z), as in torch; JAX returns its conjugate.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import scan_backward, scan_forward
    >>> h, h_n, tape = scan_forward(0.5, np.ones((3, 1, 2)))
    >>> grads = scan_backward(tape, dh_n=np.ones((1, 2)))
    >>> grads.db[:, 0, 0], grads.da, grads.dh_0
    (array([0.25, 0.5 , 1.  ]), array(4.), array([[0.125, 0.125]]))
    """
    owner = "scan_backward"
    _validate.functional_tape(owner, tape, "scan_forward")
    saved: Saved = tape._unreleased()
    T, B, H = shape = saved.shape
    dtype = saved.h.dtype
    of_h = read_gradient(owner, "dh", dh, shape, "(T, B, H)", dtype)
    of_h_n = read_state(owner, "dh_n", dh_n, (B, H), "(B, H)", dtype)
    if of_h is None and of_h_n is None:
        raise no_gradient(owner, "dh", "dh_n")
    db, dh_0 = _core.empty(shape, dtype), _core.empty((B, H), dtype)
    if saved.h.size == 0:
        dh_0[...] = 0 if of_h_n is None else of_h_n
        da = np.zeros(saved.a_shape, dtype)
    else:
        joined = _joined(saved.a, shape, saved.steps)
        a = joined_rows(saved.a, joined)
        rows, units = (1, B * H) if joined else (B, H)
        over_time = a.shape[0] == 1
        by_unit = over_time or a.shape[2] == units
        width = units if by_unit else _core.scan_sums(units * (2 if dtype.kind == "c" else 1))
        parts = _core.empty((1 if over_time else T, rows, width), dtype)
        arrays = [joined_rows(x, joined) for x in (a, saved.h, of_h, parts, db)]
        running: list[Any] = [saved.steps.in_order(x) for x in arrays]
        states: list[Any] = [x if x is None or not joined else x.reshape(1, -1) for x in (saved.h_0, of_h_n, dh_0)]
        a, h, of_h, of_parts, of_b = running
        _core.scan_backward(a, h, states[0], saved.steps.flags, of_h, states[1], of_parts, of_b, states[2])
        da = _summed(parts, saved, joined)
    return ScanGrads(*(as_given(part, real) for part, real in zip((da, db, dh_0), saved.real, strict=True)))


def _factors(cube: Array, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Array:
    """`a` as the kernels take it: an axis along which it does not change has size 1, the others no stride of 0."""
    _, B, H = shape
    cube = cast(cube, dtype)
    if cube.shape[0] == 1 and B > 1 and H < JOINED and cube.shape[1:] != (1, 1):
        cube = np.broadcast_to(cube, (1, B, H))  # a few numbers, so that rows can be joined
    if any(n > 1 and stride == 0 for n, stride in zip(cube.shape, cube.strides, strict=True)):
        cube = np.array(cube, order="C")
    return cube


def _joined(a: Array, shape: tuple[int, int, int], steps: StepsOfRows) -> bool:
    """Whether the rows of one step are treated as one row. A matter of shapes alone: sums depend on it."""
    _, B, H = shape
    return B > 1 and H < JOINED and steps.flags is None and a.shape[1:] in ((1, 1), (B, H))


def as_given(gradient: Array, real: bool) -> Array:
    """The gradient of an argument that was `real` in a complex computation is real."""
    return gradient.real.copy() if real and gradient.dtype.kind == "c" else gradient


def joined_rows(array: Array | None, joined: bool) -> Any:
    """(T, B, H) as (T, 1, B*H), if rows are joined: a view where the rows of a step follow each other."""
    if array is None or not joined:
        return array
    return array.reshape(array.shape[0], 1, -1)


def _summed(parts: Array, saved: Saved, joined: bool) -> Array:
    """The gradient of a in its own shape, from what the kernel summed; sums in double precision, in a fixed order."""
    _, B, H = saved.shape
    own = (1,) * (3 - len(saved.a_shape)) + saved.a_shape
    if joined and parts.shape[2] == B * H:
        parts = parts.reshape(-1, B, H)
    axes = tuple(k for k in range(3) if own[k] == 1 and parts.shape[k] > 1)
    if axes:
        wide = np.complex128 if parts.dtype.kind == "c" else np.float64
        parts = parts.sum(axes, dtype=wide, keepdims=True).astype(parts.dtype)
    return parts.reshape(saved.a_shape)
