"""Results as Markdown, to be read in a terminal too, and as JSON, from which plots can be drawn."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from .run import Result

JSON_FORMAT = 1


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
    parts = ["\n".join(f"- {key}: {value}" for key, value in machine.items()), _EXPLANATION]
    for threads in sorted({result.threads for result in results}):
        section = [result for result in results if result.threads == threads]
        parts.append(f"## {threads} thread{'s' if threads > 1 else ''}")
        parts.append(_table(section))
        parts += [text for text in (_geometric_means(section), _excluded(section)) if text]
    return "\n\n".join(parts) + "\n"


_EXPLANATION = """\
Times are per call: medians over interleaved rounds, 10th and 90th percentile in brackets. A ratio is the median over
the rounds of the peer's time divided by ours: above 1 we are faster. "of gemm" is our speed as a part of the
yardstick's in the same rounds. Every peer's outputs and gradients were checked before. Outputs are allocated in each
call, except by our stream's `step(x, out)`. Our inference runs on frozen layers, whose weights are packed once;
torch's stream is its `...Cell`, which is faster there than its layer. Cases in which we are slower than a peer come
first; `~` marks those during which other programs used more than a fifth of a core."""


def _table(results: list[Result]) -> str:
    peers = list(dict.fromkeys(p for r in results for p in (*r.samples, *r.refused, *r.unsupported)))
    subject = results[0].subject
    others = [peer for peer in peers if peer != subject]
    header = ["case", subject, "", "GFLOP/s", "of gemm", *others, "best peer"]
    rows = [_row(result, others) for result in sorted(results, key=lambda r: not r.loses)]
    return align([header, *rows], left=1)


def _row(result: Result, others: list[str]) -> list[str]:
    cells = [f"{result.case.name}{' (slower)' if result.loses else ''}{' ~' if result.noisy else ''}"]
    if not result.measured:
        return [*cells, "wrong", *[""] * (len(others) + 4)]
    low, high = (format_seconds(result.quantile(result.subject, q)) for q in (0.1, 0.9))
    cells += [
        format_seconds(result.median(result.subject)),
        f"({low} – {high})",
        f"{result.gflops:.1f}",
        f"{result.gflops / result.gemm_gflops:.0%}",
    ]
    for peer in others:
        if peer in result.samples:
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


def _geometric_means(results: list[Result]) -> str:
    """Ratio to the best peer of each case, averaged over the regimes."""
    ratios: dict[str, list[float]] = {}
    for result in results:
        best = result.best_peer
        if best is not None:
            regime = result.case.regime + ("" if result.case.mode == "stream" else f" {result.case.mode}")
            ratios.setdefault(regime, []).append(result.ratio(best))
    means = [f"{name} {np.exp(np.mean(np.log(values))):.2f}x ({len(values)})" for name, values in ratios.items()]
    return f"Geometric mean of the ratio to the best peer (cases): {', '.join(means)}." if means else ""


def _excluded(results: Iterable[Result]) -> str:
    lines = [f"- {r.case.name}: {peer} was not timed: {why}" for r in results for peer, why in r.refused.items()]
    return "\n".join(lines)


def to_json(machine: dict[str, str], settings: dict[str, Any], results: list[Result]) -> dict[str, Any]:
    """Everything that was measured, every sample included."""
    return {
        "format": JSON_FORMAT,
        "machine": machine,
        "settings": settings,
        "results": [
            {
                "case": result.case.as_dict(),
                "threads": result.threads,
                "subject": result.subject,
                "flops": result.flops,
                "oracle": result.oracle,
                "peers": {
                    peer: {
                        **asdict(samples),
                        "median": result.median(peer),
                        "p10": result.quantile(peer, 0.1),
                        "p90": result.quantile(peer, 0.9),
                        "ratio": result.ratio(peer),
                    }
                    for peer, samples in result.samples.items()
                },
                "best_peer": result.best_peer,
                "others": result.others,
                "refused": result.refused,
                "unsupported": list(result.unsupported),
                "gemm": {**asdict(result.gemm), "gflops": result.gemm_gflops} if result.gemm else None,
            }
            for result in results
        ],
    }
