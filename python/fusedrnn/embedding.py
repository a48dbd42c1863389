"""A vector for each token."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _validate
from .grads import SparseGrad
from .parameters import arguments_of
from .position_wise import PositionTape, PositionWise, SavedOne
from .specs import ParameterSpec

Array = NDArray[Any]


class Embedding(PositionWise):
    """A vector for each token: y = weight[token].

    Parameters
    ----------
    num_embeddings : int
        Number of tokens; each is at least 0 and less.
    embedding_dim : int
        Width of the vectors.
    padding_idx : int or None
        A token whose vector is zero at first and has no gradient; -1 is the last, as in torch.
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        Seed or generator of the initial vectors, from N(0, 1), as torch's.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or value.
    MemoryError
        The parameters do not fit into memory.

    Notes
    -----
    The parameter is ``weight`` (num_embeddings, embedding_dim), as in ``torch.nn.Embedding``. A recurrent layer reads
    tokens without an embedding, too: then each selects a column of ``weight_ih``, which is the product of a vector of
    its own with the weights.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> words, layer = fusedrnn.Embedding(1000, 8, rng=0), fusedrnn.GRU(8, 16, rng=1)
    >>> x, word_tape = words.forward(np.array([[7, 1], [7, 999]]))  # (T, B)
    >>> y, h, tape = layer.forward(x)
    >>> grads = word_tape.backward(tape.backward(y).x, sparse=True)
    >>> grads.params["weight"]
    SparseGrad(shape=(1000, 8), ids=3, dtype=float32, axis=0)
    """

    _sizes_of = ("num_embeddings", "embedding_dim")
    _inner_axes = 0

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    weight: Array

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        owner = type(self).__name__
        size = _validate.size(owner, "num_embeddings", num_embeddings)
        self._configure(
            {
                "num_embeddings": size,
                "embedding_dim": _validate.size(owner, "embedding_dim", embedding_dim),
                "padding_idx": padding_index(owner, padding_idx, size),
                "dtype": _validate.layer_dtype(owner, dtype),
                "rng": _validate.generator(owner, rng),
            }
        )
        self._initialise()

    _arguments = arguments_of(__init__)

    def _specify(self) -> tuple[ParameterSpec, ...]:
        shape = (self.num_embeddings, self.embedding_dim)
        return (ParameterSpec("weight", shape, "(num_embeddings, embedding_dim)", "weight"),)

    def _draw(self) -> None:
        shape = (self.num_embeddings, self.embedding_dim)
        weight = self.rng.standard_normal(shape).astype(self.dtype, copy=False)
        if self.padding_idx is not None:
            weight[self.padding_idx] = 0
        self.__dict__["params"] = {"weight": weight}

    def forward(self, x: Any) -> tuple[Any, PositionTape]:
        """The vectors of tokens, and a tape for the gradients.

        Parameters
        ----------
        x : array-like of integers, any shape, or list of such arrays

        Returns
        -------
        y : ndarray (*x.shape, embedding_dim), or list of these
        tape : PositionTape
            ``tape.backward(dy)`` gives the gradients; with ``sparse=True`` only those of the tokens that occur.

        Raises
        ------
        TypeError
            `x` does not hold integers.
        IndexError
            A token is outside [0, num_embeddings).
        ValueError
            The weight was replaced by an array that does not fit.
        """
        return self._forward(x)

    def _read(self, name: str, x: Any) -> Array:
        owner = type(self).__name__
        if isinstance(x, tuple):
            raise TypeError(
                f"{owner}: {name} is a tuple; expected an array of integers or a list of them, of (tokens, lengths) "
                "the tokens alone"
            )
        array = _validate.as_array(owner, name, x)
        if array.size == 0 and isinstance(x, list):
            array = array.astype(np.int64)
        if array.dtype.kind not in "iu":
            raise TypeError(
                f"{owner}: {name} has dtype {array.dtype}; expected integers, tokens from 0 to num_embeddings - 1"
            )
        ids = array.astype(np.int64)  # a copy, before it is checked: other threads may write to the array
        if ids.size and (ids.min() < 0 or ids.max() >= self.num_embeddings):
            flat = ids.reshape(-1)
            wrong = int(np.argmax((flat < 0) | (flat >= self.num_embeddings)))
            raise IndexError(
                f"{owner}: {name} holds token {array.reshape(-1)[wrong]}; expected 0 <= token < num_embeddings = "
                f"{self.num_embeddings}"
            )
        return ids

    def _nothing(self) -> Array:
        return np.zeros(0, np.int64)

    def _one(self, x: Array) -> Array:
        (weight,) = self._arrays()
        vectors: Array = weight[x]
        return vectors

    def _train_one(self, x: Array) -> tuple[Array, SavedOne]:
        y = self._one(x)
        ids = x.reshape(-1)

        def backward(dy: Array, need_dx: bool, sparse: bool) -> tuple[Array | None, dict[str, Any]]:
            gradient = sum_of_rows(ids, dy.reshape(len(ids), self.embedding_dim), self.num_embeddings)
            if self.padding_idx is not None:
                gradient.values[gradient.ids == self.padding_idx] = 0
            return None, {"weight": gradient if sparse else gradient.to_dense()}

        return y, SavedOne(backward, y.shape, self.dtype, ids.nbytes)


def padding_index(owner: str, value: object, size: int) -> int | None:
    """A token, counted from the end if negative; or None."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{owner}: padding_idx is {value!r} ({type(value).__name__}); expected a token, or None")
    index = int(value)
    if not -size <= index < size:
        raise ValueError(f"{owner}: padding_idx is {index}; expected -{size} <= padding_idx < num_embeddings = {size}")
    return index % size


def sum_of_rows(ids: NDArray[np.int64], rows: Array, vocabulary: int) -> SparseGrad:
    """The sums of the rows of each distinct id, in the order in which they come."""
    if not len(ids):
        return SparseGrad(np.zeros(0, np.int64), np.zeros((0, rows.shape[1]), rows.dtype), vocabulary, axis=0)
    order = np.argsort(ids, kind="stable")
    found, starts = np.unique(ids[order], return_index=True)
    return SparseGrad(found, np.add.reduceat(rows[order], starts, axis=0), vocabulary, axis=0)
