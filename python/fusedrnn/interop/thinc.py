"""thinc models on fusedrnn's kernels: ``FusedLSTM`` and ``FusedGRU``, with the arguments of thinc's ``LSTM.v1``.

They take sequences as ``Padded``, ``Ragged``, a list of arrays, or an array (steps, rows, width), and return the same
type; ``with_padded`` around them works but is not needed. In thinc's registry they are ``fusedrnn.LSTM.v1`` and
``fusedrnn.GRU.v1`` as soon as this module is imported. Needs thinc.

Examples
--------
>>> import numpy as np
>>> from thinc.api import Linear, Softmax, chain, with_array
>>> from fusedrnn.interop.thinc import FusedLSTM
>>> tagger = chain(FusedLSTM(16, 8, bi=True), with_array(Softmax(3)))
>>> sentences = [np.ones((n, 8), "float32") for n in (5, 2)]
>>> _ = tagger.initialize(X=sentences, Y=[np.ones((n, 3), "float32") for n in (5, 2)])
>>> guesses, backprop = tagger.begin_update(sentences)
>>> [guess.shape for guess in guesses]
[(5, 3), (2, 3)]
>>> [d.shape for d in backprop(guesses)]
[(5, 8), (2, 8)]
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from thinc.api import Model, registry
from thinc.types import Padded, Ragged
from thinc.util import get_width

import fusedrnn

from .. import _validate

__all__ = ["FusedGRU", "FusedLSTM"]


@registry.layers("fusedrnn.LSTM.v1")
def FusedLSTM(
    nO: int | None = None, nI: int | None = None, *, bi: bool = False, depth: int = 1, dropout: float = 0.0
) -> Any:
    """A stack of LSTM layers.

    Parameters
    ----------
    nO, nI : int or None
        Width of output and input; None is inferred by ``initialize``. With `bi`, each direction has nO / 2 units.
    bi : bool
        Whether each layer runs in both directions.
    depth : int
        Number of layers.
    dropout : float
        Between layers, while training; thinc's ``set_dropout_rate`` changes it.

    Returns
    -------
    thinc.model.Model
        Its parameters have torch's names: ``weight_ih_l0`` and so on.

    Raises
    ------
    ValueError, TypeError
        An argument is out of range, or of the wrong type.

    Notes
    -----
    Initial parameters and dropout masks follow NumPy's global seed, which thinc's ``fix_random_seed`` sets.
    """
    return _model("LSTM", nO, nI, bi, depth, dropout)


@registry.layers("fusedrnn.GRU.v1")
def FusedGRU(
    nO: int | None = None, nI: int | None = None, *, bi: bool = False, depth: int = 1, dropout: float = 0.0
) -> Any:
    """A stack of GRU layers; see `FusedLSTM`."""
    return _model("GRU", nO, nI, bi, depth, dropout)


def _model(cell: str, nO: Any, nI: Any, bi: bool, depth: int, dropout: float) -> Any:
    owner = f"Fused{cell}"
    bi, depth = _validate.flag(owner, "bi", bi), _validate.size(owner, "depth", depth)
    if nO is not None and _validate.size(owner, "nO", nO) % (1 + bi):
        raise _validate.odd_width(owner, nO)
    names = _layer(cell, 1, 1, depth, bi, 0.0).state_dict()
    return Model(
        f"fused_{cell.lower()}",
        _forward,
        init=_initialise,
        dims={"nO": nO, "nI": nI, "depth": depth, "dirs": 1 + bi},
        attrs={
            "registry_name": f"fusedrnn.{cell}.v1",
            "dropout_rate": _validate.probability(owner, "dropout", dropout),
            "cell": cell,
        },
        params=dict.fromkeys(names),
    )


@functools.lru_cache(maxsize=64)
def _layer(cell: str, nI: int, hidden: int, depth: int, bi: bool, dropout: float) -> Any:
    """A layer of which only the configuration is used."""
    make: Any = getattr(fusedrnn, cell)
    return make(nI, hidden, depth, dropout=dropout if depth > 1 else 0.0, bidirectional=bi, rng=0)


def _configured(model: Any, dropout: float) -> Any:
    dirs = model.get_dim("dirs")
    hidden = model.get_dim("nO") // dirs
    return _layer(model.attrs["cell"], model.get_dim("nI"), hidden, model.get_dim("depth"), dirs == 2, dropout)


def _initialise(model: Any, X: Any = None, Y: Any = None) -> None:
    if X is not None:
        model.set_dim("nI", get_width(X))
    if Y is not None:
        model.set_dim("nO", get_width(Y))
    layer = _configured(model, 0.0)
    bound = layer.hidden_size**-0.5
    for name, array in layer.params.items():
        model.set_param(name, np.random.uniform(-bound, bound, array.shape).astype(np.float32))  # noqa: NPY002  thinc's


def _forward(model: Any, X: Any, is_train: bool) -> tuple[Any, Callable[[Any], Any]]:
    layer = _configured(model, model.attrs["dropout_rate"] if is_train else 0.0)
    layer = layer._with_params({name: model.get_param(name) for name in model.param_names})
    x, lengths, wrap, unwrap = _sequences(X)
    if not is_train:
        return wrap(layer(x, lengths=lengths)[0]), _no_backprop
    if layer.dropout:
        layer.rng = int(np.random.randint(2**31 - 1))  # noqa: NPY002  thinc's seed
    y, _, tape = layer.forward(x, lengths=lengths)

    def backprop(dY: Any) -> Any:
        grads = tape.backward(unwrap(dY))
        for name, gradient in grads.params.items():
            model.inc_grad(name, gradient)
        return wrap(grads.x)

    return wrap(y), backprop


def _no_backprop(dY: Any) -> Any:
    raise _validate.not_training("fusedrnn.interop.thinc")


def _sequences(X: Any) -> tuple[Any, Any, Callable[[Any], Any], Callable[[Any], Any]]:
    """The input for the layer, the lengths, and conversions of results to the caller's type and of gradients back."""
    if isinstance(X, Padded):
        return X.data, X.lengths, lambda y: Padded(y, X.size_at_t, X.lengths, X.indices), lambda dY: dY.data
    if isinstance(X, Ragged):
        return (X.dataXd, X.lengths), None, lambda y: Ragged(y, X.lengths), lambda dY: dY.dataXd
    return X, None, lambda y: y, lambda dY: dY
