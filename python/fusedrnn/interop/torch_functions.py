"""Functions of mamba_ssm and causal_conv1d on fusedrnn's kernels; exported by `fusedrnn.interop.torch`.

Names, arguments, shapes and results are those of the two packages, which need CUDA. Tensors are on the CPU. The
computation is in double precision where the first tensor is float64, else in single precision; results have the first
one's dtype.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from .. import functional
from . import _messages
from .torch_operators import Function, Operator, as_arrays, contiguous_last

__all__ = [
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "gated_delta_rule",
    "linear_recurrence",
    "mamba_chunk_scan_combined",
    "selective_scan_fn",
    "selective_state_update",
]

#: dtypes of tensors that can be cast to the dtype of a computation.
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


# ---- operators ------------------------------------------------------------------------------------------------------


def _scan(*arguments: Any) -> Any:
    *arrays, softplus = arguments
    y, h_n, tape = functional.selective_scan_forward(*arrays, delta_softplus=softplus)
    return (y, h_n), tape


def _scan_gradients(tape: Any, dy: Any, dh_n: Any) -> Any:
    return functional.selective_scan_backward(tape, dy, dh_n)


def _convolution(x: Any, weight: Any, bias: Any, state: Any, reset: Any, mask: Any, activation: Any) -> Any:
    y, state_n, tape = functional.causal_conv_forward(
        x, weight, bias, state, activation=activation, reset=reset, mask=mask
    )
    return (y, state_n), tape


def _convolution_gradients(tape: Any, dy: Any, dstate_n: Any) -> Any:
    grads = functional.causal_conv_backward(tape, dy, dstate_n)
    return grads.dx, grads.dweight, grads.dbias, grads.dstate, None, None


def _attention(q: Any, k: Any, v: Any, decay: Any, beta: Any, S_0: Any, reset: Any, heads: int, scale: float) -> Any:
    o, S_n, tape = functional.linear_attention_forward(
        q, k, v, decay, beta, S_0, num_heads=heads, scale=scale, reset=reset
    )
    return (o, S_n), tape


def _attention_gradients(tape: Any, do: Any, dS_n: Any) -> Any:
    grads = functional.linear_attention_backward(tape, do, dS_n)
    return grads.dq, grads.dk, grads.dv, grads.ddecay, grads.dbeta, grads.dS_0, None


def _attention_shapes(q: Any, k: Any, v: Any, *rest: Any) -> Any:
    heads = rest[-2]
    return v.shape, (q.shape[1], heads, q.shape[2] // heads, v.shape[2] // heads)


def _recurrence(a: Any, b: Any, h_0: Any) -> Any:
    h, h_n, tape = functional.scan_forward(a, b, h_0)
    return (h, h_n), tape


SELECTIVE_SCAN = Operator(
    Function(
        "selective_scan",
        "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, Tensor? h_0",
        "bool delta_softplus",
        2,
        _scan,
        _scan_gradients,
        lambda u, delta, A, *_: (u.shape, (*u.shape[1:], A.shape[1])),
    )
)
CAUSAL_CONV = Operator(
    Function(
        "causal_conv",
        "Tensor x, Tensor weight, Tensor? bias, Tensor? state, Tensor? reset, Tensor? mask",
        "str? activation",
        2,
        _convolution,
        _convolution_gradients,
        lambda x, weight, *_: (x.shape, (x.shape[1], weight.shape[1] - 1, x.shape[2])),
    )
)
LINEAR_ATTENTION = Operator(
    Function(
        "linear_attention",
        "Tensor q, Tensor k, Tensor v, Tensor? decay, Tensor? beta, Tensor? S_0, Tensor? reset",
        "int num_heads, float scale",
        2,
        _attention,
        _attention_gradients,
        _attention_shapes,
    )
)
SCAN = Operator(
    Function(
        "scan",
        "Tensor a, Tensor b, Tensor? h_0",
        "",
        2,
        _recurrence,
        functional.scan_backward,
        lambda a, b, *_: (b.shape, b.shape[1:]),
    )
)


# ---- reading --------------------------------------------------------------------------------------------------------


def _dtype(owner: str, **tensors: Any) -> Any:
    """The dtype of the computation, from the first tensor; all tensors are checked."""
    first = next(iter(tensors.values()))
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(_messages.no_tensor(owner, name, tensor))
        if tensor.device.type != "cpu" and tensor.device.type != "meta":
            raise TypeError(_messages.not_on_the_cpu(owner, name, tensor.device))
        if tensor.dtype not in FLOATS and not (tensor.is_complex() and name in ("A", "B", "C")):
            raise TypeError(_messages.not_floating(owner, name, tensor.dtype))
    return torch.float64 if first.dtype is torch.float64 else torch.float32


def _to(tensor: Any, dtype: Any) -> Any:
    """The tensor, or None, in a real dtype or in the complex one of this width."""
    if tensor is None:
        return None
    if tensor.is_complex():
        dtype = torch.complex128 if dtype is torch.float64 else torch.complex64
    return contiguous_last(tensor.to(dtype))


def _shape(owner: str, name: str, tensor: Any, shape: tuple[Any, ...], formula: str) -> None:
    """Check a shape; None stands for any size."""
    if tensor is not None and (
        tensor.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, tensor.shape, strict=True))
    ):
        raise ValueError(_messages.tensor_shape(owner, name, tuple(tensor.shape), formula))


def _no_gradient(owner: str, *tensors: Any) -> None:
    """A step in place has no gradient; say so rather than return tensors without one."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        raise RuntimeError(_messages.step_without_gradient(owner))


def _activation(owner: str, activation: Any) -> Any:
    if activation not in (None, "silu", "swish"):
        raise ValueError(_messages.no_such_activation(owner, activation))
    return activation and "silu"


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
    dtype = _dtype(owner, u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias)
    _shape(owner, "u", u, (None,) * 3, "(B, D, L)")
    _shape(owner, "delta", delta, u.shape, "(B, D, L), as u has")
    _shape(owner, "z", z, u.shape, "(B, D, L), as u has")
    both = [_projection(owner, name, value, A, u.shape, dtype) for name, value in (("B", B), ("C", C))]
    y, last = SELECTIVE_SCAN(
        as_arrays(u, dtype), as_arrays(delta, dtype), _to(A, dtype), *both, _to(D, dtype),
        None if z is None else as_arrays(z, dtype), _to(delta_bias, dtype), None, delta_softplus,
    )  # fmt: skip
    y = y.permute(1, 2, 0).to(u.dtype)
    return (y, last) if return_last_state else y


def _projection(owner: str, name: str, value: Any, A: Any, shape: Any, dtype: Any) -> Any:
    """B or C, time-major: (T, B, N) or (T, B, G, N); constant ones as they are."""
    if value.ndim == 2:
        return _to(value, dtype)
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
    dtype = _dtype(owner, x=x, state=state, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias)
    _no_gradient(owner, state, x, dt, A, B, C, D, z, dt_bias)
    heads = x.shape[1:]
    if x.ndim not in (2, 3):
        raise ValueError(_messages.tensor_shape(owner, "x", tuple(x.shape), "(B, D) or (B, H, D)"))
    N = A.shape[-1]
    for name, tensor, shape in (
        ("dt", dt, x.shape), ("z", z, x.shape), ("A", A, (*heads, N)), ("D", D, heads), ("dt_bias", dt_bias, heads),
        ("state", state, (None if state_batch_indices is not None else x.shape[0], *heads, N)),
    ):  # fmt: skip
        _shape(owner, name, tensor, shape, f"that of x {tuple(x.shape)} and A {tuple(A.shape)}")
    with torch.no_grad():
        before = state if state_batch_indices is None else state[state_batch_indices.long()]
        wide = [None if t is None else t.to(dtype).reshape(t.shape[0], -1)[None] for t in (x, dt, z)]
        units = [None if t is None else t.to(dtype).reshape(-1) for t in (D, dt_bias)]
        y, after = SELECTIVE_SCAN(
            wide[0], wide[1], _to(A.reshape(-1, N), dtype), _to(B, dtype)[None], _to(C, dtype)[None], units[0],
            wide[2], units[1], before.to(dtype).reshape(x.shape[0], -1, N), dt_softplus,
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
    dtype = _dtype(owner, x=x, weight=weight, bias=bias, initial_states=initial_states)
    activation = _activation(owner, activation)
    _shape(owner, "x", x, (None,) * 3, "(B, D, L)")
    D = x.shape[1]
    _shape(owner, "weight", weight, (D, None), "(D, k)")
    _shape(owner, "bias", bias, (D,), "(D,)")
    k = weight.shape[1]
    _shape(owner, "initial_states", initial_states, (x.shape[0], D, k - 1), "(B, D, k - 1)")
    if seq_idx is not None and (initial_states is not None or return_final_states):
        raise ValueError(_messages.states_of_packed_sequences(owner))
    reset, mask = _cuts(owner, seq_idx, (x.shape[0], x.shape[2]))
    state = None if initial_states is None else initial_states.to(dtype).transpose(1, 2).contiguous()
    y, last = CAUSAL_CONV(as_arrays(x, dtype), _to(weight, dtype), _to(bias, dtype), state, reset, mask, activation)
    y = y.permute(1, 2, 0).to(x.dtype)
    if not return_final_states:
        return y
    last = last.transpose(1, 2).to(x.dtype)
    if final_states_out is not None:
        last = final_states_out.copy_(last)
    return y, last


def _cuts(owner: str, seq_idx: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
    """Resets where the number of the sequence changes, and the steps that are not padding; time-major."""
    if seq_idx is None:
        return None, None
    _shape(owner, "seq_idx", seq_idx, shape, "(B, L)")
    number = seq_idx.t()
    return torch.cat([torch.zeros_like(number[:1], dtype=torch.bool), number[1:] != number[:-1]]), number >= 0


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
    dtype = _dtype(owner, x=x, conv_state=conv_state, weight=weight, bias=bias)
    activation = _activation(owner, activation)
    _no_gradient(owner, x, conv_state, weight, bias)
    if x.ndim not in (2, 3):
        raise ValueError(_messages.tensor_shape(owner, "x", tuple(x.shape), "(B, D) or (B, D, L)"))
    new = x if x.ndim == 3 else x.unsqueeze(-1)
    D, L = new.shape[1:]
    _shape(owner, "weight", weight, (D, None), "(D, k)")
    _shape(owner, "bias", bias, (D,), "(D,)")
    rows = None if conv_state_indices is not None else x.shape[0]
    _shape(owner, "conv_state", conv_state, (rows, D, None), "(B, D, S)")
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
        y, _ = CAUSAL_CONV(as_arrays(new, dtype), _to(weight, dtype), _to(bias, dtype), before, None, None, activation)
        after = torch.cat([state, new.to(state.dtype)], -1)[..., L:]
        if cache_seqlens is not None:
            ages = (cache_seqlens.long()[:, None, None] + L + torch.arange(S)) % S
            after = torch.empty_like(after).scatter_(2, ages.expand(after.shape), after)
        if conv_state_indices is None:
            conv_state.copy_(after)
        else:
            conv_state[conv_state_indices.long()] = after
        return y.permute(1, 2, 0).to(x.dtype).reshape(x.shape)


# ---- linear attention -----------------------------------------------------------------------------------------------


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
    dtype = _dtype(owner, x=x, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias, initial_states=initial_states)
    if return_varlen_states:
        raise ValueError(_messages.no_varlen_states(owner))
    _shape(owner, "x", x, (None,) * 4, "(B, L, H, P)")
    rows, L, H, P = x.shape
    N = B.shape[-1]
    for name, tensor, shape, formula in (
        ("dt", dt, (rows, L, H), "(B, L, H)"), ("A", A, (H,), "(H,)"), ("B", B, (rows, L, None, N), "(B, L, G, N)"),
        ("C", C, B.shape, "(B, L, G, N)"), ("z", z, x.shape, "(B, L, H, P)"), ("dt_bias", dt_bias, (H,), "(H,)"),
        ("initial_states", initial_states, (rows, H, P, N), "(B, H, P, N)"),
    ):  # fmt: skip
        _shape(owner, name, tensor, shape, formula)
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
    reset, _ = _cuts(owner, seq_idx, (rows, L))
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
    """The gated delta rule, with the layout of flash-linear-attention's ``chunk_gated_delta_rule``.

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
    dtype = _dtype(owner, query=query, key=key, value=value, g=g, beta=beta, initial_state=initial_state)
    _shape(owner, "key", key, (None,) * 4, "(B, L, G, K)")
    _shape(owner, "query", query, key.shape, "(B, L, G, K), as key has")
    rows, L, groups, K = key.shape
    _shape(owner, "value", value, (rows, L, None, None), "(B, L, H, V)")
    H, V = value.shape[2:]
    if groups < 1 or H % groups:
        raise ValueError(
            _messages.tensor_shape(owner, "key", tuple(key.shape), f"(B, L, G, K), G a divisor of H = {H}")
        )
    for name, tensor, shape, formula in (
        ("g", g, (rows, L, H), "(B, L, H)"), ("beta", beta, (rows, L, H), "(B, L, H)"),
        ("initial_state", initial_state, (rows, H, K, V), "(B, H, K, V)"),
    ):  # fmt: skip
        _shape(owner, name, tensor, shape, formula)
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
    dtype = _dtype(owner, b=b, a=a, h_0=h_0)
    _shape(owner, "b", b, (None,) * 3, "(B, L, D)")
    _shape(owner, "a", a, b.shape, "(B, L, D), as b has")
    _shape(owner, "h_0", h_0, (b.shape[0], b.shape[2]), "(B, D)")
    h, h_n = SCAN(*(contiguous_last(t.to(dtype).transpose(0, 1)) for t in (a, b)), _to(h_0, dtype))
    return h.transpose(0, 1).to(b.dtype), h_n
