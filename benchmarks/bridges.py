"""What a training step costs through each bridge, beside the other library's own layer, interleaved in one run.

    python benchmarks/bridges.py [--threads 1] [--rounds 15] [--shape 100 32 128 128] [--cpu-time]

A step is forward and backward: gradients of the input and of all parameters, from a given gradient of the outputs.
Both sides of a line compute the same, which is checked before anything is timed (of thinc's only the shapes, as its
initial weights are others). Prints a Markdown table; docs/bridges.md holds one.
"""

import argparse
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=1, help="cores that this process may use")
parser.add_argument("--rounds", type=int, default=15)
parser.add_argument("--shape", type=int, nargs=4, default=(100, 32, 128, 128), metavar=("T", "B", "I", "H"))
parser.add_argument(
    "--cpu-time", action="store_true", help="what this process computes, on a machine shared with others"
)
arguments = parser.parse_args()
# Before any library counts the cores: the one limit that all of them respect.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])

import autograd.numpy as anp  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import thinc.api  # noqa: E402
import torch  # noqa: E402
from autograd import grad  # noqa: E402

import fusedrnn  # noqa: E402
from fusedrnn.interop import autograd as autograd_bridge  # noqa: E402
from fusedrnn.interop import jax as jax_bridge  # noqa: E402
from fusedrnn.interop import thinc as thinc_bridge  # noqa: E402
from fusedrnn.interop import torch as torch_bridge  # noqa: E402

T, B, I, H = arguments.shape
rng = np.random.default_rng(0)
x = rng.standard_normal((T, B, I)).astype("float32")
dy = rng.standard_normal((T, B, H)).astype("float32")

Step = Callable[[], Any]
clock = time.process_time if arguments.cpu_time else time.perf_counter


def numpy_step(name: str) -> Step:
    layer = getattr(fusedrnn, name)(I, H, rng=0)

    def step() -> Any:
        _, _, tape = layer.forward(x)
        return tape.backward(dy).x

    return step


def torch_step(module: Any) -> Step:
    name = module.__name__
    layer = module(I, H)
    params = getattr(fusedrnn, name)(I, H, rng=0).params
    layer.load_state_dict({key: torch.from_numpy(value) for key, value in params.items()})
    x_t, dy_t = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)

    def step() -> Any:
        layer.zero_grad()
        x_t.grad = None
        y, _ = layer(x_t)
        y.backward(dy_t)
        return x_t.grad.numpy()

    return step


def lstm_loop(np_: Any, scan: Any) -> Callable[[Any, Any], Any]:
    """The textbook's LSTM in an array library: one product over all steps for the input, one for each step."""

    def run(p: Any, x: Any) -> Any:
        gates_x = np_.dot(x, p["weight_ih_l0"].T) + (p["bias_ih_l0"] + p["bias_hh_l0"])

        def body(state: Any, a_x: Any) -> Any:
            h, c = state
            a = a_x + np_.dot(h, p["weight_hh_l0"].T)
            i, f, g, o = (a[:, k * H : (k + 1) * H] for k in range(4))
            i, f, o = (1 / (1 + np_.exp(-gate)) for gate in (i, f, o))
            c = f * c + i * np_.tanh(g)
            h = o * np_.tanh(c)
            return (h, c), h

        return scan(body, gates_x)

    return run


def gru_loop(np_: Any, scan: Any) -> Callable[[Any, Any], Any]:
    def run(p: Any, x: Any) -> Any:
        gates_x = np_.dot(x, p["weight_ih_l0"].T) + p["bias_ih_l0"]

        def body(state: Any, a_x: Any) -> Any:
            (h,) = state
            a_h = np_.dot(h, p["weight_hh_l0"].T) + p["bias_hh_l0"]
            r, z = (1 / (1 + np_.exp(-(a_x + a_h)[:, k * H : (k + 1) * H])) for k in range(2))
            n = np_.tanh(a_x[:, 2 * H :] + r * a_h[:, 2 * H :])
            h = (1 - z) * n + z * h
            return (h,), h

        return scan(body, gates_x)

    return run


def jax_scan(states: int) -> Any:
    zeros = (jnp.zeros((B, H), jnp.float32),) * states
    return lambda body, gates_x: jax.lax.scan(body, zeros, gates_x)[1]


def python_loop(states: int) -> Any:
    def scan(body: Any, gates_x: Any) -> Any:
        state, ys = (np.zeros((B, H), np.float32),) * states, []
        for a_x in gates_x:
            state, h = body(state, a_x)
            ys.append(h)
        return anp.stack(ys)

    return scan


def jax_step(name: str, run: Callable[[Any, Any], Any]) -> Step:
    params = {key: jnp.asarray(w) for key, w in getattr(fusedrnn, name)(I, H, rng=0).params.items()}
    x_j, dy_j = jnp.asarray(x), jnp.asarray(dy)
    gradients = jax.jit(jax.grad(lambda p, x, dy: jnp.sum(run(p, x) * dy), (0, 1)))
    return lambda: np.asarray(jax.block_until_ready(gradients(params, x_j, dy_j))[1])


def autograd_step(name: str, run: Callable[[Any, Any], Any]) -> Step:
    params = getattr(fusedrnn, name)(I, H, rng=0).params
    gradients = grad(lambda p, x: anp.sum(run(p, x) * dy), (0, 1))
    return lambda: gradients(params, x)[1]


def thinc_step(model: Any, sentences: list[Any], width: int) -> Step:
    dy = [np.ones((len(s), width), "float32") for s in sentences]
    model.initialize(X=sentences, Y=dy)

    def step() -> Any:
        _, backprop = model(sentences, is_train=True)
        return np.concatenate(backprop(dy))

    return step


def lines() -> list[tuple[str, str, str, Step, str, Step]]:
    """(what, ours, our step, theirs, their step)."""
    found = []
    for name in ("LSTM", "GRU", "RNN"):
        ours, theirs = torch_step(getattr(torch_bridge, name)), torch_step(getattr(torch.nn, name))
        found.append((f"torch, {name}", "interop.torch", ours, f"torch.nn.{name}", theirs))
        found.append((f"torch, {name}", "interop.torch", ours, "our NumPy API", numpy_step(name)))
    for name, loop, states in (("LSTM", lstm_loop, 2), ("GRU", gru_loop, 1)):
        layer = getattr(fusedrnn, name)(I, H)
        ours = jax_step(name, lambda p, x, layer=layer: jax_bridge.apply(layer, p, x)[0])
        found.append(
            (f"JAX, {name}", "interop.jax", ours, "lax.scan, jit", jax_step(name, loop(jnp, jax_scan(states))))
        )
    layer = fusedrnn.LSTM(I, H)
    ours = autograd_step("LSTM", lambda p, x: autograd_bridge.apply(layer, p, x)[0])
    theirs = autograd_step("LSTM", lstm_loop(anp, python_loop(2)))
    found.append(("autograd, LSTM", "interop.autograd", ours, "loop over NumPy", theirs))
    sentences = [rng.standard_normal((n, 96)).astype("float32") for n in rng.integers(5, 45, 32)]
    ours = thinc_step(thinc_bridge.FusedLSTM(96, 96, bi=True), sentences, 96)
    own = thinc_step(thinc.api.with_padded(thinc.api.LSTM(96, 96, bi=True)), sentences, 96)
    wrapped = thinc_step(thinc.api.PyTorchLSTM(96, 96, bi=True), sentences, 96)
    found.append(("thinc, tagger", "FusedLSTM", ours, "LSTM.v1", own))
    found.append(("thinc, tagger", "FusedLSTM", ours, "PyTorchLSTM.v1", wrapped))
    return found


def timed(step: Step) -> float:
    start = clock()
    step()
    return (clock() - start) * 1e3


def main() -> None:
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "torch", "jax", "autograd", "thinc")}
    print(f"(T, B, I, H) = {(T, B, I, H)}, float32, {arguments.threads} core(s) of {platform.machine()},")
    print(f"{fusedrnn.current_isa()}; fusedrnn {fusedrnn.__version__}, " + ", ".join(map(" ".join, versions.items())))
    unit = "Milliseconds of CPU time" if arguments.cpu_time else "Milliseconds"
    print(f"{unit}: fastest and median of {arguments.rounds} rounds in which all lines take turns.\n")
    table = lines()
    for what, _, ours, _, theirs in table:
        mine, other = ours(), theirs()
        assert mine.shape == other.shape, what
        if not what.startswith("thinc"):
            np.testing.assert_allclose(mine, other, atol=1e-4 * np.abs(other).max(), err_msg=what)
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in table]
    for _ in range(arguments.rounds):
        for line, (mine, other) in zip(table, times, strict=True):
            mine.append(timed(line[2]))
            other.append(timed(line[4]))
    print("| step | through | fastest | median | beside | fastest | median | ratio of the fastest |")
    print("| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |")
    for (what, ours_name, _, theirs_name, _), (mine, other) in zip(table, times, strict=True):
        cells = [what, ours_name, min(mine), statistics.median(mine), theirs_name, min(other), statistics.median(other)]
        shown = [cell if isinstance(cell, str) else f"{cell:.2f}" for cell in cells]
        print(f"| {' | '.join(shown)} | {min(other) / min(mine):.2f} |")


if __name__ == "__main__":
    main()
