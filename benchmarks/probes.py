"""What the machine can do, measured in the same rounds as the cases: multiply-adds, reads from L2 and from L3.

Absolute times mean little on a shared machine whose clock and neighbours change; a fraction of what registers and
caches gave in the same seconds does. Without a C++ compiler the wheel's matrix product stands in.
"""

import ctypes
import weakref
from functools import cache, partial
from typing import Any

import numpy as np

from fusedrnn.bench import probes as installed
from fusedrnn.bench.probes import Probe

from .native import BuildError, load

_FMA_ITERATIONS = 400_000
_READ_BYTES = {"L2": 64 << 20, "L3": 32 << 20}


def make_probes(dtype: str, threads: int) -> list[Probe]:
    """Probes at a thread count: FMA, L2 and L3, or the matrix product alone when there is no compiler."""
    try:
        library = _library()
    except BuildError:
        return installed.make_probes(dtype, threads)
    size = np.dtype(dtype).itemsize
    run = partial(getattr(library, f"probe_fma_f{8 * size}"), threads, ctypes.c_long(_FMA_ITERATIONS))
    flops = float(library.probe_fma_flops(size)) * _FMA_ITERATIONS * threads
    probes = [Probe("FMA", flops, "GFLOP/s", run)]
    return probes + [_reading(library, level, nbytes, threads) for level, nbytes in cache_sizes().items()]


def describe_probes() -> str:
    """A line for the report's header."""
    try:
        width = 8 * _library().probe_vector_bytes()
    except BuildError as error:
        return f"{installed.describe_probes()} ({error})"
    reads = ", ".join(f"{level} with {nbytes >> 10} KiB a thread" for level, nbytes in cache_sizes().items())
    return f"{width}-bit multiply-adds on registers; reads from {reads}"


def cache_sizes() -> dict[str, int]:
    """Bytes a thread reads for each level: half of its L2, four times its L2."""
    size = int(_library().probe_l2_bytes())
    size = size if size > 0 else 1 << 20
    return {"L2": size // 2, "L3": 4 * size}


@cache
def _library() -> Any:
    library = load("probes.cpp")
    library.probe_fma_flops.restype = library.probe_l2_bytes.restype = ctypes.c_long
    library.probe_buffers.restype = ctypes.c_void_p
    return library


class _Buffers:
    """Memory of the read probe."""

    def __init__(self, library: Any, threads: int, nbytes: int) -> None:
        self.address = ctypes.c_void_p(library.probe_buffers(threads, ctypes.c_size_t(nbytes)))
        if not self.address:
            raise MemoryError(f"bench: no memory for a probe of {threads} x {nbytes} bytes")
        weakref.finalize(self, library.probe_free, self.address)


def _reading(library: Any, level: str, nbytes: int, threads: int) -> Probe:
    buffers = _Buffers(library, threads, nbytes)
    times = max(1, _READ_BYTES[level] // nbytes)

    def call() -> None:
        library.probe_read(buffers.address, threads, ctypes.c_size_t(nbytes), ctypes.c_long(times))

    return Probe(level, float(nbytes) * times * threads, "GB/s", call)
