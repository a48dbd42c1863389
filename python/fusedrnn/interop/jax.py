"""Layers inside functions that JAX compiles and differentiates, on the CPU: under ``jit`` and ``grad``.

``apply(layer, params, x, state)`` is a custom call of XLA (no ``pure_callback``): XLA's buffers are read and written in
place. Tested with JAX 0.5 to 0.10.

Examples
--------
>>> import jax, jax.numpy as jnp
>>> import fusedrnn
>>> from fusedrnn.interop.jax import apply
>>> layer = fusedrnn.GRU(3, 16, rng=0)
>>> @jax.jit
... def loss(params, x):
...     y, h = apply(layer, params, x)
...     return jnp.mean(y**2)
>>> grads = jax.jit(jax.grad(loss))(layer.params, jnp.ones((20, 32, 3)))
>>> grads["weight_hh_l0"].shape
(48, 16)
"""

from __future__ import annotations

import collections
import functools
import itertools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _validate
from ..grads import SparseGrad
from ..recurrent import RecurrentLayer
from . import _xla_ffi

__all__ = ["apply"]

#: Limit of tapes that wait for backward. Beyond it the oldest is dropped; its backward pass then runs forward again.
MOST_TAPES = 16

#: Options that make forward differ from inference; they act only with a key.
RANDOM = ("dropout", "recurrent_dropout", "weight_dropout", "zoneout")


def apply(
    layer: Any,
    params: Any,
    x: Any,
    state: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    key: Any = None,
) -> Any:
    """Run a layer with the given parameters; JAX may trace all other arguments.

    Parameters
    ----------
    layer : RNN, GRU or LSTM of fusedrnn
        Only the configuration is used; the layer's parameters are neither read nor changed, unless `params` is None.
    params : mapping of str to array, or None
        All parameters by name, shaped as ``layer.params``; cast to the layer's dtype. None: the layer's own.
    x : array
        Floats or integer tokens, in the shapes that the layer accepts; not a list.
    state : array, pair of these, or None
    lengths : integers (B,) or None
    mask, reset : bools in the layout of `x`, or None
        As for calling the layer.
    key : JAX's random key, or None
        Draws dropout masks; without a key dropout does not act.

    Returns
    -------
    y, state
        As from calling the layer.

    Raises
    ------
    TypeError, ValueError
        As for calling the layer, for errors of shapes and dtypes; ValueError also for a float64 layer while
        ``jax_enable_x64`` is off.

    Notes
    -----
    Only first derivatives in reverse mode are supported: no forward mode, no second derivatives. ``vmap`` runs one call
    after the other; use the layer's own batch axis for batches. Errors in values (a token or a length out of range) are
    raised when the compiled function runs, as an error of JAX with the layer's message. Forward stores a tape for
    backward; if the tape is gone (`MOST_TAPES`) or needed twice, backward runs forward again, with the same bits.
    """
    owner = type(layer).__name__
    if not isinstance(layer, RecurrentLayer):
        raise _validate.no_single_layer("fusedrnn.interop.jax.apply", layer)
    if params is None:
        params = layer.params
    elif not isinstance(params, collections.abc.Mapping):
        raise _validate.no_mapping(owner, params)
    dtype = layer.dtype
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise _validate.narrow_jax(owner)
    if not isinstance(x, jax.Array):
        x = np.asarray(x)
    tokens = x.dtype.kind in "iu"
    arguments = {
        "key": None if key is None else jax.random.key_data(key),
        "lengths": None if lengths is None else jnp.asarray(lengths, jnp.int32),
        "mask": _flags(owner, "mask", mask),
        "reset": _flags(owner, "reset", reset),
        "params": {name: jnp.asarray(array, dtype) for name, array in params.items()},
        "state": jax.tree.map(lambda part: jnp.asarray(part, dtype), state),
        "x": jnp.asarray(x, jnp.int32 if tokens else dtype),
    }
    leaves, tree = jax.tree.flatten(arguments)
    number = _number(type(layer), repr(layer), tree, layer)
    outputs = _run(number, *leaves)
    return jax.tree.unflatten(_call_of(number).results, outputs)


def _flags(owner: str, name: str, value: Any) -> Any:
    """A mask, which JAX would make of any numbers."""
    if value is None:
        return None
    flags = jnp.asarray(value)
    if flags.dtype != jnp.bool_:
        raise _validate.not_bool(owner, name, flags.dtype)
    return flags


class _Call:
    """The configuration of a layer, and the arguments of its call."""

    def __init__(self, layer: Any, tree: Any) -> None:
        self.layer = layer._with_params({})
        self.tree = tree
        self.results: Any = None

    def _arguments(self, leaves: Any) -> tuple[Any, dict[str, Any]]:
        arguments = jax.tree.unflatten(self.tree, leaves)
        layer, key = self.layer._with_params(arguments["params"]), arguments["key"]
        if key is None:
            layer.__dict__.update({name: 0.0 for name in RANDOM if name in layer.__dict__})
        else:
            layer.rng = np.random.default_rng(key.ravel().tolist())
        return layer, {name: arguments[name] for name in ("x", "state", "lengths", "mask", "reset")}

    def infer(self, leaves: Any) -> Any:
        layer, arguments = self._arguments(leaves)
        if jax.tree.unflatten(self.tree, leaves)["key"] is None:
            return layer(**arguments)
        return layer.forward(**arguments)[:2]

    def forward(self, leaves: Any) -> tuple[Any, Any]:
        layer, arguments = self._arguments(leaves)
        y, state, tape = layer.forward(**arguments)
        return (y, state), tape

    def gradients(self, tape: Any, d_outputs: Any, floats: list[bool]) -> list[Any]:
        """For those leaves that are floats, in order."""
        grads = tape.backward(*jax.tree.unflatten(self.results, d_outputs), sparse=True)
        arguments = jax.tree.unflatten(self.tree, floats)
        found = {
            "key": None,
            "lengths": None,
            "mask": None,
            "reset": None,
            "params": grads.params,
            "state": None if arguments["state"] is None else grads.state,
            "x": grads.x,
        }
        return jax.tree.leaves(found)  # type: ignore[no-any-return]


# ---- calls by number: all that XLA passes on besides buffers --------------------------------------------------------

_calls: list[_Call] = []
_numbers: dict[Any, int] = {}
_tapes: collections.OrderedDict[int, Any] = collections.OrderedDict()
_tickets = itertools.count()
_lock = threading.Lock()


def _number(kind: type, configuration: str, tree: Any, layer: Any) -> int:
    with _lock:
        number = _numbers.setdefault((kind, configuration, tree), len(_calls))
        if number == len(_calls):
            _calls.append(_Call(layer, tree))
        return number


def _call_of(number: int) -> _Call:
    return _calls[number]


@functools.lru_cache(maxsize=1024)
def _result_shapes(number: int, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Found by a trial on zeros, which works for every layer and also raises errors of shape and dtype."""
    call = _calls[number]
    outputs = call.infer([np.zeros(shape, dtype) for shape, dtype in shapes])
    leaves, call.results = jax.tree.flatten(outputs)
    return tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)


def _shapes(leaves: Any) -> tuple[Any, ...]:
    return tuple((leaf.shape, np.dtype(leaf.dtype)) for leaf in leaves)


def _write(results: Any, arrays: Any) -> None:
    for result, array in zip(results, arrays, strict=True):
        if isinstance(array, SparseGrad):  # XLA's arrays are dense
            result.fill(0)
            array._write_to(result)
        else:
            np.copyto(result, array)


@_xla_ffi.handler
def _infer_handler(number: int, arguments: Any, results: Any) -> None:
    _write(results, jax.tree.leaves(_calls[number].infer(arguments)))


@_xla_ffi.handler
def _forward_handler(number: int, arguments: Any, results: Any) -> None:
    outputs, tape = _calls[number].forward(arguments)
    *rest, ticket = results
    _write(rest, jax.tree.leaves(outputs))
    with _lock:
        ticket[...] = mine = next(_tickets) % 2**32
        _tapes[mine] = tape
        if len(_tapes) > MOST_TAPES:
            _tapes.popitem(last=False)


@_xla_ffi.handler
def _backward_handler(number: int, arguments: Any, results: Any) -> None:
    call = _calls[number]
    n = call.tree.num_leaves
    leaves, ticket, d_outputs = arguments[:n], arguments[n], arguments[n + 1 :]
    with _lock:
        tape = _tapes.pop(int(ticket), None)
    if tape is None:
        _, tape = call.forward(leaves)
    with tape:
        _write(results, call.gradients(tape, d_outputs, [leaf.dtype.kind == "f" for leaf in leaves]))


for _name, _handler in (("infer", _infer_handler), ("forward", _forward_handler), ("backward", _backward_handler)):
    _xla_ffi.register(f"fusedrnn_{_name}", _handler)


def _custom_call(name: str, shapes: Any, number: int, *operands: Any) -> Any:
    return jax.ffi.ffi_call(f"fusedrnn_{name}", shapes, vmap_method="sequential")(*operands, call=np.int64(number))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(number: int, *leaves: Any) -> Any:
    return tuple(_custom_call("infer", _result_shapes(number, _shapes(leaves)), number, *leaves))


def _run_forward(number: int, *leaves: Any) -> tuple[Any, Any]:
    shapes = _result_shapes(number, _shapes(leaves))
    *outputs, ticket = _custom_call("forward", (*shapes, jax.ShapeDtypeStruct((), jnp.uint32)), number, *leaves)
    return tuple(outputs), (leaves, ticket)


def _run_backward(number: int, kept: Any, d_outputs: Any) -> tuple[Any, ...]:
    leaves, ticket = kept
    shapes = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in leaves if a.dtype.kind == "f")
    gradients = iter(_custom_call("backward", shapes, number, *leaves, ticket, *d_outputs))
    return tuple(next(gradients) if a.dtype.kind == "f" else None for a in leaves)


_run.defvjp(_run_forward, _run_backward)
