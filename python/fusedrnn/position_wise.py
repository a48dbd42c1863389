"""Layers that treat each position by itself: `Embedding` before recurrent layers, `Linear` after them.

Their parameters have torch's names, and are what a recurrent layer has: a dict of live arrays. Products run in the
kernels for linear systems, y = C x + D u with a state x of one unit that is always 1: so the bits of a row depend
neither on the other rows nor on the number of threads, as those of recurrent layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _core, _validate
from .grads import Grads, SparseGrad
from .parameters import Parameterized, arguments_of
from .specs import ParameterSpec
from .tape import TapeBase

Array = NDArray[Any]


class PositionWise(Parameterized):
    """Base of `Embedding` and `Linear`: two sizes, and calls on arrays of any number of axes, or lists of them."""

    def _configure(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)
        self.__dict__["_specs"] = specs = self._specify()
        elements = sum(math.prod(spec.shape) for spec in specs)
        _validate.room(type(self).__name__, "the parameters", elements, self.dtype)

    def _one(self, x: Array) -> Array:
        """The outputs of a checked array."""
        raise NotImplementedError

    def _train_one(self, x: Array) -> tuple[Array, SavedOne]:
        """The outputs of a checked array, and what `backward` needs."""
        raise NotImplementedError

    def _read(self, name: str, x: Any) -> Array:
        """The input as a checked array."""
        raise NotImplementedError

    def __call__(self, x: Any) -> Any:
        """The outputs, without saving data for a backward pass; `forward` documents arguments and errors."""
        if not is_batch(x):
            return self._one(self._read("x", x))
        joined, places = self._join(x)
        return _split(self._one(joined), places)

    def _forward(self, x: Any) -> tuple[Any, PositionTape]:
        owner = type(self).__name__
        if not is_batch(x):
            y, saved = self._train_one(self._read("x", x))
            return y, PositionTape(owner, saved, None)
        joined, places = self._join(x)
        y, saved = self._train_one(joined)
        return _split(y, places), PositionTape(owner, saved, places)

    def _join(self, x: Any) -> tuple[Array, list[tuple[int, ...]]]:
        """The positions of a list of arrays in one array, and the shape of the positions of each."""
        arrays = [self._read(f"x[{i}]", item) for i, item in enumerate(x)]
        inner = self._inner_axes
        places = [array.shape[: array.ndim - inner] for array in arrays]
        flat = [array.reshape(-1, *array.shape[array.ndim - inner :]) for array in arrays]
        return np.concatenate(flat) if flat else self._read("x", self._nothing()), places

    #: Axes of an input that belong to one position.
    _inner_axes: ClassVar[int]

    def _nothing(self) -> Array:
        """An input without positions."""
        raise NotImplementedError


def is_batch(x: Any) -> bool:
    """Whether an input is a list of arrays; a tuple never is, because it could be (values, lengths)."""
    return isinstance(x, list) and _validate.is_list(x)


def _split(array: Array, places: list[tuple[int, ...]]) -> list[Array]:
    """The outputs of the positions of each array of a list, (sum of positions, width)."""
    counts = [math.prod(shape) for shape in places]
    ends = np.cumsum(counts, dtype=np.int64).tolist()
    return [array[end - n : end].reshape(*p, array.shape[-1]) for n, end, p in zip(counts, ends, places, strict=True)]


class SavedOne:
    """What a position-wise layer saves: the gradients as a function of dy, the shape of dy, and the size of it all."""

    __slots__ = ("backward", "dtype", "nbytes", "shape")

    def __init__(
        self,
        backward: Callable[[Array, bool, bool], tuple[Array | None, dict[str, Any]]],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        nbytes: int,
    ) -> None:
        self.backward = backward
        self.shape = shape
        self.dtype = dtype
        self.nbytes = nbytes


class PositionTape(TapeBase):
    """What ``forward`` of an `Embedding` or a `Linear` saves; has ``nbytes`` and ``release()``, as `Tape`."""

    __slots__ = ("_places",)

    def __init__(self, owner: str, saved: SavedOne, places: list[tuple[int, ...]] | None) -> None:
        super().__init__(owner, saved)
        self._places = places  # of a list input

    def backward(self, dy: Any, *, need_dx: bool = True, sparse: bool = False) -> Grads:
        """Gradients of a scalar with respect to the input and the parameters.

        Parameters
        ----------
        dy : array-like, or list of arrays
            Gradient with respect to the output, of its shape; a list if the input was one.
        need_dx : bool
            False skips the gradient of the input.
        sparse : bool
            True returns the gradient of the ``weight`` of an `Embedding` as a `SparseGrad` with the rows of the tokens
            that occur; does nothing for a `Linear`.

        Returns
        -------
        Grads
            ``x`` (None for tokens), ``state`` is None, ``params``.

        Raises
        ------
        ValueError
            The tape was released, or a shape is wrong.
        TypeError
            A gradient is not an array of real numbers.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> head = fusedrnn.Linear(5, 3, rng=0)
        >>> y, tape = head.forward(np.ones((7, 2, 5), np.float32))
        >>> tape.backward(np.ones_like(y))
        Grads(x=(7, 2, 5), state=None, params={'weight': (3, 5), 'bias': (3,)}, dtype=float32)
        """
        saved: SavedOne = self._unreleased()
        owner, width = self._owner, saved.shape[-1]
        need_dx = _validate.flag(owner, "need_dx", need_dx)
        sparse = _validate.flag(owner, "sparse", sparse)
        places = self._places
        if places is None:
            given = _validate.floats(owner, "dy", dy, saved.dtype, rows=True)
            _validate.exact_shape(owner, "dy", given, saved.shape, "the shape of y")
        else:
            if not isinstance(dy, (list, tuple)) or len(dy) != len(places):
                came = f"has {len(dy)} arrays" if isinstance(dy, (list, tuple)) else f"is {_validate.kind(dy)}"
                raise (ValueError if isinstance(dy, (list, tuple)) else TypeError)(
                    f"{owner}: dy {came}; expected a list of {len(places)}, as x was a list"
                )
            arrays = []
            for i, (item, place) in enumerate(zip(dy, places, strict=True)):
                array = _validate.floats(owner, f"dy[{i}]", item, saved.dtype)
                _validate.exact_shape(owner, f"dy[{i}]", array, (*place, width), f"the shape of y[{i}]")
                arrays.append(array.reshape(-1, width))
            given = np.concatenate(arrays) if arrays else np.zeros(saved.shape, saved.dtype)
        dx, params = saved.backward(given, need_dx, sparse)
        shown: Any = dx if dx is None or places is None else _split(dx, places)
        return Grads(shown, None, params)


class Linear(PositionWise):
    """A dense layer over the last axis: y = x W^T + b, with the same W at every position.

    Parameters
    ----------
    in_features, out_features : int
        Widths of x and y.
    bias : bool
        Whether there is a ``bias``.
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        Seed or generator of the initial parameters, from U(-1/sqrt(in_features), 1/sqrt(in_features)), as torch's.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or value.
    MemoryError
        The parameters do not fit into memory.

    Notes
    -----
    Parameters: ``weight`` (out_features, in_features) and ``bias`` (out_features,), as in ``torch.nn.Linear``. The bits
    of a position are the same in every batch, for any number of threads, and step by step.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer, head = fusedrnn.GRU(3, 5, rng=0), fusedrnn.Linear(5, 2, rng=1)
    >>> y, h, tape = layer.forward(np.ones((7, 4, 3), np.float32))
    >>> scores, head_tape = head.forward(y)
    >>> scores.shape
    (7, 4, 2)
    >>> of_head = head_tape.backward(np.ones_like(scores))
    >>> of_layer = tape.backward(of_head.x)
    >>> head
    Linear(5, 2)
    """

    _sizes_of = ("in_features", "out_features")
    _inner_axes = 1

    in_features: int
    out_features: int
    _has_bias: bool  # `bias` is the parameter, as in torch

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        owner = type(self).__name__
        self._configure(
            {
                "in_features": _validate.size(owner, "in_features", in_features),
                "out_features": _validate.size(owner, "out_features", out_features),
                "_has_bias": _validate.flag(owner, "bias", bias),
                "dtype": _validate.layer_dtype(owner, dtype),
                "rng": _validate.generator(owner, rng),
            }
        )
        self._initialise()

    _arguments = arguments_of(__init__)

    def _specify(self) -> tuple[ParameterSpec, ...]:
        shape = (self.out_features, self.in_features)
        weight = ParameterSpec("weight", shape, "(out_features, in_features)", "weight")
        bias = ParameterSpec("bias", shape[:1], "(out_features,)", "bias")
        return (weight, bias) if self._has_bias else (weight,)

    def _config(self) -> dict[str, object]:
        sizes = {"in_features": self.in_features, "out_features": self.out_features}
        return sizes | {"bias": self._has_bias, "dtype": self.dtype}

    def __getattr__(self, name: str) -> Any:
        if name == "bias" and not self.__dict__.get("_has_bias", True):
            return None
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"bias": self._has_bias}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.pop("bias", None)  # the argument, which would hide the parameter

    def _draw(self) -> None:
        bound = 1.0 / math.sqrt(self.in_features)
        self.__dict__["params"] = {
            spec.name: self.rng.uniform(-bound, bound, spec.shape).astype(self.dtype, copy=False)
            for spec in self._specs
        }

    def forward(self, x: Any) -> tuple[Any, PositionTape]:
        """The outputs, and a tape for the gradients.

        Parameters
        ----------
        x : array-like (..., in_features), or list of such arrays
            Floats; those of another dtype are cast. What a recurrent layer returns as ``y``: (T, B, I), (T, I), the
            values of (values, lengths), or a list of (T_i, I) arrays.

        Returns
        -------
        y : ndarray (..., out_features), or list of these
        tape : PositionTape
            ``tape.backward(dy)`` gives the gradients; it owns copies of all that it needs.

        Raises
        ------
        TypeError
            `x` does not hold floats; integers are tokens, which an `Embedding` reads.
        ValueError
            The last axis is not in_features wide, or a parameter was replaced by an array that does not fit.
        """
        return self._forward(x)

    def _read(self, name: str, x: Any) -> Array:
        owner, wanted = type(self).__name__, f"(..., in_features) = (..., {self.in_features})"
        if isinstance(x, tuple):
            raise TypeError(
                f"{owner}: {name} is a tuple; expected an array {wanted} or a list of them, of (values, lengths) the "
                "values alone"
            )
        array = _validate.as_array(owner, name, x)
        if array.dtype.kind in "iu":
            raise TypeError(
                f"{owner}: {name} holds integers ({array.dtype}); expected floats {wanted}: for values call "
                f"x.astype({self.dtype.name!r}), for tokens see Embedding"
            )
        _validate.real_dtype(owner, name, array.dtype)
        if array.ndim == 0 or array.shape[-1] != self.in_features:
            raise ValueError(f"{owner}: {name} has shape {array.shape}; expected {wanted}")
        return _validate.floats(owner, name, array, self.dtype, rows=True)

    def _nothing(self) -> Array:
        return np.zeros((0, self.in_features), self.dtype)

    def _system(self) -> tuple[Array, ...]:
        """A, B, C, D of the linear system whose state is 1: the bias is C, the weight D."""
        weight, *bias = self._arrays()
        zeros = np.zeros((1, 1 + self.in_features), self.dtype)
        C = bias[0][:, None] if bias else np.zeros((self.out_features, 1), self.dtype)
        return zeros[:, :1], zeros[:, 1:], C, weight

    def _run(self, x: Array, system: tuple[Array, ...]) -> tuple[Array, Any]:
        """The outputs and the kernels' tape, None if there is no position."""
        u = x.reshape(1, -1, self.in_features)
        rows = u.shape[1]
        y = _core.empty((1, rows, self.out_features), self.dtype)
        tape = None
        if rows:
            ones = np.ones((rows, 1), self.dtype)
            tape = _core.state_space_forward(u, system, ones, y, np.empty_like(ones), True, None)
        return y.reshape(*x.shape[:-1], self.out_features), tape

    def _one(self, x: Array) -> Array:
        return self._run(x, self._system())[0]

    def _train_one(self, x: Array) -> tuple[Array, SavedOne]:
        x = np.array(x, order="C")
        system = tuple([np.array(matrix, order="C") for matrix in self._system()])
        y, tape = self._run(x, system)

        def backward(dy: Array, need_dx: bool, sparse: bool) -> tuple[Array | None, dict[str, Any]]:
            dx = _core.empty(x.shape, self.dtype)
            gradients = tuple([np.zeros_like(matrix) for matrix in system])
            if tape is not None:
                rows = x.size // self.in_features
                _core.state_space_backward(
                    *(tape, x.reshape(1, rows, -1), system, dy.reshape(1, rows, -1), None),
                    *(dx.reshape(1, rows, -1), gradients, np.empty((rows, 1), self.dtype)),
                )
            *_, of_bias, of_weight = gradients
            params = {"weight": of_weight, "bias": of_bias[:, 0]}
            return dx if need_dx else None, {spec.name: params[spec.name] for spec in self._specs}

        nbytes = x.nbytes + sum(matrix.nbytes for matrix in system) + (0 if tape is None else tape.nbytes)
        return y, SavedOne(backward, y.shape, self.dtype, nbytes)


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
