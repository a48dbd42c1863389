"""Recurrences with a matrix of state for each head, and of single elements, for torch; in `fusedrnn.interop.torch`.

Names, arguments, shapes and results are those of mamba_ssm where there is such a function. Tensors are on the CPU;
dtypes as in `torch_functions.py`.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from . import _messages
from .torch_kernels import LINEAR_ATTENTION, SCAN, check_shape, computing_dtype, cuts, to_dtype
from .torch_operators import contiguous_last

__all__ = ["gated_delta_rule", "linear_recurrence", "mamba_chunk_scan_combined"]


def _joined(tensor: Any, dtype: Any, heads: int) -> Any:
    """(B, L, G, N) for each head, time-major with the heads side by side: (L, B, H * N)."""
    tensor = tensor.to(dtype)
    if tensor.shape[2] != heads:
        tensor = tensor.repeat_interleave(heads // tensor.shape[2], dim=2)
    return contiguous_last(tensor.flatten(2).transpose(0, 1))


def mamba_chunk_scan_combined(
    x: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    chunk_size: int,
    D: Any = None,
    z: Any = None,
    dt_bias: Any = None,
    initial_states: Any = None,
    seq_idx: Any = None,
    cu_seqlens: Any = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> Any:
    """The recurrence of Mamba-2, with the arguments of mamba_ssm's function of this name.

    Parameters
    ----------
    x : Tensor (B, L, H, P)
    dt : Tensor (B, L, H)
    A : Tensor (H,)
    B, C : Tensor (B, L, G, N)
        Each of G groups of heads has its own.
    chunk_size : int
        Not used: time runs in order, in one piece.
    D : Tensor (H,) or (H, P), or None
    z : Tensor (B, L, H, P), or None
    dt_bias : Tensor (H,), or None
    initial_states : Tensor (B, H, P, N), or None
    seq_idx : integer Tensor (B, L), or None
        The sequence that a step belongs to: the state is zero before the first step of each.
    cu_seqlens
        Not used: it matters only for `return_varlen_states`, which is not available.
    dt_softplus : bool
    dt_limit : pair of float
        dt is clamped to this range, after softplus.
    return_final_states : bool
    return_varlen_states : bool
        Only False.

    Returns
    -------
    y : Tensor (B, L, H, P)
    final_states : Tensor (B, H, P, N)
        Only with `return_final_states`.

    Raises
    ------
    TypeError, ValueError
        As for `selective_scan_fn`; ValueError also for `return_varlen_states`.

    Notes
    -----
    T. Dao and A. Gu, Transformers are SSMs, 2024: S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T, y_t = S_t C_t + D x_t,
    times silu(z_t): `fusedrnn.functional.linear_attention_forward` with rule "gated".

    Examples
    --------
    >>> import torch
    >>> from fusedrnn.interop.torch import mamba_chunk_scan_combined
    >>> x, A = torch.ones(1, 3, 1, 1), torch.log(torch.tensor([0.5]))
    >>> mamba_chunk_scan_combined(x, torch.ones(1, 3, 1), A, x, x, chunk_size=64).flatten()
    tensor([1.0000, 1.5000, 1.7500])
    """
    owner = "mamba_chunk_scan_combined"
    dtype = computing_dtype(owner, x=x, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias, initial_states=initial_states)
    if return_varlen_states:
        raise ValueError(_messages.no_varlen_states(owner))
    check_shape(owner, "x", x, (None,) * 4, "(B, L, H, P)")
    rows, L, H, P = x.shape
    N = B.shape[-1]
    for name, tensor, shape, formula in (
        ("dt", dt, (rows, L, H), "(B, L, H)"), ("A", A, (H,), "(H,)"), ("B", B, (rows, L, None, N), "(B, L, G, N)"),
        ("C", C, B.shape, "(B, L, G, N)"), ("z", z, x.shape, "(B, L, H, P)"), ("dt_bias", dt_bias, (H,), "(H,)"),
        ("initial_states", initial_states, (rows, H, P, N), "(B, H, P, N)"),
    ):  # fmt: skip
        check_shape(owner, name, tensor, shape, formula)
    if D is not None and tuple(D.shape) not in ((H,), (H, P)):
        raise ValueError(_messages.tensor_shape(owner, "D", tuple(D.shape), "(H,) or (H, P)"))
    if B.shape[2] < 1 or H % B.shape[2]:
        raise ValueError(_messages.tensor_shape(owner, "B", tuple(B.shape), f"(B, L, G, N), G a divisor of H = {H}"))
    step = dt.to(dtype)
    step = step if dt_bias is None else step + dt_bias.to(dtype)
    step = torch.nn.functional.softplus(step) if dt_softplus else step
    if tuple(dt_limit) != (0.0, math.inf) or not dt_softplus:
        step = step.clamp(*dt_limit)
    wide = x.to(dtype)
    reset, _ = cuts(owner, seq_idx, (rows, L))
    S_0 = None if initial_states is None else initial_states.to(dtype).transpose(2, 3).contiguous()
    y, last = LINEAR_ATTENTION(
        _joined(C, dtype, H), _joined(B, dtype, H), _joined(wide * step[..., None], dtype, H),
        contiguous_last((step * A.to(dtype)).transpose(0, 1)), None, S_0, reset, H, 1.0,
    )  # fmt: skip
    y = y.transpose(0, 1).unflatten(2, (H, P))
    if D is not None:
        y = y + wide * (D if D.ndim == 2 else D[:, None]).to(dtype)
    if z is not None:
        y = y * torch.nn.functional.silu(z.to(dtype))
    y = y.to(x.dtype)
    return (y, last.transpose(2, 3)) if return_final_states else y


def gated_delta_rule(
    query: Any, key: Any, value: Any, g: Any, beta: Any, initial_state: Any = None, *, normalised: bool = False
) -> tuple[Any, Any]:
    """The gated delta rule, with the layout of flash-linear-attention.

    Parameters
    ----------
    query, key : Tensor (B, L, G, K)
        G divides H: successive heads share a key.
    value : Tensor (B, L, H, V)
    g : Tensor (B, L, H)
        The logarithm of the factor of the old state.
    beta : Tensor (B, L, H)
    initial_state : Tensor (B, H, K, V), or None
    normalised : bool
        Whether queries and keys are divided by their length first: by sqrt(sum of squares + 1e-6).

    Returns
    -------
    output : Tensor (B, L, H, V)
    final_state : Tensor (B, H, K, V)

    Raises
    ------
    TypeError, ValueError
        As for `selective_scan_fn`.

    Notes
    -----
    S. Yang et al., Gated delta networks, 2024: `fusedrnn.functional.linear_attention_forward` with rule "gated_delta".

    Examples
    --------
    >>> import torch
    >>> from fusedrnn.interop.torch import gated_delta_rule
    >>> x, one = torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1)
    >>> gated_delta_rule(x, x, x, 0 * one, one / 2)[0].flatten().tolist()
    [0.5, 0.75]
    """
    owner = "gated_delta_rule"
    dtype = computing_dtype(owner, query=query, key=key, value=value, g=g, beta=beta, initial_state=initial_state)
    check_shape(owner, "key", key, (None,) * 4, "(B, L, G, K)")
    check_shape(owner, "query", query, key.shape, "(B, L, G, K), as key has")
    rows, L, groups, K = key.shape
    check_shape(owner, "value", value, (rows, L, None, None), "(B, L, H, V)")
    H, V = value.shape[2:]
    if groups < 1 or H % groups:
        raise ValueError(
            _messages.tensor_shape(owner, "key", tuple(key.shape), f"(B, L, G, K), G a divisor of H = {H}")
        )
    for name, tensor, shape, formula in (
        ("g", g, (rows, L, H), "(B, L, H)"), ("beta", beta, (rows, L, H), "(B, L, H)"),
        ("initial_state", initial_state, (rows, H, K, V), "(B, H, K, V)"),
    ):  # fmt: skip
        check_shape(owner, name, tensor, shape, formula)
    q, k = query.to(dtype), key.to(dtype)
    if normalised:
        q, k = (t * torch.rsqrt((t * t).sum(-1, keepdim=True) + 1e-6) for t in (q, k))
    decay, rate = (contiguous_last(t.to(dtype).transpose(0, 1)) for t in (g, beta))
    S_0 = None if initial_state is None else initial_state.to(dtype).contiguous()
    o, last = LINEAR_ATTENTION(
        _joined(q, dtype, H), _joined(k, dtype, H), _joined(value, dtype, H), decay, rate, S_0, None, H, K**-0.5
    )
    return o.transpose(0, 1).unflatten(2, (H, V)).to(query.dtype), last


def linear_recurrence(a: Any, b: Any, h_0: Any = None) -> tuple[Any, Any]:
    """h_t = a_t h_{t-1} + b_t for each element, with gradients.

    Parameters
    ----------
    a, b : Tensor (B, L, D)
    h_0 : Tensor (B, D), or None for zeros

    Returns
    -------
    h : Tensor (B, L, D)
        A view of a time-major array (L, B, D).
    h_n : Tensor (B, D)
        The state after the last step.

    Raises
    ------
    TypeError, ValueError
        As for `selective_scan_fn`.

    Examples
    --------
    >>> import torch
    >>> from fusedrnn.interop.torch import linear_recurrence
    >>> linear_recurrence(torch.full((1, 3, 1), 0.5), torch.ones(1, 3, 1))[0].flatten().tolist()
    [1.0, 1.5, 1.75]
    """
    owner = "linear_recurrence"
    dtype = computing_dtype(owner, b=b, a=a, h_0=h_0)
    check_shape(owner, "b", b, (None,) * 3, "(B, L, D)")
    check_shape(owner, "a", a, b.shape, "(B, L, D), as b has")
    check_shape(owner, "h_0", h_0, (b.shape[0], b.shape[2]), "(B, D)")
    h, h_n = SCAN(*(contiguous_last(t.to(dtype).transpose(0, 1)) for t in (a, b)), to_dtype(h_0, dtype))
    return h.transpose(0, 1).to(b.dtype), h_n
