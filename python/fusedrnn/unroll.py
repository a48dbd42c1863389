"""Whole sequences over stacked layers and two directions: layouts, lengths, merging, dropout. Plain NumPy over `_core`.

Inside, everything is time-major: x (T, B, I), y (T, B, H), states (B, H). Other layouts are views of that.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _core, _validate, masks
from .kinds import CellKind
from .masks import Masks, Rates

Array = NDArray[Any]
Layout = Literal["batch", "unbatched", "list"]
#: h, or (h, c).
State = Array | tuple[Array, Array]

ndarray = np.ndarray
empty = _core.empty


class Plan:
    """What unrolling has to know of a layer object; made once, never changed."""

    __slots__ = (
        "batch_first",
        "directions",
        "dtype",
        "hidden_size",
        "inner_merge",
        "inner_width",
        "input_size",
        "kind",
        "learned_state",
        "merge",
        "num_layers",
        "output_size",
        "owner",
        "parts",
        "proj_size",
        "units",
        "ways",
        "width",
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
        self.owner = owner  # name of the class, for messages
        self.kind = kind
        self.parts = kind.states
        self.dtype = dtype
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.directions = 2 if bidirectional else 1
        self.ways = (False, True) if bidirectional else (backwards,)  # whether each direction runs from the last step
        self.learned_state = learned_state
        self.batch_first = batch_first
        self.merge = merge
        # merge=None hands out the last layer's directions as a pair; between layers it means "concat".
        self.inner_merge = merge or "concat"
        self.proj_size = kind.proj_size
        self.zoneout = zoneout  # in inference; training has masks instead
        self.output_size = kind.proj_size or hidden_size  # units of h, and of the output in one direction
        self.units = (self.output_size, hidden_size)[: len(self.parts)]
        self.inner_width = self.directions * self.output_size if self.inner_merge == "concat" else self.output_size
        self.width = self.output_size if merge is None else self.inner_width

    def turned(self) -> Plan:
        """The same one-way layer, running from the last step to the first."""
        other = copy.copy(self)
        other.ways = (True,)
        return other

    def split_learned(self, arrays: list[Array]) -> tuple[list[Array], tuple[Array, ...] | None]:
        """Parameters without the learned initial states, and these, (L*D, H) of each part, or None."""
        if not self.learned_state:
            return arrays, None
        each = len(self.parts)
        count = len(arrays) - self.num_layers * self.directions * each
        return arrays[:count], tuple([np.stack(arrays[count + p :: each]) for p in range(each)])

    @property
    def width_formula(self) -> str:
        """Width of an output, for messages."""
        return self.unit_formula if self.width == self.output_size else f"2*{self.unit_formula}"

    @property
    def unit_formula(self) -> str:
        """Width of one direction's output, for messages."""
        return "proj_size" if self.proj_size else "hidden_size"


class Extent(NamedTuple):
    """Size and layout of one call's sequences."""

    T: int
    B: int
    layout: Layout
    lengths: NDArray[np.int64] | None
    held: _core.Schedule | None = None  # past_end="hold": what knows where the outputs at skipped steps are from


class Record(NamedTuple):
    """What backward needs of one layer."""

    tapes: tuple[_core.Tape, ...]  # one for each direction
    factors: tuple[Array, Array] | None  # both outputs, of merge="mul"
    dropped: NDArray[np.bool_] | None  # dropout on this layer's output: what became zero,
    scale: float  # and what the rest was multiplied with

    @property
    def nbytes(self) -> int:
        factors = 0 if self.factors is None else sum(array.nbytes for array in self.factors)
        return sum(tape.nbytes for tape in self.tapes) + factors + (0 if self.dropped is None else self.dropped.nbytes)


@functools.lru_cache(maxsize=16)
def dense_schedule(T: int, B: int) -> _core.Schedule:
    """A schedule without lengths; it never changes, so calls share it."""
    return _core.Schedule(T, B)


@functools.lru_cache(maxsize=16)
def dense_batch(T: int, B: int) -> tuple[Extent, _core.Schedule]:
    """The usual case: a batch without lengths."""
    return Extent(T, B, "batch", None), dense_schedule(T, B)


# ---- layouts --------------------------------------------------------------------------------------------------------


def read_sequence(
    plan: Plan, x: Any, lengths: Any, mask: Any = None, reset: Any = None, past_end: Any = "zero"
) -> tuple[Array, Extent, _core.Schedule]:
    """`x` as (T, B, I) floats or (T, B) tokens, both checked; a view of the caller's array wherever that will do."""
    layout: Layout = "batch"
    tokens = False
    if type(x) is ndarray and x.dtype is plan.dtype and x.ndim == 3 and x.shape[2] == plan.input_size:
        if lengths is None and mask is None and reset is None and past_end == "zero":  # as quickly as can be
            if plan.batch_first:
                x = x.swapaxes(0, 1)
            T, B, _ = x.shape
            return x, *dense_batch(T, B)
    elif _validate.is_list(x):
        return _read_list(plan, x, lengths, mask, reset, past_end)
    else:
        x, tokens, unbatched = _validate.sequence(plan.owner, x, plan.dtype, plan.input_size, plan.batch_first)
        if unbatched:
            layout = "unbatched"
            x = x[:, None]
    if plan.batch_first and layout == "batch":
        x = x.swapaxes(0, 1)
    T, B = x.shape[:2]
    lengths, mask, schedule = read_steps(plan.owner, T, B, lengths, mask, reset, layout, plan.batch_first)
    if tokens:
        x = _validate.tokens(plan.owner, x, plan.input_size, lengths, layout, mask)
    held = schedule if _validate.past_end(plan.owner, past_end) else None
    return x, Extent(T, B, layout, lengths, held), schedule


def read_steps(
    owner: str, T: int, B: int, lengths: Any, mask: Any, reset: Any, layout: Layout, batch_first: bool
) -> tuple[NDArray[np.int64] | None, NDArray[np.bool_] | None, _core.Schedule]:
    """Checked lengths and mask, and the schedule that they and the resets make."""
    if lengths is not None:
        lengths = _validate.lengths(owner, lengths, T, B, layout)
    if mask is not None:
        mask = _validate.mask(owner, mask, T, B, layout)
    if reset is not None:
        reset = _validate.reset(owner, reset, T, B, layout, batch_first)
    if lengths is None and mask is None and reset is None:
        return None, None, dense_schedule(T, B)
    return lengths, mask, _core.Schedule(T, B, lengths, mask, reset)


def _read_list(
    plan: Plan, items: Sequence[Any], lengths: Any, mask: Any, reset: Any, past_end: Any
) -> tuple[Array, Extent, _core.Schedule]:
    """A list of sequences, gathered into one padded array; the padding is never read, so it is never written."""
    arrays, tokens = _validate.sequence_list(plan.owner, items, plan.dtype, plan.input_size)
    B = len(arrays)
    if lengths is not None:
        _validate.lengths(plan.owner, lengths, 0, B, "list")
    n = np.fromiter((len(array) for array in arrays), np.int64, B)
    T = int(n.max()) if B else 0
    if mask is not None:
        mask = _validate.flag_list(plan.owner, "mask", mask, n, T)
    if reset is not None:
        reset = _validate.flag_list(plan.owner, "reset", reset, n, T)
    if tokens:
        # int64 holds every smaller integer; larger ones (uint64) must not wrap round before they are checked.
        wide = np.uint64 if any(array.dtype == np.uint64 for array in arrays) else np.int64
        x = np.zeros((T, B), wide)
    else:
        x = empty((T, B, plan.input_size), plan.dtype)
    for b, array in enumerate(arrays):
        x[: len(array), b] = array
    if tokens:
        x = _validate.tokens(plan.owner, x, plan.input_size, n, "list", mask)
    schedule = _core.Schedule(T, B, n, mask, reset)
    held = schedule if _validate.past_end(plan.owner, past_end) else None
    return x, Extent(T, B, "list", n, held), schedule


def new_sequence(plan: Plan, extent: Extent, width: int) -> Array:
    """Uninitialised (T, B, width) whose memory is C-contiguous in the caller's layout."""
    if extent.layout == "list" or (plan.batch_first and extent.layout == "batch"):
        return empty((extent.B, extent.T, width), plan.dtype).swapaxes(0, 1)
    return empty((extent.T, extent.B, width), plan.dtype)


def to_caller(plan: Plan, extent: Extent, array: Array) -> Any:
    """A (T, B, width) array in the caller's layout: a view, or for list input a list of views."""
    if extent.layout == "batch":
        return array.swapaxes(0, 1) if plan.batch_first else array
    if extent.layout == "unbatched":
        return array[:, 0]
    assert extent.lengths is not None
    return [array[:n, b] for b, n in enumerate(extent.lengths.tolist())]


def from_caller(plan: Plan, extent: Extent, array: Array) -> Array:
    """The (T, B, width) view of an array in the caller's layout."""
    if extent.layout == "unbatched":
        return array[:, None]
    return array.swapaxes(0, 1) if plan.batch_first else array


def output_shape(plan: Plan, extent: Extent) -> tuple[tuple[int, ...], str]:
    """Shape of an output in the caller's layout, and how it is derived."""
    T, B, layout = extent[:3]
    if layout == "unbatched":
        return (T, plan.width), f"(T, {plan.width_formula})"
    if plan.batch_first:
        return (B, T, plan.width), f"(B, T, {plan.width_formula})"
    return (T, B, plan.width), f"(T, B, {plan.width_formula})"


def state_shape(plan: Plan, extent: Extent, part: str) -> tuple[tuple[int, ...], str]:
    """Shape of a part of a state in the caller's layout, and how it is derived."""
    rows = plan.num_layers * plan.directions
    formula = "2*num_layers" if plan.directions == 2 else "num_layers"
    units, name = (plan.output_size, plan.unit_formula) if part == "h" else (plan.hidden_size, "hidden_size")
    if extent.layout == "unbatched":
        return (rows, units), f"({formula}, {name})"
    return (rows, extent.B, units), f"({formula}, B, {name})"


def read_state(
    plan: Plan, extent: Extent, argument: str, state: Any, optional: bool = False
) -> tuple[Array | None, ...] | None:
    """The parts of a state, each (L*D, B, H), or None for all zeros."""
    if state is None:
        return None
    shape, formula = state_shape(plan, extent, plan.parts[-1])
    h_shape = state_shape(plan, extent, "h")
    parts = _validate.state(plan.owner, argument, state, plan.parts, shape, formula, plan.dtype, optional, h_shape)
    if extent.layout == "unbatched":
        return tuple(None if part is None else part[:, None] for part in parts)
    return parts


def initial_state(
    plan: Plan, extent: Extent, state: Any, learned: tuple[Array, ...] | None
) -> tuple[Array | None, ...] | None:
    """The state given, else the learned one for every row, else None for all zeros."""
    if state is not None or learned is None:
        return read_state(plan, extent, "state", state)
    return tuple([np.broadcast_to(part[:, None], (len(part), extent.B, part.shape[1])) for part in learned])


def state_to_caller(extent: Extent, parts: tuple[Array, ...]) -> Any:
    """h, or (h, c), in the caller's layout."""
    if extent.layout == "unbatched":
        parts = tuple([part[:, 0] for part in parts])
    return parts[0] if len(parts) == 1 else parts


def read_out(plan: Plan, extent: Extent, out: Any, others: Sequence[tuple[str, Any]]) -> tuple[Array, ...]:
    """The caller's output array, or pair of arrays for merge=None, as (T, B, width)."""
    shape, formula = output_shape(plan, extent)
    if plan.merge is not None:
        array = _validate.out(plan.owner, "out", out, shape, formula, plan.dtype, others)
        return (from_caller(plan, extent, array),)
    first, second = _validate.pair(plan.owner, "out", out)
    first = _validate.out(plan.owner, "out[0]", first, shape, formula, plan.dtype, others)
    second = _validate.out(plan.owner, "out[1]", second, shape, formula, plan.dtype, [*others, ("out[0]", first)])
    return from_caller(plan, extent, first), from_caller(plan, extent, second)


def read_dy(plan: Plan, extent: Extent, dy: Any) -> tuple[Array | None, ...]:
    """Gradients of the outputs as (T, B, width), each None where the caller has none."""
    if plan.merge is not None:
        return (_read_one_dy(plan, extent, "dy", dy),)
    if dy is None:
        return None, None
    first, second = _validate.pair(plan.owner, "dy", dy)
    return _read_one_dy(plan, extent, "dy[0]", first), _read_one_dy(plan, extent, "dy[1]", second)


def _read_one_dy(plan: Plan, extent: Extent, name: str, dy: Any) -> Array | None:
    if dy is None:
        return None
    if extent.layout == "list":
        assert extent.lengths is not None
        arrays = _validate.gradient_list(
            plan.owner, name, dy, extent.lengths, plan.width, plan.width_formula, plan.dtype
        )
        # What is past a sequence's end is read only where outputs are held, and there it is nobody's.
        padded = (empty if extent.held is None else np.zeros)((extent.T, extent.B, plan.width), plan.dtype)
        for b, array in enumerate(arrays):
            padded[: len(array), b] = array
        return padded
    array = _validate.floats(plan.owner, name, dy, plan.dtype, rows=True)
    shape, formula = output_shape(plan, extent)
    _validate.exact_shape(plan.owner, name, array, shape, formula)
    return from_caller(plan, extent, array)


# ---- forward --------------------------------------------------------------------------------------------------------


def infer(
    plan: Plan,
    weights: list[_core.Weights],
    x: Any,
    state: Any,
    lengths: Any,
    mask: Any = None,
    reset: Any = None,
    past_end: Any = "zero",
    out: Any = None,
    learned: tuple[Array, ...] | None = None,
) -> tuple[Any, Any]:
    """Outputs and final state; keeps nothing."""
    if (  # the usual call; whatever else there is between x and y must not come here
        plan.ways == (False,)
        and state is lengths is mask is reset is out is learned is None
        and past_end == "zero"
        and (results := _core.infer(weights, x, plan.batch_first)) is not None
    ):
        return results
    inputs, extent, schedule = read_sequence(plan, x, lengths, mask, reset, past_end)
    state_0 = None if state is None and learned is None else initial_state(plan, extent, state, learned)
    if out is None:
        outputs = _new_outputs(plan, extent)
        state_n, _ = _forward(plan, weights, inputs, extent, schedule, state_0, outputs, None, 0.0)
        return _outputs_to_caller(plan, extent, outputs), state_to_caller(extent, state_n)
    if extent.layout == "list":
        raise _validate.out_for_list(plan.owner)
    parts = state if isinstance(state, (tuple, list)) else (state,)
    others = [("x", x), *((f"state {p}", s) for p, s in zip(plan.parts, parts, strict=False))]
    outputs = read_out(plan, extent, out, others)
    state_n, _ = _forward(plan, weights, inputs, extent, schedule, state_0, outputs, None, 0.0)
    return (out if plan.merge is not None else tuple(out)), state_to_caller(extent, state_n)


def train(
    plan: Plan,
    weights: list[_core.Weights],
    x: Any,
    state: Any,
    lengths: Any,
    mask: Any,
    reset: Any,
    past_end: Any,
    dropout: float,
    rng: np.random.Generator,
    rates: Rates,
    given: Mapping[str, Any],
    learned: tuple[Array, ...] | None = None,
) -> tuple[Any, Any, Extent, list[Record], bool, Masks]:
    """Outputs, final state, and what backward needs; then whether `x` was tokens, and the masks of the steps."""
    inputs, extent, schedule = read_sequence(plan, x, lengths, mask, reset, past_end)
    state_0 = initial_state(plan, extent, state, learned)
    outputs = _new_outputs(plan, extent)
    shapes = masks.shapes(plan.num_layers * plan.directions, extent.T, extent.B, plan.units, ())
    names = ("recurrent_dropout", "zoneout_h", "zoneout_c")
    settled = masks.settle(plan.owner, rates, given, shapes, names, rng)
    each = masks.for_kernels(settled, rates, plan.num_layers * plan.directions, plan.dtype)
    state_n, records = _forward(plan, weights, inputs, extent, schedule, state_0, outputs, rng, dropout, each)
    y = _outputs_to_caller(plan, extent, outputs)
    return y, state_to_caller(extent, state_n), extent, records, inputs.ndim == 2, settled


def _new_outputs(plan: Plan, extent: Extent) -> tuple[Array, ...]:
    if plan.merge is None:
        return new_sequence(plan, extent, plan.width), new_sequence(plan, extent, plan.width)
    return (new_sequence(plan, extent, plan.width),)


def _outputs_to_caller(plan: Plan, extent: Extent, outputs: tuple[Array, ...]) -> Any:
    if len(outputs) == 1:
        return to_caller(plan, extent, outputs[0])
    return tuple(to_caller(plan, extent, y) for y in outputs)


def _forward(
    plan: Plan,
    weights: list[_core.Weights],
    x: Array,
    extent: Extent,
    schedule: _core.Schedule,
    state_0: tuple[Array | None, ...] | None,
    outputs: tuple[Array, ...],
    rng: np.random.Generator | None,
    dropout: float,
    step_masks: Iterator[Any] = itertools.repeat(None),  # noqa: B008  an endless one has no state
) -> tuple[tuple[Array, ...], list[Record]]:
    """Run all layers. A tape is kept if there is an `rng`, that is, when training."""
    T, B = extent.T, extent.B
    L, D, dtype = plan.num_layers, plan.directions, plan.dtype
    training = rng is not None
    state_n = tuple([empty((L * D, B, units), dtype) for units in plan.units])
    records: list[Record] = []
    for layer in range(1, L + 1):
        ys = outputs if layer == L else (empty((T, B, plan.inner_width), dtype),)
        factors = None
        if D == 1:
            i = layer - 1
            s, s_n = _rows(state_0, i), _rows(state_n, i)
            tapes = [
                _core.forward(
                    *(weights[i], x, s, ys[0], s_n, schedule, plan.ways[0], training, next(step_masks))  # type: ignore[arg-type]
                )
            ]
            _hold(plan, extent, ys if layer == L else ())
        else:
            merge = plan.merge if layer == L else plan.inner_merge
            buffers = _direction_buffers(merge, ys, T, B, plan.output_size, training)
            i, j = 2 * layer - 2, 2 * layer - 1
            both = weights[i], weights[j]
            starts, ends = (_rows(state_0, i), _rows(state_0, j)), (_rows(state_n, i), _rows(state_n, j))
            drops = next(step_masks), next(step_masks)
            tapes = _core.forward_both(both, x, starts, buffers, ends, schedule, training, drops)  # type: ignore[arg-type]
            _hold(plan, extent, buffers if layer == L else ())
            factors = _join(merge, ys, buffers, training)
        x = ys[0]
        if rng is not None:
            dropped = None
            scale = 1.0 / (1.0 - dropout)
            if dropout and layer < L:
                # float32 draws whatever the dtype, so that layers of both dtypes drop the same units.
                dropped = rng.random(x.shape, np.float32) < dropout
                _drop(x, dropped, scale)
            records.append(Record(tuple(tapes), factors, dropped, scale))  # type: ignore[arg-type]
    return state_n, records


def _rows(state: tuple[Array | None, ...] | None, i: int) -> tuple[Array | None, ...] | None:
    """One layer and direction's parts of a state, (B, H) each."""
    return None if state is None else tuple([None if part is None else part[i] for part in state])


def _hold(plan: Plan, extent: Extent, ys: tuple[Array, ...]) -> None:
    """With past_end="hold" fill the skipped steps of the last layer's directions; nobody reads those of lower ones."""
    if extent.held is not None:
        for y, reverse in zip(ys, plan.ways, strict=False):
            extent.held.hold(y, reverse)


def _sum_held(plan: Plan, extent: Extent, dys: tuple[Array | None, ...]) -> tuple[Array | None, ...]:
    """Gradients of the last layer's directions, those of held outputs added to the steps they are from."""
    if extent.held is None:
        return dys
    ways = zip(dys, plan.ways, strict=True)
    return tuple([None if dy is None else extent.held.sum_held(dy, reverse) for dy, reverse in ways])


def _direction_buffers(
    merge: str | None, ys: tuple[Array, ...], T: int, B: int, H: int, training: bool
) -> tuple[Array, Array]:
    """Where both directions write: straight into the layer's output as far as that can be."""
    if merge is None:
        return ys[0], ys[1]
    y = ys[0]
    if merge == "concat":
        return y[..., :H], y[..., H:]
    # Backward of a product needs both factors, which must not be the caller's array.
    first = empty((T, B, H), y.dtype) if training and merge == "mul" else y
    return first, empty((T, B, H), y.dtype)


def _join(
    merge: str | None, ys: tuple[Array, ...], buffers: tuple[Array, ...], training: bool
) -> tuple[Array, Array] | None:
    """Merge both directions into ys[0]; the factors of a product are handed back when training."""
    if merge is None or merge == "concat":
        return None
    y, (first, second) = ys[0], buffers
    with np.errstate(all="ignore"):  # relu's infinities are the caller's business, as they are within the kernels
        if merge == "mul":
            np.multiply(first, second, out=y)
            return (first, second) if training else None
        np.add(first, second, out=y)
        if merge == "mean":
            y *= 0.5
    return None


def _drop(array: Array, dropped: NDArray[np.bool_], scale: float) -> None:
    """Dropout, forward and backward: in place; what is dropped becomes zero even if it was infinite."""
    with np.errstate(all="ignore"):
        array *= scale
    np.copyto(array, 0.0, where=dropped)


# ---- backward -------------------------------------------------------------------------------------------------------


def backward(
    plan: Plan,
    extent: Extent,
    records: list[Record],
    dys: tuple[Array | None, ...],
    dstate_n: tuple[Array | None, ...] | None,
    dx: Array | None,
    shapes: Sequence[tuple[int, ...]],
) -> tuple[tuple[Array, ...], list[Array]]:
    """Gradients of the initial state and of all parameters (of `shapes`, in order); that of x goes into `dx`."""
    L, D, dtype = plan.num_layers, plan.directions, plan.dtype
    dstate_0 = tuple([empty((L * D, extent.B, units), dtype) for units in plan.units])
    dparams = [empty(shape, dtype) for shape in shapes]
    each = plan.kind.each
    no_state = (None,) * len(plan.parts)
    for layer in reversed(range(L)):
        record = records[layer]
        merge = plan.merge if layer == L - 1 else plan.inner_merge
        d_inputs = dx if layer == 0 else empty((extent.T, extent.B, plan.inner_width), dtype)
        # By direction: gradients of the states after and before, and of the parameters.
        rows = range(layer * D, (layer + 1) * D)
        after = [tuple([None if part is None else part[i] for part in dstate_n or no_state]) for i in rows]
        before = [tuple([part[i] for part in dstate_0]) for i in rows]
        params = [plan.kind.placed(dparams[i * each : (i + 1) * each]) for i in rows]
        if D == 1:
            (d,) = _sum_held(plan, extent, dys) if layer == L - 1 else dys
            _core.backward(record.tapes[0], d, after[0], d_inputs, False, before[0], params[0])
        else:
            d_both = _split(merge, dys, record.factors, plan.output_size)
            if layer == L - 1:
                d_both = _sum_held(plan, extent, d_both)  # type: ignore[assignment]
            _core.backward_both(record.tapes, d_both, tuple(after), d_inputs, tuple(before), tuple(params))  # type: ignore[arg-type]
        if layer > 0:
            assert d_inputs is not None
            below = records[layer - 1]
            if below.dropped is not None:
                _drop(d_inputs, below.dropped, below.scale)
            dys = (d_inputs,)
    return dstate_0, dparams


def _split(
    merge: str | None, dys: tuple[Array | None, ...], factors: tuple[Array, Array] | None, H: int
) -> tuple[Array | None, Array | None]:
    """Gradients of both directions from that of the merged output."""
    if merge is None:
        return dys[0], dys[1]
    d = dys[0]
    if d is None:
        return None, None
    if merge == "concat":
        return d[..., :H], d[..., H:]
    if merge == "sum":
        return d, d
    with np.errstate(all="ignore"):  # past a row's end there may be anything
        if merge == "mean":
            half = d * d.dtype.type(0.5)
            return half, half
        assert factors is not None
        return d * factors[1], d * factors[0]
