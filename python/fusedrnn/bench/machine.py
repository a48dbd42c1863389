"""What a result means nothing without: CPU, ISA, versions, date, and a yardstick run beside the cases."""

import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import fusedrnn

from .blas import NO_CONTROL, blas_version, controlled
from .peers import Peer

YARDSTICK_SIZE = 512
YARDSTICK_FLOPS = 2.0 * YARDSTICK_SIZE**3
YARDSTICK = f"NumPy's matrix product of {YARDSTICK_SIZE}x{YARDSTICK_SIZE} matrices"


def cpu_model() -> str:
    """As /proc/cpuinfo has it, or what `platform` knows."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return " ".join(value.split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(peers: list[Peer]) -> dict[str, str]:
    """Lines of the report's header, in order."""
    lines = {
        "CPU": f"{cpu_model()}, {usable_cores()} cores usable, {platform.machine()}",
        "ISA": f"{fusedrnn.current_isa()} (of {', '.join(fusedrnn.available_isas())})",
        "System": f"{platform.system()}, Python {platform.python_version()}",
        "Versions": "; ".join(dict.fromkeys(peer.version() for peer in peers if peer.available())),
        "Yardstick": f"{YARDSTICK}, {blas_version()}",
        "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    absent = [f"{peer.name} ({peer.missing()})" for peer in peers if not peer.available()]
    if absent:
        lines["Missing peers"] = ", ".join(absent)
    if not controlled():
        lines["Note"] = NO_CONTROL
    return lines


def yardstick(dtype: str) -> Callable[[], object]:
    """A matrix product that a good BLAS runs near the machine's limit; `YARDSTICK_FLOPS` operations.

    It stands in for a probe of the peak rate and runs in the same rounds as the peers, at the same thread count.
    """
    n = YARDSTICK_SIZE
    a, b = np.random.default_rng(0).standard_normal((2, n, n)).astype(dtype)
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)
