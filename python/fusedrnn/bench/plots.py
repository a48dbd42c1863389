"""SVG plots of results: time against hidden size, and the roofline. matplotlib is optional."""

import importlib
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

from .cases import Case
from .report import count_of
from .result import Result

EXPLANATION = """\
Streams, single sequences, training and the roofline are drawn, for one thread count of one instruction set; the tables
have the rest. The plots of times show microseconds for one step of one row, so that cases of different T and B fit in
one plot; each panel is one cell. In the roofline the horizontal axis is the arithmetic intensity: useful operations for
each byte that must come from beyond the registers, which are the recurrent weights once a step and everything else once
a call (in training, the weights twice a step). The lines are the run's own probes: multiply-adds, reads from L2 and
from L3. Points above the L3 line have their weights in a nearer cache."""

# Groups whose times are drawn: every step alone, one sequence, training. Each plot is a file of many lines that a new
# run changes, so the others are left to the tables.
GROUPS = ("stream", "seq-infer-B1", "batch-train")

_CELLS = ("lstm", "gru_after", "gru_before", "rnn_tanh", "rnn_relu")
_MARKERS = dict(zip(_CELLS, "osv^D", strict=True))


def draw(results: list[Result], directory: Path) -> list[Path]:
    """Draw the plots of the results' smallest thread count; an empty list without matplotlib.

    Parameters
    ----------
    results : list of Result
        Of one instruction set.
    directory : Path
        Gets the files.

    Returns
    -------
    list of Path
        The files, in the order of the report.
    """
    measured = [result for result in results if result.measured]
    if not measured or not importlib.util.find_spec("matplotlib"):
        return []
    matplotlib = importlib.import_module("matplotlib")
    directory.mkdir(parents=True, exist_ok=True)
    threads = min(result.threads for result in measured)
    section = [result for result in measured if result.threads == threads]
    written = []
    with matplotlib.rc_context(_STYLE):
        figures = {}
        for name in GROUPS:
            group = [result for result in section if group_of(result.case) == name]
            if _sizes(group) > 1:
                figures[name] = _times(group, name)
        figures["roofline"] = _roofline(section)
        for name, figure in figures.items():
            path = directory / f"{name}-{section[0].isa}-{threads}t.svg"
            path.write_text(_svg(figure), encoding="utf-8")
            written.append(path)
    return written


# The same results give the same text: no date, a fixed salt for names. Letters are text: outlines are most of a file.
_STYLE = {
    "svg.hashsalt": "fusedrnn",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def _svg(figure: Any) -> str:
    """The figure as SVG with a line for each element and coordinates to a hundredth of a point."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = re.sub(r' (?:d|x|y|transform)="[^"]*"', _shortened, buffer.getvalue())
    text = re.sub(r' transform="rotate\(0 [^"]*"', "", text)
    text = re.sub(r"<g>\s*(<use [^>]*>)\s*</g>", r"\1", text)
    # Another version measures letters differently and moves everything a little: comparisons need the version.
    version = importlib.import_module("matplotlib").__version__
    return text.replace("<svg ", f"<!-- drawn with matplotlib {version} -->\n<svg ", 1)


def _shortened(attribute: re.Match[str]) -> str:
    """Rounded, in one line."""
    return re.sub(r"-?\d+\.\d+|-0\b", _rounded, attribute[0].replace("\n", "")).replace(' "', '"')


def _rounded(number: re.Match[str]) -> str:
    return f"{round(float(number[0]), 2) + 0.0:g}"  # + 0.0: no minus before a zero


def group_of(case: Case) -> str:
    """Cases that share a plot."""
    if case.mode == "stream":
        return case.regime
    return f"{case.regime}-{case.mode}" + (f"-B{case.B}" if case.regime == "seq" else "")


def intensity(result: Result) -> float:
    """Useful operations for each byte that has to be read or written; see `EXPLANATION`."""
    case = result.case
    size = 8 if case.dtype == "float64" else 4
    passes = 2 if case.mode == "train" else 1
    moved = 0.0
    for layer in range(case.layers):
        inputs = case.layer_input_size(layer)
        recurrent = case.gates * case.H * case.H * case.T
        once = case.gates * case.H * inputs + case.T * case.B * (inputs + case.H)
        moved += case.directions * passes * size * (recurrent + once)
    return result.flops / moved


def _sizes(group: list[Result]) -> int:
    return len({result.case.H for result in group})


def _figure(width: float, height: float) -> Any:
    """Without pyplot: no window system is asked for, no state is left behind."""
    return importlib.import_module("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")


def _times(group: list[Result], name: str) -> Any:
    """One panel a cell, one line a peer; where a hidden size occurs more than once, its first case is drawn."""
    cells = [cell for cell in _CELLS if any(result.case.cell == cell for result in group)]
    peers = list(dict.fromkeys(peer for result in group for peer in result.times))
    figure = _figure(3.2 * len(cells) + 1.4, 3.2)
    panels = figure.subplots(1, len(cells), sharey=True, squeeze=False)[0]
    for panel, cell in zip(panels, cells, strict=True):
        by_size: dict[int, Result] = {}
        for result in sorted((r for r in group if r.case.cell == cell), key=lambda r: r.case.H):
            by_size.setdefault(result.case.H, result)
        for number, peer in enumerate(peers):
            points = [(H, 1e6 * r.median(peer) / (r.case.T * r.case.B)) for H, r in by_size.items() if peer in r.times]
            if points:
                ours = peer == group[0].subject
                style = {"linewidth": 2.2 if ours else 1.0, "zorder": 3 if ours else 2, "color": f"C{number % 10}"}
                panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=peer, **style)
        panel.set(xscale="log", yscale="log", xlabel="H", title=cell)
        panel.set_xticks(list(by_size), labels=[str(H) for H in by_size], size=8)  # 768 and 1024 are near each other
        _label_ticks(panel.yaxis, 1)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("us for a step of a row")
    figure.suptitle(f"{name}, {count_of(group[0].threads)}")
    handles = {label: h for p in panels for h, label in zip(*p.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    return figure


def _roofline(section: list[Result]) -> Any:
    figure = _figure(8, 4.5)
    panel = figure.subplots()
    regimes = list(dict.fromkeys(result.case.regime for result in section))
    for regime, cell in dict.fromkeys((result.case.regime, result.case.cell) for result in section):
        group = [result for result in section if (result.case.regime, result.case.cell) == (regime, cell)]
        panel.plot(
            [intensity(result) for result in group],
            [result.gflops for result in group],
            _MARKERS[cell],
            color=f"C{regimes.index(regime) % 10}",
            markersize=4,
        )
    low, high = panel.get_xlim()
    low, high = max(low, 0.1), max(high, 1.0) * 1.5
    single = [result for result in section if result.case.dtype == "float32"] or section
    for number, name in enumerate(("FMA", "gemm", "L2", "L3")):
        rates = sorted(result.limits[name].rate for result in single if name in result.limits)
        if not rates:
            continue
        rate = rates[len(rates) // 2]
        ends = [low, high]
        values = [rate, rate] if name in ("FMA", "gemm") else [rate * x for x in ends]
        unit = "GFLOP/s" if name in ("FMA", "gemm") else "GB/s"
        panel.plot(
            ends, values, color="black", linestyle=("-", "-", "--", ":")[number], label=f"{name} {rate:.0f} {unit}"
        )
    for regime in regimes:
        panel.plot([], [], "o", color=f"C{regimes.index(regime) % 10}", markersize=4, label=regime)
    for cell in dict.fromkeys(result.case.cell for result in section):
        panel.plot([], [], _MARKERS[cell], color="gray", markersize=4, label=cell)
    speeds = [result.gflops for result in section]
    panel.set(xscale="log", yscale="log", xlim=(low, high), ylim=(min(speeds) / 2, max(speeds) * 3))
    panel.set(
        xlabel="operations for a byte", ylabel="useful GFLOP/s", title=f"roofline, {count_of(section[0].threads)}"
    )
    _label_ticks(panel.xaxis, 1)
    _label_ticks(panel.yaxis, 1, 2, 5)
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _label_ticks(axis: Any, *multiples: float) -> None:
    """Ticks at these multiples of the powers of ten, as plain numbers: a power is several pieces of text in SVG."""
    axis.set_major_locator(importlib.import_module("matplotlib.ticker").LogLocator(10, multiples))
    axis.set_major_formatter(lambda value, position: f"{value:g}")
