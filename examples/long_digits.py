"""A digit read pixel by pixel: what has to be remembered over 64 steps, by a MinGRU, an LRU and an LSTM of equal width.

    u = W_in x_t + b                                     x_t: one pixel
    u = u + W_k act(layer_k(norm(u)))     k = 1, 2       a residual around each layer; norm over the H numbers of u
    p = softmax(W u_64 + b)                              after the last pixel

A pixel says next to nothing, and the first row is 60 steps back when the answer is due. So the gates start slow: the
times over which they forget are spread over 1 to 64 steps (Tallec & Ollivier 2018), as the LRU's |lambda| are. Cells
without a recurrent matrix mix their units between layers alone, so the network has two layers, a product after each,
and residuals around both (Orvieto et al. 2023). Data: 1797 digits of 8 x 8 pixels in scikit-learn.
"""

import sys
import time

import autograd.numpy as np
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fusedrnn
from fusedrnn.interop.autograd import apply
from training import cross_entropy, dense, dense_params, fit, leaves, parse_options, save, shuffled, verdict

# Name: class, its arguments, and the learning rate.
LAYERS = {
    "MinGRU": (fusedrnn.MinGRU, {}, 0.005),
    "LRU": (fusedrnn.LRU, {"r_min": 0.9, "r_max": 0.999, "max_phase": 0.6}, 0.005),
    "LSTM": (fusedrnn.LSTM, {}, 0.005),
}


def norm(p, u):
    """Layer normalisation with gains and biases."""
    centred = u - np.mean(u, axis=-1, keepdims=True)
    return p["gain"] * centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-5) + p["bias"]


def start_slow(layer, rng):
    """Biases at which a gate forgets over 1 to 64 steps."""
    H = layer.hidden_size
    times = np.log(rng.uniform(1, 63, H))
    if isinstance(layer, fusedrnn.MinGRU):
        layer.params["bias_ih_l0"][:H] = -times  # z, the share that is new
    elif isinstance(layer, fusedrnn.LSTM):
        layer.params["bias_ih_l0"][: 2 * H] = np.concatenate([-times, times])  # i, f


class Network:
    """Two layers of one kind, with residuals."""

    def __init__(self, kind, arguments, H, rng):
        self.layers = [kind(H, H, rng=rng, **arguments) for _ in range(2)]
        self.params = {"in": dense_params(rng, 1, H), "out": dense_params(rng, H, 10)}
        for k, layer in enumerate(self.layers):
            start_slow(layer, rng)
            normed = {"gain": np.ones(H, "f4"), "bias": np.zeros(H, "f4")}
            self.params[f"{k}"] = {"layer": layer.params, "norm": normed, "mix": dense_params(rng, H, H)}

    def scores(self, params, x):
        """From pixels (B, T): (B, 10) after the last."""
        u = dense(params["in"], x.T[:, :, None])
        for k, layer in enumerate(self.layers):
            p = params[f"{k}"]
            y, _ = apply(layer, p["layer"], norm(p["norm"], u))
            u = u + dense(p["mix"], np.maximum(y, 0.1 * y))
        return dense(params["out"], u[-1])


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(__doc__, arguments, {"steps": 150, "hidden": 32}, steps=700, hidden=48)
    pixels, digits = load_digits(return_X_y=True)
    split = train_test_split(pixels.astype("f4") / 8 - 1, digits, test_size=0.25, random_state=0, stratify=digits)
    x, x_test, target, target_test = split
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5))
    reached, last = {}, {}
    for name, (kind, settings, lr) in LAYERS.items():
        rng = np.random.default_rng(options.seed)
        network = Network(kind, settings, options.hidden, rng)

        def loss(params, x, target, network=network):
            return cross_entropy(network.scores(params, x), target)

        def accuracy(step, network=network, name=name):
            found = network.scores(network.params, x_test).argmax(axis=1)
            reached.setdefault(name, {})[step] = share = float(np.mean(found == target_test))
            return f"accuracy {share:.3f}"

        every, began = max(1, options.steps // 12), time.perf_counter()
        batches = ((x[i], target[i]) for i in shuffled(rng, len(x), 64))
        curve = fit(loss, network.params, batches, options.steps, lr=lr, every=every, check=accuracy)
        seconds, epochs = time.perf_counter() - began, options.steps * 64 / len(x)
        count = sum(p.size for p in leaves(network.params))
        last[name] = reached[name][options.steps]
        print(f"{name:7}{count:7,} parameters, {seconds / epochs:5.2f} s an epoch; accuracy {last[name]:.3f}")
        left.plot(np.convolve(curve, np.ones(20) / 20, "valid"), label=name)
        right.plot(*zip(*reached[name].items(), strict=True), "o-", label=name)
    left.set(xlabel="training step", ylabel="cross entropy")
    right.set(xlabel="training step", ylabel=f"accuracy on {len(x_test)} digits", ylim=(0, 1.02))
    right.legend()
    figure.tight_layout()
    save(figure, options.out, "long_digits")
    worst = min(last["MinGRU"], last["LRU"])
    return verdict("accuracy of MinGRU and LRU, the lower", worst, at_least=0.3 if options.quick else 0.8)


if __name__ == "__main__":
    sys.exit(main())
