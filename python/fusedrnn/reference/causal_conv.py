"""A causal convolution of each channel by itself, forward and back in time.

The twin of `csrc/kernels/convolution.h`. Each row has a window of k inputs, the oldest first: a step shifts the new
input in, and multiplies the window by the weights.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusedrnn.grads import CausalConvGrads
from fusedrnn.reference.activations import sigmoid
from fusedrnn.reference.array_checks import in_order, runs_and_cuts

Array = NDArray[Any]


@dataclass
class CausalConvTape:
    """What `causal_conv_backward` needs."""

    windows: Array  # (T, B, k, D)
    weight: Array  # (D, k)
    p: Array  # (T, B, D): before the activation
    runs: Array  # (T, B)
    cuts: Array  # (T, B)
    reverse: bool
    silu: bool
    bias: bool


def causal_conv_forward(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    state: ArrayLike | None = None,
    *,
    activation: str | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
    dtype: Any = np.float64,
) -> tuple[Array, Array, CausalConvTape]:
    """p_t = bias + sum_j weight_j x_{t-k+1+j}; y_t = p_t, or p_t sigmoid(p_t).

    Parameters
    ----------
    x, weight, bias, state, activation, lengths, mask, reset, reverse
        See `fusedrnn.functional.causal_conv_forward`.
    dtype : dtype
        Of the computation.

    Returns
    -------
    y : ndarray, shape (T, B, D)
    state_n : ndarray, shape (B, k-1, D)
    tape : CausalConvTape

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong dtype, shape or value.

    Examples
    --------
    >>> from fusedrnn.reference import causal_conv_forward
    >>> causal_conv_forward(np.arange(3.0).reshape(3, 1, 1), [[10.0, 1.0]])[0].ravel()
    array([ 0.,  1., 12.])
    """
    owner = "causal_conv_forward"
    if activation not in (None, "silu"):
        raise ValueError(f"{owner}: activation is {activation!r}; expected None or 'silu'")
    x, W = np.asarray(x).astype(dtype), np.asarray(weight).astype(dtype)
    if x.ndim != 3:
        raise ValueError(f"{owner}: x has shape {x.shape}; expected (T, B, D)")
    T, B, D = x.shape
    if W.ndim != 2 or W.shape[0] != D or W.shape[1] < 1:
        raise ValueError(f"{owner}: weight has shape {W.shape}; expected (D, k) = {(D, 'k')}, k at least 1")
    k = W.shape[1]
    b = np.zeros(D, dtype) if bias is None else np.asarray(bias).astype(dtype)
    if b.shape != (D,):
        raise ValueError(f"{owner}: bias has shape {b.shape}; expected (D,) = {(D,)}")
    window = np.zeros((B, k - 1, D), dtype) if state is None else np.asarray(state).astype(dtype)
    if window.shape != (B, k - 1, D):
        raise ValueError(f"{owner}: state has shape {window.shape}; expected (B, k-1, D) = {(B, k - 1, D)}")
    runs, cuts = runs_and_cuts(owner, T, B, lengths, mask, reset, reverse)
    windows, p, y = np.zeros((T, B, k, D), dtype), np.zeros_like(x), np.zeros_like(x)
    for t in in_order(T, reverse):
        now = runs[t, :, None]
        window = np.where(cuts[t, :, None, None], 0, window)
        windows[t] = np.concatenate([window, x[t][:, None]], axis=1)
        window = np.where(now[..., None], windows[t][:, 1:], window)
        with np.errstate(all="ignore"):
            p[t] = b + sum(W[:, j] * windows[t][:, j] for j in range(k))
            y[t] = np.where(now, p[t] * sigmoid(p[t]) if activation else p[t], 0)
    return y, window, CausalConvTape(windows, W, p, runs, cuts, reverse, activation == "silu", bias is not None)


def causal_conv_backward(
    tape: CausalConvTape, dy: ArrayLike | None = None, dstate_n: ArrayLike | None = None
) -> CausalConvGrads:
    """Each input's gradient is the sum over the windows that held it, and over the final state.

    Parameters
    ----------
    tape : CausalConvTape
    dy : array_like, shape (T, B, D), or None for zeros
    dstate_n : array_like, shape (B, k-1, D), or None for zeros

    Returns
    -------
    CausalConvGrads

    Raises
    ------
    ValueError
        There is no gradient at all.

    Examples
    --------
    >>> from fusedrnn.reference import causal_conv_backward, causal_conv_forward
    >>> tape = causal_conv_forward(np.ones((3, 1, 1)), [[10.0, 1.0]])[2]
    >>> causal_conv_backward(tape, np.ones((3, 1, 1))).dx.ravel()
    array([11., 11.,  1.])
    """
    if dy is None and dstate_n is None:
        raise ValueError("causal_conv_backward: dy, dstate_n are both None; expected at least one gradient")
    T, B, k, D = tape.windows.shape
    dtype = tape.windows.dtype
    outputs = np.zeros((T, B, D), dtype) if dy is None else np.asarray(dy).astype(dtype)
    g = np.zeros((B, k - 1, D), dtype) if dstate_n is None else np.array(dstate_n, dtype)
    dx, dW, db = np.zeros((T, B, D), dtype), np.zeros_like(tape.weight), np.zeros(D, dtype)
    for t in in_order(T, not tape.reverse):
        now = tape.runs[t, :, None]
        with np.errstate(all="ignore"):
            p, s = tape.p[t], sigmoid(tape.p[t])
            dp = np.where(now, outputs[t] * (s * (1 + p * (1 - s)) if tape.silu else 1), 0)
            dW += np.where(now[..., None], dp[:, None] * tape.windows[t], 0).sum(0).T
            db += dp.sum(0)
            of_window = dp[:, None] * tape.weight.T
        of_window[:, 1:] += g
        dx[t] = np.where(now, of_window[:, -1], 0)
        g = np.where(now[..., None], of_window[:, :-1], g)
        g = np.where(tape.cuts[t, :, None, None], 0, g)
    return CausalConvGrads(dx, dW, db if tape.bias else None, g)
