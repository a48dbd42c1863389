"""Common base of layers that treat each position by itself: `Embedding` before recurrent layers, `Linear` after them.

Their parameters have torch's names, and are what a recurrent layer has: a dict of live arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import _validate
from .grads import Grads
from .parameters import Parameterized
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
