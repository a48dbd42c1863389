"""The selective scan of Mamba on plain arrays, forward, backward and one step; part of `fusedrnn.functional`.

The kernels are in `csrc/kernels/selective_scan.h`; the twin to be read is `fusedrnn.reference`'s `selective_scan.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core, _validate
from .grads import SelectiveScanGrads
from .plain_arrays import (
    ArrayTape,
    StepsOfRows,
    cast,
    common_dtype,
    no_gradient,
    read_gradient,
    read_numbers,
    read_steps,
)

__all__ = ["SelectiveScanGrads", "selective_scan_backward", "selective_scan_forward", "selective_scan_step"]

Array = NDArray[Any]

DISCRETIZATIONS = ("mamba", "zoh", "bilinear")


class Operands(NamedTuple):
    """The arguments of a call, checked; those that change in time in the caller's order of steps."""

    u: Array
    delta: Array
    A: Array
    B: Array  # (T, B, G, N), or constant (D, N); real, or as A
    C: Array
    D: Array | None
    z: Array | None
    delta_bias: Array | None
    shapes: tuple[tuple[int, ...], tuple[int, ...]]  # of B and C as given
    complex: tuple[bool, bool, bool]  # whether B, C and h_0 were given as complex numbers


class Saved(NamedTuple):
    """The contents of a tape."""

    kept: Any  # None without steps or rows
    operands: Operands
    steps: StepsOfRows
    sizes: tuple[int, int, int, int]  # T, B, D, N
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, those that others own, too."""
        arrays = (self.operands.u, self.operands.delta, self.operands.B, self.operands.C, self.operands.z)
        return sum(a.nbytes for a in arrays if a is not None) + (0 if self.kept is None else self.kept.nbytes)


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
) -> tuple[Array, Array, ArrayTape]:
    """Selective scan, the recurrence of Mamba: h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = C_t h_t + D u_t.

    Parameters
    ----------
    u : array-like (T, B, D)
        Inputs: T steps, B rows, D channels.
    delta : array-like (T, B, D)
        Step sizes, before `delta_bias` and softplus.
    A : array-like (D, N), real or complex
        Each channel has N states of its own.
    B, C : array-like (T, B, N), (T, B, G, N), or (D, N)
        What a step writes into the states, and how the output reads them: the same for all channels, or for each of G
        groups of D / G successive channels, or constant. Complex only if A is.
    D : array-like (D,), or None
        Adds D u_t to the output.
    z : array-like (T, B, D), or None
        Multiplies the output by silu(z_t) = z_t sigmoid(z_t).
    delta_bias : array-like (D,), or None
        Added to `delta`.
    h_0 : array-like (B, D, N), or None for zeros
        The state before the first step; complex only if A is.
    delta_softplus : bool
        Whether the step size is softplus(delta + delta_bias), which is positive.
    discretization : "mamba", "zoh" or "bilinear"
        How a step is taken, h_t = a h_{t-1} + b B_t u_t. With x = delta_t A: "mamba" a = e^x, b = delta_t;
        "zoh" a = e^x, b = delta_t (e^x - 1) / x, exact for inputs held during a step; "bilinear"
        a = (1 + x/2) / (1 - x/2), b = delta_t / (1 - x/2).
    lengths, mask, reset, reverse
        As for `scan_forward`. Skipped steps are not read.

    Returns
    -------
    y : ndarray (T, B, D), real
        Zero at skipped steps. With a complex A, 2 Re(C_t h_t) takes the place of C_t h_t: the states stand for
        conjugate pairs.
    h_n : ndarray (B, D, N)
        The state after each row's last step in running order; complex if A is.
    tape : ArrayTape
        For `selective_scan_backward`. It refers to `u`, `delta`, `z`, and to `B` and `C` unless they are constant, all
        of which must not be changed before; it holds the states before every 32nd step, N / 32 of the size of `u`.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or dtype; the wrong shape or value.
    MemoryError
        Results or states do not fit into memory.

    Notes
    -----
    The computation is in single precision if u, delta, A, B, C and z are, else in double precision. States exist in
    registers only: no array (T, B, D, N) is made, forward or backward. Time runs in order, rows and channels in
    parallel; the bits of a row depend on neither the number of threads nor the other rows, and a sequence in two calls,
    the second with the first one's h_n, gives the same bits as in one. A. Gu and T. Dao, Mamba: Linear-time sequence
    modeling with selective state spaces, 2023; names, shapes and the factor 2 are those of mamba_ssm's
    `selective_scan_fn`, but for the order of the axes. A negative step size is allowed: only softplus prevents it.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import selective_scan_forward
    >>> ones = np.ones((3, 1, 2))
    >>> A, B = np.log([[0.5], [0.25]]), np.ones((3, 1, 1))
    >>> y, h_n, tape = selective_scan_forward(ones, ones, A, B, B)
    >>> y[:, 0, 0], h_n.shape
    (array([1.  , 1.5 , 1.75]), (1, 2, 1))
    """
    owner = "selective_scan_forward"
    operands, h, sizes, dtype = _read(owner, u, delta, A, B, C, D, z, delta_bias, h_0)
    T, rows, _, _ = sizes
    softplus = _validate.flag(owner, "delta_softplus", delta_softplus)
    rule = DISCRETIZATIONS.index(_validate.choice(owner, "discretization", discretization, DISCRETIZATIONS))
    steps = read_steps(owner, T, rows, lengths, mask, reset, reverse)
    y = _core.empty(operands.u.shape, dtype)
    h_n = h if h is not None else np.zeros(sizes[1:], operands.A.dtype)
    kept = None
    if y.size > 0:
        kept = _core.selective_scan_forward(
            *_running(operands, steps), h_n, steps.in_order(y), steps.flags, softplus, rule
        )
    return y, h_n, ArrayTape(owner, Saved(kept, operands, steps, sizes, dtype))


def selective_scan_backward(
    tape: ArrayTape, dy: ArrayLike | None = None, dh_n: ArrayLike | None = None
) -> SelectiveScanGrads:
    """Gradients of a scalar with respect to everything that went into `selective_scan_forward`.

    Parameters
    ----------
    tape : ArrayTape
        From `selective_scan_forward`; may be used again.
    dy : array-like (T, B, D), or None for zeros
        Gradient with respect to y; not read at skipped steps.
    dh_n : array-like (B, D, N), or None for zeros
        Gradient with respect to h_n; complex only if A is.

    Returns
    -------
    SelectiveScanGrads
        du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dh_0, each of the shape of its argument, None for an argument that
        was not given; dh_0 is there in any case. Sums over steps, rows and channels are in a fixed order.

    Raises
    ------
    TypeError
        The tape is from another function, or a gradient is not an array of numbers.
    ValueError
        The tape was released, a shape is wrong, or there is no gradient at all.

    Notes
    -----
    With e_t = dy_t silu(z_t): g_t = C_t e_t + a_{t+1} g_{t+1}, dC_t = e_t h_t, dB_t = b g_t u_t, and so on;
    docs/scans.md has all equations. The states are computed again from those on the tape, 32 steps at a time. The
    gradient with respect to a complex number w is dL/d(re w) + i dL/d(im w), as in torch.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import selective_scan_backward, selective_scan_forward
    >>> ones = np.ones((3, 1, 1))
    >>> y, h_n, tape = selective_scan_forward(ones, ones, [[0.0]], ones, ones)
    >>> grads = selective_scan_backward(tape, ones)
    >>> grads.du.ravel(), grads.dA, grads.dz
    (array([3., 2., 1.]), array([[4.]]), None)
    """
    owner = "selective_scan_backward"
    _validate.functional_tape(owner, tape, "selective_scan_forward")
    saved: Saved = tape._unreleased()
    T, rows, D, N = saved.sizes
    given, steps, dtype = saved.operands, saved.steps, saved.dtype
    wide = given.A.dtype
    of_y = read_gradient(owner, "dy", dy, (T, rows, D), "(T, B, D)", dtype)
    of_h = _state(owner, "dh_n", dh_n, (rows, D, N), wide)
    if of_y is None and of_h is None:
        raise no_gradient(owner, "dy", "dh_n")
    du, ddelta = _core.empty((T, rows, D), dtype), _core.empty((T, rows, D), dtype)
    dz = None if given.z is None else _core.empty((T, rows, D), dtype)
    dA, dB, dC = (_core.empty(array.shape, wide) for array in (given.A, given.B, given.C))
    dD, dbias = (_core.empty((D,), dtype) for _ in range(2))
    dh_0 = np.zeros((rows, D, N), wide) if of_h is None else of_h
    if saved.kept is None:
        for array in (dA, dB, dC, dD, dbias):
            array[...] = 0
    else:
        over_time = [steps.in_order(x) for x in (of_y, du, ddelta, dz)]
        of_B, of_C = (x if x.ndim == 2 else steps.in_order(x) for x in (dB, dC))
        _core.selective_scan_backward(saved.kept, *_running(given, steps), *over_time, dA, of_B, of_C, dD, dbias, dh_0)
    parts = [
        (x if kept or x.dtype.kind != "c" else x.real.copy()).reshape(shape)
        for x, kept, shape in zip((dB, dC, dh_0), given.complex, (*given.shapes, dh_0.shape), strict=True)
    ]
    return SelectiveScanGrads(
        du, ddelta, dA, parts[0], parts[1], None if given.D is None else dD, dz,
        None if given.delta_bias is None else dbias, parts[2],
    )  # fmt: skip


def _read(
    owner: str, u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, delta_bias: Any, h_0: Any
) -> tuple[Operands, Array | None, tuple[int, int, int, int], np.dtype[Any]]:
    """All arrays of a call, checked and cast; the initial state is a copy."""
    inputs = read_numbers(owner, "u", u, False)
    if inputs.ndim != 3:
        raise ValueError(f"{owner}: u has shape {inputs.shape}; expected (T, B, D)")
    T, rows, channels = shape = inputs.shape
    sequences = {"u": inputs}
    for name, value in (("delta", delta), ("z", z)):
        if value is not None or name == "delta":
            sequences[name] = read_numbers(owner, name, value, False)
            _validate.exact_shape(owner, name, sequences[name], shape, "(T, B, D)")
    of_A = read_numbers(owner, "A", A, True)
    if of_A.ndim != 2 or of_A.shape[0] != channels or 0 in of_A.shape:
        raise ValueError(f"{owner}: A has shape {of_A.shape}; expected (D, N) with D = {channels}, as of u, and N >= 1")
    N = of_A.shape[1]
    with_complex = of_A.dtype.kind == "c"
    matrices = [_matrix(owner, name, value, shape, N, with_complex) for name, value in (("B", B), ("C", C))]
    groups = {x.shape[2] if x.ndim == 4 else 1 for x in matrices if x.ndim > 2}
    if len(groups) > 1:
        raise ValueError(
            f"{owner}: B and C have shapes {matrices[0].shape} and {matrices[1].shape}; expected as many groups in both"
        )
    values = [(u, inputs), (delta, sequences["delta"]), (A, of_A), (B, matrices[0]), (C, matrices[1])]
    if z is not None:
        values.append((z, sequences["z"]))
    dtype = common_dtype(values, False)
    wide = common_dtype(values, True) if with_complex else dtype
    _validate.room(owner, "y and the states that are kept", (T + -(-T // 32) * N) * rows * channels, wide)
    units = []
    for name, value in (("D", D), ("delta_bias", delta_bias)):
        if value is None:
            units.append(None)
            continue
        array = read_numbers(owner, name, value, False)
        _validate.exact_shape(owner, name, array, (channels,), "(D,)")
        units.append(np.array(array, dtype, order="C"))
    kinds = (matrices[0].dtype.kind == "c", matrices[1].dtype.kind == "c")
    initial = None if h_0 is None else read_numbers(owner, "h_0", h_0, with_complex)
    h = _state(owner, "h_0", initial, (rows, channels, N), wide)
    operands = Operands(
        cast(inputs, dtype), cast(sequences["delta"], dtype), np.array(of_A, wide, order="C"),
        *(_cast_matrix(x, wide) for x in matrices), units[0],
        cast(sequences["z"], dtype) if z is not None else None, units[1],
        (matrices[0].shape, matrices[1].shape), (*kinds, initial is None or initial.dtype.kind == "c"),
    )  # fmt: skip
    return operands, h, (T, rows, channels, N), dtype


def _matrix(owner: str, name: str, value: Any, shape: tuple[int, ...], N: int, with_complex: bool) -> Array:
    """B or C in one of its three forms, in the caller's dtype and shape."""
    array = read_numbers(owner, name, value, True)
    if array.dtype.kind == "c" and not with_complex:
        raise TypeError(f"{owner}: {name} has dtype {array.dtype}; expected a real one, as A is real")
    T, rows, channels = shape
    groups = array.shape[2] if array.ndim == 4 else 1
    lead = (T, rows, groups) if array.ndim == 4 else (T, rows)
    if array.shape != (channels, N) and (array.ndim not in (3, 4) or array.shape != (*lead, N)):
        raise ValueError(
            f"{owner}: {name} has shape {array.shape}; expected (T, B, N) = {(T, rows, N)}, (T, B, G, N), or constant "
            f"(D, N) = {(channels, N)}, with D of u and N of A"
        )
    if groups == 0 or channels % groups != 0:
        raise ValueError(f"{owner}: {name} has {groups} groups; expected a divisor of the {channels} channels of u")
    return array


def _cast_matrix(array: Array, dtype: np.dtype[Any]) -> Array:
    """B or C for the kernels: (T, B, G, N) with contiguous last axes, or a copy of a constant."""
    if array.ndim == 2:
        return np.array(array, dtype, order="C")
    return cast(array if array.ndim == 4 else array[:, :, None], dtype, axes=2)


def _state(owner: str, name: str, value: Any, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Array | None:
    """A state or its gradient, (B, D, N) in C order and copied; or None."""
    if value is None:
        return None
    array = read_numbers(owner, name, value, dtype.kind == "c")
    _validate.exact_shape(owner, name, array, shape, "(B, D, N)")
    return np.array(array, dtype, order="C")


def _running(given: Operands, steps: StepsOfRows) -> tuple[Any, ...]:
    """The operands as the kernels take them: in running order."""
    u, delta, z = (steps.in_order(x) for x in (given.u, given.delta, given.z))
    B, C = (x if x.ndim == 2 else steps.in_order(x) for x in (given.B, given.C))
    return u, delta, z, given.A, B, C, given.D, given.delta_bias


def selective_scan_step(
    h: Array,
    u: ArrayLike,
    delta: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    z: ArrayLike | None = None,
    delta_bias: ArrayLike | None = None,
    *,
    delta_softplus: bool = False,
    discretization: str = "mamba",
) -> Array:
    """One step of `selective_scan_forward`; the state is updated in place.

    Parameters
    ----------
    h : ndarray (B, D, N), C-contiguous and writable
        The state before the step; afterwards, the state after it. Of the dtype of the computation; complex if A is.
    u, delta : array-like (B, D)
    A : array-like (D, N)
    B, C : array-like (B, N), (B, G, N); or constant (D, N), unless that is (B, N), too
    D : array-like (D,), or None
    z : array-like (B, D), or None
    delta_bias : array-like (D,), or None
    delta_softplus, discretization
        As for `selective_scan_forward`.

    Returns
    -------
    y : ndarray (B, D)

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or dtype; the wrong shape or value.

    Notes
    -----
    The bits are those of a sequence. The arguments are those of mamba_ssm's `selective_state_update`, in which h is
    called state, u x, delta dt, delta_bias dt_bias and delta_softplus dt_softplus.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import selective_scan_step
    >>> h, ones = np.ones((1, 2, 1)), np.ones((1, 2))
    >>> y = selective_scan_step(h, ones, ones, np.log([[0.5], [0.25]]), np.ones((1, 1)), np.ones((1, 1)))
    >>> y, h[:, :, 0]
    (array([[1.5 , 1.25]]), array([[1.5 , 1.25]]))
    """
    if discretization == "mamba":
        quick = _core.selective_scan_step(h, u, delta, A, B, C, D, z, delta_bias, delta_softplus)
        if quick is not None:
            return quick
    owner = "selective_scan_step"
    if not isinstance(h, np.ndarray) or not h.flags.writeable:
        raise TypeError(f"{owner}: h is {_validate.kind(h)}; expected a writable ndarray, in which it is updated")
    values = {"u": u, "delta": delta, "z": z, "B": B, "C": C}
    given = {name: None if x is None else _validate.as_array(owner, name, x) for name, x in values.items()}
    one = {name: x if x is None else x[None] for name, x in given.items()}
    if given["u"] is None or given["u"].ndim != 2:
        raise ValueError(f"{owner}: u has shape {np.shape(u)}; expected (B, D)")
    rows, channels = given["u"].shape
    for name in "BC":  # a constant one
        x = given[name]
        if x is not None and x.shape == (channels, np.shape(A)[-1]) and rows != channels:
            one[name] = x
    operands, state, _, dtype = _read(owner, one["u"], one["delta"], A, one["B"], one["C"], D, one["z"], delta_bias, h)
    softplus = _validate.flag(owner, "delta_softplus", delta_softplus)
    rule = DISCRETIZATIONS.index(_validate.choice(owner, "discretization", discretization, DISCRETIZATIONS))
    if h.dtype != operands.A.dtype:
        raise TypeError(f"{owner}: h has dtype {h.dtype}; expected {operands.A.dtype}, as of u, delta, A, B, C and z")
    y = np.zeros((1, rows, channels), dtype)
    if y.size > 0:
        steps = StepsOfRows(False, None)
        _core.selective_scan_forward(*_running(operands, steps), state, y, None, softplus, rule)
        h[...] = state
    return y[0]
