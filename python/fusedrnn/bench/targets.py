"""The speed that the project holds itself to, regime by regime, and whether a set of results shows it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .cases import Case
from .result import BOUNDS, Result

# Peers that a Python program can call; the others are driven from C++.
_NOT_FROM_PYTHON = ("onednn-cpp", *BOUNDS)


@dataclass(frozen=True)
class Target:
    """Ratio to the best peer (or part of the FMA probe) that every case of a regime should reach.

    Attributes
    ----------
    name : str
    covers : callable
        Whether a case belongs to the regime.
    least, aim : float
    threads : int or None
        Judged at this thread count; None: at each.
    against : tuple of str
        Compared with the best of these peers; empty: of all that a case was measured with.
    fraction : bool
        Of the FMA probe instead of a ratio.
    python : bool
        Leave out the peers driven from C++.
    """

    name: str
    covers: Callable[[Case], bool]
    least: float
    aim: float
    threads: int | None = None
    against: tuple[str, ...] = ()
    fraction: bool = False
    python: bool = False

    def value(self, result: Result) -> float | None:
        """What is compared with `least`; None when the result says nothing about it."""
        if not result.measured or not self.covers(result.case):
            return None
        if self.fraction:
            return result.fraction if result.yardstick == "FMA" else None
        names = self.against or tuple(n for n in result.times if not (self.python and n in _NOT_FROM_PYTHON))
        best = result.best_of(names)
        return None if best is None else result.ratio(best)


@dataclass(frozen=True)
class Verdict:
    """A target held against the results at one thread count."""

    target: Target
    threads: int
    cases: int
    mean: float
    worst: float
    worst_case: str

    @property
    def status(self) -> str:
        """ "missed", "reached" or "aim reached"; every case counts."""
        return (
            "aim reached"
            if self.worst >= self.target.aim
            else "reached"
            if self.worst >= self.target.least
            else "missed"
        )


def judge(results: list[Result]) -> list[Verdict]:
    """Every target that the results say something about, at each thread count it is meant for."""
    verdicts = []
    for target in TARGETS:
        for threads in sorted({result.threads for result in results}):
            if target.threads not in (None, threads):
                continue
            values = {r.case.name: v for r in results if r.threads == threads and (v := target.value(r)) is not None}
            if values:
                worst = min(values, key=lambda name: values[name])
                mean = float(np.exp(np.mean(np.log(list(values.values())))))
                verdicts.append(Verdict(target, threads, len(values), mean, values[worst], worst))
    return verdicts


def _stream(H: int) -> Callable[[Case], bool]:
    return lambda case: case.regime == "stream" and case.H == H


def _seq(B: int, low: int = 0, high: int = 1 << 30) -> Callable[[Case], bool]:
    return lambda case: case.regime == "seq" and case.B == B and low <= case.H <= high


def _train(*cells: str) -> Callable[[Case], bool]:
    return lambda case: case.regime in ("batch", "deepbench") and case.mode == "train" and case.cell in cells


def _batch(low: int = 0) -> Callable[[Case], bool]:
    return lambda case: case.regime == "batch" and case.mode == "infer" and low <= case.H


def _regime(name: str, *modes: str) -> Callable[[Case], bool]:
    return lambda case: case.regime == name and (not modes or case.mode in modes)


_TORCH = ("torch", "torch-no-onednn")
_OTHERS = ("gru_after", "gru_before", "rnn_tanh")

TARGETS = (
    Target("stream H=64, callable from Python", _stream(64), 15, 20, python=True),
    Target("stream H=128, callable from Python", _stream(128), 6, 7, python=True),
    Target("stream H=256, callable from Python", _stream(256), 3, 4, python=True),
    Target("stream H=512, callable from Python", _stream(512), 1.2, 1.3, python=True),
    Target(
        "stream H<=256, oneDNN from C++",
        lambda case: case.regime == "stream" and case.H <= 256,
        1.0,
        1.5,
        against=("onednn-cpp",),
    ),
    Target("B=1 sequence, H=64", _seq(1, 0, 64), 1.6, 2.0, 1),
    Target("B=1 sequence, H=128..512", _seq(1, 65, 512), 1.3, 1.7, 1),
    Target("B=1 sequence, H=768..1024", _seq(1, 513), 1.1, 1.15, 1),
    Target("B=1 sequence, H<=128", _seq(1, 0, 128), 2.0, 2.4, 2),
    Target("B=1 sequence, H=256..512", _seq(1, 129, 512), 1.4, 1.8, 2),
    Target("B=1 sequence, H=768..1024", _seq(1, 513), 1.2, 1.25, 2),
    Target("B=4 sequence", _seq(4), 1.5, 2.0),
    Target("B=16 sequence", _seq(16), 1.15, 1.3),
    Target("batch inference", _batch(), 1.05, 1.15),
    Target("batch inference, H=1024", _batch(1024), 1.25, 1.4),
    Target("batch inference, H>=256, part of FMA", _batch(256), 0.9, 0.95, 1, fraction=True),
    Target("training LSTM, oneDNN with its reorders", _train("lstm"), 1.08, 1.25, against=("onednn",)),
    Target("training LSTM, torch", _train("lstm"), 1.25, 1.6, against=_TORCH),
    Target("training GRU and RNN, oneDNN", _train(*_OTHERS), 1.15, 1.5, against=("onednn",)),
    Target("training GRU and RNN, torch", _train(*_OTHERS), 2.0, 3.0, against=_TORCH),
    Target("speech", _regime("speech"), 1.2, 1.5, 2),
    Target("float64 training, torch", _regime("float64"), 2.0, 3.0, against=_TORCH),
    Target("ragged training, torch packed", _regime("ragged", "train"), 2.5, 4.0, against=_TORCH),
    Target("every case, every peer", lambda case: True, 1.0, 1.0),
)
