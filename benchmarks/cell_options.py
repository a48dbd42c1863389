"""What each option of a cell costs: forward and backward, beside the plain cell of its family, in interleaved rounds.

    python benchmarks/cell_options.py                 # T, B, I, H = 100, 32, 256, 256, one thread: some minutes
    python benchmarks/cell_options.py --rounds 5 --only lstm

Prints the Markdown table of docs/cells.md. A ratio is that of two minima, or of two medians, over the same rounds, so
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

#: Family -> the plain layer, then its options as users write them.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "RNN": [
        {},
        {"bias": "single"},
        {"clip": 50.0},
        {"activation": "softsign"},
        {"activation": "softplus"},
        {"activation": ("elu", 1.0)},
        {"recurrent_dropout": 0.25},
        {"weight_dropout": 0.25},
        {"zoneout": 0.1},
    ],
    "GRU": [
        {},
        {"bias": "single"},
        {"clip": 50.0},
        {"recurrent_activation": "hard_sigmoid"},
        {"activation": "softsign"},
        {"activation": "softplus", "recurrent_activation": ("hard_sigmoid", 0.2, 0.5), "clip": 50.0},
        {"reset_gate": False},
        {"reset_gate": False, "activation": "softsign"},
        {"reset_after": False},
        {"reset_after": False, "recurrent_activation": "hard_sigmoid", "clip": 50.0},
        {"recurrent_dropout": 0.25},
        {"weight_dropout": 0.25},
        {"zoneout": 0.1},
        {"reset_after": False, "recurrent_dropout": 0.25},
    ],
    "LSTM": [
        {},
        {"bias": "single"},
        {"peephole": "ifo"},
        {"peephole": "o_prev"},
        {"coupled": True},
        {"coupled": True, "peephole": "ifo"},
        {"cell_clip": 3.0},
        {"clip": 50.0},
        {"recurrent_activation": "hard_sigmoid"},
        {"activation": "softsign"},
        {"recurrent_dropout": 0.25},
        {"weight_dropout": 0.25},
        {"zoneout": 0.1},
        {"recurrent_dropout": 0.25, "zoneout": (0.5, 0.05)},
        {"proj_size": 128},
        {
            "activation": "softplus",
            "recurrent_activation": "softsign",
            "peephole": "ifo",
            "clip": 50.0,
            "cell_clip": 3.0,
        },
    ],
}


def step(layer: Layer, x: Any, dy: Any) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    _, _, tape = layer.forward(x)  # type: ignore[attr-defined]
    tape.backward(dy)
    return time.perf_counter() - start


def measure(family: str, sizes: tuple[int, int, int, int], rounds: int) -> list[tuple[str, float, float, float]]:
    """Option, milliseconds (minimum), and the ratios of minima and of medians to the plain layer."""
    T, B, I, H = sizes
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((T, B, n)).astype(np.float32) for n in (I, H))
    layers: list[Any] = [getattr(fusedrnn, family)(I, H, rng=0, **options) for options in OPTIONS[family]]
    times: list[list[float]] = [[] for _ in layers]
    for _ in range(rounds + 1):
        for layer, seconds in zip(layers, times, strict=True):
            seconds.append(step(layer, x, dy[..., : getattr(layer, "proj_size", 0) or H]))
    plain = times[0][1:]
    rows = []
    for options, seconds in zip(OPTIONS[family], times, strict=True):
        name = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "plain"
        best, median = min(seconds[1:]), float(np.median(seconds[1:]))
        rows.append((name, best * 1e3, best / min(plain), median / float(np.median(plain))))
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
    print("| layer | option | forward + backward, ms | ratio of minima | of medians |")
    print("| --- | --- | ---: | ---: | ---: |")
    for family in OPTIONS:
        if arguments.only in (None, family.lower()):
            for name, milliseconds, best, median in measure(family, tuple(arguments.sizes), arguments.rounds):
                print(f"| {family} | {name} | {milliseconds:.1f} | {best:.2f} | {median:.2f} |")


if __name__ == "__main__":
    main()
