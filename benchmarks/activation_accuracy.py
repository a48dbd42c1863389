"""Accuracy of the vectorised exp, sigmoid and tanh over all float32 numbers, for every instruction set of this CPU.

    python benchmarks/activation_accuracy.py                      # all 2^32 bit patterns: some minutes per line
    python benchmarks/activation_accuracy.py --stride 257         # every 257th: seconds
    python benchmarks/activation_accuracy.py --isa avx512 --functions sigmoid tanh

Prints a Markdown table. Errors are against NumPy's float64 functions, whose own error of about 1e-16 is nothing beside
a float32 ulp (6e-8), in ulps of the float32 nearest to the exact value. Where that is denormal, the kernels may flush
it to zero. exp is measured where it is not clamped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import fusedrnn
from fusedrnn import _core

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

CHUNK = 1 << 20  # bit patterns at once: all temporary arrays together stay in a cache of some 30 MiB
TINY = float(np.finfo(np.float32).tiny)


def sigmoid(x: Doubles) -> Doubles:
    """In float64 neither of 1 + exp(-x) and exp(-x) overflows for any float32 above -709, and below all is zero."""
    return 1.0 / (1.0 + np.exp(-np.maximum(x, -700.0)))


EXACT: dict[str, Callable[[Doubles], Doubles]] = {"exp": np.exp, "sigmoid": sigmoid, "tanh": np.tanh}
RANGE = {"exp": (-87.33, 88.37), "sigmoid": (-np.inf, np.inf), "tanh": (-np.inf, np.inf)}


def ulp_errors(got: Floats, exact: Doubles) -> Doubles:
    """Errors in ulps of the float32 nearest to `exact`; nothing for a denormal that was flushed or rounded."""
    with np.errstate(under="ignore"):
        ulp = np.spacing(np.maximum(np.abs(exact), TINY).astype(np.float32)).astype(np.float64)
        errors = np.abs(got - exact) / ulp
    return np.where((np.abs(exact) < TINY) & (np.abs(got) <= TINY), 0.0, errors)


@dataclass
class Finding:
    """What one function on one instruction set was seen to do."""

    count: int = 0
    worst: float = 0.0
    where: float = 0.0
    total: float = 0.0
    correctly_rounded: int = 0
    complaints: list[str] = field(default_factory=list)

    def add(self, x: Floats, got: Floats, exact: Doubles) -> None:
        errors = ulp_errors(got, exact)
        k = int(errors.argmax())
        if errors[k] > self.worst:
            self.worst, self.where = float(errors[k]), float(x[k])
        self.count += len(x)
        self.total += float(errors.sum())
        with np.errstate(under="ignore"):
            self.correctly_rounded += int(np.count_nonzero(got == exact.astype(np.float32)))


def patterns(stride: int) -> Iterator[Floats]:
    """Every `stride`-th bit pattern as float32, in chunks."""
    for first in range(0, 1 << 32, CHUNK * stride):
        last = min(first + CHUNK * stride, 1 << 32)
        yield np.arange(first, last, stride, dtype=np.uint64).astype(np.uint32).view(np.float32)


def measure(isas: list[str], functions: list[str], stride: int) -> dict[tuple[str, str], Finding]:
    """All functions on all instruction sets; the exact values are computed once for each function."""
    findings = {(function, isa): Finding() for function in functions for isa in isas}
    with np.errstate(invalid="ignore", over="ignore"):
        for x in patterns(stride):
            nan = np.isnan(x)
            for function in functions:
                low, high = RANGE[function]
                inside = (x >= low) & (x <= high)
                if not nan.any() and not inside.any():
                    continue
                exact = EXACT[function](x[inside].astype(np.float64))
                for isa in isas:
                    with fusedrnn.use_isa(isa):
                        got = _core.apply(function, x)
                    finding = findings[function, isa]
                    if nan.any() and not np.isnan(got[nan]).all():
                        finding.complaints.append("a NaN came out as a number")
                    if len(exact):
                        finding.add(x[inside], got[inside], exact)
    return findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, default=1, help="measure every n-th bit pattern (default: all)")
    parser.add_argument("--isa", nargs="+", default=fusedrnn.available_isas(), choices=fusedrnn.available_isas())
    parser.add_argument("--functions", nargs="+", default=["sigmoid", "tanh"], choices=list(EXACT))
    options = parser.parse_args()

    start = time.perf_counter()
    findings = measure(options.isa, options.functions, options.stride)
    print("| function | instruction set | arguments | largest error, ulp | at | mean error, ulp | correctly rounded |")
    print("|---|---|---|---|---|---|---|")
    for (function, isa), f in findings.items():
        print(
            f"| {function} | {isa} | {f.count:,} | {f.worst:.4f} | {f.where!r} ({f.where.hex()}) "
            f"| {f.total / f.count:.4f} | {100 * f.correctly_rounded / f.count:.2f} % |"
        )
    for (function, isa), f in findings.items():
        for complaint in sorted(set(f.complaints)):
            print(f"\n{function} on {isa}: {complaint}")
    print(f"\nstride {options.stride}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
