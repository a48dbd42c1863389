"""What a result means nothing without: CPU, ISA, versions, date."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import fusedrnn

from .blas import NO_CONTROL, controlled
from .peers import Peer


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


def describe(peers: list[Peer], probes: str) -> dict[str, str]:
    """Lines of the report's header, in order; `probes` is one of them."""
    lines = {
        "CPU": f"{cpu_model()}, {usable_cores()} cores usable, {platform.machine()}",
        "ISA": f"{fusedrnn.current_isa()} (of {', '.join(fusedrnn.available_isas())})",
        "System": f"{platform.system()}, Python {platform.python_version()}",
        "Versions": "; ".join(dict.fromkeys(peer.version() for peer in peers if peer.available())),
        "Probes": probes,
        "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    absent = [f"{peer.name} ({peer.missing()})" for peer in peers if not peer.available()]
    if absent:
        lines["Missing peers"] = ", ".join(absent)
    if not controlled():
        lines["Note"] = NO_CONTROL
    return lines
