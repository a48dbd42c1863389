"""Haste -> fusedrnn: ``LSTM`` and ``GRU`` of haste_pytorch, and their state dicts.

====================  =========================================================================================
Haste                 fusedrnn
====================  =========================================================================================
gates                 columns of ``kernel`` (I, G*H) and ``recurrent_kernel`` (H, G*H): LSTM i g f o, GRU z r h; ours
                      are rows, i f g o and r z n
biases                LSTM ``bias``: a single bias; GRU ``bias`` and ``recurrent_bias``, reset after the product
update gate           the same: h' = z * h + (1 - z) * g
``zoneout``           of h alone, in inference as in training: LSTM ``zoneout=(rate, 0)``, GRU ``zoneout=rate``
``dropout``           of the recurrent matrix, in training: ``weight_dropout``
axes                  (T, B, I), or ``batch_first``
====================  =========================================================================================

Source: the loops over NumPy-like tensors in lstm.py and gru.py of Haste 0.5. LayerNormLSTM, LayerNormGRU and IndRNN
have no counterpart here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .._validate import probability
from . import _messages
from .conventions import GATES, Direction, as_weights, build, gates_of, reorder, shaped
from .own_code import replaced

#: Haste's gate orders in our letters (its g is n in a GRU).
HASTE_GATES = {"GRU": "zrn", "LSTM": "igfo"}

#: Parameters of layers that have no counterpart.
OTHERS = {"recurrent_scale": "IndRNN", "gamma": "LayerNormLSTM or LayerNormGRU"}


def from_haste(
    source: Any,
    prefix: str = "",
    *,
    zoneout: float | None = None,
    batch_first: bool | None = None,
    dtype: DTypeLike | None = None,
    force: bool = False,
) -> Any:
    """Convert a layer of haste_pytorch to an equivalent layer of fusedrnn.

    Parameters
    ----------
    source : haste_pytorch.LSTM, haste_pytorch.GRU, or mapping of str to tensors or arrays
        A layer, or its state dict.
    prefix : str
        For a state dict: what comes before the names, such as ``"encoder."``.
    zoneout : float or None
        For a state dict, which does not contain it; None means 0. Inference uses it, too.
    batch_first : bool or None
        None means the layer's own; False for a state dict.
    dtype : float32, float64 or None
        None means that of the weights.
    force : bool
        Whether to read the weights alone, whatever methods a subclass has, and whatever stands beside them.

    Returns
    -------
    GRU or LSTM

    Raises
    ------
    TypeError
        `source` is neither.
    ValueError
        The parameters are not those of such a layer, or do not fit together; the layer has code of its own.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> weights = {"kernel": np.zeros((3, 20)), "recurrent_kernel": np.zeros((5, 20)), "bias": np.zeros(20)}
    >>> fusedrnn.interop.from_haste(weights, zoneout=0.1)
    LSTM(3, 5, bias='single', zoneout=(0.1, 0.0), dtype='float64')
    """
    owner = "from_haste"
    weight_dropout = 0.0
    if not isinstance(source, Mapping):
        classes = [cls for cls in type(source).__mro__ if cls.__module__.split(".")[0] == "haste_pytorch"]
        base = next((cls for cls in classes if cls.__name__ in HASTE_GATES), None)
        if base is None:
            if classes:
                raise ValueError(_messages.no_counterpart(owner, classes[0].__name__))
            raise TypeError(_messages.wrong_source(owner, source, "haste_pytorch.LSTM or GRU, or a state dict"))
        if not force:
            found = type(source).__qualname__
            changed = replaced(source, base)
            if changed:
                raise ValueError(_messages.replaced_code(owner, found, base.__name__, changed))
            hooks = [hook for n in ("_forward_pre_hooks", "_forward_hooks") for hook in getattr(source, n, {}).values()]
            if hooks:
                raise ValueError(_messages.hooked(owner, found, [type(hook).__qualname__ for hook in hooks]))
        if zoneout is not None and zoneout != source.zoneout:
            raise ValueError(_messages.contradiction(owner, "zoneout", zoneout, f"the layer has {source.zoneout}"))
        zoneout, weight_dropout = float(source.zoneout), float(source.dropout)
        batch_first = bool(source.batch_first) if batch_first is None else batch_first
        source, prefix = source.state_dict(), ""
    held: dict[str, Any] = {}
    for key, value in source.items():
        if not isinstance(key, str):
            raise TypeError(_messages.no_name(owner, key))
        if key.startswith(prefix):
            held[key[len(prefix) :]] = value
    for name, other in OTHERS.items():
        if name in held:
            raise ValueError(_messages.no_counterpart(owner, other))
    names = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")
    missing = [name for name in names[:3] if name not in held]
    if missing:
        looked = f"the state dict under prefix {prefix!r}, of {len(source)} names"
        raise ValueError(_messages.none_found(owner, missing[0], looked))
    others = [name for name in held if name not in names and "." not in name]
    if others and not force:
        raise ValueError(_messages.beside(owner, others))
    kernel, recurrent, *biases = (as_weights(owner, name, held[name]) for name in names if name in held)
    shaped(owner, "kernel", kernel, "input_size", "columns of all gates")
    shaped(owner, "recurrent_kernel", recurrent, "hidden_size", "columns of all gates")
    H, columns = recurrent.shape
    kind = gates_of(owner, columns, H)
    if kind not in HASTE_GATES or len(biases) != (2 if kind == "GRU" else 1):
        expected = "1 for four gates (LSTM), 2 for three (GRU)"
        raise ValueError(_messages.attribute(owner, "the number of biases", len(biases), expected))
    shaped(owner, "kernel", kernel, "input_size", columns)
    for name, bias in zip(names[2:], biases, strict=False):
        shaped(owner, name, bias, columns)
    theirs, ours = HASTE_GATES[kind], GATES[kind]
    rows = [reorder(np.ascontiguousarray(array.T), theirs, ours) for array in (kernel, recurrent, *biases)]
    rate = 0.0 if zoneout is None else probability(owner, "zoneout", zoneout)
    options: dict[str, Any] = {"batch_first": bool(batch_first), "weight_dropout": weight_dropout}
    options["zoneout"] = (rate, 0.0) if kind == "LSTM" and rate else rate
    return build(owner, kind, [[Direction(*rows)]], **options, **({} if dtype is None else {"dtype": dtype}))
