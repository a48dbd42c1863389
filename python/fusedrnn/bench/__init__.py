"""Benchmarks: a published grid of cases, peers that are checked before they are timed, interleaved rounds, a report.

`python -m fusedrnn bench` is the short form; `benchmarks/README.md` of the source tree says how to read and extend it,
and `python -m benchmarks` there has more peers (docs/decisions/0012).

The path of a case: `cases` (what) -> `problem` (arrays) -> `peers` (who) -> `checking` -> `timing` -> `run` ->
`report`.
"""

from .cases import CASES, QUICK, Case, select_cases
from .equipment import INSTALLED, Equipment
from .peers import Job, Peer, select_peers
from .problem import Problem, make_problem
from .report import markdown
from .result import Result
from .run import run_cases
from .store import Store

__all__ = [
    "CASES",
    "INSTALLED",
    "QUICK",
    "Case",
    "Equipment",
    "Job",
    "Peer",
    "Problem",
    "Result",
    "Store",
    "make_problem",
    "markdown",
    "run_cases",
    "select_cases",
    "select_peers",
]
