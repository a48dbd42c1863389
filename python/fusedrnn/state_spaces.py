"""Dense state spaces x_t = A_t x_{t-1} + B_t u_t, y_t = C_t x_t + D_t u_t on plain arrays; part of
`fusedrnn.functional`.

The kernels are in `csrc/kernels/state_space.h`; the twin to be read is `fusedrnn.reference`'s `state_space.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core, _validate
from .grads import StateSpaceGrads
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

__all__ = ["StateSpaceGrads", "state_space_backward", "state_space_forward"]

Array = NDArray[Any]


class Saved(NamedTuple):
    """The contents of a tape."""

    kept: _core.StateSpaceTape | None  # None: no step and row
    u: Array
    matrices: tuple[Array | None, ...]  # A, B, C, D
    steps: StepsOfRows
    sizes: tuple[int, int, int, int, int]  # T, B, n, m, p
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of inputs, states and matrices, those that others own, too."""
        own = 0 if self.kept is None else self.kept.nbytes
        return own + self.u.nbytes + sum(matrix.nbytes for matrix in self.matrices if matrix is not None)


def state_space_forward(
    u: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    x_0: ArrayLike | None = None,
    *,
    read: str = "after",
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[Array, Array, ArrayTape]:
    """Linear system with dense matrices: x_t = A_t x_{t-1} + B_t u_t, y_t = C_t x_t + D_t u_t.

    Parameters
    ----------
    u : array-like (T, batch, m)
        Inputs.
    A, B, C, D : array-like, with last axes (n, n), (n, m), (p, n), (p, m)
        Each is constant, (rows, columns); or given for each step, (T, rows, columns); or for each step and row,
        (T, batch, rows, columns); independently of the others. D may be None: zeros.
    x_0 : array-like (batch, n), or None for zeros
        The state before the first step.
    read : "after" or "before"
        The state that y_t sees: "after" is x_t; "before" is x_{t-1}, y_t = C_t x_{t-1} + D_t u_t, so that x_0 is seen
        at the first step, as in control theory and `scipy.signal.dlsim`.
    lengths, mask, reset, reverse
        As for `scan_forward`.

    Returns
    -------
    y : ndarray (T, batch, p)
        Zero at skipped steps.
    x_n : ndarray (batch, n)
        The state after each row's last step in running order.
    tape : ArrayTape
        For `state_space_backward`. It owns copies of constant matrices; `u` and other matrices must not be changed
        before.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or dtype; the wrong shape or value. Complex arrays are a TypeError.
    MemoryError
        Results or states do not fit into memory.

    Notes
    -----
    The computation is in float32 if `u` and all matrices are, else in float64. Time runs in order, rows in parallel;
    the bits of a row depend on neither the number of threads nor the other rows. Kalman, On the general theory of
    control systems, 1960; for continuous systems see `discretize`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import state_space_forward
    >>> A, B, C = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]]), np.array([[1.0, 0.0]])
    >>> y, x_n, tape = state_space_forward(np.ones((3, 1, 1)), A, B, C)  # position of a unit mass under force 1
    >>> y[:, 0, 0].round(3), x_n.round(3)
    (array([0.  , 0.01, 0.03]), array([[0.03, 0.3 ]]))
    """
    owner = "state_space_forward"
    given = {name: read_numbers(owner, name, value, False) for name, value in zip("uABC", (u, A, B, C), strict=True)}
    if D is not None:
        given["D"] = read_numbers(owner, "D", D, False)
    dtype = common_dtype(list(zip((u, A, B, C, D), given.values(), strict=False)), False)
    inputs = given.pop("u")
    if inputs.ndim != 3:
        raise ValueError(f"{owner}: u has shape {inputs.shape}; expected (T, batch, m)")
    T, rows, m = inputs.shape
    n, p = (given[name].shape[-2] if given[name].ndim >= 2 else 0 for name in "AC")
    sizes = {"A": (n, n), "B": (n, m), "C": (p, n), "D": (p, m)}
    letters = {"A": "(n, n)", "B": "(n, m)", "C": "(p, n)", "D": "(p, m)"}
    for name, array in given.items():
        expected = sizes[name]
        if array.ndim not in (2, 3, 4) or array.shape not in (expected, (T, *expected), (T, rows, *expected)):
            raise ValueError(
                f"{owner}: {name} has shape {array.shape}; expected {letters[name]} = {expected}, with u of shape "
                f"{inputs.shape}, or that after (T,) = {(T,)} or (T, batch) = {(T, rows)}"
            )
    if min(n, m, p) == 0:
        raise ValueError(f"{owner}: n, m, p = {n}, {m}, {p}; expected at least 1 each")
    read = _validate.choice(owner, "read", read, ("after", "before"))
    _validate.room(owner, "inputs, states and outputs", T * rows * (m + n + p), dtype)
    initial = read_state(owner, "x_0", x_0, (rows, n), "(batch, n)", dtype)
    steps = read_steps(owner, T, rows, lengths, mask, reset, reverse)
    inputs = inputs.astype(dtype, copy=False)
    matrices = tuple(_matrix(given.get(name), dtype) for name in "ABCD")
    y, x_n = _core.empty((T, rows, p), dtype), _core.empty((rows, n), dtype)
    kept = None
    if T * rows == 0:
        x_n[...] = 0 if initial is None else initial
    else:
        running = tuple(_over_time(steps, matrix) for matrix in matrices)
        kept = _core.state_space_forward(
            _of(steps, inputs), running, initial, _of(steps, y), x_n, read == "before", steps.flags
        )
    return y, x_n, ArrayTape(owner, Saved(kept, inputs, matrices, steps, (T, rows, n, m, p), dtype))


def state_space_backward(
    tape: ArrayTape, dy: ArrayLike | None = None, dx_n: ArrayLike | None = None
) -> StateSpaceGrads:
    """Gradients of a scalar with respect to everything that went into `state_space_forward`.

    Parameters
    ----------
    tape : ArrayTape
        From `state_space_forward`; may be used again.
    dy : array-like (T, batch, p), or None for zeros
        Gradient with respect to y; not read at skipped steps.
    dx_n : array-like (batch, n), or None for zeros
        Gradient with respect to x_n.

    Returns
    -------
    StateSpaceGrads
        du, dA, dB, dC, dD, dx_0, each of the shape of its argument; sums over rows and steps in a fixed order.

    Raises
    ------
    TypeError
        The tape is from another function, or a gradient is not an array of real numbers.
    ValueError
        The tape was released, a shape is wrong, or there is no gradient at all.

    Notes
    -----
    l_t = C_t^T dy_t + A_{t+1}^T l_{t+1}; dA_t = l_t x_{t-1}^T, dB_t = l_t u_t^T, dC_t = dy_t x_t^T, dD_t = dy_t u_t^T,
    du_t = B_t^T l_t + D_t^T dy_t.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import state_space_backward, state_space_forward
    >>> y, x_n, tape = state_space_forward(np.ones((3, 1, 1)), [[0.5]], [[1.0]], [[2.0]])
    >>> grads = state_space_backward(tape, dy=np.ones((3, 1, 1)))
    >>> grads.du[:, 0, 0], grads.dA, grads.dD
    (array([3.5, 3. , 2. ]), array([[6.]]), None)
    """
    owner = "state_space_backward"
    _validate.functional_tape(owner, tape, "state_space_forward")
    saved: Saved = tape._unreleased()
    T, rows, n, m, p = saved.sizes
    dtype, steps = saved.dtype, saved.steps
    of_y = read_gradient(owner, "dy", dy, (T, rows, p), "(T, batch, p)", dtype)
    of_x_n = read_state(owner, "dx_n", dx_n, (rows, n), "(batch, n)", dtype)
    if of_y is None and of_x_n is None:
        raise no_gradient(owner, "dy", "dx_n")
    du, dx_0 = _core.empty((T, rows, m), dtype), _core.empty((rows, n), dtype)
    d: list[Any] = [None if matrix is None else _core.empty(matrix.shape, dtype) for matrix in saved.matrices]
    if saved.kept is None:
        dx_0[...] = 0 if of_x_n is None else of_x_n
        unreached = d
    else:
        running, of_d = (tuple(_over_time(steps, x) for x in xs) for xs in (saved.matrices, d))
        _core.state_space_backward(
            saved.kept, _of(steps, saved.u), running, _of(steps, of_y), of_x_n, _of(steps, du), of_d, dx_0
        )
        unreached = d[2:] if of_y is None else []
    for array in unreached:
        if array is not None:
            array[...] = 0
    dA, dB, dC, dD = d
    return StateSpaceGrads(du, dA, dB, dC, dD, dx_0)


def _matrix(array: Array | None, dtype: np.dtype[Any]) -> Array | None:
    """One of the matrices: each in C order, a constant one copied."""
    if array is None:
        return None
    if array.ndim == 2:
        return np.array(array, dtype, order="C")
    array = cast(array, dtype, axes=2)
    if array.ndim == 4 and array.shape[1] > 1 and array.strides[1] != array.shape[2] * array.strides[2]:
        return np.array(array, order="C")
    return array if all(array.strides[:-2]) or array.size == 0 else np.array(array, order="C")


def _of(steps: StepsOfRows, array: Array | None) -> Any:
    return steps.in_order(array)


def _over_time(steps: StepsOfRows, matrix: Array | None) -> Array | None:
    """A matrix that changes in time, in running order; a constant one as it is."""
    return matrix if matrix is None or matrix.ndim == 2 else steps.in_order(matrix)
