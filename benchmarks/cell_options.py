"""What each option of a cell costs: forward and backward, beside the plain cell of its family, in interleaved rounds.

    python benchmarks/cell_options.py                 # T, B, I, H = 100, 32, 256, 256, one thread: some minutes
    python benchmarks/cell_options.py --rounds 5 --only lstm

Prints the Markdown table of docs/cells.md. "call" stands for options of a call (`CALLS`). Drawing masks is part of the
time of what needs them. A ratio is that of two minima, or of two medians, over the same rounds, so
that other programs on the machine disturb both alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fusedrnn

Layer = Callable[..., Any]

#: Options of a call -> its arguments for x of T steps and B rows.
CALLS: dict[str, Callable[[np.random.Generator, int, int], dict[str, Any]]] = {
    "lengths": lambda rng, T, B: {"lengths": rng.integers(T // 2, T + 1, B)},
    "mask": lambda rng, T, B: {"mask": rng.random((T, B)) < 0.75},
    "reset": lambda rng, T, B: {"reset": rng.random((T, B)) < 0.05},
    "hold": lambda rng, T, B: {"lengths": rng.integers(T // 2, T + 1, B), "past_end": "hold"},
}

#: What every family has.
EVERYWHERE: list[dict[str, Any]] = [
    {"bias": "single"},
    {"clip": 50.0},
    {"learned_state": True},
    {"backwards": True},
    {"call": "lengths"},
    {"call": "hold"},
    {"call": "mask"},
    {"call": "reset"},
    {"recurrent_dropout": 0.25},
    {"weight_dropout": 0.25},
    {"zoneout": 0.1},
]

#: Family -> the plain layer, then its options as users write them.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "RNN": [
        {},
        *EVERYWHERE,
        {"activation": "softsign"},
        {"activation": "softplus"},
        {"activation": ("elu", 1.0)},
        {"activation": "softsign", "clip": 50.0, "recurrent_dropout": 0.25, "zoneout": 0.1, "call": "mask"},
    ],
    "GRU": [
        {},
        *EVERYWHERE,
        {"recurrent_activation": "hard_sigmoid"},
        {"activation": "softsign"},
        {"activation": "softplus", "recurrent_activation": ("hard_sigmoid", 0.2, 0.5), "clip": 50.0},
        {"reset_gate": False},
        {"reset_gate": False, "activation": "softsign"},
        {"reset_after": False},
        {"reset_after": False, "recurrent_activation": "hard_sigmoid", "clip": 50.0},
        {"reset_after": False, "recurrent_dropout": 0.25},
        {"recurrent_activation": "hard_sigmoid", "recurrent_dropout": 0.25, "zoneout": 0.1, "call": "mask"},
        {"layer_norm": True},
        {"layer_norm": True, "recurrent_dropout": 0.25, "zoneout": 0.1},
    ],
    "LSTM": [
        {},
        *EVERYWHERE,
        {"peephole": "ifo"},
        {"peephole": "o_prev"},
        {"coupled": True},
        {"coupled": True, "peephole": "ifo"},
        {"cell_clip": 3.0},
        {"recurrent_activation": "hard_sigmoid"},
        {"activation": "softsign"},
        {"recurrent_dropout": 0.25, "zoneout": (0.5, 0.05)},
        {"peephole": "ifo", "recurrent_dropout": 0.25, "zoneout": (0.5, 0.05), "call": "mask"},
        {"proj_size": 128},
        {"proj_size": 128, "recurrent_dropout": 0.25, "zoneout": 0.1},
        {"proj_size": 128, "peephole": "ifo", "cell_clip": 3.0},
        {"layer_norm": True},
        {"layer_norm": True, "recurrent_dropout": 0.25, "zoneout": 0.1},
        {
            "activation": "softplus",
            "recurrent_activation": "softsign",
            "peephole": "ifo",
            "clip": 50.0,
            "cell_clip": 3.0,
        },
    ],
}


def step(layer: Any, x: Any, dy: Any, call: dict[str, Any]) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    _, _, tape = layer.forward(x, **call)
    tape.backward(dy)
    return time.perf_counter() - start


def multiplications(layer: Any, options: dict[str, Any], call: dict[str, Any], T: int, B: int) -> float:
    """Of a forward pass; the backward pass has twice as many."""
    H, P = layer.hidden_size, options.get("proj_size", 0)
    gates = len(layer.weight_ih_l0) // H
    inside = np.arange(T)[:, None] < np.asarray(call.get("lengths", np.full(B, T)))
    return float((inside & call.get("mask", True)).sum()) * (gates * H * (layer.input_size + (P or H)) + H * P)


def measure(family: str, sizes: tuple[int, int, int, int], rounds: int) -> list[tuple[str, float, float, float, float]]:
    """Option, milliseconds (minimum); ratios to the plain layer of minima, of medians, of minima per multiplication."""
    T, B, I, H = sizes
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((T, B, n)).astype(np.float32) for n in (I, H))
    layers: list[Any] = []
    calls: list[dict[str, Any]] = []
    for options in OPTIONS[family]:
        own = {key: value for key, value in options.items() if key != "call"}
        layers.append(getattr(fusedrnn, family)(I, H, rng=0, **own))
        calls.append(CALLS[options["call"]](rng, T, B) if "call" in options else {})
    times: list[list[float]] = [[] for _ in layers]
    for _ in range(rounds + 1):
        for layer, call, seconds in zip(layers, calls, times, strict=True):
            seconds.append(step(layer, x, dy[..., : getattr(layer, "proj_size", 0) or H], call))
    plain = times[0][1:]
    work = [multiplications(*each, T, B) for each in zip(layers, OPTIONS[family], calls, strict=True)]
    rows = []
    for options, seconds, products in zip(OPTIONS[family], times, work, strict=True):
        name = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "plain"
        best, median = min(seconds[1:]), float(np.median(seconds[1:]))
        ratio = best / min(plain)
        rows.append((name, best * 1e3, ratio, median / float(np.median(plain)), ratio * work[0] / products))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=4, default=(100, 32, 256, 256), metavar=("T", "B", "I", "H"))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", choices=[name.lower() for name in OPTIONS])
    arguments = parser.parse_args()
    fusedrnn.set_num_threads(1)
    print(f"{fusedrnn.current_isa()}, one thread, (T, B, I, H) = {tuple(arguments.sizes)}, {arguments.rounds} rounds\n")
    print("| layer | option | forward + backward, ms | ratio of minima | of medians | per multiply-add |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for family in OPTIONS:
        if arguments.only in (None, family.lower()):
            for name, *figures in measure(family, tuple(arguments.sizes), arguments.rounds):
                print(f"| {family} | {name} | {figures[0]:.1f} | {' | '.join(f'{v:.2f}' for v in figures[1:])} |")


if __name__ == "__main__":
    main()
