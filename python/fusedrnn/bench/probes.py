"""What the machine can do, measured in the same rounds as the cases: multiply-adds, reads from L2 and from L3.

Absolute times mean little on a shared machine whose clock and neighbours change; a fraction of what registers and
caches gave in the same seconds does. Without a C++ compiler a matrix product stands in.
"""

import ctypes
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from .blas import blas_threads
from .native import BuildError, load

GEMM_SIZE = 512
_FMA_ITERATIONS = 400_000
_READ_BYTES = {"L2": 64 << 20, "L3": 32 << 20}


@dataclass(frozen=True)
class Probe:
    """A call whose speed is a limit of the machine.

    Attributes
    ----------
    name : str
        "FMA", "L2", "L3", or "gemm" when nothing could be compiled.
    amount : float
        Operations or bytes of one call, over all threads.
    unit : str
        "GFLOP/s" or "GB/s".
    call, using
        As of `Entry`.
    """

    name: str
    amount: float
    unit: str
    call: Callable[[], object]
    using: Callable[[], AbstractContextManager[None]] = nullcontext


def make_probes(dtype: str, threads: int) -> list[Probe]:
    """Probes at a thread count: FMA, L2 and L3, or the matrix product alone when there is no compiler."""
    try:
        library = _library()
    except BuildError:
        return [_matrix_product(dtype, threads)]
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
        return f"NumPy's matrix product of {GEMM_SIZE}x{GEMM_SIZE} matrices ({error})"
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


def _matrix_product(dtype: str, threads: int) -> Probe:
    a, b = np.random.default_rng(0).standard_normal((2, GEMM_SIZE, GEMM_SIZE)).astype(dtype)
    call = partial(np.matmul, a, b, out=np.empty_like(a))
    return Probe("gemm", 2.0 * GEMM_SIZE**3, "GFLOP/s", call, partial(blas_threads, threads))
