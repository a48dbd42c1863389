"""Layers around a scan of states with constant parameters, for inference and streaming."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core, _validate
from .calling import Frozen, Mode
from .form import Extent, Outputs
from .isa import current_isa
from .mixer_form import MixerForm
from .parameters import same_arrays
from .unroll import Run

Array = NDArray[Any]


class FrozenMixer(Frozen):
    """A `Mamba` layer for inference only, created by ``layer.freeze()``: immutable, picklable.

    Attributes
    ----------
    params : mapping of str to ndarray
        The parameters, read-only.
    precision : str
        "float32" or "float64".
    isa : str
        The instruction set that calls use.
    nbytes : int
        Bytes of the parameters.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> frozen = fusedrnn.Mamba(4).freeze()
    >>> y, state = frozen(np.ones((7, 2, 4), np.float32))
    >>> y.shape
    (7, 2, 4)
    """

    __slots__ = ("_layer", "params")

    params: Mapping[str, Array]
    _layer: Any

    def __init__(self, layer: Any, description: str, precision: str) -> None:
        self._refuse_second_init()
        for array in layer.params.values():
            array.flags.writeable = False
        put = object.__setattr__
        put(self, "_layer", layer)
        put(self, "_description", description)
        put(self, "params", MappingProxyType(layer.params))
        put(self, "precision", precision)

    @property
    def _plan(self) -> MixerForm:
        plan: MixerForm = self._layer._plan
        return plan

    def _run(self, x: Array, state: Any, extent: Extent, outputs: Outputs, mode: Mode) -> Run[Any]:
        run: Run[Any] = self._layer._run(x, state, extent, outputs, mode)
        return run

    @property
    def isa(self) -> str:
        return current_isa()

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.params.values())

    def stream(self, batch_size: int = 1) -> MixerStream:
        """Process sequences one step at a time.

        Parameters
        ----------
        batch_size : int
            B, the number of sequences that advance together.

        Returns
        -------
        MixerStream

        Raises
        ------
        ValueError
            The layer runs backwards, or `batch_size` is less than 1.
        """
        return MixerStream(self, batch_size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrozenMixer):
            return NotImplemented
        return (self._description, self.precision) == (other._description, other.precision) and same_arrays(
            self.params, other.params
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenMixer, (self._layer._with_params(dict(self.params)), self._description, self.precision)


class MixerStream:
    """One step at a time over a frozen `Mamba` layer; owns its state. Created by ``frozen.stream()``.

    Attributes
    ----------
    state : tuple of ndarray
        As the state of the layer. Reading and assigning copy; assigning None sets zeros.

    Notes
    -----
    The convolution and the scan of a step have the bits of a sequence; the matrix products are NumPy's, whose last bits
    depend on the number of rows. Only one thread at a time may use a stream.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer, x = fusedrnn.Mamba(4), np.ones((7, 2, 4), np.float32)
    >>> stream = layer.freeze().stream(batch_size=2)
    >>> y = np.stack([stream.step(x_t) for x_t in x])
    >>> bool(np.allclose(y, layer(x)[0], atol=1e-6))
    True
    """

    def __init__(self, frozen: FrozenMixer, batch_size: int = 1) -> None:
        if hasattr(self, "_in_use"):  # another thread may be in a step
            raise _validate.initialised("MixerStream", "frozen.stream()")
        plan = frozen._plan
        _validate.one_directional(plan.owner, plan.ways)
        self._batch_size = _validate.size(plan.owner, "batch_size", batch_size)
        elements = sum(math.prod(shape) for shape, _ in plan.parts.values())
        _validate.room(plan.owner, "the state", elements * self._batch_size, plan.dtype)
        self._frozen = frozen
        self._state = [np.zeros((self._batch_size, *shape), plan.dtype) for shape, _ in plan.parts.values()]
        self._in_use = False

    @property
    def batch_size(self) -> int:
        """B."""
        return self._batch_size

    def step(self, x: Any, out: Array | None = None) -> Array:
        """One step.

        Parameters
        ----------
        x : array-like (B, d_model)
        out : ndarray (B, d_model) or None
            Array to write to.

        Returns
        -------
        ndarray (B, d_model)
            This is ``out`` if it was given.

        Raises
        ------
        TypeError, ValueError
            `x` or `out` does not fit.
        RuntimeError
            The stream is in use by another thread.
        """
        plan = self._frozen._plan
        x = _validate.step_input(plan.owner, x, plan.dtype, plan.input_size, self._batch_size)
        if x.ndim != 2:
            raise TypeError(f"{plan.owner}: x has integers; expected floats: embed tokens before the layer")
        shape = (self._batch_size, plan.input_size)
        if out is not None:
            out = _validate.out(plan.owner, "out", out, shape, "(B, d_model)", plan.dtype, [("x", x)], _core.rows_apart)
        if self._in_use:
            raise _validate.in_use("MixerStream")
        self._in_use = True
        try:
            y: Array = self._frozen._layer._step(self._frozen.params, x, self._state)
        finally:
            self._in_use = False
        if out is None:
            return y
        out[...] = y
        return out

    @property
    def state(self) -> tuple[Array, ...]:
        return tuple(part.copy() for part in self._state)

    @state.setter
    def state(self, value: Any) -> None:
        if value is None:
            self.reset()
            return
        plan = self._frozen._plan
        extent = Extent(0, self._batch_size, "batch", None, _core.Schedule(0, self._batch_size))
        for part, given in zip(self._state, plan.read_state(extent, "state", value), strict=True):
            part[...] = given

    def reset(self, rows: Any = None) -> None:
        """Set the state to zeros.

        Parameters
        ----------
        rows : bool (B,) or None
            The rows to reset; None is all.

        Raises
        ------
        TypeError, ValueError
            `rows` is not an array of bools of shape (B,).
        """
        chosen: Any = slice(None)
        if rows is not None:
            chosen = _validate.rows(self._frozen._plan.owner, rows, self._batch_size)
        for part in self._state:
            part[chosen] = 0

    def __repr__(self) -> str:
        return f"<stream of {self._frozen!r}, batch_size={self._batch_size}>"

    def __copy__(self) -> MixerStream:
        return _resume(self._frozen, self._batch_size, self.state)

    def __deepcopy__(self, memo: dict[int, Any]) -> MixerStream:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _resume, (self._frozen, self._batch_size, self.state)


def _resume(frozen: FrozenMixer, batch_size: int, state: tuple[Array, ...]) -> MixerStream:
    """A stream that continues from a state."""
    stream = MixerStream(frozen, batch_size)
    stream.state = state
    return stream
