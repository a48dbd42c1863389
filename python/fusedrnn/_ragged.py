"""Checks of sequences of different lengths in one array, ``(values, lengths)``, and their messages; see `_validate`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._validate import as_array, exact_shape, flags, floats, kind, no_token, real_dtype

Array = NDArray[Any]

#: How messages describe the form.
FORM = "(values, lengths): the steps of all rows, row after row, and integers (B,)"


class ByStep(NamedTuple):
    """Sequences in the order of torch's PackedSequence: the first steps of all rows, then all second steps, and so on.

    For bridges.
    """

    values: Any
    counts: Any  # (T,): how many rows have each step


def lengths_by_step(owner: str, counts: Any, steps: int) -> NDArray[np.int64]:
    """The lengths of the rows of a `ByStep`, which never rise."""
    counts = np.array(as_array(owner, "batch_sizes", counts))
    if counts.ndim != 1 or counts.dtype.kind not in "iu":
        raise TypeError(f"{owner}: batch_sizes has dtype {counts.dtype}, shape {counts.shape}; expected integers (T,)")
    counts = counts.astype(np.int64)
    if (counts < 0).any() or (np.diff(counts) > 0).any() or counts.sum() != steps:
        raise ValueError(
            f"{owner}: batch_sizes is {counts[:5].tolist()}{' and so on' * (len(counts) > 5)}; expected numbers that "
            f"never rise and sum to {steps}, the steps of the packed data"
        )
    rows = np.arange(counts[0] if len(counts) else 0)
    return np.searchsorted(-counts, -rows).astype(np.int64, copy=False)


def is_pair(owner: str, x: Any) -> bool:
    """Whether a list or tuple of arrays is ``(values, lengths)``; False for a batch of sequences.

    A list is always a batch of sequences. A tuple is one if its items can be nothing else: of floats, with two axes.
    """
    if not isinstance(x, tuple) or not x:
        return False
    if len(x) == 2:
        second = as_array(owner, "x[1]", x[1])
        if second.ndim == 1 and (second.dtype.kind in "iu" or (not second.size and isinstance(x[1], (list, tuple)))):
            return True
        if second.ndim == 1:
            raise TypeError(f"{owner}: x[1] has dtype {second.dtype}; expected the integers of {FORM}")
    first = as_array(owner, "x[0]", x[0])
    if first.ndim == 2 and first.dtype.kind not in "iu":
        return False
    raise no_pair(owner, x)


def no_pair(owner: str, x: tuple[Any, ...]) -> TypeError:
    """A tuple of arrays that is no ``(values, lengths)``."""
    shapes = ", ".join([str(np.shape(item)) for item in x[:3]]) + (", ..." if len(x) > 3 else "")
    return TypeError(
        f"{owner}: x is a tuple of arrays of shapes {shapes}; expected {FORM} (a batch of sequences is a list; a state "
        f"is an argument of its own)"
    )


def lengths(owner: str, value: Any, steps: int) -> NDArray[np.int64]:
    """The lengths of ``(values, lengths)`` as a fresh int64 array, copied before they are checked."""
    array = np.array(as_array(owner, "x[1]", value))
    if array.size and (array.min() < 0 or array.max() > steps):
        i = int(np.argmax((array < 0) | (array > steps)))
        raise ValueError(f"{owner}: x[1][{i}] is {array[i]}; expected a length from 0 to len(values) = {steps}")
    array = array.astype(np.int64, copy=False)
    total = int(array.sum())  # at most (number of rows) * steps, which memory bounds
    if total != steps:
        raise ValueError(
            f"{owner}: x[1], the lengths, sum to {total}, and x[0], the values, has {steps} steps; expected equal "
            f"numbers (a batch of sequences is a list, not a tuple)"
        )
    return array


def values(owner: str, value: Any, dtype: np.dtype[Any], input_size: int, name: str = "x[0]") -> Array:
    """The values of ``(values, lengths)``: (N, I) floats, or uncast tokens (N,)."""
    array = as_array(owner, name, value)
    shape, formula = f"(sum of lengths, {input_size})", "(sum of lengths, input_size)"
    if array.dtype.kind in "iu":
        if array.ndim != 1:
            raise ValueError(
                f"{owner}: {name} holds integers ({array.dtype}) in shape {array.shape}; integers are tokens of shape "
                f"(sum of lengths,); for values call .astype({dtype.name!r})"
            )
        return array
    real_dtype(owner, name, array.dtype, "a real floating-point dtype, or integers for tokens")
    if array.ndim != 2 or array.shape[1] != input_size:
        raise ValueError(f"{owner}: {name} has shape {array.shape}; expected {formula} = {shape}")
    return floats(owner, name, array, dtype)


def tokens(
    owner: str,
    x: Array,
    input_size: int,
    lengths: NDArray[np.int64],
    layout: str,
    mask: NDArray[np.bool_] | None,
    by_step: bool,
) -> NDArray[np.int64]:
    """Tokens (N,) of all rows as contiguous int64, all in range; tokens out of range at skipped steps become 0."""
    # The cast comes first, so that a size too large for memory fails at once. Ids beyond int64 become negative.
    ids = np.require(x, np.int64, ["C_CONTIGUOUS", "ALIGNED"])
    if ids.size and (ids.min() < 0 or ids.max() >= input_size):
        outside = (ids < 0) | (ids >= input_size)
        wrong = outside if mask is None else outside & mask
        if wrong.any():
            at = int(np.argmax(wrong))
            ends = np.cumsum(lengths)
            b = int(np.searchsorted(ends, at, "right"))
            t = at - int(ends[b] - lengths[b])
            if by_step:
                where = f"the packed data holds token {x[at]} at position {at}"
            elif layout == "list":
                where = f"x[{b}] holds token {x[at]} at t={t}"
            else:
                where = f"x[0] holds token {x[at]} at position {at} (t={t}, b={b})"
            raise no_token(owner, where, input_size)
        return np.where(outside, 0, ids)
    return ids


def reset(owner: str, value: Any, steps: int) -> NDArray[np.bool_]:
    """The steps before which a row returns to its initial state, in the order of the values, copied."""
    array = flags(owner, "reset", value)
    exact_shape(owner, "reset", array, (steps,), "(sum of lengths,)")
    return np.array(array, order="C")


def no_second_lengths(owner: str) -> ValueError:
    """Lengths for an input that has its own."""
    return ValueError(f"{owner}: lengths given with (values, lengths); expected lengths=None")


def no_mask(owner: str, value: Any) -> ValueError:
    """A mask for values that hold valid steps alone."""
    return ValueError(
        f"{owner}: mask is {kind(value)}, but x is (values, lengths); expected None, as values can leave out skipped "
        f"steps (a list of sequences may have a mask)"
    )
