"""Dense state spaces x_t = A_t x_{t-1} + B_t u_t, y_t = C_t x_t + D_t u_t, forward and back in time.

The twin of `csrc/kernels/state_space.h`.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusedrnn.grads import StateSpaceGrads
from fusedrnn.reference.array_checks import in_order, runs_and_cuts, sum_to_shape

Array = NDArray[Any]


@dataclass
class StateSpaceTape:
    """What `state_space_backward` needs."""

    u: Array  # (T, batch, m), zero where no step runs
    matrices: tuple[Array | None, ...]  # A, B, C, D, broadcast to (T, batch, rows, columns)
    before: Array  # (T, batch, n): x_{t-1}, after a reset zero
    after: Array  # (T, batch, n): x_t
    runs: Array  # (T, batch)
    cuts: Array  # (T, batch)
    read: str
    reverse: bool
    shapes: tuple[tuple[int, ...] | None, ...]


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
    dtype: Any = np.float64,
) -> tuple[Array, Array, StateSpaceTape]:
    """x_t = A_t x_{t-1} + B_t u_t; y_t = C_t x_t + D_t u_t, or with read="before" y_t = C_t x_{t-1} + D_t u_t.

    Parameters
    ----------
    u, A, B, C, D, x_0, read, lengths, mask, reset, reverse
        See `fusedrnn.functional.state_space_forward`.
    dtype : dtype
        Of the computation.

    Returns
    -------
    y : ndarray, shape (T, batch, p)
    x_n : ndarray, shape (batch, n)
    tape : StateSpaceTape

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong dtype, shape or value.

    Examples
    --------
    >>> from fusedrnn.reference import state_space_forward
    >>> state_space_forward(np.ones((3, 1, 1)), [[0.5]], [[1.0]], [[2.0]])[0].ravel()
    array([2. , 3. , 3.5])
    """
    u = np.asarray(u).astype(dtype)
    if u.ndim != 3:
        raise ValueError(f"state_space_forward: u has shape {u.shape}; expected (T, batch, m)")
    if read not in ("after", "before"):
        raise ValueError(f"state_space_forward: read is {read!r}; expected 'after' or 'before'")
    T, rows, _ = u.shape
    given = [None if M is None else np.asarray(M).astype(dtype) for M in (A, B, C, D)]
    shapes = tuple(None if M is None else M.shape for M in given)
    # a matrix for each step, (T, i, j), is repeated for all rows
    full = [None if M is None else M[:, None] if M.ndim == 3 else M for M in given]
    matrices = tuple(None if M is None else np.broadcast_to(M, (T, rows, *M.shape[-2:])) for M in full)
    A_, B_, C_, D_ = (cast(Array, M) for M in matrices)
    n, p = A_.shape[-1], C_.shape[-2]
    x = np.zeros((rows, n), dtype) if x_0 is None else np.array(x_0, dtype)
    if x.shape != (rows, n):
        raise ValueError(f"state_space_forward: x_0 has shape {x.shape}; expected (batch, n) = {(rows, n)}")
    runs, cuts = runs_and_cuts("state_space_forward", T, rows, lengths, mask, reset, reverse)
    y, before, after = np.zeros((T, rows, p), dtype), np.zeros((T, rows, n), dtype), np.zeros((T, rows, n), dtype)
    for t in in_order(T, reverse):
        x = np.where(cuts[t, :, None], 0, x)
        for b in np.flatnonzero(runs[t]):
            before[t, b] = x[b]
            x[b] = A_[t, b] @ x[b] + B_[t, b] @ u[t, b]
            after[t, b] = x[b]
            y[t, b] = C_[t, b] @ (before if read == "before" else after)[t, b]
            if D is not None:
                y[t, b] += D_[t, b] @ u[t, b]
    u = np.where(runs[:, :, None], u, 0)
    return y, x, StateSpaceTape(u, matrices, before, after, runs, cuts, read, reverse, shapes)


def state_space_backward(
    tape: StateSpaceTape, dy: ArrayLike | None = None, dx_n: ArrayLike | None = None
) -> StateSpaceGrads:
    """l_t = C_t^T dy_t + A_{t+1}^T l_{t+1}; the gradient of a matrix is a sum of outer products.

    Parameters
    ----------
    tape : StateSpaceTape
    dy : array_like, shape (T, batch, p), or None for zeros
    dx_n : array_like, shape (batch, n), or None for zeros

    Returns
    -------
    StateSpaceGrads

    Raises
    ------
    ValueError
        There is no gradient at all.

    Examples
    --------
    >>> from fusedrnn.reference import state_space_backward, state_space_forward
    >>> tape = state_space_forward(np.ones((3, 1, 1)), [[0.5]], [[1.0]], [[2.0]])[2]
    >>> state_space_backward(tape, np.ones((3, 1, 1))).du.ravel()
    array([3.5, 3. , 2. ])
    """
    if dy is None and dx_n is None:
        raise ValueError("state_space_backward: dy, dx_n are both None; expected at least one gradient")
    A, B, C = (cast(Array, M) for M in tape.matrices[:3])
    D = tape.matrices[3]
    T, rows, n = tape.after.shape
    dtype = tape.after.dtype
    outputs = np.zeros((T, rows, C.shape[-2]), dtype) if dy is None else np.asarray(dy).astype(dtype)
    carry = np.zeros((rows, n), dtype) if dx_n is None else np.array(dx_n, dtype)
    du, dA, dB, dC = np.zeros_like(tape.u), np.zeros(A.shape, dtype), np.zeros(B.shape, dtype), np.zeros(C.shape, dtype)
    dD = None if D is None else np.zeros(D.shape, dtype)
    for t in in_order(T, not tape.reverse):
        for b in np.flatnonzero(tape.runs[t]):
            of_y = C[t, b].T @ outputs[t, b]
            l = carry[b] if tape.read == "before" else carry[b] + of_y
            dA[t, b] = np.outer(l, tape.before[t, b])
            dB[t, b] = np.outer(l, tape.u[t, b])
            dC[t, b] = np.outer(outputs[t, b], (tape.before if tape.read == "before" else tape.after)[t, b])
            du[t, b] = B[t, b].T @ l
            if D is not None and dD is not None:
                dD[t, b] = np.outer(outputs[t, b], tape.u[t, b])
                du[t, b] += D[t, b].T @ outputs[t, b]
            carry[b] = A[t, b].T @ l + (of_y if tape.read == "before" else 0)
        carry = np.where(tape.cuts[t, :, None], 0, carry)
    grads: list[Any] = []
    for d, shape in zip((dA, dB, dC, dD), tape.shapes, strict=True):
        if d is None or shape is None:
            grads.append(None)
        elif len(shape) == 3:
            grads.append(d.sum(1))
        else:
            grads.append(sum_to_shape(d, shape))
    return StateSpaceGrads(du, grads[0], grads[1], grads[2], grads[3], carry)
