"""Token input by the size of the vocabulary: what a call costs at V, in units of what it costs at the smallest V.

    python benchmarks/vocabulary.py [--hidden 64] [--tokens 1 32 2000] [--order C] [--rounds 15]

An LSTM in float32 on one thread. Each call reads other tokens, drawn from the whole vocabulary, as a text has; with
``--same`` the same tokens come again, so that their columns stay in the cache and what remains is the work itself.
Sizes of the vocabulary are interleaved in every round; the table has medians of CPU time and of ratios. V = 1,000,000
at H = 256 takes 4 GB.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

import fusedrnn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--hidden", type=int, default=64, help="H")
parser.add_argument("--tokens", type=int, nargs="+", default=(1, 32, 2000), help="T * B; up to 32 as one step")
parser.add_argument("--vocabularies", type=int, nargs="+", default=(1_000, 10_000, 100_000, 1_000_000))
parser.add_argument("--order", choices=("C", "F"), default="C", help="memory order of weight_ih")
parser.add_argument("--rounds", type=int, default=15)
parser.add_argument("--same", action="store_true", help="the same tokens in every call")
arguments = parser.parse_args()

rng = np.random.default_rng(0)
H = arguments.hidden


def restored(kind: Any, suffix: str, W_ih: Any) -> Any:
    """A layer or cell with this weight_ih; drawing it, in float64, would take twice its memory."""
    made = object.__new__(kind)
    params = kind(1, H, rng=0).params | {f"weight_ih{suffix}": W_ih}
    sizes = {"input_size": W_ih.shape[1], "hidden_size": H}
    made.__setstate__({"version": 1, "params": params, "rng": np.random.default_rng(0), **sizes})
    return made


def torch_step(layer: Any) -> Callable[[Any], Any] | None:
    """A training step of the torch module, with sparse gradients."""
    try:
        import torch

        from fusedrnn.interop.torch import LSTM
    except ImportError:
        return None
    torch.set_num_threads(1)
    module = LSTM(1, H)
    module.input_size = layer.input_size
    for name, array in layer.params.items():
        setattr(module, name, torch.nn.Parameter(torch.from_numpy(array)))
    module.sparse = True

    def step(ids: Any) -> None:
        module.zero_grad()
        y, _ = module(torch.from_numpy(ids))
        y.backward(torch.ones_like(y))

    return step


def calls_of(V: int, ids: Any) -> dict[str, Callable[[], Any]]:
    W_ih = rng.random((4 * H, V), np.float32) if arguments.order == "C" else rng.random((V, 4 * H), np.float32).T
    layer, cell = restored(fusedrnn.LSTM, "_l0", W_ih), restored(fusedrnn.LSTMCell, "", W_ih)
    T, B = ids[V][0].shape
    dy = np.ones((T, B, H), np.float32)
    each: Iterator[Any] = cycle(ids[V])

    def train() -> None:
        _, _, tape = layer.forward(next(each))
        tape.backward(dy, sparse=True)
        tape.release()

    found = {"layer(ids)": lambda: layer(next(each)), "forward and backward": train}
    if T == 1:
        found["cell"] = lambda: cell(next(each)[0])
    through_torch = torch_step(layer)
    if through_torch is not None:
        found["torch, a step"] = lambda: through_torch(next(each))
    return found


def seconds(call: Callable[[], Any]) -> float:
    """CPU time of a call: the mean over at least 5 ms."""
    count, start = 0, time.process_time()
    while (took := time.process_time() - start) < 5e-3 or count == 0:
        call()
        count += 1
    return took / count


def main() -> None:
    sizes = arguments.vocabularies
    print(f"LSTM, H = {H}, float32, weight_ih in {arguments.order} order; {fusedrnn.current_isa()}; us (ratio)\n")
    print(f"| T * B | call | {' | '.join(f'V = {V:,}' for V in sizes)} |")
    print("| ---: | --- |" + " ---: |" * len(sizes))
    for n in arguments.tokens:
        T, B = (1, n) if n <= 32 else (n // 32, 32)
        # Enough different calls that no cache holds the columns of all.
        ids = {
            V: [rng.integers(0, V, (T, B)) for _ in range(1 if arguments.same else max(4, 20_000 // n))] for V in sizes
        }
        calls = {V: calls_of(V, ids) for V in sizes}
        for name in calls[sizes[0]]:
            samples: dict[int, list[float]] = {V: [] for V in sizes}
            with fusedrnn.threads(1):
                for V in sizes:
                    calls[V][name]()
                for _ in range(arguments.rounds):
                    for V in sizes:
                        samples[V].append(seconds(calls[V][name]))
            ratios = {
                V: statistics.median(a / b for a, b in zip(samples[V], samples[sizes[0]], strict=True)) for V in sizes
            }
            cells = [f"{statistics.median(samples[V]) * 1e6:.1f} ({ratios[V]:.2f})" for V in sizes]
            print(f"| {T * B} | {name} | {' | '.join(cells)} |", flush=True)


main()
