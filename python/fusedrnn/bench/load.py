"""How busy other programs keep the machine while we measure."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUSY = 0.2  # cores; with more than this used by others a result is marked as noisy


class Load:
    """Cores that others used, on average, while the block of `watch` ran; None where the system doesn't tell."""

    others: float | None = None


@contextmanager
def watch() -> Iterator[Load]:
    """Compare the time that all processors were busy (or stolen by a hypervisor) with what this process used.

    A parallel call that waits for a core lost to another program can take a hundred times as long, so that with
    as many threads as cores a single busy neighbour makes a result worthless. Linux only.
    """
    load = Load()
    busy, own, begin = _busy_seconds(), time.process_time(), time.perf_counter()
    yield load
    elapsed = time.perf_counter() - begin
    now = _busy_seconds()
    if busy is not None and now is not None and elapsed > 0:
        load.others = max(0.0, (now - busy - (time.process_time() - own)) / elapsed)


def wait_until_quiet(deadline: float) -> None:
    """Return once others have been quiet for a second, or at the deadline (a value of `time.perf_counter`)."""
    while time.perf_counter() < deadline:
        with watch() as load:
            time.sleep(min(1.0, max(0.0, deadline - time.perf_counter())))
        if load.others is None or load.others <= BUSY / 2:
            return


def _busy_seconds() -> float | None:
    """Seconds all processors have spent in user, nice, system, irq, softirq and steal since the system was started."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
