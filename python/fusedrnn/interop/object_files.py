"""`fusedrnn.save` and `fusedrnn.load`: layers, groups, frozen objects, and dicts and lists of these, in one file.

The file is a safetensors file, which other programs can read: its tensors have torch's names behind the places of
their layers, ``model.0.weight_ih_l0``. Everything else is one string of JSON in the metadata, a tree of

=============================  ======================================================================================
JSON                           stands for
=============================  ======================================================================================
null, true, 3, 0.5, "text"     the same of Python
[...]                          a list
{"is": "number", "value": v}   a float that JSON lacks: "nan", "inf" or "-inf"
{"is": "tuple", "items": l}    a tuple
{"is": "dict", "pairs": l}     a dict, as a list of [key, value]; keys are strings or integers
{"is": "array", "tensor": n}   an array: the tensor of this name
{"is": "layer", ...}           a layer, a cell, an `Embedding` or a `Linear`: its class, the arguments of its
                               constructor, the tensor of each of its parameters, and its generator's number
{"is": "group", ...}           a `Stack`, `Bidirectional` or `Ensemble`: its members, and arguments as of a layer
{"is": "frozen", ...}          the layer or group from which it was made, and the arguments of ``freeze``
{"is": "pipeline", ...}        a `Pipeline`: its parts, and arguments as of a layer
=============================  ======================================================================================

Nothing else is read, so that a file cannot run code. A later kind of node needs no new version, as a reader that does
not know a node refuses the file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..bidirectional import Bidirectional
from ..ensemble import Ensemble
from ..frozen import FrozenLayer
from ..frozen_mixer import FrozenMixer
from ..groups import FrozenGroup, LayerGroup
from ..parameters import CLASSES
from ..pipeline import Pipeline
from ..stack import Stack
from . import _messages
from .conventions import fitting
from .descriptions import (
    KEY,
    MIXERS,
    POSITION_WISE,
    checked_arguments,
    fitting_layer,
    is_layer,
    is_mixer,
    is_position_wise,
    mixer_of,
    restore,
)
from .generators import generator_of, state_of
from .safetensors_files import CHECKSUM, CODES, check_sum, tensors_of, write_tensors
from .stored import Array, Stored, faults_of
from .written_files import Path, replacing

#: Version of the tree; version 1 is the JSON of one layer, of `descriptions`.
VERSION = 2

#: Most levels of lists, dicts and groups within each other.
MOST_LEVELS = 64

GROUPS: dict[str, Any] = {"Stack": Stack, "Bidirectional": Bidirectional, "Ensemble": Ensemble}

SAVED = (
    "layers, cells, Embedding, Linear, Stack, Bidirectional, Ensemble, frozen ones of these, Pipeline, arrays of real "
    "numbers, numbers, strings, None, and dicts, lists and tuples of all of these"
)


def save(path: Path, value: Any) -> None:
    """Write a layer, a group, a frozen one of these, or a dict or list of such things into one file.

    Parameters
    ----------
    path : path
        Any name. An existing file is replaced at once: another program that reads the file finds the whole old one or
        the whole new one, even if the process ends meanwhile.
    value : layer, cell, Embedding, Linear, group, FrozenLayer, FrozenGroup, Pipeline, or a tree
        Groups are Stack, Bidirectional and Ensemble. A tree is made of dicts (whose keys are strings or integers),
        lists, tuples, arrays of real numbers or bools, numbers, strings and None, such as
        ``{"model": net, "optimizer": optimizer.state_dict(), "step": 12}``.

    Raises
    ------
    TypeError
        Something in `value` is none of these, for example an object of a user's subclass, whose code no file keeps;
        `value` itself or the place in it is named.
    ValueError
        `value` contains itself, or `path` is a folder or a device.
    OSError
        The file cannot be written.

    See Also
    --------
    load

    Notes
    -----
    The file is a safetensors file (https://huggingface.co/docs/safetensors), written with NumPy alone. Other programs
    find the arrays in it under torch's names, `fusedrnn.interop.from_torch` included. Options and generators (``rng``)
    are kept, so that training goes on with the bits it would have had; layers that share a generator share it after
    loading, too. Arrays that several layers share become separate ones. Scalars of NumPy become Python's.

    Examples
    --------
    >>> import fusedrnn, os, tempfile
    >>> net = fusedrnn.Stack([fusedrnn.LSTM(3, 8), fusedrnn.GRU(8, 5)])
    >>> path = os.path.join(tempfile.mkdtemp(), "net.safetensors")
    >>> fusedrnn.save(path, {"model": net, "step": 12})
    >>> loaded = fusedrnn.load(path)
    >>> loaded["model"] == net, loaded["step"]
    (True, 12)
    """
    owner = "save"
    writer = Writer(owner)
    tree = writer.node(value, "", 0)
    description: dict[str, Any] = {"version": VERSION, "tree": tree}
    if writer.generators:
        description["generators"] = [writer.node(state, "generator", 0) for state in writer.generators]
    text = json.dumps(description, allow_nan=False, separators=(",", ":"))
    with replacing(owner, path) as file:
        write_tensors(file, writer.arrays, {KEY: text})


def load(path: Path) -> Any:
    """Read what `fusedrnn.save` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    layer, cell, Embedding, Linear, group, FrozenLayer, FrozenGroup, Pipeline, or a tree
        As it was saved. Frozen objects are packed anew, for the CPU that loads them.

    Raises
    ------
    ValueError
        The file is damaged (every changed byte is noticed), is no such file, or was written by a later version.
    OSError
        There is no such file, or it cannot be read.

    See Also
    --------
    save

    Notes
    -----
    Safe for files of unknown origin: the file holds arrays and a description, nothing in it is run, and no memory is
    taken that the size of the file does not justify. Files of `fusedrnn.interop.save_safetensors` are read, too.

    Examples
    --------
    >>> import fusedrnn, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "frozen.safetensors")
    >>> frozen = fusedrnn.GRU(3, 5).freeze()
    >>> fusedrnn.save(path, frozen)
    >>> fusedrnn.load(path) == frozen
    True
    """
    owner = "load"
    name = os.fspath(path)
    with open(name, "rb") as file, faults_of(owner, os.fsdecode(name)):
        start = file.read(4)
        if start[:2] == b"PK":
            raise ValueError(_messages.no_file_of_ours(owner, "a zip archive", "interop.load_npz reads npz files"))
        if start == b"\x89HDF":
            raise ValueError(_messages.no_file_of_ours(owner, "an HDF5 file", "interop.from_keras reads Keras' files"))
        arrays, metadata = tensors_of(owner, file)
        description = metadata.get(KEY)
        if description is None:
            reader = "interop.load_safetensors reads state dicts of others"
            raise ValueError(_messages.no_file_of_ours(owner, "a safetensors file of another program", reader))
        if CHECKSUM in metadata:
            check_sum(owner, file)
        return read_description(owner, description, arrays, CHECKSUM in metadata)


def read_description(owner: str, description: Any, arrays: Mapping[str, Stored], checked: bool) -> Any:
    """The objects of a file of either version; `checked`: it has the right checksum, which only version 1 may lack."""
    if not isinstance(description, str):
        raise ValueError(_messages.attribute(owner, KEY, description, "a string of JSON"))
    try:
        record = json.loads(description, parse_constant=no_constant)
        version = record["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(_messages.no_description(owner, KEY, error)) from None
    if type(version) is not int or version < 1:
        raise ValueError(_messages.attribute(owner, "the file's version", version, f"1 to {VERSION}"))
    if version > VERSION:
        raise ValueError(_messages.later_version(owner, version, VERSION))
    if version > 1 and not checked:
        raise ValueError(_messages.no_checksum(owner))
    if version == 1:
        return restore(owner, description, arrays, None)
    reader = Reader(owner, arrays)
    try:
        states = record.get("generators", [])
        if not isinstance(states, list):
            raise ValueError(_messages.attribute(owner, "generators", states, "a list"))
        reader.generators = [generator_of(owner, reader.value(state, 0)) for state in states]
        return reader.value(record["tree"], 0)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(_messages.no_description(owner, KEY, error)) from None


def no_constant(name: str) -> float:
    """NaN and Infinity, which JSON does not have."""
    raise ValueError(_messages.attribute("load", "a number of the description", name, "a finite one"))


class Writer:
    """Turns a value into JSON, and collects its arrays and generators."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.arrays: dict[str, Array] = {}
        self.generators: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}  # id of a generator -> its number
        self._kept: list[Any] = []  # generators, so that no other object gets the id of one

    def node(self, value: Any, place: str, level: int) -> Any:
        """The JSON of a value; `place` says where it is, and names its tensors."""
        if level > MOST_LEVELS:
            expected = f"at most {MOST_LEVELS} levels of lists, dicts and groups within each other"
            raise ValueError(_messages.attribute(self.owner, "the value", "nested deeper, or within itself", expected))
        if value is None or isinstance(value, (bool, np.bool_)):
            return None if value is None else bool(value)
        if isinstance(value, (str, int, np.integer)):
            return str(value) if isinstance(value, str) else int(value)
        if isinstance(value, (float, np.floating)) and np.dtype(type(value)).itemsize <= 8:
            number = float(value)
            return number if math.isfinite(number) else {"is": "number", "value": repr(number)}
        if type(value) is list:
            return [self.node(item, joined(place, k), level + 1) for k, item in enumerate(value)]
        if isinstance(value, tuple):
            return {"is": "tuple", "items": [self.node(v, joined(place, k), level + 1) for k, v in enumerate(value)]}
        if isinstance(value, Mapping):
            return {"is": "dict", "pairs": [self.pair(k, v, place, level) for k, v in value.items()]}
        if isinstance(value, np.ndarray):
            return {"is": "array", "tensor": self.tensor(value, place)}
        return self.thing(value, place, level)

    def pair(self, key: Any, value: Any, place: str, level: int) -> list[Any]:
        """An entry of a dict."""
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            raise TypeError(_messages.not_saved(self.owner, f"a key of {place or 'the dict'}", key, "str or int"))
        own = key if isinstance(key, str) else int(key)
        return [str(own) if isinstance(own, str) else own, self.node(value, joined(place, own), level + 1)]

    def thing(self, value: Any, place: str, level: int) -> dict[str, Any]:
        """An object of the package."""
        if is_layer(value) or is_position_wise(value) or is_mixer(value):
            value._arrays()  # refuses parameters that do not fit
            generator = self.generator(value.rng)
            return self.layer(type(value).__name__, value._config(), value.params, place) | {"generator": generator}
        if GROUPS.get(type(value).__name__) is type(value):
            group = self.group(value, place, level)
            return group | ({"generator": self.generator(value.rng)} if hasattr(value, "rng") else {})
        if type(value) in (FrozenLayer, FrozenGroup, FrozenMixer):
            source = self.source(value, place, level)
            return {"is": "frozen", "of": source, "arguments": {"precision": value.precision}}
        if type(value) is Pipeline:
            parts = [self.node(part, joined(place, k), level + 1) for k, part in enumerate(value.parts)]
            options = {"last": value.last, "padding": value.padding, "skip": value.skip}
            return {"is": "pipeline", "parts": parts, "arguments": options}
        expected = SAVED
        if isinstance(value, LayerGroup) or hasattr(value, "state_dict"):
            expected = "an object of the package's own classes (save its state_dict() instead)"
        raise TypeError(_messages.not_saved(self.owner, place or "the value", value, expected))

    def layer(self, name: str, config: Mapping[str, Any], params: Mapping[str, Array], place: str) -> dict[str, Any]:
        """A layer's class, arguments and parameters."""
        arguments = {n: v.name if isinstance(v, np.dtype) else self.node(v, "", 0) for n, v in config.items()}
        arrays = {own: self.tensor(array, joined(place, own)) for own, array in params.items()}
        return {"is": "layer", "class": name, "arguments": arguments, "arrays": arrays}

    def group(self, group: LayerGroup, place: str, level: int) -> dict[str, Any]:
        """A group's members, which may be frozen, and arguments."""
        members = []
        for name, member in group._members.items():
            there = joined(place, name)
            if isinstance(member, (FrozenLayer, FrozenGroup, FrozenMixer)):
                members.append(self.source(member, there, level + 1))
            else:
                members.append(self.node(member, there, level + 1))
        arguments = {name: self.node(value, "", 0) for name, value in group._config().items()}
        return {"is": "group", "class": type(group).__name__, "members": members, "arguments": arguments}

    def source(self, frozen: FrozenLayer | FrozenGroup | FrozenMixer, place: str, level: int) -> dict[str, Any]:
        """The layer or group from which a frozen one was made."""
        if isinstance(frozen, FrozenMixer):
            own = frozen._layer
            if not is_mixer(own):
                raise TypeError(_messages.not_saved(self.owner, place or "the value", own, SAVED))
            return self.layer(type(own).__name__, own._config(), frozen.params, place)
        if isinstance(frozen, FrozenGroup):
            if GROUPS.get(type(frozen._group).__name__) is not type(frozen._group):
                raise TypeError(_messages.not_saved(self.owner, place or "the value", frozen._group, SAVED))
            return self.group(frozen._group, place, level)
        if frozen._made_of is None:
            expected = "one that was frozen by this version from a layer of the package's own classes"
            raise TypeError(_messages.not_saved(self.owner, place or "the value", frozen, expected))
        name, config = frozen._made_of
        return self.layer(name, config, frozen.params, place)

    def tensor(self, array: Array, place: str) -> str:
        """Keep an array under the name of its place."""
        if isinstance(array, np.ma.MaskedArray) or array.dtype.newbyteorder("=") not in CODES:
            expected = "arrays of " + ", ".join(sorted(dtype.name for dtype in CODES))
            found = f"{place or 'the value'} (dtype {array.dtype})"
            raise TypeError(_messages.not_saved(self.owner, found, array, expected))
        name = base = place.encode("utf-8", "replace").decode("utf-8") or "array"
        k = 1
        while name in self.arrays or name == "__metadata__":
            k += 1
            name = f"{base}#{k}"
        self.arrays[name] = array
        return name

    def generator(self, rng: np.random.Generator) -> int:
        """The number of a generator, which is the same for all layers that share it."""
        number = self._numbers.get(id(rng))
        if number is None:
            number = self._numbers[id(rng)] = len(self.generators)
            self._kept.append(rng)
            self.generators.append(state_of(self.owner, rng))
        return number


def joined(place: str, name: object) -> str:
    """The place of a part."""
    return f"{place}.{name}" if place else str(name)


class Reader:
    """Turns the JSON of a file into what was saved, and reads each array when it is needed."""

    def __init__(self, owner: str, arrays: Mapping[str, Stored]) -> None:
        self.owner = owner
        self.arrays = arrays
        self.generators: list[np.random.Generator] = []

    def value(self, node: Any, level: int) -> Any:
        """What a node stands for."""
        if level > MOST_LEVELS:
            expected = f"at most {MOST_LEVELS} levels"
            raise ValueError(_messages.attribute(self.owner, "the file's tree", "deeper", expected))
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        if isinstance(node, list):
            return [self.value(item, level + 1) for item in node]
        kind = node["is"]
        if kind == "number":
            if node["value"] not in ("nan", "inf", "-inf"):
                raise ValueError(_messages.attribute(self.owner, "a number", node["value"], "nan, inf or -inf"))
            return float(node["value"])
        if kind == "tuple":
            return tuple(self.value(self.listed(node, "items"), level + 1))
        if kind == "dict":
            return self.dict_of(self.listed(node, "pairs"), level)
        if kind == "array":
            return self.stored(node["tensor"]).read()
        if kind == "layer":
            return self.layer(node)
        if kind == "group":
            return self.group(node, level)
        if kind == "frozen":
            return self.frozen(node, level)
        if kind == "pipeline":
            return self.pipeline(node, level)
        raise ValueError(_messages.attribute(self.owner, "a node of the file's tree", kind, "a known kind"))

    def listed(self, node: Mapping[str, Any], name: str) -> list[Any]:
        """An entry that is a list."""
        if not isinstance(node[name], list):
            raise ValueError(_messages.attribute(self.owner, name, node[name], "a list"))
        found: list[Any] = node[name]
        return found

    def dict_of(self, pairs: list[Any], level: int) -> dict[Any, Any]:
        """A dict whose keys are strings or integers and occur once."""
        found: dict[Any, Any] = {}
        for key, value in pairs:
            if type(key) not in (str, int) or key in found:
                raise ValueError(_messages.attribute(self.owner, "a key", key, "a string or an integer, once"))
            found[key] = self.value(value, level + 1)
        return found

    def stored(self, name: Any) -> Stored:
        """The tensor of a name."""
        if not isinstance(name, str) or name not in self.arrays:
            raise ValueError(_messages.attribute(self.owner, "the name of a tensor", name, "one of the file"))
        return self.arrays[name]

    def arguments(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a constructor."""
        if not isinstance(node["arguments"], dict):
            raise ValueError(_messages.attribute(self.owner, "the file's arguments", node["arguments"], "an object"))
        return {name: self.value(value, 0) for name, value in node["arguments"].items()}

    def generator(self, node: Mapping[str, Any]) -> np.random.Generator | None:
        """The generator of a layer."""
        number = node.get("generator")
        if number is None:
            return None
        if type(number) is not int or not 0 <= number < len(self.generators):
            expected = f"one of {len(self.generators)}"
            raise ValueError(_messages.attribute(self.owner, "the number of a generator", number, expected))
        return self.generators[number]

    def layer(self, node: Mapping[str, Any]) -> Any:
        """A layer or a cell."""
        name, arguments = node["class"], self.arguments(node)
        arrays = {own: self.stored(tensor) for own, tensor in node["arrays"].items()}
        if isinstance(name, str) and name in MIXERS:
            layer = mixer_of(self.owner, name, arguments, arrays)
        else:
            cls, arguments = checked_arguments(self.owner, name, arguments, CLASSES | POSITION_WISE)
            layer = fitting_layer(self.owner, cls, arguments, arrays)
        rng = self.generator(node)
        if rng is not None:
            layer.rng = rng
        return layer

    def group(self, node: Mapping[str, Any], level: int) -> Any:
        """A group of layers."""
        name, arguments = node["class"], self.arguments(node)
        if not isinstance(name, str) or name not in GROUPS:
            raise ValueError(_messages.attribute(self.owner, "the file's group", name, f"one of {', '.join(GROUPS)}"))
        members = [self.value(member, level + 1) for member in self.listed(node, "members")]
        if name == "Stack":
            dropout = arguments.pop("dropout", 0.0)
            group = fitting(self.owner, Stack, members)
            group.dropout = dropout  # may have been set later, where it has no effect, so there is no warning
            rng = self.generator(node)
            if rng is not None:
                group.rng = rng
        elif name == "Bidirectional":
            if len(members) != 2:
                raise ValueError(_messages.attribute(self.owner, "the number of directions", len(members), "2"))
            group = fitting(self.owner, Bidirectional, *members, arguments.pop("merge", "concat"))
        else:
            group = fitting(self.owner, Ensemble, members)
        if arguments:
            raise ValueError(_messages.attribute(self.owner, f"the arguments of {name}", arguments, "known ones"))
        return group

    def frozen(self, node: Mapping[str, Any], level: int) -> Any:
        """A frozen layer or group."""
        source = self.value(node["of"], level + 1)
        if not hasattr(source, "freeze"):
            raise ValueError(_messages.attribute(self.owner, "what was frozen", source, "a layer or a group"))
        arguments = self.arguments(node)
        unknown = sorted(set(arguments) - {"precision"})
        if unknown:
            raise ValueError(_messages.attribute(self.owner, "the arguments of freeze", unknown, "precision alone"))
        return source.freeze(**arguments)

    def pipeline(self, node: Mapping[str, Any], level: int) -> Pipeline:
        """Parts in a row."""
        parts = [self.value(part, level + 1) for part in self.listed(node, "parts")]
        options = self.arguments(node)
        unknown = sorted(set(options) - {"last", "padding", "skip"})
        if unknown:
            raise ValueError(_messages.attribute(self.owner, "the arguments of Pipeline", unknown, "known ones"))
        try:
            return Pipeline(parts, **options)
        except (ValueError, TypeError) as error:
            raise ValueError(_messages.in_file(self.owner, error, None)) from None
