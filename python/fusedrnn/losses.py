"""Losses with their gradients: `cross_entropy` and `mse`, means over positions.

>>> import fusedrnn, numpy as np
>>> from fusedrnn.losses import cross_entropy
>>> layer, head = fusedrnn.GRU(3, 8, rng=0), fusedrnn.Linear(8, 4, rng=1)
>>> y, h, tape = layer.forward(np.ones((7, 2, 3), np.float32))
>>> logits, head_tape = head.forward(y)
>>> loss, dlogits = cross_entropy(logits, np.zeros((7, 2), int), mask=np.arange(7)[:, None] < [7, 4])
>>> grads = tape.backward(head_tape.backward(dlogits).x)

Losses are NumPy's, and summed in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _validate

__all__ = ["cross_entropy", "mse"]

Array = NDArray[Any]


def cross_entropy(
    logits: Any,
    targets: Any,
    *,
    ignore_index: int | None = -100,
    weight: Any = None,
    sample_weight: Any = None,
    mask: Any = None,
) -> tuple[float, Any]:
    """Mean of -ln p(target), p the softmax of logits over the last axis; and its gradient.

    Parameters
    ----------
    logits : array-like (..., C), or list of such arrays
        Scores of C classes: the outputs of a `fusedrnn.Linear`. Not probabilities.
    targets : integers (...), or list of such arrays
        The class at each position, from 0 to C - 1.
    ignore_index : int or None
        Positions with this target do not count. -100 as in torch.
    weight : array-like (C,), or None
        The weight of each class, at least 0.
    sample_weight : array-like (...), or None
        The weight of each position, at least 0; a list for lists.
    mask : bool (...), or None
        False where a position does not count; a list for lists. For a batch with lengths, time-major:
        ``np.arange(T)[:, None] < lengths``.

    Returns
    -------
    loss : float
        The sum over positions of their weights times -ln p(target), divided by the sum of the weights; 0.0 if no
        position counts.
    dlogits : ndarray (..., C), or list of ndarray
        The gradient of the loss, in the dtype of the logits; exactly zero at positions that do not count.

    Raises
    ------
    TypeError
        An argument has the wrong dtype: logits are floats, targets integers.
    ValueError
        A shape is wrong, or a weight negative or not finite.
    IndexError
        A target that counts is outside [0, C).

    Notes
    -----
    As ``torch.nn.functional.cross_entropy``, where classes are the second axis. Logits of float32 are exponentiated in
    float32, after subtraction of their maximum.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.losses import cross_entropy
    >>> loss, dlogits = cross_entropy(np.zeros((2, 4)), [3, -100])
    >>> round(loss, 4)
    1.3863
    >>> dlogits
    array([[ 0.25,  0.25,  0.25, -0.75],
           [ 0.  ,  0.  ,  0.  ,  0.  ]])
    """
    owner = "cross_entropy"
    z, split = read(owner, "logits", logits)
    if z.ndim == 0 or z.shape[-1] == 0:
        raise ValueError(f"{owner}: logits has shape {z.shape}; expected (..., C), C >= 1 the number of classes")
    shape, C = z.shape[:-1], z.shape[-1]
    classes = beside(owner, "targets", targets, "logits", logits, shape)
    if classes.dtype.kind not in "iu" and classes.size:
        raise TypeError(f"{owner}: targets has dtype {classes.dtype}; expected integers, the classes")
    counts = counted(owner, mask, "logits", logits, shape)
    if ignore_index is not None:
        if isinstance(ignore_index, (bool, np.bool_)) or not isinstance(ignore_index, (int, np.integer)):
            raise TypeError(f"{owner}: ignore_index is {ignore_index!r}; expected an integer or None")
        counts = counts & (classes != ignore_index)
    wrong = counts & ((classes < 0) | (classes >= C))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise IndexError(f"{owner}: targets{list(place)} is {classes[place]}; expected 0 <= target < C = {C}")
    index = np.where(counts, classes, 0).astype(np.int64)
    w = np.where(counts, weights(owner, sample_weight, "logits", logits, shape), 0.0)
    if weight is not None:
        w = w * np.where(counts, checked_weights(owner, "weight", weight, (C,), "(C,)")[index], 0.0)
    total = float(w.sum())
    if not total:
        return 0.0, split(np.zeros_like(z))
    with np.errstate(under="ignore"):
        shifted = z - z.max(axis=-1, keepdims=True)
        d = np.exp(shifted)
        sums = d.sum(axis=-1)
        of_targets = np.take_along_axis(shifted, index[..., None], axis=-1)[..., 0]
        losses = np.where(w > 0, np.log(sums) - of_targets, 0.0)
        loss = float((losses.astype(np.float64) * w).sum() / total)
        d /= sums[..., None]
        np.put_along_axis(d, index[..., None], np.take_along_axis(d, index[..., None], axis=-1) - 1, axis=-1)
        d *= (w / total).astype(z.dtype)[..., None]
        d[w == 0] = 0  # where a product with NaN would stay NaN
    return loss, split(d)


def mse(outputs: Any, targets: Any, *, sample_weight: Any = None, mask: Any = None) -> tuple[float, Any]:
    """Mean of (output - target)^2 over all elements; and its gradient.

    Parameters
    ----------
    outputs : array-like, (..., D), or list of such arrays
    targets : array-like of the same shape, or list of such arrays
    sample_weight : array-like (...), or None
        The weight of each position, which is all of the last axis, at least 0; a list for lists.
    mask : bool (...), or None
        False where a position does not count; a list for lists.

    Returns
    -------
    loss : float
        0.0 if no position counts.
    doutputs : ndarray, or list of ndarray
        The gradient of the loss, in the dtype of the outputs; exactly zero at positions that do not count.

    Raises
    ------
    TypeError
        An argument has the wrong dtype.
    ValueError
        A shape is wrong (nothing is broadcast), or a weight negative or not finite.

    Notes
    -----
    As ``torch.nn.functional.mse_loss`` without weights.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.losses import mse
    >>> mse(np.array([[1.0], [3.0]]), np.array([[0.0], [3.0]]))
    (0.5, array([[1.],
           [0.]]))
    """
    owner = "mse"
    y, split = read(owner, "outputs", outputs)
    if y.ndim == 0:
        raise ValueError(f"{owner}: outputs has shape (); expected (..., D)")
    target = beside(owner, "targets", targets, "outputs", outputs, y.shape, 1)
    _validate.real_dtype(owner, "targets", target.dtype)
    shape = y.shape[:-1]
    w = weights(owner, sample_weight, "outputs", outputs, shape)
    w = np.where(counted(owner, mask, "outputs", outputs, shape), w, 0.0)
    total = float(w.sum()) * y.shape[-1]
    if not total:
        return 0.0, split(np.zeros_like(y))
    with np.errstate(under="ignore"):
        error = np.where(w[..., None] > 0, y - target.astype(y.dtype, copy=False), 0)
        wide = error.astype(np.float64)
        loss = float((wide * wide * w[..., None]).sum() / total)
        return loss, split(error * (2 * w / total).astype(y.dtype)[..., None])


def read(owner: str, name: str, value: Any) -> tuple[Array, Callable[[Array], Any]]:
    """Floats, joined over positions if they are a list; and a function that gives an array back in the same form."""
    if not (isinstance(value, list) and _validate.is_list(value) and value):
        array = _validate.as_array(owner, name, value)
        _validate.real_dtype(owner, name, array.dtype)
        dtype = array.dtype if array.dtype.type in (np.float32, np.float64) else np.dtype(np.float64)
        return array.astype(dtype.newbyteorder("="), copy=False), lambda result: result
    arrays = [read(owner, f"{name}[{i}]", item)[0] for i, item in enumerate(value)]
    for i, array in enumerate(arrays):
        if array.ndim <= 1 or array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(
                f"{owner}: {name}[{i}] has shape {array.shape}; expected (T_{i}, ...), all alike but for T_{i}"
            )
    ends = np.cumsum([len(array) for array in arrays])[:-1]
    return np.concatenate(arrays), lambda result: np.split(result, ends)


def beside(owner: str, name: str, value: Any, other: str, like: Any, shape: tuple[int, ...], inner: int = 0) -> Array:
    """An array for the positions of another argument, joined as that is."""
    if isinstance(like, list) and _validate.is_list(like) and like:
        if not isinstance(value, (list, tuple)) or len(value) != len(like):
            came = f"has {len(value)} arrays" if isinstance(value, (list, tuple)) else f"is {_validate.kind(value)}"
            error = ValueError if isinstance(value, (list, tuple)) else TypeError
            raise error(f"{owner}: {name} {came}; expected a list of {len(like)}, as {other} is a list")
        arrays = [_validate.as_array(owner, f"{name}[{i}]", item) for i, item in enumerate(value)]
        for i, (array, item) in enumerate(zip(arrays, like, strict=True)):
            own = np.shape(item) if inner else np.shape(item)[:-1]
            _validate.exact_shape(
                owner, f"{name}[{i}]", array, own, f"that of {other}[{i}]{'' if inner else '[..., 0]'}"
            )
        return np.concatenate(arrays)
    array = _validate.as_array(owner, name, value)
    _validate.exact_shape(owner, name, array, shape, f"that of {other}{'' if inner else ' without the last axis'}")
    return array


def counted(owner: str, mask: Any, other: str, like: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """True at each position that the mask lets count."""
    if mask is None:
        return np.ones(shape, np.bool_)
    array = beside(owner, "mask", mask, other, like, shape)
    if array.dtype != np.bool_:
        raise _validate.not_bool(owner, "mask", array.dtype)
    return array


def weights(owner: str, value: Any, other: str, like: Any, shape: tuple[int, ...]) -> Array:
    """The weight of each position."""
    if value is None:
        return np.ones(shape)
    return checked_weights(owner, "sample_weight", beside(owner, "sample_weight", value, other, like, shape), shape, "")


def checked_weights(owner: str, name: str, value: Any, shape: tuple[int, ...], formula: str) -> Array:
    """Finite numbers, none negative."""
    array = _validate.floats(owner, name, value, np.dtype(np.float64))
    _validate.exact_shape(owner, name, array, shape, formula)
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise ValueError(f"{owner}: {name} has elements that are negative or not finite; expected numbers >= 0")
    return array
