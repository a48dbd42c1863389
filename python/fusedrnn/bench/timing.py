"""Interleaved timing: one sample of each entry in turn, round after round.

The speed of a shared machine drifts by tens of per cent within seconds, so times taken one after the other say little
about which of two programs is faster. Here every round holds one sample of each, and what is compared are the ratios
within rounds.
"""

import gc
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import repeat

SAMPLE_SECONDS = 0.005  # a sample repeats its call until it takes at least this long

# Untimed calls before a sample refill the caches and wake the worker threads, which the system may at first put on the
# core of their master: measured, for some 10 ms, in which all takes twice as long. Calls of LONG_SECONDS go without.
WARM_SECONDS = 0.03
LONG_SECONDS = 0.3
MIN_ROUNDS = 3


@dataclass(frozen=True)
class Entry:
    """Something to be timed: `call` inside of `using()`. One call makes `steps` steps; times are those of one step."""

    name: str
    call: Callable[[], object]
    using: Callable[[], AbstractContextManager[None]]
    steps: int = 1


@dataclass(frozen=True)
class Samples:
    """Seconds per step, one value a round, each the mean of `repeats` calls."""

    seconds: tuple[float, ...]
    repeats: int


def measure(entries: list[Entry], *, rounds: int, seconds: float) -> dict[str, Samples]:
    """Time all entries in interleaved rounds.

    Parameters
    ----------
    entries : list of Entry
        Names are unique.
    rounds : int
        At most so many rounds, and at least the smaller of this and `MIN_ROUNDS`.
    seconds : float
        No further round is begun once so much time has passed.

    Returns
    -------
    dict
        Samples by name; the same round stands at the same position in each.
    """
    deadline = time.perf_counter() + seconds
    once: dict[str, float] = {}
    for entry in entries:
        settle()
        with entry.using():
            once[entry.name] = _seconds_per_call(entry.call)
    repeats = {name: max(1, math.ceil(SAMPLE_SECONDS / took)) for name, took in once.items()}
    taken: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for done in range(rounds):
        if done >= MIN_ROUNDS and time.perf_counter() > deadline:
            break
        first = done % len(entries)  # so that nobody always follows the same neighbour's warm or cold caches
        for entry in entries[first:] + entries[:first]:
            settle()
            with entry.using():
                if once[entry.name] < LONG_SECONDS:
                    _warm(entry.call)
                taken[entry.name].append(_sample(entry.call, repeats[entry.name]) / entry.steps)
    return {name: Samples(tuple(values), repeats[name]) for name, values in taken.items()}


def settle(limit: float = 0.15) -> None:
    """Wait until no thread of this process is busy, for at most `limit` seconds.

    Worker threads spin for a while after a parallel call (6 ms in GNU OpenMP, 100 ms in OpenBLAS) and would take a
    core away from the next peer. The kernel accounts a running thread's time by ticks of up to 4 ms, so shorter looks
    would miss it.
    """
    deadline = time.perf_counter() + limit
    while time.perf_counter() < deadline:
        busy = time.process_time()
        time.sleep(0.006)
        if time.process_time() - busy < 0.0015:
            return


def _run(call: Callable[[], object], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in repeat(None, repeats):
        call()
    return time.perf_counter() - begin


def _warm(call: Callable[[], object]) -> None:
    deadline = time.perf_counter() + WARM_SECONDS
    while True:
        call()
        if time.perf_counter() >= deadline:
            return


def _seconds_per_call(call: Callable[[], object]) -> float:
    """Roughly; for choosing the number of repeats."""
    took = _run(call, 1)
    if took >= LONG_SECONDS:
        return took
    _warm(call)
    repeats = 1
    while (took := _run(call, repeats)) < SAMPLE_SECONDS / 4:
        repeats *= 4
    return took / repeats


def _sample(call: Callable[[], object], repeats: int) -> float:
    """Seconds per call. The collector of cyclic garbage is off meanwhile, as in `timeit`."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return _run(call, repeats) / repeats
    finally:
        if enabled:
            gc.enable()
