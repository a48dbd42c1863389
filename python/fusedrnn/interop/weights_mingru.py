"""minGRU-pytorch -> fusedrnn.

==========================  ===================================================================================
minGRU-pytorch              fusedrnn
==========================  ===================================================================================
``to_hidden_and_gate``      (2*H, I), no bias: rows h z; ours are z h
``to_hidden_and_f_i_gate``  (3*H, I), no bias: rows h f i; ours are f i h
``to_out``                  a linear layer behind the cell: not part of it, so it is refused
candidate                   ``activation="g"``
layout                      (B, T, I): ``batch_first=True``
==========================  ===================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import DTypeLike

from ..parameters import CLASSES
from . import _messages
from .conventions import as_weights, construct, float_dtype, reorder

if TYPE_CHECKING:
    import torch

#: Name of the weight -> our class, their gates, our gates.
WEIGHTS = {
    "to_hidden_and_gate.weight": ("MinGRU", "hz", "zh"),
    "to_hidden_and_f_i_gate.weight": ("MinLSTM", "hfi", "fih"),
}


def from_mingru(
    source: torch.nn.Module | Mapping[str, Any], prefix: str = "", *, dtype: DTypeLike | None = None
) -> Any:
    """Convert a minGRU or minLSTM of minGRU-pytorch to an equivalent layer of fusedrnn.

    Parameters
    ----------
    source : torch.nn.Module, or mapping of str to tensors or arrays
        A ``minGRU`` or ``minLSTM`` without ``to_out``; or a state dict that contains one.
    prefix : str
        For a state dict: what stands before the names, such as ``"layers.0.mixer."``.
    dtype : float32, float64 or None
        None means that of the weights; float16 and bfloat16 become float32.

    Returns
    -------
    MinGRU or MinLSTM
        With ``bias=False``, ``batch_first=True`` and ``activation="g"``.

    Raises
    ------
    TypeError
        `source` is neither, or does not hold real numbers.
    ValueError
        There is no such weight, or there is a ``to_out``, or a shape is wrong.

    Notes
    -----
    The package's ``forward`` takes the previous h, of one step; ours takes and returns the same state for any number of
    steps.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> fusedrnn.interop.from_mingru({"to_hidden_and_gate.weight": np.zeros((10, 5))})
    MinGRU(5, 5, bias=False, batch_first=True, dtype='float64')
    """
    owner = "from_mingru"
    if not isinstance(source, Mapping):
        if not hasattr(source, "state_dict"):
            raise TypeError(_messages.wrong_source(owner, source, "a minGRU, a minLSTM or a state dict"))
        source = source.state_dict()
    found = [name for name in WEIGHTS if f"{prefix}{name}" in source]
    if len(found) != 1:
        raise ValueError(
            _messages.none_found(owner, " or ".join(f"{prefix}{name}" for name in WEIGHTS), ", ".join(map(str, source)))
        )
    if f"{prefix}to_out.weight" in source:
        raise ValueError(_messages.linear_behind(owner, f"{prefix}to_out.weight"))
    kind, theirs, ours = WEIGHTS[found[0]]
    weight = as_weights(owner, found[0], source[f"{prefix}{found[0]}"])
    if weight.ndim != 2 or len(weight) % len(theirs) or not weight.size:
        raise ValueError(_messages.shape(owner, found[0], weight.shape, f"({len(theirs)}*H, I)"))
    options = {"bias": False, "batch_first": True, "dtype": float_dtype(weight) if dtype is None else dtype}
    params = {"weight_ih_l0": reorder(weight, theirs, ours)}
    return construct(owner, CLASSES[kind], params, weight.shape[1], len(weight) // len(theirs), options)
