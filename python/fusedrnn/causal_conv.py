"""A causal convolution of each channel with state on plain arrays, forward and backward; part of `fusedrnn.functional`.

The kernels are in `csrc/kernels/convolution.h`; the twin to be read is `fusedrnn.reference`'s `causal_conv.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core, _validate
from .grads import CausalConvGrads
from .plain_arrays import (
    ArrayTape,
    StepsOfRows,
    cast,
    common_dtype,
    no_gradient,
    read_gradient,
    read_numbers,
    read_steps,
)

__all__ = ["CausalConvGrads", "causal_conv_backward", "causal_conv_forward"]

Array = NDArray[Any]


class Saved(NamedTuple):
    """The contents of a tape."""

    x: Array
    weight: Array  # a copy, as the bias and the state are
    bias: Array | None
    state: Array | None
    steps: StepsOfRows
    silu: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, that of the caller, too."""
        return sum(array.nbytes for array in (self.x, self.weight, self.bias, self.state) if array is not None)


def causal_conv_forward(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    state: ArrayLike | None = None,
    *,
    activation: str | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[Array, Array, ArrayTape]:
    """Convolution of each channel over the last k steps: p_t = bias + sum_j weight_j x_{t-k+1+j}, y_t = f(p_t).

    Parameters
    ----------
    x : array-like (T, B, D)
    weight : array-like (D, k), k at least 1
        Row d is the kernel of channel d; its last number meets the newest input.
    bias : array-like (D,), or None for zeros
    state : array-like (B, k-1, D), or None for zeros
        The inputs before the first step, the oldest first.
    activation : None or "silu"
        With "silu", y_t = p_t sigmoid(p_t).
    lengths : integers (B,), or None for T
        Number of valid steps of each row. Later steps are not read, and the state passes through.
    mask : bool (T, B), or None
        False skips a step, in addition to those past the row's length: the row goes on as if the step were not there.
    reset : bool (T, B), or None
        True at t cuts the row between t-1 and t: all inputs before step t count as zeros, t = 0 included, whatever the
        state is; in reverse they become zeros before step t-1, and reset[0] has no effect. Not read past a row's
        length.
    reverse : bool
        Run each row from its last valid step to its first. y stays aligned with x, and the state holds later steps.

    Returns
    -------
    y : ndarray (T, B, D)
        Zero at skipped steps.
    state_n : ndarray (B, k-1, D)
        The last k-1 inputs of each row in running order, the oldest first; the `state` of a call that goes on.
    tape : ArrayTape
        For `causal_conv_backward`. It refers to `x`, which must not be changed before.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or dtype; the wrong shape or value.
    MemoryError
        The result does not fit into memory.

    Notes
    -----
    The convolution of Mamba (A. Gu and T. Dao, Mamba: linear-time sequence modeling with selective state spaces, 2023)
    and of ONNX's CausalConvWithState, time-major. The computation is in single precision if all arrays are, else in
    double precision. The bits of a row depend on neither the number of threads nor the other rows, and a sequence in
    two calls, the second with the first one's state_n, gives the same bits as in one.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import causal_conv_forward
    >>> y, state_n, tape = causal_conv_forward(np.arange(4.0).reshape(4, 1, 1), [[100.0, 10.0, 1.0]])
    >>> y.ravel(), state_n.ravel()
    (array([  0.,   1.,  12., 123.]), array([2., 3.]))
    """
    owner = "causal_conv_forward"
    given: dict[str, Any] = {"x": x, "weight": weight, "bias": bias, "state": state}
    arrays = {name: read_numbers(owner, name, v, False) for name, v in given.items() if v is not None}
    if arrays["x"].ndim != 3:
        raise ValueError(f"{owner}: x has shape {arrays['x'].shape}; expected (T, B, D)")
    T, B, D = shape = arrays["x"].shape
    own = arrays["weight"].shape
    if len(own) != 2 or own[0] != D or own[1] < 1:
        raise ValueError(f"{owner}: weight has shape {own}; expected (D, k) with D = {D}, as of x, and k at least 1")
    k = own[1]
    formulas: dict[str, tuple[tuple[int, ...], str]] = {"bias": ((D,), "(D,)"), "state": ((B, k - 1, D), "(B, k-1, D)")}
    for name, (expected, formula) in formulas.items():
        if name in arrays:
            _validate.exact_shape(owner, name, arrays[name], expected, formula)
    silu = _validate.choice(owner, "activation", activation, (None, "silu")) is not None
    dtype = common_dtype([(given[name], array) for name, array in arrays.items()], False)
    _validate.room(owner, "y", T * B * D, dtype)
    steps = read_steps(owner, T, B, lengths, mask, reset, reverse)
    copies = (np.array(arrays[name], dtype, order="C") if name in arrays else None for name in list(given)[1:])
    saved = Saved(cast(arrays["x"], dtype), *copies, steps, silu)  # type: ignore[arg-type]
    y, state_n = _core.empty(shape, dtype), _core.empty((B, k - 1, D), dtype)
    if y.size == 0:
        state_n[...] = 0 if saved.state is None else saved.state
    else:
        x_in_order, y_in_order = steps.in_order(saved.x), steps.in_order(y)
        _core.causal_conv_forward(
            x_in_order, saved.weight, saved.bias, saved.state, silu, y_in_order, state_n, steps.flags
        )
    return y, state_n, ArrayTape(owner, saved)


def causal_conv_backward(
    tape: ArrayTape, dy: ArrayLike | None = None, dstate_n: ArrayLike | None = None
) -> CausalConvGrads:
    """Gradients of a scalar with respect to everything that went into `causal_conv_forward`.

    Parameters
    ----------
    tape : ArrayTape
        From `causal_conv_forward`; may be used again.
    dy : array-like (T, B, D), or None for zeros
        Gradient with respect to y; not read at skipped steps.
    dstate_n : array-like (B, k-1, D), or None for zeros
        Gradient with respect to state_n.

    Returns
    -------
    CausalConvGrads
        dx (T, B, D), dweight (D, k), dbias (D,) or None, and dstate (B, k-1, D).

    Raises
    ------
    TypeError
        The tape is from another function, or a gradient is not an array of numbers.
    ValueError
        The tape was released, a shape is wrong, or there is no gradient at all.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import causal_conv_backward, causal_conv_forward
    >>> y, state_n, tape = causal_conv_forward(np.arange(4.0).reshape(4, 1, 1), [[100.0, 10.0, 1.0]])
    >>> grads = causal_conv_backward(tape, np.ones((4, 1, 1)))
    >>> grads.dx.ravel(), grads.dweight, grads.dstate.ravel()
    (array([111., 111.,  11.,   1.]), array([[1., 3., 6.]]), array([100., 110.]))
    """
    owner = "causal_conv_backward"
    _validate.functional_tape(owner, tape, "causal_conv_forward")
    saved: Saved = tape._unreleased()
    shape, dtype = saved.x.shape, saved.x.dtype
    (_, B, D), k = shape, saved.weight.shape[1]
    of_y = read_gradient(owner, "dy", dy, shape, "(T, B, D)", dtype)
    of_state = read_gradient(owner, "dstate_n", dstate_n, (B, k - 1, D), "(B, k-1, D)", dtype)
    if of_y is None and of_state is None:
        raise no_gradient(owner, "dy", "dstate_n")
    if of_state is not None:
        of_state = np.array(of_state, order="C")
    if of_y is None:
        of_y = np.broadcast_to(np.zeros(D, dtype), shape)
    dx, dstate = _core.empty(shape, dtype), _core.empty((B, k - 1, D), dtype)
    dweight, dbias = np.zeros((D, k), dtype), np.zeros(D, dtype)
    if dx.size == 0:
        dstate[...] = 0 if of_state is None else of_state
    else:
        x, of_y, of_x = (saved.steps.in_order(array) for array in (saved.x, of_y, dx))
        flags = saved.steps.flags
        given = (x, saved.weight, saved.bias, saved.state, saved.silu, of_y, of_state)
        _core.causal_conv_backward(*given, of_x, dweight, dbias, dstate, flags)
    return CausalConvGrads(dx, dweight, None if saved.bias is None else dbias, dstate)
