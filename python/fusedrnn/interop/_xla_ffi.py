"""XLA's foreign function interface as far as a CPU handler needs it: buffers in, buffers out, errors back.

Layouts are facts of XLA's C ABI (xla/ffi/api/c_api.h, in every wheel of jaxlib). By its rules a minor version only adds
fields to the end of structs, each of which has its size as a member, and a major version may change anything. What is
declared here is the same in 0.1 (jaxlib 0.5), 0.2 (0.8) and 0.3 (0.9 and 0.10). Other majors are refused before XLA is
told of a handler, and every call checks version and sizes.
"""

from __future__ import annotations

import ctypes
import functools
import math
import re
from collections.abc import Callable
from ctypes import POINTER, c_char, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p, sizeof
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from .. import _validate

Array = NDArray[Any]

OLDEST, NEWEST = (0, 1), (0, 3)  # of the versions that this is written for
INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL
METADATA = 1  # XLA_FFI_Extension_Metadata
EXECUTE = 3  # XLA_FFI_ExecutionStage_EXECUTE

#: XLA_FFI_DataType -> dtype, of what a layer takes and gives.
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.bool_),
    4: np.dtype(np.int32),
    5: np.dtype(np.int64),
    8: np.dtype(np.uint32),
    11: np.dtype(np.float32),
    12: np.dtype(np.float64),
}


class _Extension(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("type", c_int), ("next", c_void_p)]


class _Version(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("major", c_int),
        ("minor", c_int),
    ]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("version", _Version), ("traits", c_uint32), ("state", c_int64)]


class _MetadataExtension(ctypes.Structure):
    _fields_ = [("base", _Extension), ("metadata", POINTER(_Metadata))]


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("dtype", c_int),
        ("data", c_void_p),
        ("rank", c_int64),
        ("dims", POINTER(c_int64)),
    ]


class _Scalar(ctypes.Structure):
    _fields_ = [("dtype", c_int), ("value", c_void_p)]


class _Buffers(ctypes.Structure):
    """Arguments, or results."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("size", c_int64),
        ("types", c_void_p),
        ("buffers", POINTER(POINTER(_Buffer))),
    ]


class _Attributes(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("size", c_int64),
        ("types", c_void_p),
        ("names", c_void_p),
        ("values", POINTER(c_void_p)),
    ]


class _ErrorCreate(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("extension", c_void_p), ("message", c_char_p), ("code", c_int)]


_CREATE_ERROR = ctypes.CFUNCTYPE(c_void_p, POINTER(_ErrorCreate))


class _Api(ctypes.Structure):
    """Only its beginning."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("version", _Version),
        ("internal", c_void_p),
        ("create_error", _CREATE_ERROR),
    ]


class _CallFrame(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", POINTER(_Extension)),
        ("api", POINTER(_Api)),
        ("context", c_void_p),
        ("stage", c_int32),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
        ("future", c_void_p),
    ]


_HANDLER = ctypes.CFUNCTYPE(c_void_p, POINTER(_CallFrame))


def read_version(header: str) -> tuple[int, int]:
    """XLA's own version, as its header has it."""
    found = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", header) for part in ("MAJOR", "MINOR")]
    if not all(found):
        raise _validate.other_xla("unknown (its header does not say)", OLDEST)
    return int(found[0][1]), int(found[1][1])  # type: ignore[index]


def claimed(version: tuple[int, int]) -> tuple[int, int]:
    """What to tell XLA that handlers are written for: XLA may not know newer versions, and must know older minors."""
    if version[0] != OLDEST[0] or version < OLDEST:
        raise _validate.other_xla("{}.{}".format(*version), OLDEST)
    return min(version, NEWEST)


def register(name: str, function: Any) -> None:
    """Let XLA call the handler on the CPU by this name."""
    claimed(_version())
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")


@functools.cache
def _version() -> tuple[int, int]:
    try:
        header = (Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h").read_text(encoding="utf-8")
    except OSError as error:
        raise _validate.other_xla(f"unknown ({error})", OLDEST) from error
    return read_version(header)


def handler(function: Callable[[int, list[Array], list[Array]], None]) -> Any:
    """A C function for XLA of ``function(number, arguments, results)``; `number` is the call's one attribute.

    The caller keeps it alive for as long as XLA may call it: for ever.
    """

    @_HANDLER
    def call(pointer: Any) -> int | None:
        frame = pointer.contents
        try:
            if frame.extension and frame.extension.contents.type == METADATA:
                _introduce(ctypes.cast(frame.extension, POINTER(_MetadataExtension)).contents.metadata.contents)
                return None
            _check(frame)
            scalar = ctypes.cast(frame.attributes.values[0], POINTER(_Scalar)).contents
            number = ctypes.cast(scalar.value, POINTER(c_int64)).contents.value
            function(number, _arrays(frame.arguments), _arrays(frame.results))
        except BaseException as error:  # nothing may pass through XLA's frames
            message = f"{type(error).__name__}: {error}".encode()
            wanted = _ErrorCreate(sizeof(_ErrorCreate), None, message, INTERNAL)
            created: int | None = frame.api.contents.create_error(ctypes.byref(wanted))
            return created
        return None

    return call


def _introduce(metadata: Any) -> None:
    """Say which version of the ABI this is written for; XLA refuses to register what does not fit."""
    metadata.version.major, metadata.version.minor = claimed(_version())
    metadata.traits = 0


def _check(frame: Any) -> None:
    """Anything else than the known layout would be read wrongly."""
    version = frame.api.contents.version
    known = (
        version.major == OLDEST[0]
        and version.minor >= OLDEST[1]
        and frame.struct_size >= sizeof(_CallFrame) - sizeof(c_void_p)  # without `future`, which is not used
        and frame.arguments.struct_size >= sizeof(_Buffers)
        and frame.results.struct_size >= sizeof(_Buffers)
        and frame.attributes.struct_size >= sizeof(_Attributes)
        and frame.stage == EXECUTE
        and frame.attributes.size == 1
    )
    if not known:
        raise _validate.other_xla(f"{version.major}.{version.minor}, frames of {frame.struct_size} bytes", OLDEST)


def _arrays(buffers: Any) -> list[Array]:
    """Views of XLA's memory, in C order."""
    arrays = []
    for i in range(buffers.size):
        buffer = buffers.buffers[i].contents
        dtype = DTYPES[buffer.dtype]
        shape = tuple(buffer.dims[d] for d in range(buffer.rank))
        n = math.prod(shape)
        if n == 0:
            arrays.append(np.empty(shape, dtype))
            continue
        memory = (c_char * (n * dtype.itemsize)).from_address(buffer.data)
        arrays.append(np.frombuffer(memory, dtype).reshape(shape))
    return arrays
