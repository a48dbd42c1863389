"""Clipping gradients in place, by their norm or by value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _validate
from .grads import Grads, SparseGrad

Array = NDArray[Any]
#: Objects that can be clipped; lists and dicts may contain Grads, and None for a missing gradient.
Gradients = Grads | SparseGrad | Mapping[str, Any] | Iterable[Any] | Array

#: Number of elements converted to float64 at a time: 512 KiB, which stay in the cache.
BLOCK = 65536


def clip_grad_norm(
    gradients: Gradients, max_norm: float, norm_type: float = 2.0, *, error_if_nonfinite: bool = True
) -> float:
    """Scale gradients in place so that their joint norm is at most `max_norm`.

    Parameters
    ----------
    gradients : Grads, dict, or iterable of arrays, Grads and dicts
        A `Grads` stands for its parameter gradients, a `SparseGrad` for its values. None stands for a missing gradient
        and is skipped.
    max_norm : float
        At least 0.
    norm_type : float
        p of the p-norm over all elements; may be infinity.
    error_if_nonfinite : bool
        Whether a norm of infinity or NaN is an error. If not, the norm is returned. Nothing is scaled in either case.

    Returns
    -------
    float
        The norm before clipping, summed in float64; 0.0 if there are no gradients.

    Raises
    ------
    FloatingPointError
        The norm is not finite; the message names the first gradient that causes this.
    TypeError
        A gradient is not an array of floats.
    ValueError
        `max_norm` or `norm_type` is out of range, or an array is read-only.

    Notes
    -----
    As in ``torch.nn.utils.clip_grad_norm_``, the factor is max_norm / (norm + 1e-6) if this is less than 1. Unlike in
    torch, a norm that is not finite is an error by default. Pascanu, Mikolov and Bengio, 2013.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> g = np.array([3.0, 4.0])
    >>> fusedrnn.clip_grad_norm([g], 1.0)
    5.0
    >>> round(float(np.linalg.norm(g)), 4)
    1.0
    """
    owner = "clip_grad_norm"
    max_norm = _validate.positive(owner, "max_norm", max_norm, zero=True)
    p = _validate.positive(owner, "norm_type", norm_type, zero=False)
    error_if_nonfinite = _validate.flag(owner, "error_if_nonfinite", error_if_nonfinite)
    named = [(name, _validate.gradient(owner, name, array)) for name, array in _named(owner, gradients)]
    norm = _norm([array for _, array in named], p)
    if not math.isfinite(norm):
        if error_if_nonfinite:
            raise FloatingPointError(_blame(owner, named, norm))
        return norm
    factor = max_norm / (norm + 1e-6)
    if factor < 1.0:
        with np.errstate(under="ignore"):
            for _, array in named:
                array *= factor
    return norm


def clip_grad_value(gradients: Gradients, clip_value: float) -> None:
    """Clip each element of the gradients in place to [-clip_value, clip_value].

    Parameters
    ----------
    gradients : Grads, dict, or iterable of arrays, Grads and dicts
        As for `clip_grad_norm`.
    clip_value : float
        At least 0.

    Raises
    ------
    TypeError
        A gradient is not an array of floats.
    ValueError
        `clip_value` is out of range, or an array is read-only.

    Notes
    -----
    As in ``torch.nn.utils.clip_grad_value_``, infinities are clipped, NaN stays NaN.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> g = np.array([3.0, -0.5])
    >>> fusedrnn.clip_grad_value({"w": g}, 1.0)
    >>> g
    array([ 1. , -0.5])
    """
    owner = "clip_grad_value"
    clip_value = _validate.positive(owner, "clip_value", clip_value, zero=True)
    for array in [_validate.gradient(owner, name, array) for name, array in _named(owner, gradients)]:
        np.clip(array, -clip_value, clip_value, out=array)


def _named(owner: str, gradients: Any, prefix: str = "gradients") -> Iterator[tuple[str, Any]]:
    """All arrays, each with its name for messages."""
    if isinstance(gradients, Grads):
        gradients = gradients.params
        prefix = "" if prefix == "gradients" else prefix
    if isinstance(gradients, SparseGrad):  # the other elements are zeros
        gradients = gradients.values
    if gradients is None:
        return
    if isinstance(gradients, Mapping):
        for name, item in gradients.items():
            yield from _named(owner, item, f"{prefix}[{name!r}]" if prefix else str(name))
    elif isinstance(gradients, Iterable) and not isinstance(gradients, (np.ndarray, str, bytes)):
        for i, item in enumerate(gradients):
            yield from _named(owner, item, f"{prefix}[{i}]")
    else:
        yield prefix, gradients


def _blocks(array: Array) -> Iterator[Array]:
    """All elements in order of memory, as one-dimensional float64 pieces."""
    if array.size == 0:
        return
    wide = np.result_type(array.dtype, np.float64)
    with np.nditer(
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=["readonly"],
        op_dtypes=wide,
        casting="safe",
        buffersize=BLOCK,
    ) as blocks:
        # Arrays that need no conversion are yielded whole, without a buffer.
        for whole in blocks:
            piece: Array = whole  # type: ignore[assignment]  # one operand, so no tuple
            for start in range(0, piece.size, BLOCK):
                yield piece[start : start + BLOCK]


def _norm(arrays: list[Array], p: float) -> float:
    """The p-norm over all arrays together."""
    largest = 0.0
    with np.errstate(all="ignore"):
        if p != math.inf:
            sums = [float(_power_sum(block, p)) for array in arrays for block in _blocks(array)]
            total = math.fsum(sums) if all(map(math.isfinite, sums)) else math.inf
            # Tiny sums have lost digits to underflow, and infinite sums may have overflowed only in between.
            if 1e-250 < total < math.inf:
                return float(total ** (1.0 / p))
        for array in arrays:
            for block in _blocks(array):
                here = float(np.abs(block).max())
                if math.isnan(here):
                    return here
                largest = max(largest, here)
        if p == math.inf or largest in (0.0, math.inf):
            return largest
        scaled = math.fsum(float(_power_sum(block / largest, p)) for array in arrays for block in _blocks(array))
        return largest * float(scaled ** (1.0 / p))


def _power_sum(block: Array, p: float) -> Any:
    if p == 2.0:
        return np.dot(block, block)
    return np.sum(np.abs(block) ** p)


def _blame(owner: str, named: list[tuple[str, Array]], norm: float) -> str:
    """Which gradient made the norm infinite or NaN."""
    for name, array in named:
        finite = np.isfinite(array)
        if not finite.all():
            bad = int(array.size - np.count_nonzero(finite))
            return f"{owner}: the norm is {norm}; {name} has {bad} of {array.size} elements that are not finite"
    return f"{owner}: the norm is {norm}, though all elements are finite; it is too large for a float64"
