"""Windows of a series, as samples for scikit-learn's estimators over sequences. Needs scikit-learn."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from . import _messages_sklearn as _messages

Array = NDArray[Any]


class SlidingWindows(TransformerMixin, BaseEstimator):  # type: ignore[misc, unused-ignore]
    """A series becomes windows of equal length, and the values that follow them targets.

    A window is a sample, so there are fewer samples than steps: use it before a pipeline and not in one.

    Parameters
    ----------
    length : int
        Steps of a window.
    horizon : int
        Steps from the last of a window to its target; 1 is the next step.
    step : int
        Steps from one window to the next.

    Attributes
    ----------
    n_features_in_ : int
        Columns of the series.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.interop.sklearn import SlidingWindows
    >>> series = np.arange(6.0)
    >>> windows = SlidingWindows(length=3)
    >>> X, y = windows.fit_transform(series), windows.targets(series)
    >>> X[:, :, 0]
    array([[0., 1., 2.],
           [1., 2., 3.],
           [2., 3., 4.],
           [3., 4., 5.]])
    >>> y  # the last window has none yet: its target is to be predicted
    array([3., 4., 5.])
    >>> X[: len(y)].shape, windows.last_steps(len(series))
    ((3, 3, 1), array([2, 3, 4, 5]))
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        name: [Interval(Integral, 1, None, closed="left")] for name in ("length", "horizon", "step")
    }

    def __init__(self, length: int = 10, *, horizon: int = 1, step: int = 1) -> None:
        self.length = length
        self.horizon = horizon
        self.step = step

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Find out the columns of a series (steps,) or (steps, columns), or of a table."""
        self.n_features_in_ = self._read(X).shape[1]
        return self

    def transform(self, X: Any) -> Array:
        """All windows, (samples, length, columns), those whose target is not known yet included."""
        check_is_fitted(self)
        series = self._read(X)
        owner = type(self).__name__
        if series.shape[1] != self.n_features_in_:
            raise ValueError(_messages.other_columns(owner, series.shape[1], self.n_features_in_))
        if len(series) < self.length:
            raise ValueError(_messages.short_series(owner, len(series), self.length))
        every = np.lib.stride_tricks.sliding_window_view(series, self.length, axis=0)
        windows: Array = np.ascontiguousarray(every[:: self.step].swapaxes(1, 2))
        return windows

    def targets(self, y: Any) -> Array:
        """What follows each window in a series (steps,) or (steps, columns): as many as are known, from the first."""
        series = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        found: Array = series[self.length + self.horizon - 1 :: self.step]
        return found

    def last_steps(self, n: int) -> NDArray[np.int64]:
        """The place of the last step of each window in a series of n steps, as for ``table.index[...]``."""
        return np.arange(self.length - 1, n, self.step)

    def _read(self, X: Any) -> Array:
        series = check_array(X, ensure_2d=False, dtype=(np.float64, np.float32))
        columns: Array = series[:, None] if series.ndim == 1 else series
        return columns
