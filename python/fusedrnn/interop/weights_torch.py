"""torch <-> fusedrnn.

=============  ================================================================================================
torch          fusedrnn
=============  ================================================================================================
gates          the same: LSTM i f g o, GRU r z n; blocks of rows
``weight_ih``  the same: (G*H, I); ``weight_hh`` (G*H, H), with a projection (G*H, P); ``weight_hr`` (P, H)
biases         the same two, or none
update gate    the same: h' = (1 - z) * n + z * h
GRU            ``reset_after=True`` always
names          the same; of cells without ``_l0``; in a state dict behind any prefix
=============  ================================================================================================
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from ..parameters import CLASSES
from . import _messages
from .conventions import (
    GATES,
    Array,
    as_weights,
    check_kind,
    construct,
    float_dtype,
    gates_of,
    refuse_others,
    sizes_of,
    stack_of,
)
from .modules_torch import SEVERAL, prefixes_in_order, recurrent_module, weights_of
from .packages import needs
from .stored import Stored
from .torch_files import state_dict_of

if TYPE_CHECKING:
    import torch

KEY = re.compile(r"(?s:(?P<prefix>.*?))(?P<name>(?:weight_(?:ih|hh|hr)|bias_(?:ih|hh))(?:_l[0-9]+(?:_reverse)?)?)\Z")

#: Constructor arguments that torch's modules have, too.
KNOWN = ("num_layers", "nonlinearity", "bias", "batch_first", "dropout", "bidirectional", "proj_size", "dtype")


def from_torch(
    source: torch.nn.Module | Mapping[str, Any] | str | os.PathLike[str],
    prefix: str | Sequence[str] | None = None,
    *,
    kind: str | None = None,
    nonlinearity: str | None = None,
    batch_first: bool | None = None,
    dropout: float = 0.0,
    dtype: DTypeLike | None = None,
    force: bool = False,
) -> Any:
    """Convert a torch module to an equivalent layer or cell of fusedrnn.

    Parameters
    ----------
    source : torch.nn.Module, mapping of str to tensors or arrays, or path
        ``nn.RNN``, ``nn.GRU``, ``nn.LSTM``, one of their cells, a module that contains one of them; or a state dict of
        any of these (of tensors, or of arrays, for which torch is not needed). The module's code has to be torch's:
        subclasses with methods of their own and modules with hooks are refused. weight_norm, spectral_norm, orthogonal
        and pruning are understood, ``torch.compile`` is looked through.

        A path is that of a state dict: a file of ``torch.save``, which is loaded with ``weights_only=True``, so that no
        code in it is run, or a safetensors file, for which torch is not needed. A checkpoint may hold the state dict
        under a name of its own: it becomes the first part of the names, ``"model_state_dict.encoder.lstm"``.
    prefix : str, sequence of str, or None
        If `source` contains several recurrent modules: the one to convert, such as ``"encoder.lstm."`` (the dot may be
        left out); or the stacked ones, from bottom to top. The modules of a ``Sequential`` or ``ModuleList`` are
        stacked in its order.
    kind : "RNN", "GRU", "LSTM" or None
        The expected kind; only a check, because the shapes determine the kind.
    nonlinearity : "tanh", "relu" or None
        For an RNN given as a state dict, which does not contain it; None means "tanh".
    batch_first : bool or None
        None means the module's own; False for a state dict, which does not contain it.
    dropout : float
        Dropout between layers, in training; a module has its own.
    dtype : float32, float64 or None
        None means that of the weights; float16 and bfloat16 become float32.
    force : bool
        Whether to read the weights alone, whatever else there is: methods of a subclass, hooks, parametrizations,
        modules between stacked ones, other parameters beside the weights.

    Returns
    -------
    RNN, GRU, LSTM, or RNNCell, GRUCell, LSTMCell; or a Stack of several modules

    Raises
    ------
    TypeError
        `source` is neither, or does not hold real numbers.
    ValueError
        `source` has no recurrent module, or several without an order, or one that may compute something else than
        torch's class does with its weights; parameters are missing or do not fit together; a file is damaged, or holds
        more than tensors.
    OSError
        There is no such file, or it cannot be read.
    ModuleNotFoundError
        The file is one of ``torch.save``, and torch is not installed.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> d = {f"net.gru.{name}": w for name, w in fusedrnn.GRU(3, 5, num_layers=2).state_dict().items()}
    >>> fusedrnn.interop.from_torch(d)
    GRU(3, 5, num_layers=2)
    """
    owner = "from_torch"
    if isinstance(source, (str, os.PathLike)):
        same: dict[str, Any] = {"kind": kind, "nonlinearity": nonlinearity, "batch_first": batch_first}
        with state_dict_of(owner, source) as tensors:
            return from_torch(tensors, prefix, **same, dropout=dropout, dtype=dtype, force=force)
    if prefix is None and hasattr(source, "named_modules"):
        prefix = prefixes_in_order(owner, source, force)
    if prefix is not None and not isinstance(prefix, str):
        options: dict[str, Any] = {"kind": kind, "nonlinearity": nonlinearity, "batch_first": batch_first}
        options |= {"dropout": dropout, "dtype": dtype, "force": force}
        parts = [from_torch(source, one, **options) for one in several_prefixes(owner, prefix)]
        return stack_of(owner, parts)
    if isinstance(source, Mapping):
        return from_state_dict(owner, source, prefix, kind, nonlinearity, batch_first, dropout, dtype, force)
    if not hasattr(source, "named_modules"):
        raise TypeError(_messages.wrong_source(owner, source, "a torch.nn.Module, a state dict, or the path of one"))
    module = recurrent_module(owner, source, prefix, force)
    params = weights_of(owner, module, force)
    if kind is not None and kind not in type(module).__name__ and kind not in str(getattr(module, "mode", "")):
        raise ValueError(_messages.kinds_differ(owner, kind, type(module).__name__, "by its class"))
    own = relu_or_tanh(module) or getattr(module, "nonlinearity", None)
    if own is not None and nonlinearity not in (None, own):
        raise ValueError(_messages.contradiction(owner, "nonlinearity", nonlinearity, f"the module has {own!r}"))
    nonlinearity = own or nonlinearity
    if batch_first is None:
        batch_first = bool(getattr(module, "batch_first", False))
    dropout = dropout or float(getattr(module, "dropout", 0.0))
    return from_state_dict(owner, params, "", None, nonlinearity, batch_first, dropout, dtype)


def several_prefixes(owner: str, prefix: Any) -> list[str]:
    """A sequence of names of modules."""
    if not isinstance(prefix, Iterable) or isinstance(prefix, (bytes, Mapping)):
        raise TypeError(_messages.attribute(owner, "prefix", prefix, "a string or a sequence of strings"))
    names = list(prefix)
    if not names:
        raise ValueError(_messages.none_found(owner, "names of modules", "prefix=[]"))
    for name in names:
        if not isinstance(name, str):
            raise TypeError(_messages.no_name(owner, name))
    return names


def relu_or_tanh(module: Any) -> str | None:
    """What ``mode`` says, by which torch's layers choose; cells have a ``nonlinearity``."""
    mode = str(getattr(module, "mode", ""))
    return mode.removeprefix("RNN_").lower() if mode.startswith("RNN_") else None


def from_state_dict(
    owner: str,
    source: Mapping[str, Any],
    prefix: str | None,
    kind: str | None,
    nonlinearity: str | None,
    batch_first: bool | None,
    dropout: float,
    dtype: DTypeLike | None,
    force: bool = False,
) -> Any:
    """A layer from names and arrays; the shapes tell which one."""
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(_messages.attribute(owner, "prefix", prefix, "a string"))
    groups: dict[str, dict[str, Any]] = {}
    for key, value in source.items():
        if not isinstance(key, str):
            raise TypeError(_messages.no_name(owner, key))
        match = KEY.match(key)
        if match:
            groups.setdefault(match["prefix"], {})[match["name"]] = value
    groups = {p: names for p, names in groups.items() if any(name.startswith("weight_hh") for name in names)}
    if prefix is not None:
        groups = {p: names for p, names in groups.items() if p.rstrip(".") == prefix.rstrip(".")}
    if not groups:
        packed = [key for key in source if "_all_weight_values." in key or "_packed_weight" in key]
        if packed:
            raise ValueError(_messages.quantised(owner, f"the state dict, with {packed[0]!r},"))
        looked = "the state dict" + (f" under prefix {prefix!r}" if prefix else "")
        raise ValueError(
            _messages.none_found(owner, "weight_ih_l0 and weight_hh_l0", f"{looked}, of {len(source)} names")
        )
    if len(groups) > 1:
        raise ValueError(_messages.several(owner, "recurrent modules", sorted(groups), SEVERAL))
    chosen, held = next(iter(groups.items()))
    for key in source:
        if key.startswith(f"{chosen}weight_ln_"):
            raise ValueError(_messages.not_read(owner, key, "layer normalisation"))
    others = [key for key in source if key.startswith(chosen) and key[len(chosen) :] not in held]
    if not chosen:  # beside a model's only layer there may be other modules of the model
        others = [key for key in others if "." not in key or is_gain(key, source[key], held)]
    if others and not force:
        raise ValueError(_messages.beside(owner, others))
    # Arrays in a file are read when their shapes are known to fit together.
    params = {name: a if isinstance(a, Stored) else as_weights(owner, name, a) for name, a in held.items()}

    is_cell = "weight_hh" in params
    suffix = "" if is_cell else "_l0"
    sizes = sizes_of(owner, params, is_cell)
    rows = params[f"weight_hh{suffix}"].shape[0]
    found = "LSTM" if sizes.proj_size else gates_of(owner, rows, sizes.hidden_size)
    check_kind(owner, kind)
    if kind not in (None, found):
        why = f"weight_hh{suffix} has shape {params[f'weight_hh{suffix}'].shape}"
        raise ValueError(_messages.kinds_differ(owner, str(kind), found, why))
    dtype = dtype if dtype is not None else float_dtype(params[f"weight_ih{suffix}"])
    options: dict[str, Any] = {"dtype": dtype, "bias": f"bias_ih{suffix}" in params}
    if found == "RNN":
        options["nonlinearity"] = nonlinearity or "tanh"
    elif nonlinearity is not None:
        raise ValueError(
            _messages.contradiction(owner, "nonlinearity", nonlinearity, f"the weights are those of {found}")
        )
    if is_cell:
        cls: Any = CLASSES[f"{found}Cell"]
    else:
        cls = CLASSES[found]
        if sizes.proj_size:
            options["proj_size"] = sizes.proj_size
        options |= {"num_layers": sizes.num_layers, "batch_first": bool(batch_first)}
        options["dropout"] = dropout if sizes.num_layers > 1 else 0.0  # as in torch, it would do nothing
        options["bidirectional"] = "weight_ih_l0_reverse" in params
    return construct(owner, cls, params, sizes.input_size, sizes.hidden_size, options)


def is_gain(key: str, array: Any, held: Mapping[str, Any]) -> bool:
    """Whether an array may scale gates, units or inputs, as a normalisation within the layer does; no bias does."""
    shape: Any = getattr(array, "shape", ())
    sizes = {n for weights in held.values() for n in getattr(weights, "shape", ())}
    return len(shape) == 1 and shape[0] in sizes and not key.endswith("bias")


def to_torch(layer: Any) -> torch.nn.Module:
    """Convert a layer or a cell to an equivalent torch module.

    Parameters
    ----------
    layer : RNN, GRU, LSTM, or RNNCell, GRUCell, LSTMCell
        With options that torch has.

    Returns
    -------
    torch.nn.Module
        With copies of the parameters, and the layer's dtype, dropout and ``batch_first``.

    Raises
    ------
    ValueError
        The layer has an option that torch does not have.

    Notes
    -----
    A layer with one bias gets a second one of zeros.
    """
    owner = "to_torch"
    library = needs(owner, "torch")
    kind = type(layer).__name__
    if kind.removesuffix("Cell") not in GATES:
        raise TypeError(
            _messages.wrong_source(
                owner, layer, "RNN, GRU, LSTM or one of their cells; torch has no module of layers that differ"
            )
        )
    refuse_others(owner, layer, KNOWN, ", as torch has nothing else")
    options = {name: getattr(layer, name) for name, _ in layer._arguments if name in KNOWN}
    options["bias"] = bool(options["bias"])
    options["dtype"] = getattr(library, options["dtype"].name)
    module: torch.nn.Module = getattr(library.nn, kind)(layer.input_size, layer.hidden_size, **options)
    params: dict[str, Array] = layer.state_dict()
    for name in list(params):
        if name.startswith("bias_ih"):
            params.setdefault(name.replace("_ih", "_hh"), np.zeros_like(params[name]))
    module.load_state_dict({name: library.from_numpy(array) for name, array in params.items()})
    return module
