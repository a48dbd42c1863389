"""Description of a call: sizes, dtype and layout of its arguments and results.

A `Form` holds the properties of a layer or a group that are needed to read arguments and return results; an `Extent`
says how large one call is and which of its steps run. Internally all arrays are time-major: x (T, B, I), y (T, B, H),
states (B, H). Other layouts are views of these arrays. Sequences of different lengths, as a list or as (values,
lengths), are packed: the steps of all rows follow each other on the time axis, x (N, 1, I), y (N, 1, H), where N is the
sum of the lengths, and nothing is padded.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from . import _core, _ragged, _validate
from .kinds import CellKind

Array = NDArray[Any]
Layout = Literal["batch", "unbatched", "list", "ragged"]
#: Outputs, (T, B, width) each: one array, or two with ``merge=None``.
Outputs: TypeAlias = tuple[Array, ...]

ndarray = np.ndarray
empty = _core.empty


# ---- forms ----------------------------------------------------------------------------------------------------------


class Extent(NamedTuple):
    """Size and layout of one call's sequences, and which of their steps run."""

    T: int  # length of arrays over time: for packed sequences the sum of the lengths
    B: int  # rows
    layout: Layout
    lengths: NDArray[np.int64] | None
    schedule: _core.Schedule
    hold: bool = False  # past_end="hold": outputs at skipped steps are those of the previous step
    # What the schedule was made of, (B, T) or packed (N,), for layers whose kernels take flags instead of a schedule.
    mask: NDArray[np.bool_] | None = None
    reset: NDArray[np.bool_] | None = None
    outline: bool = False  # nothing is computed: `explain` asks for the calls alone

    @property
    def packed(self) -> bool:
        """Whether arrays have the steps of all rows on their time axis."""
        return self.layout in ("list", "ragged")

    @property
    def grid(self) -> tuple[int, int]:
        """The first two axes of arrays over all steps."""
        return (self.T, 1) if self.packed else (self.T, self.B)

    @property
    def axes(self) -> tuple[tuple[int, ...], str]:
        """The same axes as callers see them in masks, and their names."""
        return ((self.T,), "sum of lengths") if self.packed else ((self.T, self.B), "T, B")


class Form:
    """The properties of a layer or a group that are needed to read arguments and return results.

    Internally a state has the form that `read_state` returns: for a layer a tuple of its parts, (L*D, B, units) each,
    or None; for a group a tuple of its members' states.
    """

    __slots__ = ("batch_first", "dtype", "input_size", "lead", "owner", "ways", "widths")

    owner: str  # name of the class, for messages
    dtype: np.dtype[Any]
    input_size: int
    batch_first: bool
    widths: tuple[int, ...]  # of the outputs: two widths with merge=None
    ways: tuple[bool, ...]  # for each direction, whether it runs from the last step
    lead: tuple[int, ...]  # leading axes of outputs

    def takes_quickly(self, x: Any) -> bool:
        """Whether `_core.infer` can do the whole call, from `x` to the final state, if at most a state is given."""
        return False

    @property
    def width_formula(self) -> str:
        """Width of an output, for messages."""
        return "output_size"

    def read_state(self, extent: Extent, argument: str, state: Any, optional: bool = False) -> Any:
        """Read a caller's state, or if `optional` the gradient of a state, whose parts may be None."""
        raise NotImplementedError

    def state_to_caller(self, extent: Extent, state: Any) -> Any:
        """Convert a state to the form that is returned to callers."""
        raise NotImplementedError

    def state_arrays(self, argument: str, state: Any) -> Iterator[tuple[str, Any]]:
        """All arrays of a caller's state, each with its name."""
        raise NotImplementedError


class Plan(Form):
    """The properties of a layer object that a run needs; created once, never changed."""

    __slots__ = (
        "directions",
        "hidden_size",
        "inner_merge",
        "inner_width",
        "kind",
        "learned_state",
        "merge",
        "num_layers",
        "output_size",
        "parts",
        "proj_size",
        "units",
        "zoneout",
    )

    def __init__(
        self,
        owner: str,
        kind: CellKind,
        dtype: np.dtype[Any],
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        batch_first: bool,
        merge: str | None,
        backwards: bool = False,
        learned_state: bool = False,
        zoneout: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.owner = owner
        self.kind = kind
        self.parts = kind.states
        self.dtype = dtype
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.directions = 2 if bidirectional else 1
        self.ways = (False, True) if bidirectional else (backwards,)
        self.learned_state = learned_state
        self.batch_first = batch_first
        self.merge = merge
        # merge=None returns the last layer's directions as a pair; between layers it means "concat".
        self.inner_merge = merge or "concat"
        self.proj_size = kind.proj_size
        self.zoneout = zoneout  # rates for inference; training has masks instead
        self.output_size = kind.proj_size or hidden_size  # units of h, and of the output in one direction
        self.units = (self.output_size, hidden_size)[: len(self.parts)]
        self.inner_width = self.directions * self.output_size if self.inner_merge == "concat" else self.output_size
        self.widths = (self.output_size,) * 2 if merge is None else (self.inner_width,)
        self.lead = ()

    def reversed(self) -> Plan:
        """The same one-directional layer, running from the last step to the first."""
        other = copy.copy(self)
        other.ways = (True,)
        return other

    def takes_quickly(self, x: Any) -> bool:
        if self.ways != (False,) or self.learned_state or self.kind.window > 1:
            return False
        return type(x) is ndarray and x.dtype is self.dtype and x.ndim == 3

    def split_learned(self, arrays: list[Array]) -> tuple[list[Array], tuple[Array, ...] | None]:
        """The parameters without learned initial states, and the learned states, (L*D, H) of each part, or None."""
        if not self.learned_state:
            return arrays, None
        each = len(self.parts)
        count = len(arrays) - self.num_layers * self.directions * each
        return arrays[:count], tuple([np.stack(arrays[count + p :: each]) for p in range(each)])

    @property
    def lowest_W_ih(self) -> range:
        """The places of the lowest layer's weight_ih, of each direction, among the parameters."""
        return range(0, self.directions * self.kind.each, self.kind.each)

    @property
    def width_formula(self) -> str:
        """Width of an output, for messages."""
        return self.unit_formula if self.widths[0] == self.output_size else f"2*{self.unit_formula}"

    @property
    def unit_formula(self) -> str:
        """Width of one direction's output, for messages."""
        return "proj_size" if self.proj_size else "hidden_size"

    def _state_shape(self, extent: Extent, part: str) -> tuple[tuple[int, ...], str]:
        """Shape of a part of a state in the caller's layout, and how it is derived."""
        rows = self.num_layers * self.directions
        formula = "2*num_layers" if self.directions == 2 else "num_layers"
        units, name = (self.output_size, self.unit_formula) if part == "h" else (self.hidden_size, "hidden_size")
        if extent.layout == "unbatched":
            return (rows, units), f"({formula}, {name})"
        return (rows, extent.B, units), f"({formula}, B, {name})"

    def read_state(
        self, extent: Extent, argument: str, state: Any, optional: bool = False
    ) -> tuple[Array | None, ...] | None:
        if state is None:
            return None
        given = (state,) if len(self.parts) == 1 else state
        if extent.layout != "unbatched" and self.is_plain_state(given, extent.B):  # fast path
            return given
        shape, formula = self._state_shape(extent, self.parts[-1])
        h_shape = self._state_shape(extent, "h")
        parts = _validate.state(self.owner, argument, state, self.parts, shape, formula, self.dtype, optional, h_shape)
        if extent.layout == "unbatched":
            return tuple(None if part is None else part[:, None] for part in parts)
        return parts

    def is_plain_state(self, state: Any, B: int) -> TypeGuard[tuple[Array, ...]]:
        """Whether kernels can read this state of a batch without conversion."""
        if type(state) is not tuple or len(state) != len(self.units):
            return False
        rows = self.num_layers * self.directions, B
        for array, units in zip(state, self.units, strict=True):
            if type(array) is not ndarray or array.dtype is not self.dtype:
                return False
            if array.shape != (*rows, units) or not array.flags.carray:
                return False
        return True

    def state_to_caller(self, extent: Extent, state: tuple[Array, ...]) -> Any:
        if extent.layout == "unbatched":
            state = tuple([part[:, 0] for part in state])
        return state[0] if len(state) == 1 else state

    def state_arrays(self, argument: str, state: Any) -> Iterator[tuple[str, Any]]:
        parts = state if isinstance(state, (tuple, list)) else (state,)
        for part, array in zip(self.parts, parts, strict=False):
            yield f"{argument} {part}", array


@functools.lru_cache(maxsize=16)
def dense_schedule(T: int, B: int) -> _core.Schedule:
    """A schedule without lengths; schedules are immutable, so calls share them."""
    return _core.Schedule(T, B)


@functools.lru_cache(maxsize=16)
def dense_batch(T: int, B: int) -> Extent:
    """The usual case: a batch without lengths."""
    return Extent(T, B, "batch", None, dense_schedule(T, B))


# ---- layouts --------------------------------------------------------------------------------------------------------


class Steps(NamedTuple):
    """The caller's arguments that say which steps of a call run."""

    lengths: Any = None
    mask: Any = None
    reset: Any = None
    past_end: Any = "zero"


def read_sequence(form: Form, x: Any, steps: Steps) -> tuple[Array, Extent]:
    """Checked `x` as floats (T, B, I) or tokens (T, B), or packed; a view of the caller's array where possible."""
    layout: Layout = "batch"
    tokens = False
    if type(x) is ndarray and x.dtype is form.dtype and x.ndim == 3 and x.shape[2] == form.input_size:
        lengths, mask, reset, past_end = steps
        if lengths is mask is reset is None and past_end == "zero":  # fast path
            if form.batch_first:
                x = x.swapaxes(0, 1)
            T, B, _ = x.shape
            return x, dense_batch(T, B)
    elif type(x) is _ragged.ByStep:
        data = _ragged.values(form.owner, x.values, form.dtype, form.input_size, "the packed data")
        lengths = _ragged.lengths_by_step(form.owner, x.counts, len(data))
        return _packed(form.owner, form.input_size, "ragged", data, lengths, steps, by_step=True)
    elif _validate.is_list(x):
        if _ragged.is_pair(form.owner, x):
            return read_ragged(form.owner, form.dtype, form.input_size, x, steps)
        return _read_list(form, x, steps)
    else:
        x, tokens, unbatched = _validate.sequence(form.owner, x, form.dtype, form.input_size, form.batch_first)
        if unbatched:
            layout = "unbatched"
            x = x[:, None]
    if form.batch_first and layout == "batch":
        x = x.swapaxes(0, 1)
    T, B = x.shape[:2]
    lengths, mask, reset, schedule = read_steps(form.owner, T, B, *steps[:3], layout, form.batch_first)
    if tokens:
        x = _validate.tokens(form.owner, x, form.input_size, lengths, layout, mask)
    return x, Extent(T, B, layout, lengths, schedule, _validate.past_end(form.owner, steps.past_end), mask, reset)


def read_time_major(owner: str, x: Any, dtype: np.dtype[Any], input_size: int, steps: Steps) -> tuple[Array, Extent]:
    """The same for `functional`, which has no other layouts."""
    if isinstance(x, tuple) and _validate.is_list(x):
        if not _ragged.is_pair(owner, x):
            raise _ragged.no_pair(owner, x)
        return read_ragged(owner, dtype, input_size, x, steps)
    x, tokens = _validate.functional_sequence(owner, x, dtype, input_size)
    T, B = x.shape[:2]
    lengths, mask, reset, schedule = read_steps(owner, T, B, *steps[:3], "batch", False)
    if tokens:
        x = _validate.tokens(owner, x, input_size, lengths, "batch", mask)
    return x, Extent(T, B, "batch", lengths, schedule, _validate.past_end(owner, steps.past_end), mask, reset)


def read_steps(
    owner: str, T: int, B: int, lengths: Any, mask: Any, reset: Any, layout: Layout, batch_first: bool
) -> tuple[NDArray[np.int64] | None, NDArray[np.bool_] | None, NDArray[np.bool_] | None, _core.Schedule]:
    """Checked lengths, mask and reset, and the schedule that follows from them."""
    if lengths is not None:
        lengths = _validate.lengths(owner, lengths, T, B, layout)
    if mask is not None:
        mask = _validate.step_flags(owner, "mask", mask, T, B, layout, batch_first)
    if reset is not None:
        reset = _validate.step_flags(owner, "reset", reset, T, B, layout, batch_first)
    if lengths is None and mask is None and reset is None:
        return None, None, None, dense_schedule(T, B)
    return lengths, mask, reset, _core.Schedule(T, B, lengths, mask, reset)


def _read_list(form: Form, items: Sequence[Any], steps: Steps) -> tuple[Array, Extent]:
    """A list of sequences, copied into one array without padding."""
    lengths, mask, reset, _ = steps
    arrays, tokens = _validate.sequence_list(form.owner, items, form.dtype, form.input_size)
    B = len(arrays)
    if lengths is not None:
        _validate.lengths(form.owner, lengths, 0, B, "list")
    n = np.fromiter((len(array) for array in arrays), np.int64, B)
    if mask is not None:
        mask = _validate.flag_list(form.owner, "mask", mask, n)
    if reset is not None:
        reset = _validate.flag_list(form.owner, "reset", reset, n)
    if tokens:
        # int64 holds every smaller integer; larger ones (uint64) must not wrap around before they are checked.
        wide = np.uint64 if any(array.dtype == np.uint64 for array in arrays) else np.int64
        x = np.concatenate(arrays, dtype=wide, casting="unsafe")
    else:
        x = empty((int(n.sum()), form.input_size), form.dtype)
        if arrays:
            np.concatenate(arrays, out=x)
    return _packed(form.owner, form.input_size, "list", x, n, steps._replace(mask=mask, reset=reset))


def read_ragged(owner: str, dtype: np.dtype[Any], input_size: int, pair: Any, steps: Steps) -> tuple[Array, Extent]:
    """``(values, lengths)``, packed; the values are read in place where possible."""
    if steps.lengths is not None:
        raise _ragged.no_second_lengths(owner)
    if steps.mask is not None:
        raise _ragged.no_mask(owner, steps.mask)
    x = _ragged.values(owner, pair[0], dtype, input_size)
    lengths = _ragged.lengths(owner, pair[1], len(x))
    reset = None if steps.reset is None else _ragged.reset(owner, steps.reset, len(x))
    return _packed(owner, input_size, "ragged", x, lengths, steps._replace(reset=reset))


def _packed(
    owner: str,
    input_size: int,
    layout: Layout,
    x: Array,
    lengths: NDArray[np.int64],
    steps: Steps,
    by_step: bool = False,
) -> tuple[Array, Extent]:
    """The steps of all rows in one array, (N, I) or tokens (N,); mask and reset are checked, (N,) each."""
    mask, reset = steps.mask, steps.reset
    if x.ndim == 1:
        x = _ragged.tokens(owner, x, input_size, lengths, layout, mask, by_step)
    schedule = _core.Schedule.packed(lengths, by_step, mask, reset)
    # Only a mask skips steps here.
    hold = _validate.past_end(owner, steps.past_end) and mask is not None
    return x[:, None], Extent(len(x), len(lengths), layout, lengths, schedule, hold, mask, reset)


def input_arrays(x: Any) -> list[tuple[str, Any]]:
    """The arrays of a caller's input that an output must not overlap, each with its name."""
    if isinstance(x, (tuple, list)):
        return [(f"x[{i}]", item) for i, item in enumerate(x)]
    return [("x", x)]


def new_sequence(form: Form, extent: Extent, width: int, lead: tuple[int, ...] = ()) -> Array:
    """Uninitialised (*lead, T, B, width) array whose memory is C-contiguous in the caller's layout."""
    if form.batch_first and extent.layout == "batch":
        return empty((*lead, extent.B, extent.T, width), form.dtype).swapaxes(-3, -2)
    return empty((*lead, *extent.grid, width), form.dtype)


def new_outputs(form: Form, extent: Extent) -> Outputs:
    """New arrays for the outputs of a call."""
    return tuple([new_sequence(form, extent, width, form.lead) for width in form.widths])


def to_caller(form: Form, extent: Extent, array: Array) -> Any:
    """A (..., T, B, width) array in the caller's layout: a view, or for list input a list of views."""
    if extent.layout == "batch":
        return array.swapaxes(-3, -2) if form.batch_first else array
    flat = array[..., 0, :]
    if extent.layout != "list":
        return flat
    assert extent.lengths is not None
    ends = np.cumsum(extent.lengths).tolist()
    return [flat[..., start:end, :] for start, end in zip([0, *ends[:-1]], ends, strict=False)]


def outputs_to_caller(form: Form, extent: Extent, outputs: Outputs) -> Any:
    """y, or the pair of ``merge=None``."""
    if len(outputs) == 1:
        return to_caller(form, extent, outputs[0])
    return tuple([to_caller(form, extent, y) for y in outputs])


def from_caller(form: Form, extent: Extent, array: Array) -> Array:
    """The (..., T, B, width) view of an array in the caller's layout."""
    if extent.layout != "batch":
        return array[..., None, :]
    return array.swapaxes(-3, -2) if form.batch_first else array


def output_shape(form: Form, extent: Extent, width: int) -> tuple[tuple[int, ...], str]:
    """Shape of an output in the caller's layout, and how it is derived."""
    sizes: dict[str, tuple[int, ...]] = {"B, T": (extent.B, extent.T), "T, B": (extent.T, extent.B)}
    axes = "B, T" if form.batch_first else "T, B"
    if extent.layout != "batch":
        axes = "T" if extent.layout == "unbatched" else "sum of lengths"
        sizes[axes] = (extent.T,)
    lead = "E, " if form.lead else ""
    return (*form.lead, *sizes[axes], width), f"({lead}{axes}, {form.width_formula})"


def read_out(form: Form, extent: Extent, out: Any, others: Sequence[tuple[str, Any]]) -> Outputs:
    """The caller's output array, or pair of arrays for merge=None, as (..., T, B, width)."""
    if extent.layout == "list":
        raise _validate.out_for_list(form.owner)
    named = [("out", out)]
    if len(form.widths) == 2:
        named = list(zip(("out[0]", "out[1]"), _validate.pair(form.owner, "out", out), strict=True))
    outputs = []
    for k, ((name, given), width) in enumerate(zip(named, form.widths, strict=True)):
        shape, formula = output_shape(form, extent, width)
        array = _validate.out(
            form.owner, name, given, shape, formula, form.dtype, [*others, *named[:k]], _core.rows_apart
        )
        outputs.append(from_caller(form, extent, array))
    return tuple(outputs)


def read_dy(form: Form, extent: Extent, dy: Any) -> tuple[Array | None, ...]:
    """Gradients of the outputs as (..., T, B, width), each None if the caller passed none."""
    if len(form.widths) == 1:
        return (_read_one_dy(form, extent, "dy", dy, form.widths[0]),)
    if dy is None:
        return None, None
    pair = _validate.pair(form.owner, "dy", dy)
    return tuple([_read_one_dy(form, extent, f"dy[{k}]", d, form.widths[k]) for k, d in enumerate(pair)])


def _read_one_dy(form: Form, extent: Extent, name: str, dy: Any, width: int) -> Array | None:
    if dy is None:
        return None
    if extent.layout == "list":
        assert extent.lengths is not None
        arrays = _validate.gradient_list(
            form.owner, name, dy, extent.lengths, width, form.width_formula, form.dtype, form.lead
        )
        packed = empty((*form.lead, extent.T, width), form.dtype)
        if arrays:
            np.concatenate(arrays, axis=-2, out=packed)
        return packed[..., None, :]
    array = _validate.floats(form.owner, name, dy, form.dtype, rows=True)
    shape, formula = output_shape(form, extent, width)
    _validate.exact_shape(form.owner, name, array, shape, formula)
    return from_caller(form, extent, array)
