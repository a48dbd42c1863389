"""What is known of the tensors of an ONNX model before the model runs, for any number of steps and rows.

A `Size` is a number times sizes that only a call knows. A `Tensor` says which elements of which tensors it has, and in
what order of axes: an axis is a product of `Atom`s, the axes of the tensor in which the elements arose. Transposing and
reshaping move atoms; what does more than move elements makes a new `Source`, of which nothing else is known.
Axes of size 1 have no atoms, as moving them moves no element.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .conventions import Array

#: Most numbers of one tensor of sizes, and most unknown factors of a size.
NUMBERS = 64
FACTORS = 16


class UnclearError(Exception):
    """Nothing is known of a node's results, as a rule does not cover this use of the operator."""


@dataclass(frozen=True)
class Size:
    """`count` times the sizes that `symbols` name."""

    count: int
    symbols: tuple[str, ...] = ()

    def __mul__(self, other: Size) -> Size:
        product = Size(self.count * other.count, tuple(sorted(self.symbols + other.symbols)))
        if abs(product.count) >= 2**63 or len(product.symbols) > FACTORS:
            raise UnclearError
        return product if product.count else Size(0)

    def __floordiv__(self, other: Size) -> Size:
        """The quotient, if the division leaves no rest for whatever sizes."""
        left = list(self.symbols)
        for symbol in other.symbols:
            if symbol not in left:
                raise UnclearError
            left.remove(symbol)
        if not other.count or self.count % other.count:
            raise UnclearError
        return Size(self.count // other.count, tuple(left))

    def __str__(self) -> str:
        return " * ".join([*([] if self.symbols and self.count == 1 else [str(self.count)]), *self.symbols])

    @property
    def known(self) -> int | None:
        return None if self.symbols else self.count

    def under(self, sizes: dict[str, int]) -> int:
        """The number, where the symbols have these values."""
        result = self.count
        for symbol in self.symbols:
            result *= sizes[symbol]
        return result


ONE = Size(1)


def product(sizes: Iterable[Size]) -> Size:
    result = ONE
    for size in sizes:
        result = result * size
    return result


@dataclass(frozen=True)
class Atom:
    """An axis of the tensor in which the elements arose: T, B, D and F of recurrent nodes, or a number."""

    letter: str
    size: Size


Axis = tuple[Atom, ...]


def axis_of(letter: str, size: Size) -> Axis:
    return () if size == ONE else (Atom(letter, size),)


def size_of_axis(axis: Axis) -> Size:
    return product(atom.size for atom in axis)


@dataclass(frozen=True)
class Fill:
    """One value in all places."""

    value: float | Size


@dataclass(frozen=True)
class Source:
    """An input of the model, or the result of a node that does more than move elements."""

    tensor: str
    cause: str  # the node, in words; empty for an input
    after: bool  # whether it follows from the outputs of recurrent nodes
    ndim: int = 0
    start: int | None = None  # the first of the rows that it has, of axis 0


@dataclass(frozen=True)
class Side:
    """One direction of Y of a recurrent node; the node goes by the name of Y."""

    node: str
    way: int


@dataclass(frozen=True)
class Merged:
    """Two directions, merged element by element."""

    how: str  # "sum", "mean", "mul"
    of: frozenset[Side]


Content = Fill | Source | Side | Merged


@dataclass(frozen=True)
class Part:
    content: Content
    width: Size = ONE  # of the outputs of recurrent nodes: their features


@dataclass(frozen=True)
class Tensor:
    """Elements of one or, along an atom D or C, two parts."""

    axes: tuple[Axis, ...]
    parts: tuple[Part, ...]
    dtype: int = 0  # onnx.TensorProto.DataType; 0 is not known

    @property
    def shape(self) -> tuple[Size, ...]:
        return tuple(map(size_of_axis, self.axes))

    @property
    def content(self) -> Content | None:
        """What all elements are of; None of two parts."""
        return self.parts[0].content if len(self.parts) == 1 else None

    def with_axes(self, axes: Iterable[Axis]) -> Tensor:
        return replace(self, axes=tuple(axes))

    def same(self, other: Tensor) -> bool:
        """The same elements in the same order, of whatever dtype."""
        return self.axes == other.axes and self.parts == other.parts


@dataclass(frozen=True, eq=False)
class Numbers:
    """Integers that follow from sizes: an array of `Size`."""

    array: Array
    dtype: int = 7  # onnx.TensorProto.INT64

    @property
    def shape(self) -> tuple[Size, ...]:
        return tuple(map(Size, self.array.shape))


@dataclass(frozen=True)
class Hidden:
    """Not even the number of axes is known."""

    source: Source


Value = Array | Numbers | Tensor | Hidden


def numbers(array: Any, dtype: int = 7) -> Numbers:
    made = np.asarray(array, dtype=object)
    if made.size > NUMBERS:
        raise UnclearError
    return Numbers(made, dtype)


def sizes(values: Sequence[Size]) -> Numbers:
    array = np.empty(len(values), object)
    array[:] = values
    return numbers(array)


def fill(value: float | Size, shape: Iterable[Size], dtype: int = 0) -> Tensor:
    return Tensor(tuple(axis_of("", size) for size in shape), (Part(Fill(value)),), dtype)


def source_of(source: Source, shape: Sequence[Size], dtype: int = 0) -> Tensor:
    """A tensor in which elements arise."""
    axes = tuple(axis_of(str(k), size) for k, size in enumerate(shape))
    return Tensor(axes, (Part(replace(source, ndim=len(axes))),), dtype)


def features(parts: Sequence[Part]) -> Axis:
    """The axis of one part's features, or of both one after the other."""
    if len(parts) == 1:
        return axis_of("F", parts[0].width)
    widths = [part.width.count for part in parts]
    if len(set(widths)) == 1:
        return (Atom("D", Size(len(parts))), *axis_of("F", parts[0].width))
    return (Atom("C", Size(sum(widths))),)


def regrouped(axes: Sequence[Axis], target: Sequence[Size], keeps_zero: bool) -> tuple[Axis, ...]:
    """The axes after reshaping to `target`, in which -1 is what is left, and 0 an axis's own size."""
    wanted = list(target)
    for k, size in enumerate(wanted):
        if size == Size(0):
            if keeps_zero or k >= len(axes):
                raise UnclearError
            wanted[k] = size_of_axis(axes[k])
    atoms = [atom for axis in axes for atom in axis]
    rest = [k for k, size in enumerate(wanted) if size == Size(-1)]
    if len(rest) > 1 or any(atom.size.count < 1 for atom in atoms):
        raise UnclearError
    split = rest[0] if rest else len(wanted)
    front = [taken(atoms, size) for size in wanted[:split]]
    atoms.reverse()
    back = [taken(atoms, size)[::-1] for size in reversed(wanted[split + 1 :])]
    atoms.reverse()
    if atoms and not rest:
        raise UnclearError
    return (*front, *([tuple(atoms)] if rest else []), *reversed(back))


def taken(atoms: list[Atom], size: Size) -> Axis:
    """The next atoms whose product is `size`, taken out of the list."""
    group: list[Atom] = []
    found = ONE
    while found != size:
        if not atoms:
            raise UnclearError
        group.append(atoms.pop(0))
        found = found * group[-1].size
    return tuple(group)
