"""Paddle -> fusedrnn: ``paddle.nn`` layers and state dicts of Paddle 2 and 3.

===================  =========================================================================================
Paddle               fusedrnn
===================  =========================================================================================
``paddle.nn``        gates and shapes as ours (torch's): LSTM i f g o, GRU r z n with the reset gate after the
                     product and h' = z * h + (1 - z) * n; names ``weight_ih_l0``, and once more ``0.cell.weight_ih``
                     or, for two directions, ``0.cell_fw.weight_ih`` and ``0.cell_bw.weight_ih``
``weight_ho``        (H, P): ``weight_hr`` (P, H), transposed
axes                 (B, T, I) unless ``time_major``: ``batch_first``
===================  =========================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import DTypeLike

from . import _messages
from .conventions import Array, as_weights
from .own_code import refuse_replaced
from .weights_torch import from_state_dict

#: Paddle's name of one layer's parameter -> ours; ``cell_bw`` is the second direction.
KEY = re.compile(
    r"(?P<prefix>(?s:.*?))(?<!\d)(?P<layer>\d+)\.cell(?P<direction>_fw|_bw)?\."
    r"(?P<name>weight_(?:ih|hh|ho)|bias_(?:ih|hh))\Z"
)

#: Another parameter of a cell.
OTHER = re.compile(r"(?s:.*?)(?<!\d)\d+\.cell(?:_fw|_bw)?\.")

#: Paddle's recurrent classes.
CLASSES = ("SimpleRNN", "GRU", "LSTM", "SimpleRNNCell", "GRUCell", "LSTMCell")


def from_paddle(
    source: Any,
    prefix: str | None = None,
    *,
    kind: str | None = None,
    activation: str | None = None,
    time_major: bool | None = None,
    dtype: DTypeLike | None = None,
) -> Any:
    """Convert a ``paddle.nn`` layer to an equivalent layer or cell of fusedrnn.

    Parameters
    ----------
    source : paddle.nn layer, or mapping of str to tensors or arrays
        ``SimpleRNN``, ``GRU``, ``LSTM``, one of their cells, or the state dict of one or of a layer around it.
    prefix : str or None
        Where several recurrent layers are in a state dict: which one.
    kind : "RNN", "GRU", "LSTM" or None
        What it has to be; a check only.
    activation : "tanh", "relu" or None
        Of a SimpleRNN's state dict, which does not tell; None is "tanh".
    time_major : bool or None
        Whether the axes are (T, B, I) instead of (B, T, I), which a state dict does not tell; None is as the layer has
        it, or False.
    dtype : float32, float64 or None
        None is that of the weights.

    Returns
    -------
    RNN, GRU, LSTM, or RNNCell, GRUCell, LSTMCell

    Raises
    ------
    TypeError
        `source` is neither.
    ValueError
        There is no recurrent layer in it, or several, or one with code or parameters of its own; parameters are missing
        or do not fit together.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> weights = {"0.cell.weight_ih": np.zeros((20, 3)), "0.cell.weight_hh": np.zeros((20, 5))}
    >>> fusedrnn.interop.from_paddle(weights)
    LSTM(3, 5, bias=False, batch_first=True, dtype='float64')
    """
    owner = "from_paddle"
    if not isinstance(source, Mapping):
        if not hasattr(source, "state_dict"):
            raise TypeError(_messages.wrong_source(owner, source, "a paddle.nn layer or a state dict"))
        for layer in (source, *getattr(source, "sublayers", list)()):
            refuse_replaced(owner, layer, ("paddle",), CLASSES)
        mode = str(getattr(source, "mode", ""))
        activation = activation or ("relu" if mode == "RNN_RELU" else getattr(source, "activation", None))
        time_major = bool(getattr(source, "time_major", False)) if time_major is None else time_major
        source = source.state_dict()
    params: dict[str, Array] = {}
    for key, value in source.items():
        if not isinstance(key, str):
            raise TypeError(_messages.no_name(owner, key))
        match, name = KEY.match(key), key
        if match is None and OTHER.match(key):
            raise ValueError(_messages.beside(owner, [key]))
        if match:
            name = match["name"].replace("weight_ho", "weight_hr")
            name = f"{match['prefix']}{name}_l{match['layer']}{'_reverse' if match['direction'] == '_bw' else ''}"
        if re.search(r"weight_(ih|hh|ho|hr)|bias_(ih|hh)", name):
            array = as_weights(owner, name, value)
            params[name] = array.T if match and match["name"] == "weight_ho" else array
    if activation is not None and any("weight_hh" in n and w.shape[:1] != w.shape[1:] for n, w in params.items()):
        activation = None  # only a SimpleRNN has one
    return from_state_dict(owner, params, prefix, kind, activation, not time_major, 0.0, dtype)
