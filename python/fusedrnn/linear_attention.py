"""Linear attention on plain arrays, forward and backward: a matrix of state for each row and head; part of
`fusedrnn.functional`.

The kernels are in `csrc/kernels/attention.h`; the twin to be read is `fusedrnn.reference`'s `linear_attention.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _validate, reference
from .grads import LinearAttentionGrads
from .plain_arrays import ArrayTape, common_dtype

__all__ = ["LinearAttentionGrads", "linear_attention_backward", "linear_attention_forward"]

Array = NDArray[Any]


def linear_attention_forward(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    decay: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    S_0: ArrayLike | None = None,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    rule: str | None = None,
    scale: float | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[Array, Array, ArrayTape]:
    """Linear attention: S_t = exp(decay_t) S_{t-1} + k_t w_t^T, o_t = scale S_t^T q_t.

    Parameters
    ----------
    q : array-like (T, B, num_heads * d_k)
        Queries of all heads, one head after the other, as in all arrays.
    k : array-like (T, B, num_kv_heads * d_k)
    v : array-like (T, B, num_kv_heads * d_v)
    decay : array-like (T, B, num_kv_heads) or (T, B, num_kv_heads * d_k), or None
        The logarithm of the factor of the old state, for each head, or for each head and key.
    beta : array-like (T, B, num_kv_heads) or (T, B, 1), or None
        Rate of the delta correction, which usually wants keys of length one.
    S_0 : array-like (B, num_kv_heads, d_k, d_v), or None for zeros
        The state before the first step.
    num_heads : int
        A multiple of `num_kv_heads`: successive query heads share the state of one key head.
    num_kv_heads : int, or None for `num_heads`
    rule : None, "linear", "gated", "delta" or "gated_delta"
        "gated" and "gated_delta" need a decay, "delta" and "gated_delta" a beta, the others must not have it. None: as
        `decay` and `beta` are given.
    scale : float, or None for 1/sqrt(d_k)
    lengths : integers (B,), or None for T
        Number of valid steps of each row. Later steps are not read, and the state passes through.
    mask : bool (T, B), or None
        False skips a step, in addition to those past the row's length: nothing is read, and the state passes through.
    reset : bool (T, B), or None
        True at t cuts the row between t-1 and t: the state becomes zero before step t, t = 0 included, whatever S_0 is;
        in reverse it becomes zero before step t-1, and reset[0] has no effect. Not read past a row's length.
    reverse : bool
        Run each row from its last valid step to its first. o stays aligned with q, and S_n is the state after time 0.

    Returns
    -------
    o : ndarray (T, B, num_heads * d_v)
        Zero at skipped steps.
    S_n : ndarray (B, num_kv_heads, d_k, d_v)
        The state after each row's last step in running order.
    tape : ArrayTape
        For `linear_attention_backward`. It refers to the arrays over time, which must not be changed before.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or dtype; the wrong shape or value.
    MemoryError
        The result does not fit into memory.

    Notes
    -----
    w_t = v_t, or with the delta correction beta_t (v_t - (exp(decay_t) S_{t-1})^T k_t): the operator LinearAttention of
    ONNX's opset 27, time-major. Members of the family: linear attention (A. Katharopoulos et al., Transformers are
    RNNs, 2020), RetNet and Mamba-2 (one decay for each head; for Mamba-2 q = C, k = B, v = delta x, decay = delta A and
    scale = 1), gated linear attention (a decay for each key), DeltaNet and Gated DeltaNet (S. Yang et al., 2024).

    The computation is in single precision if all arrays are, else in double precision. Time runs in order, and no state
    is kept for the gradients. The bits of a row depend on neither the number of threads nor the other rows, and a
    sequence in two calls, the second with the first one's S_n, gives the same bits as in one.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import linear_attention_forward
    >>> q = k = v = np.ones((3, 1, 1))
    >>> o, S_n, tape = linear_attention_forward(q, k, v, decay=np.full((3, 1, 1), np.log(0.5)), num_heads=1)
    >>> o.ravel(), S_n
    (array([1.  , 1.5 , 1.75]), array([[[[1.75]]]]))
    """
    owner = "linear_attention_forward"
    arrays = [(a, np.asarray(a)) for a in (q, k, v, decay, beta, S_0) if a is not None]
    dtype = common_dtype(arrays, False)
    o, S_n, kept = reference.linear_attention_forward(
        q, k, v, decay, beta, S_0,
        num_heads=num_heads, num_kv_heads=num_kv_heads, rule=rule, scale=scale,
        lengths=lengths, mask=mask, reset=reset, reverse=reverse, dtype=dtype,
    )  # fmt: skip
    return o, S_n, ArrayTape(owner, kept)


def linear_attention_backward(
    tape: ArrayTape, do: ArrayLike | None = None, dS_n: ArrayLike | None = None
) -> LinearAttentionGrads:
    """Gradients of a scalar with respect to everything that went into `linear_attention_forward`.

    Parameters
    ----------
    tape : ArrayTape
        From `linear_attention_forward`; may be used again.
    do : array-like (T, B, num_heads * d_v), or None for zeros
        Gradient with respect to o; not read at skipped steps.
    dS_n : array-like (B, num_kv_heads, d_k, d_v), or None for zeros
        Gradient with respect to S_n.

    Returns
    -------
    LinearAttentionGrads
        dq, dk, dv, ddecay, dbeta and dS_0, each of the shape of its argument; ddecay and dbeta are None without one.

    Raises
    ------
    TypeError
        The tape is from another function, or a gradient is not an array of numbers.
    ValueError
        The tape was released, a shape is wrong, or there is no gradient at all.

    Notes
    -----
    States are computed again, not kept. The gradient of a decay is the difference of two sums over the keys (S. Yang et
    al., Gated linear attention transformers with hardware-efficient training, 2023): its error is in proportion to the
    products of q and dq and of k and dk, also where it is small itself.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import linear_attention_backward, linear_attention_forward
    >>> q = k = v = np.ones((3, 1, 1))
    >>> o, S_n, tape = linear_attention_forward(q, k, v, num_heads=1)
    >>> grads = linear_attention_backward(tape, do=np.ones((3, 1, 1)))
    >>> grads.dq.ravel(), grads.dv.ravel(), grads.dS_0
    (array([1., 2., 3.]), array([3., 2., 1.]), array([[[[3.]]]]))
    """
    owner = "linear_attention_backward"
    _validate.functional_tape(owner, tape, "linear_attention_forward")
    return reference.linear_attention_backward(tape._unreleased(), do, dS_n)
