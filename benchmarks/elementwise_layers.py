"""Layers without a recurrent matrix beside `fusedrnn.GRU` of equal width and others' code, in interleaved rounds.

    python benchmarks/elementwise_layers.py                       # MinGRU and SRU, the sizes of interest: some minutes
    python benchmarks/elementwise_layers.py --layers MinLSTM,QRNN,LRU,IndRNN,RGLRU --rounds 3
    python benchmarks/elementwise_layers.py --stream              # one step at a time

Float32, as many inputs as units. Outputs, and in training the gradient of x, of every peer that computes the same layer
are compared with fusedrnn's before anything is timed; peers that are not installed are left out. A ratio is the median
over the rounds of (peer's time / fusedrnn's time in the same round). The last column is "product": NumPy's product of
the inputs with the weights, in training also the two products of its gradients, which is the least that any layer does.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

if "--threads" not in " ".join(sys.argv):  # one thread, in all libraries: they read this when they are imported
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np

import fusedrnn

Step = Callable[[], tuple[Any, ...]]  # y; in training y, dx

SIZES = ((100, 32, 128), (50, 64, 256), (1000, 1, 256))  # T, B, H
LAYERS = ("MinGRU", "MinLSTM", "SRU", "QRNN", "LRU", "IndRNN", "RGLRU")


# ---- the layers' equations over the functions of torch or JAX: sequences that all steps need, and one step


class Functions:
    """The functions that the equations need, from torch or jax.numpy."""

    def __init__(self, library: Any, sigmoid: Any, softplus: Any, complex_: Any) -> None:
        self.sigmoid, self.softplus, self.complex = sigmoid, softplus, complex_
        self.exp, self.sqrt, self.tanh, self.where, self.stack = (
            getattr(library, name) for name in ("exp", "sqrt", "tanh", "where", "stack")
        )


def linear(name: str, m: Functions, a: list[Any], x: Any, p: Any) -> tuple[Any, Any, Callable[[Any], Any]] | None:
    """Decays and inputs of c' = decay c + input for all steps, and the outputs from all c; None for SRU and IndRNN."""

    def candidate(v: Any) -> Any:
        return m.where(v < 0, m.sigmoid(v), v + 0.5)

    if name == "MinGRU":
        z = m.sigmoid(a[0])
        return 1 - z, z * candidate(a[1]), lambda c: c
    if name == "MinLSTM":
        f, i = m.sigmoid(a[0]), m.sigmoid(a[1])
        return f / (f + i), i / (f + i) * candidate(a[2]), lambda c: c
    if name == "QRNN":
        f, o = m.sigmoid(a[1]), m.sigmoid(a[2])
        return f, (1 - f) * m.tanh(a[0]), lambda c: o * c
    if name == "RGLRU":
        u = 8 * m.softplus(p[0]) * m.sigmoid(a[0])
        return m.exp(-u), m.sqrt(1 - m.exp(-2 * u)) * m.sigmoid(a[1]) * x, lambda c: c
    if name == "LRU":
        decay = m.exp(m.complex(-m.exp(p[0]), m.exp(p[1])))
        inputs = m.exp(p[2]) * m.complex(a[0][..., ::2], a[0][..., 1::2])
        return decay + 0 * inputs, inputs, lambda c: m.stack([c.real, c.imag], -1).reshape(a[0].shape)
    return None


def nonlinear(name: str, m: Functions, c: Any, a: Any, x: Any, p: Any) -> tuple[Any, Any]:
    """One step of SRU or IndRNN: c and the output."""
    if name == "IndRNN":
        h = a[0] + p[0] * c
        h = m.where(h > 0, h, 0 * h)
        return h, h
    f, r = m.sigmoid(a[1] + p[0] * c), m.sigmoid(a[2] + p[1] * c)
    c = f * c + (1 - f) * a[0]
    return c, r * c + (1 - r) * 3**0.5 * x


# ---- peers


def ours(layer: Any, x: Any, dy: Any, train: bool) -> Step:
    """A fusedrnn layer; inference with weights packed beforehand."""
    if not train:
        frozen = layer.freeze()
        return lambda: (frozen(x)[0],)

    def step() -> tuple[Any, ...]:
        y, _, tape = layer.forward(x)
        return y, tape.backward(dy).x

    return step


def gru(layer: Any, x: Any, dy: Any, train: bool) -> Step:
    """`fusedrnn.GRU` of the same width."""
    return ours(fusedrnn.GRU(x.shape[2], dy.shape[2], rng=0), x, dy, train)


def torch_step(module: Callable[[Any], Any], parameters: list[Any], x: Any, dy: Any, train: bool) -> Step:
    """Forward, or forward and all gradients."""
    import torch

    torch.set_num_threads(fusedrnn.get_num_threads())
    tx, tdy = torch.from_numpy(x).requires_grad_(train), torch.from_numpy(dy)

    def step() -> tuple[Any, ...]:
        with torch.set_grad_enabled(train):
            y = module(tx)
            if not train:
                return (y.numpy(),)
            return y.detach().numpy(), torch.autograd.grad(y, [tx, *parameters], tdy)[0].numpy()

    return step


def torch_layer(kind: str, layer: Any, x: Any, dy: Any, train: bool) -> Step:
    """torch.nn.GRU or LSTM of the same width."""
    import torch

    module = getattr(torch.nn, kind)(x.shape[2], dy.shape[2])
    return torch_step(lambda tx: module(tx)[0], list(module.parameters()), x, dy, train)


def torch_loop(layer: Any, x: Any, dy: Any, train: bool) -> Step:
    """One product, then a loop over steps."""
    import torch

    m = Functions(torch, torch.sigmoid, torch.nn.functional.softplus, torch.complex)
    name, H = type(layer).__name__, dy.shape[2]
    W, b, *p = (torch.tensor(v, requires_grad=train) for v in layer.params.values())

    def module(tx: Any) -> Any:
        a = list((tx @ W.T + b).split(H, -1))
        units, hs = p[0] if p else None, []
        parts = linear(name, m, a, tx, units)
        if parts is None:
            c = torch.zeros(x.shape[1], H)
            for now in zip(tx.unbind(), *(v.unbind() for v in a), strict=True):
                c, h = nonlinear(name, m, c, now[1:], now[0], units)
                hs.append(h)
            return torch.stack(hs)
        decay, write, finish = parts
        c = torch.zeros_like(write[0])
        for d, w in zip(decay.unbind(), write.unbind(), strict=True):
            c = d * c + w
            hs.append(c)
        return finish(torch.stack(hs))

    return torch_step(module, [W, b, *p], x, dy, train)


def jax_loop(layer: Any, x: Any, dy: Any, train: bool, associative: bool) -> Step:
    """`lax.scan` or `associative_scan`; in training with vjp, in one compiled function."""
    import jax
    import jax.numpy as jnp

    m = Functions(jnp, jax.nn.sigmoid, jax.nn.softplus, jax.lax.complex)
    name, H = type(layer).__name__, dy.shape[2]
    if associative and name in ("SRU", "IndRNN"):
        raise ImportError("not linear")

    def forward(x: Any, params: Any) -> Any:
        W, b, *p = params
        a = jnp.split(x @ W.T + b, W.shape[0] // H, -1)
        units = p[0] if p else None
        parts = linear(name, m, a, x, units)
        if parts is None:
            return jax.lax.scan(
                lambda c, now: nonlinear(name, m, c, now[1:], now[0], units), jnp.zeros(x.shape[1:]), (x, *a)
            )[1]
        decay, write, finish = parts
        if associative:
            c = jax.lax.associative_scan(lambda x, y: (x[0] * y[0], y[0] * x[1] + y[1]), (decay, write))[1]
        else:
            c = jax.lax.scan(lambda c, now: (now[0] * c + now[1],) * 2, jnp.zeros_like(write[0]), (decay, write))[1]
        return finish(c)

    def both(x: Any, params: Any, dy: Any) -> Any:
        y, pull = jax.vjp(forward, x, params)
        return (y, *jax.tree.leaves(pull(dy)))

    compiled = jax.jit(both if train else lambda x, params, dy: (forward(x, params),))
    arrays = jnp.asarray(x), [jnp.asarray(v) for v in layer.params.values()], jnp.asarray(dy)
    return lambda: tuple(np.asarray(v) for v in jax.block_until_ready(compiled(*arrays))[:2])


def numba_loop(layer: Any, x: Any, dy: Any, train: bool) -> Step:
    """NumPy's product, then a compiled loop; MinGRU and SRU, forward."""
    import numba

    name = type(layer).__name__
    if train or name not in ("MinGRU", "SRU"):
        raise ImportError("MinGRU and SRU, the forward pass only")
    one = np.float32(1)

    @numba.njit(fastmath=True)  # type: ignore[untyped-decorator]
    def mingru(a: Any, x: Any, v: Any, h: Any, c: Any) -> None:
        for t in range(a.shape[0]):
            for b in range(a.shape[1]):
                for j in range(h.shape[2]):
                    z, g = one / (one + np.exp(-a[t, b, j])), a[t, b, h.shape[2] + j]
                    g = one / (one + np.exp(-g)) if g < 0 else g + np.float32(0.5)
                    c[b, j] += z * (g - c[b, j])
                    h[t, b, j] = c[b, j]

    @numba.njit(fastmath=True)  # type: ignore[untyped-decorator]
    def sru(a: Any, x: Any, v: Any, h: Any, c: Any) -> None:
        H, factor = h.shape[2], np.float32(3**0.5)
        for t in range(a.shape[0]):
            for b in range(a.shape[1]):
                for j in range(H):
                    f = one / (one + np.exp(-a[t, b, H + j] - v[0, j] * c[b, j]))
                    r = one / (one + np.exp(-a[t, b, 2 * H + j] - v[1, j] * c[b, j]))
                    c[b, j] = f * c[b, j] + (one - f) * a[t, b, j]
                    h[t, b, j] = r * c[b, j] + (one - r) * factor * x[t, b, j]

    W, bias, *p = layer.params.values()
    loop, units, h = mingru if name == "MinGRU" else sru, p[0] if p else W, np.empty_like(dy)

    def step() -> tuple[Any, ...]:
        a = (x.reshape(-1, x.shape[2]) @ W.T + bias).reshape(*x.shape[:2], -1)
        loop(a, x, units, h, np.zeros(h.shape[1:], h.dtype))
        return (h,)

    return step


def mingru_package(layer: Any, x: Any, dy: Any, train: bool) -> Step:
    """minGRU-pytorch, whose scan is in logarithms."""
    import torch

    if type(layer).__name__ != "MinGRU":
        raise ImportError("MinGRU only")
    from minGRU_pytorch.minGRU import minGRU

    H = dy.shape[2]
    module = minGRU(H)
    with torch.no_grad():
        z, h = np.split(layer.weight_ih_l0, 2)
        module.to_hidden_and_gate.weight[:] = torch.from_numpy(np.concatenate([h, z]))
    return torch_step(lambda tx: module(tx.transpose(0, 1)).transpose(0, 1), list(module.parameters()), x, dy, train)


def sru_package(layer: Any, x: Any, dy: Any, train: bool) -> Step:
    """The authors' package; on a CPU its training is a loop over torch's operators."""
    import torch

    if type(layer).__name__ != "SRU":
        raise ImportError("SRU only")
    try:
        from sru import SRU
    except Exception as error:  # it compiles C++ when it is imported
        raise ImportError(str(error)) from error

    H = dy.shape[2]
    module = SRU(H, H, num_layers=1, rescale=True, highway_bias=0.0)
    (cell,) = module.rnn_lst
    with torch.no_grad():
        cell.weight[:] = torch.from_numpy(layer.weight_ih_l0.reshape(3, H, H).transpose(2, 1, 0).reshape(H, 3 * H))
        cell.weight_c[:] = torch.from_numpy(layer.weight_unit_l0.ravel())
        cell.bias[:] = torch.from_numpy(layer.bias_ih_l0[H:])
    used = [q for q in module.parameters() if q.requires_grad]
    return torch_step(lambda tx: module(tx)[0], used, x, dy, train)


def product(layer: Any, x: Any, dy: Any, train: bool) -> Step:
    """The products with the inputs' weights, by NumPy."""
    W, rows = layer.weight_ih_l0, x.reshape(-1, x.shape[2])
    da = np.ones((len(rows), len(W)), np.float32)
    return lambda: (rows @ W.T, da.T @ rows, da @ W) if train else (rows @ W.T,)


PEERS: dict[str, Callable[..., Step]] = {
    "fusedrnn.GRU": gru,
    "torch GRU": lambda *x: torch_layer("GRU", *x),
    "torch LSTM": lambda *x: torch_layer("LSTM", *x),
    "torch loop": torch_loop,
    "JAX lax.scan": lambda *x: jax_loop(*x, associative=False),
    "JAX associative_scan": lambda *x: jax_loop(*x, associative=True),
    "numba loop": numba_loop,
    "minGRU-pytorch": mingru_package,
    "sru": sru_package,
    "product": product,
}
OTHER_RESULTS = ("fusedrnn.GRU", "torch GRU", "torch LSTM", "product")  # not the same layer


def make_layer(name: str, H: int) -> Any:
    """A layer; without biases where the authors' packages have none."""
    layer = getattr(fusedrnn, name)(H, H, rng=1)
    if name in ("MinGRU", "SRU"):
        layer.bias_ih_l0[: 2 * H if name == "MinGRU" else H] = 0
    return layer


def compare(name: str, size: tuple[int, int, int], train: bool, rounds: int, clock: Any, without: set[str]) -> str:
    """The ratios of all peers that are there, after a check of their results."""
    T, B, H = size
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((T, B, H), np.float32) for _ in range(2))
    layer = make_layer(name, H)
    steps = {"fusedrnn": ours(layer, x, dy, train)}
    expected = steps["fusedrnn"]()
    for peer, make in PEERS.items():
        if peer in without:
            continue
        try:
            step = make(layer, x, dy, train)
            results = step()
        except ImportError:
            continue
        for mine, theirs in zip(expected, results, strict=False) if peer not in OTHER_RESULTS else ():
            error = float(np.abs(np.asarray(theirs) - mine).max() / np.abs(mine).max())
            assert error < 1e-4, f"{peer}: {error}"
        steps[peer] = step
    return ratios(steps, rounds, clock)


def ratios(steps: dict[str, Callable[[], object]] | dict[str, Step], rounds: int, clock: Any, calls: int = 1) -> str:
    """Time of "fusedrnn" and the ratios of the others to it."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = clock()
            for _ in range(calls):
                step()
            times[name].append((clock() - start) / calls)
    own = np.array(times.pop("fusedrnn"))
    found = [f"{name} {np.median(np.array(seconds) / own):.2f}" for name, seconds in times.items()]
    return f"{np.median(own) * 1e3:.4g} ms; " + ", ".join(found)


def stream(name: str, H: int, rounds: int, clock: Any) -> str:
    """One row, one step a call, beside a GRU's."""
    x, out = np.random.default_rng(0).standard_normal((1, H), np.float32), np.empty((1, H), np.float32)
    streams = {
        key: layer.freeze().stream(1)
        for key, layer in (("fusedrnn", make_layer(name, H)), ("fusedrnn.GRU", fusedrnn.GRU(H, H, rng=0)))
    }
    return ratios({key: lambda s=s: s.step(x, out) for key, s in streams.items()}, rounds, clock, 2000)


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="MinGRU,SRU", help=f"of {', '.join(LAYERS)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stream", action="store_true", help="streams instead of sequences")
    parser.add_argument("--cpu", action="store_true", help="CPU time of the process, for a busy machine and one thread")
    parser.add_argument("--without", default="", help="names of peers to leave out, separated by commas")
    arguments = parser.parse_args()
    fusedrnn.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu else time.perf_counter
    print(f"{fusedrnn.current_isa()}, {arguments.threads} threads, {arguments.rounds} rounds: peer / fusedrnn")
    for name in arguments.layers.split(","):
        if arguments.stream:
            print(f"{name} stream H=128: {stream(name, 128, arguments.rounds, clock)}", flush=True)
            continue
        for size in SIZES:
            for train in (False, True):
                measured = compare(name, size, train, arguments.rounds, clock, set(arguments.without.split(",")))
                print(f"{name} {size} {'training' if train else 'forward'}: {measured}", flush=True)


if __name__ == "__main__":
    main()
