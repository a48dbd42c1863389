"""Stacked layers of any kind and size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import _core, _validate
from .calling import Mode
from .form import Extent, Outputs
from .groups import FrozenGroup, GroupForm, LayerGroup, SavedGroup, prefixed
from .tape import Saved
from .unroll import Drop, Run

Array = NDArray[Any]


class Stack(LayerGroup):
    """Stacked layers of any kind, size and options; each reads the outputs of the layer below.

    Parameters
    ----------
    layers : sequence of RNN, GRU, LSTM, Bidirectional or Stack
        From bottom to top. The layers are not copied: the stack shares their parameters. All layers have the same
        dtype and ``batch_first``; only the last may have ``merge=None``.
    dropout : float
        0 <= dropout < 1; acts in ``forward``, on the outputs of all layers but the last.
    rng : int, numpy.random.Generator or None
        Draws the masks of dropout between layers; each layer has its own generator.

    Raises
    ------
    TypeError
        An argument has the wrong type, or the dtypes of two layers differ.
    ValueError
        There is no layer, a layer occurs twice, or two layers do not fit together.

    Notes
    -----
    The state is a tuple with one entry for each layer, in the form of this layer's state; None means the initial state.
    Names of parameters are prefixed with the number of their layer: ``"0.weight_ih_l0"``.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> net = fusedrnn.Stack([fusedrnn.LSTM(3, 8, bidirectional=True), fusedrnn.GRU(16, 5)], dropout=0.1, rng=0)
    >>> y, (lower, upper) = net(np.ones((7, 2, 3), np.float32), lengths=[7, 4])
    >>> y.shape, [part.shape for part in lower], upper.shape
    ((7, 2, 5), [(2, 2, 8), (2, 2, 8)], (1, 2, 5))
    """

    _assignable: ClassVar[frozenset[str]] = frozenset({"rng", "dropout"})
    _defaults: ClassVar[dict[str, object]] = {"dropout": 0.0}

    dropout: float
    rng: np.random.Generator

    def __init__(
        self, layers: Sequence[Any], dropout: float = 0.0, *, rng: np.random.Generator | int | None = None
    ) -> None:
        members = _validate.members("Stack", layers)
        for below, above in itertools.pairwise(members):
            _validate.fitting("Stack", below, above, below._plan.widths)
        dropout = _validate.probability("Stack", "dropout", dropout)
        if dropout and len(members) == 1:
            _validate.warn_idle_dropout("Stack", dropout, stacklevel=2, reason="one layer")
        self._configure(
            {str(k): member for k, member in enumerate(members)},
            dropout=dropout,
            rng=_validate.generator("Stack", rng),
            input_size=members[0].input_size,
            output_size=members[-1]._plan.widths[0],
            merge=getattr(members[-1], "merge", "concat"),
        )

    def _form(self) -> GroupForm:
        plans = [layer._plan for layer in self.layers]
        return GroupForm("Stack", plans, plans[-1].widths)

    def _quick(self, x: Any, state: Any) -> tuple[Any, Any] | None:
        if not all(layer._plan.takes_quickly(x) for layer in self.layers):
            return None
        if state is None:
            state = [None] * len(self.layers)
        elif type(state) is not tuple or len(state) != len(self.layers):
            return None
        finals = []
        for layer, own in zip(self.layers, state, strict=True):
            results = layer._quick(x, own)
            if results is None:
                return None
            x, final = results
            finals.append(final)
        return x, tuple(finals)

    def _run(
        self, x: Array, state: Any, extent: Extent, outputs: Outputs, mode: Mode
    ) -> Run[tuple[tuple[Any, ...], SavedStack | None]]:
        finals: list[Any] = []
        saved: dict[str, Any] = {}
        drops: list[Drop] = []
        for (name, layer), own in zip(self._members.items(), state, strict=True):
            last = len(finals) == len(state) - 1
            width = layer._plan.widths[0]
            ys = outputs if last else (_core.empty((*extent.grid, width), layer.dtype),)
            # Skipped steps of lower layers are never read.
            ran = yield from layer._run(x, own, extent if last else extent._replace(hold=False), ys, mode.of(name))
            finals.append(ran[0])
            saved[name] = ran[1]
            x = ys[0]
            if mode.drop and self.dropout and not last:
                kept = self._kept(mode, f"dropout_{name}", extent, width)
                drops.append(Drop(kept.reshape(x.shape), self.dropout))
                drops[-1](x)
        return tuple(finals), SavedStack(saved, drops, self._plan, extent) if mode.save else None

    def _show(self, saved: Any, x: Array, extent: Extent) -> tuple[Any, Array]:
        shown = []
        for name, layer in self._members.items():
            own, x = layer._show(saved.members[name], x, extent)
            shown.append(own)
        return tuple(shown), x

    def _kept(self, mode: Mode, name: str, extent: Extent, width: int) -> NDArray[np.bool_]:
        """The mask of a layer's outputs that dropout keeps: the caller's, or a new one; packed without a batch axis."""
        steps, axes = extent.axes
        shape = (*steps, width)
        if name in mode.masks:
            return _validate.given_mask(
                "Stack", f"masks[{name!r}]", mode.masks[name], shape, f"({axes}, width of its output)"
            )
        # Numbers are drawn in float32 for both dtypes, so that stacks of both dtypes drop the same units.
        return self.rng.random(shape, np.float32) >= self.dropout

    def _own_masks(self) -> dict[str, float]:
        return {f"dropout_{name}": self.dropout for name in list(self._members)[:-1]}

    def _stream(self, frozen: FrozenGroup, batch_size: int) -> StackStream:
        return StackStream(frozen, batch_size)

    def _config(self) -> dict[str, object]:
        return {"dropout": self.dropout}


class SavedStack(SavedGroup):
    """The data that a stack's run saves, including its dropout masks."""

    __slots__ = ("drops", "extent", "form")

    def __init__(self, members: Mapping[str, Saved], drops: list[Drop], form: GroupForm, extent: Extent) -> None:
        super().__init__(members)
        self.drops = drops  # between layers; empty without dropout
        self.form = form
        self.extent = extent

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(drop.nbytes for drop in self.drops)

    @property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """All masks, under the group's names; masks between layers come first."""
        cut = (slice(None), 0) if self.extent.packed else ...
        return {
            f"dropout_{name}": drop.kept[cut] for name, drop in zip(self.members, self.drops, strict=False)
        } | super().masks

    def backward(
        self, dys: tuple[Array | None, ...], dstate_n: Any, dx: Array | None
    ) -> Run[tuple[Any, dict[str, Array]]]:
        """See `Saved`."""
        form, extent = self.form, self.extent
        dstate_0 = [None] * len(self.members)
        own: dict[str, dict[str, Array]] = {}
        for k, (name, member) in reversed(list(enumerate(self.members.items()))):
            d_inputs: Any = _core.empty((*extent.grid, form.members[k].input_size), form.dtype) if k else dx
            dstate_0[k], own[name] = yield from member.backward(dys, dstate_n and dstate_n[k], d_inputs)
            if k:
                if self.drops:
                    self.drops[k - 1](d_inputs)
                dys = (d_inputs,)
        return tuple(dstate_0), prefixed({name: own[name] for name in self.members})


class StackStream:
    """One step at a time over a frozen stack; owns its state. Created by ``frozen.stream()``.

    Attributes
    ----------
    state : tuple
        One entry for each layer, in the form of this layer's stream. Assigning copies; None means the initial state.

    Notes
    -----
    As in `Stream`, ``step(x_t, out=None)`` takes (B, I) floats or (B,) tokens; the steps give the same bits as a call
    over the whole sequence.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> stream = fusedrnn.Stack([fusedrnn.LSTM(3, 8), fusedrnn.GRU(8, 5)]).freeze().stream()
    >>> stream.step(np.ones((1, 3), np.float32)).shape, len(stream.state)
    ((1, 5), 2)
    """

    def __init__(self, frozen: FrozenGroup, batch_size: int = 1) -> None:
        if hasattr(self, "_in_use"):  # another thread may be in a step
            raise _validate.initialised("StackStream", "frozen.stream()")
        self._frozen = frozen
        self._streams = [member.stream(batch_size) for member in frozen._group.layers]
        B = self._streams[0].batch_size
        self._between = [np.empty((B, above.input_size), frozen.dtype) for above in frozen._group.layers[1:]]
        # Each layer's stream refuses a second thread, but not a thread that comes between the steps of two layers and
        # would mix outputs in `_between`. Python does not change threads between the check and the assignment.
        self._in_use = False

    @property
    def batch_size(self) -> int:
        """B."""
        return int(self._streams[0].batch_size)

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if self._in_use:
            raise _validate.in_use("StackStream")
        self._in_use = True
        try:
            yield
        finally:
            self._in_use = False

    def step(self, x: Any, out: Array | None = None) -> Array:
        """One step of all layers.

        Parameters
        ----------
        x : array-like
            (B, I) floats, or (B,) tokens.
        out : ndarray (B, width) or None
            Array to write to; with `out`, a step on one thread allocates nothing.

        Returns
        -------
        ndarray (B, width)
            The last layer's output; this is ``out`` if it was given.

        Raises
        ------
        TypeError, ValueError, IndexError
            `x` or `out` does not fit.
        RuntimeError
            The stream is in use by another thread.
        """
        if self._in_use:
            raise _validate.in_use("StackStream")
        self._in_use = True
        try:
            for stream, between in zip(self._streams[:-1], self._between, strict=True):
                x = stream.step(x, between)
            y: Array = self._streams[-1].step(x, out)
            return y
        finally:
            self._in_use = False

    @property
    def state(self) -> tuple[Any, ...]:
        with self._in_turn():
            return tuple(stream.state for stream in self._streams)

    @state.setter
    def state(self, value: Any) -> None:
        states = _validate.member_states("Stack", "state", value, len(self._streams))
        with self._in_turn():
            for stream, state in zip(self._streams, states, strict=True):
                stream.state = state

    def reset(self, rows: Any = None) -> None:
        """Set the state to the initial one.

        Parameters
        ----------
        rows : bool (B,) or None
            The rows to reset; None is all.

        Raises
        ------
        TypeError, ValueError
            `rows` is not an array of bools of shape (B,).
        """
        with self._in_turn():
            for stream in self._streams:
                stream.reset(rows)

    def __repr__(self) -> str:
        return f"<stream of {self._frozen!r}, batch_size={self.batch_size}>"

    def __copy__(self) -> StackStream:
        return _resume(self._frozen, self.batch_size, self.state)

    def __deepcopy__(self, memo: dict[int, Any]) -> StackStream:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _resume, (self._frozen, self.batch_size, self.state)


def _resume(frozen: FrozenGroup, batch_size: int, state: tuple[Any, ...]) -> StackStream:
    """A stream that continues from a state."""
    stream = StackStream(frozen, batch_size)
    stream.state = state
    return stream
