"""The functions of `fusedrnn.functional`, whatever the family: arguments are checked, and the kernels run.

One layer in one direction on plain arrays. `families/` has the functions with their arguments and equations.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core, _validate
from .form import Extent, Steps, read_time_major
from .grads import CellGrads
from .kinds import CellKind
from .tape import TapeBase
from .tokens import Seen, dense, pack_columns, see
from .unroll import Record, fold, wide_gradient, widened

Array = NDArray[Any]


class Forward(Protocol):
    """A function such as `gru_forward`, of a cell with one state and without options."""

    def __call__(
        self,
        x: ArrayLike,
        h_0: ArrayLike | None,
        W_ih: ArrayLike,
        W_hh: ArrayLike,
        b_ih: ArrayLike | None = None,
        b_hh: ArrayLike | None = None,
        *,
        recurrent_mask: ArrayLike | None = None,
        zoneout_h: ArrayLike | None = None,
        h_initial: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        past_end: str = "zero",
        reverse: bool = False,
    ) -> tuple[Array, Array, FunctionalTape]: ...


class Backward(Protocol):
    """A function such as `gru_backward`, of a cell with one state."""

    def __call__(
        self,
        tape: FunctionalTape,
        dy: ArrayLike | None = None,
        dh_n: ArrayLike | None = None,
        *,
        need_dx: bool = True,
        sparse: bool = False,
    ) -> CellGrads: ...


def functions_of(kind: CellKind, summary: str, module: str) -> tuple[Forward, Backward]:
    """The pair of functions of a cell with one state and without options.

    Names follow from the cell's name, docstrings from `summary`, its equation; the functions belong to `module`.
    """
    forward_name, backward_name = f"{kind.name}_forward", f"{kind.name}_backward"

    def forward(
        x: ArrayLike,
        h_0: ArrayLike | None,
        W_ih: ArrayLike,
        W_hh: ArrayLike,
        b_ih: ArrayLike | None = None,
        b_hh: ArrayLike | None = None,
        *,
        recurrent_mask: ArrayLike | None = None,
        zoneout_h: ArrayLike | None = None,
        h_initial: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        past_end: str = "zero",
        reverse: bool = False,
    ) -> tuple[Array, Array, FunctionalTape]:
        steps, masks = (lengths, mask, reset, past_end), (recurrent_mask, zoneout_h)
        weights = (W_ih, W_hh, b_ih, b_hh)
        states = {"h_0": h_0}, {"h_initial": h_initial}
        y, (h_n,), tape = run_forward(forward_name, kind, x, *states, weights, masks, steps, reverse)
        return y, h_n, tape

    def backward(
        tape: FunctionalTape,
        dy: ArrayLike | None = None,
        dh_n: ArrayLike | None = None,
        *,
        need_dx: bool = True,
        sparse: bool = False,
    ) -> CellGrads:
        dx, dstate, dparams, own = run_backward(backward_name, forward_name, tape, dy, {"dh_n": dh_n}, need_dx, sparse)
        return CellGrads(dx, *dstate, *dparams[:4], *own)

    for function, name, doc in ((forward, forward_name, FORWARD_DOC), (backward, backward_name, BACKWARD_DOC)):
        function.__name__ = function.__qualname__ = name
        function.__module__ = module
        function.__doc__ = doc.format(summary=summary, cell=kind.name, G=kind.gates)
    return forward, backward


FORWARD_DOC = """{summary}

    Parameters
    ----------
    x : array-like, (T, B, I) floats or (T, B) integer tokens, or a tuple (values, lengths)
    h_0 : array-like (B, H), or None for `h_initial`
    W_ih, W_hh : array-like, ({G}*H, I) and ({G}*H, H)
    b_ih, b_hh : array-like ({G}*H,), or None for none
    recurrent_mask, zoneout_h, h_initial, lengths, mask, reset, past_end, reverse
        As for `rnn_forward`.

    Returns
    -------
    y : ndarray (T, B, H)
    h_n : ndarray (B, H)
    tape : FunctionalTape
        For `{cell}_backward`.

    Raises
    ------
    TypeError, ValueError, IndexError
        As for `rnn_forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import {cell}_forward
    >>> y, h_n, tape = {cell}_forward(np.ones((7, 2, 3)), None, np.ones(({G} * 5, 3)), np.ones(({G} * 5, 5)))
    >>> y.shape, h_n.shape
    ((7, 2, 5), (2, 5))
    """

BACKWARD_DOC = """Gradients of a scalar with respect to everything that went into `{cell}_forward`.

    Parameters
    ----------
    tape : FunctionalTape
        From `{cell}_forward`; may be used again.
    dy, dh_n, need_dx, sparse
        As for `rnn_backward`.

    Returns
    -------
    CellGrads

    Raises
    ------
    TypeError, ValueError
        As for `rnn_backward`.
    """


class FunctionalTape(TapeBase):
    """The data that a forward function saves for its backward function; has ``nbytes`` and ``release()``, as `Tape`."""

    __slots__ = (
        *("_dtype", "_extent", "_initial", "_input_size", "_kind", "_made_by", "_reverse", "_seen", "_shapes"),
        "_units",
    )

    def __init__(
        self,
        made_by: str,
        tape: _core.Tape,
        extent: Extent,
        input_size: int,
        units: tuple[int, ...],
        shapes: dict[str, tuple[int, ...]],
        dtype: np.dtype[Any],
        seen: Seen | None,
        reverse: bool,
        initial: tuple[bool, ...],
        kind: CellKind,
    ) -> None:
        super().__init__(made_by, Record((tape,)))
        self._made_by = made_by
        self._extent = extent
        self._input_size = input_size
        self._units = units  # of each state
        self._shapes = shapes  # of the parameters, by role
        self._dtype = dtype
        self._seen = seen  # the tokens
        self._reverse = reverse
        self._kind = kind
        self._initial = initial  # for each state, whether an own initial state was given


#: Parameters of a function in the order of its arguments, under the kernels' names.
ROLES = ("W_ih", "W_hh", "b_ih", "b_hh", "units", "W_hr")


def run_forward(
    owner: str,
    kind: CellKind,
    x: Any,
    state_0: dict[str, Any],
    initial: dict[str, Any],
    weights: tuple[Any, ...],
    masks: tuple[Any, ...],
    steps: tuple[Any, Any, Any, Any],
    reverse: Any,
) -> tuple[Array, tuple[Array, ...], FunctionalTape]:
    W_ih, W_hh, *others, dtype = _validate.functional_weights(owner, kind.gates, kind.peepholes, *weights)
    units = (W_hh.shape[1], W_ih.shape[0] // kind.gates)[: len(state_0)]
    given = {role: w for role, w in zip(ROLES, (W_ih, W_hh, *others), strict=True) if w is not None}
    return run_packed(owner, kind, x, state_0, initial, given, units, dtype, masks, steps, reverse)


def run_packed(
    owner: str,
    kind: CellKind,
    x: Any,
    state_0: dict[str, Any],
    initial: dict[str, Any],
    given: dict[str, Array],
    units: tuple[int, ...],
    dtype: np.dtype[Any],
    masks: tuple[Any, ...],
    steps: tuple[Any, Any, Any, Any],
    reverse: Any,
) -> tuple[Array, tuple[Array, ...], FunctionalTape]:
    """Run a cell whose weights, by role, and units of each state have been checked."""
    I, H = given["W_ih"].shape[1] // kind.window, given["W_ih"].shape[0] // kind.gates
    x, extent = read_time_major(owner, x, dtype, I, Steps(*steps))
    B = extent.B
    state = tuple(
        None if value is None else _rows(owner, name, value, B, n, H, dtype)
        for (name, value), n in zip(state_0.items(), units, strict=True)
    )
    own = tuple(
        None if value is None else _vector(owner, name, value, n, H, dtype)
        for (name, value), n in zip(initial.items(), units, strict=True)
    )
    used = _masks(owner, masks, extent, units, H, dtype)
    reverse = _validate.flag(owner, "reverse", reverse)
    y = _core.empty((*extent.grid, units[0]), dtype)
    state_n = tuple(_core.empty((B, n), dtype) for n in units)
    seen = see(x, extent.schedule, I, True, kind)
    arrays = [given["W_ih"]]
    pack_columns(seen, arrays, (0,))
    if seen is not None:
        x = seen.numbers
    given = given | {"W_ih": arrays[0]}
    shapes = {role: w.shape for role, w in given.items()}
    packed = _core.Weights(kind.name, given, True, kind.options)
    x = widened(kind, packed.input_size, x, extent, reverse, dtype)
    tape = _core.forward(packed, x, state, y, state_n, extent.schedule, reverse, True, used, own)
    assert tape is not None
    if extent.hold:
        extent.schedule.hold(y, reverse)
    has_own = tuple(part is not None for part in own)
    kept = FunctionalTape(owner, tape, extent, I, units, shapes, dtype, seen, reverse, has_own, kind)
    return y[:, 0] if extent.packed else y, state_n, kept


def _masks(
    owner: str,
    masks: tuple[Any, ...],
    extent: Extent,
    units: tuple[int, ...],
    H: int,
    dtype: np.dtype[Any],
) -> tuple[Array | None, Array | None, Array | None] | None:
    """Factors of h in the recurrent product, and where h and c keep their old values, in the kernels' form."""
    if all(mask is None for mask in masks):
        return None
    recurrent, *zoneouts = masks
    steps, axes = extent.axes
    stays: list[Array | None] = [None, None]
    for k, (name, value) in enumerate(zip(("zoneout_h", "zoneout_c"), zoneouts, strict=False)):
        if value is not None:
            formula = f"({axes}, {_unit_name(units[k], H)})"
            kept = _validate.given_mask(owner, name, value, (*steps, units[k]), formula)
            stays[k] = kept[:, None] if extent.packed else kept
    factors = None if recurrent is None else _rows(owner, "recurrent_mask", recurrent, extent.B, units[0], H, dtype)
    return factors, stays[0], stays[1]


def run_backward(
    owner: str, made_by: str, tape: FunctionalTape, dy: Any, dstate_n: dict[str, Any], need_dx: Any, sparse: Any
) -> tuple[Array | None, tuple[Array, ...], tuple[Any, ...], tuple[Array | None, ...]]:
    _validate.functional_tape(owner, tape, made_by)
    (saved,) = tape._unreleased().tapes
    extent, units, dtype = tape._extent, tape._units, tape._dtype
    B, H = extent.B, units[-1]
    need_dx = _validate.flag(owner, "need_dx", need_dx)
    sparse, seen = _validate.flag(owner, "sparse", sparse), tape._seen
    if dy is not None:
        dy = _validate.floats(owner, "dy", dy, dtype, rows=True)
        steps, axes = extent.axes
        _validate.exact_shape(owner, "dy", dy, (*steps, units[0]), f"({axes}, {_unit_name(units[0], H)})")
        dy = dy[:, None] if extent.packed else dy
        if extent.hold:
            dy = extent.schedule.sum_held(dy, tape._reverse)
    parts = tuple(
        None if value is None else _rows(owner, name, value, B, n, H, dtype)
        for (name, value), n in zip(dstate_n.items(), units, strict=True)
    )
    if dy is None and all(part is None for part in parts):
        raise _validate.nothing_to_do_functional(owner, list(dstate_n))
    dx = _core.empty((*extent.grid, tape._input_size), dtype) if need_dx and seen is None else None
    dstate_0 = tuple(_core.empty((B, n), dtype) for n in units)
    dparams: dict[str, Any] = {role: _core.empty(shape, dtype) for role, shape in tape._shapes.items()}
    dinitial = tuple(np.empty_like(d) for d in dstate_0) if any(tape._initial) else None
    wide = wide_gradient(tape._kind, dx)
    _core.backward(saved, dy, parts, wide, False, dstate_0, dparams, dinitial)
    fold(tape._kind, extent, wide, tape._reverse, dx, False)
    if seen is not None:
        gradient = seen.gradient(dparams["W_ih"], tape._kind.window * tape._input_size)
        dparams["W_ih"] = gradient if sparse else dense(gradient)
    if dx is not None and extent.packed:
        dx = dx[:, 0]
    pairs = zip(dinitial or dstate_0, tape._initial, strict=True)
    own = tuple(d.sum(axis=0) if has_own else None for d, has_own in pairs)
    return dx, dstate_0, tuple([dparams.get(role) for role in ROLES]), own


def _rows(owner: str, name: str, value: Any, B: int, units: int, H: int, dtype: np.dtype[Any]) -> Array:
    """A state, its gradient or a mask, (B, units)."""
    array = _validate.floats(owner, name, value, dtype, rows=True)
    _validate.exact_shape(owner, name, array, (B, units), f"(B, {_unit_name(units, H)})")
    return array


def _vector(owner: str, name: str, value: Any, units: int, H: int, dtype: np.dtype[Any]) -> Array:
    """An own initial state, (units,), contiguous."""
    array = _validate.floats(owner, name, value, dtype, rows=True)
    _validate.exact_shape(owner, name, array, (units,), f"({_unit_name(units, H)},)")
    return np.ascontiguousarray(array)


def _unit_name(units: int, H: int) -> str:
    return "hidden_size" if units == H else "proj_size"
