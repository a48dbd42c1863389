"""Options and fixtures of the pytest-benchmark suites. Cases and peers are those of `python -m benchmarks`."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest

from fusedrnn.bench import Case, Job, Peer, Problem, make_problem, select_cases, select_peers
from fusedrnn.bench.checking import disagreements, expected_outputs
from fusedrnn.bench.machine import describe
from fusedrnn.bench.peers import DEFAULT_PEERS

from .peers import all_peers
from .probes import describe_probes


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fusedrnn")
    group.addoption(
        "--cases", metavar="REGEX", help="cases of the grid whose name matches; if not given, the quick set"
    )
    group.addoption("--peers", metavar="P,P", default=",".join(DEFAULT_PEERS), help="implementations to run")
    group.addoption("--threads", metavar="N,N", default="1", help="thread counts")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each case of the module's MODES, each peer that supports it and each thread count."""
    option = metafunc.config.getoption
    cases = select_cases(option("--cases"), quick=option("--cases") is None)
    peers = [peer for peer in _peers(metafunc.config) if peer.available()]
    runs = [
        pytest.param(case, peer, threads, id=f"{case.name}-{peer.name}-{threads}t")
        for case in cases
        if case.mode in metafunc.module.MODES
        for threads in map(int, option("--threads").split(","))
        for peer in peers
        if peer.supports(case)
    ]
    metafunc.parametrize(("case", "peer", "threads"), runs)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info.pop("node", None)  # the host's name is nobody's business
    machine_info["fusedrnn"] = describe(_peers(config), describe_probes())


def _peers(config: pytest.Config) -> list[Peer]:
    return select_peers(tuple(config.getoption("--peers").split(",")), all_peers())


@lru_cache(maxsize=1)
def _problem(case: Case) -> tuple[Problem, dict[str, Any] | None]:
    problem = make_problem(case)
    return problem, expected_outputs(problem)


@pytest.fixture
def job(case: Case, peer: Peer, threads: int, benchmark: Any) -> Iterator[Job]:
    """The case made ready by the peer, its outputs checked."""
    problem, expected = _problem(case)
    with peer.using(threads):
        prepared = peer.prepare(problem)
        if expected is not None:
            wrong = disagreements(prepared.outputs(), expected, case.dtype)
            assert not wrong, f"{peer.name} on {case.name}: {'; '.join(wrong)}"
        benchmark.group = f"{case.name}, {threads} thread{'s' if threads > 1 else ''}"
        benchmark.extra_info.update(case=case.as_dict(), peer=peer.name, threads=threads, flops=problem.flops)
        yield prepared
