"""Gradients by name, as layers, functions and the reference return them. Plain data; the kernels compute it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Grads:
    """Gradients of the input, the initial state and all parameters.

    Attributes
    ----------
    x : ndarray, list of ndarray, or None
        Of the shape of the input, for (values, lengths) of the values; None for tokens and with ``need_dx=False``.
    state : ndarray, or tuple of two
        Of the state before the first step: h, or (h, c), of its shape, also if it was None. In a row with resets only
        the steps before the first reset contribute.
    params : dict of str to (ndarray or SparseGrad)
        Names, shapes and order are those of ``layer.params``. The gradient of the weights that tokens select is a
        `SparseGrad` if it was requested with ``sparse=True``.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.GRU(3, 5, rng=0)
    >>> y, state, tape = layer.forward(np.ones((7, 2, 3), np.float32))
    >>> tape.backward(np.ones_like(y))
    Grads(x=(7, 2, 3), state=(1, 2, 5), params={'weight_ih_l0': (15, 3), 'weight_hh_l0': (15, 5), \
'bias_ih_l0': (15,), 'bias_hh_l0': (15,)}, dtype=float32)
    """

    __slots__ = ("params", "state", "x")

    def __init__(self, x: Any, state: Any, params: dict[str, Any]) -> None:
        self.x = x
        self.state = state
        self.params = params

    def __repr__(self) -> str:
        own = {name: array.shape for name, array in self.params.items()}
        dtype = next(iter(self.params.values())).dtype if self.params else None
        return f"Grads(x={shapes(self.x)}, state={shapes(self.state)}, params={own}, dtype={dtype})"


class SparseGrad:
    """The gradient of a matrix of which tokens select columns or rows: zero, except in those of tokens that occur.

    The columns are those of a layer's ``weight_ih``, the rows those of the ``weight`` of an `Embedding`.

    Its size, and the time that it takes to use it, follow the number of distinct tokens and not the vocabulary.

    Parameters
    ----------
    ids : ndarray of int64, shape (n,)
        The distinct tokens, in ascending order, each at least 0 and less than `vocabulary`.
    values : ndarray, shape (G*H, n); with ``axis=0`` (n, D)
        The gradient of the column, or of the row, of each of these tokens.
    vocabulary : int
        Number of tokens, and of columns or rows of the parameter: ``input_size``, or ``num_embeddings``.
    axis : 1 or 0
        The axis of the parameter that tokens select from: 1 for columns, 0 for rows.

    Raises
    ------
    TypeError
        `ids` is not an array of int64, or `values` not an array of floats.
    ValueError
        The shapes do not fit each other, or `axis` is another; or, from the methods, an array does not have the shape
        of the parameter.

    Attributes
    ----------
    ids, values : ndarray
        The arguments. The columns of tokens that occur twice are already summed, in the order of steps, so the values
        have the bits of the dense gradient. `values` may be changed in place.
    shape : tuple of int
        (G*H, vocabulary), or (vocabulary, D): the shape of the parameter.
    dtype : numpy.dtype
        That of `values`.
    nbytes : int
        Bytes of `ids` and `values`.

    Notes
    -----
    A tape returns such a gradient with ``backward(..., sparse=True)``. `clip_grad_norm` and `clip_grad_value` change
    its values in place. It can be compared, copied and pickled.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.GRU(100_000, 5, rng=0)
    >>> y, h, tape = layer.forward(np.array([[7], [99_999], [7]]))
    >>> grads = tape.backward(2 * y, sparse=True)
    >>> d = grads.params["weight_ih_l0"]
    >>> d
    SparseGrad(shape=(15, 100000), ids=2, dtype=float32)
    >>> d.ids, d.values.shape
    (array([    7, 99999]), (15, 2))
    >>> d.add_to(layer.weight_ih_l0, -0.01)  # a step of gradient descent
    >>> bool((d.to_dense() == tape.backward(2 * y).params["weight_ih_l0"]).all())
    True
    """

    __slots__ = ("axis", "ids", "shape", "values")

    def __init__(self, ids: NDArray[np.int64], values: Array, vocabulary: int, axis: int = 1) -> None:
        if not isinstance(ids, np.ndarray) or ids.dtype != np.int64:
            raise TypeError(f"SparseGrad: ids is {_about(ids)}; expected an array of int64, shape (n,)")
        if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
            raise TypeError(f"SparseGrad: values is {_about(values)}; expected an array of floats, shape (G*H, n)")
        if axis not in (0, 1):
            raise ValueError(f"SparseGrad: axis is {axis!r}; expected 1 (tokens select columns) or 0 (rows)")
        if ids.ndim != 1 or values.ndim != 2 or values.shape[axis] != len(ids) or len(ids) > vocabulary:
            expected = "(G*H, n)" if axis else "(n, D)"
            raise ValueError(
                f"SparseGrad: ids has shape {ids.shape}, values {values.shape}, of a vocabulary of {vocabulary}; "
                f"expected (n,) and {expected} with n <= vocabulary"
            )
        self.ids = ids
        self.values = values
        self.axis = axis
        self.shape = (values.shape[0], vocabulary) if axis else (vocabulary, values.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.values.dtype
        return dtype

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes + self.values.nbytes

    def to_dense(self) -> Array:
        """The gradient as an array of the parameter's shape, with zeros for all other tokens.

        Returns
        -------
        ndarray
            A new array, which takes memory in proportion to the vocabulary.
        """
        dense = np.zeros(self.shape, self.dtype)
        self._write_to(dense)
        return dense

    def _write_to(self, zeros: Array) -> None:
        """Write the columns or rows into an array of zeros, of the parameter's shape, in C order."""
        if not self.axis:
            zeros[self.ids] = self.values
            return
        # Row by row, as the array lies in memory: column by column, each element would be on another page.
        for row, values in zip(zeros, self.values, strict=True):
            row[self.ids] = values

    def add_to(self, array: Array, scale: float = 1.0) -> None:
        """Add the gradient, times a factor, to an array of its shape, in place; touch only what tokens select.

        Parameters
        ----------
        array : ndarray, of `shape`
            For example the parameter itself, with the negative learning rate for `scale`. Any strides.
        scale : float
            The factor.

        Raises
        ------
        TypeError
            `array` is not an array of floats.
        ValueError
            `array` has another shape, or is read-only.
        """
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise TypeError(
                f"SparseGrad: add_to got {_about(array)}; expected an array of floats of shape {self.shape}"
            )
        if array.shape != self.shape:
            raise ValueError(f"SparseGrad: add_to got shape {array.shape}; expected {self.shape}, as the parameter has")
        if not array.flags.writeable:
            raise ValueError("SparseGrad: add_to got a read-only array; expected one that can be added to in place")
        values = self.values if scale == 1.0 else self.values * scale
        if not self.axis:
            array[self.ids] += values
            return
        if abs(array.strides[0]) < abs(array.strides[1]):  # columns are contiguous
            array.T[self.ids] += values.T
            return
        for row, d in zip(array, values, strict=True):
            row[self.ids] += d

    def __eq__(self, other: object) -> bool:
        """Whether ids, values and shape are equal; NaN equals NaN."""
        if not isinstance(other, SparseGrad):
            return NotImplemented
        alike = self.shape == other.shape and self.axis == other.axis and self.dtype == other.dtype
        same = alike and np.array_equal(self.ids, other.ids)
        return bool(same and np.array_equal(self.values, other.values, equal_nan=True))

    __hash__ = None  # type: ignore[assignment]  # values can be changed

    def __repr__(self) -> str:
        rows = "" if self.axis else ", axis=0"
        return f"SparseGrad(shape={self.shape}, ids={len(self.ids)}, dtype={self.dtype}{rows})"

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.axis:
            return SparseGrad, (self.ids, self.values, self.shape[0], 0)
        return SparseGrad, (self.ids, self.values, self.shape[1])


def _about(value: object) -> str:
    """Type, and dtype of an array, for messages."""
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"{type(value).__name__}"


def shapes(value: Any) -> Any:
    """Shapes of an array, or of a list or tuple of arrays (a long list is cut)."""
    if isinstance(value, tuple):
        return tuple(shapes(item) for item in value)
    if isinstance(value, list):
        shown = ", ".join(str(item.shape) for item in value[:3])
        return f"[{shown}{f', ... {len(value)} in all' if len(value) > 3 else ''}]"
    return None if value is None else value.shape


class RNNGrads(NamedTuple):
    """Gradients of `rnn_forward`, each of the shape of its argument; None for arguments that were not given.

    dx is also None for tokens, and if it was not requested. dW_ih is a `SparseGrad` for tokens with ``sparse=True``.
    """

    dx: Array | None
    dh_0: Array
    dW_ih: Any
    dW_hh: Array
    db_ih: Array | None
    db_hh: Array | None
    dh_initial: Array | None = None


class GRUGrads(NamedTuple):
    """Gradients of `gru_forward`, as in `RNNGrads`."""

    dx: Array | None
    dh_0: Array
    dW_ih: Any
    dW_hh: Array
    db_ih: Array | None
    db_hh: Array | None
    dh_initial: Array | None = None


class CellGrads(NamedTuple):
    """Gradients of the function of a cell with one state and no options, as in `RNNGrads`."""

    dx: Array | None
    dh_0: Array
    dW_ih: Any
    dW_hh: Array
    db_ih: Array | None
    db_hh: Array | None
    dh_initial: Array | None = None


class ElementwiseGrads(NamedTuple):
    """Gradients of the functions of cells without a recurrent matrix whose state is h, such as `mingru_forward`.

    Each is of the shape of its argument, as in `RNNGrads`; dW_unit is None for cells without W_unit.
    """

    dx: Array | None
    dh_0: Array
    dW_ih: Any
    db_ih: Array | None
    dW_unit: Array | None = None
    dh_initial: Array | None = None


class ElementwisePairGrads(NamedTuple):
    """Gradients of the functions of cells without a recurrent matrix whose state is (h, c), as `ElementwiseGrads`."""

    dx: Array | None
    dh_0: Array
    dc_0: Array
    dW_ih: Any
    db_ih: Array | None
    dW_unit: Array | None = None
    dh_initial: Array | None = None
    dc_initial: Array | None = None


class LSTMGrads(NamedTuple):
    """Gradients of `lstm_forward`, as in `RNNGrads`; dW_peephole and dW_hr are None without these weights."""

    dx: Array | None
    dh_0: Array
    dc_0: Array
    dW_ih: Any
    dW_hh: Array
    db_ih: Array | None
    db_hh: Array | None
    dW_peephole: Array | None = None
    dW_hr: Array | None = None
    dh_initial: Array | None = None
    dc_initial: Array | None = None


class ScanGrads(NamedTuple):
    """Gradients of `scan_forward`, each of the shape of its argument; dh_0 also if h_0 was not given."""

    da: Array
    db: Array
    dh_0: Array


class StateSpaceGrads(NamedTuple):
    """Gradients of `state_space_forward`, each of the shape of its argument; dD is None without D."""

    du: Array
    dA: Array
    dB: Array
    dC: Array
    dD: Array | None
    dx_0: Array


class SelectiveScanGrads(NamedTuple):
    """Gradients of `selective_scan_forward`, each of the shape of its argument; None for an argument not given.

    dh_0 is there also if h_0 was not given.
    """

    du: Array
    ddelta: Array
    dA: Array
    dB: Array
    dC: Array
    dD: Array | None
    dz: Array | None
    ddelta_bias: Array | None
    dh_0: Array


class DiscretizeGrads(NamedTuple):
    """Gradients of `discretize_forward`, each of the shape of its argument; dC and dD are None without them."""

    dA: Array
    dB: Array
    ddt: Array
    dC: Array | None = None
    dD: Array | None = None


class CausalConvGrads(NamedTuple):
    """Gradients of `causal_conv_forward`, each of the shape of its argument; dbias is None without a bias."""

    dx: Array
    dweight: Array
    dbias: Array | None
    dstate: Array


class LinearAttentionGrads(NamedTuple):
    """Gradients of `linear_attention_forward`, each of the shape of its argument; None for an absent decay or beta."""

    dq: Array
    dk: Array
    dv: Array
    ddecay: Array | None
    dbeta: Array | None
    dS_0: Array
