"""ncnn -> fusedrnn: ``LSTM``, ``GRU`` and ``RNN`` of a ``.param`` and a ``.bin`` file.

====================  =========================================================================================
ncnn                  fusedrnn
====================  =========================================================================================
gates                 rows: LSTM i f o g, GRU r z n (called R U N), RNN
order in the file     for all directions: ``weight_xc`` (D, G*H, I), ``bias_c``, ``weight_hc`` (D, G*H, P), and
                      with a projection ``weight_hr`` (D, P, H)
biases                LSTM (D, 4, H) and RNN (D, H): a single bias. GRU (D, 4, H): r, z, n of the input, n of the state;
                      reset after the product, two biases of which the second is zero but for n
update gate           the same: h' = (1 - z) * n + z * h
``direction``         0 forwards, 1 ``backwards=True`` (outputs stay aligned), 2 both, concatenated
axes                  one sequence (T, I), as any layer here takes it
numbers               float32, float16, or indices into a table of 256 floats; int8 is refused, as ncnn rounds its
                      inputs, too
====================  =========================================================================================

Source: the layers' load_param and load_model in src/layer/, and modelbin.cpp and paramdict.cpp of ncnn. The arrays in a
``.bin`` file have no names, so that the sizes of all layers before a recurrent one have to be known: see `BEFORE`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from . import _messages
from .conventions import GATES, Array, Direction, Part, assemble, reorder
from .stored import faults_of
from .weights_torch import several_prefixes

Path = str | os.PathLike[str]

#: First line of a ``.param`` file.
MAGIC = "7767517"

#: Largest ``.param`` file and largest value in it.
LARGEST_FILE, LARGEST_VALUE = 2**24, 2**31 - 1

#: ncnn's gate orders in our letters.
NCNN_GATES = {"RNN": "h", "GRU": "rzn", "LSTM": "ifog"}

#: Marks before an array: float16, int8, float32.
HALF, INT8, FLOAT = 0x01306B47, 0x000D4B38, 0x0002C056

#: Layers with weights that may stand before a recurrent one: parameters that hold the sizes of arrays with a mark, and
#: of arrays without; a pair is a size that counts only if the other parameter is not zero.
BEFORE: dict[str, tuple[list[Any], list[Any]]] = {
    "InnerProduct": ([2], [(0, 1)]),
    "Convolution": ([6], [(0, 5)]),
    "Convolution1D": ([6], [(0, 5)]),
    "ConvolutionDepthWise": ([6], [(0, 5)]),
    "ConvolutionDepthWise1D": ([6], [(0, 5)]),
    "Embed": ([3], [(0, 2)]),
    "BatchNorm": ([], [0, 0, 0, 0]),
    "LayerNorm": ([], [(0, 2), (0, 2)]),
    "PReLU": ([], [0]),
}
#: Values of parameters that a file leaves out, by layer; all others are 0.
DEFAULTS = {"LayerNorm": {2: 1}}

#: Layers without weights.
WEIGHTLESS = frozenset(
    {
        *("Input", "Split", "Permute", "Reshape", "ReLU", "Sigmoid", "TanH", "Softmax", "Concat", "Slice", "Crop"),
        *("Squeeze", "ExpandDims", "Dropout", "Noop", "BinaryOp", "UnaryOp", "Pooling", "Pooling1D", "Flatten", "Clip"),
        *(
            "ELU",
            "SELU",
            "GELU",
            "Swish",
            "HardSigmoid",
            "HardSwish",
            "Mish",
            "Eltwise",
            "Padding",
            "Reduction",
            "Cast",
        ),
        *("AbsVal", "Exp", "Log", "Power", "Threshold", "Packing", "Interp", "ShuffleChannel", "MatMul"),
    }
)


class Line(NamedTuple):
    """One layer of a ``.param`` file."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    params: dict[int, int | None]  # None for what is no integer

    def value(self, owner: str, key: int, default: int = 0) -> int:
        """An integer that is not negative."""
        value = self.params.get(key, DEFAULTS.get(self.kind, {}).get(key, default))
        if value is None or value < 0:
            raise ValueError(
                _messages.attribute(owner, f"{key}= of {self.kind} {self.name!r}", value, "an integer >= 0")
            )
        return value


def load_ncnn(
    param: Path, bin: Path, layer: str | Sequence[str] | None = None, *, dtype: DTypeLike | None = None
) -> Any:
    """Read a recurrent layer from the two files of an ncnn model.

    Parameters
    ----------
    param, bin : path
        The text and the weights, ``model.param`` and ``model.bin``.
    layer : str, sequence of str, or None
        The name of the layer, or the names of stacked ones from bottom to top. None means the only one, or all if each
        reads the outputs of the one before.
    dtype : float32, float64 or None
        None means float32.

    Returns
    -------
    RNN, GRU, LSTM or Stack

    Raises
    ------
    ValueError
        A file is damaged; there is no recurrent layer, or several; one is quantised to int8; a layer before it is of a
        kind whose arrays are unknown.
    OSError
        There is no such file, or it cannot be read.

    Notes
    -----
    Sizes are compared with the size of the file before any array is read. Initial states that the model itself
    computes are not converted: give them to the layer.

    Examples
    --------
    >>> import fusedrnn, numpy as np, pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> param, bin = folder / "gru.param", folder / "gru.bin"
    >>> _ = param.write_text("7767517\\n2 2\\nInput in 0 1 x\\nGRU gru 1 1 x y 0=5 1=45 2=0\\n")
    >>> arrays = [np.zeros(n, "<f4") for n in (45, 20, 75)]  # weight_xc, bias_c, weight_hc
    >>> _ = bin.write_bytes(b"".join(bytes(4) + array.tobytes() for array in arrays))
    >>> fusedrnn.interop.load_ncnn(param, bin)
    GRU(3, 5)
    """
    owner = "load_ncnn"
    with open(param, "rb") as file, faults_of(owner, os.fspath(param)):
        content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ValueError(_messages.too_large(owner, "the .param file", "more bytes", f"{LARGEST_FILE} bytes"))
        lines = lines_of(owner, content)
        names = chosen(owner, lines, layer)
    with open(bin, "rb") as file, faults_of(owner, os.fspath(bin)):
        reader = Reader(owner, file)
        parts = {}
        left = set(names)
        for line in lines:
            if not left:
                break
            if line.kind in NCNN_GATES:
                part = reader.recurrent(line, line.name in left)
                if part is not None:
                    parts[line.name] = part
                    left.discard(line.name)
            else:
                reader.skip(line)
        stacked = [parts[name] for name in names]
        return assemble(owner, stacked, np.float32 if dtype is None else dtype)


def lines_of(owner: str, content: bytes) -> list[Line]:
    """The layers of a ``.param`` file."""
    try:
        rows = [row.split() for row in content.decode("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(_messages.unreadable(owner, "the .param file (a binary one?)", error)) from error
    rows = [row for row in rows if row and not row[0].startswith("#")]
    if not rows or rows[0] != [MAGIC]:
        found = " ".join(rows[0])[:40] if rows else ""
        raise ValueError(_messages.attribute(owner, "the first line of the .param file", found, MAGIC))
    counts = [integer(word) for word in rows[1]] if len(rows) > 1 else []
    if len(counts) != 2 or counts[0] != len(rows) - 2:
        expected = f"the numbers of layers ({len(rows) - 2}) and of blobs"
        raise ValueError(_messages.attribute(owner, "the second line of the .param file", counts, expected))
    lines, names = [], set()
    for k, row in enumerate(rows[2:]):
        ends = [number for number in map(integer, row[2:4]) if number is not None and number >= 0]
        if len(ends) < 2 or 4 + sum(ends) > len(row):
            raise ValueError(_messages.attribute(owner, f"layer {k}", " ".join(row)[:80], "type, name, counts, blobs"))
        first, last = 4 + ends[0], 4 + ends[0] + ends[1]
        line = Line(row[0], row[1], row[4:first], row[first:last], params_of(owner, row[1], row[last:]))
        if line.name in names:
            raise ValueError(_messages.attribute(owner, "the .param file", _messages.twice([line.name]), "one of each"))
        names.add(line.name)
        lines.append(line)
    return lines


def integer(word: str) -> int | None:
    """An integer of at most 32 bits; None for everything else."""
    digits = word.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        return None
    value = int(word)
    return value if abs(value) <= LARGEST_VALUE else None


def params_of(owner: str, name: str, words: Sequence[str]) -> dict[int, int | None]:
    """Words such as ``0=128``; floats, lists and strings, of other layers, are no integers."""
    params: dict[int, int | None] = {}
    for word in words:
        key, equals, value = word.partition("=")
        number = integer(key)
        if not equals or number is None or number in params:
            raise ValueError(
                _messages.attribute(owner, f"a parameter of {name!r}", word[:40], "a number=value of its own")
            )
        params[number] = integer(value)
    return params


def chosen(owner: str, lines: Sequence[Line], layer: str | Sequence[str] | None) -> list[str]:
    """Names of the layers to read, from bottom to top."""
    found = {line.name: line for line in lines if line.kind in NCNN_GATES}
    if layer is not None:
        names = [layer] if isinstance(layer, str) else several_prefixes(owner, layer)
        for name in names:
            if name not in found:
                raise ValueError(_messages.none_found(owner, f"recurrent layer {name!r}", _messages.listed(found)))
        return names
    if not found:
        raise ValueError(_messages.none_found(owner, "LSTM, GRU or RNN", f"{len(lines)} layers"))
    stacked = list(found.values())
    for below, above in itertools.pairwise(stacked):
        if not below.outputs or above.inputs[:1] != below.outputs[:1]:
            raise ValueError(_messages.several(owner, "recurrent layers", sorted(found), "layer="))
    return list(found)


class Reader:
    """Reads arrays of a ``.bin`` file one after the other."""

    def __init__(self, owner: str, file: BinaryIO) -> None:
        self.owner, self.file = owner, file
        self.left = file.seek(0, os.SEEK_END)
        file.seek(0)

    def take(self, what: str, nbytes: int, read: bool = True) -> bytes:
        """The next bytes, which have to be there before any of them is read."""
        if nbytes > self.left:
            raise ValueError(_messages.ends_early(self.owner, self.left, nbytes, what))
        self.left -= nbytes
        if read:
            return self.file.read(nbytes)
        self.file.seek(nbytes, os.SEEK_CUR)
        return b""

    def array(self, what: str, size: int, read: bool = True) -> Array:
        """An array with a mark of how its numbers are stored."""
        mark = self.take(what, 4)
        tag = int.from_bytes(mark, "little")
        if tag == INT8:
            raise ValueError(_messages.quantised(self.owner, what))
        if tag == HALF:
            data = self.take(what, (2 * size + 3) // 4 * 4, read)
            return np.frombuffer(data, "<f2")[:size].astype(np.float32)
        if tag == FLOAT or (not any(mark)):
            return np.frombuffer(self.take(what, 4 * size, read), "<f4").astype(np.float32)
        table = np.frombuffer(self.take(what, 1024), "<f4").astype(np.float32)
        indices = np.frombuffer(self.take(what, (size + 3) // 4 * 4, read), np.uint8)[:size]
        return table[indices]

    def skip(self, line: Line) -> None:
        """Pass over the arrays of a layer that is not read."""
        if line.kind in WEIGHTLESS:
            return
        if line.kind not in BEFORE:
            raise ValueError(_messages.unknown_before(self.owner, line.kind, line.name))
        if line.value(self.owner, 8):
            raise ValueError(_messages.quantised(self.owner, f"{line.kind} {line.name!r}"))
        marked, plain = BEFORE[line.kind]
        what = f"{line.kind} {line.name!r}"
        for key in marked:
            self.array(what, line.value(self.owner, key), read=False)
        for key in plain:
            count, where = key if isinstance(key, tuple) else (key, None)
            if where is None or line.value(self.owner, where):
                self.take(what, 4 * line.value(self.owner, count), read=False)

    def recurrent(self, line: Line, wanted: bool) -> Part | None:
        """A recurrent layer's weights, or None if they are not wanted."""
        owner, what = self.owner, f"{line.kind} {line.name!r}"
        P, total, direction = (line.value(owner, key) for key in (0, 1, 2))
        H = line.value(owner, 3, P) if line.kind == "LSTM" else P
        if line.value(owner, 8):
            raise ValueError(_messages.quantised(owner, what))
        if direction > 2:
            raise ValueError(_messages.attribute(owner, f"2= of {what}", direction, "0, 1 or 2"))
        G, D = len(NCNN_GATES[line.kind]), 2 if direction == 2 else 1
        if not H or not P or not total or total % (D * G * H):
            expected = f"a multiple of {D * G * H} = directions*gates*hidden_size, which is not 0"
            raise ValueError(_messages.attribute(owner, f"1= of {what}", total, expected))
        I = total // (D * G * H)
        rows = 1 if line.kind == "RNN" else 4
        sizes = {"weight_xc": (D, G * H, I), "bias_c": (D, rows, H), "weight_hc": (D, G * H, P)}
        if P != H:
            sizes["weight_hr"] = (D, P, H)
        arrays = {}
        for name, shape in sizes.items():
            size = int(shape[0]) * int(shape[1]) * int(shape[2])
            array = self.array(f"{name} of {what}", size, wanted)
            if wanted:
                arrays[name] = array.reshape(shape)
        if not wanted:
            return None
        directions = [direction_of(line.kind, {name: array[d] for name, array in arrays.items()}) for d in range(D)]
        return Part(line.kind, directions, {"backwards": True} if direction == 1 else {})


def direction_of(kind: str, arrays: dict[str, Array]) -> Direction:
    """One direction's arrays in our order."""
    theirs, ours = NCNN_GATES[kind], GATES[kind]
    W_ih, W_hh = (reorder(arrays[name], theirs, ours) for name in ("weight_xc", "weight_hc"))
    bias = arrays["bias_c"]
    if kind == "GRU":
        zero = np.zeros_like(bias[3])
        return Direction(W_ih, W_hh, np.concatenate(list(bias[:3])), np.concatenate([zero, zero, bias[3]]))
    return Direction(W_ih, W_hh, reorder(bias.reshape(-1), theirs, ours), W_hr=arrays.get("weight_hr"))
