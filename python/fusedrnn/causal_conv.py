"""A causal convolution of each channel with state on plain arrays, forward and backward; part of `fusedrnn.functional`.

The kernels are in `csrc/kernels/convolution.h`; the twin to be read is `fusedrnn.reference`'s `causal_conv.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _validate, reference
from .grads import CausalConvGrads
from .plain_arrays import ArrayTape, common_dtype

__all__ = ["CausalConvGrads", "causal_conv_backward", "causal_conv_forward"]

Array = NDArray[Any]


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
    arrays = [(a, np.asarray(a)) for a in (x, weight, bias, state) if a is not None]
    dtype = common_dtype(arrays, False)
    y, state_n, kept = reference.causal_conv_forward(
        x, weight, bias, state,
        activation=activation, lengths=lengths, mask=mask, reset=reset, reverse=reverse, dtype=dtype,
    )  # fmt: skip
    return y, state_n, ArrayTape(owner, kept)


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
    return reference.causal_conv_backward(tape._unreleased(), dy, dstate_n)
