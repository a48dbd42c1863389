"""Functions of mamba_ssm and causal_conv1d on fusedrnn's kernels; exported by `fusedrnn.interop.torch`.

Names, arguments, shapes and results are those of the two packages, which need CUDA. Tensors are on the CPU. The
computation is in double precision where the first tensor is float64, else in single precision; results have the first
one's dtype.
"""

from __future__ import annotations

from typing import Any

import torch

from .. import functional
from . import _messages
from .torch_kernels import (
    CAUSAL_CONV,
    SELECTIVE_SCAN,
    check_shape,
    computing_dtype,
    cuts,
    read_activation,
    refuse_gradient,
    to_dtype,
)
from .torch_operators import TorchsThreads, as_arrays, is_traced

__all__ = ["causal_conv1d_fn", "causal_conv1d_update", "selective_scan_fn", "selective_state_update"]


# ---- selective scan -------------------------------------------------------------------------------------------------


def selective_scan_fn(
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    z: Any = None,
    delta_bias: Any = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:
    """Selective scan of Mamba, with the arguments of mamba_ssm's function of this name.

    Parameters
    ----------
    u, delta : Tensor (B, D, L)
        A view of (B, L, D) is read without a copy.
    A : Tensor (D, N), real or complex
    B, C : Tensor (D, N), (B, N, L) or (B, G, N, L)
        With a complex A, the last two are real with 2 L numbers, the real and the imaginary part of each step in turn.
    D : Tensor (D,), or None
    z : Tensor (B, D, L), or None
    delta_bias : Tensor (D,), or None
    delta_softplus : bool
    return_last_state : bool

    Returns
    -------
    y : Tensor (B, D, L)
        A view of a time-major array (L, B, D).
    last_state : Tensor (B, D, N)
        Only with `return_last_state`; in the dtype of the computation.

    Raises
    ------
    TypeError, ValueError
        A tensor is not on the CPU; has the wrong dtype; the wrong shape.
    NotImplementedError
        From the second derivative.

    Notes
    -----
    All tensors have gradients. Works under torch.compile and torch.export, and with torch.func's grad and vmap (one
    call for each element). The equations: `fusedrnn.functional.selective_scan_forward`.

    Examples
    --------
    >>> import torch
    >>> from fusedrnn.interop.torch import selective_scan_fn
    >>> u = torch.ones(1, 2, 3, requires_grad=True)
    >>> A, B = torch.log(torch.tensor([[0.5], [0.25]])), torch.ones(1, 1, 3)
    >>> y, state = selective_scan_fn(u, torch.ones(1, 2, 3), A, B, B, return_last_state=True)
    >>> y[0, 0].tolist(), state.shape
    ([1.0, 1.5, 1.75], torch.Size([1, 2, 1]))
    >>> y.sum().backward()
    """
    owner = "selective_scan_fn"
    dtype = computing_dtype(owner, u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias)
    check_shape(owner, "u", u, (None,) * 3, "(B, D, L)")
    check_shape(owner, "delta", delta, u.shape, "(B, D, L), as u has")
    check_shape(owner, "z", z, u.shape, "(B, D, L), as u has")
    both = [_projection(owner, name, value, A, u.shape, dtype) for name, value in (("B", B), ("C", C))]
    y, last = SELECTIVE_SCAN(
        as_arrays(u, dtype), as_arrays(delta, dtype), to_dtype(A, dtype), *both, to_dtype(D, dtype),
        None if z is None else as_arrays(z, dtype), to_dtype(delta_bias, dtype), None, delta_softplus,
    )  # fmt: skip
    y = y.permute(1, 2, 0).to(u.dtype)
    return (y, last) if return_last_state else y


def _projection(owner: str, name: str, value: Any, A: Any, shape: Any, dtype: Any) -> Any:
    """B or C, time-major: (T, B, N) or (T, B, G, N); constant ones as they are."""
    if value.ndim == 2:
        return to_dtype(value, dtype)
    L = shape[2]
    if value.ndim not in (3, 4) or value.shape[0] != shape[0] or value.shape[-1] != L * (1 + A.is_complex()):
        raise ValueError(_messages.tensor_shape(owner, name, tuple(value.shape), "(D, N), (B, N, L) or (B, G, N, L)"))
    value = value.to(dtype)
    if A.is_complex():
        value = torch.view_as_complex(value.unflatten(-1, (L, 2)).contiguous())
    value = value.movedim(-1, 0)
    inner = value.stride()[2:]
    whole = inner[-1] == 1 and (value.ndim == 3 or value.shape[2] == 1 or inner[0] == value.shape[3])
    return value if whole else value.contiguous()


def selective_state_update(
    state: Any,
    x: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    z: Any = None,
    dt_bias: Any = None,
    dt_softplus: bool = False,
    state_batch_indices: Any = None,
) -> Any:
    """One step of `selective_scan_fn`, in place, with the arguments of mamba_ssm's function of this name.

    Parameters
    ----------
    state : Tensor (B, D, N), or with heads (B, H, D, N)
        Overwritten.
    x, dt : Tensor (B, D) or (B, H, D)
    A : Tensor (D, N) or (H, D, N)
    B, C : Tensor (B, N) or (B, G, N)
    D : Tensor (D,) or (H, D), or None
    z : Tensor (B, D) or (B, H, D), or None
    dt_bias : Tensor (D,) or (H, D), or None
    dt_softplus : bool
    state_batch_indices : integer Tensor (B,), or None
        The row of `state` that each row of `x` continues.

    Returns
    -------
    Tensor, of the shape of `x`

    Raises
    ------
    TypeError, ValueError
        As for `selective_scan_fn`.
    RuntimeError
        A tensor requires a gradient, outside of ``torch.no_grad()``: a step in place has none.

    Examples
    --------
    >>> import torch
    >>> from fusedrnn.interop.torch import selective_state_update
    >>> state, ones = torch.ones(1, 2, 1), torch.ones(1, 2)
    >>> A = torch.log(torch.tensor([[0.5], [0.25]]))
    >>> selective_state_update(state, ones, ones, A, torch.ones(1, 1), torch.ones(1, 1))
    tensor([[1.5000, 1.2500]])
    >>> state.flatten().tolist()
    [1.5, 1.25]
    """
    owner = "selective_state_update"
    dtype = computing_dtype(owner, x=x, state=state, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias)
    refuse_gradient(owner, state, x, dt, A, B, C, D, z, dt_bias)
    heads = x.shape[1:]
    if x.ndim not in (2, 3):
        raise ValueError(_messages.tensor_shape(owner, "x", tuple(x.shape), "(B, D) or (B, H, D)"))
    N = A.shape[-1]
    for name, tensor, shape in (
        ("dt", dt, x.shape), ("z", z, x.shape), ("A", A, (*heads, N)), ("D", D, heads), ("dt_bias", dt_bias, heads),
        ("state", state, (None if state_batch_indices is not None else x.shape[0], *heads, N)),
    ):  # fmt: skip
        check_shape(owner, name, tensor, shape, f"that of x {tuple(x.shape)} and A {tuple(A.shape)}")
    tensors = (state, x, dt, A, B, C, D, z, dt_bias)
    if state_batch_indices is None and state.dtype is dtype and state.is_contiguous() and not is_traced(tensors):
        flat = [
            None if t is None else t.detach().to(dtype).reshape(*t.shape[:kept], -1).numpy()
            for t, kept in ((x, 1), (dt, 1), (z, 1), (D, 0), (dt_bias, 0))
        ]
        matrices = [to_dtype(t.detach(), dtype).numpy() for t in (A.reshape(-1, N), B, C)]
        torch.autograd.graph.increment_version(state)
        with TorchsThreads():
            y = functional.selective_scan_step(
                state.detach().view(x.shape[0], -1, N).numpy(), flat[0], flat[1], *matrices, flat[3], flat[2], flat[4],
                delta_softplus=dt_softplus,
            )  # fmt: skip
        return torch.from_numpy(y).reshape(x.shape).to(x.dtype)
    with torch.no_grad():
        before = state if state_batch_indices is None else state[state_batch_indices.long()]
        wide = [None if t is None else t.to(dtype).reshape(t.shape[0], -1)[None] for t in (x, dt, z)]
        units = [None if t is None else t.to(dtype).reshape(-1) for t in (D, dt_bias)]
        y, after = SELECTIVE_SCAN(
            wide[0], wide[1], to_dtype(A.reshape(-1, N), dtype), to_dtype(B, dtype)[None], to_dtype(C, dtype)[None],
            units[0], wide[2], units[1], before.to(dtype).reshape(x.shape[0], -1, N), dt_softplus,
        )  # fmt: skip
        after = after.reshape(before.shape).to(state.dtype)
        if state_batch_indices is None:
            state.copy_(after)
        else:
            state[state_batch_indices.long()] = after
        return y[0].reshape(x.shape).to(x.dtype)


# ---- convolution ----------------------------------------------------------------------------------------------------


def causal_conv1d_fn(
    x: Any,
    weight: Any,
    bias: Any = None,
    seq_idx: Any = None,
    initial_states: Any = None,
    return_final_states: bool = False,
    final_states_out: Any = None,
    activation: str | None = None,
) -> Any:
    """Causal convolution of each channel, with the arguments of causal_conv1d's function of this name.

    Parameters
    ----------
    x : Tensor (B, D, L)
        A view of (B, L, D) is read without a copy.
    weight : Tensor (D, k)
    bias : Tensor (D,), or None
    seq_idx : integer Tensor (B, L), or None
        The sequence that a step belongs to: sequences that follow each other do not see each other. A negative number
        is a step of padding, whose output is zero.
    initial_states : Tensor (B, D, k - 1), or None
        The inputs before the first step.
    return_final_states : bool
    final_states_out : Tensor (B, D, k - 1), or None
        Receives the final states.
    activation : None, "silu" or "swish"

    Returns
    -------
    y : Tensor (B, D, L)
        A view of a time-major array (L, B, D).
    final_states : Tensor (B, D, k - 1)
        Only with `return_final_states`.

    Raises
    ------
    TypeError, ValueError
        As for `selective_scan_fn`; `seq_idx` together with states.

    Examples
    --------
    >>> import torch
    >>> from fusedrnn.interop.torch import causal_conv1d_fn
    >>> causal_conv1d_fn(torch.arange(4.0).reshape(1, 1, 4), torch.tensor([[100.0, 10.0, 1.0]]))
    tensor([[[  0.,   1.,  12., 123.]]])
    """
    owner = "causal_conv1d_fn"
    dtype = computing_dtype(owner, x=x, weight=weight, bias=bias, initial_states=initial_states)
    activation = read_activation(owner, activation)
    check_shape(owner, "x", x, (None,) * 3, "(B, D, L)")
    D = x.shape[1]
    check_shape(owner, "weight", weight, (D, None), "(D, k)")
    check_shape(owner, "bias", bias, (D,), "(D,)")
    k = weight.shape[1]
    check_shape(owner, "initial_states", initial_states, (x.shape[0], D, k - 1), "(B, D, k - 1)")
    if seq_idx is not None and (initial_states is not None or return_final_states):
        raise ValueError(_messages.states_of_packed_sequences(owner))
    reset, mask = cuts(owner, seq_idx, (x.shape[0], x.shape[2]))
    state = None if initial_states is None else initial_states.to(dtype).transpose(1, 2).contiguous()
    y, last = CAUSAL_CONV(
        as_arrays(x, dtype), to_dtype(weight, dtype), to_dtype(bias, dtype), state, reset, mask, activation
    )
    y = y.permute(1, 2, 0).to(x.dtype)
    if not return_final_states:
        return y
    last = last.transpose(1, 2).to(x.dtype)
    if final_states_out is not None:
        last = final_states_out.copy_(last)
    return y, last


def causal_conv1d_update(
    x: Any,
    conv_state: Any,
    weight: Any,
    bias: Any = None,
    activation: str | None = None,
    cache_seqlens: Any = None,
    conv_state_indices: Any = None,
) -> Any:
    """Steps of `causal_conv1d_fn`, in place, with the arguments of causal_conv1d's function of this name.

    Parameters
    ----------
    x : Tensor (B, D) or (B, D, L)
    conv_state : Tensor (B, D, S), S at least k - 1
        The last S inputs, the oldest first; overwritten.
    weight, bias, activation
        As for `causal_conv1d_fn`.
    cache_seqlens : integer Tensor (B,), or None
        Numbers of inputs so far: `conv_state` is then a ring, in which input i is at i modulo S.
    conv_state_indices : integer Tensor (B,), or None
        The row of `conv_state` that each row of `x` continues.

    Returns
    -------
    Tensor, of the shape of `x`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As for `selective_state_update`.

    Examples
    --------
    >>> import torch
    >>> from fusedrnn.interop.torch import causal_conv1d_update
    >>> state = torch.tensor([[[1.0, 2.0]]])
    >>> causal_conv1d_update(torch.tensor([[3.0]]), state, torch.tensor([[100.0, 10.0, 1.0]]))
    tensor([[123.]])
    >>> state.flatten().tolist()
    [2.0, 3.0]
    """
    owner = "causal_conv1d_update"
    dtype = computing_dtype(owner, x=x, conv_state=conv_state, weight=weight, bias=bias)
    activation = read_activation(owner, activation)
    refuse_gradient(owner, x, conv_state, weight, bias)
    if x.ndim not in (2, 3):
        raise ValueError(_messages.tensor_shape(owner, "x", tuple(x.shape), "(B, D) or (B, D, L)"))
    new = x if x.ndim == 3 else x.unsqueeze(-1)
    D, L = new.shape[1:]
    check_shape(owner, "weight", weight, (D, None), "(D, k)")
    check_shape(owner, "bias", bias, (D,), "(D,)")
    rows = None if conv_state_indices is not None else x.shape[0]
    check_shape(owner, "conv_state", conv_state, (rows, D, None), "(B, D, S)")
    k, S = weight.shape[1], conv_state.shape[2]
    if k - 1 > S:
        raise ValueError(
            _messages.tensor_shape(owner, "conv_state", tuple(conv_state.shape), f"(B, D, S), S >= {k - 1}")
        )
    with torch.no_grad():
        state = conv_state if conv_state_indices is None else conv_state[conv_state_indices.long()]
        if cache_seqlens is not None:
            ages = cache_seqlens.long()[:, None, None] + torch.arange(S)
            state = state.gather(2, (ages % S).expand(state.shape))  # the oldest first
        before = state[..., S - (k - 1) :].to(dtype).transpose(1, 2).contiguous()
        y, _ = CAUSAL_CONV(
            as_arrays(new, dtype), to_dtype(weight, dtype), to_dtype(bias, dtype), before, None, None, activation
        )
        after = torch.cat([state, new.to(state.dtype)], -1)[..., L:]
        if cache_seqlens is not None:
            ages = (cache_seqlens.long()[:, None, None] + L + torch.arange(S)) % S
            after = torch.empty_like(after).scatter_(2, ages.expand(after.shape), after)
        if conv_state_indices is None:
            conv_state.copy_(after)
        else:
            conv_state[conv_state_indices.long()] = after
        return y.permute(1, 2, 0).to(x.dtype).reshape(x.shape)
