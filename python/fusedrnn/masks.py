"""Masks of training inside the steps of a layer: recurrent dropout, weight dropout and zoneout.

The masks are arrays of bools, drawn from the layer's ``rng`` or given by the caller; the kernels apply them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _validate
from .form import Extent

Array = NDArray[Any]
Masks = dict[str, NDArray[np.bool_]]


class Rates(NamedTuple):
    """Probabilities of dropping a unit of h or a weight of W_hh, and of keeping an old state."""

    recurrent_dropout: float
    weight_dropout: float
    zoneout: tuple[float, float]  # of h and c
    dropout: float = 0.0  # of dropping an output between layers

    @property
    def any(self) -> bool:
        """Whether training needs any masks."""
        return bool(self.recurrent_dropout or self.weight_dropout or self.dropout or self.zoneout != (0.0, 0.0))

    def by_name(self) -> dict[str, float]:
        """The rate of each mask that training can have."""
        h, c = self.zoneout
        return {
            "weight_dropout": self.weight_dropout,
            "recurrent_dropout": self.recurrent_dropout,
            "zoneout_h": h,
            "zoneout_c": c,
            "dropout": self.dropout,
        }


def shapes(
    directions: int, extent: Extent, units: tuple[int, ...], W_hh: tuple[int, ...], between: tuple[int, int]
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape of each mask of a layer, as callers see it, and how it is derived.

    `directions` is the number of directions of all layers together; `between` is the number of lower layers and the
    width of their outputs.
    """
    B, (steps, axes) = extent.B, extent.axes
    h = "hidden_size" if len(units) == 1 or units[0] == units[1] else "proj_size"
    every = {
        "weight_dropout": ((directions, *W_hh), "(num_layers*directions, rows of weight_hh, columns of weight_hh)"),
        "recurrent_dropout": ((directions, B, units[0]), f"(num_layers*directions, B, {h})"),
        "zoneout_h": ((directions, *steps, units[0]), f"(num_layers*directions, {axes}, {h})"),
    }
    if len(units) == 2:
        every["zoneout_c"] = ((directions, *steps, units[1]), f"(num_layers*directions, {axes}, hidden_size)")
    every["dropout"] = ((between[0], *steps, between[1]), f"(num_layers - 1, {axes}, width of a layer's output)")
    return every


def settle(
    owner: str,
    rates: Rates,
    given: Mapping[str, Any],
    shapes: Mapping[str, tuple[tuple[int, ...], str]],
    rng: np.random.Generator,
) -> Masks:
    """The masks that this call needs: the caller's, or new ones. True where dropout or zoneout keeps the old value.

    Numbers are drawn in float32 for both dtypes, so that layers of both dtypes drop the same elements.
    """
    masks: Masks = {}
    for name, (shape, formula) in shapes.items():
        rate = rates.by_name()[name]
        if name in given:
            masks[name] = _validate.given_mask(owner, f"masks[{name!r}]", given[name], shape, formula)
        elif rate:
            drawn = rng.random(shape, np.float32)
            masks[name] = drawn < rate if name.startswith("zoneout") else drawn >= rate
    return masks


def with_columns(masks: Masks, extent: Extent) -> Masks:
    """The masks with the axes of the kernels' arrays: those over steps of packed sequences have a batch axis of 1."""
    if not extent.packed:
        return masks
    over_steps = ("zoneout_h", "zoneout_c", "dropout")
    return {name: mask[..., None, :] if name in over_steps else mask for name, mask in masks.items()}


def for_kernels(
    masks: Masks, rates: Rates, directions: int, dtype: np.dtype[Any]
) -> Iterator[tuple[Array | None, Array | None, Array | None] | None]:
    """For each layer and direction: factors of h in the recurrent product, and where h and c keep their old values."""
    scale = dtype.type(1.0 / (1.0 - rates.recurrent_dropout))
    recurrent, h, c = (masks.get(name) for name in ("recurrent_dropout", "zoneout_h", "zoneout_c"))
    if recurrent is None and h is None and c is None:
        yield from itertools.repeat(None)
    for i in range(directions):
        yield (
            None if recurrent is None else recurrent[i] * scale,
            None if h is None else h[i],
            None if c is None else c[i],
        )


def weight_factors(masks: Masks, rates: Rates, dtype: np.dtype[Any]) -> Array | None:
    """The factors of each weight_hh, and of its gradient; (layers and directions, rows, columns)."""
    kept = masks.get("weight_dropout")
    return None if kept is None else kept * dtype.type(1.0 / (1.0 - rates.weight_dropout))
