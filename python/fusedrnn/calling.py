"""Calls of everything that behaves like a layer: `RNN`, `GRU` and `LSTM`, groups of layers, and their frozen forms.

This file reads arguments and returns results, in one place for all classes. The computation in between is the `_run` of
each class, which sees only time-major arrays; a group composes its `_run` from those of its members.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from . import _validate
from .description import Described
from .form import (
    Extent,
    Form,
    Outputs,
    Steps,
    input_arrays,
    new_outputs,
    outputs_to_caller,
    read_out,
    read_sequence,
)
from .tape import Saved, Tape
from .unroll import Run, infer_all, infer_stacked, run_to_end, train_all

Array = NDArray[Any]


class Mode(NamedTuple):
    """The purpose of a run."""

    save: bool = False  # whether data for backward, or `inspect`, is saved
    drop: bool = False  # whether all kinds of dropout act
    masks: Mapping[str, Any] = {}  # given by the caller instead of drawn

    def of(self, member: str) -> Mode:
        """The mode of a group's member."""
        if not self.masks:
            return self
        prefix = f"{member}."
        return self._replace(masks={n.removeprefix(prefix): m for n, m in self.masks.items() if n.startswith(prefix)})


INFER, LOOK = Mode(), Mode(save=True)


class Runnable(Protocol):
    """The members of a layer that a call uses."""

    @property
    def _plan(self) -> Form: ...

    def _run(self, x: Array, state: Any, extent: Extent, outputs: Outputs, mode: Mode) -> Run[tuple[Any, Saved | None]]:
        """Writes the outputs; returns the final state, in the form of `Form.read_state`, and what the run saved."""


def infer(layer: Runnable, x: Any, state: Any, steps: Steps, out: Any = None) -> tuple[Any, Any]:
    """Return outputs and final state; save nothing."""
    form = layer._plan
    inputs, extent = read_sequence(form, x, steps)
    state_0 = form.read_state(extent, "state", state)
    if out is None:
        outputs = new_outputs(form, extent)
    else:
        outputs = read_out(form, extent, out, [*input_arrays(x), *form.state_arrays("state", state)])
    state_n, _ = run_to_end(layer._run(inputs, state_0, extent, outputs, INFER), infer_all, infer_stacked)
    if out is None:
        y = outputs_to_caller(form, extent, outputs)
    else:
        y = out if len(outputs) == 1 else tuple(out)
    return y, form.state_to_caller(extent, state_n)


class SequenceLayer:
    """Base of `RNN`, `GRU`, `LSTM`, `Stack`, `Bidirectional` and `Ensemble`: calls over sequences.

    The state of an RNN or a GRU is h, the state of an LSTM the pair (h, c), each (L*D, B, H), unbatched (L*D, H), where
    D is 2 if bidirectional and 1 otherwise. The state of a group is a tuple of its members' states. The members of an
    `Ensemble` have states of equal shape, so its state is one such state, with a first axis of length E in each array,
    like its outputs.
    """

    _plan: Form

    def _run(self, x: Array, state: Any, extent: Extent, outputs: Outputs, mode: Mode) -> Run[tuple[Any, Saved | None]]:
        raise NotImplementedError

    def _reversed(self) -> Self:
        """The same one-directional layer, its parameters and rng included, running from the last step to the first."""
        raise NotImplementedError

    def _quick(self, x: Any, state: Any) -> tuple[Any, Any] | None:
        """A fast path for the usual call over plain arrays; None if this call cannot take it."""
        return None

    def __call__(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        past_end: str = "zero",
    ) -> tuple[Any, Any]:
        """Run over whole sequences, without saving data for a backward pass and without dropout.

        Parameters
        ----------
        x : array-like, tuple (values, lengths), or list of arrays
            Floats of shape (T, B, I), with ``batch_first`` (B, T, I), or unbatched (T, I); or integer tokens of shape
            (T, B), (B, T) or (T,), each a one-hot vector. Arrays of the layer's dtype are read in place, whatever their
            strides; others are cast, which costs a copy.

            Sequences of different lengths without padding are a tuple ``(values, lengths)``: values (N, I), or tokens
            (N,), hold the steps of row 0, then those of row 1, and so on, and the integers lengths (B,) sum to N.
            Memory and time follow N. ``batch_first`` does not matter then.

            A list of (T_i, I) arrays, or of (T_i,) tokens, is copied into one such array. A tuple of float sequences
            is taken for a list, too; a tuple of two arrays, the second of integers with one axis, is always (values,
            lengths).
        state : array-like, tuple of states, or None
            The state before the first step: h, for LSTM (h, c), each (L*D, B, H), unbatched (L*D, H), where D is 2 if
            bidirectional and 1 otherwise; for a group a tuple of its members' states. None means the layer's own
            initial state: zeros, or with ``learned_state`` the learned state.
        lengths : integers (B,) or None
            Number of valid steps of each row, 0 to T, in any order. None means T for all rows. Only for batches in one
            array with two axes of steps and rows.
        mask : bool (T, B), with ``batch_first`` (B, T); or None
            False skips a step: nothing is read, the state passes through, and the step costs no time. Steps past a
            row's length are skipped whatever the mask says. (T,) for an unbatched `x`, a list of (T_i,) arrays for a
            list; None for (values, lengths), where the values leave out what a mask would skip. If T == B, the shape
            does not tell whether the axes are in the order of `x`.
        reset : bool (T, B), with ``batch_first`` (B, T); or None
            True puts the row at the layer's own initial state (zeros, or the learned state) before this step, the first
            step included, whatever `state` was given, even if this step itself is skipped. The reverse direction cuts
            at the same place, between this step and the one before it in time: its next step starts from its own
            initial state, and a reset at the first step does nothing. Shapes are those of `mask`; (N,) for (values,
            lengths).
        past_end : "zero" or "hold"
            Outputs at skipped steps: zero, or those of the previous step in running order, as in Keras (zero before the
            first).

        Returns
        -------
        y : ndarray, list of ndarray, or pair of these
            Outputs of the last layer, (T, B, D*H) or (T, B, H) depending on ``merge``, in the layout of `x`; for an
            `Ensemble` with a first axis of length E. For (values, lengths) one array (N, ...), in the order of the
            values; for a list a list of (T_i, ...) arrays; for ``merge=None`` a pair (forward, reverse) of these.
        state : ndarray or tuple of states
            State after each row's last valid step (for the reverse direction, and with ``backwards``: after its first
            valid step), in the same form as the initial state.

        Raises
        ------
        TypeError
            An argument has the wrong type or dtype.
        ValueError
            A shape or a value is wrong, or a parameter was replaced by an array that does not fit.
        IndexError
            A token is outside [0, input_size).

        Notes
        -----
        Each call packs the parameters for the CPU again, because they may have changed; ``freeze()`` packs them once.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> layer = fusedrnn.LSTM(3, 5, num_layers=2)
        >>> y, (h, c) = layer(np.zeros((7, 2, 3), np.float32), lengths=[7, 4])
        >>> y.shape, h.shape, c.shape
        ((7, 2, 5), (2, 2, 5), (2, 2, 5))

        The same rows without padding:

        >>> y, (h, c) = layer((np.zeros((11, 3), np.float32), [7, 4]))
        >>> y.shape, h.shape, c.shape
        ((11, 5), (2, 2, 5), (2, 2, 5))
        """
        if lengths is mask is reset is None and past_end == "zero":  # fast path
            results = self._quick(x, state)
            if results is not None:
                return results
        return infer(self, x, state, Steps(lengths, mask, reset, past_end))

    def forward(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        past_end: str = "zero",
        masks: Mapping[str, Any] | None = None,
    ) -> tuple[Any, Any, Tape]:
        """Run as in training: all kinds of dropout act, and the data for the backward pass is saved.

        Parameters
        ----------
        x, state, lengths, mask, reset, past_end
            As for calling the layer.
        masks : mapping of str to bool arrays, or None
            Masks to use instead of drawing them from ``rng``, for options that are on: ``"recurrent_dropout"``
            (L*D, B, H) and ``"weight_dropout"`` (L*D, G*H, H), True where an element is kept (and scaled by
            1 / (1 - p)); ``"zoneout_h"`` and ``"zoneout_c"`` (L*D, T, B, H), True where a unit keeps its old value;
            ``"dropout"`` (L - 1, T, B, width), True where an output is kept. With a projection, h and the columns of
            weight_hh have proj_size units. Masks of a group's members have the member's prefix: ``"0.zoneout_h"``; the
            mask of a `Stack` above its layer 0 is ``"dropout_0"``, (T, B, width). ``tape.masks`` contains the masks
            used. For (values, lengths) and for lists, N, the sum of the lengths, stands in place of T, B; so the
            numbers drawn differ from those of a padded batch.

        Returns
        -------
        y, state
            As for calling the layer.
        tape : Tape
            ``tape.backward(dy, dstate)`` gives the gradients.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling the layer.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> layer = fusedrnn.GRU(3, 5, rng=0)
        >>> y, h, tape = layer.forward(np.ones((7, 2, 3), np.float32))
        >>> grads = tape.backward(dy=2 * y)  # of the sum of squares of y
        >>> for name, w in layer.params.items():
        ...     w -= 0.01 * grads.params[name]
        """
        form = self._plan
        given = self._given_masks(masks)
        inputs, extent = read_sequence(form, x, Steps(lengths, mask, reset, past_end))
        state_0 = form.read_state(extent, "state", state)
        outputs = new_outputs(form, extent)
        run = self._run(inputs, state_0, extent, outputs, Mode(True, True, given))
        state_n, saved = run_to_end(run, train_all)
        assert saved is not None
        y = outputs_to_caller(form, extent, outputs)
        return y, form.state_to_caller(extent, state_n), Tape(form, extent, saved, tokens=inputs.ndim == 2)

    def _given_masks(self, masks: Any) -> Mapping[str, Any]:
        """The caller's masks, after a check of their names."""
        raise NotImplementedError

    def inspect(self, x: Any, state: Any = None, *, lengths: Any = None, mask: Any = None, reset: Any = None) -> Any:
        """Look inside: the outputs of every layer and direction, c and all gates at every step.

        Parameters
        ----------
        x, state, lengths, mask, reset
            As for calling the layer. Dropout does not act.

        Returns
        -------
        Inspection
            ``outputs``, ``c`` and ``gates``. For a `Stack` or `Bidirectional` a tuple with the result of each member;
            for an `Ensemble` the result of one network, with a first axis of length E in each array.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling the layer.

        Notes
        -----
        This method is not optimised for speed. Outputs and c come from the kernels; gates are computed from them by
        functions of `fusedrnn.reference`, and may differ from the kernels' values in the last bits.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> seen = fusedrnn.LSTM(3, 5, num_layers=2).inspect(np.ones((7, 4, 3), np.float32))
        >>> seen.outputs.shape, seen.c.shape, {name: gate.shape for name, gate in seen.gates.items()}["f"]
        ((2, 7, 4, 5), (2, 7, 4, 5), (2, 7, 4, 5))
        """
        form = self._plan
        inputs, extent = read_sequence(form, x, Steps(lengths, mask, reset))
        state_0 = form.read_state(extent, "state", state)
        run = self._run(inputs, state_0, extent, new_outputs(form, extent), LOOK)
        _, saved = run_to_end(run, train_all)
        shown, _ = self._show(saved, inputs, extent)
        return shown

    def _show(self, saved: Any, x: Array, extent: Extent) -> tuple[Any, Array]:
        """The result of `inspect`, from the data that a run saved and its input; and the output, (T, B, width)."""
        raise NotImplementedError


class Frozen(Described):
    """Base of the results of ``freeze()``: immutable, picklable, safe to call from many threads.

    Attributes
    ----------
    params : mapping of str to ndarray
        The parameters that were packed, read-only; stored for pickling, in addition to the packed weights.
    precision : str
        "float32" or "float64".
    isa : str
        The instruction set for which the weights are packed: the one that was current when the object was made.
    nbytes : int
        Bytes of packed weights and parameters.
    """

    __slots__ = ("__weakref__", "_description", "precision")

    # Equality is by value, as for layers.
    __hash__: ClassVar[None]  # type: ignore[assignment]

    _description: str
    precision: str

    def _refuse_second_init(self) -> None:
        """A frozen object must not change, because another thread may be in a call."""
        if hasattr(self, "precision"):  # the last attribute to be set
            raise _validate.initialised(f"frozen {self._plan.owner}", "layer.freeze()")

    @property
    def _plan(self) -> Form:
        raise NotImplementedError

    def _run(self, x: Array, state: Any, extent: Extent, outputs: Outputs, mode: Mode) -> Run[tuple[Any, Saved | None]]:
        raise NotImplementedError

    def _reversed(self) -> Self:
        """The layer itself: a layer that runs backwards was reversed before it was frozen."""
        return self

    def _quick(self, x: Any, state: Any) -> tuple[Any, Any] | None:
        """As in `SequenceLayer`."""
        return None

    def __call__(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        past_end: str = "zero",
        out: Any = None,
    ) -> tuple[Any, Any]:
        """Run over whole sequences, with the same bits as the layer that was frozen.

        Parameters
        ----------
        x, state, lengths, mask, reset, past_end
            As for calling a layer.
        out : ndarray, pair of ndarray, or None
            Array to write ``y`` to: of the same shape and dtype, with contiguous last axis, sharing no memory with `x`
            or `state`. A pair for ``merge=None``. (N, ...) for (values, lengths); not allowed for list input.

        Returns
        -------
        y, state
            As for calling a layer; ``y is out`` if `out` was given.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling a layer; ValueError also if `out` does not fit, is read-only, or overlaps an input.
        """
        if lengths is mask is reset is out is None and past_end == "zero":  # fast path
            results = self._quick(x, state)
            if results is not None:
                return results
        return infer(self, x, state, Steps(lengths, mask, reset, past_end), out)

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of inputs, outputs and states."""
        return self._plan.dtype

    @property
    def input_size(self) -> int:
        """I."""
        return self._plan.input_size

    @property
    def batch_first(self) -> bool:
        """Whether x and y are (B, T, ...)."""
        return self._plan.batch_first

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"frozen {self._plan.owner}: {name} cannot be set; frozen layers do not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"frozen {self._plan.owner}: {name} cannot be deleted; frozen layers do not change")

    def __repr__(self) -> str:
        return f"<frozen {self._description}, {self.precision}, {self.isa}>"

    @property
    def isa(self) -> str:
        raise NotImplementedError

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
