"""The values inside a layer: every output, every c, every gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .form import Extent, Plan, to_caller
from .grads import shapes
from .reference.cells import Cell
from .reference.layer_norm import normalise
from .unroll import Record, joined, widened

Array = NDArray[Any]


@dataclass(frozen=True, eq=False, repr=False)
class Inspection:
    """Result of ``layer.inspect``; all arrays are zero at masked steps and at steps past a row's end.

    Attributes
    ----------
    outputs : ndarray, or list of ndarray
        h after each step, of every layer and direction before they are merged: (L*D, T, B, H), with ``batch_first``
        (L*D, B, T, H), unbatched (L*D, T, H), for a list input a list of (L*D, T_i, H) arrays. Ordered by layer, then
        by direction, as in states; aligned with the input, so that the last step of the reverse direction comes first.
        With a projection, h has proj_size units.
    c : ndarray, list of ndarray, or None
        The c of an LSTM after each step, with the same axes.
    gates : dict of str to (ndarray, or list of ndarray)
        "i", "f", "g", "o" of an LSTM (f also where it is 1 - i), "r", "z", "n" of a GRU (no "r" without a reset gate),
        none of an RNN; after their activations, with the same axes.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> fusedrnn.GRU(3, 5).inspect(np.ones((7, 4, 3), np.float32))
    Inspection(outputs=(1, 7, 4, 5), c=None, gates={'r': (1, 7, 4, 5), 'z': (1, 7, 4, 5), 'n': (1, 7, 4, 5)})
    """

    outputs: Any
    c: Any
    gates: dict[str, Any]

    def __repr__(self) -> str:
        gates = {name: shapes(gate) for name, gate in self.gates.items()}
        return f"Inspection(outputs={shapes(self.outputs)}, c={shapes(self.c)}, gates={gates})"


def show_layer(
    plan: Plan, cell: Cell, params: list[Array], records: list[Record], x: Array, extent: Extent
) -> tuple[Inspection, Array]:
    """The `Inspection` of a run of a layer, and its output, (T, B, width).

    `cell` is the reference's cell with the layer's options; `params` are the weights by layer, then by direction.
    """
    kind, D = plan.kind, plan.directions
    if kind.norm_eps is not None:
        cell = cell.normed(kind.norm_eps)
    rows: list[dict[str, Array]] = []
    for k, record in enumerate(records):
        here = []
        for d, (tape, reverse) in enumerate(zip(record.tapes, plan.ways, strict=True)):
            own = kind.named(params, k * D + d)
            inputs = widened(kind, own["W_ih"].shape[1], x, extent, reverse, plan.dtype)
            here.append(_read(cell, own, inputs, tape))
        rows += here
        x = joined(plan.inner_merge, [seen["h"] for seen in here])
    seen = {name: to_caller(plan, extent, np.stack([row[name] for row in rows])) for name in rows[0]}
    return Inspection(seen.pop("h"), seen.pop("c", None), seen), x


def _read(cell: Cell, params: dict[str, Array], x: Array, tape: _core.Tape) -> dict[str, Array]:
    """h, c and the gates of one layer in one direction, (T, B, H) each; all steps at once."""
    before, after, ran = tape.read_states()
    gates = _gates(cell, params, x[ran], tuple(s[ran] for s in before))
    seen = dict(zip(("h", "c"), after, strict=False))
    for name, values in gates.items():
        seen[name] = np.zeros((*ran.shape, values.shape[1]), values.dtype)
        seen[name][ran] = values
    return seen


def _gates(cell: Cell, params: dict[str, Array], x: Array, s: tuple[Array, ...]) -> dict[str, Array]:
    """Gates by name, from inputs (N, I) or tokens (N,) and the states before the step, (N, units) each."""
    W_ih, W_hh, b_ih, b_hh = (params.get(role) for role in ("W_ih", "W_hh", "b_ih", "b_hh"))
    assert W_ih is not None
    gain_ih, gain_hh = params.get("gain_ih"), params.get("gain_hh")
    p = [params[role] for role in ("gain_c", "bias_c") if role in params] or [*params.get("units", ())]
    G, N, H = cell.gates, len(x), len(W_ih) // cell.gates

    def by_gate(product: Array, bias: Array | None, gain: Array | None = None) -> Array:
        """(N, G*H) -> (G, N, H), with gain and bias."""
        a = product.reshape(N, product.shape[1] // H, H).swapaxes(0, 1)
        if gain is not None:
            assert cell.norm_eps is not None
            a = normalise(a, cell.norm_groups, cell.norm_eps)[0] * gain.reshape(-1, 1, H)
        return a if bias is None else a + bias.reshape(-1, 1, H)

    with np.errstate(all="ignore"):  # values that overflow in the kernels may overflow here, too
        a = np.zeros((G + cell.split + cell.skip, N, H), W_ih.dtype)
        a[:G] = by_gate(W_ih.T[x] if x.ndim == 1 else x @ W_ih.T, b_ih, gain_ih)
        if cell.skip:
            a[G] = np.eye(H, dtype=W_ih.dtype)[x] if x.ndim == 1 else x
        if W_hh is None:
            assert cell.phases == 1
            return cell.gate_values(cell.forward(a, s, p)[1])
        first = cell.first
        slots = [*range(first)] if not cell.split else [*range(G - 1), G]
        n = first * H
        a[slots] += by_gate(s[0] @ W_hh[:n].T, None if b_hh is None else b_hh[:n], gain_hh)
        if cell.phases == 1:
            _, save = cell.forward(a, s, p)
        else:
            operand, save = cell.gate(a[:first], s)
            a[first:] += by_gate(operand @ W_hh[n:].T, None if b_hh is None else b_hh[n:])
            save = (*save, *cell.forward(a[first:], s, save)[1])
        return cell.gate_values(save)
