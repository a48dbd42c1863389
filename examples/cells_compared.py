"""Cells beside each other: simplified and full GRU, GRU and LSTM at equal cost, and the RNN they improve on.

    simplified GRU   z = sigmoid(...),                   n = tanh(W x + U h + b),        h' = (1 - z) n + z h
    full GRU         z as above, r = sigmoid(...),       n = tanh(W x + r (U h) + b),    h' = (1 - z) n + z h
    LSTM             i, f, o = sigmoid(...),  g = tanh(...),  c' = f c + i g,            h' = o tanh(c')

A cell with k gates and candidates of H units costs k H (V + H) multiplications a step for one of V characters, so each
kind gets the H at which that is what the LSTM's is. All read the same text with the same batches, twice from
other weights. Figure: bits per character of held-out text. Data: Python's language reference (pydoc_data).
"""

import sys
import time
from pydoc_data.topics import topics

import autograd.numpy as np
import matplotlib.pyplot as plt

import fusedrnn
from fusedrnn.interop.autograd import apply
from training import cross_entropy, dense, dense_params, fit, parse_options, save, verdict

# Name: what makes the layer, and the number of its blocks of weights (gates and candidate).
CELLS = {
    "RNN": (fusedrnn.RNN, {}, 1),
    "simplified GRU": (fusedrnn.GRU, {"reset_gate": False}, 2),
    "full GRU": (fusedrnn.GRU, {}, 3),
    "LSTM": (fusedrnn.LSTM, {}, 4),
}


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(__doc__, arguments, {"steps": 200, "hidden": 32, "runs": 1}, steps=400, hidden=96, runs=2)
    T, B = 64, 32
    text = "\n".join(topics[name] for name in sorted(topics))
    characters = sorted(set(text))
    tokens = np.searchsorted(np.array([ord(c) for c in characters]), [ord(c) for c in text])
    n, V = len(tokens) * 9 // 10, len(characters)
    held_out = tokens[n:][: (len(tokens) - n) // B * B].reshape(B, -1).T
    cost = 4 * options.hidden * (options.hidden + 1)  # a character's column of W is looked up, not multiplied

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5))
    bits = {}
    for colour, (name, (kind, settings, blocks)) in enumerate(CELLS.items()):
        H = round(np.sqrt(cost / blocks + 0.25) - 0.5)
        bits[name], took = [], time.perf_counter()
        for run in range(options.runs):
            rng = np.random.default_rng([options.seed, run])
            layer = kind(V, H, rng=rng, **settings)
            params = {"layer": layer.params, "out": dense_params(rng, H, V)}
            drawing = np.random.default_rng([options.seed, run])  # the same batches for every kind

            def loss(params, x, layer=layer):
                y, _ = apply(layer, params["layer"], x[:-1])
                return cross_entropy(dense(params["out"], y), x[1:])

            def batches(drawing=drawing):
                while True:
                    yield (tokens[np.arange(T + 1)[:, None] + drawing.integers(n - T - 1, size=B)],)

            curve = fit(loss, params, batches(), options.steps, lr=0.004 if name == "RNN" else 0.01)
            bits[name].append(float(loss(params, held_out)) / np.log(2))
            smooth = np.convolve(np.array(curve) / np.log(2), np.ones(20) / 20, "valid")
            left.plot(smooth, f"C{colour}", linewidth=0.8, label=name if run == 0 else None)
        took = (time.perf_counter() - took) / options.runs / options.steps * 1e3
        print(
            f"{name:15} H = {H:3}, {blocks * H * H:6,} multiplications a step by U; {took:5.1f} ms a training step; "
            f"bits per character {np.mean(bits[name]):.3f} ({min(bits[name]):.3f} to {max(bits[name]):.3f})"
        )
    left.set(xlabel="training step", ylabel="bits per character")
    left.legend()
    for colour, values in enumerate(bits.values()):
        right.plot(values, [colour] * len(values), f"C{colour}o")
    right.set(yticks=range(len(bits)), yticklabels=list(bits), xlabel="bits per character of held-out text, each run")
    right.invert_yaxis()
    figure.tight_layout()
    save(figure, options.out, "cells_compared")
    worst = max(np.mean(bits[name]) for name in bits if name != "RNN")
    return verdict("bits per character, worst gated cell", worst, at_most=4 if options.quick else 2.7)


if __name__ == "__main__":
    sys.exit(main())
