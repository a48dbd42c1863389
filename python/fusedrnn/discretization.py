"""From continuous systems x' = A x + B u to steps x_{t+1} = A_d x_t + B_d u_t, with gradients; NumPy alone.

`fusedrnn.functional` has these functions; `fusedrnn.reference` has twins that compute the same in another way. A step
size for each step, dt (T,), makes irregular samples: the results then have a first axis of length T.

All methods are functions of one matrix M, which is A and B (and for "foh" an identity) times dt. Their gradients follow
from two facts: the adjoint of the derivative of exp at M is the derivative at the transposed matrix, which is a block
of exp of a matrix of twice the size (C. Van Loan, Computing integrals involving the matrix exponential, 1978; N. J.
Higham, Functions of Matrices, 2008, section 3.2), and that of a solution S = P^-1 R is dR = P^-H dS, dP = -dR S^H.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _validate
from .grads import DiscretizeGrads
from .plain_arrays import ArrayTape, common_dtype, no_gradient, read_numbers

__all__ = ["DiscretizeGrads", "discretize", "discretize_backward", "discretize_forward"]

Array = NDArray[Any]

METHODS = ("zoh", "foh", "bilinear", "euler")

#: Coefficients of the numerator of the Padé approximant of exp of degree 13, from the lowest; signs alternate in the
#: denominator. Its backward error is below the rounding of float64 for norms up to PADE_NORM: N. J. Higham, The scaling
#: and squaring method for the matrix exponential revisited, SIAM J. Matrix Anal. Appl. 26 (2005).
PADE = (
    64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0, 129060195264000.0,
    10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0, 40840800.0, 960960.0, 16380.0, 182.0, 1.0,
)  # fmt: skip
PADE_NORM = 5.371920351148152


def matrix_exp(M: Array) -> Array:
    """exp of square matrices (..., k, k): Padé approximant of degree 13 of M / 2^s, squared s times."""
    norm = np.abs(M).sum(-2).max(-1, initial=0.0)
    if not np.isfinite(norm).all():
        finite = np.isfinite(norm)
        result = np.full_like(M, np.nan)
        if finite.any():
            result[finite] = matrix_exp(M[finite])
        return result
    squarings = np.maximum(0, np.ceil(np.log2(np.maximum(norm, 1e-300) / PADE_NORM))).astype(int)
    A = M / np.exp2(squarings)[..., None, None]
    eye = np.eye(M.shape[-1], dtype=M.dtype)
    A2 = A @ A
    A4 = A2 @ A2
    A6 = A2 @ A4
    c = PADE
    odd = A @ (A6 @ (c[13] * A6 + c[11] * A4 + c[9] * A2) + c[7] * A6 + c[5] * A4 + c[3] * A2 + c[1] * eye)
    even = A6 @ (c[12] * A6 + c[10] * A4 + c[8] * A2) + c[6] * A6 + c[4] * A4 + c[2] * A2 + c[0] * eye
    result = np.linalg.solve(even - odd, even + odd)
    for k in range(int(squarings.max(initial=0))):
        result = np.where((k < squarings)[..., None, None], result @ result, result)
    return result


def matrix_exp_adjoint(M: Array, G: Array) -> Array:
    """The gradient with respect to M of a scalar whose gradient with respect to exp(M) is G."""
    k = M.shape[-1]
    block = np.zeros((*M.shape[:-2], 2 * k, 2 * k), np.result_type(M, G))
    block[..., :k, :k] = block[..., k:, k:] = np.swapaxes(M, -1, -2).conj()
    block[..., :k, k:] = G
    return matrix_exp(block)[..., :k, k:]


class Saved(NamedTuple):
    """The contents of a tape: copies of the arguments, in the dtype of the computation."""

    A: Array
    B: Array
    dt: Array
    C: Array | None
    D: Array | None
    method: str
    diagonal: bool
    dtypes: tuple[np.dtype[Any] | None, ...]  # of the gradients

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(x.nbytes for x in (self.A, self.B, self.dt, self.C, self.D) if x is not None)


def discretize(
    A: ArrayLike,
    B: ArrayLike,
    dt: ArrayLike,
    method: str = "zoh",
    *,
    C: ArrayLike | None = None,
    D: ArrayLike | None = None,
) -> tuple[Array, ...]:
    """Discretize x' = A x + B u (and y = C x + D u): x_{t+1} = A_d x_t + B_d u_t (and y_t = C_d x_t + D_d u_t).

    Parameters
    ----------
    A : array-like (n, n), or (n,) for a diagonal matrix
    B : array-like (n, m); with a diagonal A also (n,)
    dt : float or array-like (T,)
        The step size, or one for each step: irregular samples.
    method : "zoh", "foh", "bilinear" or "euler"
        "zoh": u is constant during a step; "foh": u is linear between samples; "bilinear": Tustin's method, the
        trapezoidal rule; "euler": x' is constant during a step.
    C, D : array-like (p, n) and (p, m), or None
        With C, the output equation is converted, too, and returned: "foh" and "bilinear" change it, because their x_t
        is not the state of the continuous system. D needs C; None is zeros.

    Returns
    -------
    A_d : ndarray (n, n), for a diagonal A (n,); after (T,) if dt has one
    B_d : ndarray, the shape of B; after (T,) if dt has one
    C_d, D_d : ndarray (p, n) and (p, m), after (T,) if dt has one; only with C

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or dtype; the wrong shape or value; "bilinear" has no result for this dt.

    Notes
    -----
    With E = exp(A dt), G the integral of exp(A s) over [0, dt], and F (1/dt) times that of (dt - s) exp(A s):

    ======== =================== ===================== ========== ===================
    method   A_d                 B_d                   C_d        D_d
    ======== =================== ===================== ========== ===================
    zoh      E                   G B                   C          D
    foh      E                   (G - F + E F) B       C          D + C F B
    bilinear P^-1 (I + A dt/2)   P^-1 B dt             C P^-1     D + C B_d / 2
    euler    I + A dt            B dt                  C          D
    ======== =================== ===================== ========== ===================

    with P = I - A dt/2. These are the results of `scipy.signal.cont2discrete`; the state equation is that of
    ``state_space_forward(..., read="before")``. Computed in double precision. G. F. Franklin, J. D. Powell and M.
    Workman, Digital Control of Dynamic Systems, 1997.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import discretize
    >>> A_d, B_d = discretize([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]], dt=0.5)
    >>> A_d, B_d.ravel()
    (array([[1. , 0.5],
           [0. , 1. ]]), array([0.125, 0.5  ]))
    >>> discretize([-1.0, -2.0], [1.0, 1.0], dt=[0.1, 0.3])[0].shape
    (2, 2)
    """
    return _results(_read("discretize", A, B, dt, method, C, D))


def discretize_forward(
    A: ArrayLike,
    B: ArrayLike,
    dt: ArrayLike,
    method: str = "zoh",
    *,
    C: ArrayLike | None = None,
    D: ArrayLike | None = None,
) -> tuple[Any, ...]:
    """The same as `discretize`, and a tape for `discretize_backward`.

    Parameters
    ----------
    A, B, dt, method, C, D
        As for `discretize`.

    Returns
    -------
    A_d, B_d, and with C also C_d, D_d
        As for `discretize`.
    tape : ArrayTape
        For `discretize_backward`; owns copies of all arguments.

    Raises
    ------
    TypeError, ValueError
        As for `discretize`.
    """
    saved = _read("discretize_forward", A, B, dt, method, C, D)
    return (*_results(saved), ArrayTape("discretize_forward", saved))


def discretize_backward(
    tape: ArrayTape,
    dA_d: ArrayLike | None = None,
    dB_d: ArrayLike | None = None,
    dC_d: ArrayLike | None = None,
    dD_d: ArrayLike | None = None,
) -> DiscretizeGrads:
    """Gradients of a scalar with respect to everything that went into `discretize_forward`.

    Parameters
    ----------
    tape : ArrayTape
        From `discretize_forward`; may be used again.
    dA_d, dB_d, dC_d, dD_d : array-like of the shape of the result, or None for zeros

    Returns
    -------
    DiscretizeGrads
        dA, dB, ddt, dC, dD, each of the shape of its argument; dC and dD are None if C was not given. Of complex
        numbers dL/d(re) + i dL/d(im), as for `scan_backward`.

    Raises
    ------
    TypeError
        The tape is from another function, or a gradient is not an array of numbers.
    ValueError
        The tape was released, a shape is wrong, or there is no gradient at all.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import discretize_backward, discretize_forward
    >>> A_d, B_d, tape = discretize_forward([[-1.0]], [[1.0]], 0.5, "euler")
    >>> grads = discretize_backward(tape, dA_d=[[1.0]])
    >>> grads.dA, grads.ddt
    (array([[0.5]]), array(-1.))
    """
    owner = "discretize_backward"
    _validate.functional_tape(owner, tape, "discretize_forward")
    saved: Saved = tape._unreleased()
    lead, n = saved.dt.shape, saved.A.shape[0]
    matrix = (n,) if saved.diagonal else (n, n)
    shapes = {"dA_d": (*lead, *matrix), "dB_d": (*lead, *saved.B.shape)}
    given = {"dA_d": dA_d, "dB_d": dB_d, "dC_d": dC_d, "dD_d": dD_d}
    if saved.C is not None:
        p, m = saved.C.shape[0], saved.B.shape[1]
        shapes |= {"dC_d": (*lead, p, n), "dD_d": (*lead, p, m)}
    if all(value is None for value in given.values()):
        raise no_gradient(owner, *given)
    grads = []
    for name, value in given.items():
        if value is None:
            grads.append(None if name not in shapes else np.zeros(shapes[name], saved.A.dtype))
            continue
        if name not in shapes:
            raise ValueError(f"{owner}: {name} is given, but C was not given to discretize_forward; expected None")
        array = read_numbers(owner, name, value, True)
        _validate.exact_shape(owner, name, array, shapes[name], "the shape of the result")
        grads.append(array.astype(np.result_type(saved.A.dtype, array.dtype)))
    with np.errstate(all="ignore"):
        results = _diagonal_backward(saved, *grads) if saved.diagonal else _dense_backward(saved, *grads)
    gradients: list[Any] = [_as_given(d, dtype) for d, dtype in zip(results, saved.dtypes, strict=True)]
    return DiscretizeGrads(*gradients)


def _read(owner: str, A: Any, B: Any, dt: Any, method: Any, C: Any, D: Any) -> Saved:
    method = _validate.choice(owner, "method", method, METHODS)
    of_A, of_B = read_numbers(owner, "A", A, True), read_numbers(owner, "B", B, True)
    of_dt = read_numbers(owner, "dt", dt, False)
    of_C = None if C is None else read_numbers(owner, "C", C, True)
    of_D = None if D is None else read_numbers(owner, "D", D, True)
    if of_A.ndim not in (1, 2) or of_A.size == 0 or (of_A.ndim == 2 and of_A.shape[0] != of_A.shape[1]):
        raise ValueError(f"{owner}: A has shape {of_A.shape}; expected (n, n), or (n,) for a diagonal matrix, n >= 1")
    n, diagonal = of_A.shape[0], of_A.ndim == 1
    if of_B.shape[:1] != (n,) or of_B.ndim not in ((1, 2) if diagonal else (2,)):
        formula = "(n, m) or (n,)" if diagonal else "(n, m)"
        raise ValueError(f"{owner}: B has shape {of_B.shape}; expected {formula} with n = {n}, as of A")
    if of_dt.ndim > 1:
        raise ValueError(f"{owner}: dt has shape {of_dt.shape}; expected a number or (T,)")
    if D is not None and of_C is None:
        raise ValueError(f"{owner}: D is given without C; expected both, or neither")
    if of_C is not None:
        if of_B.ndim == 1:
            raise ValueError(f"{owner}: C is given with B of shape {of_B.shape}; expected B of shape (n, m)")
        if of_C.ndim != 2 or of_C.shape[1] != n:
            raise ValueError(f"{owner}: C has shape {of_C.shape}; expected (p, n) with n = {n}")
        if of_D is not None:
            shape = (of_C.shape[0], of_B.shape[1])
            _validate.exact_shape(owner, "D", of_D, shape, "(p, m)")
    arrays = (of_A, of_B, of_dt, of_C, of_D)
    single = common_dtype([(v, a) for v, a in zip((A, B, dt, C, D), arrays, strict=True) if a is not None], False)
    some_complex = any(a is not None and a.dtype.kind == "c" for a in arrays)
    wide = np.dtype(np.complex128 if some_complex else np.float64)
    dtypes = tuple(
        None if a is None else np.result_type(single, np.complex64) if a.dtype.kind == "c" else single for a in arrays
    )
    copies: list[Any] = [None if a is None else np.array(a, wide if a is not of_dt else np.float64) for a in arrays]
    if of_C is not None and of_D is None:
        copies[4] = np.zeros((of_C.shape[0], of_B.shape[1]), wide)
    A_copy, B_copy, dt_copy, C_copy, D_copy = copies
    return Saved(A_copy, B_copy, dt_copy, C_copy, D_copy, method, diagonal, dtypes)


def _results(saved: Saved) -> tuple[Array, ...]:
    """Computed in double precision, rounded to that of the arguments."""
    with np.errstate(all="ignore"):  # NaN and infinities are results
        results = _diagonal(saved) if saved.diagonal else _dense(saved)
    single = all(dtype is None or dtype.itemsize == (8 if dtype.kind == "c" else 4) for dtype in saved.dtypes)
    real, full = (np.float32, np.complex64) if single else (np.float64, np.complex128)
    return tuple(r.astype(full if r.dtype.kind == "c" else real) for r in results[: 2 if saved.C is None else 4])


def _as_given(gradient: Array | None, dtype: np.dtype[Any] | None) -> Array | None:
    if gradient is None or dtype is None:
        return None
    return np.asarray(gradient if dtype.kind == "c" else gradient.real, dtype)


# ---- dense A


def _transposed(M: Array) -> Array:
    return np.swapaxes(M, -1, -2).conj()


def _generator(s: Saved) -> Array:
    """The matrix whose exp holds the results of zoh and foh: [A B; 0 0] dt, for foh [A dt, B dt, 0; 0 0 I; 0 0 0]."""
    n, m = s.B.shape
    k = n + m if s.method == "zoh" else n + 2 * m
    M = np.zeros((*s.dt.shape, k, k), s.A.dtype)
    M[..., :n, :n] = s.A * s.dt[..., None, None]
    M[..., :n, n : n + m] = s.B * s.dt[..., None, None]
    if s.method == "foh":
        M[..., n : n + m, n + m :] = np.eye(m)
    return M


def _dense(s: Saved) -> tuple[Array, ...]:
    n, m = s.B.shape
    dt = s.dt[..., None, None]
    eye = np.eye(n, dtype=s.A.dtype)
    C = np.zeros((0, n), s.A.dtype) if s.C is None else s.C
    D = np.zeros((0, m), s.A.dtype) if s.D is None else s.D
    C_d, D_d = (np.broadcast_to(M, (*s.dt.shape, *M.shape)) for M in (C, D))
    if s.method == "euler":
        A_d, B_d = eye + s.A * dt, s.B * dt
    elif s.method == "bilinear":
        P = eye - s.A * (dt / 2)
        try:
            A_d, B_d = np.linalg.solve(P, eye + s.A * (dt / 2)), np.linalg.solve(P, s.B * dt)
        except np.linalg.LinAlgError:
            message = (
                "discretize: I - A dt/2 is singular; expected a dt for which it is not (2/dt is no eigenvalue of A)"
            )
            raise ValueError(message) from None
        C_d = _transposed(np.linalg.solve(_transposed(P), _transposed(C_d)))
        D_d = D + C @ B_d / 2
    else:
        E = matrix_exp(_generator(s))
        A_d, B_d = E[..., :n, :n], E[..., :n, n : n + m]
        if s.method == "foh":
            F = E[..., :n, n + m :]
            B_d = B_d - F + A_d @ F
            D_d = D + C @ F
    return tuple(np.array(result) for result in (A_d, B_d, C_d, D_d))


def _total(M: Array, s: Saved) -> Array:
    """The sum over all steps."""
    return M if s.dt.ndim == 0 else M.sum(0)


def _dense_backward(s: Saved, dA_d: Any, dB_d: Any, dC_d: Any, dD_d: Any) -> tuple[Array | None, ...]:
    n, m = s.B.shape
    dt = s.dt[..., None, None]
    dC, dD = dC_d, dD_d
    C = s.C
    if s.method == "euler":
        of_A, of_B = dA_d, dB_d  # with respect to A dt and B dt
    elif s.method == "bilinear":
        eye = np.eye(n, dtype=s.A.dtype)
        P = eye - s.A * (dt / 2)
        PH = _transposed(P)
        A_d, B_d = np.linalg.solve(P, eye + s.A * (dt / 2)), np.linalg.solve(P, s.B * dt)
        if C is not None:
            dB_d = dB_d + _transposed(C) @ dD_d / 2
            C_d = C @ np.linalg.inv(P)
            dC = dD_d @ _transposed(B_d) / 2 + np.swapaxes(np.linalg.solve(P.conj(), np.swapaxes(dC_d, -1, -2)), -1, -2)
        dR, of_B = np.linalg.solve(PH, dA_d), np.linalg.solve(PH, dB_d)
        dP = -dR @ _transposed(A_d) - of_B @ _transposed(B_d)
        if C is not None:
            dP = dP - _transposed(C_d) @ (dC_d @ _transposed(np.linalg.inv(P)))
        of_A = (dR - dP) / 2
    else:
        M = _generator(s)
        G = np.zeros_like(M, np.result_type(M, dA_d, dB_d))
        if s.method == "foh":
            E = matrix_exp(M)
            A_d, F = E[..., :n, :n], E[..., :n, n + m :]
            dF = _transposed(A_d) @ dB_d - dB_d
            dA_d = dA_d + dB_d @ _transposed(F)
            if C is not None:
                dF = dF + _transposed(C) @ dD_d
                dC = dC_d + dD_d @ _transposed(F)
            G[..., :n, n + m :] = dF
        G[..., :n, :n], G[..., :n, n : n + m] = dA_d, dB_d
        dM = matrix_exp_adjoint(M, G)
        of_A, of_B = dM[..., :n, :n], dM[..., :n, n : n + m]
    ddt = (of_A * s.A.conj()).sum((-2, -1)).real + (of_B * s.B.conj()).sum((-2, -1)).real
    dA, dB = _total(of_A * dt, s), _total(of_B * dt, s)
    return dA, dB, ddt, None if C is None else _total(dC, s), None if s.D is None else _total(dD, s)


# ---- diagonal A


def phi(z: Array) -> tuple[Array, ...]:
    """exp(z), phi_1(z) = (exp(z) - 1) / z, phi_2(z) = (phi_1(z) - 1) / z and phi_3(z) = (phi_2(z) - 1/2) / z.

    Near zero by their series, phi_k(z) = sum over j of z^j / (j + k)!: the differences lose digits there.
    """
    z = np.asarray(z)
    near = np.abs(z) < 1.0
    safe = np.where(near, 1.0, z)
    exp = np.exp(z)
    far = [exp]
    factorial = 1.0
    for k in (1, 2, 3):
        far.append((far[-1] - 1 / factorial) / safe)
        factorial *= k
    small = np.where(near, z, 0.0)
    results = [exp]
    factorial = 1.0
    for k in (1, 2, 3):
        factorial *= k
        term = np.full_like(small, 1 / factorial)
        total = term.copy()
        for j in range(1, 20):
            term = term * small / (j + k)
            total = total + term
        results.append(np.where(near, total, far[k]))
    return tuple(results)


class Factors(NamedTuple):
    """With a diagonal A, z = A dt and all (T, n): A_d, and B_d = dt f B, C_d = C c, D_d = D + C (dt q B)."""

    A_d: Array
    f: Array
    c: Array
    q: Array


def _factors(s: Saved) -> tuple[Factors, Factors]:
    """The factors, and their derivatives with respect to z; phi_k' = phi_k - k phi_{k+1}."""
    z = s.A * s.dt[..., None]
    one, zero = np.ones_like(z), np.zeros_like(z)
    if s.method == "euler":
        return Factors(1 + z, one, one, zero), Factors(one, zero, zero, zero)
    if s.method == "bilinear":
        r = 1 / (1 - z / 2)
        return Factors((1 + z / 2) * r, r, r, r / 2), Factors(r * r, r * r / 2, r * r / 2, r * r / 4)
    e, phi_1, phi_2, phi_3 = phi(z)
    d_1, d_2 = phi_1 - phi_2, phi_2 - 2 * phi_3
    if s.method == "zoh":
        return Factors(e, phi_1, one, zero), Factors(e, d_1, zero, zero)
    return Factors(e, phi_1 + (e - 1) * phi_2, one, phi_2), Factors(e, d_1 + e * phi_2 + (e - 1) * d_2, zero, d_2)


def _column_B(s: Saved) -> Array:
    """B as (n, m)."""
    return s.B[:, None] if s.B.ndim == 1 else s.B


def _diagonal(s: Saved) -> tuple[Array, ...]:
    factors, _ = _factors(s)
    dt, B = s.dt[..., None, None], _column_B(s)
    B_d = dt * factors.f[..., None] * B
    results = [factors.A_d, B_d[..., 0] if s.B.ndim == 1 else B_d]
    if s.C is not None:
        results += [s.C * factors.c[..., None, :], s.D + s.C @ (dt * factors.q[..., None] * B)]
    return tuple(results)


def _diagonal_backward(s: Saved, dA_d: Any, dB_d: Any, dC_d: Any, dD_d: Any) -> tuple[Array | None, ...]:
    factors, slopes = (Factors(*(x.conj() for x in of)) for of in _factors(s))
    dt, B = s.dt[..., None], _column_B(s)
    of_B = dB_d[..., None] if s.B.ndim == 1 else dB_d
    along = (of_B * B.conj()).sum(-1)
    dz = slopes.A_d * dA_d + slopes.f * dt * along
    ddt = factors.f * along
    dB = (factors.f * dt)[..., None] * of_B
    dC = dD = None
    if s.C is not None:
        of_D = _transposed(s.C) @ dD_d  # (T, n, m)
        through = (of_D * B.conj()).sum(-1)
        dz = dz + slopes.c * (dC_d * s.C.conj()).sum(-2) + slopes.q * dt * through
        ddt = ddt + factors.q * through
        dB = dB + (factors.q * dt)[..., None] * of_D
        dC = _total(
            dC_d * factors.c[..., None, :] + dD_d @ np.swapaxes((factors.q * dt)[..., None] * B.conj(), -1, -2), s
        )
        dD = _total(dD_d, s)
    ddt = (ddt + dz * s.A.conj()).sum(-1).real
    dB = _total(dB, s)
    return _total(dz * dt, s), dB[..., 0] if s.B.ndim == 1 else dB, ddt, dC, dD
