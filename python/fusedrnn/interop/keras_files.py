"""Keras' files without Keras: ``.keras`` (Keras 3) and ``.h5`` (Keras 2 and 3) of a ``Sequential``.

====================  =========================================================================================
Keras                 fusedrnn
====================  =========================================================================================
``Embedding``         `Embedding`; ``mask_zero=True`` is ``padding=0`` of the pipeline
recurrent layers      as `from_keras` reads the layers themselves
``return_sequences``  False in the last recurrent layer is ``last=True`` of the pipeline
``Dense``             `Linear` and the name of its activation; also within ``TimeDistributed``
dropout               nothing, as it acts in training only
====================  =========================================================================================

The HDF5 library reads the weights, through the package h5py. Links to other files and data in other files are refused,
and so are arrays that take more room than the file has.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..embedding import Embedding
from ..linear import Linear
from ..pipeline import Pipeline
from . import _messages
from .conventions import Array, Pair, Part, as_weights, assemble, shaped
from .keras_arrays import of_direction
from .keras_layers import ACTIVATIONS, HARD_SIGMOID_OF_KERAS_2, KINDS, NOTHING, merge_of, state_activation
from .packages import needs
from .stored import faults_of, reading

Path = str | os.PathLike[str]

#: Longest description of a model.
LONGEST_CONFIG = 2**26

#: Largest ratio of an archive's content to the archive, which Keras does not compress.
RATIO = 20

#: Name of a class in the file of weights of Keras 3.
GROUPS = {
    "Embedding": "embedding",
    "SimpleRNN": "simple_rnn",
    "GRU": "gru",
    "LSTM": "lstm",
    "Bidirectional": "bidirectional",
    "Dense": "dense",
    "TimeDistributed": "time_distributed",
}

#: Activations of dense layers -> names in a pipeline.
OF_DENSE = {"linear": None, "relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "softmax": "softmax", "elu": "elu"}

#: Finds the arrays of one part of a layer.
Weights = Callable[[str], list[Array]]


def of_file(owner: str, path: Path, dtype: DTypeLike | None, batch_first: bool) -> tuple[list[Part | Pair], Any]:
    """The recurrent layers of a model in a file, and what `from_keras` returns for it."""
    name = os.fsdecode(os.fspath(path))
    with open(name, "rb") as file, faults_of(owner, name):
        start = file.read(8)
        file.seek(0)
        if start[:2] == b"PK":
            with reading(owner, "the archive"):
                archive = zipfile.ZipFile(file)
            size = os.fstat(file.fileno()).st_size
            version = described(owner, member(owner, archive, "metadata.json", size)).get("keras_version")
            if not isinstance(version, str) or not version.startswith("3."):
                raise ValueError(_messages.attribute(owner, "keras_version", version, "3 (or a .h5 file of Keras 2)"))
            config = described(owner, member(owner, archive, "config.json", size))
            with opened(owner, io.BytesIO(member(owner, archive, "model.weights.h5", size))) as weights:
                return of_model(owner, config, by_class(owner, weights), False, dtype, batch_first)
        if start != b"\x89HDF\r\n\x1a\n":
            raise ValueError(_messages.attribute(owner, "the file", "neither zip nor HDF5", "a .keras or .h5 file"))
        with opened(owner, file) as weights:
            text = weights.attrs.get("model_config")
            if text is None or "model_weights" not in weights:
                expected = "a .keras or .h5 file of a whole model, as the names of activations are there alone"
                raise ValueError(_messages.attribute(owner, "the file", "one of weights without the model", expected))
            old = not str(weights.attrs.get("keras_version", "")).startswith("3")
            return of_model(owner, described(owner, text), by_name(owner, weights), old, dtype, batch_first)


def member(owner: str, archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    """One file of an archive of `size` bytes."""
    with reading(owner, name):
        info = archive.getinfo(name)
    most = RATIO * size + (1 << 20)
    if info.file_size > most:
        raise ValueError(_messages.unpacks_to(owner, name, info.file_size, most, size))
    with reading(owner, name), archive.open(info) as content:
        found: bytes = content.read(info.file_size + 1)
    return found


@contextlib.contextmanager
def opened(owner: str, file: Any) -> Iterator[Any]:
    """An HDF5 file."""
    h5py = needs(owner, "h5py", "a file of Keras")
    with reading(owner, "the HDF5 file"):
        found = h5py.File(file, "r")
    with found:
        yield found


def described(owner: str, text: Any) -> Mapping[str, Any]:
    """An object of JSON."""
    if isinstance(text, (str, bytes)) and len(text) <= LONGEST_CONFIG:
        with reading(owner, "the description of the model"):
            found = json.loads(text)
        if isinstance(found, dict):
            return found
    raise ValueError(_messages.attribute(owner, "the description of the model", type(text).__name__, "a JSON object"))


# ---- arrays


def child(owner: str, group: Any, path: str) -> Any:
    """A group or a dataset below a group, along links within the file."""
    h5py = needs(owner, "h5py")
    with reading(owner, path):
        for name in path.split("/"):
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(_messages.attribute(owner, path, "not there, or a link", "weights in the file"))
            group = group[name]
    return group


def array_of(owner: str, dataset: Any, path: str) -> Array:
    """A dataset whose numbers are all in the file."""
    h5py = needs(owner, "h5py")
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise ValueError(_messages.attribute(owner, path, type(dataset).__name__, "an array in the file"))
    there = dataset.id.get_storage_size()
    if dataset.nbytes > there and dataset.nbytes > 2**20:
        raise ValueError(_messages.attribute(owner, f"the size of {path}", dataset.nbytes, f"{there}, as the file has"))
    with reading(owner, path):
        found = np.asarray(dataset[()])
    return as_weights(owner, path, found)


def by_class(owner: str, file: Any) -> Callable[[str, str], Weights]:
    """Weights of Keras 3: layers are counted by class; the parts of a layer are groups with numbered arrays."""
    counts: Counter[str] = Counter()

    def of_layer(kind: str, _: str) -> Weights:
        base = GROUPS[kind]
        number = counts[base]
        counts[base] += 1
        place = f"layers/{base}" + (f"_{number}" if number else "")

        def arrays(part: str) -> list[Array]:
            path = "/".join(name for name in (place, part, "vars") if name)
            group = child(owner, file, path)
            names = sorted(group, key=lambda name: (len(name), name))
            return [array_of(owner, child(owner, group, name), f"{path}/{name}") for name in names]

        return arrays

    return of_layer


def by_name(owner: str, file: Any) -> Callable[[str, str], Weights]:
    """Weights of .h5 files: a list of names for each layer; those of two directions are halves of the list."""

    def of_layer(_: str, name: str) -> Weights:
        group = child(owner, child(owner, file, "model_weights"), name)
        with reading(owner, f"the names of weights of {name!r}"):
            names = [n.decode() if isinstance(n, bytes) else str(n) for n in group.attrs["weight_names"]]
        arrays = [array_of(owner, child(owner, group, path), path) for path in names]

        def of_part(part: str) -> list[Array]:
            half = len(arrays) // 2
            return arrays[:half] if part.startswith("forward") else arrays[half:] if part.startswith("back") else arrays

        return of_part

    return of_layer


# ---- layers


def of_model(
    owner: str,
    model: Mapping[str, Any],
    weights: Callable[[str, str], Weights],
    old: bool,
    dtype: DTypeLike | None,
    batch_first: bool,
) -> tuple[list[Part | Pair], Any]:
    """The recurrent layers, and a layer if there are only such, otherwise a pipeline."""
    if model.get("class_name") != "Sequential":
        expected = "'Sequential' (convert the recurrent layers of other models one by one)"
        raise ValueError(_messages.attribute(owner, "the model", model.get("class_name"), expected))
    config = model.get("config")
    layers = config.get("layers") if isinstance(config, Mapping) else config
    if not isinstance(layers, list):
        raise ValueError(_messages.attribute(owner, "layers", layers, "a list of layers"))
    around: list[list[Any]] = [[], []]  # (weight, bias, activation) of dense layers, and activations alone
    words: Array | None = None
    parts: list[Part | Pair] = []
    padding: int | None = None
    last = False
    for layer in layers:
        kind, own = class_and_config(owner, layer, dtype is not None)
        name = own.get("name")
        what = f"{kind} {name!r}"
        above = around[1 if parts else 0]
        if kind in NOTHING:
            continue
        if kind == "Activation":
            above += activation_of(owner, what, own)
            continue
        if kind not in GROUPS or not isinstance(name, str):
            raise ValueError(_messages.no_counterpart(owner, what))
        arrays = weights(kind, name)
        if kind == "Embedding":
            (words,) = counted(owner, what, arrays(""), 1)
            shaped(owner, f"the weights of {what}", words, "tokens", "features")
            padding = 0 if own.get("mask_zero") else None
            if parts or around[0]:
                raise ValueError(_messages.attribute(owner, what, "above other layers", "an Embedding at the start"))
        elif kind in ("Dense", "TimeDistributed"):
            if kind == "TimeDistributed":
                inner, own = class_and_config(owner, own.get("layer"), dtype is not None)
                if inner != "Dense":
                    raise ValueError(_messages.no_counterpart(owner, f"{what} of {inner}"))
            found = arrays("layer" if kind == "TimeDistributed" else "")
            found = counted(owner, what, found, 2 if own.get("use_bias", True) else 1)
            shaped(owner, f"the kernel of {what}", found[0], "inputs", "units")
            above += [found, *activation_of(owner, what, own)]
        else:
            if around[1] or last:
                expected = "recurrent layers right upon each other, all but the last with return_sequences=True"
                raise ValueError(_messages.attribute(owner, what, "above other layers", expected))
            part, sequences = of_recurrent(owner, what, kind, own, arrays, old, dtype is not None)
            parts.append(part)
            last = not sequences
    if not parts:
        raise ValueError(_messages.none_found(owner, "recurrent layer", f"{len(layers)} layers"))
    recurrent = assemble(owner, parts, dtype, batch_first=batch_first)
    if words is None and not around[0] and not around[1]:
        return parts, recurrent
    below: list[Any] = []
    if words is not None:
        embedding = Embedding.__new__(Embedding)
        embedding._restore({}, words.shape[0], words.shape[1], {"dtype": recurrent.dtype}, rng=0)
        embedding.load_state_dict({"weight": words})
        below.append(embedding)
    dense = [[linear(item, recurrent.dtype) for item in side] for side in around]
    try:
        return parts, Pipeline([*below, *dense[0], recurrent, *dense[1]], last=last, padding=padding)
    except ValueError as error:
        raise ValueError(_messages.in_file(owner, error, None)) from None


def class_and_config(owner: str, layer: Any, rounded: bool) -> tuple[str, Mapping[str, Any]]:
    """The class of a layer, which has to be Keras' own, and its arguments."""
    kind = layer.get("class_name") if isinstance(layer, Mapping) else None
    config = layer.get("config") if isinstance(layer, Mapping) else None
    if not isinstance(kind, str) or not isinstance(config, Mapping):
        raise ValueError(_messages.attribute(owner, "a layer", kind, "a class_name and a config"))
    home = layer.get("module") or "keras.layers"
    if layer.get("registered_name") not in (None, kind) or not str(home).startswith("keras"):
        raise ValueError(_messages.no_counterpart(owner, f"{kind} of {home}, registered by the user,"))
    policy = config.get("dtype")
    said = policy.get("config", {}).get("name") if isinstance(policy, Mapping) else policy
    if said not in (None, "float32", "float64") and kind not in NOTHING:
        if not isinstance(said, str) or "int" in said or "float8" in said:
            raise ValueError(_messages.quantised(owner, f"{kind} (dtype policy {said!r})"))
        if not rounded:
            raise ValueError(_messages.computes_in(owner, kind, said))
    return kind, config


def counted(owner: str, what: str, arrays: list[Array], count: int) -> list[Array]:
    """Arrays, of which there have to be so many."""
    if len(arrays) != count:
        raise ValueError(_messages.attribute(owner, f"the number of weights of {what}", len(arrays), str(count)))
    return arrays


def activation_of(owner: str, what: str, config: Mapping[str, Any]) -> list[str]:
    """The activation of a dense layer as a part of a pipeline, none for linear."""
    name = config.get("activation") or "linear"
    if not isinstance(name, str) or name not in OF_DENSE:
        expected = f"one of {_messages.listed(OF_DENSE)}"
        raise ValueError(_messages.attribute(owner, f"the activation of {what}", name, expected))
    ours = OF_DENSE[name]
    return [] if ours is None else [ours]


def linear(item: Any, dtype: np.dtype[Any]) -> Any:
    """A dense layer of its arrays; the name of an activation stays."""
    if isinstance(item, str):
        return item
    kernel = item[0]
    made = Linear.__new__(Linear)
    made._restore({}, kernel.shape[0], kernel.shape[1], {"bias": len(item) == 2, "dtype": dtype}, rng=0)
    made.load_state_dict({"weight": kernel.T} | ({"bias": item[1]} if len(item) == 2 else {}))
    return made


def of_recurrent(
    owner: str, what: str, kind: str, config: Mapping[str, Any], arrays: Weights, old: bool, rounded: bool
) -> tuple[Part | Pair, bool]:
    """A recurrent layer, or two directions, and whether it puts out all steps."""
    if kind != "Bidirectional":
        part, sequences = of_direction_of(owner, what, kind, config, arrays("cell"), old)
        if config.get("go_backwards"):
            if sequences:
                expected = "False with return_sequences, as Keras leaves the steps reversed"
                raise ValueError(_messages.attribute(owner, f"go_backwards of {what}", True, expected))
            part.options["backwards"] = True
        return part, sequences
    ways: list[Part] = []
    sequences = True
    inner, forward = class_and_config(owner, config.get("layer"), rounded)
    other = config.get("backward_layer")
    kinds = [(inner, forward), (inner, forward) if other is None else class_and_config(owner, other, rounded)]
    for (own, options), place in zip(kinds, ("forward_layer/cell", "backward_layer/cell"), strict=True):
        if own not in KINDS or own not in GROUPS:
            raise ValueError(_messages.no_counterpart(owner, f"{what} of {own}"))
        part, sequences = of_direction_of(owner, what, own, options, arrays(place), old)
        ways.append(part)
    if forward.get("go_backwards") or (other is not None and not kinds[1][1].get("go_backwards")):
        raise ValueError(_messages.attribute(owner, f"go_backwards of {what}", "other", "False forward, True backward"))
    return Pair(ways[0], ways[1], merge_of(owner, config.get("merge_mode", "concat"))).as_one(), sequences


def of_direction_of(
    owner: str, what: str, kind: str, config: Mapping[str, Any], arrays: Sequence[Array], old: bool
) -> tuple[Part, bool]:
    """One direction of a layer."""
    found = counted(owner, what, list(arrays), 3 if config.get("use_bias", True) else 2)
    ours = KINDS[kind]
    options: dict[str, Any] = {}
    for name, default in (("activation", "tanh"), ("recurrent_activation", "sigmoid"))[: 1 if ours == "RNN" else 2]:
        theirs = config.get(name) or "linear"
        if not isinstance(theirs, str) or theirs not in ACTIVATIONS:
            expected = f"one of {_messages.listed(ACTIVATIONS)}"
            raise ValueError(_messages.attribute(owner, f"{name} of {what}", theirs, expected))
        value = HARD_SIGMOID_OF_KERAS_2 if theirs == "hard_sigmoid" and old else ACTIVATIONS[theirs]
        if name == "activation":
            options |= state_activation(ours, value)
        elif theirs != default:
            options[name] = value
    read = of_direction(owner, found, config.get("reset_after") if ours == "GRU" else None)
    if read.kind != ours:
        shape = read.directions[0].W_hh.shape[::-1]
        raise ValueError(_messages.kinds_differ(owner, ours, read.kind, f"the recurrent kernel has shape {shape}"))
    if read.reset_after is False:
        options["reset_after"] = False
    return Part(ours, read.directions, options), bool(config.get("return_sequences", False))
