"""Runs: the kernels' calls for stacked layers and two directions, with merging and dropout between layers.

Decision 0010 says why a run is a generator. Arrays are time-major here: x (T, B, I), y (T, B, H), states (B, H). The
arrays of packed sequences are (N, 1, I) and (N, 1, H), where N is the sum of the lengths, and states are as ever.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import _core
from .form import Extent, Outputs, Plan
from .kinds import CellKind

Array = NDArray[Any]

empty = _core.empty


# ---- what runs ------------------------------------------------------------------------------------------------------

#: Arguments of `_core.forward`, or of `_core.backward`.
Call: TypeAlias = tuple[Any, ...]
#: A function that has the kernels execute some calls and returns their results.
Kernels: TypeAlias = Callable[[list[Call]], Any]
R = TypeVar("R")
#: A computation in progress: it yields lists of calls that the kernels have to run next, receives their results, and
#: finally returns its own result. Calls of one list do not depend on each other, except for those of `StackedCalls`.
Run: TypeAlias = Generator[list[Call], Any, R]


class StackedCalls(list[Call]):
    """Calls of stacked layers, from bottom to top: the x of each is the y of the previous call. Inference only."""


def infer_all(calls: list[Call]) -> Any:
    """Execute independent calls that save nothing."""
    return _core.forward_all(calls, False)


def infer_stacked(calls: list[Call]) -> Any:
    """Execute calls of stacked layers that save nothing; the kernels may run the layers as a wavefront."""
    return _core.forward_stacked(calls)


def train_all(calls: list[Call]) -> Any:
    """Execute independent calls that save tapes."""
    return _core.forward_all(calls, True)


def run_to_end(run: Run[R], kernels: Kernels, stacked: Kernels | None = None) -> R:
    """Execute all calls of a run with `kernels`, or `stacked` for stacked layers; return the run's result."""
    returned = None
    while True:
        try:
            calls = run.send(returned)
        except StopIteration as end:
            result: R = end.value
            return result
        if isinstance(calls, StackedCalls):
            assert stacked is not None
            returned = stacked(calls)
        else:
            returned = kernels(calls)


def side_by_side(runs: Sequence[Run[R]]) -> Run[list[R]]:
    """Several runs as one: their next calls go to the kernels together, and the kernels distribute them over threads.

    Stacked calls of several runs go level by level: the kernels run the layers of one stack beside each other, not
    those of several.
    """
    results: list[Any] = [None] * len(runs)
    returned: dict[int, Any] = dict.fromkeys(range(len(runs)))
    while True:
        pending: dict[int, list[Call]] = {}
        for k, value in returned.items():
            try:
                pending[k] = runs[k].send(value)
            except StopIteration as end:
                results[k] = end.value
        if not pending:
            return results
        if len(pending) == 1:
            ((k, calls),) = pending.items()
            returned = {k: (yield calls)}
            continue
        levels = {k: _levels(calls) for k, calls in pending.items()}
        returned = {k: [] for k in pending}
        for level in range(max(map(len, levels.values()))):
            here = {k: own[level] for k, own in levels.items() if level < len(own)}
            together = yield [call for calls in here.values() for call in calls]
            rest = iter(together or itertools.repeat(None))
            for k, calls in here.items():
                returned[k] += [next(rest) for _ in calls]


def _levels(calls: list[Call]) -> list[list[Call]]:
    """Lists of independent calls; each list has to run before the next."""
    return [[call] for call in calls] if isinstance(calls, StackedCalls) else [calls]


# ---- two directions -------------------------------------------------------------------------------------------------


def direction_buffers(
    merge: str | None, outputs: Outputs, extent: Extent, widths: tuple[int, int], training: bool
) -> tuple[Array, Array]:
    """The arrays that both directions write to: parts of the outputs where possible."""
    if merge is None:
        first, second = outputs
        return first, second
    y = outputs[0]
    if merge == "concat":
        return y[..., : widths[0]], y[..., widths[0] :]
    # Backward of a product needs both factors, so they must not be stored in the caller's array.
    first = empty((*extent.grid, widths[0]), y.dtype) if training and merge == "mul" else y
    return first, empty((*extent.grid, widths[1]), y.dtype)


def join(merge: str | None, outputs: Outputs, buffers: tuple[Array, ...], training: bool) -> tuple[Array, Array] | None:
    """Merge both directions into the outputs; in training return the factors of a product."""
    if merge is None or merge == "concat":
        return None
    y, (first, second) = outputs[0], buffers
    with np.errstate(all="ignore"):  # no warning for infinities of relu, as within the kernels
        if merge == "mul":
            np.multiply(first, second, out=y)
            return (first, second) if training else None
        np.add(first, second, out=y)
        if merge == "mean":
            y *= 0.5
    return None


def joined(merge: str | None, outputs: Sequence[Array]) -> Array:
    """The output of one direction, or the merged outputs of two (concatenated if they are returned as a pair)."""
    if len(outputs) == 1:
        return outputs[0]
    if merge is None or merge == "concat":
        return np.concatenate(outputs, axis=-1)
    y = np.empty_like(outputs[0])
    join(merge, (y,), tuple(outputs), False)
    return y


def split(
    merge: str | None, dys: tuple[Array | None, ...], factors: tuple[Array, Array] | None, width: int
) -> tuple[Array | None, Array | None]:
    """Gradients of both directions from the gradient of the merged output; `width` is that of the first direction."""
    if merge is None:
        return dys[0], dys[1]
    d = dys[0]
    if d is None:
        return None, None
    if merge == "concat":
        return d[..., :width], d[..., width:]
    if merge == "sum":
        return d, d
    with np.errstate(all="ignore"):  # values past a row's end are arbitrary
        if merge == "mean":
            half = d * d.dtype.type(0.5)
            return half, half
        assert factors is not None
        return d * factors[1], d * factors[0]


# ---- windows --------------------------------------------------------------------------------------------------------


def widened(kind: CellKind, width: int, x: Array, extent: Extent, reverse: bool, dtype: np.dtype[Any]) -> Array:
    """The input of the kernels: x, or with a window the inputs of the last steps of each step, (T, B, width)."""
    if kind.window == 1:
        return x
    shape = (*extent.grid, width)
    if extent.outline:
        return np.broadcast_to(np.zeros((), dtype), shape)
    wide = empty(shape, dtype)
    _core.widen(extent.schedule, x, kind.window, reverse, wide)
    return wide


def wide_gradient(kind: CellKind, dx: Array | None) -> Array | None:
    """An array for the gradient of the kernels' input: dx itself, if there is no window."""
    if dx is None or kind.window == 1:
        return dx
    return empty((*dx.shape[:2], kind.window * dx.shape[2]), dx.dtype)


def fold(kind: CellKind, extent: Extent, wide: Array | None, reverse: bool, dx: Array | None, add: bool) -> None:
    """Set dx, or add to it, from the gradient of the kernels' input."""
    if kind.window > 1 and wide is not None and dx is not None:
        _core.narrow(extent.schedule, wide, kind.window, reverse, dx, add)


# ---- dropout --------------------------------------------------------------------------------------------------------


class Drop:
    """Dropout between two layers; the kept outputs are scaled so that the expected value does not change."""

    __slots__ = ("kept", "scale")

    def __init__(self, kept: NDArray[np.bool_], dropout: float) -> None:
        self.kept = kept
        self.scale = 1.0 / (1.0 - dropout)

    def __call__(self, array: Array) -> None:
        """Apply to outputs, or their gradients, in place; dropped elements become zero even if they were infinite."""
        with np.errstate(all="ignore"):
            array *= self.scale
        np.copyto(array, 0.0, where=~self.kept)

    @property
    def nbytes(self) -> int:
        return self.kept.nbytes


# ---- forward --------------------------------------------------------------------------------------------------------

#: Up to this many bytes of inner layers' outputs, all layers of an inference are passed to the kernels at once, which
#: may run them as a wavefront. Beyond it, layers run one after the other, so that at most two outputs are in memory.
INNER_OUTPUTS = 64 << 20


class Record(NamedTuple):
    """The data of one layer that backward needs."""

    tapes: tuple[_core.Tape, ...]  # one per direction
    factors: tuple[Array, Array] | None = None  # the outputs of both directions, for merge="mul"
    drop: Drop | None = None  # of this layer's output

    @property
    def nbytes(self) -> int:
        factors = 0 if self.factors is None else sum(array.nbytes for array in self.factors)
        return sum(tape.nbytes for tape in self.tapes) + factors + (0 if self.drop is None else self.drop.nbytes)


def forward(
    plan: Plan,
    weights: list[_core.Weights],
    x: Array,
    states: tuple[tuple[Array | None, ...] | None, tuple[Array, ...] | None],
    extent: Extent,
    outputs: Outputs,
    save: bool = False,
    kept: NDArray[np.bool_] | None = None,
    dropout: float = 0.0,
    step_masks: Iterator[Any] = itertools.repeat(None),  # noqa: B008  an endless one has no state
) -> Run[tuple[tuple[Array, ...], list[Record]]]:
    """Run all layers of one layer object; data for backward is saved only on request.

    `states` are the state before the first step, (L*D, B, units) each, and the learned initial state, (L*D, units)
    each; None for the former means the latter, and None for the latter means zeros. `kept` is the mask of the outputs
    that dropout between layers keeps, (L - 1, T, B, width).
    """
    state_0, initial = states
    (T, columns), schedule = extent.grid, extent.schedule
    L, D, dtype = plan.num_layers, plan.directions, plan.dtype
    state_n = tuple([empty((L * D, extent.B, units), dtype) for units in plan.units])
    records: list[Record] = []
    inner = (L - 1) * T * columns * plan.inner_width * dtype.itemsize
    kind = plan.kind
    at_once = D == 1 and not save and inner <= INNER_OUTPUTS and kind.window == 1
    owns = [(None,) * D if initial is None else [_rows(initial, k * D + d) for d in range(D)] for k in range(L)]
    calls: list[Call] = StackedCalls() if at_once and L > 1 else []
    for layer in range(L):
        last = layer == L - 1
        ys: tuple[Array, ...] = outputs if last else (empty((T, columns, plan.inner_width), dtype),)
        merge = plan.merge if last else plan.inner_merge
        buffers = ys if D == 1 else direction_buffers(merge, ys, extent, (plan.output_size,) * 2, save)
        rows = range(layer * D, (layer + 1) * D)
        # By direction: arguments of `_core.forward`.
        calls += [
            (
                *(weights[i], widened(kind, weights[i].input_size, x, extent, reverse, dtype), _rows(state_0, i), y),
                *(_rows(state_n, i), schedule, reverse, next(step_masks), own),
            )
            for i, y, reverse, own in zip(rows, buffers, plan.ways, owns[layer], strict=True)
        ]
        if at_once and not last:
            x = ys[0]
            continue
        tapes = yield calls
        calls = []
        if extent.hold and last:  # skipped steps of lower layers are never read
            for y, reverse in zip(buffers, plan.ways, strict=True):
                schedule.hold(y, reverse)
        factors = None if D == 1 else join(merge, ys, buffers, save)
        x = ys[0]
        if save:
            drop = None
            if kept is not None and not last:
                drop = Drop(kept[layer], dropout)
                drop(x)
            records.append(Record(tuple(tapes), factors, drop))
    return state_n, records


def _rows(state: tuple[Array | None, ...] | None, i: int) -> tuple[Array | None, ...] | None:
    """The parts of a state of one layer and direction, (B, H) each; of a learned state (H,) each."""
    return None if state is None else tuple([None if part is None else part[i] for part in state])


# ---- backward -------------------------------------------------------------------------------------------------------


def backward(
    plan: Plan,
    extent: Extent,
    records: list[Record],
    dys: tuple[Array | None, ...],
    dstate_n: tuple[Array | None, ...] | None,
    dx: Array | None,
    shapes: Sequence[tuple[int, ...]],
) -> Run[tuple[tuple[Array, ...], tuple[Array, ...] | None, list[Array]]]:
    """Gradients of the state before the first step, of the learned initial state, and of the parameters of `shapes`.

    The first two are (L*D, B, units); the second is None without a learned state. The gradient of x goes into `dx`.
    """
    L, D, dtype = plan.num_layers, plan.directions, plan.dtype
    dstate_0 = tuple([empty((L * D, extent.B, units), dtype) for units in plan.units])
    dinitial = tuple([np.empty_like(d) for d in dstate_0]) if plan.learned_state else None
    dparams = [empty(shape, dtype) for shape in shapes]
    no_state = (None,) * len(plan.parts)
    for layer in reversed(range(L)):
        record = records[layer]
        if D == 2:
            merge = plan.merge if layer == L - 1 else plan.inner_merge
            dys = split(merge, dys, record.factors, plan.output_size)
        if extent.hold and layer == L - 1:  # gradients of held outputs belong to the steps that computed the outputs
            ways = zip(dys, plan.ways, strict=True)
            dys = tuple([None if dy is None else extent.schedule.sum_held(dy, reverse) for dy, reverse in ways])
        d_inputs = dx if layer == 0 else empty((*extent.grid, plan.inner_width), dtype)
        # By direction: arguments of `_core.backward`; the second direction adds to the gradient of x of the first. With
        # a window each has its own wide gradient.
        kind, wides = plan.kind, [wide_gradient(plan.kind, d_inputs) for _ in range(D)]
        yield [
            (
                *(tape, dy, _rows(dstate_n, i) or no_state, wide, kind.window == 1 and i > layer * D),
                *(_rows(dstate_0, i), kind.named(dparams, i), _rows(dinitial, i)),
            )
            for i, tape, dy, wide in zip(range(layer * D, (layer + 1) * D), record.tapes, dys, wides, strict=True)
        ]
        for k, (wide, reverse) in enumerate(zip(wides, plan.ways, strict=True)):
            fold(kind, extent, wide, reverse, d_inputs, k > 0)
        if layer > 0:
            assert d_inputs is not None
            if (drop := records[layer - 1].drop) is not None:
                drop(d_inputs)
            dys = (d_inputs,)
    return dstate_0, dinitial, dparams


def add_up(parts: Sequence[Array | None]) -> None:
    """The gradient of an input that several runs read, summed in the memory of the first."""
    total, *others = parts
    with np.errstate(all="ignore"):
        for other in others:
            if total is not None and other is not None:
                total += other
