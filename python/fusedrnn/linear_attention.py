"""Linear attention on plain arrays, forward and backward: a matrix of state for each row and head; part of
`fusedrnn.functional`.

The kernels are in `csrc/kernels/attention.h`; the twin to be read is `fusedrnn.reference`'s `linear_attention.py`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core, _validate
from .grads import LinearAttentionGrads
from .plain_arrays import (
    ArrayTape,
    StepsOfRows,
    cast,
    common_dtype,
    no_gradient,
    read_gradient,
    read_numbers,
    read_steps,
)

__all__ = ["LinearAttentionGrads", "linear_attention_backward", "linear_attention_forward"]

Array = NDArray[Any]

#: Whether a rule has (a decay, the delta correction).
RULES = {"linear": (False, False), "gated": (True, False), "delta": (False, True), "gated_delta": (True, True)}


class Sizes(NamedTuple):
    """Of one call."""

    T: int
    B: int
    heads: int
    kv_heads: int
    d_k: int
    d_v: int

    @property
    def state(self) -> tuple[int, int, int, int]:
        """Of the matrices of state."""
        return self.B, self.kv_heads, self.d_k, self.d_v


class Saved(NamedTuple):
    """The contents of a tape; arrays over time are in the caller's order of steps."""

    arrays: tuple[Array | None, ...]  # q, k, v, decay, beta
    S_0: Array | None
    error: Array | None  # (T, B, kv_heads * d_v): v - S^T k, with the delta correction
    sizes: Sizes
    scale: float
    steps: StepsOfRows
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, those of the caller, too."""
        return sum(array.nbytes for array in (*self.arrays, self.S_0, self.error) if array is not None)


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
    given: dict[str, Any] = {"q": q, "k": k, "v": v, "decay": decay, "beta": beta, "S_0": S_0}
    arrays = {name: read_numbers(owner, name, value, False) for name, value in given.items() if value is not None}
    _check_rule(owner, rule, decay is not None, beta is not None)
    sizes = _sizes(owner, arrays, num_heads, num_kv_heads)
    factor = _factor(owner, scale, sizes.d_k)
    dtype = common_dtype([(given[name], array) for name, array in arrays.items()], False)
    _validate.room(owner, "o", sizes.T * sizes.B * sizes.heads * sizes.d_v, dtype)
    steps = read_steps(owner, sizes.T, sizes.B, lengths, mask, reset, reverse)
    over_time = tuple(cast(arrays[name], dtype) if name in arrays else None for name in list(given)[:5])
    initial = np.array(arrays["S_0"], dtype, order="C") if "S_0" in arrays else None
    o = _core.empty((sizes.T, sizes.B, sizes.heads * sizes.d_v), dtype)
    S_n = _core.empty(sizes.state, dtype)
    error = None if beta is None else _core.empty((sizes.T, sizes.B, sizes.kv_heads * sizes.d_v), dtype)
    saved = Saved(over_time, initial, error, sizes, factor, steps, dtype)
    if sizes.T * S_n.size == 0:
        o[...] = 0
        if error is not None:
            error[...] = over_time[2]
        S_n[...] = 0 if initial is None else initial
    else:
        inputs = tuple(steps.in_order(array) for array in over_time)
        _core.linear_attention_forward(
            inputs, initial, factor, steps.in_order(o), S_n, steps.in_order(error), steps.flags
        )
    return o, S_n, ArrayTape(owner, saved)


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
    saved: Saved = tape._unreleased()
    sizes, dtype, steps = saved.sizes, saved.dtype, saved.steps
    of_o_shape = (sizes.T, sizes.B, sizes.heads * sizes.d_v)
    of_o = read_gradient(owner, "do", do, of_o_shape, "(T, B, num_heads * d_v)", dtype)
    of_S = read_gradient(owner, "dS_n", dS_n, sizes.state, "(B, num_kv_heads, d_k, d_v)", dtype)
    if of_o is None and of_S is None:
        raise no_gradient(owner, "do", "dS_n")
    if of_S is not None:
        of_S = np.array(of_S, order="C")
    if of_o is None:
        of_o = np.broadcast_to(np.zeros(of_o_shape[2], dtype), of_o_shape)
    grads = [None if array is None else _core.empty(array.shape, dtype) for array in saved.arrays]
    dS_0 = _core.empty(sizes.state, dtype)
    if sizes.T * dS_0.size == 0:
        for array in grads:
            if array is not None:
                array[...] = 0
        dS_0[...] = 0 if of_S is None else of_S
    else:
        inputs, outputs = (tuple(steps.in_order(array) for array in group) for group in (saved.arrays, grads))
        rest = steps.in_order(saved.error), steps.in_order(of_o), of_S, outputs, dS_0, steps.flags
        _core.linear_attention_backward(inputs, saved.S_0, saved.scale, *rest)
    return LinearAttentionGrads(*grads, dS_0)  # type: ignore[arg-type]


def _check_rule(owner: str, rule: Any, decay: bool, beta: bool) -> None:
    """Whether decay and beta are those of the rule."""
    rule = _validate.choice(owner, "rule", rule, (None, *RULES))
    if rule is None:
        return
    for name, given, expected in zip(("decay", "beta"), (decay, beta), RULES[rule], strict=True):
        if given != expected:
            came, wanted = ("given", "None") if given else ("None", "an array")
            raise ValueError(f"{owner}: {name} is {came} with rule={rule!r}; expected {wanted}")


def _factor(owner: str, scale: Any, d_k: int) -> float:
    if scale is None:
        return 1 / math.sqrt(d_k) if d_k else 1.0
    return _validate.finite(owner, "scale", scale)


def _sizes(owner: str, arrays: dict[str, Array], num_heads: Any, num_kv_heads: Any) -> Sizes:
    """The sizes of a call, from arrays whose shapes fit each other."""
    heads = _validate.size(owner, "num_heads", num_heads)
    kv_heads = heads if num_kv_heads is None else _validate.size(owner, "num_kv_heads", num_kv_heads)
    if heads % kv_heads:
        raise ValueError(f"{owner}: num_heads is {heads}; expected a multiple of num_kv_heads = {kv_heads}")
    shape = arrays["q"].shape
    if len(shape) != 3 or shape[2] % heads:
        raise ValueError(f"{owner}: q has shape {shape}; expected (T, B, num_heads * d_k), num_heads = {heads}")
    T, B, width = shape
    d_k = width // heads
    _validate.exact_shape(owner, "k", arrays["k"], (T, B, kv_heads * d_k), "(T, B, num_kv_heads * d_k)")
    shape = arrays["v"].shape
    if len(shape) != 3 or shape[:2] != (T, B) or shape[2] % kv_heads:
        expected = f"(T, B, num_kv_heads * d_v), T = {T}, B = {B}, num_kv_heads = {kv_heads}"
        raise ValueError(f"{owner}: v has shape {shape}; expected {expected}")
    sizes = Sizes(T, B, heads, kv_heads, d_k, shape[2] // kv_heads)
    for name, last, formula in (
        ("decay", kv_heads * d_k, "(T, B, num_kv_heads) or (T, B, num_kv_heads * d_k)"),
        ("beta", 1, "(T, B, num_kv_heads) or (T, B, 1)"),
    ):
        if name in arrays and arrays[name].shape not in ((T, B, kv_heads), (T, B, last)):
            other = f"{(T, B, kv_heads)} or {(T, B, last)}"
            raise ValueError(f"{owner}: {name} has shape {arrays[name].shape}; expected {formula} = {other}")
    if "S_0" in arrays:
        _validate.exact_shape(owner, "S_0", arrays["S_0"], sizes.state, "(B, num_kv_heads, d_k, d_v)")
    return sizes
