"""Prepare, check and time the peers on a case."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blas import blas_threads
from .cases import Case
from .checking import disagreements, expected_outputs
from .load import BUSY, wait_until_quiet, watch
from .machine import YARDSTICK_FLOPS, yardstick
from .peers import Peer
from .problem import Problem, make_problem
from .timing import Entry, Samples, measure

Array = NDArray[Any]
_GEMM = "(yardstick)"


@dataclass(frozen=True)
class Result:
    """A case at one thread count.

    Attributes
    ----------
    case : Case
    threads : int
    subject : str
        The peer that the others are compared with.
    flops : float
        Useful operations of one call.
    samples : dict
        By peer; only of those that gave the right answer.
    refused : dict
        Peers that gave a wrong answer or none at all, and what was wrong; they are not timed.
    unsupported : tuple of str
        Peers that can't run the case.
    oracle : str
        What the outputs were compared with.
    others : float or None
        Cores that other programs used meanwhile, if the system tells.
    gemm : Samples or None
        The yardstick's samples, from the same rounds; None when nothing was timed.
    """

    case: Case
    threads: int
    subject: str
    flops: float
    oracle: str
    samples: dict[str, Samples] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    unsupported: tuple[str, ...] = ()
    others: float | None = None
    gemm: Samples | None = None

    @property
    def measured(self) -> bool:
        """Whether the subject was timed."""
        return self.subject in self.samples

    def quantile(self, peer: str, q: float) -> float:
        """Seconds per call."""
        return float(np.quantile(self.samples[peer].seconds, q))

    def median(self, peer: str) -> float:
        """Median over the rounds of the seconds per call."""
        return self.quantile(peer, 0.5)

    def ratio(self, peer: str) -> float:
        """Median over the rounds of (peer's time / subject's time); above 1 the subject is faster."""
        pairs = zip(self.samples[peer].seconds, self.samples[self.subject].seconds, strict=True)
        return float(np.median([theirs / ours for theirs, ours in pairs]))

    @property
    def best_peer(self) -> str | None:
        """The fastest of the others, by ratio. Variants of the subject ("fusedrnn-unfrozen") don't count as others."""
        family = self.subject.partition("-")[0]
        others = [peer for peer in self.samples if peer.partition("-")[0] != family] if self.measured else []
        return min(others, key=self.ratio, default=None)

    @property
    def loses(self) -> bool:
        """Whether some peer is faster than the subject, or the subject's answer was wrong."""
        best = self.best_peer
        return self.subject in self.refused or (best is not None and self.ratio(best) < 1.0)

    @property
    def noisy(self) -> bool:
        """Whether other programs took so much of the machine that the times can't be trusted."""
        return self.others is not None and self.others > BUSY

    @property
    def gflops(self) -> float:
        """Useful GFLOP/s of the subject."""
        return self.flops / self.median(self.subject) / 1e9

    @property
    def gemm_gflops(self) -> float:
        """GFLOP/s of the yardstick."""
        return YARDSTICK_FLOPS / float(np.median(self.gemm.seconds)) / 1e9 if self.gemm else 0.0


def run_cases(
    cases: list[Case],
    peers: list[Peer],
    threads: list[int],
    *,
    rounds: int = 15,
    seconds: float = 8.0,
    patience: float = 0.0,
) -> Iterator[Result]:
    """Run the cases one after the other at each thread count and give each result when it is there.

    Parameters
    ----------
    cases : list of Case
    peers : list of Peer
        Those not available are left out. The first is the subject.
    threads : list of int
    rounds : int
        At most so many rounds of samples for a case at one thread count.
    seconds : float
        Time after which no further round is begun; three rounds are made even so.
    patience : float
        Seconds to spend on waiting for a quiet machine and measuring a case again when other programs disturbed it.
    """
    peers = [peer for peer in peers if peer.available()]
    for case in cases:
        problem = make_problem(case)
        expected = expected_outputs(problem)
        for count in threads:
            yield run_problem(problem, peers, count, expected, rounds=rounds, seconds=seconds, patience=patience)


def run_problem(
    problem: Problem,
    peers: list[Peer],
    threads: int,
    expected: dict[str, Array] | None,
    *,
    rounds: int,
    seconds: float,
    patience: float = 0.0,
) -> Result:
    """Check, then time, all peers on one problem.

    Parameters
    ----------
    expected : dict or None
        The right outputs; None: those of the first peer that gives any.

    Notes
    -----
    See `run_cases` for the others. Nothing is timed when the subject's outputs are wrong.
    """
    case, subject = problem.case, peers[0].name
    able = [peer for peer in peers if peer.supports(case)]
    unsupported = tuple(peer.name for peer in peers if peer not in able)
    entries, refused, oracle = _check(problem, able, threads, expected)
    result = partial(Result, case, threads, subject, problem.flops, oracle, refused=refused, unsupported=unsupported)
    if all(entry.name != subject for entry in entries):
        return result()
    entries.append(Entry(_GEMM, yardstick(case.dtype), partial(blas_threads, threads)))
    deadline = time.perf_counter() + patience
    measured: list[Result] = []
    while True:
        with watch() as load:
            samples = measure(entries, rounds=rounds, seconds=seconds)
        measured.append(result(gemm=samples.pop(_GEMM), samples=samples, others=load.others))
        if not measured[-1].noisy or time.perf_counter() >= deadline:
            return min(measured, key=lambda one: one.others or 0.0)
        wait_until_quiet(deadline)


def _check(
    problem: Problem, peers: list[Peer], threads: int, expected: dict[str, Array] | None
) -> tuple[list[Entry], dict[str, str], str]:
    """What to time, who was refused and why, and what the outputs were compared with."""
    oracle = "fusedrnn.reference (float64)"
    entries: list[Entry] = []
    refused: dict[str, str] = {}
    for peer in peers:
        using = partial(peer.using, threads)
        try:
            with using():
                job = peer.prepare(problem)
                outputs = job.outputs()
        except Exception as error:  # one peer's failure must not end the run; it is reported
            refused[peer.name] = f"{type(error).__name__}: {error}"
            continue
        if expected is None:
            expected, oracle = outputs, f"the outputs of {peer.name}"
        wrong = disagreements(outputs, expected, problem.case.dtype)
        if wrong:
            refused[peer.name] = "; ".join(wrong)
        else:
            entries.append(Entry(peer.name, job.call, using, job.steps))
    return entries, refused, oracle
