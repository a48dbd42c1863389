"""torch modules that run on fusedrnn's kernels: ``RNN``, ``GRU``, ``LSTM`` instead of ``torch.nn``'s, on the CPU.

They are torch's own modules (arguments, parameters, initialisation, ``state_dict``, ``isinstance``) with fusedrnn's
forward and backward pass. Tensors are passed without a copy, and torch's number of threads is used. Needs torch.

Examples
--------
>>> import torch
>>> from fusedrnn.interop.torch import LSTM, from_module
>>> lstm = LSTM(8, 16, num_layers=2, bidirectional=True)
>>> y, (h, c) = lstm(torch.randn(50, 4, 8))
>>> y.sum().backward()
>>> lstm.weight_hh_l0.grad.shape
torch.Size([64, 16])

Integer input means tokens. With ``lstm.sparse = True`` the gradient of weight_ih is then a sparse tensor, as that of
``torch.nn.Embedding(..., sparse=True)``, and a step costs the same for every size of the vocabulary:

>>> words = LSTM(100_000, 16)
>>> words.sparse = True
>>> words(torch.tensor([[7], [99_999]]))[0].sum().backward()
>>> words.weight_ih_l0.grad.is_sparse
True
>>> torch.optim.SparseAdam([words.weight_ih_l0]).step()

Every recurrent layer of an existing model, which may already have an optimiser:

>>> model = torch.nn.ModuleDict({"encoder": torch.nn.GRU(8, 16), "head": torch.nn.Linear(16, 2)})
>>> from_module(model)["encoder"]
GRU(8, 16)
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import PackedSequence

import fusedrnn

from .. import _validate
from .._ragged import ByStep
from ..grads import SparseGrad
from .torch_attention import gated_delta_rule, linear_recurrence, mamba_chunk_scan_combined
from .torch_functions import (
    causal_conv1d_fn,
    causal_conv1d_update,
    selective_scan_fn,
    selective_state_update,
)
from .torch_operators import TorchsThreads, graph_is_kept

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "from_module",
    "gated_delta_rule",
    "linear_recurrence",
    "mamba_chunk_scan_combined",
    "selective_scan_fn",
    "selective_state_update",
]

Array = NDArray[Any]

#: The supported dtypes.
DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def _opaque(function: Callable[..., Any]) -> Callable[..., Any]:
    """Exclude a function from tracing by torch.compile, without importing torch.compile's machinery."""
    disabled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            disable = getattr(sys.modules.get("torch._dynamo"), "disable", None)
            if disable is None:
                return function(*args)
            disabled = disable(function)
        return disabled(*args)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    return call


class _Recurrent:
    """Common base of the three modules; precedes torch's class in the order of bases."""

    #: Whether the gradient of a weight_ih that reads tokens is a sparse tensor, as of ``torch.nn.Embedding``.
    #: Gradients of weights that are computed from parameters (weight_norm, parametrizations) are dense in any case.
    sparse: bool = False

    def forward(self, input: Any, hx: Any = None, *, mask: Any = None, reset: Any = None) -> tuple[Any, Any]:
        """Run as torch's module of the same name does.

        Parameters
        ----------
        input : Tensor or PackedSequence
            Floats of the parameters' dtype and torch's shapes; or integer tokens without the last axis, each a one-hot
            vector (which torch does not support).
        hx : Tensor, pair of these, or None
            The state before the first step: h_0, for LSTM (h_0, c_0).
        mask, reset : bool Tensor in the layout of `input` without its last axis, or None
            As for calling fusedrnn's layer, and not for a PackedSequence: False skips a step; True puts a row at zero
            before a step, whatever `hx` is (recurrent PPO; docs/resets.md).

        Returns
        -------
        output : Tensor or PackedSequence
        hx : Tensor, or pair of these

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling fusedrnn's layer; TypeError also if tensors are not on the CPU, or of another dtype.
        NotImplementedError
            From the backward pass with ``create_graph=True``: the kernels compute only first derivatives.
        """
        return self._forward(input, hx, mask, reset)  # type: ignore[no-any-return]

    @_opaque
    def _forward(self: Any, input: Any, hx: Any, mask: Any, reset: Any) -> tuple[Any, Any]:
        given = {"mask": mask, "reset": reset}
        steps = {name: _array(flags) for name, flags in given.items() if flags is not None}
        if isinstance(input, PackedSequence):
            if steps:
                raise _validate.packed_flags(type(self).__name__, *steps)
            return self._packed(input, hx)  # type: ignore[no-any-return]
        return self._sequence(input, hx, self.batch_first, steps)  # type: ignore[no-any-return]

    def _packed(self: Any, packed: Any, hx: Any) -> tuple[Any, Any]:
        """Run on the packed data as they are; rows stay in their packed order, by decreasing length."""
        data, batch_sizes, order, order_back = packed
        if hx is not None:
            hx = self.permute_hidden(hx, order)
        data, hx = self._sequence(data, hx, False, {}, batch_sizes)
        return PackedSequence(data, batch_sizes, order, order_back), self.permute_hidden(hx, order_back)

    def _sequence(
        self: Any, x: Any, hx: Any, batch_first: bool, steps: dict[str, Any], batch_sizes: Any = None
    ) -> tuple[Any, Any]:
        names = self._flat_weights_names
        try:
            params = [self._parameters[name] for name in names]
        except KeyError:  # some are computed by weight_norm, parametrizations or pruning
            params = [getattr(self, name) for name in names]
        x = _checked(type(self).__name__, x, params[0].dtype)
        dropout = self.dropout if self.training else 0.0
        layer = self._layer_with(names, params, self._configured(batch_first, dropout, DTYPES[params[0].dtype]))
        if dropout:  # from torch's generator, so that torch's seed determines the masks
            layer = layer._with_params(layer.params)  # not the one that other threads may be using
            layer.rng = int(torch.randint(2**63 - 1, ()))
        state = () if hx is None else hx if isinstance(hx, (tuple, list)) else (hx,)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *state, *params)):
            # torch's backward passes of weight_norm and the like take no sparse gradients.
            sparse = _validate.flag(type(self).__name__, "sparse", self.sparse) and all(p.is_leaf for p in params)
            y, *state_n = _Sequence.apply(layer, (steps, batch_sizes, sparse), len(state), x, *state, *params)
            return y, (state_n[0] if len(state_n) == 1 else tuple(state_n))
        given = _state(map(_array, state))
        with TorchsThreads():
            if dropout:
                y, out, _ = layer.forward(_input(x, batch_sizes), given, **steps)
            else:
                y, out = layer(_input(x, batch_sizes), given, **steps)
        out = tuple(map(torch.from_numpy, out)) if isinstance(out, tuple) else torch.from_numpy(out)
        return torch.from_numpy(y), out

    def _configured(self: Any, batch_first: bool, dropout: float, dtype: np.dtype[Any]) -> Any:
        """fusedrnn's layer of this configuration, without parameters."""
        ours, option = self._fusedrnn
        return _layer(
            ours,
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bias,
            batch_first,
            dropout,
            self.bidirectional,
            dtype,
            option and getattr(self, option),
            option,
        )

    def _layer_with(self: Any, names: list[str], params: list[Any], configured: Any) -> Any:
        """The layer with the parameters as arrays, which are cached, as creating them takes microseconds."""
        where = [(tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) for tensor in params]
        kept = self.__dict__.get("_kept_layer")
        if kept is None or kept[0] is not configured or kept[1] != where:
            layer = configured._with_params(dict(zip(names, map(_array, params), strict=True)))
            self.__dict__["_kept_layer"] = kept = configured, where, layer
        return kept[2]

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        state.pop("_kept_layer", None)
        return state


class RNN(_Recurrent, torch.nn.RNN):
    """``torch.nn.RNN`` on fusedrnn's kernels.

    Examples
    --------
    >>> import torch
    >>> rnn = RNN(3, 5, nonlinearity="relu")
    >>> y, h = rnn(torch.zeros(7, 2, 3))
    >>> y.shape, h.shape
    (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))
    """

    _fusedrnn = (fusedrnn.RNN, "nonlinearity")


class GRU(_Recurrent, torch.nn.GRU):
    """``torch.nn.GRU`` on fusedrnn's kernels.

    Examples
    --------
    >>> import torch
    >>> gru = GRU(3, 5, batch_first=True)
    >>> y, h = gru(torch.zeros(2, 7, 3))
    >>> y.shape, h.shape
    (torch.Size([2, 7, 5]), torch.Size([1, 2, 5]))
    """

    _fusedrnn = (fusedrnn.GRU, None)


class LSTM(_Recurrent, torch.nn.LSTM):
    """``torch.nn.LSTM`` on fusedrnn's kernels.

    Examples
    --------
    >>> import torch
    >>> lstm = LSTM(3, 5)
    >>> packed = torch.nn.utils.rnn.pack_sequence([torch.zeros(7, 3), torch.zeros(4, 3)])
    >>> y, (h, c) = lstm(packed)
    >>> y.data.shape, h.shape, c.shape
    (torch.Size([11, 5]), torch.Size([1, 2, 5]), torch.Size([1, 2, 5]))
    """

    _fusedrnn = (fusedrnn.LSTM, "proj_size")


def from_module(module: Any) -> Any:
    """Make every ``torch.nn.RNN``, ``GRU`` and ``LSTM`` in a module use fusedrnn's kernels, in place.

    Parameters
    ----------
    module : torch.nn.Module
        A recurrent layer, or a module that contains some. Subclasses of these layers are left unchanged, because they
        may compute something else.

    Returns
    -------
    torch.nn.Module
        The same object: parameters, hooks, and optimisers that refer to the parameters stay valid.

    Raises
    ------
    TypeError
        `module` is not a torch module.

    Examples
    --------
    >>> import torch
    >>> lstm = torch.nn.LSTM(3, 5)
    >>> from_module(lstm) is lstm, type(lstm).__module__
    (True, 'fusedrnn.interop.torch')
    """
    if not isinstance(module, torch.nn.Module):
        raise _validate.no_module("from_module", module)
    for child in module.modules():
        ours = OURS.get(type(child))
        if ours is not None:
            child.__class__ = ours
    return module


OURS = {torch.nn.RNN: RNN, torch.nn.GRU: GRU, torch.nn.LSTM: LSTM}


class _Sequence(torch.autograd.Function):
    """One call of a layer as a node of torch's graph."""

    @staticmethod
    def forward(ctx: Any, layer: Any, options: Any, states: int, x: Any, *tensors: Any) -> tuple[Any, ...]:
        ctx.set_materialize_grads(False)
        steps, batch_sizes, ctx.sparse = options
        state = _state(map(_array, tensors[:states])) if states else None
        with TorchsThreads():
            y, state_n, tape = layer.forward(_input(x, batch_sizes), state, **steps)
        ctx.tape = tape
        ctx.states = states
        from_numpy = torch.from_numpy
        if isinstance(state_n, tuple):
            return from_numpy(y), from_numpy(state_n[0]), from_numpy(state_n[1])
        return from_numpy(y), from_numpy(state_n)

    @staticmethod
    @_opaque
    def backward(ctx: Any, dy: Any, *dstate: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise _validate.twice(ctx.tape._owner)
        needed = ctx.needs_input_grad
        given = [None if d is None else d.numpy() for d in (dy, *dstate)]
        if all(d is None for d in given):
            return (None,) * len(needed)
        with TorchsThreads():
            grads = ctx.tape.backward(given[0], _state(given[1:]), need_dx=needed[3], sparse=ctx.sparse)
        if not graph_is_kept():
            ctx.tape.release()
        parts = () if not ctx.states else grads.state if isinstance(grads.state, tuple) else (grads.state,)
        found = (None, None, None, grads.x, *parts, *grads.params.values())
        return tuple([_tensor(d) if need else None for need, d in zip(needed, found, strict=True)])


@functools.lru_cache(maxsize=128)
def _layer(
    ours: Any,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bias: bool,
    batch_first: bool,
    dropout: float,
    bidirectional: bool,
    dtype: np.dtype[Any],
    value: Any,
    option: str | None,
) -> Any:
    options = {option: value} if option else {}
    layer = ours(
        input_size,
        hidden_size,
        num_layers,
        bias=bias,
        batch_first=batch_first,
        dropout=dropout,
        bidirectional=bidirectional,
        dtype=dtype,
        **options,
    )
    return layer._with_params({})


def _checked(owner: str, x: Any, dtype: Any) -> Any:
    """`x` in the parameters' dtype; it is cast only under autocast."""
    if dtype not in DTYPES:
        raise _validate.tensor_dtype(owner, "the parameters", dtype, "torch.float32 or torch.float64")
    if x.dtype is not dtype and x.is_floating_point():
        if not torch.is_autocast_enabled("cpu"):
            raise _validate.tensor_dtype(owner, "input", x.dtype, f"{dtype}, as the parameters have")
        x = x.to(dtype)
    return x


def _array(tensor: Any) -> Array:
    """The tensor's memory as an array."""
    array: Array = tensor.detach().numpy()
    return array


def _input(x: Any, batch_sizes: Any) -> Any:
    """The input of fusedrnn's layers; with batch sizes it is the data of a PackedSequence."""
    return _array(x) if batch_sizes is None else ByStep(_array(x), _array(batch_sizes))


def _tensor(gradient: Any) -> Any:
    """A gradient as a tensor; one of tokens in torch's sparse form, whose elements are in the order of rows."""
    if not isinstance(gradient, SparseGrad):
        return torch.from_numpy(gradient)
    rows, n = gradient.values.shape
    where = torch.stack((torch.arange(rows).repeat_interleave(n), torch.from_numpy(gradient.ids).repeat(rows)))
    values = torch.from_numpy(gradient.values).reshape(-1)
    return torch.sparse_coo_tensor(where, values, gradient.shape, is_coalesced=True, check_invariants=False)


def _state(parts: Any) -> Any:
    """The state in the form of fusedrnn's layers: None, h, or (h, c)."""
    parts = tuple(parts)
    return parts if len(parts) > 1 else parts[0] if parts else None
