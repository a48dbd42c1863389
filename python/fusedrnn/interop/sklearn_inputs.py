"""What scikit-learn's estimators over sequences share: reading X, tokens and their vocabulary, and the layer.

Needs scikit-learn.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import validate_data

import fusedrnn

from .. import _validate
from . import _messages_sklearn as _messages

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
    "analyzer": [StrOptions({"word", "char"}), callable],
}


class Sequences(BaseEstimator):  # type: ignore[misc, unused-ignore]
    """Base of the estimators."""

    vocabulary_: dict[Any, int] | None

    def _read(self, X: Any, *, reset: bool) -> list[Array]:
        """X as a list of (T_i, I) float32 arrays, or of (T_i,) tokens; scikit-learn's own checks where it has some."""
        items = one_by_one(X)
        if items is None and getattr(X, "ndim", 2) == 3:
            sequences = list(check_array(X, dtype=np.float32, ensure_2d=False, allow_nd=True))
        elif items is None:
            self._warn_of_tokens(X)
            array = validate_data(self, X, dtype=np.float32, reset=reset)
            sequences = list(array[:, :, None])
        else:
            rows = [self._split(item) for item in items]
            some = next((row for row in rows if len(row)), rows[0])
            if isinstance(items[0], str) or is_tokens(some):
                return self._number(rows, reset)
            sequences = [self._one(i, row) for i, row in enumerate(rows)]
            widths = {x.shape[1] for x in sequences}
            if len(widths) > 1:
                raise _validate.widths(type(self).__name__, sorted(widths))
        width = sequences[0].shape[1]
        if reset:
            self.input_size_ = width
            self.vocabulary_: dict[Any, int] | None = None
        elif self.vocabulary_ is not None:
            raise ValueError(_messages.not_tokens(type(self).__name__))
        elif width != self.input_size_:
            raise _validate.sequence_width(type(self).__name__, width, self.input_size_)
        return sequences

    def _warn_of_tokens(self, X: Any) -> None:
        """An array of integers is a table of numbers to scikit-learn, but tokens to layers."""
        if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "iu":
            warnings.warn(_messages.integer_table(type(self).__name__, X.shape), UserWarning, stacklevel=4)

    def _split(self, item: Any) -> Any:
        """A text as tokens; anything else as it is."""
        if not isinstance(item, str):
            return item
        analyzer = self.analyzer
        if callable(analyzer):
            return list(analyzer(item))
        return item.split() if analyzer == "word" else list(item)

    def _number(self, rows: list[Any], reset: bool) -> list[Array]:
        """Tokens as integers: 1 for the first of the vocabulary and so on, 0 for those that fit has not seen."""
        owner = type(self).__name__
        for i, row in enumerate(rows):
            if not is_tokens(row) and len(row):
                raise TypeError(_messages.mixed_tokens(owner, i))
        lists = [np.asarray(row).tolist() if not isinstance(row, list) else row for row in rows]
        kinds = {isinstance(token, str) for row in lists for token in row}
        if len(kinds) > 1:
            raise TypeError(_messages.mixed_tokens(owner, 0))
        layer = getattr(self, "layer", None)
        if layer is not None:  # which has its own numbers for tokens
            if True in kinds:
                raise TypeError(_messages.numbers_of_layer(owner))
            self.input_size_, self.vocabulary_ = layer.input_size, {}
            return [np.array(row, np.int64) for row in lists]
        if reset:
            known = sorted({token for row in lists for token in row})
            if not known:
                raise ValueError(_messages.no_tokens(owner))
            self.vocabulary_ = {token: i for i, token in enumerate(known, start=1)}
            self.input_size_ = len(known) + 1
        elif self.vocabulary_ is None:
            raise ValueError(_messages.only_tokens(owner))
        place = (self.vocabulary_ or {}).get
        return [np.array([place(token, 0) for token in row], np.int64) for row in lists]

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


def one_by_one(X: Any) -> list[Any] | None:
    """The sequences of X if they come one by one; None for an array or a table, whose rows they are."""
    if isinstance(X, np.ndarray):
        given: Iterable[Any] = X if X.ndim == 1 and X.dtype.kind in "OUT" else ()
    elif isinstance(X, (list, tuple)):
        given = X
    else:  # a column of a table
        given = X.to_numpy() if getattr(X, "ndim", 0) == 1 and hasattr(X, "to_numpy") else ()
    items = list(given)
    if not items:
        return None
    first = items[0]
    if isinstance(first, str):
        return items
    if isinstance(first, (list, tuple)):  # of numbers and of one length: a table
        uneven = len({len(item) for item in items if isinstance(item, (list, tuple))}) > 1
        return items if uneven or is_tokens(list(first)) else None
    return items if getattr(first, "ndim", 0) and hasattr(first, "__array__") else None


def is_tokens(row: Any) -> bool:
    """Whether a sequence has one integer or one string for each step."""
    if isinstance(row, (list, tuple)):
        return bool(row) and all(isinstance(t, (str, Integral)) and not isinstance(t, (bool, np.bool_)) for t in row)
    array = np.asarray(row)
    return array.ndim == 1 and (array.dtype.kind in "iuUT" or (array.dtype == object and is_tokens(array.tolist())))
