"""What rows of different lengths cost, beside as many steps in rows of equal length: time and peak memory, in one run.

    python benchmarks/ragged.py [--threads 1] [--rounds 9] [--steps 20000] [--rows 64 400 4000] [--sizes 64 128]
                                [--cpu-time] [--no-peers]

Lengths are equal, lognormal (sigma 1, any order), or one long row among rows of one step; the sum is always the same.
Our calls take ``(values, lengths)``, a list, or torch's PackedSequence; beside them stand torch's and thinc's own LSTM
on the same rows, and a loop over the rows. Everything is checked against the loop before it is timed (of thinc's own
LSTM only the shapes). Peak memory is that of a new process, above its memory after a call with two short rows. Prints
Markdown tables.
"""

import argparse
import functools
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=1, help="cores that this process may use")
parser.add_argument("--rounds", type=int, default=9)
parser.add_argument("--steps", type=int, default=20000, help="steps of all rows together")
parser.add_argument("--rows", type=int, nargs="+", default=[64, 400, 4000])
parser.add_argument("--sizes", type=int, nargs=2, default=(64, 128), metavar=("I", "H"))
parser.add_argument("--no-peers", action="store_true", help="without torch and thinc")
parser.add_argument(
    "--cpu-time", action="store_true", help="what this process computes, on a machine shared with others"
)
parser.add_argument("--peak", nargs=3, metavar=("CALL", "LENGTHS", "ROWS"), help=argparse.SUPPRESS)
arguments = parser.parse_args()
# Before any library counts the cores: the one limit that all of them respect.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])

import numpy as np  # noqa: E402

import fusedrnn  # noqa: E402

N, (I, H) = arguments.steps, arguments.sizes
KINDS = ("equal", "lognormal", "one long")
Call = Callable[[], Any]
clock = time.process_time if arguments.cpu_time else time.perf_counter


def lengths_of(kind: str, B: int) -> Any:
    """B lengths >= 1 that sum to N."""
    if kind == "one long":
        lengths = np.ones(B, np.int64)
        lengths[B // 2] += N - B
        return lengths
    weights = np.ones(B) if kind == "equal" else np.random.default_rng(1).lognormal(0, 1, B)
    ends = np.round(np.cumsum(weights) / weights.sum() * (N - B)).astype(np.int64)
    return np.diff(ends, prepend=0) + 1


def split(values: Any, lengths: Any) -> Any:
    return np.split(values, np.cumsum(lengths)[:-1])


@functools.cache
def net(name: str) -> Any:
    if name == "stack":
        sizes = (I, H, H)
        return fusedrnn.Stack([fusedrnn.LSTM(size, H, rng=k) for k, size in enumerate(sizes)])
    return fusedrnn.LSTM(I, H, rng=0)


def ours(name: str) -> Callable[[Any, Any], Call]:
    """Calls of our layers: "forward", "train", and the same of a stack of three, of a list, or row by row."""

    def made(values: Any, lengths: Any) -> Call:
        layer = net("stack" if "stack" in name else "layer")
        frozen = layer.freeze()
        x: Any = split(values, lengths) if "list" in name or "loop" in name else (values, lengths)
        if name == "loop":
            return lambda: np.concatenate([frozen(row)[0] for row in x])
        if "train" in name:
            dy: Any = np.ones((N, H), np.float32)
            if "list" in name:
                dy = split(dy, lengths)

            def step() -> Any:
                _, _, tape = layer.forward(x)
                dx = tape.backward(dy).x
                return np.concatenate(dx) if isinstance(dx, list) else dx

            return step
        return lambda: np.concatenate(frozen(x)[0]) if "list" in name else frozen(x)[0]

    return made


def of_torch(module: str) -> Callable[[Any, Any], Call]:
    """A training step on a PackedSequence: gradients of the data and of all parameters."""

    def made(values: Any, lengths: Any) -> Call:
        import torch

        torch.set_num_threads(arguments.threads)
        if module == "bridge":
            from fusedrnn.interop import torch as home
        else:
            home = torch.nn
        layer = home.LSTM(I, H)
        layer.load_state_dict({key: torch.from_numpy(value) for key, value in net("layer").params.items()})
        rows = [torch.from_numpy(row) for row in split(values, lengths)]
        packed = torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)
        data = packed.data.clone().requires_grad_()
        packed = packed._replace(data=data)
        # Position in the packed data of each step, row by row.
        numbers = [torch.from_numpy(part) for part in split(np.arange(N), lengths)]
        order = np.argsort(torch.nn.utils.rnn.pack_sequence(numbers, enforce_sorted=False).data.numpy())

        def step() -> Any:
            layer.zero_grad()
            data.grad = None
            layer(packed)[0].data.sum().backward()
            return data.grad.numpy()[order]

        return step

    return made


def of_thinc(make: str) -> Callable[[Any, Any], Call]:
    """A training step on a Ragged."""

    def made(values: Any, lengths: Any) -> Call:
        import thinc.api

        from fusedrnn.interop.thinc import FusedLSTM

        model = FusedLSTM(H, I) if make == "bridge" else thinc.api.with_padded(thinc.api.LSTM(H, I))
        X = thinc.api.Ragged(values, model.ops.asarray1i(lengths))
        dY = thinc.api.Ragged(np.ones((N, H), np.float32), X.lengths)
        model.initialize(X=X, Y=dY)
        if make == "bridge":
            for key, value in net("layer").params.items():
                model.set_param(key, value)

        def step() -> Any:
            _, backprop = model(X, is_train=True)
            return backprop(dY).data

        return step

    return made


#: Name of a call -> how it is made from values and lengths, and whose results it must have.
CALLS: dict[str, tuple[Callable[[Any, Any], Call], str]] = {
    "inference, frozen layer": (ours("forward"), "loop over frozen rows"),
    "inference, list": (ours("forward list"), "loop over frozen rows"),
    "inference, stack of three": (ours("forward stack"), ""),
    "training step": (ours("train"), ""),
    "training step, list": (ours("train list"), ""),
    "training step, stack of three": (ours("train stack"), ""),
    "loop over frozen rows": (ours("loop"), ""),
}
PEERS: dict[str, tuple[Callable[[Any, Any], Call], str]] = {
    "training step, PackedSequence": (of_torch("bridge"), "training step"),
    "training step, torch.nn.LSTM": (of_torch("nn"), "training step"),
    "training step, thinc FusedLSTM": (of_thinc("bridge"), "training step"),
    "training step, thinc LSTM": (of_thinc("own"), ""),
}
#: Calls that pad every row to the longest: gigabytes for one long row, which is therefore left out.
PADDING = ("training step, thinc LSTM",)
if not arguments.no_peers:
    CALLS |= PEERS


def problem(kind: str, B: int) -> tuple[Any, Any]:
    return np.random.default_rng(0).standard_normal((N, I)).astype(np.float32), lengths_of(kind, B)


def print_peak() -> None:
    """For a process of its own: KiB at the peak of one call, above those after a call with two short rows."""
    global N
    name, kind, B = arguments.peak
    values, lengths = problem(kind, int(B))
    make, _ = CALLS[name]
    call = make(values, lengths)
    N = 3
    make(values[:3], np.array([2, 1]))()
    N = arguments.steps
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here on
    before = resident("VmRSS")
    call()
    print(resident("VmHWM") - before)


def resident(what: str) -> int:
    """KiB, from Linux's table of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def peak(name: str, kind: str, B: int) -> float:
    options = ["--threads", str(arguments.threads), "--steps", str(N), "--sizes", str(I), str(H)]
    done = subprocess.run(
        [sys.executable, __file__, *options, "--peak", name, kind, str(B)], capture_output=True, text=True, check=True
    )
    return int(done.stdout) / 1024


def check(B: int) -> None:
    for kind in KINDS:
        values, lengths = problem(kind, B)
        names = [name for name in CALLS if kind != "one long" or name not in PADDING]
        found = {name: CALLS[name][0](values, lengths)() for name in names}
        for name in names:
            like = CALLS[name][1]
            assert len(found[name]) == N, name
            if like:
                scale = np.abs(found[like]).max()
                np.testing.assert_allclose(
                    found[name], found[like], rtol=0, atol=1e-5 * scale, err_msg=f"{name}, {kind}"
                )


def main() -> None:
    versions = {
        name: importlib.metadata.version(name) for name in ("numpy", "torch", "thinc")[: 3 - 2 * arguments.no_peers]
    }
    print(f"{N} steps, (I, H) = {(I, H)}, float32, {arguments.threads} core(s) of {platform.machine()},")
    print(f"{fusedrnn.current_isa()}; fusedrnn {fusedrnn.__version__}, " + ", ".join(map(" ".join, versions.items())))
    unit = "CPU milliseconds" if arguments.cpu_time else "milliseconds"
    print(
        f"Time: {unit}, the fastest of {arguments.rounds} rounds in which all take turns. In brackets: times as many as"
    )
    print("rows of equal length take, the median of the ratios within a round. Memory: MiB at the peak of a call.")
    for B in arguments.rows:
        check(B)
        longest = {kind: int(lengths_of(kind, B).max()) for kind in KINDS}
        print(f"\n{B} rows; the longest has {', '.join(f'{n} steps ({kind})' for kind, n in longest.items())}\n")
        print("| call |" + "".join(f" {kind} | MiB |" for kind in KINDS))
        print("| --- |" + " ---: | ---: |" * len(KINDS))
        for name, (make, _) in CALLS.items():
            kinds = KINDS[:2] if name in PADDING else KINDS
            calls = {kind: make(*problem(kind, B)) for kind in kinds}
            times: dict[str, list[float]] = {kind: [] for kind in kinds}
            for call in calls.values():
                call()
            for _ in range(arguments.rounds):
                for kind, call in calls.items():
                    start = clock()
                    call()
                    times[kind].append((clock() - start) * 1e3)
            memory = {kind: peak(name, kind, B) for kind in kinds}
            cells = []
            for kind in kinds:
                pairs = zip(times[kind], times["equal"], strict=True)
                ratio = statistics.median(mine / equal for mine, equal in pairs)
                more = memory[kind] / max(memory["equal"], 0.1)
                cells.append(f" {min(times[kind]):.1f} ({ratio:.2f}) | {memory[kind]:.1f} ({more:.2f}) |")
            cells += [" padded | |"] * (len(KINDS) - len(kinds))
            print(f"| {name} |" + "".join(cells), flush=True)


if __name__ == "__main__":
    print_peak() if arguments.peak else main()
