"""The operators of torch that stand for functions on plain arrays, and what their callers read arguments with."""

from __future__ import annotations

from typing import Any

import torch

from .. import functional
from . import _messages
from .torch_operators import Function, Operator, contiguous_last

#: dtypes of tensors that can be cast to the dtype of a computation.
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


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


def computing_dtype(owner: str, **tensors: Any) -> Any:
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


def to_dtype(tensor: Any, dtype: Any) -> Any:
    """The tensor, or None, in a real dtype or in the complex one of this width."""
    if tensor is None:
        return None
    if tensor.is_complex():
        dtype = torch.complex128 if dtype is torch.float64 else torch.complex64
    return contiguous_last(tensor.to(dtype))


def check_shape(owner: str, name: str, tensor: Any, shape: tuple[Any, ...], formula: str) -> None:
    """Check a shape; None stands for any size."""
    if tensor is not None and (
        tensor.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, tensor.shape, strict=True))
    ):
        raise ValueError(_messages.tensor_shape(owner, name, tuple(tensor.shape), formula))


def refuse_gradient(owner: str, *tensors: Any) -> None:
    """A step in place has no gradient; say so rather than return tensors without one."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        raise RuntimeError(_messages.step_without_gradient(owner))


def read_activation(owner: str, activation: Any) -> Any:
    if activation not in (None, "silu", "swish"):
        raise ValueError(_messages.no_such_activation(owner, activation))
    return activation and "silu"


def cuts(owner: str, seq_idx: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
    """Resets where the number of the sequence changes, and the steps that are not padding; time-major."""
    if seq_idx is None:
        return None, None
    check_shape(owner, "seq_idx", seq_idx, shape, "(B, L)")
    number = seq_idx.t()
    return torch.cat([torch.zeros_like(number[:1], dtype=torch.bool), number[1:] != number[:-1]]), number >= 0
