"""The LSTM as a NumPy loop."""

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


def lstm_forward(
    x: Array,
    h_0: Array,
    c_0: Array,
    W_ih: Array,
    W_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    lengths: Array | None = None,
    reverse: bool = False,
    keep: bool = True,
) -> tuple[Array, Array, Array, Loop]:
    """LSTM (gates i, f, g, o); -> (y, h_n, c_n, tape)."""
    H = W_hh.shape[1]
    xp, steps, mask = begin(x, W_ih, add_biases(b_ih, b_hh), lengths, reverse)
    y = np.empty((*x.shape[:2], H), x.dtype)
    saved: list[tuple[Array, ...]] = []
    h, c = h_0, c_0
    for t in steps:
        a = xp[t] + h @ W_hh.T
        i, f = sigmoid(a[:, :H]), sigmoid(a[:, H : 2 * H])
        g, o = np.tanh(a[:, 2 * H : 3 * H]), sigmoid(a[:, 3 * H :])
        c_new = f * c + i * g
        tanh_c = np.tanh(c_new)
        if keep:
            saved.append((h, c, i, f, g, o, tanh_c))
        h, c = hold(mask, t, o * tanh_c, h), hold(mask, t, c_new, c)
        put(y, mask, t, h)
    return y, h, c, Loop(x, W_ih, W_hh, steps, mask, saved, {})


def lstm_backward(
    tape: Loop, dy: Array, dh_n: Array | None = None, dc_n: Array | None = None, *, need_dx: bool = True
) -> tuple[Array | None, ...]:
    """-> (dx, dh_0, dc_0, dW_ih, dW_hh, db_ih, db_hh)."""
    T, B, _ = tape.x.shape
    H = tape.W_hh.shape[1]
    da = np.empty((T, B, 4 * H), tape.x.dtype)
    dh = np.zeros((B, H), tape.x.dtype) if dh_n is None else dh_n
    dc = np.zeros((B, H), tape.x.dtype) if dc_n is None else dc_n
    for t, (_, c, i, f, g, o, tanh_c) in zip(reversed(tape.steps), reversed(tape.saved), strict=True):
        dh_t = dh + dy[t]
        dc_t = dc + dh_t * o * (1 - tanh_c * tanh_c)
        da_t = da[t]
        da_t[:, :H] = dc_t * g * i * (1 - i)
        da_t[:, H : 2 * H] = dc_t * c * f * (1 - f)
        da_t[:, 2 * H : 3 * H] = dc_t * i * (1 - g * g)
        da_t[:, 3 * H :] = dh_t * tanh_c * o * (1 - o)
        if tape.mask is not None:
            da_t *= tape.mask[t]
        dh, dc = hold(tape.mask, t, da_t @ tape.W_hh, dh), hold(tape.mask, t, dc_t * f, dc)
    h_prev = by_time(tape, (s[0] for s in tape.saved))
    dx, db = input_gradient(tape, da) if need_dx else None, da.sum((0, 1))
    return dx, dh, dc, weight_gradient(da, tape.x), weight_gradient(da, h_prev), db, db
