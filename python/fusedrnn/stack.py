"""Layers of any kind and size, one upon the other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import _validate
from .groups import FrozenGroup, LayerGroup, prefixed, width_of
from .tape import Grads, KeptArrays

Array = NDArray[Any]


class Stack(LayerGroup):
    """Layers of any kind, size and options, each of which reads what the one below puts out.

    Parameters
    ----------
    layers : sequence of RNN, GRU, LSTM, Bidirectional or Stack
        From bottom to top. They are not copied: their parameters are the stack's. All have the same dtype and
        ``batch_first``; only the last may have ``merge=None``.
    dropout : float
        0 <= dropout < 1; acts in ``forward``, on the outputs of all layers but the last.
    rng : int, numpy.random.Generator or None
        Draws what is dropped.

    Raises
    ------
    TypeError
        An argument is of the wrong kind, or the dtypes of two layers differ.
    ValueError
        There is no layer, a layer occurs twice, or two layers do not fit each other.

    Notes
    -----
    The state is a tuple with one entry for each layer, in that layer's own form; None stands for its initial one.
    Parameters have the names of their layer after its number: ``"0.weight_ih_l0"``.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> net = fusedrnn.Stack([fusedrnn.LSTM(3, 8, bidirectional=True), fusedrnn.GRU(16, 5)], dropout=0.1, rng=0)
    >>> y, (lower, upper) = net(np.ones((7, 2, 3), np.float32), lengths=[7, 4])
    >>> y.shape, [part.shape for part in lower], upper.shape
    ((7, 2, 5), [(2, 2, 8), (2, 2, 8)], (1, 2, 5))
    """

    _assignable: ClassVar[frozenset[str]] = frozenset({"rng", "dropout"})

    dropout: float

    def __init__(
        self, layers: Sequence[Any], dropout: float = 0.0, *, rng: np.random.Generator | int | None = None
    ) -> None:
        members = _validate.members("Stack", layers)
        for below, above in itertools.pairwise(members):
            _validate.fitting("Stack", below, above, width_of(below), getattr(below, "merge", "concat"))
        dropout = _validate.probability("Stack", "dropout", dropout)
        if dropout and len(members) == 1:
            _validate.warn_idle_dropout("Stack", dropout, stacklevel=2, reason="one layer")
        self._configure(
            {str(k): member for k, member in enumerate(members)},
            dropout=dropout,
            rng=_validate.generator("Stack", rng),
            input_size=members[0].input_size,
            output_size=width_of(members[-1]),
            merge=getattr(members[-1], "merge", "concat"),
        )

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers, from bottom to top."""
        return tuple(self._members.values())

    def __call__(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        past_end: str = "zero",
    ) -> tuple[Any, tuple[Any, ...]]:
        """Run all layers over whole sequences; keeps nothing for a backward pass, and never drops out.

        Parameters
        ----------
        x, lengths, mask, reset, past_end
            As for calling a layer; `lengths`, `mask` and `reset` hold for all layers.
        state : sequence with one state for each layer, or None
            Initial states, each as for calling that layer, None included.

        Returns
        -------
        y : ndarray, list of ndarray, or pair of these
            Outputs of the last layer.
        state : tuple
            Final states, one for each layer.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling a layer; the message names the layer.
        """
        return _infer(self.layers, x, state, lengths, mask, reset, past_end)

    def forward(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        past_end: str = "zero",
    ) -> tuple[Any, tuple[Any, ...], StackTape]:
        """Run all layers as in training: what is dropped is dropped, and what the backward pass needs is kept.

        Parameters
        ----------
        x, state, lengths, mask, reset, past_end
            As for calling the stack.

        Returns
        -------
        y, state
            As for calling the stack.
        tape : StackTape
            ``tape.backward(dy, dstate)`` gives the gradients.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling the stack.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> net = fusedrnn.Stack([fusedrnn.GRU(3, 8, rng=0), fusedrnn.RNN(8, 2, rng=0)])
        >>> y, state, tape = net.forward(np.ones((7, 2, 3), np.float32))
        >>> grads = tape.backward(np.ones_like(y))
        >>> grads.params["1.weight_hh_l0"].shape, [h.shape for h in grads.state]
        ((2, 2), [(1, 2, 8), (1, 2, 2)])
        """
        states = _validate.member_states("Stack", "state", state, len(self.layers))
        finals, tapes, drops = [], [], []
        last = len(self.layers) - 1
        for k, layer in enumerate(self.layers):
            x, final, tape = layer.forward(
                x, states[k], lengths=lengths, mask=mask, reset=reset, past_end=past_end if k == last else "zero"
            )
            finals.append(final)
            tapes.append(tape)
            if k < last:
                drops.append(Drop(self.dropout, self.rng, x))
                drops[k](x)
        return x, tuple(finals), StackTape(tapes, drops)

    def freeze(self, precision: str | None = None) -> FrozenStack:
        """Pack all parameters once, for inference and streaming; later changes of the layers do not show.

        Parameters
        ----------
        precision : str or None
            As for ``layer.freeze``.

        Returns
        -------
        FrozenStack

        Raises
        ------
        ValueError
            The precision is not available.
        """
        members = tuple(layer.freeze(precision) for layer in self.layers)
        return FrozenStack("Stack", repr(self), members, members[0].precision)

    def _config(self) -> dict[str, object]:
        return {"dropout": self.dropout}

    def __repr__(self) -> str:
        dropout = f", dropout={self.dropout!r}" if self.dropout else ""
        return f"Stack([{', '.join(map(repr, self.layers))}]{dropout})"


def _infer(
    layers: tuple[Any, ...], x: Any, state: Any, lengths: Any, mask: Any, reset: Any, past_end: Any, **last: Any
) -> tuple[Any, tuple[Any, ...]]:
    """One layer after the other; `last` is for the last one alone."""
    states = _validate.member_states("Stack", "state", state, len(layers))
    finals = []
    for layer, s in zip(layers[:-1], states, strict=False):
        x, final = layer(x, s, lengths=lengths, mask=mask, reset=reset)
        finals.append(final)
    y, final = layers[-1](x, states[-1], lengths=lengths, mask=mask, reset=reset, past_end=past_end, **last)
    return y, (*finals, final)


class Drop:
    """Dropout between two layers: what became zero, and what the rest was multiplied with."""

    __slots__ = ("dropped", "scale")

    def __init__(self, dropout: float, rng: np.random.Generator, x: Any) -> None:
        # float32 draws whatever the dtype, so that stacks of both dtypes drop the same units.
        arrays = x if isinstance(x, list) else [x]
        self.dropped = [rng.random(array.shape, np.float32) < dropout for array in arrays] if dropout else []
        self.scale = 1.0 / (1.0 - dropout)

    def __call__(self, x: Any) -> None:
        """Outputs, or their gradients, in place; what is dropped becomes zero even if it was infinite."""
        for array, dropped in zip(x if isinstance(x, list) else [x], self.dropped, strict=False):
            with np.errstate(all="ignore"):
                array *= self.scale
            np.copyto(array, 0.0, where=dropped)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.dropped)


class StackTape(KeptArrays):
    """What ``stack.forward`` keeps for the backward pass: the tapes of all layers; see `Tape`.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> net = fusedrnn.Stack([fusedrnn.LSTM(3, 8), fusedrnn.GRU(8, 5)])
    >>> y, state, tape = net.forward(np.zeros((7, 2, 3), np.float32))
    >>> with tape:
    ...     grads = tape.backward(dstate=(None, np.ones_like(state[1])))
    >>> tape.nbytes
    0
    """

    __slots__ = ("_last",)

    def __init__(self, tapes: list[Any], drops: list[Drop]) -> None:
        super().__init__("Stack", [*tapes, *drops])
        self._last = len(tapes) - 1

    def backward(self, dy: Any = None, dstate: Any = None, *, need_dx: bool = True) -> Grads:
        """Gradients of a scalar with respect to input, initial states and parameters.

        Parameters
        ----------
        dy
            Gradient with respect to ``y``; as for a layer's tape.
        dstate : sequence with one gradient for each layer, or None
            Gradients with respect to the final states, each as for that layer's tape, None included.
        need_dx : bool
            False skips the gradient of the input.

        Returns
        -------
        Grads
            ``grads.state`` is a tuple with one entry for each layer.

        Raises
        ------
        TypeError, ValueError
            As for a layer's tape.
        """
        need_dx = _validate.flag("Stack", "need_dx", need_dx)
        if not _validate.any_gradient(dy) and not _validate.any_gradient(dstate):
            self._held()
            raise _validate.nothing_to_do("Stack")
        return self._backward(dy, dstate, need_dx)

    def _backward(self, dy: Any, dstate: Any, need_dx: bool) -> Grads:
        """`backward`; without any gradient it gives zeros."""
        kept = self._held()
        tapes, drops = kept[: self._last + 1], kept[self._last + 1 :]
        dstates = _validate.member_states("Stack", "dstate", dstate, len(tapes))
        states: list[Any] = [None] * len(tapes)
        params: list[dict[str, Array]] = [{} for _ in tapes]
        for k in range(self._last, -1, -1):
            grads = tapes[k]._backward(dy, dstates[k], need_dx or k > 0)
            dy, states[k] = grads.x, grads.state
            params[k] = prefixed(str(k), grads.params)
            if k > 0:
                drops[k - 1](dy)
        return Grads(dy if need_dx else None, tuple(states), {n: a for own in params for n, a in own.items()})


class FrozenStack(FrozenGroup):
    """A stack for inference only, made by ``stack.freeze()``.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> net = fusedrnn.Stack([fusedrnn.LSTM(3, 8), fusedrnn.GRU(8, 5)])
    >>> stream = net.freeze().stream(batch_size=2)
    >>> x = np.ones((7, 2, 3), np.float32)
    >>> bool((np.stack([stream.step(x_t) for x_t in x]) == net(x)[0]).all())
    True
    """

    __slots__ = ()

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
    ) -> tuple[Any, tuple[Any, ...]]:
        """Run all layers over whole sequences: the bits of calling the stack.

        Parameters
        ----------
        x, state, lengths, mask, reset, past_end
            As for calling a stack.
        out : ndarray, pair of ndarray, or None
            Where the last layer writes; as for frozen layers.

        Returns
        -------
        y, state
            As for calling a stack.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling a frozen layer.
        """
        if out is not None and len(self._members) > 1:
            _validate.no_overlap("Stack", out, x)
        return _infer(self._members, x, state, lengths, mask, reset, past_end, out=out)

    def stream(self, batch_size: int = 1) -> StackStream:
        """Process sequences one step at a time.

        Parameters
        ----------
        batch_size : int
            B, the number of sequences that advance together.

        Returns
        -------
        StackStream

        Raises
        ------
        ValueError
            A layer is bidirectional, or `batch_size` is less than 1.
        """
        return StackStream(self, batch_size)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenStack, (self._owner, self._description, self._members, self.precision)


class StackStream:
    """One step at a time over a frozen stack; owns its state. Made by ``frozen.stream()``.

    Attributes
    ----------
    state : tuple
        One entry for each layer, as that layer's stream has it. Assigning copies; None means the initial state.

    Notes
    -----
    As `Stream`: ``step(x_t, out=None)`` takes (B, I) floats or (B,) tokens and gives the bits of the whole sequence.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> stream = fusedrnn.Stack([fusedrnn.LSTM(3, 8), fusedrnn.GRU(8, 5)]).freeze().stream()
    >>> stream.step(np.ones((1, 3), np.float32)).shape, len(stream.state)
    ((1, 5), 2)
    """

    def __init__(self, frozen: FrozenStack, batch_size: int = 1) -> None:
        self._frozen = frozen
        self._streams = [member.stream(batch_size) for member in frozen._members]
        B = self._streams[0].batch_size
        self._between = [np.empty((B, above.input_size), frozen.dtype) for above in frozen._members[1:]]

    @property
    def batch_size(self) -> int:
        """B."""
        return int(self._streams[0].batch_size)

    def step(self, x: Any, out: Array | None = None) -> Array:
        """One step of all layers.

        Parameters
        ----------
        x : array-like
            (B, I) floats, or (B,) tokens.
        out : ndarray (B, width) or None
            Where to write; nothing is allocated then.

        Returns
        -------
        ndarray (B, width)
            The last layer's output; ``out`` if that was given.

        Raises
        ------
        TypeError, ValueError, IndexError
            `x` or `out` does not fit.
        """
        for stream, between in zip(self._streams[:-1], self._between, strict=True):
            x = stream.step(x, between)
        y: Array = self._streams[-1].step(x, out)
        return y

    @property
    def state(self) -> tuple[Any, ...]:
        return tuple(stream.state for stream in self._streams)

    @state.setter
    def state(self, value: Any) -> None:
        states = _validate.member_states("Stack", "state", value, len(self._streams))
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
            `rows` is no array of bools of shape (B,).
        """
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


def _resume(frozen: FrozenStack, batch_size: int, state: tuple[Any, ...]) -> StackStream:
    """A stream that goes on from a state."""
    stream = StackStream(frozen, batch_size)
    stream.state = state
    return stream
