"""The form of layers around a scan of states: their states, and which steps of a call run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _validate
from .form import Extent, Form

Array = NDArray[Any]


class MixerForm(Form):
    """The form of such a layer: its state is a tuple of arrays, (B, ...) each."""

    __slots__ = ("parts",)

    def __init__(
        self, owner: str, dtype: np.dtype[Any], d_model: int, batch_first: bool, backwards: bool, parts: dict[str, Any]
    ) -> None:
        self.owner = owner
        self.dtype = dtype
        self.input_size = d_model
        self.batch_first = batch_first
        self.widths = (d_model,)
        self.ways = (backwards,)
        self.lead = ()
        self.parts = parts  # name -> shape without rows, and how it is derived

    @property
    def width_formula(self) -> str:
        return "d_model"

    def read_state(self, extent: Extent, argument: str, state: Any, optional: bool = False) -> Any:
        if state is None:
            return None
        names = ", ".join(self.parts)
        if not isinstance(state, (tuple, list)):
            raise TypeError(f"{self.owner}: {argument} is {_validate.kind(state)}; expected a tuple ({names})")
        if len(state) != len(self.parts):
            raise ValueError(f"{self.owner}: {argument} has {len(state)} parts; expected ({names})")
        arrays: list[Array | None] = []
        single = extent.layout == "unbatched"
        for (name, (shape, formula)), given in zip(self.parts.items(), state, strict=True):
            if given is None and optional:
                arrays.append(None)
                continue
            full = f"{argument} {name}"
            array = _validate.floats(self.owner, full, given, self.dtype, rows=True)
            whole = shape if single else (extent.B, *shape)
            _validate.exact_shape(self.owner, full, array, whole, f"({formula})" if single else f"(B, {formula})")
            arrays.append(array[None] if single else array)
        return tuple(arrays)

    def state_to_caller(self, extent: Extent, state: Any) -> Any:
        return tuple([part[0] for part in state]) if extent.layout == "unbatched" else tuple(state)

    def state_arrays(self, argument: str, state: Any) -> Iterator[tuple[str, Any]]:
        for name, array in zip(self.parts, state or (), strict=False):
            yield f"{argument} {name}", array


class StepsGiven(NamedTuple):
    """Which steps run, as the functions on plain arrays take it, and whether time runs backwards."""

    lengths: Array | None
    mask: NDArray[np.bool_] | None
    reset: NDArray[np.bool_] | None
    reverse: bool

    @property
    def some(self) -> bool:
        """Whether there is anything to say but the direction."""
        return not (self.lengths is self.mask is self.reset is None)

    def ran(self, T: int, B: int) -> NDArray[np.bool_] | None:
        """(T, B, 1), False at skipped steps; None if all run."""
        if self.lengths is None and self.mask is None:
            return None
        ran = np.ones((T, B), np.bool_) if self.mask is None else self.mask
        if self.lengths is not None:
            ran = ran & (np.arange(T)[:, None] < self.lengths)
        return ran[..., None]


class Grid:
    """A call's sequences as (T, B, width): packed ones are padded, which costs memory in proportion to the longest."""

    __slots__ = ("_places", "given", "shape")

    def __init__(self, extent: Extent, reverse: bool) -> None:
        if not extent.packed:
            flags = [None if x is None else np.ascontiguousarray(x.T) for x in (extent.mask, extent.reset)]
            self.shape = extent.T, extent.B
            self._places: Any = None
            self.given = StepsGiven(extent.lengths, flags[0], flags[1], reverse)
            return
        assert extent.lengths is not None
        lengths = extent.lengths
        self.shape = int(lengths.max(initial=0)), extent.B
        starts = np.cumsum(lengths) - lengths
        self._places = np.arange(extent.T) - np.repeat(starts, lengths), np.repeat(np.arange(extent.B), lengths)
        flags = []
        for x in (extent.mask, extent.reset):
            if x is not None:
                padded = np.zeros(self.shape, np.bool_)
                padded[self._places] = x
                x = padded
            flags.append(x)
        self.given = StepsGiven(lengths, flags[0], flags[1], reverse)

    def padded(self, x: Array) -> Array:
        """(T, B, width) from (T, B, width) or packed (N, 1, width)."""
        if self._places is None:
            return x
        whole = np.zeros((*self.shape, x.shape[2]), x.dtype)
        whole[self._places] = x[:, 0]
        return whole

    def put(self, array: Array, target: Array) -> None:
        """Write (T, B, width) into (T, B, width) or packed (N, 1, width)."""
        if self._places is None:
            target[...] = array
        else:
            target[:, 0] = array[self._places]
