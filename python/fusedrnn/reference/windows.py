"""A causal convolution in front of a layer: each step sees the inputs of the last steps. The twin of
`csrc/core/windows.h`.

    x~_t = [x_{t-window+1}, ..., x_t]           zeros stand for the inputs before the row, or the run after a reset
    a_t = W_ih x~_t + b_ih

J. Bradbury, S. Merity, C. Xiong, R. Socher, Quasi-recurrent neural networks, ICLR 2017, arXiv:1611.01576, section 2.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fusedrnn.grads import SparseGrad
from fusedrnn.reference.cells.cell import Array, Cell
from fusedrnn.reference.checks import check_tokens, valid_and_cut
from fusedrnn.reference.packing import Packing
from fusedrnn.reference.products import as_numbers
from fusedrnn.reference.sequence import SequenceGrads, Tape, backward, forward

__all__ = ["WindowTape", "backward_windows", "forward_windows"]


@dataclass(frozen=True, eq=False, repr=False)
class WindowTape:
    """The tape of the layer behind the convolution, and what the convolution needs for backward.

    Attributes
    ----------
    tape : Tape
    seen : ndarray, shape (T, window, B)
        The steps whose inputs each step sees, the oldest first; -1 for none.
    packing : Packing or None
        Of an input (values, lengths).
    tokens : ndarray, shape (n,), or None
        The distinct tokens of the steps that ran.
    I : int
    """

    tape: Tape
    seen: Array
    packing: Packing | None
    tokens: Array | None
    I: int

    @property
    def cell(self) -> Cell:
        """That of the tape."""
        return self.tape.cell

    @property
    def has_initial(self) -> tuple[bool, ...]:
        """That of the tape."""
        return self.tape.has_initial


def forward_windows(
    cell: Cell, window: int, x: Any, state: tuple[Any, ...], W_ih: ArrayLike, b_ih: ArrayLike | None, **steps: Any
) -> tuple[Array, tuple[Array, ...], WindowTape]:
    """`forward` with W_ih (G*H, window*I)."""
    columns = np.shape(W_ih)[1]
    if window < 1 or columns % window:
        raise ValueError(f"{cell.name}: W_ih has {columns} columns; expected window*I with window = {window}")
    I = columns // window
    lengths, mask, reset = (steps.get(name) for name in ("lengths", "mask", "reset"))
    reverse = steps.get("reverse", False)
    packing = Packing.of(cell.name, x, lengths, mask)
    if packing is not None:
        x, lengths = packing.pad(x[0]), packing.lengths
        reset = None if reset is None else packing.pad(reset)
    x = np.asarray(x)
    if x.shape[2:] not in ((), (I,)):
        raise ValueError(f"{cell.name}: x has shape {x.shape}; expected (T, B, I) with I = {I}")
    T, B = x.shape[:2]
    lengths = np.full(B, T) if lengths is None else np.asarray(lengths)
    valid, cut = valid_and_cut(cell.name, T, lengths, mask, reset, reverse)
    is_tokens = x.ndim == 2
    for t in range(T):
        check_tokens(cell.name, x[t, valid[t]], I, t)
    seen = sources(valid, cut, reverse, window)
    wide = windows(x, seen, I)
    given: Any = wide if packing is None else (packing.pack(wide), packing.lengths)
    y, state_n, tape = forward(cell, given, state, W_ih, None, b_ih, **steps)
    return y, state_n, WindowTape(tape, seen, packing, np.unique(x[valid]) if is_tokens else None, I)


def backward_windows(
    tape: WindowTape, dy: Any, dstate_n: tuple[Any, ...], need_dx: bool = True, sparse: bool = False
) -> SequenceGrads:
    """`backward`."""
    grads = backward(tape.tape, dy, dstate_n, need_dx=need_dx)
    if tape.tokens is not None:
        window = tape.seen.shape[1]
        ids = np.add.outer(np.arange(window) * tape.I, tape.tokens).ravel().astype(np.int64)
        dW = grads.dW_ih
        return grads._replace(dx=None, dW_ih=SparseGrad(ids, dW[:, ids], window * tape.I) if sparse else dW)
    if grads.dx is None:
        return grads
    if tape.packing is None:
        return grads._replace(dx=fold(grads.dx, tape.seen))
    return grads._replace(dx=tape.packing.pack(fold(tape.packing.pad(grads.dx), tape.seen)))


def sources(valid: Array, cut: Array, reverse: bool, window: int) -> Array:
    """The steps that each step sees, (T, window, B), the oldest in running order first; -1 before its run began.

    A run ends at a cut, and skipped steps are not part of it.
    """
    T, B = valid.shape
    seen = np.full((T, window, B), -1)
    last = np.full((window, B), -1)
    for t in reversed(range(T)) if reverse else range(T):
        last[:, cut[t]] = -1
        rows = np.flatnonzero(valid[t])
        last[:, rows] = np.concatenate([last[1:, rows], np.full((1, len(rows)), t)])
        seen[t][:, rows] = last[:, rows]
    return seen


def windows(x: Array, seen: Array, I: int) -> Array:
    """The inputs that each step sees, (T, B, window * I), from x (T, B, I) or tokens (T, B)."""
    T, window, B = seen.shape
    wide = np.zeros((T, B, window, I))
    for t, place, b in np.argwhere(seen >= 0):
        source = x[seen[t, place, b], b]
        wide[t, b, place] = as_numbers(source[None], I)[0]
    return wide.reshape(T, B, window * I)


def fold(dwide: Array, seen: Array) -> Array:
    """The gradient of x from that of `windows`."""
    T, window, B = seen.shape
    parts = dwide.reshape(T, B, window, -1)
    dx = np.zeros((T, B, parts.shape[3]), dwide.dtype)
    for t, place, b in np.argwhere(seen >= 0):
        dx[seen[t, place, b], b] += parts[t, b, place]
    return dx
