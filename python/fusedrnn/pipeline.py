"""Parts in a row for inference: an embedding, a recurrent layer or group, dense layers with activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from . import _validate
from .calling import Frozen
from .embedding import Embedding
from .pipeline_parts import (
    added,
    applied,
    check_chain,
    check_last,
    final_output,
    frozen_part,
    is_pair,
    of_steps,
    own_floats,
    sizes_of,
    token_or_none,
    with_rows,
)

Array = NDArray[Any]


class Pipeline:
    """Parts in a row for inference, as one object: called over sequences, streamed step by step, saved in one file.

    Parameters
    ----------
    parts : sequence
        In the order in which data pass them: at most one `Embedding`, at the start; exactly one recurrent layer, group
        or frozen one, but no `Ensemble` (a `Stack` holds several layers); any number of `Linear` before and after it;
        and names of activations: "relu", "tanh", "sigmoid", "softmax" (over the last axis) and "elu". The parts are
        frozen: later changes of them have no effect.
    last : bool
        Whether calls return the output of the last valid step of each row alone, (B, O), as models that classify
        sequences do: the parts after the recurrent one get its final h, of two directions both. The recurrent part
        ends with an RNN, GRU or LSTM then.
    padding : int or None
        A token whose steps are skipped, as steps that a mask leaves out.
    skip : int
        The first `skip` features of the input are added to the outputs.

    Raises
    ------
    TypeError
        A part is none of these, or the dtypes of two parts differ.
    ValueError
        Parts do not fit together, or do not fit an option.

    Attributes
    ----------
    parts : tuple
        The frozen parts, to look at.
    recurrent : FrozenLayer or FrozenGroup
        The recurrent one among them.
    input_size, output_size : int
        I and O; with an embedding, I is the number of tokens.
    dtype : numpy.dtype
    last, padding, skip
        As given.

    Notes
    -----
    The bits of a row are the same in every batch, for any number of threads, and step by step. There is no backward
    pass: train the parts. C and Cython code can use the recurrent part, ``pipeline.recurrent.c_weights()``; there is no
    C function for the whole.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> words, head = fusedrnn.Embedding(50, 8, rng=0), fusedrnn.Linear(16, 3, rng=2)
    >>> tagger = fusedrnn.Pipeline([words, fusedrnn.LSTM(8, 16, rng=1), head, "softmax"])
    >>> tokens = np.array([[4, 7], [9, 3], [1, 2]])  # (T, B)
    >>> y, state = tagger(tokens)
    >>> y.shape
    (3, 2, 3)
    >>> stream = tagger.stream(batch_size=2)
    >>> bool((np.stack([stream.step(x_t) for x_t in tokens]) == y).all())
    True
    >>> tagger
    Pipeline([Embedding(50, 8), LSTM(8, 16), Linear(16, 3), 'softmax'])
    """

    __slots__ = ("__weakref__", "_after", "_before", "last", "padding", "parts", "recurrent", "skip")

    # Equality is by value, as for layers.
    __hash__: ClassVar[None]  # type: ignore[assignment]

    parts: tuple[Any, ...]
    recurrent: Any
    last: bool
    padding: int | None
    skip: int
    _before: tuple[Any, ...]
    _after: tuple[Any, ...]

    def __init__(self, parts: Sequence[Any], *, last: bool = False, padding: int | None = None, skip: int = 0) -> None:
        if hasattr(self, "skip"):
            raise _validate.initialised("Pipeline", "fusedrnn.Pipeline(parts)")
        if isinstance(parts, str) or not isinstance(parts, Sequence):
            raise TypeError(f"Pipeline: parts is {_validate.kind(parts)}; expected a list of parts")
        own = tuple([frozen_part(k, part) for k, part in enumerate(parts)])
        places = [k for k, part in enumerate(own) if isinstance(part, Frozen)]
        if len(places) != 1:
            raise ValueError(
                f"Pipeline: parts has {len(places)} recurrent parts; expected one (fusedrnn.Stack makes one of several)"
            )
        place = places[0]
        put = object.__setattr__
        put(self, "parts", own)
        put(self, "recurrent", own[place])
        put(self, "_before", own[:place])
        put(self, "_after", own[place + 1 :])
        put(self, "last", _validate.flag("Pipeline", "last", last))
        put(self, "padding", token_or_none(padding))
        check_chain(own)
        if self.last:
            check_last(self.recurrent)
        if isinstance(skip, bool) or not isinstance(skip, (int, np.integer)) or skip < 0:
            raise ValueError(f"Pipeline: skip is {skip!r}; expected an integer >= 0")
        if skip and (self.last or isinstance(own[0], Embedding) or skip > self.input_size):
            raise ValueError(
                f"Pipeline: skip is {skip} with last={self.last} and {own[0]!r} at the start; expected at most the "
                "number of input features, no Embedding, and last=False"
            )
        if skip not in (0, 1, self.output_size):
            raise ValueError(f"Pipeline: skip is {skip}; expected 0, 1 or the number of outputs, {self.output_size}")
        put(self, "skip", int(skip))

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of outputs and states."""
        dtype: np.dtype[Any] = self.recurrent.dtype
        return dtype

    @property
    def batch_first(self) -> bool:
        """Whether x and y are (B, T, ...)."""
        return bool(self.recurrent.batch_first)

    @property
    def input_size(self) -> int:
        """I, or the number of tokens."""
        return next(sizes_of(part)[0] for part in self.parts if not isinstance(part, str))

    @property
    def output_size(self) -> int:
        """O."""
        return next(sizes_of(part)[1] for part in reversed(self.parts) if not isinstance(part, str))

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
        """Run over whole sequences.

        Parameters
        ----------
        x, state, lengths, mask, reset, past_end
            As for calling a layer. `x` are tokens if the pipeline begins with an `Embedding`.

        Returns
        -------
        y : ndarray, or list of ndarray
            Outputs of all steps, (T, B, O) or in the layout of `x`; zeros at skipped steps, or with
            ``past_end="hold"`` what follows from the held outputs of the recurrent part. With ``last=True`` (B, O), for
            unbatched input (O,).
        state : ndarray or tuple of states
            The final state of the recurrent part, from which the next call can start.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling a layer.
        """
        if self.padding is not None:
            x, mask = self._without_padding(x, mask)
        elif mask is not None:
            mask = [np.array(m) for m in mask] if isinstance(mask, list) and isinstance(x, list) else np.array(mask)
        lengths = None if lengths is None else np.array(lengths)
        if self.skip:
            x = own_floats(x, self.dtype)
        given, values = x, of_steps(x)
        for part in self._before:
            values = applied(part, values)
        if self._before:
            x = (values, given[1]) if is_pair(given) else values
        y, state_n = self.recurrent(x, state, lengths=lengths, mask=mask, reset=reset, past_end=past_end)
        if self.last:
            y = final_output(self.recurrent, state_n)
        for part in self._after:
            y = applied(part, y)
        if self.skip:
            y = added(y, of_steps(given), self.skip)
        if not self.last and past_end == "zero" and (lengths is not None or mask is not None):
            y = self._with_zeros(y, lengths, mask)
        return y, state_n

    def _without_padding(self, x: Any, mask: Any) -> tuple[Any, Any]:
        """The tokens, and the mask that leaves out padding, too."""
        if is_pair(x):
            tokens = np.array(x[0])
            if tokens.dtype.kind in "iu" and (tokens == self.padding).any():
                raise ValueError(
                    f"Pipeline: the values hold the token {self.padding}, which is padding; expected (values, lengths) "
                    "without steps that are skipped"
                )
            return (tokens, x[1]), mask
        if isinstance(x, (list, tuple)) and _validate.is_list(x):
            items = [np.array(item) for item in x]
            kept = [item != self.padding for item in items]
            if mask is not None:
                kept = [own & np.array(other) for own, other in zip(kept, mask, strict=True)]
            return items, kept
        tokens = np.array(x)
        if tokens.dtype.kind not in "iu":
            raise TypeError(f"Pipeline: x has dtype {tokens.dtype}; expected tokens, as padding is {self.padding}")
        own = tokens != self.padding
        if mask is not None:
            other = np.array(mask)
            if other.shape != own.shape or other.dtype != bool:
                raise ValueError(
                    f"Pipeline: mask is {other.dtype} of shape {other.shape}; expected bool {own.shape}, as x"
                )
            own &= other
        return tokens, own

    def _with_zeros(self, y: Any, lengths: Any, mask: Any) -> Any:
        """The outputs with zeros at skipped steps."""
        if isinstance(y, list):
            for own, kept in zip(y, mask, strict=True):
                own[~kept] = 0
            return y
        kept = np.ones(y.shape[:-1], np.bool_) if mask is None else mask
        if lengths is not None:
            steps = np.arange(y.shape[1 if self.batch_first else 0])
            within = steps[:, None] < lengths
            kept = kept & (within.T if self.batch_first else within)
        y[~kept] = 0
        return y

    def stream(self, batch_size: int = 1) -> PipelineStream:
        """Process sequences one step at a time.

        Parameters
        ----------
        batch_size : int
            B, the number of sequences that advance together.

        Returns
        -------
        PipelineStream

        Raises
        ------
        ValueError
            The recurrent part runs in two directions or backwards, or `batch_size` is less than 1.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> amplifier = fusedrnn.Pipeline([fusedrnn.LSTM(1, 8, rng=0), fusedrnn.Linear(8, 1, rng=1)], skip=1)
        >>> stream = amplifier.stream()
        >>> stream.step(np.zeros((1, 1), np.float32)).shape
        (1, 1)
        """
        return PipelineStream(self, batch_size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pipeline):
            return NotImplemented
        options = (self.last, self.padding, self.skip) == (other.last, other.padding, other.skip)
        return options and self.parts == other.parts

    def __repr__(self) -> str:
        shown = [part._description if isinstance(part, Frozen) else repr(part) for part in self.parts]
        options = {"last": (self.last, False), "padding": (self.padding, None), "skip": (self.skip, 0)}
        given = "".join([f", {name}={value!r}" for name, (value, default) in options.items() if value != default])
        return f"Pipeline([{', '.join(shown)}]{given})"

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"Pipeline: {name} cannot be set; a pipeline does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Pipeline: {name} cannot be deleted; a pipeline does not change")

    def __copy__(self) -> Pipeline:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Pipeline:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.parts, {"last": self.last, "padding": self.padding, "skip": self.skip})


def _made(parts: tuple[Any, ...], options: dict[str, Any]) -> Pipeline:
    """A pipeline from its pickle."""
    return Pipeline(parts, **options)


class PipelineStream:
    """One step at a time over a `Pipeline`; made by ``pipeline.stream()``.

    Attributes
    ----------
    state
        The state of the recurrent part, as that of its stream: reading and assigning copy, None is the initial state.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> stream = fusedrnn.Pipeline([fusedrnn.GRU(3, 8, rng=0), fusedrnn.Linear(8, 2, rng=1), "tanh"]).stream()
    >>> stream.step(np.ones((1, 3), np.float32)).shape
    (1, 2)
    """

    __slots__ = ("_pipeline", "_stream")

    def __init__(self, pipeline: Pipeline, batch_size: int = 1) -> None:
        self._pipeline = pipeline
        self._stream = pipeline.recurrent.stream(batch_size)

    @property
    def batch_size(self) -> int:
        """B."""
        return int(self._stream.batch_size)

    @property
    def state(self) -> Any:
        return self._stream.state

    @state.setter
    def state(self, value: Any) -> None:
        self._stream.state = value

    def reset(self, rows: Any = None) -> None:
        """Set the state to the initial state, of the rows where `rows`, bool (B,), is True; None is all rows."""
        self._stream.reset(rows)

    def step(self, x: Any) -> Array:
        """One step of all parts.

        Parameters
        ----------
        x : array-like
            (B, I) floats, or (B,) tokens. Rows with the token of padding keep their state.

        Returns
        -------
        ndarray (B, O)
            Zeros in rows with padding.

        Raises
        ------
        TypeError, ValueError, IndexError
            `x` does not fit; the state is unchanged then.
        """
        pipeline = self._pipeline
        skipped, before = None, None
        if pipeline.padding is not None:
            x = np.array(x)
            skipped = x == pipeline.padding
            before = self.state if x.shape == (self.batch_size,) and skipped.any() else None
        elif pipeline.skip:
            x = np.array(x, pipeline.dtype)
        values = x
        for part in pipeline._before:
            values = applied(part, values)
        y: Any = self._stream.step(values)
        for part in pipeline._after:
            y = applied(part, y)
        if pipeline.skip:
            y = y + x[..., : pipeline.skip]
        if before is not None:
            assert skipped is not None
            self.state = with_rows(pipeline.recurrent, self.state, before, skipped)
            y[skipped] = 0
        result: Array = y
        return result

    def __repr__(self) -> str:
        return f"<stream of {self._pipeline!r}, batch_size={self.batch_size}>"
