"""Discretization of x' = A x + B u, y = C x + D u from the definitions: integrals of exp(A s) by its Taylor series.

`fusedrnn.functional` computes the same with Padé approximants, and has the gradients.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def integrals(A: Array, dt: float) -> tuple[Array, Array, Array]:
    """exp(A dt), the integral G of exp(A s) over [0, dt], and F = (1/dt) times the integral of (dt - s) exp(A s).

    The series converge fast over a step h = dt / 2^k; a step is doubled by exp(2M) = exp(M)^2 and by dividing each
    integral at h.
    """
    k = max(0, int(np.ceil(np.log2(max(np.abs(A * dt).sum(0).max(initial=0.0), 1e-30)))) + 2)
    h, eye = dt / 2**k, np.eye(len(A), dtype=A.dtype)
    E, G, H = eye.copy(), eye * h, eye * (h * h / 2)  # H is the integral of (h - s) exp(A s)
    term = eye
    for j in range(1, 25):
        term = term @ A * (h / j)
        E, G, H = E + term, G + term * (h / (j + 1)), H + term * (h * h / ((j + 1) * (j + 2)))
    for _ in range(k):
        H = H + h * G + E @ H
        G = G + E @ G
        E = E @ E
        h *= 2
    return E, G, H / dt if dt else H


def discretize(
    A: ArrayLike,
    B: ArrayLike,
    dt: ArrayLike,
    method: str = "zoh",
    *,
    C: ArrayLike | None = None,
    D: ArrayLike | None = None,
) -> tuple[Array, ...]:
    """x_{t+1} = A_d x_t + B_d u_t, and with C also y_t = C_d x_t + D_d u_t.

    Parameters
    ----------
    A, B, dt, method, C, D
        See `fusedrnn.functional.discretize`.

    Returns
    -------
    A_d, B_d, and with C also C_d, D_d : ndarray

    Raises
    ------
    ValueError
        The method is unknown.

    Examples
    --------
    >>> from fusedrnn.reference import discretize
    >>> discretize([[0.0]], [[1.0]], 0.5)
    (array([[1.]]), array([[0.5]]))
    """
    A, B, dt = np.asarray(A), np.asarray(B), np.asarray(dt, np.float64)
    if method not in ("zoh", "foh", "bilinear", "euler"):
        raise ValueError(f"discretize: method is {method!r}; expected 'zoh', 'foh', 'bilinear' or 'euler'")
    if dt.ndim:
        steps = [discretize(A, B, h, method, C=C, D=D) for h in dt]
        return tuple(np.stack(results) for results in zip(*steps, strict=True))
    wide = np.result_type(A, B, np.float64) if C is None else np.result_type(A, B, C, np.float64)
    matrix = (np.diag(A) if A.ndim == 1 else A).astype(wide)
    columns = (B[:, None] if B.ndim == 1 else B).astype(wide)
    h = float(dt)
    eye = np.eye(len(matrix))
    if method == "euler":
        A_d, B_d, P, F = eye + matrix * h, columns * h, eye, 0 * eye
    elif method == "bilinear":
        P = eye - matrix * h / 2
        A_d, B_d = np.linalg.inv(P) @ (eye + matrix * h / 2), np.linalg.inv(P) @ columns * h
        F = np.linalg.inv(P) * h / 2
    else:
        A_d, G, F = integrals(matrix, h)
        P = eye
        if method == "zoh":
            B_d, F = G @ columns, 0 * eye
        else:
            B_d = (G - F + A_d @ F) @ columns
    of_state = (np.diag(A_d).copy() if A.ndim == 1 else A_d, B_d[:, 0] if B.ndim == 1 else B_d)
    if C is None:
        return of_state
    C = np.asarray(C)
    offset = 0 if D is None else np.asarray(D)
    return (*of_state, C @ np.linalg.inv(P), offset + C @ F @ columns)
