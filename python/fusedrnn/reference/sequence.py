"""One layer in one direction over whole sequences, forward and back in time.

The twin of `csrc/kernels/forward.h` and `csrc/kernels/backward.h`.

`forward` and `backward` do not depend on gates: they compute the matrix products, call a cell for the rest, and read
its traits. `checks.py` checks the arguments; `functions.py` adds functions with the names and arguments of
`fusedrnn.functional`.

Time: `states[t]` is the state at the boundary between the steps t-1 and t. A forward layer goes from states[0] to
states[T], a reverse layer from states[T] to states[0]. Step t runs only in rows for which it is valid: not past the
row's length, and not masked. The state of other rows passes through. Therefore a reverse layer starts each row at its
last valid step, and padding is never read. A reset at t cuts a row at the boundary between t-1 and t, in both
directions: the step after the boundary, in running order, starts from the layer's own initial state, whatever state was
given. A forward layer crosses the boundary before its step t, also for t = 0; a reverse layer crosses it before its
step t-1, so that a reset at 0 does nothing there.

Backpropagation through time: P. J. Werbos, Backpropagation through time: what it does and how to do it, Proceedings of
the IEEE 78 (1990).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fusedrnn.grads import SparseGrad
from fusedrnn.reference.cells.cell import Array, Cell
from fusedrnn.reference.checks import cell_of, check_tokens, checked, copy_of, valid_and_cut
from fusedrnn.reference.layer_norm import LayerNorm, normalise, normalise_back
from fusedrnn.reference.packing import Packing
from fusedrnn.reference.products import (
    add_input_outer,
    as_numbers,
    input_product,
    outer,
    product,
    product_back,
    recurrent_slots,
)

__all__ = ["SequenceGrads", "Tape", "backward", "forward"]


@dataclass(frozen=True, eq=False, repr=False)
class Tape:
    """The data that `forward` saves for `backward`; owns copies of all of it and may be used any number of times.

    Attributes
    ----------
    cell : Cell
    reverse : bool
        Whether time runs backwards.
    valid, cut : ndarray of bool, shape (T, B)
        Which steps ran, and which start (in running order) from the own initial state.
    given, has_initial : tuple of bool
        For each state whether one was given, without which rows begin in the own initial state; whether that was given.
    past_end : str
    x : ndarray, shape (T, B, I), or int (T, B) for tokens
        The input, zero in the padded part.
    W_ih, W_hh : ndarray, shapes (G, H, I), (G, H, H)
    W_peephole : ndarray, shape (U, H)
        U is the cell's number of unit parameters.
    has_b_ih, has_b_hh : bool
    states : ndarray, shape (T+1, states, B, H)
        The states at the boundaries of the steps: the state before step t is states[t], or states[t+1] if `reverse`. A
        projected h uses only the first R places.
    starts : ndarray, shape (T, states, B, H)
        The state from which step t starts: the previous state, or the own initial state after a reset.
    saved : ndarray, shape (T, saved, B, H)
        The data that the cell saved.
    operands : ndarray, shape (T, B, H)
        The operand of the last gate's recurrent product, in a cell of two phases.
    W_hr : ndarray, shape (R, H), or None
        The projection of h.
    recurrent_mask : ndarray, shape (B, R)
        Factors of h in the recurrent product.
    shares : ndarray, shape (T, states, B, H)
        The share of the old value that each unit keeps.
    candidates : ndarray, shape (T, states, B, H)
        The states that the cell computed, before projection and zoneout.
    gains : ndarray, shape (2, G, 1, H)
        With layer normalisation, the gains of the two products.
    normed : ndarray, shape (T, 2, 2, G, B, H)
        With layer normalisation, the normalised values of the two products, and their rates.
    packing : Packing or None
        Of an input (values, lengths).
    """

    cell: Cell
    reverse: bool
    valid: Array
    cut: Array
    given: tuple[bool, ...]
    has_initial: tuple[bool, ...]
    past_end: str
    x: Array
    W_ih: Array
    W_hh: Array
    W_peephole: Array
    has_b_ih: bool
    has_b_hh: bool
    states: Array
    starts: Array
    saved: Array
    operands: Array
    W_hr: Array | None
    recurrent_mask: Array
    shares: Array
    candidates: Array
    gains: Array
    normed: Array
    packing: Packing | None

    def __repr__(self) -> str:
        """Name and sizes."""
        T, B, H = len(self.saved), self.states.shape[2], self.states.shape[3]
        return f"Tape({self.cell.name}, T={T}, B={B}, H={H}, dtype={self.states.dtype}, reverse={self.reverse})"


class SequenceGrads(NamedTuple):
    """Gradients for any cell: `dstate` and `dinitial` have one array per state, the rest is as in `LSTMGrads`."""

    dx: Array | None
    dstate: tuple[Array, ...]
    dW_ih: Any
    dW_hh: Any  # None for a cell without a recurrent matrix
    db_ih: Array | None
    db_hh: Array | None
    dW_peephole: Array | None = None
    dW_hr: Array | None = None
    dlayer_norm: LayerNorm | None = None
    dinitial: tuple[Array, ...] = ()


def forward(
    cell: str | Cell,
    x: ArrayLike | tuple[ArrayLike, ArrayLike],
    state: tuple[ArrayLike | None, ...],
    W_ih: ArrayLike,
    W_hh: ArrayLike | None,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    *,
    W_peephole: ArrayLike | None = None,
    W_hr: ArrayLike | None = None,
    recurrent_mask: ArrayLike | None = None,
    zoneout: tuple[ArrayLike, ...] | None = None,
    layer_norm: LayerNorm | None = None,
    initial: tuple[ArrayLike | None, ...] = (None, None),
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    past_end: str = "zero",
    reverse: bool = False,
    dtype: DTypeLike = np.float64,
) -> tuple[Array, tuple[Array, ...], Tape]:
    """Run any cell over whole sequences.

    One step, where s~ is the state that the cell computes from the input part and the recurrent part below:

        recurrent part = W_hh (recurrent_mask * h) + b_hh     (reset before: of r * recurrent_mask * h)
        h~ = W_hr h~                                          with a projection
        s' = share * s + (1 - share) * s~                     zoneout, for each state

    Layer normalisation acts on the products before their biases are added, and on the c of an LSTM before it enters h.

    Parameters
    ----------
    cell : str or Cell
        A key of `CELLS`, or a cell with any options. G below is its number of gates, U its number of unit parameters.
    x : array_like of float, shape (T, B, I), or of int, shape (T, B)
        The input. Integers are tokens: x[t, b] = k means row k of the I x I identity matrix. Values past a row's length
        are not read. Or a tuple (values, lengths): values (N, I), or tokens (N,), hold the steps of row 0, then those
        of row 1, and so on, and lengths (B,) sum to N. Then every array that is (T, B, ...) here and in `backward` is
        (N, ...), and `lengths` and `mask` are None.
    state : tuple of (array_like, shape (B, H), or None)
        The state before the first step, (h,) or (h, c); None means the own initial state.
    W_ih, W_hh : array_like, shapes (G*H, I) and (G*H, H)
        W_hh is None if the cell has no recurrent matrix, and then so is b_hh.
    b_ih, b_hh : array_like, shape (G*H,), or None
    W_peephole : array_like, shape (U, H), or None
        Parameters per unit, if the cell has any (peepholes); None means zeros.
    W_hr : array_like, shape (R, H), or None
        Projection of the h of an LSTM, R <= H; W_hh is then (G*H, R), and y, h and their gradients have R units.
    recurrent_mask : array_like, shape (B, R), or None
        Factors of h in the recurrent product (dropout: 0 or 1 / (1 - p)), the same at all steps; None means ones.
    zoneout : tuple of array_like, or None
        For each state the share of the old value that a unit keeps: a number, or (T, B, units), usually of 0 or 1.
    layer_norm : LayerNorm or None
        Gains of the two products, gain and bias of the c of an LSTM; only for "gru_after" and "lstm".
    lengths : array_like of int, shape (B,), optional
        Number of valid steps of each row, 0 to T, in any order. None means T for all rows.
    initial : tuple of (array_like, shape (H,), or None)
        The layer's own initial state, (h,) or (h, c), the same for all rows; None means zeros.
    mask : array_like of bool, shape (T, B), optional
        False skips a step, in addition to those past the length: nothing is read, and the state passes through.
    reset : array_like of bool, shape (T, B), optional
        True cuts the row before this step: the steps after the cut (in reverse: before it) start from the own initial
        state, whatever came in, even if this step itself is skipped. In reverse reset[0] has no effect.
    past_end : str
        y at skipped steps: "zero", or "hold", the previous output in running order (zero before the first).
    reverse : bool
        Run each row from its last valid step to its first. y keeps x's time axis.
    dtype : dtype
        The floating type of all operations.

    Returns
    -------
    y : ndarray, shape (T, B, H)
        h after each step; see `past_end` for skipped steps.
    state_n : tuple of ndarray, shape (B, H)
        The state after each row's last step (in running order).
    tape : Tape
        For `backward`.

    Raises
    ------
    ValueError
        The cell's name, a shape, a length or `past_end` is wrong.
    TypeError
        x has neither floats nor integers, `lengths` has no integers, a flag is not a bool, or `dtype` is not a floating
        type.
    IndexError
        A token is outside [0, I).

    Notes
    -----
    Projection: H. Sak, A. Senior, F. Beaufays, arXiv:1402.1128 (2014). Recurrent mask: Y. Gal, Z. Ghahramani,
    arXiv:1512.05287 (2015). Zoneout: D. Krueger et al., arXiv:1606.01305 (2016); as there, h~ = o * tanh(c~) is
    computed from the new c before zoneout.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn import reference
    >>> y, (h_n,), tape = reference.forward("rnn_relu", np.ones((2, 1, 1)), (None,), [[1.0]], [[2.0]])
    >>> y.ravel().tolist()
    [1.0, 3.0]
    """
    cell = cell_of(cell) if isinstance(cell, str) else cell
    cell_name = cell.name
    if layer_norm is not None:
        if not cell.norm_groups or W_hr is not None:
            raise ValueError(f"{cell_name}: layer_norm is available for gru_after and lstm, without other options")
        cell = cell.normed(layer_norm.eps)
    given: Any = x
    packing = Packing.of(cell_name, given, lengths, mask)
    if packing is not None:
        given, lengths = packing.pad(given[0]), packing.lengths
        reset = None if reset is None else packing.pad(reset)
        zoneout = zoneout and tuple(packing.pad(share) if np.ndim(share) > 1 else share for share in zoneout)
    has_b_ih, has_b_hh = b_ih is not None, b_hh is not None
    W_hr = None if W_hr is None else np.array(W_hr, dtype)
    x, W_ih, W_hh, b_ih, b_hh, lengths = checked(cell, given, W_ih, W_hh, b_ih, b_hh, lengths, np.dtype(dtype), W_hr)
    T, B = x.shape[:2]
    valid, cut = valid_and_cut(cell_name, T, lengths, mask, reset, reverse)
    if past_end not in ("zero", "hold"):
        raise ValueError(f"{cell_name}: past_end is {past_end!r}; expected 'zero' or 'hold'")
    G, H, I = W_ih.shape
    if H % cell.sharing:
        raise ValueError(f"{cell_name}: W_ih has {G * H} rows; expected an even number, real and imaginary parts")
    shape = (cell.unit_parameters, H // cell.sharing)
    if cell.skip and I != H:
        raise ValueError(f"{cell_name}: W_ih has shape {(G * H, I)}; x itself is an operand, which needs I = H")
    p = copy_of(cell_name, "W_peephole", W_peephole, f"({cell.unit_parameters}, {shape[1]})", shape, dtype)
    gains = np.ones((2, G, 1, H), dtype)
    if layer_norm is not None:
        for k, gain in enumerate(layer_norm[:2]):
            gains[k] = copy_of(cell_name, "layer_norm", gain, f"({G}*H,)", (G * H,), dtype).reshape(G, 1, H)
        for k, row in enumerate(layer_norm[2:4][: len(p)]):
            p[k] = copy_of(cell_name, "layer_norm", row, "(H,)", (H,), dtype)
    R = W_hh.shape[2]
    first, slot = cell.first, recurrent_slots(cell)

    states = np.zeros((T + 1, cell.states, B, H), dtype)
    shares = np.zeros((T, cell.states, B, H), dtype)
    own = np.zeros((cell.states, 1, H), dtype)
    for k, name in zip(range(cell.states), "hc", strict=False):
        units, first_state = (R, H)[k], states[T if reverse else 0, k]
        own[k, 0, :units] = copy_of(cell_name, f"{name}_initial", initial[k], "(H,)", (units,), dtype)
        first_state[:] = own[k]
        if state[k] is not None:
            first_state[:, :units] = copy_of(cell_name, f"{name}_0", state[k], "(B, H)", (B, units), dtype)
        if zoneout is not None:
            shares[:, k, :, :units] = zoneout[k]
    starts = np.zeros((T, cell.states, B, H), dtype)
    held = np.zeros((B, R), dtype)
    recurrent_mask = np.ones((B, R), dtype) if recurrent_mask is None else np.array(recurrent_mask, dtype)
    y = np.zeros((T, B, R), dtype)
    candidates = np.zeros((T, cell.states, B, H), dtype)
    saved = np.zeros((T, cell.saved, B, H), dtype)
    operands = np.zeros((T, B, H), dtype)
    inputs = np.zeros_like(x, dtype=x.dtype if x.ndim == 2 else dtype)
    normed = np.zeros((T if layer_norm else 0, 2, 2, G, B, H), dtype)

    for t in reversed(range(T)) if reverse else range(T):
        rows = np.flatnonzero(valid[t])
        before, after = (t + 1, t) if reverse else (t, t + 1)
        starts[t] = np.where(cut[t][:, None], own, states[before])
        states[after] = starts[t]
        s = starts[t][:, rows]
        h = recurrent_mask[rows] * s[0, :, :R]
        inputs[t, rows] = x[t, rows]
        check_tokens(cell_name, inputs[t], I, t)

        a = np.zeros((G + cell.split + cell.skip, len(rows), H), dtype)
        product_x, product_h = input_product(inputs[t, rows], W_ih), product(h, W_hh[:first])
        if cell.norm_eps is not None:
            normed[t, 0][:, :, rows] = normalise(product_x, cell.norm_groups, cell.norm_eps)
            normed[t, 1][:, :, rows] = normalise(product_h, cell.norm_groups, cell.norm_eps)
            product_x, product_h = (gains[k] * normed[t, k, 0][:, rows] for k in (0, 1))
        a[:G] = product_x + b_ih
        a[slot[:first]] += product_h + b_hh[:first]
        if cell.skip:
            a[G] = as_numbers(inputs[t, rows], H)
        share = shares[t][:, rows]
        if cell.phases == 1:
            step: Any = cell.forward  # a cell that zones a gate out takes the share
            s_new, save = step(a, s, p, share[1]) if cell.zones_gate else step(a, s, p)
        else:
            operand, save = cell.gate(a[:first], h[None])
            a[first:] += product(operand, W_hh[first:]) + b_hh[first:]
            s_new, save_last = cell.forward(a[first:], s, save)
            save = (*save, *save_last)
            operands[t, rows] = operand

        candidates[t][:, rows] = s_new
        new = np.zeros_like(s)
        new[:] = s_new
        if W_hr is not None:
            new[0] = 0
            new[0, :, :R] = s_new[0] @ W_hr.T
        share = np.zeros_like(share) if cell.zones_gate else share
        states[after][:, rows] = np.where(share == 0, new, share * s + (1 - share) * new)
        held[rows] = states[after, 0][rows, :R]
        y[t] = held if past_end == "hold" else np.where(valid[t][:, None], held, 0)
        for k in range(cell.saved):
            saved[t, k, rows] = save[k]

    state_n = tuple(s[:, :units].copy() for s, units in zip(states[0 if reverse else T], (R, H), strict=False))
    tape = Tape(
        *(cell, reverse, valid, cut, _were_given(state), _were_given(initial), past_end, inputs, W_ih, W_hh, p),
        *(has_b_ih, has_b_hh, states, starts, saved, operands, W_hr, recurrent_mask, shares),
        *(candidates, gains, normed, packing),
    )
    return y if packing is None else packing.pack(y), state_n, tape


def backward(
    tape: Tape,
    dy: ArrayLike | None,
    dstate_n: tuple[ArrayLike | None, ...],
    *,
    need_dx: bool = True,
    sparse: bool = False,
) -> SequenceGrads:
    """Compute the gradients of `forward`'s arguments from those of its results.

    Parameters
    ----------
    tape : Tape
        From `forward`.
    dy : array_like, shape (T, B, H), or None
        Gradient of y; None means zeros. At skipped steps the gradient is not read; if outputs were held there, it is
        added to that of the step whose output was held.
    dstate_n : tuple of (array_like, shape (B, H), or None)
        Gradient of state_n; None means zeros.
    need_dx : bool
        Whether to compute dx. Otherwise, and for tokens, dx is None.
    sparse : bool
        Whether dW_ih of tokens is a `fusedrnn.SparseGrad`: the columns of the tokens at steps that ran.

    Returns
    -------
    SequenceGrads
        dx is zero at skipped steps. dstate is the gradient of the state before the first step, which ends at a row's
        first cut; dinitial that of the own initial state, the sum over all cuts, and over all rows that began in it.

    Raises
    ------
    ValueError
        A shape is wrong, or every gradient is None.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn import reference
    >>> y, (h_n,), tape = reference.forward("rnn_relu", np.ones((2, 1, 1)), (None,), [[1.0]], [[2.0]])
    >>> reference.backward(tape, np.ones((2, 1, 1)), (None,)).dx.ravel().tolist()
    [3.0, 1.0]
    """
    cell, W_ih, W_hh, W_hr, p, x = tape.cell, tape.W_ih, tape.W_hh, tape.W_hr, tape.W_peephole, tape.x
    T, B = x.shape[:2]
    G, H, I = W_ih.shape
    R = W_hh.shape[2]
    dtype = W_ih.dtype
    first, slot = cell.first, recurrent_slots(cell)

    if dy is None and all(ds is None for ds in dstate_n):
        raise ValueError(f"{cell.name}: every gradient of the results is None; give dy or a gradient of a state")
    dy = None if dy is None else np.asarray(dy)
    if dy is not None and tape.packing is not None:
        dy = tape.packing.pad(dy)
    if dy is not None and dy.shape != (T, B, R):
        raise ValueError(f"{cell.name}: dy has shape {dy.shape}; expected (T, B, H) = {(T, B, R)}")
    ds = np.zeros((cell.states, B, H), dtype)
    for k, name in zip(range(cell.states), ("dh_n", "dc_n"), strict=False):
        units = (R, H)[k]
        ds[k, :, :units] = copy_of(cell.name, name, dstate_n[k], "(B, H)", (B, units), dtype)
    dW_hr = None if W_hr is None else np.zeros_like(W_hr)
    dx = np.zeros((T, B, I), dtype) if need_dx and x.ndim == 3 else None
    dW_ih, db_ih = np.zeros_like(W_ih), np.zeros((G, H), dtype)
    dW_hh, db_hh = np.zeros_like(W_hh), np.zeros((G, H), dtype)
    dinitial = np.zeros((cell.states, H), dtype)
    dheld = np.zeros((B, R), dtype)
    dp = np.zeros_like(p)
    dgains = np.zeros_like(tape.gains)

    for t in range(T) if tape.reverse else reversed(range(T)):
        rows = np.flatnonzero(tape.valid[t])
        s, s_new = tape.starts[t][:, rows], tape.candidates[t][:, rows]
        save, share, mask = tape.saved[t][:, rows], tape.shares[t][:, rows], tape.recurrent_mask[rows]
        ds_new = ds[:, rows]
        if dy is not None:
            ds_new[0, :, :R] += dy[t, rows] + dheld[rows]
            dheld[rows] = 0
            if tape.past_end == "hold":
                dheld[~tape.valid[t]] += dy[t, ~tape.valid[t]]
        outside = np.zeros_like(share) if cell.zones_gate else share
        ds_stays, ds_new = outside * ds_new, (1 - outside) * ds_new
        if W_hr is not None:
            dW_hr += ds_new[0, :, :R].T @ s_new[0]
            ds_new[0] = ds_new[0, :, :R] @ W_hr

        da = np.zeros((G + cell.split + cell.skip, len(rows), H), dtype)
        if cell.phases == 1:
            zoned = (share[1],) if cell.zones_gate else ()
            da[:], ds_old = cell.backward(save, s, s_new, p, ds_new, *zoned)
            for k, d in enumerate(cell.unit_gradients(save, s, s_new, p, ds_new, da)):
                dp[k] += d.sum(axis=0)
        else:
            da[first:], ds_old = cell.backward(save, s, ds_new)
            doperand = mask * product_back(da[first:], W_hh[first:])
            da[:first], ds_old = cell.backward_gate(save, s, ds_new, doperand, ds_old)
        da_x, da_h = da[:G], da[slot]
        db_ih += da_x.sum(axis=1)
        db_hh += da_h.sum(axis=1)
        if cell.norm_eps is not None:  # from here on, da_x and da_h are gradients of the products
            (normed_x, rate_x), (normed_h, rate_h) = tape.normed[t][:, :, :, rows]
            dgains += np.stack([da_x * normed_x, da_h * normed_h]).sum(axis=2, keepdims=True)
            da_x = normalise_back(tape.gains[0] * da_x, normed_x, rate_x, cell.norm_groups)
            da_h = normalise_back(tape.gains[1] * da_h, normed_h, rate_h, cell.norm_groups)
        for k in range(cell.states):
            ds[k, rows] = ds_old[k] + ds_stays[k]
        ds[0, rows, :R] += mask * product_back(da_h[:first], W_hh[:first])
        if dx is not None:
            dx[t, rows] = product_back(da_x, W_ih) + (da[G] if cell.skip else 0)

        add_input_outer(dW_ih, da_x, x[t, rows])
        dW_hh[:first] += outer(da_h[:first], mask * s[0, :, :R])
        if cell.phases == 2:
            dW_hh[first:] += outer(da_h[first:], tape.operands[t, rows])

        dinitial += ds[:, tape.cut[t]].sum(axis=1)
        ds[:, tape.cut[t]] = 0

    for k, given in zip(range(cell.states), tape.given, strict=False):
        if not given:
            dinitial[k] += ds[k].sum(axis=0)
    dW: Any = dW_ih.reshape(G * H, I)
    if sparse and x.ndim == 2:
        ids = np.unique(x[tape.valid]).astype(np.int64)
        dW = SparseGrad(ids, dW[:, ids], I)
    normalised = cell.norm_eps is not None
    dx = dx if dx is None or tape.packing is None else tape.packing.pack(dx)
    dlayer_norm = LayerNorm(*dgains.reshape(2, -1), *dp) if normalised else None
    return SequenceGrads(
        dx,
        tuple(d[:, :units] for d, units in zip(ds, (R, H), strict=False)),
        dW,
        dW_hh.reshape(G * H, R) if cell.recurrent else None,
        db_ih.reshape(G * H) if tape.has_b_ih else None,
        db_hh.reshape(G * H) if tape.has_b_hh else None,
        dp if len(dp) and not normalised else None,
        dW_hr,
        dlayer_norm,
        tuple(d[:units] for d, units in zip(dinitial, (R, H), strict=False)),
    )


def _were_given(state: tuple[ArrayLike | None, ...]) -> tuple[bool, ...]:
    return tuple(part is not None for part in state)
