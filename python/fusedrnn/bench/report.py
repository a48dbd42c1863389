"""Results as Markdown tables, to be read in a terminal too."""

from collections.abc import Iterable

import numpy as np

from .result import Result


def format_seconds(seconds: float) -> str:
    """Three digits and a unit.

    Examples
    --------
    >>> format_seconds(0.0123456), format_seconds(2.5e-6)
    ('12.3 ms', '2.50 us')
    """
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= 0.9995 * scale:
            return f"{_three_digits(seconds / scale)} {unit}"
    return f"{_three_digits(seconds / 1e-9)} ns"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def markdown(machine: dict[str, str], results: list[Result]) -> str:
    """The whole report: header, one table for each thread count, what was left out and why."""
    parts = [header(machine), EXPLANATION]
    for threads in sorted({result.threads for result in results}):
        section = [result for result in results if result.threads == threads]
        parts += [f"## {count_of(threads)}", *tables(section)]
    return "\n\n".join(parts) + "\n"


def header(machine: dict[str, str]) -> str:
    """The machine, as a list."""
    return "\n".join(f"- {key}: {value}" for key, value in machine.items())


def count_of(threads: int) -> str:
    """ "1 thread" or "2 threads"."""
    return f"{threads} thread{'s' if threads > 1 else ''}"


def tables(section: list[Result]) -> list[str]:
    """Times, means and refusals of results at one thread count."""
    return [text for text in (times(section), geometric_means(section), _excluded(section)) if text]


EXPLANATION = """\
Times are per call: medians over interleaved rounds, 10th and 90th percentile in brackets. A ratio is the median over
the rounds of the peer's time divided by ours: above 1 we are faster. "of FMA" is our speed as a part of what
multiply-adds on registers reached in the same rounds at the same thread count ("of gemm": of what NumPy's matrix
product reached; `python -m fusedrnn bench` has no other probe). Every peer's outputs and gradients were checked before.

Outputs are allocated in each call, except by our stream's `step(x, out)` and by oneDNN, whose driver in C++ allocates
all buffers beforehand and packs the weights beforehand, in training once a step; `onednn-cpp` is a loop over single
steps in C++, `onednn-prepacked` is training without that packing: a bound that no training reaches, so it is never
"best". Our inference runs on frozen layers, whose weights are packed once; so do onnxruntime's sessions. torch's
stream is its `...Cell`, which is faster there than its layer. Cases in which we are slower than a peer come first;
`~` marks those during which other programs used more than a fifth of a core."""


def times(results: list[Result]) -> str:
    """One row a case, lost ones first."""
    peers = list(dict.fromkeys(p for r in results for p in (*r.times, *r.refused)))
    subject = results[0].subject
    others = [peer for peer in peers if peer != subject]
    yardstick = next((result.yardstick for result in results if result.yardstick), "FMA")
    head = ["case", subject, "", "GFLOP/s", f"of {yardstick}", *others, "best peer"]
    rows = [_row(result, others) for result in sorted(results, key=lambda r: not r.loses)]
    return align([head, *rows], left=1)


def _row(result: Result, others: list[str]) -> list[str]:
    cells = [f"{result.case.name}{' (slower)' if result.loses else ''}{' ~' if result.noisy else ''}"]
    if not result.measured:
        return [*cells, "wrong", *[""] * (len(others) + 4)]
    spread = result.spread(result.subject)
    cells += [
        format_seconds(result.median(result.subject)),
        f"({format_seconds(spread[0])} – {format_seconds(spread[1])})" if spread else "",
        f"{result.gflops:.1f}",
        f"{result.fraction:.0%}",
    ]
    for peer in others:
        if peer in result.times:
            cells.append(f"{format_seconds(result.median(peer))} ({result.ratio(peer):.2f}x)")
        else:
            cells.append("wrong" if peer in result.refused else "–")
    best = result.best_peer
    return [*cells, "" if best is None else f"{best} {result.ratio(best):.2f}x"]


def align(rows: list[list[str]], *, left: int) -> str:
    """A Markdown table with padded cells; the first `left` columns are left-aligned, the others right-aligned."""
    widths = [max(3, *(len(cell) for cell in column)) for column in zip(*rows, strict=True)]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    padded = [
        [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True))]
        for r in rows
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:]))


def regime_of(result: Result) -> str:
    """Name of the group over which means are taken."""
    return result.case.regime + ("" if result.case.mode == "stream" else f" {result.case.mode}")


def geometric_means(results: list[Result]) -> str:
    """Ratios averaged over each regime: to the best peer of each case, and to each peer."""
    regimes = list(dict.fromkeys(regime_of(result) for result in results if result.best_peer is not None))
    if not regimes:
        return ""
    peers = list(dict.fromkeys(p for r in results for p in r.times if p != r.subject))
    rows = [
        [
            "geometric mean of the ratio (cases, if not all)",
            "of " + (results[0].yardstick or "FMA"),
            "best peer",
            *peers,
        ]
    ]
    for regime in regimes:
        section = [r for r in results if regime_of(r) == regime and r.measured]
        best = [r.ratio(r.best_peer) for r in section if r.best_peer is not None]
        fractions = f"{np.median([r.fraction for r in section]):.0%}"
        cells = [_mean([r.ratio(peer) for r in section if peer in r.times], len(section)) for peer in peers]
        rows.append([regime, fractions, _mean(best, len(section)), *cells])
    return align(rows, left=1)


def _mean(ratios: list[float], cases: int) -> str:
    """With the number of cases, where some are missing."""
    if not ratios:
        return "–"
    some = "" if len(ratios) == cases else f" ({len(ratios)})"
    return f"{np.exp(np.mean(np.log(ratios))):.2f}x{some}"


def _excluded(results: Iterable[Result]) -> str:
    lines = [f"- {r.case.name}: {peer} was not timed: {why}" for r in results for peer, why in r.refused.items()]
    return "\n".join(lines)
