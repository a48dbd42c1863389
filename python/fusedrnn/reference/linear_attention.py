"""Linear attention: a matrix of state for each row and head, forward and back in time.

The twin of `csrc/kernels/attention.h`. The state before each step is kept for the gradients.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusedrnn.grads import LinearAttentionGrads
from fusedrnn.reference.array_checks import in_order, runs_and_cuts

Array = NDArray[Any]

#: Whether a rule has (a decay, the delta correction).
RULES = {"linear": (False, False), "gated": (True, False), "delta": (False, True), "gated_delta": (True, True)}


@dataclass
class LinearAttentionTape:
    """What `linear_attention_backward` needs; heads are an axis of their own."""

    q: Array  # (T, B, num_heads, d_k)
    k: Array  # (T, B, num_kv_heads, d_k)
    v: Array  # (T, B, num_kv_heads, d_v)
    a: Array  # exp(decay), (T, B, num_kv_heads, 1 or d_k)
    beta: Array | None  # (T, B, num_kv_heads)
    before: Array  # (T, B, num_kv_heads, d_k, d_v): the state before each step, after a reset zero
    runs: Array  # (T, B)
    cuts: Array  # (T, B)
    reverse: bool
    scale: float
    decay_shape: tuple[int, ...] | None
    beta_shape: tuple[int, ...] | None


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
    dtype: Any = np.float64,
) -> tuple[Array, Array, LinearAttentionTape]:
    """S_t = exp(decay_t) S_{t-1} + k_t w_t^T, o_t = scale S_t^T q_t; w_t = v_t, or beta_t (v_t - decayed S^T k_t).

    Parameters
    ----------
    q, k, v, decay, beta, S_0, num_heads, num_kv_heads, rule, scale, lengths, mask, reset, reverse
        See `fusedrnn.functional.linear_attention_forward`.
    dtype : dtype
        Of the computation.

    Returns
    -------
    o : ndarray, shape (T, B, num_heads*d_v)
    S_n : ndarray, shape (B, num_kv_heads, d_k, d_v)
    tape : LinearAttentionTape

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong dtype, shape or value.

    Examples
    --------
    >>> from fusedrnn.reference import linear_attention_forward
    >>> q = k = v = np.ones((3, 1, 1))
    >>> linear_attention_forward(q, k, v, decay=np.full((3, 1, 1), np.log(0.5)), num_heads=1)[0].ravel()
    array([1.  , 1.5 , 1.75])
    """
    owner = "linear_attention_forward"
    arrays = {"q": q, "k": k, "v": v, "decay": decay, "beta": beta}
    given: dict[str, Any] = {n: None if x is None else np.asarray(x).astype(dtype) for n, x in arrays.items()}
    for name, x in given.items():
        if x is not None and x.ndim != 3:
            raise ValueError(f"{owner}: {name} has shape {x.shape}; expected (T, B, numbers of all heads)")
    T, B = given["q"].shape[:2]
    H, Hkv = num_heads, num_heads if num_kv_heads is None else num_kv_heads
    if Hkv < 1 or H % Hkv:
        raise ValueError(f"{owner}: num_heads is {H}; expected a multiple of num_kv_heads = {Hkv}")
    if rule not in (None, *RULES):
        raise ValueError(f"{owner}: rule is {rule!r}; expected one of {', '.join(RULES)}")
    gated, delta = (decay is not None, beta is not None) if rule is None else RULES[rule]
    if (decay is not None, beta is not None) != (gated, delta):
        raise ValueError(f"{owner}: decay and beta do not fit rule={rule!r}")
    Q, K, V = (_heads(owner, name, given[name], T, B, n) for name, n in (("q", H), ("k", Hkv), ("v", Hkv)))
    d_k, d_v = K.shape[-1], V.shape[-1]
    if Q.shape[-1] != d_k:
        raise ValueError(f"{owner}: q has {Q.shape[-1]} numbers for each head, k has {d_k}")
    a = np.ones((T, B, Hkv, 1), dtype)
    if gated:
        with np.errstate(all="ignore"):
            a = np.exp(_heads(owner, "decay", given["decay"], T, B, Hkv))
        if a.shape[-1] not in (1, d_k):
            raise ValueError(f"{owner}: decay has {a.shape[-1]} numbers for each head; expected 1 or d_k = {d_k}")
    rate = None
    if delta:
        if given["beta"].shape not in ((T, B, Hkv), (T, B, 1)):
            raise ValueError(f"{owner}: beta has shape {given['beta'].shape}; expected {(T, B, Hkv)} or {(T, B, 1)}")
        rate = np.broadcast_to(given["beta"], (T, B, Hkv))
    factor = (1 / math.sqrt(d_k) if d_k else 1.0) if scale is None else float(scale)
    S = np.zeros((B, Hkv, d_k, d_v), dtype) if S_0 is None else np.asarray(S_0).astype(dtype)
    if S.shape != (B, Hkv, d_k, d_v):
        raise ValueError(f"{owner}: S_0 has shape {S.shape}; expected {(B, Hkv, d_k, d_v)}")
    runs, cuts = runs_and_cuts(owner, T, B, lengths, mask, reset, reverse)
    o, before = np.zeros((T, B, H, d_v), dtype), np.zeros((T, B, Hkv, d_k, d_v), dtype)
    for t in in_order(T, reverse):
        S = np.where(cuts[t, :, None, None, None], 0, S)
        before[t] = S
        now = runs[t, :, None, None]
        with np.errstate(all="ignore"):
            decayed = a[t][..., None] * S
            w = V[t] if rate is None else rate[t][..., None] * (V[t] - read(decayed, K[t]))
            new = decayed + K[t][..., :, None] * w[..., None, :]
            o[t] = np.where(now, factor * read(np.repeat(new, H // Hkv, axis=1), Q[t]), 0)
        S = np.where(now[..., None], new, S)
    shapes = (None if x is None else np.shape(x) for x in (decay, beta))
    return (
        o.reshape(T, B, H * d_v),
        S,
        LinearAttentionTape(Q, K, V, a, rate, before, runs, cuts, reverse, factor, *shapes),
    )


def linear_attention_backward(
    tape: LinearAttentionTape, do: ArrayLike | None = None, dS_n: ArrayLike | None = None
) -> LinearAttentionGrads:
    """With G_t the gradient of S_t: dq = scale S do, dw = G^T k, dk = G w; then the gradient of the step before.

    Parameters
    ----------
    tape : LinearAttentionTape
    do : array_like, shape (T, B, num_heads*d_v), or None for zeros
    dS_n : array_like, shape (B, num_kv_heads, d_k, d_v), or None for zeros

    Returns
    -------
    LinearAttentionGrads

    Raises
    ------
    ValueError
        There is no gradient at all.

    Examples
    --------
    >>> from fusedrnn.reference import linear_attention_backward, linear_attention_forward
    >>> q = k = v = np.ones((3, 1, 1))
    >>> tape = linear_attention_forward(q, k, v, num_heads=1)[2]
    >>> linear_attention_backward(tape, do=np.ones((3, 1, 1))).dv.ravel()
    array([3., 2., 1.])
    """
    if do is None and dS_n is None:
        raise ValueError("linear_attention_backward: do, dS_n are both None; expected at least one gradient")
    T, B, H, d_k = tape.q.shape
    Hkv, d_v = tape.v.shape[2:]
    dtype, group = tape.q.dtype, H // Hkv
    outputs = np.zeros((T, B, H, d_v), dtype) if do is None else np.asarray(do).astype(dtype).reshape(T, B, H, d_v)
    G = np.zeros((B, Hkv, d_k, d_v), dtype) if dS_n is None else np.array(dS_n, dtype)
    dq, dk, dv, da = (np.zeros_like(x) for x in (tape.q, tape.k, tape.v, tape.k))
    dbeta = np.zeros((T, B, Hkv), dtype)
    for t in in_order(T, not tape.reverse):
        now = tape.runs[t, :, None, None]
        k, a = tape.k[t], tape.a[t][..., None]
        with np.errstate(all="ignore"):
            decayed = a * tape.before[t]
            error = tape.v[t] if tape.beta is None else tape.v[t] - read(decayed, k)
            w = error if tape.beta is None else tape.beta[t][..., None] * error
            S = decayed + k[..., :, None] * w[..., None, :]
            d_read = tape.scale * outputs[t]
            write = tape.q[t][..., :, None] * d_read[..., None, :]
            of_S = G + write.reshape(B, Hkv, group, d_k, d_v).sum(2)
            of_w, of_k = read(of_S, k), (of_S * w[..., None, :]).sum(-1)
            of_decayed = of_S
            if tape.beta is not None:
                of_read = -tape.beta[t][..., None] * of_w
                of_k = of_k + (decayed * of_read[..., None, :]).sum(-1)
                of_decayed = of_S + k[..., :, None] * of_read[..., None, :]
                dbeta[t] = np.where(now[..., 0], (of_w * error).sum(-1), 0)
                of_w = -of_read
            read_by = (np.repeat(S, group, axis=1) * d_read[..., None, :]).sum(-1)
            dq[t], dk[t], dv[t] = (np.where(now, x, 0) for x in (read_by, of_k, of_w))
            da[t] = np.where(now, (of_decayed * decayed).sum(-1), 0)
            G = np.where(now[..., None], a * of_decayed, G)
        G = np.where(tape.cuts[t, :, None, None, None], 0, G)
    ddecay = None
    if tape.decay_shape is not None:
        per_head = tape.a.shape[-1] == 1
        ddecay = (da.sum(-1) if per_head else da).reshape(tape.decay_shape)
    if tape.beta_shape is None:
        of_beta = None
    else:
        of_beta = dbeta.sum(-1, keepdims=True) if tape.beta_shape[-1] == 1 else dbeta
    dq, dk, dv = (x.reshape(T, B, x.shape[2] * x.shape[3]) for x in (dq, dk, dv))
    return LinearAttentionGrads(dq, dk, dv, ddecay, of_beta, G)


def read(S: Array, key: Array) -> Array:
    """S^T key for each row and head."""
    with np.errstate(all="ignore"):
        product: Array = (S * key[..., :, None]).sum(-2)
    return product


def _heads(owner: str, name: str, x: Any, T: int, B: int, heads: int) -> Array:
    """(T, B, heads * width) as (T, B, heads, width)."""
    if x.shape[:2] != (T, B) or x.shape[2] % heads:
        raise ValueError(f"{owner}: {name} has shape {x.shape}; expected (T, B, a multiple of {heads} heads)")
    array: Array = x.reshape(T, B, heads, x.shape[2] // heads)
    return array
