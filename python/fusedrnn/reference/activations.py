"""The activation functions of cells and their slopes. The twin of `csrc/math/math.h` and `csrc/math/activations.h`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ACTIVATIONS", "Activation", "activation_of", "sigmoid"]

Array = NDArray[Any]


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), element by element.

    Parameters
    ----------
    x : ndarray of float, any shape

    Returns
    -------
    ndarray
        Same shape and dtype. Accurate in both tails; infinities saturate, NaN stays NaN.

    Notes
    -----
    exp is only asked for exp(-|x|) <= 1, so it cannot overflow; for x < 0 numerator and denominator are both multiplied
    by exp(x), which keeps the relative error small where the result is tiny.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.reference.activations import sigmoid
    >>> sigmoid(np.array([-np.inf, -1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.0, 0.5, 1.0]
    """
    z = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, np.ones_like(z), z) / (1 + z)
    return y


def _softsign(x: Array) -> Array:
    """x / (1 + |x|); infinities are first replaced by the largest finite numbers."""
    largest = np.finfo(x.dtype).max
    x = np.clip(x, -largest, largest)
    y: Array = x / (1 + np.abs(x))
    return y


def _sigmoid_slope(x: Array) -> Array:
    y = sigmoid(x)
    slope: Array = y * (1 - y)
    return slope


Function = Callable[[Array, float, float], Array]

#: Name -> value and slope as functions of (x, alpha, beta). At a kink the slope is the slope of the flatter side.
ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "sigmoid": (lambda x, a, b: sigmoid(x), lambda x, a, b: _sigmoid_slope(x)),
    "tanh": (lambda x, a, b: np.tanh(x), lambda x, a, b: 1 - np.tanh(x) ** 2),
    "relu": (lambda x, a, b: np.maximum(x, 0), lambda x, a, b: np.where(x <= 0, 0.0, 1.0)),
    "hard_sigmoid": (
        lambda x, a, b: np.clip(a * x + b, 0, 1),
        lambda x, a, b: np.where((a * x + b > 0) & (a * x + b < 1), a, 0.0),
    ),
    "hard_tanh": (lambda x, a, b: np.clip(x, -1, 1), lambda x, a, b: np.where(np.abs(x) < 1, 1.0, 0.0)),
    "softsign": (lambda x, a, b: _softsign(x), lambda x, a, b: (1 + np.abs(x)) ** -2.0),
    "softplus": (
        lambda x, a, b: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
        lambda x, a, b: sigmoid(x),
    ),
    "leaky_relu": (lambda x, a, b: np.where(x <= 0, a * x, x), lambda x, a, b: np.where(x <= 0, a, 1.0)),
    "elu": (
        lambda x, a, b: np.where(x > 0, x, a * np.expm1(np.minimum(x, 0))),
        lambda x, a, b: np.where(x > 0, 1.0, a * np.exp(np.minimum(x, 0))),
    ),
    "affine": (lambda x, a, b: a * x + b, lambda x, a, b: np.full_like(x, a)),
    "scaled_tanh": (lambda x, a, b: a * np.tanh(b * x), lambda x, a, b: a * b * (1 - np.tanh(b * x) ** 2)),
    "thresholded_relu": (lambda x, a, b: np.where(x <= a, 0.0, x), lambda x, a, b: np.where(x <= a, 0.0, 1.0)),
    "linear": (lambda x, a, b: x, lambda x, a, b: np.ones_like(x)),
}


@dataclass(frozen=True)
class Activation:
    """One function with its parameters; its argument may be clipped first.

    Attributes
    ----------
    name : str
        A key of `ACTIVATIONS`.
    alpha, beta : float
        The parameters of the function; a missing parameter is 0.
    clip : float
        The argument is limited to [-clip, clip], and the slope is zero outside.
    """

    name: str
    alpha: float = 0.0
    beta: float = 0.0
    clip: float = np.inf

    def __call__(self, x: Array) -> Array:
        """The value."""
        return ACTIVATIONS[self.name][0](np.clip(x, -self.clip, self.clip), self.alpha, self.beta).astype(x.dtype)

    def slope(self, x: Array) -> Array:
        """The derivative."""
        slope = ACTIVATIONS[self.name][1](np.clip(x, -self.clip, self.clip), self.alpha, self.beta)
        return np.where(np.abs(x) > self.clip, 0.0, slope).astype(x.dtype)


#: Name -> default alpha (and beta); None means that they must be given.
DEFAULTS: dict[str, tuple[float | None, ...]] = {
    "hard_sigmoid": (1 / 6, 0.5),
    "leaky_relu": (0.01,),
    "elu": (1.0,),
    "affine": (None, None),
    "scaled_tanh": (None, None),
    "thresholded_relu": (1.0,),
}


def activation_of(given: str | tuple[Any, ...], clip: float | None = None) -> Activation:
    """An `Activation` from a name, (name, alpha) or (name, alpha, beta).

    Parameters
    ----------
    given : str or tuple
    clip : float or None
        Limit of the argument; None means no limit.

    Returns
    -------
    Activation

    Raises
    ------
    ValueError
        There is no such function, or the number of parameters is wrong.

    Examples
    --------
    >>> from fusedrnn.reference.activations import activation_of
    >>> activation_of(("hard_sigmoid", 0.2))
    Activation(name='hard_sigmoid', alpha=0.2, beta=0.5, clip=inf)
    """
    name, *parameters = (given,) if isinstance(given, str) else given
    defaults = DEFAULTS.get(name, ())
    values = [*parameters, *defaults[len(parameters) :]]
    if name not in ACTIVATIONS or len(values) != len(defaults) or None in values:
        raise ValueError(f"activation is {given!r}; expected a name of {', '.join(ACTIVATIONS)}, and its parameters")
    alpha, beta = [*values, 0.0, 0.0][:2]
    return Activation(name, alpha, beta, np.inf if clip is None else clip)
