"""scikit-learn estimators over sequences: `RNNFeatures`, `SequenceClassifier`, `SequenceRegressor`; `SlidingWindows`.

X is a list of (T_i, I) arrays or tables, of any lengths; or an array (samples, T, I); or, as everywhere in
scikit-learn, an array or a table (samples, T) of numbers, each row a sequence of scalars. A list of sequences of
integers, or of strings, holds tokens, which are numbered by a vocabulary; a list or a column of texts is split into
tokens first. Pipelines, grid search, ``clone`` and pickling work as usual. Needs scikit-learn.

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

from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted, column_or_1d

import fusedrnn

from .. import _validate
from ..losses import cross_entropy, mse
from . import _messages_sklearn as _messages
from .sklearn_inputs import CONSTRAINTS, Sequences
from .sklearn_training import Trained, last
from .sklearn_windows import SlidingWindows

__all__ = ["RNNFeatures", "SequenceClassifier", "SequenceRegressor", "SlidingWindows"]

Array = NDArray[Any]


class RNNFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Sequences):  # type: ignore[misc, unused-ignore]
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
    analyzer : "word", "char" or callable
        How a text becomes tokens: its words, its characters, or what a function returns. Does nothing for others.
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
        analyzer: Any = "word",
        random_state: Any = None,
    ) -> None:
        self.layer = layer
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.pool = pool
        self.batch_size = batch_size
        self.analyzer = analyzer
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
            return last(state, self.layer_)
        empty = np.zeros(self._n_features_out)
        if self.pool == "mean":
            return np.stack([y.mean(0) if len(y) else empty for y in ys])
        return np.stack([y.max(0) if len(y) else empty for y in ys])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class SequenceClassifier(ClassifierMixin, Trained):  # type: ignore[misc, unused-ignore]
    """One class for each sequence: a recurrent layer, softmax over its last valid state, trained with AdamW.

    Parameters
    ----------
    cell : "rnn", "gru", "lstm", "mingru", "minlstm", "indrnn", "qrnn", "sru", "lru" or "rglru"
    hidden_size, num_layers : int
    bidirectional : bool
    dropout : float
        Between layers, while training; with one layer a warning says that it does nothing.
    learning_rate : float
    max_iter : int
        Passes over the data.
    batch_size : int
    max_norm : float
        Gradients are clipped to this norm.
    alpha : float
        Weight decay, as that of `fusedrnn.optim.AdamW`.
    early_stopping : bool
        Whether a part of the data is held out, training ends when its loss no longer falls, and the parameters of the
        pass with the smallest such loss are kept.
    validation_fraction : float
        The part that is held out, with equal shares of the classes.
    n_iter_no_change : int
        Passes without a fall of more than `tol` that end training.
    tol : float
    analyzer : "word", "char" or callable
        How a text becomes tokens: its words, its characters, or what a function returns. Does nothing for others.
    class_weight : dict, "balanced" or None
        Weights of the classes, as everywhere in scikit-learn.
    warm_start : bool
        Whether another ``fit`` goes on from the parameters, vocabulary and classes of the last.
    verbose : bool or int
        Whether a line is printed for each pass.
    random_state : int, RandomState or None

    Attributes
    ----------
    classes_ : ndarray
    layer_ : a layer of the cell's family
    head_ : Linear
    coef_, intercept_ : ndarray
        Of the dense layer: (features, classes) and (classes,), views of the parameters of ``head_``.
    vocabulary_ : dict or None
        Numbers of tokens, from 1; 0 is any other token. None if X holds numbers.
    loss_curve_, validation_curve_ : list of float
        Mean cross entropy of each pass; of the data held out, with `early_stopping`.
    input_size_, n_iter_ : int

    Examples
    --------
    >>> import numpy as np
    >>> X = [np.full((n, 1), value) for n in range(2, 9) for value in (-1.0, 1.0)]
    >>> model = SequenceClassifier(hidden_size=8, random_state=0).fit(X, [0, 1] * 7)
    >>> model.predict([np.ones((20, 1))])
    array([1])

    Texts:

    >>> texts = ["good film", "a bad film", "so good", "bad"] * 4
    >>> model = SequenceClassifier(hidden_size=8, random_state=0).fit(texts, [1, 0, 1, 0] * 4)
    >>> model.predict(["good", "a very bad film"])
    array([1, 0])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Trained._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
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
        alpha: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        analyzer: Any = "word",
        class_weight: Any = None,
        warm_start: bool = False,
        verbose: Any = False,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            cell=cell,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            learning_rate=learning_rate,
            max_iter=max_iter,
            batch_size=batch_size,
            max_norm=max_norm,
            alpha=alpha,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            analyzer=analyzer,
            warm_start=warm_start,
            verbose=verbose,
            random_state=random_state,
        )
        self.class_weight = class_weight

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on sequences, one label for each, and a weight for each."""
        sequences, index, weight = self._read_all(X, y, sample_weight, None, reset=not self._goes_on)
        labels = index if self.early_stopping else None
        self._train(sequences, index, weight, len(self.classes_), labels)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """One pass over a part of the data; the first call fixes width or vocabulary, and the classes."""
        first = not hasattr(self, "layer_")
        sequences, index, weight = self._read_all(X, y, sample_weight, classes, reset=first)
        self._one_pass(sequences, index, weight, len(self.classes_), first)
        return self

    def _read_all(
        self, X: Any, y: Any, sample_weight: Any, classes: Any, *, reset: bool
    ) -> tuple[list[Array], Array, Array]:
        """Sequences, the number of the class of each, and the weight of each."""
        owner = type(self).__name__
        sequences = self._read(X, reset=reset)
        y = column_or_1d(y, warn=True)
        check_consistent_length(sequences, y)
        check_classification_targets(y)
        found = np.unique(y)
        if reset:
            self.classes_ = found if classes is None else np.unique(column_or_1d(classes))
            if len(self.classes_) < 2:
                raise _validate.one_class(owner, len(self.classes_))
        unknown = np.setdiff1d(found, self.classes_)
        if len(unknown):
            raise ValueError(_messages.new_classes(owner, unknown.tolist()))
        weight = _check_sample_weight(sample_weight, sequences, dtype=np.float64)
        weight = weight * compute_sample_weight(self.class_weight, y)
        return sequences, np.searchsorted(self.classes_, y), weight

    def _output_loss(self, z: Array, target: Array, weight: Array) -> tuple[float, Array]:
        loss, dz = cross_entropy(z, target, sample_weight=weight)
        share = weight.mean()
        return loss * float(share), dz * z.dtype.type(share)

    def predict_proba(self, X: Any) -> Array:
        """Probabilities, (samples, classes), in the order of ``classes_``."""
        return _softmax(self._outputs(X).astype(np.float64))

    def predict(self, X: Any) -> Array:
        """The most likely class of each sequence."""
        index = self._outputs(X).argmax(1)
        classes: Array = self.classes_[index]
        return classes


class SequenceRegressor(RegressorMixin, Trained):  # type: ignore[misc, unused-ignore]
    """A number, or several, for each sequence: a recurrent layer, a dense one over its last valid state, squared error.

    Parameters
    ----------
    cell, hidden_size, num_layers, bidirectional, dropout, learning_rate, max_iter, batch_size, max_norm, alpha
        As for `SequenceClassifier`.
    early_stopping, validation_fraction, n_iter_no_change, tol, analyzer, warm_start, verbose, random_state
        As for `SequenceClassifier`.

    Attributes
    ----------
    layer_, head_, coef_, intercept_, vocabulary_, loss_curve_, validation_curve_, input_size_, n_iter_
        As for `SequenceClassifier`; the loss is that of targets scaled to mean 0 and deviation 1, as the first fit
        found them.

    Examples
    --------
    >>> import numpy as np
    >>> X = [np.full((n, 1), 0.1 * n) for n in range(2, 12)]
    >>> model = SequenceRegressor(hidden_size=8, random_state=0).fit(X, range(2, 12))
    >>> bool(model.score(X, range(2, 12)) > 0.9)
    True
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on sequences, a target (samples,) or (samples, outputs), and a weight for each."""
        sequences, target, weight = self._read_all(X, y, sample_weight, reset=not self._goes_on)
        self._train(sequences, target, weight, target.shape[1])
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """One pass over a part of the data; the first call fixes width or vocabulary, and the scale of targets."""
        first = not hasattr(self, "layer_")
        sequences, target, weight = self._read_all(X, y, sample_weight, reset=first)
        self._one_pass(sequences, target, weight, target.shape[1], first)
        return self

    def _read_all(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> tuple[list[Array], Array, Array]:
        """Sequences, the scaled target of each, and the weight of each."""
        owner = type(self).__name__
        sequences = self._read(X, reset=reset)
        if y is None:
            raise _validate.no_target(owner)
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_consistent_length(sequences, y)
        target = y[:, None] if y.ndim == 1 else y
        if reset:
            self._single = y.ndim == 1
            self._mean, scale = target.mean(0), target.std(0)
            self._scale = np.where(scale > 0, scale, 1.0)
        elif target.shape[1] != len(self._mean):
            raise ValueError(_messages.other_outputs(owner, target.shape[1], len(self._mean)))
        weight = _check_sample_weight(sample_weight, sequences, dtype=np.float64)
        return sequences, ((target - self._mean) / self._scale).astype(np.float32), weight

    def _output_loss(self, z: Array, target: Array, weight: Array) -> tuple[float, Array]:
        loss, dz = mse(z, target, sample_weight=weight)
        share = weight.mean()
        return loss * float(share), dz * z.dtype.type(share)

    def predict(self, X: Any) -> Array:
        """The target of each sequence."""
        found: Array = self._outputs(X) * self._scale + self._mean
        return found[:, 0] if self._single else found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags


def _softmax(z: Array) -> Array:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)  # type: ignore[no-any-return]
