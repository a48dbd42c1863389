"""What the machine can do, measured in the same rounds as the cases.

Absolute times mean little on a shared machine whose clock and neighbours change; a fraction of what the machine did in
the same seconds does. The probe here is a matrix product of NumPy's BLAS. `benchmarks/probes.py` of the source tree has
multiply-adds on registers and reads from caches, which have to be compiled.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np

from .blas import blas_threads

GEMM_SIZE = 512


@dataclass(frozen=True)
class Probe:
    """A call whose speed is a limit of the machine.

    Attributes
    ----------
    name : str
        "FMA", "L2", "L3", or "gemm" where those are not at hand.
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
    """The matrix product at a thread count."""
    a, b = np.random.default_rng(0).standard_normal((2, GEMM_SIZE, GEMM_SIZE)).astype(dtype)
    call = partial(np.matmul, a, b, out=np.empty_like(a))
    return [Probe("gemm", 2.0 * GEMM_SIZE**3, "GFLOP/s", call, partial(blas_threads, threads))]


def describe_probes() -> str:
    """A line for the report's header."""
    return f"NumPy's matrix product of {GEMM_SIZE}x{GEMM_SIZE} matrices"
