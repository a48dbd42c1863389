"""The logistic function, computed so that nothing overflows; tanh is NumPy's. Beside `csrc/kernels/math.h`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["sigmoid"]


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    """Return 1 / (1 + exp(-x)), element by element.

    Parameters
    ----------
    x : ndarray of float, any shape

    Returns
    -------
    ndarray
        Same shape and dtype. Precise in both tails; infinities saturate, NaN stays NaN.

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
    y: NDArray[Any] = np.where(x >= 0, np.ones_like(z), z) / (1 + z)
    return y
