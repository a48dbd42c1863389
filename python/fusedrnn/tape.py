"""Tapes: the data that forward saves for backward, and the computation of gradients from it."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from . import _core, _validate
from .form import Extent, Form, new_sequence, read_dy, to_caller
from .grads import Grads
from .kinds import CellKind
from .specs import ParameterSpec
from .tokens import Seen, all_dense, dense
from .unroll import Record, Run, run_to_end

Array = NDArray[Any]


class Sized(Protocol):
    """The contents of a tape: an object that knows its size."""

    @property
    def nbytes(self) -> int: ...


class TapeBase:
    """Base of all tapes: memory that can be counted, released, and held for the duration of a ``with`` block."""

    __slots__ = ("_owner", "_saved")

    def __init__(self, owner: str, saved: Sized) -> None:
        self._owner = owner
        self._saved: Any = saved

    @property
    def nbytes(self) -> int:
        """Bytes held by this tape; 0 once it is released."""
        return 0 if self._saved is None else int(self._saved.nbytes)

    @property
    def released(self) -> bool:
        """Whether the tape was released."""
        return self._saved is None

    def release(self) -> None:
        """Free the memory now; may be called again."""
        self._saved = None

    def _unreleased(self) -> Any:
        """The contents of the tape; an error if it was released."""
        if self._saved is None:
            raise _validate.released(self._owner)
        return self._saved

    def __enter__(self) -> Self:
        self._unreleased()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        held = "released" if self._saved is None else f"{self.nbytes / 2**20:.1f} MiB"
        return f"<{type(self).__name__} of {self._owner}, {held}>"


class Saved(Protocol):
    """The data that a run saves for the backward pass."""

    @property
    def masks(self) -> dict[str, NDArray[np.bool_]]: ...
    @property
    def nbytes(self) -> int: ...
    def backward(
        self, dys: tuple[Array | None, ...], dstate_n: Any, dx: Array | None
    ) -> Run[tuple[Any, dict[str, Any]]]:
        """Gradients of the initial state and of the parameters, by name; the gradient of x goes into `dx`.

        The gradient of a weight_ih that reads tokens is a `SparseGrad`.
        """


class Tape(TapeBase):
    """The data that ``layer.forward`` saves for the backward pass. Created by ``forward``, not by callers.

    Attributes
    ----------
    masks : dict of str to ndarray of bool
        True where dropout kept an element, or zoneout the old state; ``forward(..., masks=tape.masks)`` repeats both.

    A tape owns copies of all data that it needs: inputs, states and parameters may change or vanish after forward. A
    tape can be used more than once, each time with the same bits, and from several threads. ``release()``, or leaving a
    ``with`` block, frees its memory.

    Notes
    -----
    With R = sum of the lengths (T*B without lengths), each layer and direction saves, in elements of the layer's dtype,
    where H counts as the next multiple of the vector length:

    ==================== ==================================== ==============
    cell                 gates, states                        initial states
    ==================== ==================================== ==============
    RNN                  R*H    (h)                           B*H
    GRU                  5*R*H  (r, z, n, W_hn h + b_hn, h)   B*H
    GRU, reset before    5*R*H  (r, z, n, r*h, h)             B*H
    GRU, no reset gate   3*R*H  (z, n, h)                     B*H
    LSTM                 6*R*H  (i, f, g, o, c, h)            2*B*H
    LSTM, coupled        5*R*H  (i, g, o, c, h)               2*B*H
    LSTM, projected to P R*(6*H + P)  (LSTM's; o*tanh(c))     B*(H + P)
    GRU, layer_norm      12*R*H (GRU's; both products)        B*H
    LSTM, layer_norm     14*R*H (LSTM's; both products)       2*B*H
    ==================== ==================================== ==============

    Other activations, a clip or peepholes do not change these numbers, except that an RNN with other activations or a
    clip also saves its pre-activation: 2*R*H.

    The input of each layer adds R*I (R integers of 8 bytes for tokens). ``merge="mul"`` adds 2*T*B*H for each layer,
    dropout one byte for each output of all layers but the last, recurrent dropout another R*H, zoneout R*H bytes
    and, for c, another R*H. The tape also holds the packed parameters, which are not counted; for tokens it holds only
    the columns of weight_ih of those that occur.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.LSTM(3, 5)
    >>> y, (h, c), tape = layer.forward(np.zeros((7, 2, 3), np.float32))
    >>> with tape:
    ...     grads = tape.backward(dstate=(None, np.ones_like(c)))
    >>> tape.nbytes
    0
    """

    __slots__ = ("_extent", "_form", "_tokens", "masks")

    def __init__(self, form: Form, extent: Extent, saved: Saved, tokens: bool) -> None:
        super().__init__(form.owner, saved)
        self.masks = saved.masks
        self._form = form
        self._extent = extent
        self._tokens = tokens

    def backward(self, dy: Any = None, dstate: Any = None, *, need_dx: bool = True, sparse: bool = False) -> Grads:
        """Gradients of a scalar with respect to input, initial state and parameters, by backpropagation through time.

        Parameters
        ----------
        dy : array-like, list of arrays, pair of these, or None
            Gradient with respect to ``y``, of the same shape. For a list input a list; for ``merge=None`` a pair,
            either of which may be None. At skipped steps (past a row's length, or masked) the gradient is never read,
            unless outputs were held there (``past_end="hold"``): then it is added to that of the step whose output was
            held.
        dstate : array-like, pair of these, or None
            Gradient with respect to the final state: h, or (h, c), either of which may be None.
        need_dx : bool
            False skips the gradient of the input.
        sparse : bool
            True returns the gradient of the weight_ih that tokens select columns of as a `SparseGrad`, with the columns
            of the tokens that occur. A dense one has zeros for all other tokens, which takes time and memory in
            proportion to the vocabulary. For an input of floats all gradients are dense.

        Returns
        -------
        Grads

        Raises
        ------
        ValueError
            The tape was released, a shape is wrong, or neither `dy` nor `dstate` is given.
        TypeError
            A gradient is not an array of real numbers.

        Notes
        -----
        Werbos, Backpropagation through time, 1990. Gradients of another dtype are cast, which costs a copy.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> layer = fusedrnn.LSTM(3, 5)
        >>> x = np.ones((7, 2, 3), np.float32)
        >>> y, (h, c), tape = layer.forward(x, lengths=[7, 4])
        >>> grads = tape.backward(dy=2 * y)  # of the sum of squares of y
        >>> grads.x.shape, [part.shape for part in grads.state], grads.params["weight_hh_l0"].shape
        ((7, 2, 3), [(1, 2, 5), (1, 2, 5)], (20, 5))
        >>> bool(grads.x[4:, 1].any())  # past the end of the second row
        False
        >>> tape.backward(dstate=(np.ones_like(h), None), need_dx=False).x is None  # of the sum of the last h
        True
        """
        saved: Saved = self._unreleased()
        form, extent = self._form, self._extent
        need_dx = _validate.flag(form.owner, "need_dx", need_dx)
        sparse = _validate.flag(form.owner, "sparse", sparse)
        dys = read_dy(form, extent, dy)
        dstate_n = form.read_state(extent, "dstate", dstate, optional=True)
        if not _validate.any_gradient(dys) and not _validate.any_gradient(dstate_n):
            raise _validate.nothing_to_do(form.owner)
        dx = new_sequence(form, extent, form.input_size) if need_dx and not self._tokens else None
        dstate_0, dparams = run_to_end(saved.backward(dys, dstate_n, dx), _core.backward_all)
        if self._tokens and not sparse:
            dparams = all_dense(dparams)
        return Grads(
            None if dx is None else to_caller(form, extent, dx), form.state_to_caller(extent, dstate_0), dparams
        )


class CellTape(TapeBase):
    """The data that ``cell.forward`` saves for the backward pass of one step; see `Tape`."""

    __slots__ = ("_B", "_dtype", "_input_size", "_kind", "_seen", "_specs", "_unbatched")

    def __init__(
        self,
        owner: str,
        tape: _core.Tape,
        specs: tuple[ParameterSpec, ...],
        dtype: np.dtype[Any],
        kind: CellKind,
        B: int,
        input_size: int,
        seen: Seen | None,
        unbatched: bool,
    ) -> None:
        super().__init__(owner, Record((tape,)))
        self._specs = specs
        self._dtype = dtype
        self._kind = kind
        self._B = B
        self._input_size = input_size
        self._seen = seen  # the tokens
        self._unbatched = unbatched

    def backward(self, dstate: Any, *, need_dx: bool = True, sparse: bool = False) -> Grads:
        """Gradients of a scalar with respect to the input, the state before the step, and the parameters.

        Parameters
        ----------
        dstate : array-like, or pair of these
            Gradient with respect to the new state: h, or (h, c), either of which may be None.
        need_dx : bool
            False skips the gradient of the input.
        sparse : bool
            True returns the gradient of the weight_ih that tokens select columns of as a `SparseGrad`, with the columns
            of the tokens that occur. A dense one has zeros for all other tokens, which takes time and memory in
            proportion to the vocabulary. For an input of floats all gradients are dense.

        Returns
        -------
        Grads

        Raises
        ------
        ValueError
            The tape was released, a shape is wrong, or there is no gradient.
        TypeError
            A gradient is not an array of real numbers.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> cell = fusedrnn.LSTMCell(3, 5)
        >>> (h, c), tape = cell.forward(np.ones((2, 3), np.float32))
        >>> grads = tape.backward((np.ones_like(h), None))  # of the sum of h
        >>> grads.x.shape, [part.shape for part in grads.state]
        ((2, 3), [(2, 5), (2, 5)])
        """
        record: Record = self._unreleased()
        owner, dtype, B = self._owner, self._dtype, self._B
        need_dx = _validate.flag(owner, "need_dx", need_dx)
        sparse, seen = _validate.flag(owner, "sparse", sparse), self._seen
        H = self._specs[1].shape[1]
        if dstate is None:
            raise _validate.nothing_to_do_cell(owner)
        shape, formula = ((H,), "(hidden_size,)") if self._unbatched else ((B, H), "(B, hidden_size)")
        parts = _validate.state(owner, "dstate", dstate, self._kind.states, shape, formula, dtype, optional=True)
        if all(part is None for part in parts):
            raise _validate.nothing_to_do_cell(owner)
        if self._unbatched:
            parts = tuple(None if part is None else part[None] for part in parts)
        dx = _core.empty((1, B, self._input_size), dtype) if need_dx and seen is None else None
        dstate_0 = tuple(_core.empty((B, H), dtype) for _ in parts)
        shapes = [spec.shape for spec in self._specs]
        if seen is not None:
            shapes[0] = (shapes[0][0], max(1, len(seen.ids)))
        dparams: list[Any] = [_core.empty(shape, dtype) for shape in shapes]
        _core.backward(record.tapes[0], None, parts, dx, False, dstate_0, self._kind.named(dparams))
        if seen is not None:
            dparams[0] = seen.gradient(dparams[0], self._input_size)
            dparams[0] = dparams[0] if sparse else dense(dparams[0])
        cut = 0 if self._unbatched else slice(None)
        state: Any = tuple(part[cut] for part in dstate_0)
        return Grads(
            None if dx is None else dx[0][cut],
            state if len(state) == 2 else state[0],
            {spec.name: array for spec, array in zip(self._specs, dparams, strict=True)},
        )
