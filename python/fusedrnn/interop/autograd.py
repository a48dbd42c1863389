"""Layers inside functions that HIPS autograd differentiates: ``grad(loss)`` for plain NumPy code.

``apply(layer, params, x, state)`` is one primitive of autograd. Everything else (embedding, dense layer, softmax, loss)
is written with ``autograd.numpy``; a training step runs the kernels forward once and backward once.
Needs ``pip install autograd``.

Examples
--------
A GRU with a linear readout learns to repeat the last number of its input:

>>> import autograd.numpy as np
>>> from autograd import value_and_grad
>>> import fusedrnn
>>> from fusedrnn.interop.autograd import apply
>>> layer = fusedrnn.GRU(3, 16, rng=0)
>>> params = {"gru": layer.params, "W": np.zeros((16, 1), np.float32), "b": np.zeros(1, np.float32)}
>>> def loss(params, x, target):
...     y, h = apply(layer, params["gru"], x)
...     return np.mean((h[-1] @ params["W"] + params["b"] - target) ** 2)
>>> x = np.random.default_rng(0).normal(size=(20, 32, 3)).astype(np.float32)
>>> target = x[-1, :, :1]
>>> step = value_and_grad(loss)
>>> before = loss(params, x, target)
>>> for _ in range(100):
...     _, grads = step(params, x, target)
...     for name in layer.params:
...         params["gru"][name] -= 0.2 * grads["gru"][name]
...     params["W"] -= 0.2 * grads["W"]
...     params["b"] -= 0.2 * grads["b"]
>>> bool(loss(params, x, target) < 0.1 * before)
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from autograd.builtins import DictBox, SequenceBox
from autograd.core import defvjp_argnums
from autograd.tracer import getval, isbox, primitive

from .. import _validate

__all__ = ["apply"]


def apply(layer: Any, params: Any, x: Any, state: Any = None, **options: Any) -> Any:
    """Run a layer or a cell with the given parameters; autograd traces `params`, `x` and `state`.

    Parameters
    ----------
    layer : layer or cell of fusedrnn
        Its configuration is used, and its ``rng`` for dropout. Its parameters are neither read nor changed, unless
        `params` is None.
    params : mapping of str to array-like, or None
        All parameters by name, shaped as ``layer.params``, which is itself such a mapping; cast to the layer's dtype.
        None: the layer's own, which then have no gradients.
    x, state
        As for calling the layer or the cell; tokens, lists of arrays and (values, lengths) included.
    **options
        ``lengths`` and other arguments of ``layer.forward``; these are not differentiated.

    Returns
    -------
    y, state
        As from calling the layer; for a cell only the new state. Traced by autograd if an argument is.

    Raises
    ------
    TypeError, ValueError, IndexError
        As for calling the layer; TypeError also if `params` is not a mapping.
    NotImplementedError
        For second derivatives or forward mode: the kernels compute only first derivatives, in reverse mode.

    Notes
    -----
    If no argument is traced, this is ``layer(x, state)``: dropout does not act, and nothing is saved. Otherwise it is
    ``layer.forward``, and the tape lives as long as autograd's own records. Each gradient has the dtype of its
    argument.

    Examples
    --------
    >>> import autograd.numpy as np
    >>> from autograd import grad
    >>> import fusedrnn
    >>> layer = fusedrnn.LSTM(3, 5, dtype="float64")
    >>> def last(params, x):
    ...     y, (h, c) = apply(layer, params, x, lengths=[4, 2])
    ...     return np.sum(c)
    >>> {name: g.shape for name, g in grad(last)(layer.params, np.ones((4, 2, 3))).items()}
    {'weight_ih_l0': (20, 3), 'weight_hh_l0': (20, 5), 'bias_ih_l0': (20,), 'bias_hh_l0': (20,)}
    """
    if params is None:
        params = layer.params
    elif not isinstance(params, (Mapping, DictBox)):
        raise _validate.no_mapping(type(layer).__name__, params)
    call = _Call(layer, options)
    leaves = call.take_apart(x, state, params)
    if not any(map(isbox, leaves)):
        twin, x, state = call.put_together(leaves)
        return twin(x, state, **options)
    outputs = _run(call, *leaves)
    results = call.results([outputs[i] for i in range(len(outputs))])
    return results[0] if len(results) == 1 else results


# ---- leaves: autograd traces arguments, not tuples of them -----------------------------------------------------------

#: Takes as many leaves as it needs from an iterator, and rebuilds the original value from them.
Rebuild = Callable[[Iterator[Any]], Any]


def _take_apart(value: Any, leaves: list[Any]) -> Rebuild:
    """Append the arrays in `value` to `leaves`: one array, None, or a nested tuple or list of arrays."""
    if value is None:
        return lambda rest: None
    several = isinstance(value, (tuple, list)) and _holds_arrays(value)
    if several or isinstance(value, SequenceBox):
        kind = type(value) if several else type(value._value)
        parts = [_take_apart(value[i], leaves) for i in range(len(value))]
        return lambda rest: kind(part(rest) for part in parts)
    leaves.append(value)
    return next


def _take_ragged_apart(x: Any, leaves: list[Any]) -> Rebuild | None:
    """The same for ``(values, lengths)``, of which only the values have a gradient; None for other inputs."""
    pair = getval(x)
    if not isinstance(pair, tuple) or len(pair) != 2 or not hasattr(getval(pair[0]), "__array__"):
        return None
    lengths = np.asarray(getval(pair[1]))
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        return None
    leaves.append(x[0])
    return lambda rest: (next(rest), lengths)


def _holds_arrays(value: Any) -> bool:
    """Whether a tuple or list contains arrays, or is empty; otherwise it is one array of Python numbers."""
    return _validate.is_list(value) or any(
        isbox(item) or (isinstance(item, (tuple, list)) and _holds_arrays(item)) for item in value
    )


class _Call:
    """One application of a layer: converts arguments and results from and to leaves; after forward holds the tape."""

    def __init__(self, layer: Any, options: dict[str, Any]) -> None:
        self.layer = layer
        self.options = options
        self.tape: Any = None

    def take_apart(self, x: Any, state: Any, params: Any) -> list[Any]:
        leaves: list[Any] = []
        self._x = _take_ragged_apart(x, leaves) or _take_apart(x, leaves)
        self._x_leaves = len(leaves)
        self._state = _take_apart(state, leaves)
        self._has_state = state is not None
        self._names = tuple(params)
        return leaves + [params[name] for name in self._names]

    def put_together(self, leaves: Any) -> tuple[Any, Any, Any]:
        """The layer with the given parameters, x, and the state."""
        rest = iter(leaves)
        x, state = self._x(rest), self._state(rest)
        params = {name: np.asarray(leaf, self.layer.dtype) for name, leaf in zip(self._names, rest, strict=True)}
        return self.layer._with_params(params), x, state

    def keep(self, results: list[Any], tape: Any) -> tuple[Any, ...]:
        """Store the tape for backward; return the leaves of the results."""
        leaves: list[Any] = []
        self.tape = tape
        self._results = [_take_apart(result, leaves) for result in results]
        return tuple(leaves)

    def results(self, leaves: Any) -> tuple[Any, ...]:
        """y and the state, or for a cell the state alone; or their gradients."""
        rest = iter(leaves)
        return tuple([result(rest) for result in self._results])

    def gradients(self, d_outputs: Any, argnums: list[int]) -> list[Any]:
        """Gradients of the arguments' leaves that autograd requests."""
        need_dx = any(i < self._x_leaves for i in argnums)
        grads = self.tape.backward(*self.results(d_outputs), need_dx=need_dx)
        leaves: list[Any] = []
        _take_apart(grads.x, leaves)
        leaves += [None] * (self._x_leaves - len(leaves))  # no gradient was requested, or tokens have none
        if self._has_state:
            _take_apart(grads.state, leaves)
        leaves += [grads.params[name] for name in self._names]
        return [leaves[i] for i in argnums]


# ---- the primitive ---------------------------------------------------------------------------------------------------


@primitive
def _run(call: _Call, *leaves: Any) -> tuple[Any, ...]:
    """Forward, from leaves to leaves."""
    layer, x, state = call.put_together(leaves)
    *results, tape = layer.forward(x, state, **call.options)
    return call.keep(results, tape)


def _backward(argnums: tuple[int, ...], outputs: Any, args: tuple[Any, ...], options: Any) -> Callable[[Any], Any]:
    """autograd's protocol: a function from gradients of the outputs to gradients of the requested arguments."""
    call, *leaves = args
    dtypes = [np.result_type(leaves[i - 1]) for i in argnums if not isbox(leaves[i - 1])]

    def backward(d_outputs: Any) -> list[Any]:
        if isbox(d_outputs) or any(map(isbox, [*d_outputs, *leaves])):
            raise _validate.twice(type(call.layer).__name__)
        gradients = call.gradients(d_outputs, [i - 1 for i in argnums])
        return [d.astype(dtype, copy=False) for d, dtype in zip(gradients, dtypes, strict=True)]

    return backward


defvjp_argnums(_run, _backward)
