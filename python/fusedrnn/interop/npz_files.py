"""Arrays in npz files: zip archives of npy files, whose format `numpy.lib.format` describes.

NumPy's own reader unpacks as much as a header says. This reader first compares sizes with the file and with the need.
"""

from __future__ import annotations

import ast
import functools
import math
import re
import struct
import zipfile
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from . import _messages
from .stored import MOST_AXES, Array, Stored, reading

#: Limits of the unpacked size, in bytes: a constant part, and a part for each byte of the file. Typical weights are
#: packed to a half or a tenth of their size; deflate could pack zeros a thousandfold.
ROOM = 64 * 2**20
ROOM_EACH = 256

#: Longest npy header, NumPy's limit for untrusted files.
LONGEST_HEADER = 10000

#: Bytes of the longest text.
LONGEST_TEXT = 4 * 2**20

METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}

DTYPE = re.compile(r"[<>=|]?[a-zA-Z][0-9]*")


class Header(NamedTuple):
    """The header of an npy file."""

    length: int  # of the header itself
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Any  # "C" or "F"

    @property
    def nbytes(self) -> int:
        """Of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


class Npz:
    """An npz file, open for reading."""

    def __init__(self, owner: str, file: BinaryIO) -> None:
        self.owner = owner
        self.size = file.seek(0, 2)
        self.left = ROOM + ROOM_EACH * self.size
        with reading(owner, "the zip archive"):
            self.archive = zipfile.ZipFile(file)
            self.members = {
                info.filename.removesuffix(".npy"): NpzMember(self, info.filename.removesuffix(".npy"), info)
                for info in self.archive.infolist()
            }

    def take(self, name: str, nbytes: int) -> None:
        """Count unpacked bytes."""
        if nbytes > self.left:
            raise ValueError(_messages.unpacks_to(self.owner, name, nbytes, self.left, self.size))
        self.left -= nbytes


class NpzMember(Stored):
    """One npy file of the archive."""

    def __init__(self, npz: Npz, name: str, info: zipfile.ZipInfo) -> None:
        self.npz = npz
        self.name = name
        self.info = info

    @property
    def shape(self) -> tuple[int, ...]:
        return self.header.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.header.dtype

    @functools.cached_property
    def header(self) -> Header:
        """Read and compare with the archive's directory; the array itself is not unpacked."""
        owner, name, info = self.npz.owner, self.name, self.info
        if info.compress_type not in METHODS:
            expected = f"one of {', '.join(f'{number} ({method})' for number, method in METHODS.items())}"
            raise ValueError(_messages.attribute(owner, f"compression of {name}", info.compress_type, expected))
        with reading(owner, name), self.npz.archive.open(info) as stream:
            start = stream.read(12)
            place, form = (10, "<H") if start[6:7] == b"\x01" else (12, "<I")
            (length,) = struct.unpack(form, start[8:place])
            text = (start + stream.read(min(length, LONGEST_HEADER)))[place : place + length]
        if start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3) or length > LONGEST_HEADER:
            raise ValueError(_messages.no_array(owner, name, f"begins with {start!r}", "an npy header"))
        header = self.parse(text.decode("latin1"), place + length)
        if info.file_size != header.length + header.nbytes:
            found = f"has {info.file_size} bytes"
            expected = f"{header.length + header.nbytes}: a header and {header.dtype.str} of shape {header.shape}"
            raise ValueError(_messages.no_array(owner, name, found, expected))
        return header

    def parse(self, text: str, length: int) -> Header:
        """The header's dict, in which Python 2 wrote 3L for 3."""
        owner, name = self.npz.owner, self.name
        try:
            found = ast.literal_eval(re.sub(r"(\d)L\b", r"\1", text.strip()))
            descr, fortran, shape = found["descr"], found["fortran_order"], found["shape"]
            fits = isinstance(descr, str) and DTYPE.fullmatch(descr) is not None and isinstance(fortran, bool)
            fits &= isinstance(shape, tuple) and len(shape) <= MOST_AXES
            fits &= all(type(n) is int and n >= 0 for n in shape)
            dtype = np.dtype(descr) if fits else np.dtype(object)
        except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
            fits, dtype = False, np.dtype(object)
        if not fits or dtype.hasobject:
            found = f"has the header {text.strip()[:200]!r}"
            raise ValueError(_messages.no_array(owner, name, found, "a shape and a plain dtype"))
        return Header(length, shape, dtype, "F" if fortran else "C")

    def unpack(self) -> Array:
        """The array's bytes; the archive's checksum is compared, because the end is reached."""
        header, owner, name = self.header, self.npz.owner, self.name
        self.npz.take(name, header.nbytes)
        content = np.empty(header.nbytes, np.uint8)
        done = 0
        with reading(owner, name), self.npz.archive.open(self.info) as stream:
            stream.read(header.length)
            while done < header.nbytes:
                part = stream.read(min(header.nbytes - done, 2**20))
                if not part:
                    break
                content[done : done + len(part)] = np.frombuffer(part, np.uint8)
                done += len(part)
            more = stream.read(1)
        if done < header.nbytes or more:
            found = f"unpacks to {'more than' if more else 'only'} {done + bool(more)} bytes"
            raise ValueError(_messages.no_array(owner, name, found, str(header.nbytes)))
        return content

    def read(self) -> Array:
        if self.dtype.kind not in "fiu":
            raise ValueError(_messages.not_real(self.npz.owner, self.name, self.dtype))
        return self.unpack().view(self.dtype).reshape(self.shape, order=self.header.order)

    def text(self) -> str:
        """An array of one string."""
        owner, name, dtype = self.npz.owner, self.name, self.dtype
        if dtype.kind != "U" or self.shape != () or self.header.nbytes > LONGEST_TEXT:
            found = f"has dtype {dtype.str} and shape {self.shape}"
            raise ValueError(_messages.no_array(owner, name, found, "one string"))
        with reading(owner, name):
            coded = "utf-32-be" if dtype.str.startswith(">") else "utf-32-le"
            return self.unpack().tobytes().decode(coded).rstrip("\0")
