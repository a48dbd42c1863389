"""The selective scan of Mamba, forward and back in time.

The twin of `csrc/kernels/selective_scan.h`. Each channel d has N states with decays of their own; B and C are shared by
the channels of a group. A step computes whole arrays (B, D, N); the state before each step is kept for the gradients,
which the kernels do not do. A. Gu and T. Dao, Mamba: Linear-time sequence modeling with selective state spaces, 2023.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusedrnn.grads import SelectiveScanGrads
from fusedrnn.reference.array_checks import in_order, runs_and_cuts

Array = NDArray[Any]

DISCRETIZATIONS = ("mamba", "zoh", "bilinear")


@dataclass
class SelectiveScanTape:
    """What `selective_scan_backward` needs."""

    u: Array
    delta: Array  # (T, B, D): after bias and softplus
    slope: Array  # (T, B, D): of softplus, or ones
    A: Array
    B: Array  # (T, B, D, N)
    C: Array
    D: Array | None
    z: Array | None
    before: Array  # (T, B, D, N): h_{t-1}, after a reset zero
    after: Array  # (T, B, D, N): h_t
    p: Array  # (T, B, D): y before the gate
    runs: Array  # (T, B)
    cuts: Array  # (T, B)
    reverse: bool
    discretization: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]  # of B and C as given
    complex: tuple[bool, bool, bool]  # whether B, C and h_0 were given as complex numbers
    has_bias: bool


def phi(x: Array) -> Array:
    """(e^x - 1) / x, which is 1 at 0."""
    with np.errstate(all="ignore"):
        return np.where(x == 0, 1, np.expm1(x) / x).astype(x.dtype)


def phi_slope(x: Array) -> Array:
    """The derivative of `phi`: (e^x - phi(x)) / x, near zero a series, in which nothing cancels."""
    with np.errstate(all="ignore"):
        far = (np.exp(x) - phi(x)) / x
        near = sum(x**k * ((k + 1) / math.factorial(k + 2)) for k in range(22))
    return np.where(np.abs(x) < 1, near, far).astype(x.dtype)


def coefficients(delta: Array, A: Array, discretization: str) -> tuple[Array, Array]:
    """h_t = a h_{t-1} + b B_t u_t: a and b (..., D, N) for step sizes (..., D)."""
    x = delta[..., None] * A
    if discretization == "mamba":
        return np.exp(x), np.broadcast_to(delta[..., None], x.shape)
    if discretization == "zoh":
        return np.exp(x), delta[..., None] * phi(x)
    return (1 + x / 2) / (1 - x / 2), delta[..., None] / (1 - x / 2)


def slopes(delta: Array, A: Array, discretization: str) -> tuple[Array, Array, Array, Array]:
    """Derivatives of a and of b, each by delta and by A."""
    x, step = delta[..., None] * A, delta[..., None]
    if discretization == "mamba":
        a = np.exp(x)
        return A * a, step * a, np.ones_like(x), np.zeros_like(x)
    if discretization == "zoh":
        a = np.exp(x)
        return A * a, step * a, a, step * step * phi_slope(x)
    square = 1 / (1 - x / 2) ** 2
    return A * square, step * square, square, step * step / 2 * square


def selective_scan_forward(
    u: ArrayLike,
    delta: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    z: ArrayLike | None = None,
    delta_bias: ArrayLike | None = None,
    h_0: ArrayLike | None = None,
    *,
    delta_softplus: bool = False,
    discretization: str = "mamba",
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
    dtype: Any = np.float64,
) -> tuple[Array, Array, SelectiveScanTape]:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t; y_t = (C_t h_t + D u_t) silu(z_t).

    Parameters
    ----------
    u, delta, A, B, C, D, z, delta_bias, h_0, delta_softplus, discretization, lengths, mask, reset, reverse
        See `fusedrnn.functional.selective_scan_forward`.
    dtype : dtype
        Real dtype of the computation; a complex A makes it, for A, B, C and the state, the complex dtype of the same
        precision.

    Returns
    -------
    y : ndarray, shape (T, B, D)
    h_n : ndarray, shape (B, D, N)
    tape : SelectiveScanTape

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong dtype, shape or value.

    Examples
    --------
    >>> from fusedrnn.reference import selective_scan_forward
    >>> ones = np.ones((3, 1, 1))
    >>> selective_scan_forward(ones, ones, [[0.0]], ones, ones)[0].ravel()
    array([1., 2., 3.])
    """
    owner = "selective_scan_forward"
    A = np.asarray(A)
    real = np.dtype(dtype)
    wide = np.result_type(real, np.complex64) if A.dtype.kind == "c" else real
    u, delta = np.asarray(u).astype(real), np.asarray(delta).astype(real)
    if u.ndim != 3 or delta.shape != u.shape:
        raise ValueError(f"{owner}: u and delta have shapes {u.shape} and {delta.shape}; expected both (T, B, D)")
    T, rows, channels = u.shape
    if A.ndim != 2 or A.shape[0] != channels:
        raise ValueError(f"{owner}: A has shape {A.shape}; expected (D, N) with D = {channels}")
    if discretization not in DISCRETIZATIONS:
        raise ValueError(f"{owner}: discretization is {discretization!r}; expected one of {DISCRETIZATIONS}")
    A = A.astype(wide)
    N = A.shape[1]
    given = np.asarray(B), np.asarray(C)
    if wide == real and any(array.dtype.kind == "c" for array in given):
        raise TypeError(f"{owner}: B or C is complex, and A is real; expected a complex A, too")
    B_, C_ = (_by_channel(owner, name, x.astype(wide), u.shape, N) for name, x in zip("BC", given, strict=True))
    h = np.zeros((rows, channels, N), wide) if h_0 is None else np.array(h_0, wide)
    if h.shape != (rows, channels, N):
        raise ValueError(f"{owner}: h_0 has shape {h.shape}; expected (B, D, N) = {(rows, channels, N)}")
    runs, cuts = runs_and_cuts(owner, T, rows, lengths, mask, reset, reverse)
    skip = None if D is None else np.asarray(D).astype(real)
    gate = None if z is None else np.asarray(z).astype(real)
    slope = np.ones_like(delta)
    with np.errstate(all="ignore"):
        if delta_bias is not None:
            delta = delta + np.asarray(delta_bias).astype(real)
        if delta_softplus:
            slope = _sigmoid(delta)
            delta = np.logaddexp(0, delta).astype(real)
    p, y = np.zeros_like(u), np.zeros_like(u)
    before, after = (np.zeros((T, rows, channels, N), wide) for _ in range(2))
    for t in in_order(T, reverse):
        h = np.where(cuts[t, :, None, None], 0, h)
        before[t] = h
        with np.errstate(all="ignore"):
            a, b = coefficients(delta[t], A, discretization)
            new = a * h + b * B_[t] * u[t, :, :, None]
            read = (C_[t] * new).sum(-1)
            p[t] = 2 * read.real if wide != real else read
            if skip is not None:
                p[t] += skip * u[t]
            out = p[t] if gate is None else p[t] * gate[t] * _sigmoid(gate[t])
        h = np.where(runs[t, :, None, None], new, h)
        after[t] = h
        y[t] = np.where(runs[t, :, None], out, 0)
    tape = SelectiveScanTape(
        u, delta, slope, A, B_, C_, skip, gate, before, after, p, runs, cuts, reverse, discretization,
        (given[0].shape, given[1].shape),
        (given[0].dtype.kind == "c", given[1].dtype.kind == "c", h_0 is None or np.asarray(h_0).dtype.kind == "c"),
        delta_bias is not None,
    )  # fmt: skip
    return y, h, tape


def selective_scan_backward(
    tape: SelectiveScanTape, dy: ArrayLike | None = None, dh_n: ArrayLike | None = None
) -> SelectiveScanGrads:
    """g_t = C_t e_t + a_{t+1} g_{t+1}, where e_t is the gradient before the gate; everything else follows from g.

    Parameters
    ----------
    tape : SelectiveScanTape
    dy : array_like, shape (T, B, D), or None for zeros
    dh_n : array_like, shape (B, D, N), or None for zeros

    Returns
    -------
    SelectiveScanGrads

    Raises
    ------
    ValueError
        There is no gradient at all.

    Examples
    --------
    >>> from fusedrnn.reference import selective_scan_backward, selective_scan_forward
    >>> ones = np.ones((3, 1, 1))
    >>> selective_scan_backward(selective_scan_forward(ones, ones, [[0.0]], ones, ones)[2], ones).du.ravel()
    array([3., 2., 1.])
    """
    if dy is None and dh_n is None:
        raise ValueError("selective_scan_backward: dy, dh_n are both None; expected at least one gradient")
    u, A, wide, real = tape.u, tape.A, tape.A.dtype, tape.u.dtype
    outputs = np.zeros_like(u) if dy is None else np.asarray(dy).astype(real)
    g = np.zeros(tape.before.shape[1:], wide) if dh_n is None else np.array(dh_n, wide)
    twice = 2 if wide != real else 1
    du, ddelta = np.zeros_like(u), np.zeros_like(u)
    dz = None if tape.z is None else np.zeros_like(u)
    dB, dC, dA = np.zeros_like(tape.B), np.zeros_like(tape.C), np.zeros_like(A)
    dD = np.zeros_like(A[:, 0], real)
    for t in in_order(len(u), not tape.reverse):
        runs = tape.runs[t, :, None]
        every = runs[..., None]
        with np.errstate(all="ignore"):
            e = outputs[t]
            if tape.z is not None and dz is not None:
                s = _sigmoid(tape.z[t])
                dz[t] = np.where(runs, e * tape.p[t] * s * (1 + tape.z[t] * (1 - s)), 0)
                e = e * tape.z[t] * s
            step, step_u = tape.delta[t], u[t][..., None]
            a, b = coefficients(step, A, tape.discretization)
            a_delta, a_A, b_delta, b_A = slopes(step, A, tape.discretization)
            total = twice * e[..., None] * tape.C[t].conj() + g
            dC[t] = np.where(every, twice * e[..., None] * tape.after[t].conj(), 0)
            dB[t] = np.where(every, total * b.conj() * step_u, 0)
            of_a = total * tape.before[t].conj()
            of_b = total * tape.B[t].conj() * step_u
            dA += np.where(every, of_a * a_A.conj() + of_b * b_A.conj(), 0).sum(0)
            ddelta[t] = np.where(runs, (of_a * a_delta.conj() + of_b * b_delta.conj()).sum(-1).real, 0)
            du[t] = (total * (b * tape.B[t]).conj()).sum(-1).real
            if tape.D is not None:
                du[t] += tape.D * e
                dD += np.where(runs, e * u[t], 0).sum(0)
            du[t] = np.where(runs, du[t], 0)
            g = np.where(every, a.conj() * total, g)
        g = np.where(tape.cuts[t, :, None, None], 0, g)
    ddelta = ddelta * np.where(tape.runs[..., None], tape.slope, 0)
    matrices = [_sum_channels(d, shape) for d, shape in zip((dB, dC), tape.shapes, strict=True)]
    parts = [d if kept else d.real for d, kept in zip((*matrices, g), tape.complex, strict=True)]
    return SelectiveScanGrads(
        du, ddelta, dA, parts[0], parts[1], None if tape.D is None else dD, dz,
        ddelta.sum((0, 1)) if tape.has_bias else None, parts[2],
    )  # fmt: skip


def _sigmoid(x: Array) -> Array:
    return (0.5 * (1 + np.tanh(0.5 * x))).astype(x.dtype)


def _by_channel(owner: str, name: str, x: Array, shape: tuple[int, ...], N: int) -> Array:
    """B or C for each step, row and channel, (T, B, D, N)."""
    T, rows, channels = shape
    if x.shape == (channels, N):
        return np.array(np.broadcast_to(x, (T, rows, channels, N)))
    if x.ndim == 3:
        x = x[:, :, None]
    groups = x.shape[2] if x.ndim == 4 else 0
    if groups == 0 or channels % groups != 0 or x.shape != (T, rows, groups, N):
        raise ValueError(
            f"{owner}: {name} has shape {x.shape}; expected (T, B, N), (T, B, G, N), where G divides D, or (D, N)"
        )
    return np.repeat(x, channels // groups, axis=2)


def _sum_channels(d: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of B or C in the shape in which it was given."""
    if len(shape) == 2:
        total: Array = d.sum((0, 1))
        return total
    T, rows, channels, N = d.shape
    groups = shape[2] if len(shape) == 4 else 1
    return d.reshape(T, rows, groups, channels // groups, N).sum(3).reshape(shape)
