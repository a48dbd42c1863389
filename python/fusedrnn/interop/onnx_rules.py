"""What ONNX's operators do to values that `onnx_values` describes: one rule for each operator that is understood.

A rule gives the values of a node's outputs, or raises an `UnclearError`; then `onnx_trace` takes them for new sources.
Source: the operators' pages of the ONNX standard, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .onnx_uses import Results, Use, place, places
from .onnx_values import (
    NUMBERS,
    ONE,
    Axis,
    Fill,
    Hidden,
    Merged,
    Numbers,
    Part,
    Side,
    Size,
    Source,
    Tensor,
    UnclearError,
    axis_of,
    features,
    fill,
    numbers,
    product,
    regrouped,
    size_of_axis,
    sizes,
)

#: From this end on, a slice goes to the end of any axis.
FAR = 2**31 - 1

#: Data types of whole numbers that hold any size or length: onnx.TensorProto.INT32 and INT64.
WHOLE = (6, 7)


# ---- the same elements in the same order ----------------------------------------------------------------------------


def identity(use: Use) -> Results:
    return [use.value(0)]


def cast(use: Use) -> Results:
    value, to = use.value(0), int(use.attributes.get("to", 0))
    if isinstance(value, Numbers) and to in WHOLE:
        return [replace(value, dtype=to)]
    x = use.tensor(0)
    if isinstance(x.content, Fill):
        zero = x.content.value in (0, 1) or (x.dtype in WHOLE and to in WHOLE)
        if zero:
            return [replace(x, dtype=to)]
    if x.dtype and (to == x.dtype or (x.dtype in WHOLE and to in WHOLE and isinstance(x.content, Source))):
        return [replace(x, dtype=to)]
    raise UnclearError


def cast_like(use: Use) -> Results:
    x, like = use.tensor(0), use.value(1)
    if isinstance(like, Tensor) and x.dtype and x.dtype == like.dtype:
        return [x]
    raise UnclearError


def dropout(use: Use) -> Results:
    """Does nothing but in training, which is an input since version 12; before version 7, which is an attribute."""
    if use.opset < 7:
        raise UnclearError
    training = use.value(2) if use.given(2) else np.zeros(())
    if not isinstance(training, np.ndarray) or np.any(training):
        raise UnclearError
    return [use.value(0), None]


# ---- axes -----------------------------------------------------------------------------------------------------------


def transpose(use: Use) -> Results:
    x = use.tensor(0)
    ndim = len(x.axes)
    perm = list(use.attributes.get("perm", range(ndim)[::-1]))
    if sorted(perm) != list(range(ndim)):
        raise UnclearError
    return [x.with_axes(x.axes[k] for k in perm)]


def squeeze(use: Use) -> Results:
    value, axes = use.value(0), use.integers(1, "axes")
    if isinstance(value, Numbers):
        return [numbers(np.squeeze(value.array, None if axes is None else tuple(axes)), value.dtype)]
    x = use.tensor(0)
    if axes is None and all(size.known for size in x.shape):
        axes = [k for k, size in enumerate(x.shape) if size == ONE]
    if axes is None:
        raise UnclearError
    gone = places(axes, len(x.axes))
    if any(x.shape[k] != ONE for k in gone):
        raise UnclearError
    return [x.with_axes(axis for k, axis in enumerate(x.axes) if k not in gone)]


def unsqueeze(use: Use) -> Results:
    value, axes = use.value(0), use.integers(1, "axes")
    if axes is None:
        raise UnclearError
    old = value.array.ndim if isinstance(value, Numbers) else len(use.tensor(0).axes)
    new = places(axes, old + len(axes))
    if isinstance(value, Numbers):
        return [numbers(np.expand_dims(value.array, tuple(new)), value.dtype)]
    kept = iter(use.tensor(0).axes)
    return [use.tensor(0).with_axes(() if k in new else next(kept) for k in range(old + len(axes)))]


def flatten(use: Use) -> Results:
    x = use.tensor(0)
    split = use.attributes.get("axis", 1)
    split = split if split == len(x.axes) else place(split, len(x.axes))
    return [x.with_axes([sum(x.axes[:split], ()), sum(x.axes[split:], ())])]


def reshape(use: Use) -> Results:
    value = use.value(0)
    if isinstance(value, Numbers):
        shape = use.integers(1, "shape")
        return [numbers(value.array.reshape(shape or ()), value.dtype)]
    x = use.tensor(0)
    target = [Size(n) for n in use.attributes["shape"]] if "shape" in use.attributes else use.sizes(1)
    if len(target) > NUMBERS:
        raise UnclearError
    keeps_zero = bool(use.attributes.get("allowzero", 0))
    if isinstance(x.content, Fill):
        return [fill(x.content.value, shape_of(x.shape, target, keeps_zero), x.dtype)]
    return [x.with_axes(regrouped(x.axes, target, keeps_zero))]


def shape_of(old: Sequence[Size], target: Sequence[Size], keeps_zero: bool) -> list[Size]:
    """The shape after reshaping."""
    new = list(target)
    if not keeps_zero:
        new = [old[k] if size == Size(0) and k < len(old) else size for k, size in enumerate(new)]
    rest = [k for k, size in enumerate(new) if size == Size(-1)]
    total = product(old)
    if len(rest) == 1:
        new[rest[0]] = total // product(size for size in new if size != Size(-1))
    if Size(0) in new or product(new) != total:
        raise UnclearError
    return new


# ---- some of the elements -------------------------------------------------------------------------------------------


def part_of(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """Elements `start` to `stop` of an axis whose size is known."""
    whole = size_of_axis(x.axes[axis])
    if whole.known is None or not 0 <= start < stop <= whole.known:
        raise UnclearError
    if (start, stop) == (0, whole.known):
        return x
    count, old = stop - start, x.axes[axis]

    def cut(new: Axis, parts: Sequence[Part] = x.parts) -> Tensor:
        return replace(x, axes=(*x.axes[:axis], new, *x.axes[axis + 1 :]), parts=tuple(parts))

    content = x.content
    if isinstance(content, Fill):
        return cut(axis_of("", Size(count)))
    if isinstance(content, Source):
        if len(old) != 1 or old[0].letter != "0" or not content.ndim:
            raise UnclearError
        new = replace(content, start=(content.start or 0) + start)
        return cut(axis_of("0", Size(count)), [replace(x.parts[0], content=new)])
    if content is None and [atom.letter for atom in old] == ["D"]:
        parts = x.parts[start:stop]
        return cut((), parts)
    if content is None and old == features(x.parts):
        ends = np.cumsum([0, *(part.width.count for part in x.parts)]).tolist()
        if start in ends and stop in ends:
            parts = x.parts[ends.index(start) : ends.index(stop)]
            return cut(features(parts), parts)
    raise UnclearError


def numeric_slices(use: Use, ndim: int, starts: list[int], ends: list[int]) -> tuple[slice, ...]:
    axes, steps = use.integers(3, "axes"), use.integers(4, "steps")
    where = places(axes or list(range(len(starts))), ndim)
    found = [slice(None)] * ndim
    for k, axis in enumerate(where):
        found[axis] = slice(starts[k], ends[k], steps[k] if steps else 1)
    return tuple(found)


def slice_(use: Use) -> Results:
    value = use.value(0)
    if isinstance(value, Numbers):
        starts, ends = use.integers(1, "starts"), use.integers(2, "ends")
        return [numbers(value.array[numeric_slices(use, value.array.ndim, starts or [], ends or [])], value.dtype)]
    x = use.tensor(0)
    old = "starts" in use.attributes
    firsts = [Size(n) for n in use.attributes["starts"]] if old else use.sizes(1)
    lasts = [Size(n) for n in use.attributes["ends"]] if old else use.sizes(2)
    axes, steps = use.integers(3, "axes"), use.integers(4, "steps")
    where = places(list(range(len(firsts))) if axes is None else axes, len(x.axes))
    if not len(firsts) == len(lasts) == len(where) or (steps and set(steps) != {1}):
        raise UnclearError
    for axis, first, last in zip(where, firsts, lasts, strict=True):
        size = x.shape[axis]
        if first == Size(0) and (last == size or (last.known or 0) >= FAR):
            continue
        if size.known is None or first.known is None or last.known is None:
            raise UnclearError
        start, stop, _ = slice(first.known, last.known).indices(size.known)
        x = part_of(x, axis, start, stop)
    return [x]


def gather(use: Use) -> Results:
    value, index = use.value(0), use.value(1)
    if not isinstance(index, np.ndarray) or index.dtype.kind not in "iu":
        raise UnclearError
    if isinstance(value, Numbers):
        return [numbers(np.take(value.array, index, use.attributes.get("axis", 0)), value.dtype)]
    x = use.tensor(0)
    axis = place(use.attributes.get("axis", 0), len(x.axes))
    size = x.shape[axis].known
    if index.size != 1 or index.ndim > 1 or not size:
        raise UnclearError
    k = place(int(index.reshape(-1)[0]), size)
    x = part_of(x, axis, k, k + 1)
    return [x.with_axes([*x.axes[:axis], *x.axes[axis + 1 :]]) if index.ndim == 0 else x]


def split(use: Use) -> Results:
    value, count = use.value(0), len(use.node.output)
    axis = use.attributes.get("axis", 0)
    lengths = use.integers(1, "split")
    size = (Size(value.array.shape[axis]) if isinstance(value, Numbers) else use.tensor(0).shape[axis]).known
    if size is None:
        raise UnclearError
    if lengths is None:
        each = math.ceil(size / count)
        lengths = [min(each, size - k * each) for k in range(count)]
    ends = np.cumsum([0, *lengths]).tolist()
    if ends[-1] != size or len(lengths) != count or min(lengths) < 1:
        raise UnclearError
    if isinstance(value, Numbers):
        return [numbers(part, value.dtype) for part in np.split(value.array, ends[1:-1], axis)]
    x = use.tensor(0)
    axis = place(axis, len(x.axes))
    return [part_of(x, axis, start, stop) for start, stop in itertools.pairwise(ends)]


# ---- several tensors ------------------------------------------------------------------------------------------------


def concat(use: Use) -> Results:
    count, axis = len(use.inputs), use.attributes.get("axis", 1)
    if any(isinstance(value, Numbers) for value in use.inputs):
        arrays = [use.numbers(k).array for k in range(min(count, NUMBERS + 1))]
        return [numbers(np.concatenate(arrays, axis))]
    if count == 1:
        return [use.value(0)]
    first, *others = tensors = [use.tensor(k) for k in range(count)]
    axis = place(axis, len(first.axes))

    def rest(x: Tensor) -> tuple[Any, ...]:
        return *x.axes[:axis], *x.axes[axis + 1 :], x.dtype

    def joined(new: Axis) -> Tensor:
        return replace(first, axes=(*first.axes[:axis], new, *first.axes[axis + 1 :]))

    if any(len(x.axes) != len(first.axes) or rest(x) != rest(first) for x in others):
        raise UnclearError
    if isinstance(first.content, Fill):
        lengths = [x.shape[axis].known for x in tensors]
        if None in lengths or any(x.parts != first.parts for x in others):
            raise UnclearError
        return [joined(axis_of("", Size(sum(n for n in lengths if n is not None))))]
    parts = tuple(x.parts[0] for x in tensors)
    if len(parts) != 2 or any(not isinstance(x.content, Side) for x in tensors):
        raise UnclearError
    if all(x.axes[axis] == features(x.parts) for x in tensors):
        return [replace(joined(features(parts)), parts=parts)]
    if all(x.axes[axis] == () for x in tensors) and parts[0].width == parts[1].width:
        return [replace(joined(axis_of("D", Size(2))), parts=parts)]
    raise UnclearError


def merged(how: str) -> Callable[[Use], Results]:
    """Two directions, merged element by element; or the mean of directions, as half their sum."""

    def rule(use: Use) -> Results:
        if len(use.inputs) != 2:
            raise UnclearError
        if any(isinstance(value, Numbers) for value in use.inputs):
            return [arithmetic(use, how)]
        for one, other in ((0, 1), (1, 0))[: {"mul": 2, "div": 1}.get(how, 0)]:
            scale = use.value(other)
            if isinstance(scale, np.ndarray):
                return [halved(use.tensor(one), scale, 0.5 if how == "mul" else 2.0)]
        if how == "div":
            raise UnclearError
        x, y = use.tensor(0), use.tensor(1)
        if x.axes != y.axes:
            raise UnclearError
        return [replace(x, parts=(both(how, [*x.parts, *y.parts]),))]

    return rule


def both(how: str, parts: Sequence[Part]) -> Part:
    sides = [part.content for part in parts]
    if len({part.width for part in parts}) != 1 or len(parts) != 2 or len(set(sides)) != 2:
        raise UnclearError
    known = frozenset(side for side in sides if isinstance(side, Side))
    if len(known) != 2:
        raise UnclearError
    return Part(Merged(how, known), parts[0].width)


def halved(x: Tensor, scale: Any, half: float) -> Tensor:
    content = x.content
    if not isinstance(content, Merged) or content.how != "sum" or scale.size != 1 or scale.ndim > len(x.axes):
        raise UnclearError
    if float(scale.reshape(())) != half:
        raise UnclearError
    return replace(x, parts=(replace(x.parts[0], content=replace(content, how="mean")),))


def arithmetic(use: Use, how: str) -> Numbers:
    """With sizes."""
    first, second = (use.numbers(k).array for k in range(2))
    if how not in ("mul", "div"):
        raise UnclearError
    if math.prod(np.broadcast_shapes(first.shape, second.shape)) > NUMBERS:
        raise UnclearError
    pairs = np.broadcast(first, second)
    array = np.empty(pairs.shape, object)
    array.reshape(-1)[:] = [a * b if how == "mul" else a // b for a, b in pairs]
    return numbers(array, use.numbers(0).dtype)


def reduced(how: str) -> Callable[[Use], Results]:
    """Over the axis of the directions, and axes of size 1."""

    def rule(use: Use) -> Results:
        value, axes = use.value(0), use.integers(1, "axes")
        keeps = use.attributes.get("keepdims", 1)
        if isinstance(value, Numbers):
            if how != "mul" or value.array.ndim != 1 or axes not in (None, [0], [-1]):
                raise UnclearError
            total = sizes([product(value.array)])
            return [total if keeps else numbers(total.array.reshape(()), value.dtype)]
        x = use.tensor(0)
        if not axes or isinstance(x.content, Fill):
            raise UnclearError
        gone = places(axes, len(x.axes))
        parts = x.parts
        for k in gone:
            letters = [atom.letter for atom in x.axes[k]]
            if letters == ["D"] and len(parts) == 2:
                parts = (both(how, parts),)
            elif letters:
                raise UnclearError
        kept = [() if k in gone else axis for k, axis in enumerate(x.axes) if keeps or k not in gone]
        return [replace(x, axes=tuple(kept), parts=parts)]

    return rule


# ---- sizes, and tensors of one value --------------------------------------------------------------------------------


def shape(use: Use) -> Results:
    value = use.value(0)
    if isinstance(value, Hidden):
        raise UnclearError
    known = list(map(Size, value.shape)) if isinstance(value, np.ndarray) else list(value.shape)
    return [sizes(known[use.attributes.get("start", 0) : use.attributes.get("end", len(known))])]


def size(use: Use) -> Results:
    return [numbers(sizes([product(use.tensor(0).shape)]).array.reshape(()))]


def constant_of_shape(use: Use) -> Results:
    import onnx

    target = use.sizes(0)
    value = use.attributes.get("value")
    array = np.zeros(1, np.float32) if value is None else onnx.numpy_helper.to_array(value)
    if array.size != 1 or array.dtype.kind not in "fiu" or len(target) > NUMBERS:
        raise UnclearError
    return [fill(float(array.reshape(())), target, onnx.helper.np_dtype_to_tensor_dtype(array.dtype))]


def expand(use: Use) -> Results:
    x, target = use.tensor(0), use.sizes(1)
    ndim = max(len(x.axes), len(target))
    old: list[Axis] = [()] * (ndim - len(x.axes)) + list(x.axes)
    wanted = [ONE] * (ndim - len(target)) + target
    new: list[Axis] = []
    for axis, size in zip(old, wanted, strict=True):
        mine = size_of_axis(axis)
        if size in (mine, ONE):
            new.append(axis)
        elif mine == ONE and isinstance(x.content, Fill):
            new.append(axis_of("", size))
        else:
            raise UnclearError
    return [x.with_axes(new)]


def tile(use: Use) -> Results:
    x, repeats = use.tensor(0), use.sizes(1)
    if not isinstance(x.content, Fill) or len(repeats) != len(x.axes):
        raise UnclearError
    return [fill(x.content.value, [a * b for a, b in zip(x.shape, repeats, strict=True)], x.dtype)]


RULES: dict[str, Callable[[Use], Results]] = {
    "Identity": identity,
    "Cast": cast,
    "CastLike": cast_like,
    "Dropout": dropout,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Flatten": flatten,
    "Reshape": reshape,
    "Slice": slice_,
    "Gather": gather,
    "Split": split,
    "Concat": concat,
    "Add": merged("sum"),
    "Sum": merged("sum"),
    "Mean": merged("mean"),
    "Mul": merged("mul"),
    "Div": merged("div"),
    "ReduceSum": reduced("sum"),
    "ReduceMean": reduced("mean"),
    "ReduceProd": reduced("mul"),
    "Shape": shape,
    "Size": size,
    "ConstantOfShape": constant_of_shape,
    "Expand": expand,
    "Tile": tile,
}
