"""`docs/benchmarks.md`, its plots and the file that they are drawn from, from stored results."""

from pathlib import Path

from . import plots
from .report import EXPLANATION, align, count_of, header, tables
from .result import Result
from .store import Store
from .targets import Verdict, judge

PAGE, DIRECTORY, RESULTS = "benchmarks.md", "benchmarks", "results.json"


def write(store: Store, directory: Path) -> list[Path]:
    """Write the page, the summaries of its results and, where matplotlib is installed, its plots.

    Parameters
    ----------
    store : Store
        Holds at least one result.
    directory : Path
        Gets `benchmarks.md` and the directory `benchmarks`, with the plots and `results.json`.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    ValueError
        There are no results.
    """
    if not store.results:
        raise ValueError("bench: there are no results to report")
    store = store.summarised()  # what the file has, so that the file gives the same page again
    results_file = directory / DIRECTORY / RESULTS
    store.save(results_file, samples=False)
    parts, written = ["# Benchmarks", _INTRODUCTION], [results_file]
    isas = list(dict.fromkeys(result.isa for result in store.results))
    for isa in isas:
        results = [result for result in store.results if result.isa == isa]
        if len(isas) > 1:
            parts.append(f"# {isa}")
        # Plots of the first instruction set alone: those of the others look the same, and each is a file to keep.
        drawn = plots.draw(results, directory / DIRECTORY) if isa == isas[0] else []
        written += drawn
        parts += [header(store.machine(results)), *_summary(results)]
        parts += [f"![{path.stem}]({DIRECTORY}/{path.name})" for path in drawn]
        for threads in sorted({result.threads for result in results}):
            parts.append(f"## {count_of(threads).capitalize()}")
            parts += tables([result for result in results if result.threads == threads])
    page = directory / PAGE
    page.write_text(
        "\n\n".join([*parts, "## How to read this", EXPLANATION, plots.EXPLANATION]) + "\n", encoding="utf-8"
    )
    return [page, *written]


_INTRODUCTION = """\
fusedrnn beside every CPU implementation that could be installed, all on the same arrays, checked, and timed in turns.
This page is written by `python -m benchmarks --report docs` and not edited by hand; `--from
docs/benchmarks/results.json` draws it again from what that run measured. How it is measured is at the end and in
`benchmarks/README.md`."""


def _summary(results: list[Result]) -> list[str]:
    """What is lost first, then the targets."""
    return [text for text in ("## Summary", _losses(results), _targets(judge(results))) if text]


def _losses(results: list[Result]) -> str:
    lost = sorted(
        (result.ratio(best), f"{result.case.name}, {count_of(result.threads)}: {best} {result.ratio(best):.2f}x")
        for result in results
        if result.loses and (best := result.best_peer)
    )
    wrong = [f"{r.case.name}, {count_of(r.threads)}: {r.refused[r.subject]}" for r in results if r.subject in r.refused]
    lines = [*wrong, *(text for _, text in lost)]
    cases = f"{len(results)} results ({len({result.case.name for result in results})} cases)"
    if not lines:
        return f"In all of {cases} fusedrnn is faster than every peer."
    return "\n".join([f"Slower than a peer in {len(lines)} of {cases}:\n", *(f"- {line}" for line in lines)])


def _targets(verdicts: list[Verdict]) -> str:
    """Missed ones first."""
    rows = [["target", "threads", "cases", "geometric mean", "lowest", "in", "at least", "aim", ""]]
    order = {"missed": 0, "reached": 1, "aim reached": 2}
    for v in sorted(verdicts, key=lambda verdict: order[verdict.status]):
        show = "{:.0%}".format if v.target.fraction else "{:.2f}x".format
        values = [show(value) for value in (v.mean, v.worst)]
        limits = [show(value) for value in (v.target.least, v.target.aim)]
        rows.append([v.target.name, str(v.threads), str(v.cases), *values, v.worst_case, *limits, v.status])
    return align(rows, left=1) if verdicts else ""
