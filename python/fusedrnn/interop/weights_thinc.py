"""thinc <-> fusedrnn: the flat vector of ``thinc.api.LSTM`` (LSTM.v1).

=============  ================================================================================================
thinc          fusedrnn
=============  ================================================================================================
``LSTM``       one vector; for each layer and direction ``weight_ih``, ``bias_ih``, ``weight_hh``, ``bias_hh``
gates          f i o g; ours are i f g o
``HC0``        (2, depth, dirs, H), the initial state; thinc's kernels take [0] for c and [1] for h
``nO``         2*H with ``bi``
=============  ================================================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .._validate import size
from . import _messages
from .conventions import GATES, Array, Direction, as_weights, build, reorder, shaped

#: thinc's gate order in our letters.
THINC_GATES = "fiog"


def from_thinc(
    source: Any,
    *,
    nI: int | None = None,
    nO: int | None = None,
    depth: int = 1,
    bi: bool = False,
    dtype: DTypeLike | None = None,
) -> Any:
    """Convert thinc's LSTM to an equivalent LSTM of fusedrnn.

    Parameters
    ----------
    source : thinc model, or ndarray
        An initialised ``LSTM(...)``, or one that contains it, such as ``with_padded(LSTM(...))``; or its parameter.
    nI, nO, depth, bi
        Of a vector: thinc's arguments. A model tells them.
    dtype : float32, float64 or None
        None is that of the weights.

    Returns
    -------
    LSTM
        With ``learned_state`` if HC0 is not all zeros.

    Raises
    ------
    TypeError
        `source` is neither.
    ValueError
        There is no LSTM.v1 in the model, or several; the vector does not have the length that the sizes ask for.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> vector = np.zeros(4 * 5 * (3 + 5) + 8 * 5, np.float32)
    >>> fusedrnn.interop.from_thinc(vector, nI=3, nO=5)
    LSTM(3, 5)
    """
    owner = "from_thinc"
    state = None
    if hasattr(source, "walk"):
        found = [node for node in source.walk() if node.name == "lstm" and node.has_param("LSTM")]
        if len(found) != 1:
            names = _messages.listed(node.name for node in source.walk())
            raise ValueError(_messages.one_lstm(owner, len(found), names))
        node = found[0]
        if not str(getattr(getattr(node, "_func", None), "__module__", "thinc")).startswith("thinc"):
            raise ValueError(_messages.foreign_code(owner, f"node {node.name!r}"))
        nI, nO, depth, bi = node.get_dim("nI"), node.get_dim("nO"), node.get_dim("depth"), node.get_dim("dirs") == 2
        vector = as_weights(owner, "LSTM", node.get_param("LSTM"))
        state = as_weights(owner, "HC0", node.get_param("HC0")) if node.has_param("HC0") else None
    elif isinstance(source, (np.ndarray, list)):
        vector = as_weights(owner, "the vector", source)
    else:
        raise TypeError(_messages.wrong_source(owner, source, "a thinc model or its parameter LSTM"))
    if nI is None or nO is None:
        raise ValueError(_messages.no_sizes(owner, nI, nO))
    sizes = {"nI": nI, "nO": nO, "depth": depth}
    nI, nO, depth = (size(owner, name, value) for name, value in sizes.items())
    D = 1 + bool(bi)
    if nO % D:
        raise ValueError(_messages.attribute(owner, "nO", nO, "an even number, as there are two directions"))
    H = nO // D
    first, above = (D * (4 * H * (I + H) + 8 * H) for I in (nI, D * H))
    expected = first + (depth - 1) * above
    if vector.shape != (expected,):
        raise ValueError(_messages.shape(owner, "the vector", vector.shape, f"({expected},), as the sizes say"))
    if state is not None:
        shaped(owner, "HC0", state, 2, depth, D, H)
    inputs = [nI] + [D * H] * (depth - 1)
    stack, start = [], 0
    for layer, I in enumerate(inputs):
        directions = []
        for d in range(D):
            parts: list[Array] = []
            for shape in ((4 * H, I), (4 * H,), (4 * H, H), (4 * H,)):
                count = int(np.prod(shape))
                parts.append(reorder(vector[start : start + count].reshape(shape), THINC_GATES, GATES["LSTM"]))
                start += count
            W_ih, b_ih, W_hh, b_hh = parts
            c_0, h_0 = (None, None) if state is None or not state.any() else (state[0, layer, d], state[1, layer, d])
            directions.append(Direction(W_ih, W_hh, b_ih, b_hh, h_0=h_0, c_0=c_0))
        stack.append(directions)
    return build(owner, "LSTM", stack, **({} if dtype is None else {"dtype": dtype}))
