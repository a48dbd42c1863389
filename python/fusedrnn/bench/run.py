"""Prepare, check and time the peers on a case."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from numpy.typing import NDArray

import fusedrnn

from .cases import Case
from .checking import disagreements, expected_outputs
from .load import wait_until_quiet, watch
from .peers import Peer
from .probes import Probe, make_probes
from .problem import Problem, make_problem
from .result import Limit, Result
from .timing import Entry, measure

Array = NDArray[Any]


def run_cases(
    cases: list[Case],
    peers: list[Peer],
    threads: list[int],
    *,
    rounds: int = 15,
    seconds: float = 8.0,
    patience: float = 0.0,
    wanted: Callable[[Case, int], bool] = lambda case, threads: True,
    probes: Callable[[str, int], list[Probe]] = make_probes,
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
    wanted : callable, optional
        Whether to run a case at a thread count; asked just before.
    probes : callable, optional
        (dtype, threads) -> what to measure of the machine beside the peers.
    """
    peers = [peer for peer in peers if peer.available()]
    for case in cases:
        counts = [count for count in threads if wanted(case, count)]
        if not counts:
            continue
        problem = make_problem(case)
        expected = expected_outputs(problem)
        for count in counts:
            yield run_problem(
                problem,
                peers,
                count,
                expected,
                rounds=rounds,
                seconds=seconds,
                patience=patience,
                probes=probes,
            )


def run_problem(
    problem: Problem,
    peers: list[Peer],
    threads: int,
    expected: dict[str, Array] | None,
    *,
    rounds: int,
    seconds: float,
    patience: float = 0.0,
    probes: Callable[[str, int], list[Probe]] = make_probes,
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
    result = partial(
        Result,
        case,
        threads,
        subject,
        problem.flops,
        oracle,
        isa=fusedrnn.current_isa(),
        refused=refused,
        unsupported=unsupported,
    )
    if all(entry.name != subject for entry in entries):
        return result()
    around = probes(case.dtype, threads)
    entries += [Entry(f"({probe.name})", probe.call, probe.using) for probe in around]
    deadline = time.perf_counter() + patience
    measured: list[Result] = []
    while True:
        with watch() as load:
            samples = measure(entries, rounds=rounds, seconds=seconds)
        limits = {p.name: Limit(p.amount, p.unit, samples.pop(f"({p.name})")) for p in around}
        measured.append(result(limits={**limits}, times={**samples}, others=load.others))
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
