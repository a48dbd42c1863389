"""What a training step costs through each bridge, beside our NumPy API and the other library's own layer, in one run.

    python benchmarks/bridges.py [--threads 1] [--rounds 15] [--shape 100 32 128 128] [--cpu-time]

A step is forward and backward: gradients of the input and of all parameters, from a given gradient of the outputs.
All that stand in one line compute the same from the same arrays, which is checked before anything is timed (of thinc's
only the shapes, as its initial weights are others). Prints a Markdown table; docs/bridges.md holds one.
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


def numpy_step(layer: Any, x: Any, dy: Any) -> Step:
    def step() -> Any:
        results = layer.forward(x)
        tape = results[2]
        grads = tape.backward(dy)
        tape.release()
        return np.concatenate(grads.x) if isinstance(grads.x, list) else grads.x

    return step


def torch_step(layer: Any) -> Step:
    name = layer.mode.partition("_")[0]  # RNN_TANH
    params = getattr(fusedrnn, name)(I, H, rng=0).params
    layer.load_state_dict({key: torch.from_numpy(value) for key, value in params.items()})
    x_t, dy_t = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)

    def step() -> Any:
        layer.zero_grad()
        x_t.grad = None
        y = layer(x_t)[0]
        y.backward(dy_t)
        return x_t.grad.numpy()

    return step


class Nothing(torch.autograd.Function):
    """A node of torch's graph with the tensors of an LSTM and no work: a step of it is what torch itself takes."""

    @staticmethod
    def forward(ctx: Any, results: list[Any], grads: list[Any], *tensors: Any) -> tuple[Any, ...]:
        ctx.grads = grads
        ctx.set_materialize_grads(False)
        return tuple(map(torch.from_numpy, results))

    @staticmethod
    def backward(ctx: Any, *dys: Any) -> tuple[Any, ...]:
        return None, None, *map(torch.from_numpy, ctx.grads)


class IdleLSTM(torch.nn.LSTM):
    def forward(self, x: Any) -> Any:
        if not hasattr(self, "arrays"):  # made once: fresh memory would cost more than all the rest
            grads = [np.ones(t.shape, np.float32) for t in (x, *self._flat_weights)]
            self.arrays = [np.ones((T, B, H), np.float32), *np.ones((2, 1, B, H), np.float32)], grads
        return Nothing.apply(*self.arrays, x, *self._flat_weights)


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


def lines() -> list[tuple[str, str, str, list[Step]]]:
    """(what, our bridge, theirs, steps of the bridge, our NumPy API and theirs)."""
    ours = {name: getattr(fusedrnn, name)(I, H, rng=0) for name in ("LSTM", "GRU", "RNN")}
    plain = {name: numpy_step(layer, x, dy) for name, layer in ours.items()}
    found = []
    for name in ours:
        steps = [torch_step(getattr(module, name)(I, H)) for module in (torch_bridge, torch.nn)]
        found.append((f"torch, {name}", "interop.torch", f"torch.nn.{name}", [steps[0], plain[name], steps[1]]))
    for name, loop, states in (("LSTM", lstm_loop, 2), ("GRU", gru_loop, 1)):
        bridge = jax_step(name, lambda p, x, layer=ours[name]: jax_bridge.apply(layer, p, x)[0])
        scan = jax_step(name, loop(jnp, jax_scan(states)))
        found.append((f"JAX, {name}", "interop.jax", "lax.scan, jit", [bridge, plain[name], scan]))
    bridge = autograd_step("LSTM", lambda p, x: autograd_bridge.apply(ours["LSTM"], p, x)[0])
    loop = autograd_step("LSTM", lstm_loop(anp, python_loop(2)))
    found.append(("autograd, LSTM", "interop.autograd", "loop over NumPy", [bridge, plain["LSTM"], loop]))
    sentences = [rng.standard_normal((n, 96)).astype("float32") for n in rng.integers(5, 45, 32)]
    bridge = thinc_step(thinc_bridge.FusedLSTM(96, 96, bi=True), sentences, 96)
    both_ways = fusedrnn.LSTM(96, 48, bidirectional=True, rng=0)
    alone = numpy_step(both_ways, sentences, [np.ones((len(s), 96), "float32") for s in sentences])
    own = thinc_step(thinc.api.with_padded(thinc.api.LSTM(96, 96, bi=True)), sentences, 96)
    wrapped = thinc_step(thinc.api.PyTorchLSTM(96, 96, bi=True), sentences, 96)
    found.append(("thinc, tagger", "FusedLSTM", "LSTM.v1", [bridge, alone, own]))
    found.append(("thinc, tagger", "FusedLSTM", "PyTorchLSTM.v1", [bridge, alone, wrapped]))
    return found


def timed(step: Step) -> float:
    """The second of two steps, as in a loop: the first leaves the caches as its own kind does."""
    step()
    start = clock()
    step()
    return (clock() - start) * 1e3


def main() -> None:
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "torch", "jax", "autograd", "thinc")}
    print(f"(T, B, I, H) = {(T, B, I, H)}, float32, {arguments.threads} core(s) of {platform.machine()},")
    print(f"{fusedrnn.current_isa()}; fusedrnn {fusedrnn.__version__}, " + ", ".join(map(" ".join, versions.items())))
    unit = "Milliseconds of CPU time" if arguments.cpu_time else "Milliseconds"
    print(f"{unit}: fastest (median) of {arguments.rounds} rounds in which all take turns.\n")
    table = lines()
    for what, _, _, steps in table:
        bridge, *others = (step() for step in steps)
        for other in others:
            assert bridge.shape == other.shape, what
            if not what.startswith("thinc"):
                np.testing.assert_allclose(bridge, other, atol=1e-4 * np.abs(other).max(), err_msg=what)
    times: list[list[list[float]]] = [[[], [], []] for _ in table]
    idle, idle_step, plain = [], torch_step(IdleLSTM(I, H)), table[0][3][1]
    idle_step()
    for _ in range(arguments.rounds):
        for (*_, steps), spent in zip(table, times, strict=True):
            for step, milliseconds in zip(steps, spent, strict=True):
                milliseconds.append(timed(step))
        plain()  # the caches are full of a layer's arrays, as after a step that does something
        start = clock()
        idle_step()
        idle.append((clock() - start) * 1e3)
    print("| step | through | time | NumPy API | more, median | beside | time | bridge is faster by |")
    print("| --- | --- | ---: | ---: | ---: | --- | ---: | ---: |")
    for (what, through, beside, _), spent in zip(table, times, strict=True):
        bridge, alone, other = (f"{min(one):.2f} ({statistics.median(one):.2f})" for one in spent)
        more = statistics.median(a - b for a, b in zip(spent[0], spent[1], strict=True))
        ratio = min(spent[2]) / min(spent[0])
        print(f"| {what} | {through} | {bridge} | {alone} | {more:+.2f} | {beside} | {other} | {ratio:.2f} |")
    print(f"\ntorch itself, for a node with the tensors of an LSTM: {min(idle):.2f} ({statistics.median(idle):.2f})")


if __name__ == "__main__":
    main()
