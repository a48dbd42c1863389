"""Common base of all cells: one step at a time, called as in torch, with an explicit tape."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from . import _core, _validate
from ._hints import warn_of_features
from .form import dense_schedule
from .parameters import Parameterized, arguments_of, count_elements, direction_specs, pack
from .specs import Bias, ParameterSpec
from .tape import CellTape
from .tokens import pack_columns, see


class RecurrentCell(Parameterized):
    """Base of all cells: a step is a sequence of length one.

    A cell without options of its own inherits this constructor and names itself with `_cell`; others list their options
    in a constructor of their own, which calls `_construct`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self._construct(input_size, hidden_size, bias, dtype, rng)

    _arguments = arguments_of(__init__)

    def _construct(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias,
        dtype: DTypeLike,
        rng: np.random.Generator | int | None,
        **options: object,
    ) -> None:
        """Initialise from common arguments, which are checked here, and a family's options, which have been checked."""
        self._configure(self._sizes(input_size, hidden_size, bias, dtype, rng) | options)
        self._initialise()

    def _specify(self) -> tuple[ParameterSpec, ...]:
        specs = direction_specs(self._kind, self.hidden_size, self.input_size, "input_size", "")
        _validate.room(type(self).__name__, "the parameters", count_elements(specs), self.dtype)
        return specs

    def __call__(self, x: Any, state: Any = None) -> Any:
        """One step.

        Parameters
        ----------
        x : array-like
            Floats (B, I) or unbatched (I,); or integer tokens (B,) or (), each a one-hot vector.
        state : array-like, pair of these, or None
            h, for LSTMCell (h, c), each (B, H) or unbatched (H,). None is all zeros.

        Returns
        -------
        ndarray, or pair of ndarray
            The new h, or (h, c), of the same shape as the old one.

        Raises
        ------
        TypeError
            An argument has the wrong type or dtype.
        ValueError
            A shape is wrong, or a parameter was replaced by an array that does not fit.
        IndexError
            A token is outside [0, input_size).

        Notes
        -----
        Each call packs the parameters, with tokens only the columns of weight_ih of those that occur. For many steps,
        ``layer.freeze().stream()`` is much faster.
        """
        return self._step(x, state, False)[0]

    def forward(self, x: Any, state: Any = None) -> tuple[Any, CellTape]:
        """One step that saves the data for the backward pass.

        Parameters
        ----------
        x, state
            As for calling the cell.

        Returns
        -------
        state : ndarray, or pair of ndarray
            The new h, or (h, c).
        tape : CellTape
            ``tape.backward(dstate)`` gives the gradients.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling the cell.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> cell = fusedrnn.GRUCell(3, 5)
        >>> h, tape = cell.forward(np.ones((2, 3), np.float32))
        >>> grads = tape.backward(np.ones_like(h))
        >>> grads.x.shape, grads.state.shape
        ((2, 3), (2, 5))
        """
        state_n, tape = self._step(x, state, True)
        assert tape is not None
        return state_n, tape

    def _step(self, x: Any, state: Any, training: bool) -> tuple[Any, CellTape | None]:
        owner, H, dtype = type(self).__name__, self.hidden_size, self.dtype
        x, tokens, unbatched = _validate.cell_input(owner, x, dtype, self.input_size)
        if tokens and not unbatched:
            warn_of_features(owner, x.shape, "B,", self.input_size, dtype)
        kind = self._kind
        names = kind.states
        B = 1 if unbatched else x.shape[0]
        if tokens:
            x = np.array(x, np.int64).reshape(1, B)
        else:
            x = x[None, None] if unbatched else x[None]
        if state is None:
            parts: Any = (np.zeros((B, H), dtype),) * len(names)
        else:
            shape, formula = ((H,), "(hidden_size,)") if unbatched else ((B, H), "(B, hidden_size)")
            parts = _validate.state(owner, "state", state, names, shape, formula, dtype)
            if unbatched:
                parts = tuple([part[None] for part in parts])
        schedule = dense_schedule(1, B)
        lowest = (0,) if tokens else ()
        arrays = self._arrays(lowest)
        seen = see(x, schedule, self.input_size, training, kind)
        pack_columns(seen, arrays, lowest)
        if seen is not None:
            x = seen.numbers
        weights = pack(kind, arrays, training)[0]
        y = _core.empty((1, B, H), dtype)
        state_n = tuple([_core.empty((B, H), dtype) for _ in names])
        saved = _core.forward(weights, x, parts, y, state_n, schedule, False, training)
        tape = None
        if saved is not None:
            specs = self._specs
            tape = CellTape(owner, saved, specs, dtype, kind, B, self.input_size, seen, unbatched)
        if unbatched:
            state_n = tuple([part[0] for part in state_n])
        return (state_n if len(state_n) == 2 else state_n[0]), tape
