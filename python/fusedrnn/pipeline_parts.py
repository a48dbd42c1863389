"""The parts of a `Pipeline`: which there are, whether they fit together, and what those around the recurrent one do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core, _validate
from .calling import Frozen, SequenceLayer
from .embedding import Embedding
from .frozen_mixer import FrozenMixer
from .groups import FrozenGroup
from .linear import Linear

Array = NDArray[Any]


def softmax(a: Array) -> Array:
    """Over the last axis."""
    powers: Array = _core.apply("exp", a - a.max(axis=-1, keepdims=True))
    shares: Array = powers / powers.sum(axis=-1, keepdims=True)
    return shares


#: Functions between and after dense layers.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda a: np.maximum(a, 0),
    "tanh": lambda a: _core.apply("tanh", a),
    "sigmoid": lambda a: _core.apply("sigmoid", a),
    "softmax": softmax,
    "elu": lambda a: np.where(a > 0, a, np.expm1(np.minimum(a, 0))),
}


def frozen_part(k: int, part: Any) -> Any:
    """A part that does not change any more."""
    if isinstance(part, str):
        if part not in ACTIVATIONS:
            raise ValueError(f"Pipeline: parts[{k}] is {part!r}; expected one of {', '.join(map(repr, ACTIVATIONS))}")
        return part
    if isinstance(part, (Embedding, Linear)):
        own = copy.deepcopy(part)
        own._arrays()  # refuses parameters that do not fit
        for array in own.params.values():
            array.flags.writeable = False
        return own
    if isinstance(part, SequenceLayer):
        part = part.freeze()  # type: ignore[attr-defined]
    many = isinstance(part, FrozenGroup) and getattr(part._group, "stacks_outputs", False)
    if not isinstance(part, Frozen) or many:
        raise TypeError(
            f"Pipeline: parts[{k}] is {_validate.kind(part)}; expected an Embedding, a recurrent layer, a Stack or a "
            "Bidirectional, a Linear, or the name of an activation"
        )
    return part


def token_or_none(padding: Any) -> int | None:
    """The argument `padding`."""
    if padding is None:
        return None
    if isinstance(padding, (bool, np.bool_)) or not isinstance(padding, (int, np.integer)) or padding < 0:
        raise ValueError(f"Pipeline: padding is {padding!r}; expected a token, or None")
    return int(padding)


def sizes_of(part: Any) -> tuple[int, int]:
    """Widths of a part's inputs and outputs."""
    if isinstance(part, Embedding):
        return part.num_embeddings, part.embedding_dim
    if isinstance(part, Linear):
        return part.in_features, part.out_features
    return part.input_size, part._plan.widths[0]


def check_chain(parts: tuple[Any, ...]) -> None:
    """Refuse parts that do not fit to each other."""
    below: Any = None
    for k, part in enumerate(parts):
        if isinstance(part, str):
            if below is None or isinstance(below, Embedding):
                raise ValueError(f"Pipeline: parts[{k}] is {part!r}; expected an activation after a layer alone")
            continue
        if isinstance(part, Frozen) and len(part._plan.widths) > 1:
            raise ValueError(f"Pipeline: parts[{k}] has merge=None, so puts out a pair; expected another merge")
        if below is not None:
            if isinstance(part, Embedding):
                raise ValueError(f"Pipeline: parts[{k}] is {part!r}; expected an Embedding at the start alone")
            width = sizes_of(below)[1]
            if sizes_of(part)[0] != width:
                raise ValueError(
                    f"Pipeline: parts[{k}], {part!r}, reads {sizes_of(part)[0]} features; expected {width}, which "
                    f"{below!r} puts out"
                )
            if part.dtype != below.dtype:
                raise TypeError(f"Pipeline: parts[{k}], {part!r}, has dtype {part.dtype}; expected {below.dtype}")
        below = part


def check_last(part: Any) -> None:
    """Refuse a recurrent part whose output at the last step is not the h of its final state."""
    if isinstance(part, FrozenGroup):
        members = part._group.layers
        for member in members[-1:] if type(part._group).__name__ == "Stack" else members:
            check_last(member)
    elif isinstance(part, FrozenMixer) or not part._plan.kind.recurrent:
        raise ValueError(f"Pipeline: last is True, and {part!r} is on top; expected an RNN, GRU or LSTM there")


def final_output(part: Any, state: Any) -> Array:
    """The output of the last step, of both directions if there are two, (B, H)."""
    if isinstance(part, FrozenGroup):
        members = part._group.layers
        if type(part._group).__name__ == "Stack":
            return final_output(members[-1], state[-1])
        outputs = [final_output(member, own) for member, own in zip(members, state, strict=True)]
        return merged(part._group.merge, outputs)  # type: ignore[attr-defined]
    h = state[0] if isinstance(state, tuple) else state
    directions = len(part._plan.ways)
    return merged(part._plan.merge, list(h[len(h) - directions :]))


def merged(merge: str | None, outputs: list[Array]) -> Array:
    """The outputs of one or two directions as one."""
    if len(outputs) == 1:
        return outputs[0]
    one, other = outputs
    if merge == "concat":
        return np.concatenate([one, other], axis=-1)
    if merge == "mul":
        return np.asarray(one * other)
    both = one + other
    return np.asarray(both * both.dtype.type(0.5) if merge == "mean" else both)


# ---- arrays, (values, lengths), and lists of arrays


def is_pair(x: Any) -> bool:
    """Whether an input is (values, lengths)."""
    return isinstance(x, tuple) and len(x) == 2 and np.ndim(x[1]) == 1 and np.asarray(x[1]).dtype.kind in "iu"


def of_steps(x: Any) -> Any:
    """The values of an input; a tuple of sequences becomes a list."""
    if is_pair(x):
        return x[0]
    return list(x) if isinstance(x, tuple) else x


def own_floats(x: Any, dtype: np.dtype[Any]) -> Any:
    """A copy of an input, because it is read twice: at the start and at the end."""
    if is_pair(x):
        return np.array(x[0], dtype), np.array(x[1])
    if isinstance(x, (list, tuple)) and _validate.is_list(x):
        return [np.array(item, dtype) for item in x]
    return np.array(x, dtype)


def applied(part: Any, values: Any) -> Any:
    """A part that is not recurrent, of an array or of each array of a list."""
    if not isinstance(part, str):
        return part(values)
    with np.errstate(all="ignore"):  # values that overflow here would overflow in the kernels
        if isinstance(values, list):
            return [ACTIVATIONS[part](np.ascontiguousarray(item)) for item in values]
        return ACTIVATIONS[part](np.ascontiguousarray(values))


def added(y: Any, x: Any, skip: int) -> Any:
    """The outputs plus the first features of the input."""
    if isinstance(y, list):
        return [own + item[..., :skip] for own, item in zip(y, x, strict=True)]
    return y + x[..., :skip]


def with_rows(part: Any, state: Any, other: Any, rows: NDArray[np.bool_]) -> Any:
    """A state of a part's stream, with the rows where `rows` is True from another one."""
    if isinstance(part, FrozenGroup):
        members = zip(part._group.layers, state, other, strict=True)
        return tuple([with_rows(member, own, its, rows) for member, own, its in members])
    if isinstance(state, tuple):
        return tuple([with_rows(part, own, its, rows) for own, its in zip(state, other, strict=True)])
    place = rows if isinstance(part, FrozenMixer) else (slice(None), rows)
    state[place] = other[place]
    return state
