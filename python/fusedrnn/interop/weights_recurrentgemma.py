"""RecurrentGemma of transformers -> fusedrnn: the RG-LRU of a recurrent block.

=========================  ======================================================================================
``RecurrentGemmaRglru``    fusedrnn
=========================  ======================================================================================
``recurrent_gate_weight``  (heads, W, W), W = H / heads, x from the left: the gate r; ours is (H, H), transposed
``input_gate_weight``      likewise: the gate i
biases                     (heads, W): ours (H,)
``recurrent_param``        (H,): Lambda
blocks                     gates of a head see the inputs of this head alone: our matrix is zero elsewhere
position 0                 starts from h = 0 and writes i * x; ours starts from the given state and writes
                           sqrt(1 - a^2) * i * x, as in the paper
layout                     (B, T, H): ``batch_first=True``
=========================  ======================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from ..parameters import CLASSES
from . import _messages
from .conventions import Array, as_weights, construct, float_dtype

if TYPE_CHECKING:
    import torch

NAMES = (
    *("recurrent_param", "recurrent_gate_weight", "recurrent_gate_bias"),
    *("input_gate_weight", "input_gate_bias"),
)


def from_recurrentgemma(
    source: torch.nn.Module | Mapping[str, Any], prefix: str = "", *, dtype: DTypeLike | None = None
) -> Any:
    """Convert a ``RecurrentGemmaRglru`` of transformers to an equivalent layer of fusedrnn.

    Parameters
    ----------
    source : torch.nn.Module, or mapping of str to tensors or arrays
        The module, such as ``model.model.layers[0].temporal_block.rg_lru``; or a state dict that contains one.
    prefix : str
        For a state dict: what stands before the names, such as ``"model.layers.0.temporal_block.rg_lru."``.
    dtype : float32, float64 or None
        None means that of the weights; float16 and bfloat16 become float32.

    Returns
    -------
    RGLRU
        With ``batch_first=True``. Training also changes the weights between heads, which start at zero.

    Raises
    ------
    TypeError
        `source` is neither, or does not hold real numbers.
    ValueError
        A parameter is missing or has a wrong shape.

    Notes
    -----
    At position 0, transformers writes i * x without the factor sqrt(1 - a^2). To get its values there, start from the
    state (i * x) of the first step and continue with the second.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> gates = {f"{g}_gate_weight": np.zeros((2, 3, 3)) for g in ("input", "recurrent")}
    >>> biases = {f"{g}_gate_bias": np.zeros((2, 3)) for g in ("input", "recurrent")}
    >>> fusedrnn.interop.from_recurrentgemma(gates | biases | {"recurrent_param": np.zeros(6)})
    RGLRU(6, 6, batch_first=True, dtype='float64')
    """
    owner = "from_recurrentgemma"
    if not isinstance(source, Mapping):
        if not hasattr(source, "state_dict"):
            raise TypeError(_messages.wrong_source(owner, source, "a RecurrentGemmaRglru or a state dict"))
        source = source.state_dict()
    missing = [f"{prefix}{name}" for name in NAMES if f"{prefix}{name}" not in source]
    if missing:
        raise ValueError(_messages.none_found(owner, ", ".join(missing), ", ".join(map(str, source))))
    arrays = {name: as_weights(owner, name, source[f"{prefix}{name}"]) for name in NAMES}
    H = arrays["recurrent_param"].size
    for gate in ("recurrent", "input"):
        name = f"{gate}_gate_weight"
        heads = arrays[name].shape[0] if arrays[name].ndim == 3 else 0
        if not heads or arrays[name].shape != (heads, H // heads, H // heads) or H % heads:
            raise ValueError(_messages.shape(owner, name, arrays[name].shape, f"(heads, {H}/heads, {H}/heads)"))
        if arrays[f"{gate}_gate_bias"].size != H:
            raise ValueError(
                _messages.shape(owner, f"{gate}_gate_bias", arrays[f"{gate}_gate_bias"].shape, f"{H} in all")
            )
    gates = [_dense(arrays[f"{gate}_gate_weight"]) for gate in ("recurrent", "input")]
    biases = [arrays[f"{gate}_gate_bias"].reshape(-1) for gate in ("recurrent", "input")]
    params = {
        "weight_ih_l0": np.concatenate(gates),
        "bias_ih_l0": np.concatenate(biases),
        "weight_unit_l0": arrays["recurrent_param"].reshape(1, -1),
    }
    options = {"batch_first": True, "dtype": float_dtype(gates[0]) if dtype is None else dtype}
    return construct(owner, CLASSES["RGLRU"], params, H, H, options)


def _dense(blocks: Array) -> Array:
    """(heads, W, W), x from the left -> (H, H), x from the right, zero outside the blocks."""
    heads, width, _ = blocks.shape
    dense = np.zeros((heads * width, heads * width), blocks.dtype)
    for k, block in enumerate(blocks):
        dense[k * width :, k * width :][:width, :width] = block.T
    return dense
