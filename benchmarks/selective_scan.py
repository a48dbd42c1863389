"""The selective scan beside loops in numba, JAX and torch and transformers' own, in interleaved rounds.

    python benchmarks/selective_scan.py                    # everything, one thread: many minutes
    python benchmarks/selective_scan.py --only forward --rounds 5

Float32; softplus, bias, D and the gate z included. Results, and in training gradients, are compared before anything is
timed; peers that are not installed are left out. A ratio is the median over the rounds of (peer's time / fusedrnn's
time in the same round). With `--fma`, the nanoseconds that a multiply-add of this machine takes for each lane, "of FMA"
is the time of 13 of them, which a state and step needs, as a fraction of ours.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fusedrnn
from fusedrnn import functional

Step = Callable[[], tuple[Any, ...]]

FORWARD = ((1024, 1, 1536, 16), (256, 16, 256, 16), (2048, 4, 768, 16))  # T, B, D, N
TRAINING = ((512, 1, 512, 16), (1024, 1, 1536, 16))
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def problem(T: int, B: int, D: int, N: int) -> dict[str, Any]:
    """Arguments of `selective_scan_forward`."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((T, B, D)) for name in ("u", "delta", "z")}
    arrays |= {name: rng.standard_normal((T, B, N)) for name in ("B", "C")}
    arrays |= {
        "A": -np.exp(rng.uniform(-2, 1, (D, N))),
        "D": rng.standard_normal(D),
        "delta_bias": rng.uniform(-3, 0, D),
    }
    return {name: arrays[name].astype(np.float32) for name in NAMES}


def ours(given: dict[str, Any], dy: Any, train: bool) -> Step:
    """The functions themselves."""

    def step() -> tuple[Any, ...]:
        y, _, tape = functional.selective_scan_forward(**given, delta_softplus=True)
        return (y,) if not train else (y, *functional.selective_scan_backward(tape, dy)[:8])

    return step


def numba_loop(given: dict[str, Any], dy: Any, train: bool) -> Step:
    """A compiled loop over steps, channels and states."""
    import numba

    if train:
        raise ImportError("no gradient")

    @numba.njit(fastmath=True)  # type: ignore[untyped-decorator]
    def run(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any, h: Any, y: Any) -> None:
        for t in range(u.shape[0]):
            for b in range(u.shape[1]):
                for d in range(u.shape[2]):
                    x = delta[t, b, d] + bias[d]
                    step = max(x, np.float32(0)) + np.log1p(np.exp(-abs(x)))
                    total = D[d] * u[t, b, d]
                    for n in range(A.shape[1]):
                        h[b, d, n] = np.exp(step * A[d, n]) * h[b, d, n] + step * u[t, b, d] * B[t, b, n]
                        total += h[b, d, n] * C[t, b, n]
                    y[t, b, d] = total * z[t, b, d] / (np.float32(1) + np.exp(-z[t, b, d]))

    y = np.empty_like(given["u"])

    def step() -> tuple[Any, ...]:
        run(*given.values(), np.zeros((y.shape[1], *given["A"].shape), y.dtype), y)
        return (y,)

    return step


def jax_scan(given: dict[str, Any], dy: Any, train: bool, associative: bool) -> Step:
    """`lax.scan`, or `associative_scan`; in training with vjp, in one compiled function."""
    import jax
    import jax.numpy as jnp

    def loop(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any) -> Any:
        delta = jax.nn.softplus(delta + bias)
        if associative:
            a = jnp.exp(delta[..., None] * A)
            b = (delta * u)[..., None] * B[:, :, None]
            h = jax.lax.associative_scan(lambda x, y: (x[0] * y[0], y[0] * x[1] + y[1]), (a, b))[1]
            y = jnp.einsum("tbdn,tbn->tbd", h, C)
        else:

            def one(h: Any, now: Any) -> Any:
                u_t, delta_t, B_t, C_t = now
                h = jnp.exp(delta_t[..., None] * A) * h + (delta_t * u_t)[..., None] * B_t[:, None]
                return h, (h * C_t[:, None]).sum(-1)

            y = jax.lax.scan(one, jnp.zeros((u.shape[1], *A.shape), u.dtype), (u, delta, B, C))[1]
        return (y + D * u) * jax.nn.silu(z)

    def both(dy: Any, *arguments: Any) -> Any:
        y, pull = jax.vjp(loop, *arguments)
        return (y, *pull(dy))

    compiled = jax.jit(both if train else lambda dy, *x: (loop(*x),))
    arrays = [jnp.asarray(x) for x in (dy, *given.values())]
    return lambda: tuple(x.block_until_ready() for x in compiled(*arrays))


def torch_leaves(given: dict[str, Any], train: bool) -> dict[str, Any]:
    """Tensors of the arguments."""
    import torch

    torch.set_num_threads(fusedrnn.get_num_threads())
    return {name: torch.tensor(x, requires_grad=train) for name, x in given.items()}


def finish(y: Any, leaves: dict[str, Any], dy: Any, train: bool) -> tuple[Any, ...]:
    """The output, and in training the gradients of all leaves."""
    import torch

    if not train:
        return (y.detach(),)
    grads = torch.autograd.grad(y, list(leaves.values()), torch.from_numpy(dy))
    return (y.detach(), *grads)


def torch_loop(given: dict[str, Any], dy: Any, train: bool) -> Step:
    """A loop over unbound steps, whose autograd is linear in T."""
    import torch
    from torch.nn.functional import silu, softplus

    leaves = torch_leaves(given, train)

    def step() -> tuple[Any, ...]:
        x = leaves
        delta = softplus(x["delta"] + x["delta_bias"])
        h, outputs = torch.zeros(x["u"].shape[1], *x["A"].shape), []
        for u, d, B, C in zip(x["u"].unbind(), delta.unbind(), x["B"].unbind(), x["C"].unbind(), strict=True):
            h = torch.exp(d[..., None] * x["A"]) * h + (d * u)[..., None] * B[:, None]
            outputs.append((h * C[:, None]).sum(-1))
        y = (torch.stack(outputs) + x["D"] * x["u"]) * silu(x["z"])
        return finish(y, leaves, dy, train)

    return step


def transformers_loop(given: dict[str, Any], dy: Any, train: bool) -> Step:
    """The function that transformers' Mamba models call on a CPU; quadratic in T in training."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    leaves = torch_leaves(given, train)

    def step() -> tuple[Any, ...]:
        x = {name: a.permute(1, 2, 0) if a.ndim == 3 else a for name, a in leaves.items()}
        out = mamba_selective_scan(
            x["u"], x["delta"], x["A"], x["B"], x["C"], x["D"], x["z"], x["delta_bias"], delta_softplus=True
        )
        out = out[0] if isinstance(out, tuple) else out
        return finish(out.permute(2, 0, 1), leaves, dy, train)

    return step


PEERS: dict[str, Callable[..., Step]] = {
    "numba": numba_loop,
    "JAX lax.scan": lambda *x: jax_scan(*x, associative=False),
    "JAX associative_scan": lambda *x: jax_scan(*x, associative=True),
    "torch loop": torch_loop,
    "transformers": transformers_loop,
}


def compare(given: dict[str, Any], train: bool, rounds: int, clock: Any, fma: float, skip: list[str]) -> str:
    """The ratios of all peers that are there, after a check of their results."""
    dy = np.random.default_rng(1).standard_normal(given["u"].shape).astype(np.float32)
    steps = {"fusedrnn": ours(given, dy, train)}
    expected = [np.asarray(x) for x in steps["fusedrnn"]()]
    for name, make in PEERS.items():
        if name in skip:
            continue
        try:
            step = make(given, dy, train)
            results = [np.asarray(x) for x in step()]
        except ImportError:
            continue
        for mine, theirs in zip(expected, results, strict=True):
            error = float(np.abs(theirs - mine).max() / np.abs(mine).max())
            assert error < 1e-4, f"{name}: {error}"
        steps[name] = step
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = clock()
            step()
            times[name].append(clock() - start)
    own = np.array(times.pop("fusedrnn"))
    states = given["u"].size * given["A"].shape[1]
    text = f"{np.median(own) * 1e3:.2f} ms, {np.median(own) / states * 1e9:.3f} ns for a state and step"
    if fma and not train:
        text += f" ({13 * fma / (np.median(own) / states * 1e9):.0%} of FMA)"
    return "; ".join([text, *(f"{name} {np.median(np.array(x) / own):.1f}" for name, x in times.items())])


def steps_from_python(rounds: int, clock: Any) -> str:
    """A step of (1, 1536, 16), 1000 times a round."""
    given = {name: x[0] if x.ndim == 3 else x for name, x in problem(1, 1, 1536, 16).items()}
    h = np.zeros((1, 1536, 16), np.float32)
    seconds = []
    for _ in range(rounds):
        start = clock()
        for _ in range(1000):
            functional.selective_scan_step(h, **given, delta_softplus=True)
        seconds.append((clock() - start) / 1000)
    return f"{np.median(seconds) * 1e6:.1f} us"


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("forward", "training", "step"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fma", type=float, default=0.0, help="ns of a multiply-add, per lane")
    parser.add_argument("--skip", nargs="*", default=[], help="peers to leave out")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    with fusedrnn.threads(arguments.threads):
        for kind, shapes in (("forward", FORWARD), ("training", TRAINING)):
            for shape in shapes if arguments.only in (None, kind) else ():
                text = compare(
                    problem(*shape), kind == "training", arguments.rounds, clock, arguments.fma, arguments.skip
                )
                print(f"{kind} (T, B, D, N) = {shape}: {text}", flush=True)
        if arguments.only in (None, "step"):
            print(f"step (B, D, N) = (1, 1536, 16): {steps_from_python(arguments.rounds, clock)}")


if __name__ == "__main__":
    main()
