"""Training a GRU with its reset before the product: beside Keras' own layer and torch loops over a hand-written cell.

    KERAS_BACKEND=tensorflow python benchmarks/reset_before.py        # T, B, I, H = 100, 32, 256, 256, one thread

Forward and backward, float32, interleaved rounds; results and gradients are compared before anything is timed. Needs
torch, keras and its backend; what is not installed is left out.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fusedrnn
from fusedrnn import interop

Step = Callable[[], tuple[Any, Any, Any]]  # y, dx, dW_hh


def ours(layer: Any, x: Any, dy: Any) -> Step:
    """The layer itself."""

    def step() -> tuple[Any, Any, Any]:
        y, _, tape = layer.forward(x)
        grads = tape.backward(dy)
        return y, grads.x, grads.params["weight_hh_l0"]

    return step


def torch_loop(layer: Any, x: Any, dy: Any, hoisted: bool = False) -> Step:
    """A cell as a module, called with x[t]; or the quickest loop, with all inputs in one product before it."""
    import torch

    torch.set_num_threads(1)
    I, H = layer.input_size, layer.hidden_size

    class Cell(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.of_x, self.of_h = torch.nn.Linear(I, 3 * H), torch.nn.Linear(H, 2 * H)
            self.of_reset_h = torch.nn.Linear(H, H)

        def forward(self, x_t: Any, h: Any) -> Any:
            x_r, x_z, x_n = (x_t if hoisted else self.of_x(x_t)).chunk(3, dim=1)
            h_r, h_z = self.of_h(h).chunk(2, dim=1)
            r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
            n = torch.tanh(x_n + self.of_reset_h(r * h))
            return (1 - z) * n + z * h

    cell = Cell()
    W_ih, W_hh, b_ih, b_hh = (torch.from_numpy(w) for w in layer.params.values())
    with torch.no_grad():
        for linear, W, b in (
            (cell.of_x, W_ih, b_ih),
            (cell.of_h, W_hh[: 2 * H], b_hh[: 2 * H]),
            (cell.of_reset_h, W_hh[2 * H :], b_hh[2 * H :]),
        ):
            linear.weight.copy_(W), linear.bias.copy_(b)
    inputs, d_outputs = torch.from_numpy(x.copy()).requires_grad_(), torch.from_numpy(dy.copy())

    def step() -> tuple[Any, Any, Any]:
        cell.zero_grad()
        inputs.grad = None
        h = torch.zeros(x.shape[1], H)
        outputs = []
        steps = cell.of_x(inputs).unbind() if hoisted else (inputs[t] for t in range(len(inputs)))
        for x_t in steps:
            h = cell(x_t, h)
            outputs.append(h)
        y = torch.stack(outputs)
        y.backward(d_outputs)
        return y.detach(), inputs.grad, torch.cat([cell.of_h.weight.grad, cell.of_reset_h.weight.grad])

    return step


def keras_layer(layer: Any, x: Any, dy: Any) -> Step:
    """Keras' GRU over its own loop, compiled as its backend compiles a training step."""
    import keras

    theirs = interop.to_keras(layer)
    batch_first, d_batch_first = (np.ascontiguousarray(a.swapaxes(0, 1)) for a in (x, dy))
    rows = fusedrnn.GRU(layer.input_size, layer.hidden_size, reset_after=False)

    def in_our_order(y: Any, dx: Any, d_recurrent: Any) -> tuple[Any, Any, Any]:
        y, dx, d_recurrent = (np.asarray(a) for a in (y, dx, d_recurrent))
        kernels = [np.zeros((rows.input_size, 3 * rows.hidden_size), np.float32), d_recurrent]
        return y.swapaxes(0, 1), dx.swapaxes(0, 1), interop.from_keras(kernels, reset_after=False).weight_hh_l0

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        inputs, d_outputs = tf.constant(batch_first), tf.constant(d_batch_first)

        @tf.function  # type: ignore[untyped-decorator]
        def run() -> Any:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                y = theirs(inputs)
            wanted = [inputs, *(w.value for w in theirs.trainable_weights)]
            return y, tape.gradient(y, wanted, output_gradients=d_outputs)

        def tensorflow_step() -> tuple[Any, Any, Any]:
            y, grads = run()
            return y, grads[0], grads[2]

        return lambda: LazyResults(tensorflow_step(), in_our_order)
    if keras.backend.backend() != "torch":
        raise ImportError(f"no way to take gradients of Keras' backend {keras.backend.backend()} is written down here")
    import torch

    torch.set_num_threads(1)
    tensor, d_tensor = torch.from_numpy(batch_first).requires_grad_(), torch.from_numpy(d_batch_first)

    def torch_step() -> tuple[Any, Any, Any]:
        tensor.grad = None
        theirs.zero_grad()
        y = theirs(tensor)
        y.backward(d_tensor)
        return y.detach(), tensor.grad, theirs.trainable_weights[1].value.grad

    return lambda: LazyResults(torch_step(), in_our_order)


class LazyResults(tuple):  # type: ignore[type-arg]
    """Results that are turned into ours when they are looked at, outside of what is timed."""

    def __new__(cls, results: tuple[Any, Any, Any], turn: Callable[..., tuple[Any, Any, Any]]) -> LazyResults:
        made = super().__new__(cls, results)
        made.turn = turn  # type: ignore[attr-defined]
        return made


def arrays(results: Any) -> list[Any]:
    """As NumPy arrays in our order."""
    if isinstance(results, LazyResults):
        results = results.turn(*results)  # type: ignore[attr-defined]
    return [np.asarray(a) for a in results]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=4, default=(100, 32, 256, 256), metavar=("T", "B", "I", "H"))
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    T, B, I, H = arguments.sizes
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    fusedrnn.set_num_threads(1)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((T, B, n)).astype(np.float32) for n in (I, H))
    layer = fusedrnn.GRU(I, H, reset_after=False, rng=0)
    steps: dict[str, Step] = {"fusedrnn": ours(layer, x, dy)}
    peers: dict[str, Callable[[Any, Any, Any], Step]] = {
        "torch, a loop over a cell": torch_loop,
        "the quickest such loop": functools.partial(torch_loop, hoisted=True),
        "Keras": keras_layer,
    }
    for name, make in peers.items():
        try:
            steps[name] = make(layer, x, dy)
        except ImportError as error:
            print(f"{name}: left out ({error})")
    expected = arrays(steps["fusedrnn"]())
    for name, step in steps.items():
        for result, reference in zip(arrays(step()), expected, strict=True):
            error = float(np.abs(result - reference).max() / np.abs(reference).max())
            assert error < 1e-4, f"{name}: {error}"
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    print(f"{fusedrnn.current_isa()}, one thread, (T, B, I, H) = {(T, B, I, H)}, {arguments.rounds} rounds\n")
    print("| | minimum, ms | median, ms | relative minimum | relative median |\n| --- | ---: | ---: | ---: | ---: |")
    for name, seconds in times.items():
        best, median = min(seconds), float(np.median(seconds))
        ratios = best / min(times["fusedrnn"]), median / float(np.median(times["fusedrnn"]))
        print(f"| {name} | {best * 1e3:.1f} | {median * 1e3:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    main()
