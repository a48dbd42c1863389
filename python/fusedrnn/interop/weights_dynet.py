"""DyNet -> fusedrnn: ``VanillaLSTMBuilder``, ``CompactVanillaLSTMBuilder``, ``GRUBuilder``, ``SimpleRNNBuilder``.

=====================  =======================================================================================
DyNet                  fusedrnn
=====================  =======================================================================================
LSTM                   for each layer W_x (4*H, I), W_h (4*H, H), b (4*H,): rows i f o g; to the forget gate DyNet
                       adds ``forget_bias`` (1) when it runs: here it goes into ``bias_ih``
GRU                    for each layer W_x, W_h, b of z, r and h, apart; reset gate before the product; the update gate
                       stands the other way round, h' = (1 - z) * h + z * n: weights and bias of z are negated
SimpleRNN              for each layer W_x, W_h, b; tanh
biases                 one: ``bias="single"``
=====================  =======================================================================================

Source: lstm.cc, gru.cc and rnn.cc of DyNet 2.1. The builder ``CoupledLSTMBuilder`` (in C++ ``LSTMBuilder``: coupled
gates, peepholes that are full matrices) has no counterpart here; in Python ``LSTMBuilder`` is the vanilla one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .._validate import finite
from . import _messages
from .conventions import GATES, Array, Direction, as_weights, build, check_kind, negate, reorder, shaped
from .own_code import refuse_replaced

#: DyNet's gate orders in our letters.
DYNET_GATES = {"RNN": "h", "GRU": "zrn", "LSTM": "ifog"}


def from_dynet(
    source: Any, kind: str | None = None, *, forget_bias: float = 1.0, dtype: DTypeLike | None = None
) -> Any:
    """Convert a DyNet builder to an equivalent layer of fusedrnn.

    Parameters
    ----------
    source : builder, or list of lists of arrays
        A builder (its ``get_parameters()`` is read), or what that gives as arrays: for each layer W_x, W_h, b; of a GRU
        these three of z, r and h, nine in all.
    kind : "RNN", "GRU", "LSTM" or None
        What it has to be; the shapes tell.
    forget_bias : float
        What the LSTM's builder adds for the forget gate; 1 unless it was made otherwise.
    dtype : float32, float64 or None
        None is that of the weights.

    Returns
    -------
    RNN, GRU or LSTM

    Raises
    ------
    TypeError
        `source` is neither.
    ValueError
        The arrays are not those of such a builder.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> W_x, W_h, b = np.zeros((20, 3), "f"), np.zeros((20, 5), "f"), np.zeros(20, "f")
    >>> layer = fusedrnn.interop.from_dynet([[W_x, W_h, b]])
    >>> layer.bias_ih_l0[5:10].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    owner = "from_dynet"
    if hasattr(source, "get_parameters"):
        refuse_replaced(owner, source, ("_dynet", "dynet"))
        source = source.get_parameters()
    forget_bias = finite(owner, "forget_bias", forget_bias)
    if not isinstance(source, (list, tuple)) or not source:
        raise TypeError(_messages.wrong_source(owner, source, "a builder, or for each layer a list of arrays"))
    parts = []
    for k, group in enumerate(source):
        if not isinstance(group, Iterable) or getattr(group, "ndim", 1) == 0:
            raise TypeError(_messages.wrong_source(owner, group, f"a list of the arrays of layer {k}"))
        arrays = [getattr(p, "as_array", lambda p=p: p)() for p in group]
        arrays = [as_weights(owner, f"array {j} of layer {k}", array) for j, array in enumerate(arrays)]
        parts.append(of_layer(owner, k, arrays, forget_bias))
    found = parts[0][0]
    check_kind(owner, kind)
    if kind not in (None, found):
        raise ValueError(
            _messages.kinds_differ(owner, str(kind), found, f"layer 0 has {3 if found != 'GRU' else 9} arrays")
        )
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    if found == "GRU":
        options["reset_after"] = False
    return build(owner, found, [[direction] for _, direction in parts], **options)


def of_layer(owner: str, k: int, arrays: Sequence[Array], forget_bias: float) -> tuple[str, Direction]:
    """One layer's arrays."""
    gates: tuple[str, ...]
    if len(arrays) == 9:  # W_x, W_h, b of z, of r, of h
        kind, gates = "GRU", ("of z ", "of r ", "of h ")
    elif len(arrays) == 3:
        W_h = arrays[1]
        kind, gates = ("LSTM" if W_h.ndim == 2 and len(W_h) == 4 * W_h.shape[1] else "RNN"), ("",)
    else:
        expected = "3 (LSTM, SimpleRNN) or 9 (GRU)"
        raise ValueError(_messages.attribute(owner, f"the number of arrays of layer {k}", len(arrays), expected))
    theirs, ours = DYNET_GATES[kind], GATES[kind]
    for g, gate in enumerate(gates):
        W_x, W_h, b = arrays[3 * g :][:3]
        blocks = len(theirs) // len(gates)
        if W_h.ndim != 2 or len(W_h) != blocks * W_h.shape[1] or W_h.shape != arrays[1].shape:
            expected = f"({blocks}*hidden_size, hidden_size)"
            raise ValueError(_messages.shape(owner, f"W_h {gate}of layer {k}", W_h.shape, expected))
        inputs = arrays[0].shape[1] if g else "input_size"
        shaped(owner, f"W_x {gate}of layer {k}", W_x, len(W_h), inputs)
        shaped(owner, f"b {gate}of layer {k}", b, len(W_h))
    W_x, W_h, b = (np.concatenate(arrays[part::3]) for part in range(3))
    W_ih, W_hh, b_ih = (reorder(rows, theirs, ours) for rows in (W_x, W_h, b))
    if kind == "LSTM":
        H = W_h.shape[1]
        b_ih[ours.index("f") * H :][:H] += forget_bias
    if kind == "GRU":
        W_ih, W_hh, b_ih = (negate(rows, "z", ours) for rows in (W_ih, W_hh, b_ih))
    return kind, Direction(W_ih, W_hh, b_ih)
