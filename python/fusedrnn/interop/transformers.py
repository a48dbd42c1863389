"""transformers' recurrent models on fusedrnn's kernels, on the CPU: one line, ``accelerate()``.

On a CPU, transformers computes Mamba, Mamba-2, the gated delta rule and RG-LRU with torch functions written for
clarity: loops over steps, or states of all steps in memory. ``accelerate`` puts functions with the same arguments and
results in their place. Models that exist already use them, too.

Examples
--------
>>> import torch, transformers
>>> from fusedrnn.interop.transformers import accelerate
>>> changed = accelerate(["mamba"])
>>> config = transformers.MambaConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1)
>>> model = transformers.MambaForCausalLM(config)
>>> model(torch.tensor([[1, 2, 3]])).logits.shape
torch.Size([1, 3, 11])
>>> changed.undo()
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import torch
import transformers

from . import _messages
from .torch_attention import gated_delta_rule, linear_recurrence, mamba_chunk_scan_combined
from .torch_functions import (
    causal_conv1d_fn,
    causal_conv1d_update,
    selective_scan_fn,
    selective_state_update,
)
from .torch_kernels import FLOATS

__all__ = ["Acceleration", "accelerate"]

CONVOLUTION = ("causal_conv1d_fn", "causal_conv1d_update")
MAMBA = (*CONVOLUTION, "mamba_selective_scan", "mamba_selective_state_update")
MAMBA2 = (*CONVOLUTION, "mamba2_chunk_scan", "mamba2_selective_state_update")
DELTA_RULE = (*CONVOLUTION, "torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")

#: Model type -> the functions of its module that are replaced.
MODELS: dict[str, tuple[str, ...]] = {
    "bamba": MAMBA2,
    "falcon_h1": MAMBA2,
    "falcon_mamba": MAMBA,
    "granitemoehybrid": MAMBA2,
    "jamba": MAMBA,
    "mamba": MAMBA,
    "mamba2": MAMBA2,
    "nemotron_h": MAMBA2,
    "olmo_hybrid": DELTA_RULE,
    "qwen3_5": DELTA_RULE,
    "qwen3_5_moe": DELTA_RULE,
    "qwen3_next": DELTA_RULE,
    "recurrent_gemma": ("RecurrentGemmaRglru._rnn_scan",),
    "zamba": MAMBA,
    "zamba2": MAMBA2,
}

#: Function -> the names of its parameters in transformers.
PARAMETERS = {
    "causal_conv1d_fn": "hidden_states weight bias activation kwargs",
    "causal_conv1d_update": "hidden_states conv_state weight bias activation",
    "mamba_selective_scan": (
        "hidden_states dt A B C D z delta_bias delta_softplus return_last_state use_mambapy use_associative_scan kwargs"
    ),
    "mamba_selective_state_update": "state hidden_states dt A B C D dt_bias dt_softplus z kwargs",
    "mamba2_chunk_scan": (
        "hidden_states dt A B C chunk_size D dt_bias initial_states dt_softplus dt_limit return_final_states kwargs"
    ),
    "mamba2_selective_state_update": "state hidden_states dt A B C D dt_bias dt_softplus z kwargs",
    "torch_chunk_gated_delta_rule": (
        "query key value g beta chunk_size initial_state output_final_state use_qk_l2norm_in_kernel kwargs"
    ),
    "torch_recurrent_gated_delta_rule": (
        "query key value g beta initial_state output_final_state use_qk_l2norm_in_kernel kwargs"
    ),
    "RecurrentGemmaRglru._rnn_scan": "self hidden_states recurrent_gate reset recurrent_states acc_dtype",
}


class Acceleration:
    """The functions that a call of `accelerate` replaced; undone by `undo`, or at the end of a ``with`` block.

    Attributes
    ----------
    replaced : tuple of str
        The names of the functions, with their modules; empty if an earlier call had replaced all of them, or after
        `undo`.
    """

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Callable[..., Any], str]] = []

    @property
    def replaced(self) -> tuple[str, ...]:
        return tuple(name for *_, name in self._replaced)

    def undo(self) -> None:
        """Put transformers' own functions back; may be called again."""
        while self._replaced:
            place, name, theirs, _ = self._replaced.pop()
            setattr(place, name, theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        modules = sorted({name.split(".modeling_")[1].split(".")[0] for name in self.replaced})
        return f"<Acceleration of {', '.join(modules) or 'nothing'}: {len(self.replaced)} functions>"


def accelerate(models: Iterable[str] | None = None) -> Acceleration:
    """Make transformers' recurrent models use fusedrnn's kernels on the CPU, for inference, training and generation.

    Parameters
    ----------
    models : iterable of str, or None
        Types of models, as in their configurations: "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba",
        "mamba", "mamba2", "nemotron_h", "olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_next", "recurrent_gemma",
        "zamba", "zamba2". None is all of them. Their modules are imported.

    Returns
    -------
    Acceleration
        Says which functions were replaced, and puts them back: ``.undo()``, or a ``with`` block. Functions that are
        replaced already stay as they are, and belong to the earlier call.

    Raises
    ------
    ValueError
        `models` names another model.
    ImportError
        This version of transformers lacks a function, or has it with other parameters; nothing is replaced then.

    Notes
    -----
    Replaced are the functions, in the modules of the models, that transformers itself exchanges for those of mamba_ssm,
    causal_conv1d and flash-linear-attention where a GPU is present. A call falls back on transformers' function for
    tensors that are not on the CPU, for activations other than silu and for dtypes without kernels, and a step of
    generation also while gradients are recorded. Results equal transformers' up to rounding.
    """
    names = list(MODELS) if models is None else list(models)
    for name in names:
        if name not in MODELS:
            raise ValueError(_messages.no_such_model(name, MODELS))
    found = [(*_place(model, function), function) for model in dict.fromkeys(names) for function in MODELS[model]]
    changed = Acceleration()
    for place, name, full, function in found:
        theirs = getattr(place, name)
        if not hasattr(theirs, "_before_fusedrnn"):
            setattr(place, name, _replacement(function, theirs))
            changed._replaced.append((place, name, theirs, full))
    return changed


def _place(model: str, function: str) -> tuple[Any, str, str]:
    """The object that holds a function, the function's name there, and the full name; checked."""
    module = f"transformers.models.{model}.modeling_{model}"
    full, version = f"{module}.{function}", transformers.__version__
    try:
        place: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(_messages.no_function(version, full)) from error
    *classes, name = function.split(".")
    for each in classes:
        place = getattr(place, each, None)
    theirs = getattr(place, name, None)
    if theirs is None:
        raise ImportError(_messages.no_function(version, full))
    parameters = " ".join(inspect.signature(theirs).parameters)
    if parameters != PARAMETERS[function]:
        given = (f"({', '.join(text.split())})" for text in (parameters, PARAMETERS[function]))
        raise ImportError(_messages.other_transformers(version, full, *given))
    return place, name, full


def _replacement(function: str, theirs: Callable[..., Any]) -> Callable[..., Any]:
    """Our function in place of theirs, which serves the calls that ours does not."""
    ours = OURS[function]

    @functools.wraps(theirs)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = ours(*args, **kwargs) if _all_fit(args) and _all_fit(kwargs.values()) else NotImplemented
        return theirs(*args, **kwargs) if result is NotImplemented else result

    call._before_fusedrnn = theirs  # type: ignore[attr-defined]
    return call


def _all_fit(values: Iterable[Any]) -> bool:
    """Whether all tensors are on the CPU, and those of numbers have a dtype with kernels."""
    return all(
        value.device.type in ("cpu", "meta") and (value.dtype in FLOATS or not value.is_floating_point())
        for value in values
        if isinstance(value, torch.Tensor)
    )


def _records(*tensors: Any) -> bool:
    """Whether gradients are recorded for some tensor."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


# ---- the functions, with transformers' parameters -------------------------------------------------------------------


def _causal_conv1d_fn(
    hidden_states: Any, weight: Any, bias: Any = None, activation: Any = None, seq_idx: Any = None, **_: Any
) -> Any:
    if activation not in (None, "silu", "swish"):
        return NotImplemented
    y = causal_conv1d_fn(hidden_states, weight, bias, seq_idx, activation=activation)
    return y.to(hidden_states.dtype)


def _causal_conv1d_update(
    hidden_states: Any, conv_state: Any, weight: Any, bias: Any = None, activation: Any = None
) -> Any:
    if activation not in (None, "silu", "swish") or _records(hidden_states, conv_state, weight, bias):
        return NotImplemented
    return causal_conv1d_update(hidden_states, conv_state, weight, bias, activation)


def _selective_scan(
    hidden_states: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    z: Any = None,
    delta_bias: Any = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Any:
    return selective_scan_fn(hidden_states, dt, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


def _state_update(
    state: Any,
    hidden_states: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    dt_bias: Any = None,
    dt_softplus: bool = False,
    z: Any = None,
    **_: Any,
) -> Any:
    if _records(state, hidden_states, dt, A, B, C, D, dt_bias, z):
        return NotImplemented
    return selective_state_update(state, hidden_states, dt, A, B, C, D, z, dt_bias, dt_softplus)


def _chunk_scan(
    hidden_states: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    chunk_size: int,
    D: Any = None,
    dt_bias: Any = None,
    initial_states: Any = None,
    dt_softplus: bool = False,
    dt_limit: Any = (0.0, float("inf")),
    return_final_states: bool = False,
    z: Any = None,
    seq_idx: Any = None,
    **_: Any,
) -> Any:
    return mamba_chunk_scan_combined(
        hidden_states, dt, A, B, C, chunk_size, D, z, dt_bias, initial_states, seq_idx, None, dt_softplus, dt_limit,
        return_final_states,
    )  # fmt: skip


def _delta_rule(
    query: Any,
    key: Any,
    value: Any,
    g: Any,
    beta: Any,
    chunk_size: int = 64,
    initial_state: Any = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Any = None,
    **_: Any,
) -> Any:
    if cu_seqlens is not None:
        return NotImplemented  # transformers' function says what is missing
    output, last = gated_delta_rule(query, key, value, g, beta, initial_state, normalised=use_qk_l2norm_in_kernel)
    return output, last if output_final_state else None


def _rnn_scan(
    self: Any,
    hidden_states: Any,
    recurrent_gate: Any,
    reset: Any,
    recurrent_states: Any,
    acc_dtype: Any = torch.float32,
) -> Any:
    if acc_dtype not in (torch.float32, torch.float64):
        return NotImplemented
    factors = (recurrent_gate * ~reset).to(acc_dtype)
    h, last = linear_recurrence(factors, hidden_states.to(acc_dtype), recurrent_states)
    return h.to(hidden_states.dtype), last


OURS: dict[str, Callable[..., Any]] = {
    "causal_conv1d_fn": _causal_conv1d_fn,
    "causal_conv1d_update": _causal_conv1d_update,
    "mamba_selective_scan": _selective_scan,
    "mamba_selective_state_update": _state_update,
    "mamba2_chunk_scan": _chunk_scan,
    "mamba2_selective_state_update": _state_update,
    "torch_chunk_gated_delta_rule": _delta_rule,
    "torch_recurrent_gated_delta_rule": _delta_rule,
    "RecurrentGemmaRglru._rnn_scan": _rnn_scan,
}
