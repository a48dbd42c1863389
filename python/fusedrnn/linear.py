"""A dense layer over the last axis.

The product runs in the kernels for linear systems, y = C x + D u with a state x of one unit that is always 1: so the
bits of a row depend neither on the other rows nor on the number of threads, as those of recurrent layers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _core, _validate
from .parameters import arguments_of
from .position_wise import PositionTape, PositionWise, SavedOne
from .specs import ParameterSpec

Array = NDArray[Any]


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
    weight: Array
    bias: Any  # the parameter, as in torch; None without one
    _has_bias: bool

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
