"""Every check of a caller's arguments, with its message.

Messages read ``owner: argument came-as-this; expected that``. TypeError is for types and dtypes, ValueError for shapes
and values, IndexError for tokens, MemoryError for sizes that no memory holds. The compiled module trusts these checks.
"""

from __future__ import annotations

import math
import operator
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._hints import common_prefix, instead_of_list, instead_of_objects, refuse_integer_table, warn_of_features
from .specs import ACTIVATIONS, ActivationLike, LoadReport, ParameterSpec

Array = NDArray[Any]
ndarray = np.ndarray

#: Largest size of one axis of the parameters.
LARGEST_SIZE = 2**31 - 1

#: More layers than anybody stacks; a larger number is a mistake, and the names of the parameters could fill the memory.
MOST_LAYERS = 4096


def kind(value: object) -> str:
    """Type of a value, for messages: "a list", "None"."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' or name == 'ndarray' else 'a'} {name}"


# ---- constructor arguments ------------------------------------------------------------------------------------------


def size(owner: str, name: str, value: object, largest: int = LARGEST_SIZE) -> int:
    """An integer from 1 to `largest`; NumPy integers are integers, bools are not."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{owner}: {name} is {value!r} ({type(value).__name__}); expected an integer >= 1")
    try:
        n = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{owner}: {name} is {value!r} ({type(value).__name__}); expected an integer >= 1") from None
    if n < 1:
        raise ValueError(f"{owner}: {name} is {n}; expected an integer >= 1")
    if n > largest:
        raise ValueError(f"{owner}: {name} is {n}; expected at most {largest}")
    return n


def flag(owner: str, name: str, value: object) -> bool:
    """A bool, not merely a value that can be converted to one: this detects misplaced positional arguments."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{owner}: {name} is {value!r} ({type(value).__name__}); expected True or False")
    return bool(value)


def choice(owner: str, name: str, value: object, allowed: Sequence[object]) -> Any:
    """One of a few values."""
    for candidate in allowed:
        if value is candidate or (isinstance(value, str) and value == candidate):
            return candidate
    raise ValueError(f"{owner}: {name} is {value!r}; expected one of {', '.join(map(repr, allowed))}")


def probability(owner: str, name: str, value: object) -> float:
    """A number p with 0 <= p < 1."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{owner}: {name} is {value!r} ({type(value).__name__}); expected a number p, 0 <= p < 1")
    p = as_float(value)
    if not 0.0 <= p < 1.0:  # NaN, too
        raise ValueError(f"{owner}: {name} is {p!r}; expected 0 <= {name} < 1")
    return p


def as_float(value: Any) -> float:
    """A number as a float; integers too large for a float become infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def bias(owner: str, value: object) -> Any:
    """Two biases, no biases, or one bias."""
    if isinstance(value, str) and value == "single":
        return "single"
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{owner}: bias is {value!r} ({type(value).__name__}); expected True, False or 'single'")
    return bool(value)


def activation(owner: str, name: str, value: object, optional: bool = False) -> Any:
    """A name unchanged, or a tuple of a name and its parameters as floats; `optional`: None is allowed."""
    if value is None and optional:
        return None
    given: Any = (value,) if isinstance(value, str) else value
    if not isinstance(given, (tuple, list)) or not given or not isinstance(given[0], str):
        raise TypeError(
            f"{owner}: {name} is {value!r}; expected a name, (name, alpha) or (name, alpha, beta), "
            f"the name one of {', '.join(map(repr, ACTIVATIONS))}"
        )
    function, *parameters = given
    if function not in ACTIVATIONS:
        raise ValueError(f"{owner}: {name} is {function!r}; expected one of {', '.join(map(repr, ACTIVATIONS))}")
    letters = ("alpha", "beta")[: len(ACTIVATIONS[function])]
    if len(parameters) > len(letters):
        has = " and ".join(letters) or "no parameters"
        raise ValueError(f"{owner}: {name} is {value!r} with {len(parameters)} parameters; {function} has {has}")
    for letter, parameter in zip(letters, parameters, strict=False):
        finite(owner, f"{letter} of {name}", parameter)
    if None in ACTIVATIONS[function][len(parameters) :]:
        raise ValueError(f"{owner}: {name} is {value!r}; expected ({function!r}, {', '.join(letters)})")
    return (str(function), *map(float, parameters)) if parameters else str(function)


def full_activation(value: ActivationLike) -> tuple[str, float, float]:
    """A checked activation with both parameters; a missing parameter is 0."""
    given: tuple[Any, ...] = (value,) if isinstance(value, str) else value
    name, *parameters = given
    values = [*parameters, *ACTIVATIONS[name][len(parameters) :], 0.0, 0.0]
    return name, float(values[0]), float(values[1])


def finite(owner: str, name: str, value: object) -> float:
    """A finite number."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{owner}: {name} is {value!r} ({type(value).__name__}); expected a finite number")
    number = as_float(value)
    if not np.isfinite(number):
        raise ValueError(f"{owner}: {name} is {number!r}; expected a finite number")
    return number


def limit(owner: str, name: str, value: object) -> float | None:
    """A clip: a finite number > 0, or None."""
    if value is None:
        return None
    number = finite(owner, name, value)
    if number <= 0.0:
        raise ValueError(f"{owner}: {name} is {number!r}; expected a number > 0, or None")
    return number


def meaningless(owner: str, name: str, value: object, reason: str) -> ValueError:
    """An argument that has no meaning in combination with the others."""
    return ValueError(f"{owner}: {name} is {value!r}, but {reason}")


def zoneout(owner: str, value: object, parts: tuple[str, ...]) -> tuple[float, float]:
    """Probabilities of keeping h and c, from one number for both or a pair (h, c)."""
    if isinstance(value, (tuple, list)):
        if len(parts) == 1:
            raise TypeError(f"{owner}: zoneout is {kind(value)}; expected a number, as the state is h alone")
        if len(value) != 2:
            raise ValueError(f"{owner}: zoneout has {len(value)} parts; expected a number or a pair (h, c)")
        h, c = value
        return probability(owner, "zoneout[0]", h), probability(owner, "zoneout[1]", c)
    p = probability(owner, "zoneout", value)
    return p, p if len(parts) == 2 else 0.0


def proj_size(owner: str, value: object, hidden_size: int) -> int:
    """An integer from 0 (no projection) to hidden_size - 1, as in torch."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)) and value == 0:
        return 0
    n = size(owner, "proj_size", value)
    if n >= hidden_size:
        raise ValueError(f"{owner}: proj_size is {n}; expected less than hidden_size = {hidden_size}, or 0 for none")
    return n


def layer_norm_eps(owner: str, value: object) -> float:
    """The number added to a variance: without it a row of equal values would be divided by zero."""
    number = finite(owner, "layer_norm_eps", value)
    if number <= 0.0:
        raise ValueError(f"{owner}: layer_norm_eps is {number!r}; expected a number > 0")
    return number


def no_layer_norm(owner: str, name: str, value: object, default: object) -> ValueError:
    """Layer normalisation has kernels only for the usual form of GRU and LSTM."""
    return ValueError(
        f"{owner}: {name} is {value!r}, which is not available together with layer_norm=True; expected {default!r}"
    )


def mask_names(owner: str, given: object, available: Mapping[str, float]) -> Mapping[str, Any]:
    """The caller's masks; an error if an option is off, because its mask would be silently ignored."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise no_masks(owner, given)
    for name in given:
        if name not in available:
            raise ValueError(f"{owner}: masks has {name!r}; expected some of {', '.join(map(repr, available))}")
        if not available[name]:
            option = next((option for option in ("zoneout", "dropout") if name.startswith(option)), name)
            raise ValueError(f"{owner}: masks has {name!r}, but this layer has {option}=0")
    return given


def no_masks(owner: str, value: object) -> TypeError:
    """An argument that is not a mapping of names to masks."""
    return TypeError(f"{owner}: masks is {kind(value)}; expected a mapping of names to arrays of bools")


def not_bool(owner: str, name: str, dtype: object) -> TypeError:
    """Numbers instead of a mask: they might be meant as indices, or as an inverted mask."""
    return TypeError(f"{owner}: {name} has dtype {dtype}; expected bool")


def given_mask(owner: str, name: str, value: Any, shape: tuple[int, ...], formula: str) -> NDArray[np.bool_]:
    """A copy of an array of bools; only bools say unambiguously which elements dropout or zoneout keeps."""
    array = as_array(owner, name, value)
    if array.dtype != np.bool_:
        raise not_bool(owner, name, array.dtype)
    exact_shape(owner, name, array, shape, formula)
    return np.array(array, order="C")


def warn_idle_dropout(owner: str, dropout: float, stacklevel: int, reason: str = "num_layers=1") -> None:
    """Warn as torch does: dropout acts between layers, and there is only one layer."""
    warnings.warn(
        f"{owner}: dropout={dropout} does nothing with {reason}; it acts between layers, not after the last",
        UserWarning,
        stacklevel=stacklevel + 1,
    )


def merge(owner: str, value: object, bidirectional: bool) -> str | None:
    """How two directions are merged; a single direction has nothing to merge."""
    chosen: str | None = choice(owner, "merge", value, ("concat", "sum", "mean", "mul", None))
    if chosen != "concat" and not bidirectional:
        raise ValueError(f"{owner}: merge is {chosen!r}, but bidirectional=False; expected 'concat'")
    return chosen


def backwards(owner: str, value: object, bidirectional: bool) -> bool:
    """Whether a one-directional layer runs from the last step to the first; two directions run both ways."""
    chosen = flag(owner, "backwards", value)
    if chosen and bidirectional:
        raise ValueError(f"{owner}: backwards is True, but bidirectional=True; expected a one-way layer")
    return chosen


def layer_dtype(owner: str, value: object) -> np.dtype[Any]:
    """float32 or float64, native byte order."""
    try:
        dtype = np.dtype(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, DeprecationWarning):  # the last for names that NumPy will remove
        raise TypeError(f"{owner}: dtype is {value!r}; expected float32 or float64") from None
    for known in (np.dtype(np.float32), np.dtype(np.float64)):
        if dtype == known and value is not None:
            return known  # the unique dtype object, so that `is` works as a fast check
    raise TypeError(f"{owner}: dtype is {value if value is None else dtype}; expected float32 or float64")


def generator(owner: str, value: Any) -> np.random.Generator:
    """A Generator unchanged, or a new one from a seed (None: from the system's entropy)."""
    if isinstance(value, np.random.Generator):
        return value
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{owner}: rng is {value!r} (bool); expected a seed or a numpy.random.Generator")
    try:
        return np.random.default_rng(value)
    except TypeError:
        raise TypeError(f"{owner}: rng is {kind(value)}; expected a seed or a numpy.random.Generator") from None
    except ValueError as error:
        raise ValueError(f"{owner}: rng is {value!r}, no valid seed: {error}") from None


def memory_of_machine() -> int | None:
    """Bytes of physical memory, or None if the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def room(owner: str, what: str, elements: int, dtype: np.dtype[Any]) -> None:
    """Reject sizes that exceed the memory before allocating: systems that overcommit would kill the process instead."""
    nbytes = elements * dtype.itemsize
    if nbytes > sys.maxsize:
        raise ValueError(f"{owner}: {what} would take {nbytes} bytes; expected at most {sys.maxsize}")
    if nbytes > 2**30:
        memory = memory_of_machine()
        if memory is not None and nbytes > memory:
            size = f"{nbytes / 2**30:.0f} GiB"
            raise MemoryError(f"{owner}: {what} would take {size}; this machine has {memory / 2**30:.0f} GiB")


def no_pickle(owner: str, problem: str) -> ValueError:
    """A pickle with a missing or wrong entry."""
    return ValueError(f"{owner}: the pickle {problem}; expected what pickling wrote")


# ---- parameters -----------------------------------------------------------------------------------------------------


def parameters(
    owner: str, params: Mapping[str, Any], specs: Sequence[ParameterSpec], dtype: Any, as_is: Sequence[int] = ()
) -> list[Array]:
    """The parameters in the order of `specs`; copied if not C-contiguous and aligned, except those at `as_is`."""
    arrays: list[Array] = []
    for spec in specs:
        name, shape, _, _, _ = spec  # the fastest access to a tuple's members
        array = params.get(name)
        if type(array) is not ndarray or array.dtype is not dtype or array.shape != shape:
            array = _unusual_parameter(owner, params, spec, dtype)
        if not array.flags.carray and not ((array.flags.c_contiguous and array.flags.aligned) or len(arrays) in as_is):
            array = np.array(array, order="C")
        arrays.append(array)
    if len(params) != len(specs):
        known = {spec.name for spec in specs}
        raise no_parameter(owner, *[name for name in params if name not in known])
    return arrays


def _unusual_parameter(owner: str, params: Mapping[str, Any], spec: ParameterSpec, dtype: np.dtype[Any]) -> Array:
    """The slow path: an error, or an array that differs in class only. Nothing is ever cast."""
    if spec.name not in params:
        raise ValueError(f"{owner}: params has no {spec.name}; expected {spec.formula} = {spec.shape}")
    array = params[spec.name]
    if not isinstance(array, ndarray):
        raise TypeError(f"{owner}: {spec.name} is {kind(array)}; expected an ndarray of {spec.formula} = {spec.shape}")
    if array.dtype != dtype:
        hint = f"call .astype({dtype.name!r})"
        raise TypeError(f"{owner}: {spec.name} has dtype {_dtype_name(array.dtype)}; expected {dtype} ({hint})")
    if array.shape != spec.shape:
        raise ValueError(f"{owner}: {spec.name} has shape {array.shape}; expected {spec.formula} = {spec.shape}")
    return np.asarray(array)


def state_dict(
    owner: str, given: object, specs: Sequence[ParameterSpec], dtype: np.dtype[Any], strict: bool
) -> tuple[dict[str, Array], LoadReport]:
    """Copies of the arrays to load; one message lists everything that is wrong."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{owner}: load_state_dict got {kind(given)}; expected a mapping of names to arrays")
    known = {spec.name for spec in specs}
    report = LoadReport([s.name for s in specs if s.name not in given], [str(k) for k in given if k not in known])
    wrong, wrong_kind, arrays = [], False, {}
    if strict and report.missing_keys:
        wrong.append(f"missing: {', '.join(report.missing_keys)}")
    if strict and report.unexpected_keys:
        wrong.append(f"unexpected: {', '.join(report.unexpected_keys)}")
    for spec in specs:
        if spec.name not in given:
            continue
        value = given[spec.name]
        if hasattr(value, "detach"):  # torch does not export a tensor that requires a gradient
            value = value.detach()
        shape = getattr(value, "shape", None)  # if the shape is known before anything is read or converted
        if not isinstance(shape, tuple) or shape == spec.shape:
            try:
                array = as_array(owner, spec.name, value)
                real_dtype(owner, spec.name, array.dtype)
            except TypeError as error:
                wrong.append(str(error).removeprefix(f"{owner}: "))
                wrong_kind = True
                continue
            shape = array.shape
        if shape != spec.shape:
            wrong.append(f"{spec.name} has shape {tuple(shape)}; expected {spec.formula} = {spec.shape}")
            continue
        # A copy: the source may be a view of the very parameters that are about to be written.
        arrays[spec.name] = np.array(array, dtype=dtype, order="C")
    if wrong:
        hint = common_prefix(given, known)
        message = f"{owner}: load_state_dict changed nothing. " + " | ".join([hint, *wrong] if hint else wrong)
        raise TypeError(message) if wrong_kind else ValueError(message)
    return arrays, report


# ---- arrays ---------------------------------------------------------------------------------------------------------


def as_array(owner: str, name: str, value: Any) -> Array:
    """Any array-like as a plain ndarray, without a copy if it is an array already."""
    if isinstance(value, ndarray):
        if "numpy.ma" in sys.modules and isinstance(value, sys.modules["numpy.ma"].MaskedArray):
            raise TypeError(f"{owner}: {name} is a masked array; expected a plain one (call .filled(); see lengths=)")
        return np.asarray(value)
    try:
        dlpack = hasattr(value, "__dlpack__") and not hasattr(value, "__array__")
        return np.from_dlpack(value) if dlpack else np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        what = f"{name} is {kind(value)} that cannot be read as an array: {error}{instead_of_list(name, value)}"
        raise TypeError(f"{owner}: {what}") from error


def _dtype_name(dtype: np.dtype[Any]) -> str:
    """The name that NumPy prints, with the byte order if this is the reason of the error."""
    return str(dtype) if dtype.isnative else f"{dtype.str} (not this machine's byte order)"


def real_dtype(owner: str, name: str, dtype: np.dtype[Any], what: str = "a real floating-point dtype") -> None:
    """Floats of any size (bfloat16 of ml_dtypes included) and integers may be cast to the layer's dtype."""
    if dtype.kind not in "fiu" and dtype.name != "bfloat16":
        raise TypeError(f"{owner}: {name} has dtype {dtype}; expected {what}{instead_of_objects(dtype, what)}")


def floats(owner: str, name: str, value: Any, dtype: np.dtype[Any], *, rows: bool = False) -> Array:
    """`value` as an array of `dtype`; `rows`: aligned, with contiguous last axis. Copied only if necessary."""
    if type(value) is not ndarray:
        value = as_array(owner, name, value)
    if value.dtype is not dtype and value.dtype != dtype:
        real_dtype(owner, name, value.dtype)
        return value.astype(dtype, order="C")  # type: ignore[no-any-return]
    if rows and (not value.flags.aligned or (value.ndim and value.strides[-1] != dtype.itemsize)):
        return np.array(value, dtype=dtype, order="C")
    return value  # type: ignore[no-any-return]


def exact_shape(owner: str, name: str, array: Array, shape: tuple[int, ...], formula: str) -> None:
    """Exactly one shape; nothing is broadcast."""
    if array.shape != shape:
        raise ValueError(f"{owner}: {name} has shape {array.shape}; expected {formula} = {shape}")


# ---- sequences ------------------------------------------------------------------------------------------------------


def sequence(owner: str, x: Any, dtype: np.dtype[Any], input_size: int, batch_first: bool) -> tuple[Array, bool, bool]:
    """`x` as floats or uncast tokens in the caller's layout; whether x is tokens; whether x is unbatched."""
    if type(x) is not ndarray:
        refuse_integer_table(owner, x, dtype)
        x = as_array(owner, "x", x)
    axes = "B, T" if batch_first else "T, B"
    if x.dtype.kind in "iu":
        if x.ndim == 3:
            raise TypeError(
                f"{owner}: x holds integers ({x.dtype}) in shape {x.shape}; integers are tokens of shape ({axes}); "
                f"for values call x.astype({dtype.name!r})"
            )
        if x.ndim not in (1, 2):
            raise ValueError(f"{owner}: x has shape {x.shape}; expected tokens of shape ({axes}), or (T,) unbatched")
        if x.ndim == 2:
            warn_of_features(owner, x.shape, axes, input_size, dtype)
        return x, True, x.ndim == 1
    real_dtype(owner, "x", x.dtype, "a real floating-point dtype, or integers for tokens")
    if x.ndim == 3:
        if x.shape[2] != input_size:
            raise ValueError(f"{owner}: x has shape {x.shape}; expected ({axes}, input_size) = ({axes}, {input_size})")
    elif x.ndim == 2:
        if x.shape[1] != input_size:
            raise ValueError(
                f"{owner}: x has shape {x.shape}; expected (T, input_size) = (T, {input_size}), "
                f"as floats with two axes are one unbatched sequence (tokens are integers)"
            )
    else:
        raise ValueError(
            f"{owner}: x has shape {x.shape}; expected ({axes}, input_size) = ({axes}, {input_size}), "
            f"or (T, input_size) unbatched"
        )
    return floats(owner, "x", x, dtype), False, x.ndim == 2


def is_list(x: Any) -> bool:
    """A list or tuple of arrays is a batch of sequences; a list of numbers (NumPy's, too) or lists is array-like."""
    if not isinstance(x, (list, tuple)):
        return False
    if not x:
        return True
    return not isinstance(x[0], np.generic) and (hasattr(x[0], "__array__") or hasattr(x[0], "__dlpack__"))


def sequence_list(owner: str, items: Sequence[Any], dtype: np.dtype[Any], input_size: int) -> tuple[list[Array], bool]:
    """Sequences of a list input: (T_i, I) floats, or (T_i,) tokens; all of the same type."""
    arrays: list[Array] = []
    all_tokens = False
    for i, item in enumerate(items):
        name = f"x[{i}]"
        array = as_array(owner, name, item)
        tokens = array.dtype.kind in "iu"
        if i == 0:
            all_tokens = tokens
        if tokens != all_tokens:
            raise TypeError(
                f"{owner}: {name} has dtype {array.dtype}, x[0] has dtype {arrays[0].dtype}; "
                f"expected all tokens (integers) or all floats"
            )
        if tokens:
            if array.ndim != 1:
                raise ValueError(f"{owner}: {name} has shape {array.shape}; expected tokens of shape (T_{i},)")
        else:
            array = floats(owner, name, array, dtype)
            if array.ndim != 2 or array.shape[1] != input_size:
                raise ValueError(
                    f"{owner}: {name} has shape {array.shape}; expected (T_{i}, input_size) = (T_{i}, {input_size})"
                )
        arrays.append(array)
    return arrays, all_tokens


def lengths(owner: str, value: Any, T: int, B: int, layout: str) -> NDArray[np.int64]:
    """Lengths of the rows as a fresh int64 array, copied before they are checked: other threads may write to them."""
    if layout == "unbatched":
        raise ValueError(f"{owner}: lengths given with an unbatched x; expected lengths=None")
    if layout == "list":
        raise ValueError(f"{owner}: lengths given with a list of sequences, which have their own; expected None")
    array = as_array(owner, "lengths", value)
    if array.dtype.kind not in "iu" and not (array.size == 0 and isinstance(value, (list, tuple))):
        raise TypeError(f"{owner}: lengths has dtype {array.dtype}; expected integers")
    exact_shape(owner, "lengths", array, (B,), "(B,)")
    array = np.array(array)
    if B and (array.min() < 0 or array.max() > T):
        i = int(np.argmax((array < 0) | (array > T)))
        raise ValueError(f"{owner}: lengths[{i}] is {array[i]}; expected 0 <= length <= T = {T}")
    return array.astype(np.int64, copy=False)


def step_flags(owner: str, name: str, value: Any, T: int, B: int, layout: str, batch_first: bool) -> NDArray[np.bool_]:
    """`mask` or `reset`, in the layout of x; as (B, T) in C order, copied: other threads may write to it."""
    array = flags(owner, name, value)
    if layout == "unbatched":
        exact_shape(owner, name, array, (T,), "(T,)")
        return np.array(array.reshape(B, T), order="C")
    shape, formula = ((B, T), "(B, T)") if batch_first else ((T, B), "(T, B)")
    if array.shape != shape and array.shape == shape[::-1]:
        raise ValueError(
            f"{owner}: {name} has shape {array.shape}; expected {formula} = {shape}, the layout of x: transpose it"
        )
    exact_shape(owner, name, array, shape, formula)
    return np.array(array if batch_first else array.T, order="C")


def packed_flags(owner: str, *names: str) -> ValueError:
    return ValueError(f"{owner}: {names[0]} is given with a PackedSequence; expected a padded input")


def flag_list(owner: str, name: str, value: Any, lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Flags of a list input, one (T_i,) array for each sequence, as one array over the steps of all sequences."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{owner}: {name} is {kind(value)}; expected a list of {len(lengths)} arrays, as x is a list")
    if len(value) != len(lengths):
        raise ValueError(f"{owner}: {name} has {len(value)} arrays; expected {len(lengths)}, as x has")
    parts = [np.zeros(0, np.bool_)]
    for i, (item, n) in enumerate(zip(value, lengths.tolist(), strict=True)):
        array = flags(owner, f"{name}[{i}]", item)
        exact_shape(owner, f"{name}[{i}]", array, (n,), f"(T_{i},)")
        parts.append(array)
    return np.concatenate(parts)


def flags(owner: str, name: str, value: Any) -> Array:
    """An array of bools; an empty list, which has another dtype, is one."""
    array = as_array(owner, name, value)
    if array.dtype != np.bool_ and not (array.size == 0 and isinstance(value, (list, tuple))):
        raise not_bool(owner, name, array.dtype)
    return array.astype(np.bool_, copy=False)


def past_end(owner: str, value: object) -> bool:
    """Whether outputs are held at skipped steps."""
    return bool(choice(owner, "past_end", value, ("zero", "hold")) == "hold")


def tokens(
    owner: str,
    x: Array,
    input_size: int,
    lengths: NDArray[np.int64] | None,
    layout: str,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Tokens (T, B) as C-contiguous int64, all in range; tokens out of range at skipped steps become 0."""
    # The cast comes first, so that a size too large for memory fails at once. Ids beyond int64 become negative.
    ids = np.require(x, np.int64, ["C_CONTIGUOUS", "ALIGNED"])
    if ids.size and (ids.min() < 0 or ids.max() >= input_size):
        outside = (ids < 0) | (ids >= input_size)
        wrong = outside
        if lengths is not None:
            wrong = outside & (np.arange(x.shape[0])[:, None] < lengths)
        if mask is not None:
            wrong = wrong & mask.T
        if wrong.any():
            t, b = (int(i) for i in np.argwhere(wrong)[0])
            where = f"x{f'[{b}]' if layout == 'list' else ''} holds token {x[t, b]} at t={t}"
            if layout == "batch":
                where += f", b={b}"
            raise no_token(owner, where, input_size)
        return np.where(outside, 0, ids)
    return ids


def state(
    owner: str,
    argument: str,
    value: Any,
    parts: tuple[str, ...],
    shape: tuple[int, ...],
    formula: str,
    dtype: np.dtype[Any],
    optional: bool = False,
    h_shape: tuple[tuple[int, ...], str] | None = None,
) -> tuple[Array | None, ...]:
    """h, or the pair (h, c), with contiguous last axes; `optional`: a part may be None (gradients).

    `h_shape` is the shape of h and its formula if they differ from those of c.
    """
    if len(parts) == 1:
        if isinstance(value, tuple):
            raise TypeError(f"{owner}: {argument} is a tuple; expected one array h")
        values: Sequence[Any] = (value,)
    else:
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"{owner}: {argument} is {kind(value)}; expected a pair (h, c)")
        if len(value) != 2:
            raise ValueError(f"{owner}: {argument} has {len(value)} parts; expected a pair (h, c)")
        values = value
    arrays: list[Array | None] = []
    for part, given in zip(parts, values, strict=True):
        if given is None and optional:
            arrays.append(None)
            continue
        name = f"{argument} {part}"
        wanted, derived = h_shape if h_shape is not None and part == "h" else (shape, formula)
        if given is None:
            raise TypeError(f"{owner}: {name} is None; expected an array of {derived} = {wanted}")
        array = floats(owner, name, given, dtype, rows=True)
        exact_shape(owner, name, array, wanted, derived)
        arrays.append(array)
    return tuple(arrays)


def out(
    owner: str,
    name: str,
    value: Any,
    shape: tuple[int, ...],
    formula: str,
    dtype: np.dtype[Any],
    others: Iterable[tuple[str, Any]],
    rows_apart: Callable[[Array], bool],
) -> Array:
    """An array that can be written row by row and shares no memory with any of `others`.

    `rows_apart` tells whether no two rows share memory: `_core.rows_apart`, which the C API asks, too.
    """
    if not isinstance(value, ndarray):
        raise TypeError(f"{owner}: {name} is {kind(value)}; expected an ndarray of {formula} = {shape}")
    exact_shape(owner, name, value, shape, formula)
    if value.dtype != dtype:
        raise ValueError(f"{owner}: {name} has dtype {_dtype_name(value.dtype)}; expected {dtype}")
    if not value.flags.writeable:
        raise ValueError(f"{owner}: {name} is read-only; expected a writeable array")
    if not value.flags.aligned:
        raise ValueError(f"{owner}: {name} is not aligned; expected memory aligned to {dtype.itemsize} bytes")
    if value.size:
        if value.strides[-1] != dtype.itemsize:
            raise ValueError(f"{owner}: {name} has strides {value.strides}; expected a contiguous last axis")
        if not rows_apart(value):
            raise ValueError(f"{owner}: {name} has strides {value.strides}; expected no two elements in one place")
    for other_name, other in others:
        if isinstance(other, ndarray) and _overlap(value, other):
            raise ValueError(f"{owner}: {name} overlaps {other_name} in memory; expected memory of its own")
    return np.asarray(value)


def _overlap(a: Array, b: Array) -> bool:
    """Whether two arrays share an element; true if the exact answer would take long."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]  # any number is allowed
    except np.exceptions.TooHardError:
        return True


def nothing_to_do(owner: str) -> ValueError:
    """Backward without any gradient to start from."""
    return ValueError(f"{owner}: backward got neither dy nor dstate; expected at least one gradient")


def nothing_to_do_cell(owner: str) -> ValueError:
    """Backward of a cell, whose only output is its state."""
    return ValueError(f"{owner}: backward got no dstate; expected the gradient of at least one part of the state")


def nothing_to_do_functional(owner: str, names: list[str]) -> ValueError:
    """A backward function without any gradient to start from."""
    return ValueError(f"{owner}: dy, {', '.join(names)} are all None; expected at least one gradient")


def initialised(owner: str, source: str) -> ValueError:
    """``__init__`` called on an object that is complete and perhaps in use."""
    return ValueError(f"{owner}: __init__ is called again; expected one call (for another one call {source} again)")


def in_use(owner: str) -> RuntimeError:
    """A stream called by a second thread, or by the call that converts its input."""
    return RuntimeError(f"{owner}: already in use, by another thread or by the call that converts its input")


def released(owner: str) -> ValueError:
    """Backward with a tape that was released."""
    return ValueError(f"{owner}: this tape was released; expected one that still holds its arrays (run forward again)")


def pair(owner: str, name: str, value: Any) -> tuple[Any, Any]:
    """Outputs, or their gradients, of merge=None."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{owner}: {name} is {kind(value)}; expected a pair (forward, reverse), as merge=None")
    if len(value) != 2:
        raise ValueError(f"{owner}: {name} has {len(value)} parts; expected a pair (forward, reverse), as merge=None")
    return value[0], value[1]


def gradient_list(
    owner: str,
    name: str,
    value: Any,
    lengths: NDArray[np.int64],
    width: int,
    formula: str,
    dtype: np.dtype[Any],
    lead: tuple[int, ...] = (),
) -> list[Array]:
    """Gradients of the outputs of a list input: one (T_i, width) array for each sequence, after axes of `lead`."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{owner}: {name} is {kind(value)}; expected a list of {len(lengths)} arrays, as x was a list")
    if len(value) != len(lengths):
        raise ValueError(f"{owner}: {name} has {len(value)} arrays; expected {len(lengths)}, as x had")
    arrays = []
    for i, (item, n) in enumerate(zip(value, lengths.tolist(), strict=True)):
        array = floats(owner, f"{name}[{i}]", item, dtype)
        exact_shape(owner, f"{name}[{i}]", array, (*lead, n, width), f"({'E, ' if lead else ''}T_{i}, {formula})")
        arrays.append(array)
    return arrays


def any_gradient(value: Any) -> bool:
    """Whether an argument of backward holds a gradient at all."""
    if isinstance(value, (tuple, list)):
        return not value or any(any_gradient(item) for item in value)
    return value is not None


def no_c_api(owner: str) -> ValueError:
    """The structs of the C API have no members for gains or their gradients."""
    return ValueError(f"{owner}: c_weights is not available with layer_norm=True, which the C API does not support")


# ---- groups of layers -----------------------------------------------------------------------------------------------


def members(owner: str, value: Any) -> tuple[Any, ...]:
    """The layers of a group: at least one, each only once, all with the same dtype and layout."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"{owner}: layers is {kind(value)}; expected a sequence of layers")
    layers = tuple(value)
    if not layers:
        raise ValueError(f"{owner}: layers is empty; expected at least one layer")
    for k, layer in enumerate(layers):
        if not (hasattr(layer, "_run") and hasattr(layer, "forward")):
            raise TypeError(f"{owner}: layers[{k}] is {kind(layer)}; expected a layer, or a group of layers")
        if getattr(layer, "stacks_outputs", False):
            raise TypeError(f"{owner}: layers[{k}] is {kind(layer)}, whose outputs have an axis more; expected a layer")
        first = next(i for i, other in enumerate(layers) if other is layer)
        if first != k:
            raise ValueError(f"{owner}: layers[{k}] is layers[{first}]; expected a layer of its own (copy.deepcopy)")
        if layer.dtype != layers[0].dtype:
            raise TypeError(
                f"{owner}: layers[{k}] has dtype {layer.dtype}; expected {layers[0].dtype}, that of layers[0]"
            )
        if layer.batch_first != layers[0].batch_first:
            raise ValueError(
                f"{owner}: layers[{k}] has batch_first={layer.batch_first}; expected {layers[0].batch_first}, "
                f"as layers[0] has"
            )
    return layers


def one_shape(owner: str, layers: Sequence[Any]) -> None:
    """Networks that differ only in their parameters: everything else is in their repr."""
    for k, layer in enumerate(layers):
        if repr(layer) != repr(layers[0]):
            raise ValueError(f"{owner}: layers[{k}] is {layer!r}; expected {layers[0]!r}, as layers[0] is")


def one_for_each(owner: str, name: str, value: Any, count: int) -> Array:
    """An array whose first axis runs over the networks of an ensemble."""
    array = as_array(owner, name, value)
    if array.ndim == 0 or array.shape[0] != count:
        raise ValueError(f"{owner}: {name} has shape {array.shape}; expected a first axis of {count}, one for each net")
    return array


def no_layer(owner: str, name: str, value: Any) -> TypeError:
    """An argument that is not a layer."""
    return TypeError(f"{owner}: {name} is {kind(value)}; expected an RNN, GRU, LSTM or Stack")


def both_directions(owner: str, layers: Mapping[str, Any], ways: Sequence[tuple[bool, ...]]) -> None:
    """A forward and a backward layer over one input; `ways` says for each of their directions if it runs backwards."""
    (one, first), (two, second) = layers.items()
    for name, own in zip(layers, ways, strict=True):
        if len(own) != 1:
            raise ValueError(f"{owner}: {name} is bidirectional; expected a one-way layer")
    if ways[0][0]:
        raise ValueError(f"{owner}: {one} has backwards=True; expected backwards=False")
    if second is first:
        raise ValueError(f"{owner}: {two} is {one}; expected a layer of its own (copy.deepcopy)")
    if second.dtype != first.dtype:
        raise TypeError(f"{owner}: {two} has dtype {second.dtype}; expected {first.dtype}, that of {one}")
    for name in ("batch_first", "input_size"):
        if getattr(second, name) != getattr(first, name):
            raise ValueError(
                f"{owner}: {two} has {name}={getattr(second, name)}; expected {getattr(first, name)}, as {one} has"
            )


def joinable(owner: str, merge: str | None, widths: tuple[int, int]) -> None:
    """Outputs of two directions that are merged element by element must be equally wide."""
    if merge not in ("concat", None) and widths[0] != widths[1]:
        raise ValueError(
            f"{owner}: merge is {merge!r}, but the layers put out {widths[0]} and {widths[1]} columns; "
            f"expected equal widths, 'concat' or None"
        )


def fitting(owner: str, below: Any, above: Any, widths: tuple[int, ...]) -> None:
    """Two consecutive layers of a stack."""
    if len(widths) > 1:
        raise ValueError(
            f"{owner}: {below!r} has merge=None, so puts out a pair; expected that of the last layer alone"
        )
    (width,) = widths
    if above.input_size != width:
        raise ValueError(
            f"{owner}: {above!r} has input_size {above.input_size}; expected {width}, the width of {below!r}"
        )


def member_states(owner: str, name: str, value: Any, count: int) -> Sequence[Any]:
    """One state (or gradient of a state) for each layer of a group; None means None for all."""
    if value is None:
        return (None,) * count
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{owner}: {name} is {kind(value)}; expected a tuple of {count}, one for each layer")
    if len(value) != count:
        raise ValueError(f"{owner}: {name} has {len(value)} entries; expected {count}, one for each layer")
    return value


def member_masks(
    owner: str, value: Any, members: Mapping[str, Any], available: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """A group's masks by member; `available` are the masks of the group itself."""
    if not isinstance(value, Mapping):
        raise no_masks(owner, value)
    own: dict[str, dict[str, Any]] = {}
    for name, mask in value.items():
        prefix, dot, rest = str(name).partition(".")
        if name in available:
            mask_names(owner, {name: mask}, available)
            continue
        if not dot or prefix not in members:
            names = ", ".join(repr(f"{member}.") for member in members)
            alone = "".join(f"{own!r}, " for own in available) + "or " * bool(available)
            expected = f"{alone}a layer's name of a mask after one of {names}"
            raise ValueError(f"{owner}: masks has {name!r}; expected {expected}")
        own.setdefault(prefix, {})[rest] = mask
    return own


def fixed_params(owner: str, name: str) -> TypeError:
    """Parameters of a group cannot be removed."""
    return TypeError(f"{owner}: params[{name!r}] cannot be deleted; a group has the parameters of its layers")


def out_for_list(owner: str) -> ValueError:
    """List inputs have no single output array to write to."""
    return ValueError(f"{owner}: out given with a list of sequences; expected out=None")


# ---- frozen layers and streams --------------------------------------------------------------------------------------


def precision(owner: str, value: object, dtype: np.dtype[Any]) -> str:
    """The only precision available is the layer's own."""
    if value is None or (isinstance(value, str) and value == dtype.name):
        return dtype.name
    raise ValueError(f"{owner}: precision is {value!r}; expected {dtype.name!r}, the one available for this layer")


def one_directional(owner: str, ways: tuple[bool, ...]) -> None:
    """A stream never sees the last step, from which the reverse direction starts."""
    if len(ways) != 1:
        way = "or run chunks, with some steps more as look-ahead, through the layer itself"
        raise ValueError(f"{owner}: stream of a bidirectional layer; expected bidirectional=False, {way}")
    if ways[0]:
        raise ValueError(f"{owner}: stream of a layer that runs backwards; expected backwards=False")


def no_stream(owner: str) -> ValueError:
    """Streams are only for groups with one output."""
    return ValueError(f"{owner}: stream of an ensemble; expected its layers to be frozen and streamed one by one")


def step_input(owner: str, x: Any, dtype: np.dtype[Any], input_size: int, batch_size: int) -> Array:
    """`x` of one step of a stream, C-contiguous: floats (B, I) or tokens (B,) as int64, in range."""
    array, is_tokens, _ = cell_input(owner, x, dtype, input_size)
    if is_tokens:
        exact_shape(owner, "x", array, (batch_size,), "(batch_size,)")
        return np.array(array, np.int64)
    exact_shape(owner, "x", array, (batch_size, input_size), "(batch_size, input_size)")
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.array(array, dtype=dtype, order="C")


def rows(owner: str, value: Any, batch_size: int) -> NDArray[np.bool_]:
    """A mask of rows; indices are an error, because they would be read as a mask."""
    array = as_array(owner, "rows", value)
    if array.dtype != np.bool_:
        raise not_bool(owner, "rows", array.dtype)
    exact_shape(owner, "rows", array, (batch_size,), "(batch_size,)")
    return np.ascontiguousarray(array)


# ---- cells ----------------------------------------------------------------------------------------------------------


def cell_input(owner: str, x: Any, dtype: np.dtype[Any], input_size: int) -> tuple[Array, bool, bool]:
    """`x` of one step as floats or tokens; whether x is tokens; whether x is unbatched."""
    x = as_array(owner, "x", x)
    if x.dtype.kind in "iu":
        if x.ndim == 2:
            raise TypeError(
                f"{owner}: x holds integers ({x.dtype}) in shape {x.shape}; integers are tokens of shape (B,); "
                f"for values call x.astype({dtype.name!r})"
            )
        if x.ndim > 1:
            raise ValueError(f"{owner}: x has shape {x.shape}; expected tokens of shape (B,), or () unbatched")
        if x.size and (x.min() < 0 or x.max() >= input_size):
            b = int(np.argmax(((x < 0) | (x >= input_size)).reshape(-1)))
            where = f"x holds token {x.reshape(-1)[b]}" + (f" at b={b}" if x.ndim else "")
            raise no_token(owner, where, input_size)
        return x, True, x.ndim == 0
    real_dtype(owner, "x", x.dtype, "a real floating-point dtype, or integers for tokens")
    if x.ndim not in (1, 2) or x.shape[-1] != input_size:
        raise ValueError(
            f"{owner}: x has shape {x.shape}; expected (B, input_size) = (B, {input_size}), or (input_size,) unbatched"
        )
    return floats(owner, "x", x, dtype), False, x.ndim == 1


# ---- bridges --------------------------------------------------------------------------------------------------------


def no_mapping(owner: str, params: object) -> TypeError:
    """Parameters given to a bridge that are not a mapping."""
    return TypeError(f"{owner}: params is {kind(params)}; expected a mapping of names to arrays, or None")


def no_dlpack(owner: str, like: object) -> TypeError:
    """An array of a library that cannot adopt arrays of another."""
    return TypeError(f"{owner}: like is {kind(like)}, whose library has no from_dlpack; expected one that has")


def sequence_axes(owner: str, name: str, shape: tuple[int, ...]) -> ValueError:
    """An element of a list of sequences that is not a sequence."""
    return ValueError(f"{owner}: {name} has shape {shape}; expected (T_i, input_size), or (T_i,) for scalars")


def widths(owner: str, found: list[int]) -> ValueError:
    """Sequences that do not fit together."""
    return ValueError(f"{owner}: X has sequences of widths {', '.join(map(str, found))}; expected one width for all")


def sequence_width(owner: str, came: int, expected: int) -> ValueError:
    """Sequences that do not fit the layer."""
    return ValueError(f"{owner}: X has sequences of width {came}; expected input_size = {expected}")


def not_finite(owner: str, name: str) -> ValueError:
    """scikit-learn's rule, for sequences."""
    return ValueError(f"{owner}: {name} contains NaN or infinity; expected finite numbers")


def no_target(owner: str) -> ValueError:
    """With the wording that scikit-learn checks for."""
    return ValueError(f"{owner}: fit requires y to be passed, but the target y is None")


def one_class(owner: str, classes: int) -> ValueError:
    """A classifier with a single class; scikit-learn checks for the word "class"."""
    return ValueError(f"{owner}: y has {classes} class; expected at least 2")


def odd_width(owner: str, width: int) -> ValueError:
    """Two directions that cannot have the same width."""
    return ValueError(f"{owner}: nO is {width}; expected an even number, as bi=True gives each direction one half")


def not_training(owner: str) -> ValueError:
    """Backward after a call that saved nothing."""
    return ValueError(f"{owner}: backprop of a call with is_train=False; expected is_train=True, which keeps a tape")


def narrow_jax(owner: str) -> ValueError:
    """A float64 layer where JAX has no float64."""
    return ValueError(f"{owner}: dtype is float64 while jax_enable_x64 is off; expected float32, or x64 switched on")


def other_xla(version: str, oldest: tuple[int, int]) -> ImportError:
    """A JAX whose foreign function interface has an unknown layout."""
    return ImportError(
        f"fusedrnn.interop.jax: XLA's foreign function interface is version {version}; expected "
        f"{oldest[0]}.{oldest[1]} or a later {oldest[0]}.x, as jaxlib has from 0.5 on"
    )


def no_module(owner: str, module: object) -> TypeError:
    """An argument that is not a torch module."""
    return TypeError(f"{owner}: module is {kind(module)}; expected a torch.nn.Module")


def tensor_dtype(owner: str, name: str, dtype: object, expected: str) -> TypeError:
    """A tensor that the kernels cannot use, or cannot use together with the others."""
    return TypeError(f"{owner}: {name} has dtype {dtype}; expected {expected}")


def no_parameter(owner: str, *names: str) -> ValueError:
    """Names that are parameters neither of a layer nor of any member of a group."""
    return ValueError(f"{owner}: params has {', '.join(map(repr, names))}, which is no parameter of this object")


def no_token(owner: str, where: str, input_size: int) -> IndexError:
    """An integer that is not a column of the input weights."""
    return IndexError(f"{owner}: {where}; expected 0 <= token < input_size = {input_size}")


def no_single_layer(owner: str, layer: object) -> TypeError:
    """A bridge that accepts neither cells nor groups of layers."""
    return TypeError(f"{owner}: layer is {kind(layer)}; expected an RNN, GRU or LSTM")


def twice(owner: str) -> NotImplementedError:
    """A second derivative: the kernels compute only the first."""
    return NotImplementedError(f"{owner}: differentiated twice; expected once")


# ---- functional API -------------------------------------------------------------------------------------------------


def functional_weights(
    owner: str,
    gates: int,
    peepholes: int,
    W_ih: Any,
    W_hh: Any,
    b_ih: Any,
    b_hh: Any,
    W_peephole: Any = None,
    W_hr: Any = None,
) -> tuple[Array, Array, Array | None, Array | None, Array | None, Array | None, np.dtype[Any]]:
    """Weights of one layer in one direction; shapes define the sizes, W_ih's dtype the dtype; W_ih has any strides."""
    rows = "hidden_size" if gates == 1 else f"{gates}*hidden_size"
    arrays: list[Array | None] = []
    dtype: np.dtype[Any] | None = None
    names = ("W_ih", "W_hh", "b_ih", "b_hh", "W_peephole", "W_hr")
    for name, value in zip(names, (W_ih, W_hh, b_ih, b_hh, W_peephole, W_hr), strict=True):
        if value is None and name not in ("W_ih", "W_hh"):
            arrays.append(None)
            continue
        array = as_array(owner, name, value)
        if dtype is None:
            if array.dtype.type not in (np.float32, np.float64):
                raise TypeError(f"{owner}: {name} has dtype {array.dtype}; expected float32 or float64")
            dtype = np.dtype(array.dtype.type)
        elif array.dtype.type is not dtype.type:
            raise TypeError(f"{owner}: {name} has dtype {array.dtype}; expected {dtype}, as W_ih has")
        if not array.dtype.isnative or (name != "W_ih" and not (array.flags.c_contiguous and array.flags.aligned)):
            array = np.array(array, dtype=dtype, order="C")
        arrays.append(array)
    ih, hh, hr = arrays[0], arrays[1], arrays[5]
    assert dtype is not None
    assert ih is not None
    assert hh is not None
    if hr is not None:
        if hr.ndim != 2 or not 1 <= hr.shape[0] < hr.shape[1]:
            raise ValueError(
                f"{owner}: W_hr has shape {hr.shape}; expected (proj_size, hidden_size), 1 <= proj_size < hidden_size"
            )
        H = hr.shape[1]
        exact_shape(owner, "W_hh", hh, (gates * H, hr.shape[0]), f"({rows}, proj_size)")
    elif hh.ndim != 2 or hh.shape[1] < 1 or hh.shape[0] != gates * hh.shape[1]:
        raise ValueError(f"{owner}: W_hh has shape {hh.shape}; expected ({rows}, hidden_size), hidden_size >= 1")
    else:
        H = hh.shape[1]
    if ih.ndim != 2 or ih.shape[0] != gates * H or ih.shape[1] < 1:
        raise ValueError(
            f"{owner}: W_ih has shape {ih.shape}; expected ({rows}, input_size) = ({gates * H}, input_size), "
            f"input_size >= 1"
        )
    for name, bias in (("b_ih", arrays[2]), ("b_hh", arrays[3])):
        if bias is not None:
            exact_shape(owner, name, bias, (gates * H,), f"({rows},)")
    if peepholes:
        if arrays[4] is None:
            raise ValueError(f"{owner}: W_peephole is None; expected ({peepholes}, hidden_size) = ({peepholes}, {H})")
        exact_shape(owner, "W_peephole", arrays[4], (peepholes, H), f"({peepholes}, hidden_size)")
    elif arrays[4] is not None:
        raise ValueError(f"{owner}: W_peephole is {kind(W_peephole)}, but peephole=None; expected None")
    return ih, hh, arrays[2], arrays[3], arrays[4], hr, dtype


def functional_sequence(owner: str, x: Any, dtype: np.dtype[Any], input_size: int) -> tuple[Array, bool]:
    """`x` (T, B, I) as floats, or (T, B) as uncast tokens, and whether x is tokens."""
    x = as_array(owner, "x", x)
    if x.dtype.kind in "iu":
        if x.ndim != 2:
            raise ValueError(f"{owner}: x has shape {x.shape}; expected tokens (integers) of shape (T, B)")
        return x, True
    real_dtype(owner, "x", x.dtype, "a real floating-point dtype, or integers for tokens")
    if x.ndim != 3 or x.shape[2] != input_size:
        raise ValueError(f"{owner}: x has shape {x.shape}; expected (T, B, input_size) = (T, B, {input_size})")
    return floats(owner, "x", x, dtype), False


def functional_tape(owner: str, tape: object, expected: str) -> None:
    """A tape from the forward function of another cell, which has other gates."""
    made_by = getattr(tape, "_made_by", None)
    if made_by != expected:
        came = kind(tape) if made_by is None else f"a tape of {made_by}"
        raise TypeError(f"{owner}: tape is {came}; expected a tape of {expected}")


# ---- explain --------------------------------------------------------------------------------------------------------


def nothing_to_explain(owner: str, value: object) -> TypeError:
    """An object that has no call over sequences."""
    return TypeError(f"{owner}: layer is {kind(value)}; expected a layer, a group of layers, or a frozen one")


def frozen_cannot_train(owner: str, value: object) -> ValueError:
    """``training=True`` for a frozen layer."""
    return ValueError(f"{owner}: training is True, but {value!r} is for inference; expected training=False")


def machine(owner: str, value: object, known: Mapping[str, float]) -> dict[str, float]:
    """Numbers of a machine, all under known names."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{owner}: machine is {kind(value)}; expected a mapping of names to numbers")
    numbers: dict[str, float] = {}
    for name, number in value.items():
        if name not in known:
            raise ValueError(f"{owner}: machine has {name!r}; expected names of {', '.join(map(repr, known))}")
        if isinstance(number, (bool, np.bool_)) or not isinstance(number, (int, float, np.integer, np.floating)):
            raise TypeError(f"{owner}: machine[{name!r}] is {number!r}; expected a number")
        if not 0 < number < np.inf:
            raise ValueError(f"{owner}: machine[{name!r}] is {number}; expected a finite number > 0")
        numbers[name] = size(owner, f"machine[{name!r}]", number) if isinstance(known[name], int) else float(number)
    return numbers


# ---- gradients, threads, instruction sets ---------------------------------------------------------------------------


def gradient(owner: str, name: str, array: object) -> Array:
    """A gradient to be scaled in place."""
    if not isinstance(array, ndarray):
        raise TypeError(f"{owner}: {name} is {kind(array)}; expected an ndarray of floats")
    if array.dtype.kind != "f":
        raise TypeError(f"{owner}: {name} has dtype {array.dtype}; expected floats")
    if not array.flags.writeable:
        raise ValueError(f"{owner}: {name} is read-only; expected an array that can be scaled in place")
    return array


def positive(owner: str, name: str, value: object, *, zero: bool) -> float:
    """A number > 0 (or >= 0); infinity is allowed, NaN is not."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{owner}: {name} is {value!r} ({type(value).__name__}); expected a number")
    number = float(value)
    if not (number >= 0.0 if zero else number > 0.0):
        raise ValueError(f"{owner}: {name} is {number!r}; expected a number {'>=' if zero else '>'} 0")
    return number


def isa_name(owner: str, value: object, available: Sequence[str]) -> str:
    """An instruction set that this CPU supports."""
    if not isinstance(value, str):
        raise TypeError(f"{owner}: name is {kind(value)}; expected one of {', '.join(map(repr, available))}")
    if value not in available:
        raise ValueError(f"{owner}: {value!r} is not available; expected one of {', '.join(map(repr, available))}")
    return value
