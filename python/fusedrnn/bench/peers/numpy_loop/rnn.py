"""The plain recurrent network (Elman) as a NumPy loop."""

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
    weight_gradient,
)

Array = NDArray[Any]


def rnn_forward(
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    nonlinearity: str = "tanh",
    lengths: Array | None = None,
    reverse: bool = False,
    keep: bool = True,
) -> tuple[Array, Array, Loop]:
    """Elman network; -> (y, h_n, tape)."""
    xp, steps, mask = begin(x, W_ih, add_biases(b_ih, b_hh), lengths, reverse)
    y = np.empty((*x.shape[:2], W_hh.shape[1]), x.dtype)
    saved: list[tuple[Array, ...]] = []
    h = h_0
    for t in steps:
        a = xp[t] + h @ W_hh.T
        h_new = np.tanh(a) if nonlinearity == "tanh" else np.maximum(a, 0)
        if keep:
            saved.append((h, h_new))
        h = hold(mask, t, h_new, h)
        put(y, mask, t, h)
    return y, h, Loop(x, W_ih, W_hh, steps, mask, saved, {"nonlinearity": nonlinearity})


def rnn_backward(tape: Loop, dy: Array, dh_n: Array | None = None, *, need_dx: bool = True) -> tuple[Array | None, ...]:
    """-> (dx, dh_0, dW_ih, dW_hh, db_ih, db_hh)."""
    T, B, _ = tape.x.shape
    H = tape.W_hh.shape[1]
    da = np.empty((T, B, H), tape.x.dtype)
    dh = np.zeros((B, H), tape.x.dtype) if dh_n is None else dh_n
    for t, (_, h_new) in zip(reversed(tape.steps), reversed(tape.saved), strict=True):
        dh_t = dh + dy[t]
        da_t = dh_t * (1 - h_new * h_new) if tape.options["nonlinearity"] == "tanh" else dh_t * (h_new > 0)
        da[t] = hold(tape.mask, t, da_t, np.zeros_like(da_t))
        dh = hold(tape.mask, t, da[t] @ tape.W_hh, dh)
    h_prev = by_time(tape, (s[0] for s in tape.saved))
    dx, db = input_gradient(tape, da) if need_dx else None, da.sum((0, 1))
    return dx, dh, weight_gradient(da, tape.x), weight_gradient(da, h_prev), db, db
