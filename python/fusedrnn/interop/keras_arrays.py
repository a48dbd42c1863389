"""Arrays of Keras' recurrent layers, in the order of ``get_weights()``: of one direction, and of several layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from . import _messages
from .conventions import GATES, Array, Direction, gates_of, reorder, shaped

#: Keras' gate orders in our letters (its c and h are g and n).
KERAS_GATES = {"RNN": "h", "GRU": "zrn", "LSTM": "ifgo"}

#: More readings of a list than this are not told apart.
ENOUGH = 2


class Read(NamedTuple):
    """One layer of a list: its kind, one or two directions, and where a GRU's reset gate stands."""

    kind: str
    directions: list[Direction]
    reset_after: bool | None


def of_list(
    owner: str,
    arrays: Sequence[Array],
    reset_after: bool | None,
    bidirectional: bool | None,
    num_layers: int | None,
    widens: bool,
) -> list[Read]:
    """Layers from bottom to top, if the list can be read in one way only.

    `widens`: two directions are concatenated, so that the layer above reads both.
    """
    found: list[tuple[int, tuple[int, ...]]] = []
    for each in (3, 2):
        if len(arrays) % each == 0 and (each == 3 or len(arrays) % 3 or len(arrays) > 3):
            groups = [arrays[k : k + each] for k in range(0, len(arrays), each)]
            if all(is_direction(group) for group in groups):
                ways = readings([shapes_of(group) for group in groups], bidirectional, num_layers, widens)
                found += [(each, way) for way in ways]
    if len(found) > 1:
        said = [describe(way) for _, way in found[:ENOUGH]]
        raise ValueError(_messages.several_readings(owner, len(arrays), said))
    if not found:
        refuse(owner, arrays, bidirectional, num_layers)
    each, way = found[0]
    layers, start = [], 0
    for count in way:
        reads = []
        for _ in range(count):
            reads.append(of_direction(owner, arrays[start : start + each], reset_after))
            start += each
        layers.append(Read(reads[0].kind, [read.directions[0] for read in reads], reads[0].reset_after))
    return layers


def refuse(owner: str, arrays: Sequence[Array], bidirectional: bool | None, num_layers: int | None) -> None:
    """Say why a list cannot be read."""
    each = 3 if len(arrays) % 3 == 0 else 2
    if len(arrays) % each:
        expected = "2 or 3 for each layer and direction"
        raise ValueError(_messages.attribute(owner, "the number of arrays", len(arrays), expected))
    for k in range(0, len(arrays), each):
        of_direction(owner, arrays[k : k + each], None)  # which says what is wrong with these
    shapes = [array.shape for array in arrays[::each]]
    raise ValueError(_messages.no_reading(owner, shapes, bidirectional, num_layers))


def describe(way: Sequence[int]) -> str:
    """A reading, for messages."""
    layers = f"num_layers={len(way)}"
    if len(set(way)) > 1:
        return f"{layers} of {', '.join(map(str, way))} directions"
    return f"{layers}, bidirectional={way[0] == 2}"


def shapes_of(group: Sequence[Array]) -> tuple[tuple[int, ...], ...]:
    return tuple(array.shape for array in group)


def is_direction(group: Sequence[Array]) -> bool:
    """Whether shapes are those of one direction."""
    kernel, recurrent = group[0].shape, group[1].shape
    if len(kernel) != 2 or len(recurrent) != 2 or not recurrent[0] or kernel[1] != recurrent[1]:
        return False
    gates, rest = divmod(recurrent[1], recurrent[0])
    kind = next((kind for kind, order in GATES.items() if len(order) == gates), None)
    if rest or kind is None:
        return False
    return len(group) == 2 or group[2].shape in bias_shapes(kind, kernel[1])


def readings(
    shapes: Sequence[tuple[tuple[int, ...], ...]], bidirectional: bool | None, num_layers: int | None, widens: bool
) -> Iterator[tuple[int, ...]]:
    """Numbers of directions, layer by layer, at most `ENOUGH` of them that fit the shapes."""
    # At each place of the list, for each number of directions of the layer that ends there and number of layers so
    # far: the first few ways to get there.
    ways: list[dict[tuple[int, int], list[tuple[int, ...]]]] = [{} for _ in range(len(shapes) + 1)]
    ways[0][0, 0] = [()]
    for start in range(len(shapes)):
        for (last, layers), before in ways[start].items():
            for count in (1, 2):
                if bidirectional is not None and count != 1 + bidirectional:
                    continue
                end = start + count
                if end > len(shapes) or (num_layers is not None and layers == num_layers):
                    continue
                if count == 2 and shapes[start] != shapes[start + 1]:
                    continue
                if last and shapes[start][0][0] != shapes[start - 1][1][0] * (2 if last == 2 and widens else 1):
                    continue
                # Without num_layers, the number of layers so far makes no difference to what can follow.
                key = (count, layers + 1 if num_layers is not None else 1)
                there = ways[end].setdefault(key, [])
                there += [(*way, count) for way in before[: ENOUGH - len(there)]]
    found = [way for (_, layers), some in ways[-1].items() if num_layers in (None, layers) for way in some]
    yield from found[: ENOUGH + 1]


def bias_shapes(kind: str, columns: int) -> dict[tuple[int, ...], bool | None]:
    """Shapes that a bias may have, and where these put the reset gate; CuDNN's layers of Keras 2 have two in a row."""
    shapes: dict[tuple[int, ...], bool | None] = {(columns,): False if kind == "GRU" else None}
    if kind == "GRU":
        shapes[2, columns] = True
    if kind != "RNN":
        shapes[2 * columns,] = True if kind == "GRU" else None
    return shapes


def of_direction(owner: str, arrays: Sequence[Array], reset_after: bool | None) -> Read:
    """Kernel (I, G*H), recurrent kernel (H, G*H) and bias, of Keras or of CuDNN as Keras 2 saved it."""
    kernel, recurrent = arrays[:2]
    shaped(owner, "the kernel", kernel, "input_size", "columns of all gates")
    shaped(owner, "the recurrent kernel", recurrent, "hidden_size", "columns of all gates")
    kind = gates_of(owner, recurrent.shape[1], recurrent.shape[0])
    H, theirs, ours = recurrent.shape[0], KERAS_GATES[kind], GATES[kind]
    columns = len(theirs) * H
    shaped(owner, "the kernel", kernel, "input_size", columns)
    if len(arrays) == 2:
        after = reset_after if kind == "GRU" else None
        return Read(kind, [Direction(reorder(kernel.T, theirs, ours), reorder(recurrent.T, theirs, ours))], after)
    bias = arrays[2]
    shapes = bias_shapes(kind, columns)
    if bias.shape not in shapes:
        raise ValueError(_messages.shape(owner, "the bias", bias.shape, " or ".join(map(str, shapes))))
    after = shapes[bias.shape]
    if kind == "GRU" and reset_after is not None and reset_after != after:
        raise ValueError(_messages.contradiction(owner, "reset_after", reset_after, f"the bias has shape {bias.shape}"))
    if bias.shape == (2 * columns,):
        # CuDNN's buffers: each gate's input block is a C-ordered (H, I), whatever shape Keras gave it, and each gate's
        # recurrent block is transposed.
        blocks = np.split(kernel, len(theirs), axis=1)
        kernel = np.concatenate([np.ascontiguousarray(block).reshape(H, -1).T for block in blocks], axis=1)
        recurrent = np.concatenate([block.T for block in np.split(recurrent, len(theirs), axis=1)], axis=1)
    biases = [reorder(b, theirs, ours) for b in (bias.reshape(-1, columns))]
    weights = Direction(reorder(kernel.T, theirs, ours), reorder(recurrent.T, theirs, ours), *biases)
    return Read(kind, [weights], after)
