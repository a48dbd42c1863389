"""The package sru -> fusedrnn.

============  ===================================================================================================
sru 2         fusedrnn
============  ===================================================================================================
``weight``    (I, D*H*k): columns by direction, unit, matrix; ours is transposed, rows by matrix: x f r, and w if k = 4
``weight_c``  (2*D*H,): v_f of all directions, v_r of all directions; ours (2, H) for each direction
``bias``      (2*D*H,): b_f, b_r likewise; ours has a zero block for x (and w)
``scale_x``   sqrt(1 + 2 exp(highway_bias)) with ``rescale``; only if k = 3
k = 3         the highway takes x itself: of two directions each takes its half of x
============  ===================================================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..parameters import CLASSES
from . import _messages
from .conventions import Array, as_weights, construct, float_dtype


def from_sru(module: Any, *, dtype: DTypeLike | None = None) -> Any:
    """Convert an ``SRU`` or ``SRUCell`` of the package sru to an equivalent layer of fusedrnn.

    Parameters
    ----------
    module : sru.SRU or sru.SRUCell
        Version 2 of the package.
    dtype : float32, float64 or None
        None means that of the weights; float16 and bfloat16 become float32.

    Returns
    -------
    SRU
        With as many layers and directions. If one of its layers needs a matrix on the highway, those that take x itself
        have an identity there.

    Raises
    ------
    TypeError
        `module` is neither.
    ValueError
        It has an option that our layer lacks: a tanh of c, ``layer_norm``, ``projection_size``, ``custom_m``,
        ``has_skip_term=False``, ``proj_input_to_hidden_first``, or ``rnn_dropout``.

    Notes
    -----
    The package returns (y, c), c with both directions side by side; ours returns (y, (h, c)), (L*D, B, H) each. A
    padding mask of the package, (T, B), is true where ours, (B, T), is false.
    """
    owner = "from_sru"
    cells = list(getattr(module, "rnn_lst", [module]))
    for cell in cells:
        if not all(hasattr(cell, name) for name in ("weight_c", "bias", "num_matrices", "scale_x")):
            raise TypeError(_messages.wrong_source(owner, module, "an SRU or SRUCell of the package sru"))
    if getattr(module, "input_to_hidden", None) is not None:
        raise ValueError(_messages.attribute(owner, "proj_input_to_hidden_first", True, "False"))
    for cell in cells:
        for name, wanted in (
            *(("activation_type", 0), ("projection_size", 0), ("rnn_dropout", 0.0), ("has_skip_term", True)),
            *(("custom_m", None), ("layer_norm", None)),
        ):
            value = getattr(cell, name, wanted)
            if value != wanted:
                raise ValueError(_messages.attribute(owner, name, value, repr(wanted)))
    H, D = int(cells[0].hidden_size), 1 + bool(cells[0].bidirectional)
    I = int(cells[0].input_size)
    wide = (D == 2 and len(cells) > 1) or I != H
    params: dict[str, Array] = {}
    scales = set()
    for layer, cell in enumerate(cells):
        weight = as_weights(owner, "weight", cell.weight)
        inputs, k = weight.shape[0], int(cell.num_matrices)
        by_gate = weight.reshape(inputs, D, H, k).transpose(1, 3, 2, 0)  # (D, k, H, inputs)
        units = as_weights(owner, "weight_c", cell.weight_c).reshape(2, D, H)
        bias = as_weights(owner, "bias", cell.bias).reshape(2, D, H)
        scale = float(cell.scale_x) if cell.rescale and k == 3 else 1.0
        for d in range(D):
            suffix = f"_l{layer}{('', '_reverse')[d]}"
            rows = list(by_gate[d])
            if wide and k == 3:
                rows.append(scale * np.eye(D * H, dtype=weight.dtype)[d * H : (d + 1) * H])
            elif not wide:
                scales.add(scale)
            zero = np.zeros_like(bias[0, d])
            params[f"weight_ih{suffix}"] = np.concatenate(rows)
            params[f"bias_ih{suffix}"] = np.concatenate([zero, *bias[:, d], *([zero] if wide else [])])
            params[f"weight_unit{suffix}"] = units[:, d]
    if len(scales) > 1:
        raise ValueError(_messages.attribute(owner, "scale_x", sorted(scales), "one number for all layers"))
    options: dict[str, Any] = {"num_layers": len(cells), "bidirectional": D == 2}
    options["dtype"] = float_dtype(params["weight_ih_l0"]) if dtype is None else dtype
    options["rescale"] = not scales or scales != {1.0}
    if scales and scales != {1.0}:
        options["highway_bias"] = float(cells[0].highway_bias)
    return construct(owner, CLASSES["SRU"], params, I, H, options)
