"""Scans and dense state spaces beside loops in numba, NumPy, torch, JAX and SciPy, in interleaved rounds.

    python benchmarks/recurrences.py                          # everything, one thread: some minutes
    python benchmarks/recurrences.py --only scan --rounds 9 --threads 2

Float32, random decays in (0, 1). Results, and in training gradients, are compared with `fusedrnn.reference`'s maths
before anything is timed; peers that are not installed are left out. A ratio is the median over the rounds of (peer's
time / fusedrnn's time in the same round). "triad" is one pass over three arrays of the size of h, compiled by numba.
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
from fusedrnn import functional

Step = Callable[[], tuple[Any, ...]]

SCANS = ((1024, 8, 512), (100, 64, 1024), (65536, 1, 64), (4096, 32, 64))
LONG = ((1_000_000, 1, 16),)  # one vector of units: no work for a second thread
SPACES = tuple((1000, 32, n, per_step) for n in (4, 16, 64, 256) for per_step in (False, True))


# ---- scans: h, or h, da, db


def scan_ours(a: Any, b: Any, dh: Any, train: bool) -> Step:
    """The functions themselves."""

    def step() -> tuple[Any, ...]:
        h, _, tape = functional.scan_forward(a, b)
        if not train:
            return (h,)
        grads = functional.scan_backward(tape, dh)
        return h, grads.da, grads.db

    return step


def scan_numba(a: Any, b: Any, dh: Any, train: bool) -> Step:
    """A compiled loop, new arrays for its results as for everybody."""
    import numba

    @numba.njit  # type: ignore[untyped-decorator]
    def forward(a: Any, b: Any, h: Any) -> None:
        T, B, H = a.shape
        for i in range(B):
            for j in range(H):
                h[0, i, j] = b[0, i, j]
        for t in range(1, T):
            for i in range(B):
                for j in range(H):
                    h[t, i, j] = a[t, i, j] * h[t - 1, i, j] + b[t, i, j]

    @numba.njit  # type: ignore[untyped-decorator]
    def backward(a: Any, h: Any, dh: Any, da: Any, db: Any, carry: Any) -> None:
        T, B, H = a.shape
        for t in range(T - 1, -1, -1):
            for i in range(B):
                for j in range(H):
                    g = dh[t, i, j] + carry[i, j]
                    db[t, i, j] = g
                    da[t, i, j] = g * h[t - 1, i, j] if t > 0 else 0
                    carry[i, j] = a[t, i, j] * g

    # The same buffers in all calls: fresh pages would cost the peer more than its loop.
    h, da, db = (np.empty_like(a) for _ in range(3))

    def step() -> tuple[Any, ...]:
        forward(a, b, h)
        if not train:
            return (h,)
        backward(a, h, dh, da, db, np.zeros_like(a[0]))
        return h, da, db

    return step


def scan_numpy(a: Any, b: Any, dh: Any, train: bool) -> Step:
    """A loop over steps."""
    h, da, db = (np.empty_like(a) for _ in range(3))

    def step() -> tuple[Any, ...]:
        h[0] = b[0]
        for t in range(1, len(a)):
            np.multiply(a[t], h[t - 1], out=h[t])
            h[t] += b[t]
        if not train:
            return (h,)
        g = np.zeros_like(a[0])
        for t in range(len(a) - 1, -1, -1):
            np.add(dh[t], g, out=db[t])
            if t > 0:
                np.multiply(db[t], h[t - 1], out=da[t])
            np.multiply(a[t], db[t], out=g)
        da[0] = 0
        return h, da, db

    return step


def scan_torch(a: Any, b: Any, dh: Any, train: bool) -> Step:
    """A loop over unbound steps, whose autograd is linear in T."""
    import torch

    torch.set_num_threads(fusedrnn.get_num_threads())
    ta, tb, tdh = (torch.from_numpy(x) for x in (a, b, dh))
    ta.requires_grad_(train), tb.requires_grad_(train)

    def step() -> tuple[Any, ...]:
        ta.grad = tb.grad = None
        h, hs = torch.zeros(a.shape[1:]), []
        for x, y in zip(ta.unbind(), tb.unbind(), strict=True):
            h = x * h + y
            hs.append(h)
        out = torch.stack(hs)
        if not train:
            return (out,)
        out.backward(tdh)
        return out.detach(), ta.grad, tb.grad

    return step


def jax_scan(a: Any, b: Any, dh: Any, train: bool, associative: bool) -> Step:
    """`lax.scan`, or `associative_scan`; in training with vjp, in one compiled function."""
    import jax
    import jax.numpy as jnp

    def loop(a: Any, b: Any) -> Any:
        if associative:
            return jax.lax.associative_scan(lambda x, y: (x[0] * y[0], y[0] * x[1] + y[1]), (a, b))[1]

        def one(h: Any, now: Any) -> Any:
            h = now[0] * h + now[1]
            return h, h

        return jax.lax.scan(one, jnp.zeros_like(b[0]), (a, b))[1]

    def both(a: Any, b: Any, dh: Any) -> Any:
        h, pull = jax.vjp(loop, a, b)
        return (h, *pull(dh))

    compiled = jax.jit(both if train else lambda a, b, dh: (loop(a, b),))
    arrays = [jnp.asarray(x) for x in (a, b, dh)]
    return lambda: tuple(x.block_until_ready() for x in compiled(*arrays))


def scan_lfilter(a: Any, b: Any, dh: Any, train: bool) -> Step:
    """SciPy's filter takes a constant a only, so this peer does less; it has no gradient."""
    from scipy.signal import lfilter

    if train:
        raise ImportError("no gradient")
    return lambda: (lfilter([1.0], np.array([1.0, -0.5], np.float32), b, axis=0),)


def triad(a: Any, b: Any, dh: Any, train: bool) -> Step:
    """One pass over the arrays of the forward scan."""
    import numba

    if train:
        raise ImportError("the forward pass only")

    @numba.njit  # type: ignore[untyped-decorator]
    def run(a: Any, b: Any, h: Any) -> None:
        for i in range(a.size):
            h[i] = np.float32(0.5) * a[i] + b[i]

    flat, out = (a.ravel(), b.ravel()), np.empty(a.size, a.dtype)

    def step() -> tuple[Any, ...]:
        run(*flat, out)
        return (out,)

    return step


SCAN_PEERS: dict[str, Callable[..., Step]] = {
    "numba": scan_numba,
    "triad": triad,
    "NumPy loop": scan_numpy,
    "JAX lax.scan": lambda *x: jax_scan(*x, associative=False),
    "JAX associative_scan": lambda *x: jax_scan(*x, associative=True),
    "torch loop": scan_torch,
    "lfilter": scan_lfilter,
}
OTHER_RESULTS = ("triad", "lfilter")  # not the scan of these arrays


# ---- state spaces: y, or y, du and the gradients of the matrices


def space_ours(u: Any, matrices: Any, dy: Any, train: bool) -> Step:
    """The functions themselves."""

    def step() -> tuple[Any, ...]:
        y, _, tape = functional.state_space_forward(u, *matrices)
        if not train:
            return (y,)
        grads = functional.state_space_backward(tape, dy)
        return (y, *grads[:-1])

    return step


def space_numpy(u: Any, matrices: Any, dy: Any, train: bool) -> Step:
    """A loop over steps: products by `matmul`, whose BLAS is quicker than `einsum` from about n = 16 on."""
    if train:
        raise ImportError("no gradient")
    A, B, C, D = matrices
    at: Callable[[Any, int], Any] = (lambda M, t: M[t].T) if A.ndim == 3 else (lambda M, t: M.T)

    def step() -> tuple[Any, ...]:
        x = np.zeros((u.shape[1], A.shape[-1]), u.dtype)
        y = np.empty((*u.shape[:2], C.shape[-2]), u.dtype)
        for t in range(len(u)):
            x = x @ at(A, t) + u[t] @ at(B, t)
            y[t] = x @ at(C, t) + u[t] @ at(D, t)
        return (y,)

    return step


def space_einsum(u: Any, matrices: Any, dy: Any, train: bool) -> Step:
    """The same loop by `einsum`."""
    if train:
        raise ImportError("no gradient")
    A, B, C, D = matrices
    at: Callable[[Any, int], Any] = (lambda M, t: M[t]) if A.ndim == 3 else (lambda M, t: M)

    def step() -> tuple[Any, ...]:
        x = np.zeros((u.shape[1], A.shape[-1]), u.dtype)
        y = np.empty((*u.shape[:2], C.shape[-2]), u.dtype)
        for t in range(len(u)):
            x = np.einsum("ij,bj->bi", at(A, t), x) + np.einsum("ij,bj->bi", at(B, t), u[t])
            y[t] = np.einsum("ij,bj->bi", at(C, t), x) + np.einsum("ij,bj->bi", at(D, t), u[t])
        return (y,)

    return step


def space_jax(u: Any, matrices: Any, dy: Any, train: bool) -> Step:
    """`lax.scan`; products with constant B, C and D outside of the loop."""
    import jax
    import jax.numpy as jnp

    per_step = matrices[0].ndim == 3

    def loop(u: Any, A: Any, B: Any, C: Any, D: Any) -> Any:
        form = "tij,tbj->tbi" if per_step else "ij,tbj->tbi"
        driven = jnp.einsum(form, B, u)

        def one(x: Any, now: Any) -> Any:
            x = (x @ now[1].T if per_step else x @ A.T) + now[0]
            return x, x

        states = jax.lax.scan(one, jnp.zeros_like(driven[0]), (driven, A) if per_step else (driven,))[1]
        return jnp.einsum(form, C, states) + jnp.einsum(form, D, u)

    def both(dy: Any, *arguments: Any) -> Any:
        y, pull = jax.vjp(loop, *arguments)
        return (y, *pull(dy))

    compiled = jax.jit(both if train else lambda dy, *x: (loop(*x),))
    arrays = [jnp.asarray(x) for x in (dy, u, *matrices)]
    return lambda: tuple(x.block_until_ready() for x in compiled(*arrays))


def space_dlsim(u: Any, matrices: Any, dy: Any, train: bool) -> Step:
    """SciPy's simulation of one row; its outputs see the state before the step, so results are not compared."""
    from scipy.signal import dlsim

    if train or matrices[0].ndim == 3:
        raise ImportError("constant matrices, no gradient")
    system = (*(M.astype(np.float64) for M in matrices), 1.0)
    return lambda: tuple(dlsim(system, u[:, b])[1] for b in range(u.shape[1]))


SPACE_PEERS: dict[str, Callable[..., Step]] = {
    "NumPy matmul loop": space_numpy,
    "NumPy einsum loop": space_einsum,
    "JAX lax.scan": space_jax,
    "dlsim": space_dlsim,
}


# ---- measuring


def compare(
    ours: Step, peers: dict[str, Callable[..., Step]], arguments: tuple[Any, ...], rounds: int, clock: Any
) -> str:
    """The ratios of all peers that are there, after a check of their results."""
    expected = [np.asarray(x) for x in ours()]
    steps = {"fusedrnn": ours}
    for name, make in peers.items():
        try:
            step = make(*arguments)
            results = step()
        except ImportError:
            continue
        if name not in (*OTHER_RESULTS, "dlsim"):
            for ours_, theirs in zip(expected, results, strict=True):
                error = float(np.abs(np.asarray(theirs) - ours_).max() / np.abs(ours_).max())
                assert error < 1e-4, f"{name}: {error}"
        steps[name] = step
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = clock()
            step()
            times[name].append(clock() - start)
    own = np.array(times.pop("fusedrnn"))
    ratios = [f"{name} {np.median(np.array(seconds) / own):.2f}" for name, seconds in times.items()]
    return f"{np.median(own) * 1e3:.2f} ms; " + ", ".join(ratios)


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("scan", "state_space"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", action="store_true", help="CPU time of the process, for a busy machine and one thread")
    parser.add_argument("--without", default="", help="names of peers to leave out, separated by commas")
    arguments = parser.parse_args()
    fusedrnn.set_num_threads(arguments.threads)
    measuring = (arguments.rounds, time.process_time if arguments.cpu else time.perf_counter)
    rng = np.random.default_rng(0)
    left_out = set(arguments.without.split(","))
    scans, spaces = ({n: p for n, p in peers.items() if n not in left_out} for peers in (SCAN_PEERS, SPACE_PEERS))
    print(f"{fusedrnn.current_isa()}, {arguments.threads} threads, {arguments.rounds} rounds: peer / fusedrnn")
    for train in (False, True):
        mode = "training" if train else "forward"
        for shape in SCANS + LONG if arguments.only != "state_space" else ():
            a, b, dh = rng.random(shape, np.float32), *(rng.standard_normal(shape, np.float32) for _ in range(2))
            peers = scans if shape not in LONG else {n: p for n, p in scans.items() if n in ("numba", "triad")}
            given = (a, b, dh, train)
            print(f"scan {shape} {mode}: {compare(scan_ours(*given), peers, given, *measuring)}", flush=True)
        for T, B, n, per_step in SPACES if arguments.only != "scan" else ():
            size = (T, n, n) if per_step else (n, n)
            matrices = [(rng.standard_normal(size, np.float32) / (2 * np.sqrt(n))).astype(np.float32) for _ in range(4)]
            u, dy = (rng.standard_normal((T, B, n), np.float32) for _ in range(2))
            given_space = (u, matrices, dy, train)
            result = compare(space_ours(*given_space), spaces, given_space, *measuring)
            print(f"state space n={n}, B={B}, {'per step' if per_step else 'constant'} {mode}: {result}", flush=True)


if __name__ == "__main__":
    main()
