"""scikit-learn estimators over sequences: `RNNFeatures`, `SequenceClassifier`, `SequenceRegressor`.

X is a list of (T_i, I) arrays, of any lengths; or an array (samples, T, I); or, as everywhere in scikit-learn, an array
(samples, T) of numbers, each row a sequence of scalars. Pipelines, grid search, ``clone`` and pickling work as usual.
Needs scikit-learn.

Examples
--------
Whether a sequence rises or falls, whatever its length:

>>> import numpy as np
>>> from fusedrnn.interop.sklearn import SequenceClassifier
>>> rng = np.random.default_rng(0)
>>> X = [np.sort(rng.normal(size=(n, 1)), axis=0)[:: rng.choice([1, -1])] for n in rng.integers(2, 12, 80)]
>>> y = np.array(["up" if x[-1] > x[0] else "down" for x in X])
>>> model = SequenceClassifier(random_state=0).fit(X[:60], y[:60])
>>> bool(model.score(X[60:], y[60:]) > 0.9)
True
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

import fusedrnn

from .. import _validate

__all__ = ["RNNFeatures", "SequenceClassifier", "SequenceRegressor"]

Array = NDArray[Any]

CELLS = {
    "rnn": fusedrnn.RNN,
    "gru": fusedrnn.GRU,
    "lstm": fusedrnn.LSTM,
    "mingru": fusedrnn.MinGRU,
    "minlstm": fusedrnn.MinLSTM,
    "indrnn": fusedrnn.IndRNN,
    "qrnn": fusedrnn.QRNN,
    "sru": fusedrnn.SRU,
    "lru": fusedrnn.LRU,
    "rglru": fusedrnn.RGLRU,
}
CONSTRAINTS = {
    "cell": [StrOptions(set(CELLS))],
    "hidden_size": [Interval(Integral, 1, None, closed="left")],
    "num_layers": [Interval(Integral, 1, None, closed="left")],
    "bidirectional": ["boolean"],
    "random_state": ["random_state"],
}


class _Sequences(BaseEstimator):  # type: ignore[misc, unused-ignore]
    """Reading X, and the layer that reads it."""

    def _read(self, X: Any, *, reset: bool) -> list[Array]:
        """X as a list of (T_i, I) float32 arrays; scikit-learn's own checks wherever it has some."""
        first = X[0] if isinstance(X, (list, tuple)) and len(X) else None
        if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1 and X.size:
            first = X[0]
        if isinstance(first, np.ndarray) and first.ndim:
            sequences = [self._one(i, x) for i, x in enumerate(X)]
            widths = {x.shape[1] for x in sequences}
            if len(widths) > 1:
                raise _validate.widths(type(self).__name__, sorted(widths))
        elif getattr(X, "ndim", 2) == 3:
            sequences = list(check_array(X, dtype=np.float32, ensure_2d=False, allow_nd=True))
        else:
            array = validate_data(self, X, dtype=np.float32, reset=reset)
            sequences = list(array[:, :, None])
        width = sequences[0].shape[1]
        if reset:
            self.input_size_ = width
        elif width != self.input_size_:
            raise _validate.sequence_width(type(self).__name__, width, self.input_size_)
        return sequences

    def _one(self, i: int, x: Any) -> Array:
        name = f"X[{i}]"
        array = _validate.floats(type(self).__name__, name, x, np.dtype(np.float32))
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2:
            raise _validate.sequence_axes(type(self).__name__, name, array.shape)
        if not np.isfinite(array).all():
            raise _validate.not_finite(type(self).__name__, name)
        return array

    def _new_layer(self, random: np.random.RandomState, **options: Any) -> Any:
        return CELLS[self.cell](
            self.input_size_,
            int(self.hidden_size),
            int(self.num_layers),
            bidirectional=bool(self.bidirectional),
            rng=int(random.randint(2**31 - 1)),
            **options,
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


class RNNFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Sequences):  # type: ignore[misc, unused-ignore]
    """Sequences of any length become vectors of one: what a recurrent layer with frozen weights has heard.

    Parameters
    ----------
    layer : RNN, GRU, LSTM, their frozen form, or None
        A trained layer. None draws one at random in ``fit`` from the arguments below, which else do nothing.
    cell : "rnn", "gru", "lstm", "mingru", "minlstm", "indrnn", "qrnn", "sru", "lru" or "rglru"
    hidden_size, num_layers : int
    bidirectional : bool
    pool : "last", "mean" or "max"
        What is taken of the outputs of the last layer: those at each row's last valid step (and of the reverse
        direction at its first), their mean over time, or their largest.
    batch_size : int
        Sequences that run together; the result does not depend on it.
    random_state : int, RandomState or None

    Attributes
    ----------
    layer_ : FrozenLayer
    input_size_ : int

    Examples
    --------
    >>> import numpy as np
    >>> features = RNNFeatures(hidden_size=5, random_state=0)
    >>> features.fit_transform([np.ones((4, 2)), np.ones((7, 2))]).shape
    (2, 5)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CONSTRAINTS,
        "layer": [fusedrnn.RNN, fusedrnn.GRU, fusedrnn.LSTM, fusedrnn.FrozenLayer, None],
        "pool": [StrOptions({"last", "mean", "max"})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        layer: Any = None,
        *,
        cell: str = "gru",
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = False,
        pool: str = "last",
        batch_size: int = 128,
        random_state: Any = None,
    ) -> None:
        self.layer = layer
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.pool = pool
        self.batch_size = batch_size
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Find out the width of X; draw the layer if none was given."""
        self._read(X, reset=True)
        layer = self.layer
        if layer is None:
            layer = self._new_layer(check_random_state(self.random_state))
        elif layer.input_size != self.input_size_:
            raise _validate.sequence_width(type(self).__name__, self.input_size_, layer.input_size)
        self.layer_ = layer if isinstance(layer, fusedrnn.FrozenLayer) else layer.freeze()
        self._n_features_out = self.layer_.hidden_size * (1 + self.layer_.bidirectional)
        return self

    def transform(self, X: Any) -> Array:
        """The features, (samples, hidden_size), or twice as wide with two directions."""
        check_is_fitted(self)
        sequences = self._read(X, reset=False)
        found = np.empty((len(sequences), self._n_features_out), self.layer_.dtype)
        for start in range(0, len(sequences), self.batch_size):
            batch = slice(start, start + self.batch_size)
            found[batch] = self._features(sequences[batch])
        return found

    def _features(self, sequences: list[Array]) -> Any:
        ys, state = self.layer_(sequences)
        if self.pool == "last":
            return _last(state, self.layer_)
        empty = np.zeros(self._n_features_out)
        if self.pool == "mean":
            return np.stack([y.mean(0) if len(y) else empty for y in ys])
        return np.stack([y.max(0) if len(y) else empty for y in ys])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class _Trained(_Sequences):
    """A recurrent layer and a dense one over its last state, trained together with Adam."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CONSTRAINTS,
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_norm": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        *,
        cell: str = "gru",
        hidden_size: int = 32,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        learning_rate: float = 0.01,
        max_iter: int = 50,
        batch_size: int = 32,
        max_norm: float = 1.0,
        random_state: Any = None,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.max_norm = max_norm
        self.random_state = random_state

    def _train(self, sequences: list[Array], target: Array) -> None:
        """Minimise the loss between dense outputs and `target` (samples, outputs)."""
        random = check_random_state(self.random_state)
        dropout = float(self.dropout) if self.num_layers > 1 else 0.0
        self.layer_ = self._new_layer(random, dropout=dropout)
        outputs, width = target.shape[1], self.layer_.hidden_size * (1 + self.layer_.bidirectional)
        bound = width**-0.5
        self.coef_ = random.uniform(-bound, bound, (width, outputs)).astype(np.float32)
        self.intercept_ = np.zeros(outputs, np.float32)
        self.loss_curve_: list[float] = []
        adam = _Adam([*self.layer_.params.values(), self.coef_, self.intercept_], float(self.learning_rate))
        for _ in range(self.max_iter):
            losses = []
            order = random.permutation(len(sequences))
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                loss, gradients = self._loss([sequences[i] for i in rows], target[rows])
                fusedrnn.clip_grad_norm(gradients, float(self.max_norm))
                adam.step(gradients)
                losses.append(loss * len(rows))
            self.loss_curve_.append(sum(losses) / len(order))
        self.n_iter_ = len(self.loss_curve_)

    def _loss(self, sequences: list[Array], target: Array) -> tuple[float, list[Array]]:
        """Loss of a batch, and the gradients of all parameters."""
        layer = self.layer_
        _, state, tape = layer.forward(sequences)
        h = _last(state, layer)
        loss, dz = self._output_loss(h @ self.coef_ + self.intercept_, target)
        dh = dz @ self.coef_.T
        parts = state if isinstance(state, tuple) else (state,)
        dstate = np.zeros_like(parts[0])
        D = 1 + layer.bidirectional
        dstate[-D:] = dh.reshape(len(h), D, -1).swapaxes(0, 1)
        with tape:
            grads = tape.backward(dstate=(dstate, None) if len(parts) == 2 else dstate, need_dx=False)
        return loss, [*grads.params.values(), h.T @ dz, dz.sum(0)]

    def _output_loss(self, z: Array, target: Array) -> tuple[float, Array]:
        """Mean loss of the dense layer's outputs, and its gradient."""
        raise NotImplementedError

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        sequences = self._read(X, reset=False)
        parts = []
        for start in range(0, len(sequences), 128):
            _, state = self.layer_(sequences[start : start + 128])
            parts.append(_last(state, self.layer_) @ self.coef_ + self.intercept_)
        outputs: Array = np.concatenate(parts)
        return outputs


class SequenceClassifier(ClassifierMixin, _Trained):  # type: ignore[misc, unused-ignore]
    """One class for each sequence: a recurrent layer, softmax over its last valid state, trained with Adam.

    Parameters
    ----------
    cell : "rnn", "gru", "lstm", "mingru", "minlstm", "indrnn", "qrnn", "sru", "lru" or "rglru"
    hidden_size, num_layers : int
    bidirectional : bool
    dropout : float
        Between layers, while training.
    learning_rate : float
    max_iter : int
        Passes over the data.
    batch_size : int
    max_norm : float
        Gradients are clipped to this norm.
    random_state : int, RandomState or None

    Attributes
    ----------
    classes_ : ndarray
    layer_ : RNN, GRU or LSTM
    coef_, intercept_ : ndarray
        Of the dense layer: (features, classes) and (classes,).
    loss_curve_ : list of float
        Mean cross entropy of each pass.
    input_size_, n_iter_ : int

    Examples
    --------
    >>> import numpy as np
    >>> X = [np.full((n, 1), value) for n in range(2, 9) for value in (-1.0, 1.0)]
    >>> model = SequenceClassifier(hidden_size=8, random_state=0).fit(X, [0, 1] * 7)
    >>> model.predict([np.ones((20, 1))])
    array([1])
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any) -> Self:
        """Train on sequences and one label for each."""
        sequences = self._read(X, reset=True)
        y = column_or_1d(y, warn=True)
        check_consistent_length(sequences, y)
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise _validate.one_class(type(self).__name__, len(self.classes_))
        self._train(sequences, np.eye(len(self.classes_), dtype=np.float32)[index])
        return self

    def _output_loss(self, z: Array, target: Array) -> tuple[float, Array]:
        p = _softmax(z)
        loss = -np.log(np.maximum(p[target > 0], np.finfo(np.float32).tiny)).mean()
        return float(loss), (p - target) / np.float32(len(z))

    def predict_proba(self, X: Any) -> Array:
        """Probabilities, (samples, classes), in the order of ``classes_``."""
        return _softmax(self._outputs(X).astype(np.float64))

    def predict(self, X: Any) -> Array:
        """The most likely class of each sequence."""
        index = self._outputs(X).argmax(1)
        classes: Array = self.classes_[index]
        return classes


class SequenceRegressor(RegressorMixin, _Trained):  # type: ignore[misc, unused-ignore]
    """A number, or several, for each sequence: a recurrent layer, a dense one over its last valid state, squared error.

    Parameters
    ----------
    cell, hidden_size, num_layers, bidirectional, dropout, learning_rate, max_iter, batch_size, max_norm, random_state
        As for `SequenceClassifier`.

    Attributes
    ----------
    layer_, coef_, intercept_, loss_curve_, input_size_, n_iter_
        As for `SequenceClassifier`; the loss is that of targets scaled to mean 0 and deviation 1.

    Examples
    --------
    >>> import numpy as np
    >>> X = [np.full((n, 1), 0.1 * n) for n in range(2, 12)]
    >>> model = SequenceRegressor(hidden_size=8, random_state=0).fit(X, range(2, 12))
    >>> bool(model.score(X, range(2, 12)) > 0.9)
    True
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any) -> Self:
        """Train on sequences and a target (samples,) or (samples, outputs)."""
        sequences = self._read(X, reset=True)
        if y is None:
            raise _validate.no_target(type(self).__name__)
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_consistent_length(sequences, y)
        self._single = y.ndim == 1
        target = y[:, None] if self._single else y
        self._mean, scale = target.mean(0), target.std(0)
        self._scale = np.where(scale > 0, scale, 1.0)
        self._train(sequences, ((target - self._mean) / self._scale).astype(np.float32))
        return self

    def _output_loss(self, z: Array, target: Array) -> tuple[float, Array]:
        error = z - target
        return float((error**2).sum(1).mean()), 2 * error / np.float32(len(z))

    def predict(self, X: Any) -> Array:
        """The target of each sequence."""
        found: Array = self._outputs(X) * self._scale + self._mean
        return found[:, 0] if self._single else found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags


class _Adam:
    """Kingma and Ba, Adam: a method for stochastic optimization, 2015; updates arrays in place."""

    def __init__(self, params: list[Array], learning_rate: float) -> None:
        self.params = params
        self.learning_rate = learning_rate
        self.m = [np.zeros_like(w) for w in params]
        self.v = [np.zeros_like(w) for w in params]
        self.t = 0

    def step(self, gradients: list[Array]) -> None:
        self.t += 1
        rate = self.learning_rate * np.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
        for w, g, m, v in zip(self.params, gradients, self.m, self.v, strict=True):
            m += np.float32(0.1) * (g - m)
            v += np.float32(0.001) * (g * g - v)
            w -= np.float32(rate) * m / (np.sqrt(v) + np.float32(1e-8))


def _last(state: Any, layer: Any) -> Array:
    """The last layer's final h, (B, D*H)."""
    h = state[0] if isinstance(state, tuple) else state
    D = 1 + layer.bidirectional
    return np.ascontiguousarray(h[-D:].swapaxes(0, 1)).reshape(h.shape[1], -1)


def _softmax(z: Array) -> Array:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)  # type: ignore[no-any-return]
