"""The GRU as a NumPy loop, in both forms."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .shared import (
    Loop,
    add_biases,
    begin,
    by_time,
    hold,
    input_gradient,
    put,
    sigmoid,
    weight_gradient,
)

Array = NDArray[Any]


def gru_forward(
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    reset_after: bool = True,
    lengths: Array | None = None,
    reverse: bool = False,
    keep: bool = True,
) -> tuple[Array, Array, Loop]:
    """GRU (gates r, z, n), the reset gate after or before the recurrent product; -> (y, h_n, tape)."""
    H = W_hh.shape[1]
    # Reset before: both biases act alike. Reset after: r scales the recurrent bias of n, so that b_hh stays apart.
    xp, steps, mask = begin(x, W_ih, b_ih if reset_after else add_biases(b_ih, b_hh), lengths, reverse)
    y = np.empty((*x.shape[:2], H), x.dtype)
    saved: list[tuple[Array, ...]] = []
    h = h_0
    for t in steps:
        a = xp[t]
        if reset_after:
            u = h @ W_hh.T
            if b_hh is not None:
                u += b_hh
            r, z = sigmoid(a[:, :H] + u[:, :H]), sigmoid(a[:, H : 2 * H] + u[:, H : 2 * H])
            inner = u[:, 2 * H :]
            n = np.tanh(a[:, 2 * H :] + r * inner)
        else:
            u = h @ W_hh[: 2 * H].T
            r, z = sigmoid(a[:, :H] + u[:, :H]), sigmoid(a[:, H : 2 * H] + u[:, H:])
            inner = r * h
            n = np.tanh(a[:, 2 * H :] + inner @ W_hh[2 * H :].T)
        if keep:
            saved.append((h, r, z, n, inner))
        h = hold(mask, t, n + z * (h - n), h)
        put(y, mask, t, h)
    return y, h, Loop(x, W_ih, W_hh, steps, mask, saved, {"reset_after": reset_after})


def gru_backward(tape: Loop, dy: Array, dh_n: Array | None = None, *, need_dx: bool = True) -> tuple[Array | None, ...]:
    """-> (dx, dh_0, dW_ih, dW_hh, db_ih, db_hh)."""
    T, B, _ = tape.x.shape
    H = tape.W_hh.shape[1]
    after = tape.options["reset_after"]
    da = np.empty((T, B, 3 * H), tape.x.dtype)
    du = np.empty_like(da) if after else da  # gradient of W_hh h + b_hh; they are the same numbers when reset is before
    dh = np.zeros((B, H), tape.x.dtype) if dh_n is None else dh_n
    for t, (h, r, z, n, inner) in zip(reversed(tape.steps), reversed(tape.saved), strict=True):
        dh_t = dh + dy[t]
        da_n = dh_t * (1 - z) * (1 - n * n)
        da_z = dh_t * (h - n) * z * (1 - z)
        if after:
            da_r = da_n * inner * r * (1 - r)
        else:
            d_inner = da_n @ tape.W_hh[2 * H :]
            da_r = d_inner * h * r * (1 - r)
        da[t, :, :H], da[t, :, H : 2 * H], da[t, :, 2 * H :] = da_r, da_z, da_n
        if tape.mask is not None:
            da[t] *= tape.mask[t]
        if after:
            du[t, :, : 2 * H] = da[t, :, : 2 * H]
            du[t, :, 2 * H :] = da[t, :, 2 * H :] * r
            dh_prev = dh_t * z + du[t] @ tape.W_hh
        else:
            dh_prev = dh_t * z + d_inner * r + da[t, :, : 2 * H] @ tape.W_hh[: 2 * H]
        dh = hold(tape.mask, t, dh_prev, dh)
    h_prev = by_time(tape, (s[0] for s in tape.saved))
    dx, dW_ih, db_ih = input_gradient(tape, da) if need_dx else None, weight_gradient(da, tape.x), da.sum((0, 1))
    if after:
        return dx, dh, dW_ih, weight_gradient(du, h_prev), db_ih, du.sum((0, 1))
    dW_rz = weight_gradient(da[:, :, : 2 * H], h_prev)
    dW_n = weight_gradient(da[:, :, 2 * H :], by_time(tape, (s[4] for s in tape.saved)))
    return dx, dh, dW_ih, np.concatenate((dW_rz, dW_n)), db_ih, db_ih
