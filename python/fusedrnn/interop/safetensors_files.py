"""Arrays in safetensors files, https://huggingface.co/docs/safetensors: the length of a header, the header, the data.

Read and written with NumPy alone: the package's own reader for NumPy knows neither bfloat16 nor float8, which state
dicts have. A file written here begins with its CRC-32, an entry of the metadata, so that no change of the file goes
unnoticed; other readers see an entry like others.
"""

from __future__ import annotations

import collections
import functools
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from . import _messages
from .stored import MOST_AXES, Array, Stored, reading

#: Longest header, as in the package.
LONGEST_HEADER = 100_000_000

#: dtype in the file -> NumPy's dtype; other dtypes are skipped, and an error if the tensor is needed.
PLAIN = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}

#: NumPy's dtype -> the code in the file.
CODES = {np.dtype(held).newbyteorder("="): code for code, held in PLAIN.items()}

#: How a header with a checksum begins; eight hexadecimal digits follow.
CHECKED = b'{"__metadata__":{"fusedrnn.crc32":"'
CHECKSUM = "fusedrnn.crc32"
NO_CHECKSUM = "00000000"

#: Bytes that are read at once for the checksum.
CHUNK = 1 << 20

#: Floats that NumPy lacks -> the integers that hold them; they are converted to float32.
SHORT_FLOATS = {"BF16": "<u2", "F8_E5M2": "|u1", "F8_E4M3": "|u1"}


class Tensor(Stored):
    """One tensor of an open file."""

    def __init__(self, owner: str, file: BinaryIO, name: str, entry: Any, start: int) -> None:
        self.owner = owner
        self.file = file
        self.name = name
        self.start = start
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise self.fault(f"is described by {entry!r}", "dtype, shape and data_offsets")
        self.code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(self.code, str):
            raise self.fault(f"has dtype {self.code!r}", "a string")
        for what, numbers in (("shape", shape), ("data_offsets", offsets)):
            fits = isinstance(numbers, list) and len(numbers) <= MOST_AXES
            if not fits or not all(type(n) is int and n >= 0 for n in numbers):
                raise self.fault(f"has {what} {numbers!r}", f"a list of at most {MOST_AXES} integers >= 0")
        if len(offsets) != 2 or offsets[0] > offsets[1]:
            raise self.fault(f"has data_offsets {offsets!r}", "where its bytes begin and end")
        self._shape = tuple(shape)
        self.begin, self.end = offsets
        held = PLAIN.get(self.code) or SHORT_FLOATS.get(self.code)
        self.held = None if held is None else np.dtype(held)
        if self.held is not None and math.prod(shape) * self.held.itemsize != self.end - self.begin:
            expected = f"{math.prod(shape) * self.held.itemsize}, as {self.code} of shape {self._shape} takes"
            raise self.fault(f"has {self.end - self.begin} bytes", expected)

    def fault(self, found: str, expected: str) -> ValueError:
        return ValueError(_messages.no_array(self.owner, self.name, found, expected))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(PLAIN.get(self.code, np.float32))

    def read(self) -> Array:
        if self.held is None:
            known = ", ".join((*PLAIN, *SHORT_FLOATS))
            raise self.fault(f"has dtype {self.code}", f"one of {known}")
        content = np.empty(self.end - self.begin, np.uint8)
        with reading(self.owner, self.name):
            self.file.seek(self.start + self.begin)
            done = self.file.readinto(content.data)  # type: ignore[attr-defined]
        if done != len(content):
            raise self.fault(f"ends after {done} bytes", str(len(content)))
        if self.code == "BOOL" and (content > 1).any():
            raise self.fault("has bytes above 1", "bytes 0 and 1, as BOOL")
        numbers: Array = content.view(self.held).reshape(self._shape)
        return widened(self.code, numbers) if self.code in SHORT_FLOATS else numbers


def widened(code: str, bits: Array) -> Array:
    """Short floats as float32, exactly."""
    numbers: Array
    if code == "BF16":  # the upper half of a float32
        numbers = (bits.astype(np.uint32) << 16).view(np.float32)
    elif code == "F8_E5M2":  # the upper half of a float16
        numbers = (bits.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    else:
        numbers = float8_e4m3()[bits]
    return numbers


@functools.cache
def float8_e4m3() -> Array:
    """All 256 numbers of one sign, four exponent (bias 7) and three mantissa bits; no infinities, S.1111.111 is NaN."""
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    numbers = np.ldexp(np.where(exponent == 0, 0, 8) + mantissa, np.maximum(exponent, 1) - 10)
    numbers[bits & 127 == 127] = np.nan
    both: Array = np.where(bits & 128, -numbers, numbers).astype(np.float32)
    return both


def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without duplicate names."""
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        raise ValueError(_messages.twice([name for name, count in counts.items() if count > 1]))
    return found


def tensors_of(owner: str, file: BinaryIO) -> tuple[dict[str, Stored], dict[str, Any]]:
    """The tensors of a file, which must stay open, and its metadata."""
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, LONGEST_HEADER):
        expected = f"at most {min(max(size - 8, 0), LONGEST_HEADER)}, in a file of {size} bytes"
        raise ValueError(_messages.attribute(owner, "the length of the header", length, expected))
    with reading(owner, "the header"):
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=no_repeats)
    if not isinstance(header, dict):
        raise ValueError(_messages.attribute(owner, "the header", type(header).__name__, "an object"))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError(_messages.attribute(owner, "__metadata__", metadata, "an object"))
    tensors = {name: Tensor(owner, file, name, entry, 8 + length) for name, entry in header.items()}
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != end:
            raise tensor.fault(f"begins at {tensor.begin}", f"{end}, where the tensor before it ends")
        end = tensor.end
    if end != size - 8 - length:
        expected = f"{end}, as the header says"
        raise ValueError(_messages.attribute(owner, "the length of the data", size - 8 - length, expected))
    return dict(tensors), metadata


def write_tensors(file: BinaryIO, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays of the dtypes of `CODES`, in an order in which each is aligned, after a header with a checksum."""
    names = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)  # a stable order
    header: dict[str, Any] = {"__metadata__": {CHECKSUM: NO_CHECKSUM, **metadata}}
    end = 0
    for name in names:
        array = arrays[name]
        code = CODES[array.dtype.newbyteorder("=")]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    text = len(text).to_bytes(8, "little") + text
    file.write(text)
    checksum = zlib.crc32(text)
    for name in names:
        array = arrays[name]
        # Copied, because another thread may write to the array between the sum and the file.
        content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        checksum = zlib.crc32(content, checksum)
        file.write(content)
    file.seek(8 + len(CHECKED))
    file.write(b"%08x" % checksum)


def check_sum(owner: str, file: BinaryIO) -> None:
    """Refuse a file whose bytes are not those that `write_tensors` wrote."""
    place = 8 + len(CHECKED)
    file.seek(0)
    start = bytearray(file.read(place + len(NO_CHECKSUM)))
    said = bytes(start[place:])
    if start[8:place] != CHECKED or len(said) != len(NO_CHECKSUM):
        raise ValueError(_messages.no_checksum(owner))
    start[place:] = NO_CHECKSUM.encode()
    found = zlib.crc32(start)
    while chunk := file.read(CHUNK):
        found = zlib.crc32(chunk, found)
    if said != b"%08x" % found:
        raise ValueError(_messages.other_checksum(owner, said.decode("latin-1"), f"{found:08x}"))
