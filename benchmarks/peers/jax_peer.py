"""JAX as a peer: `lax.scan` under `jit`, with the input projection of all steps as one product before it."""

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusedrnn.bench.cases import Case
from fusedrnn.bench.peers import Job, Peer
from fusedrnn.bench.problem import Problem, suffixes

Array = NDArray[Any]


class JaxPeer(Peer):
    """XLA's compiled code for the CPU; gradients by `vjp` in the same compiled function."""

    name = "jax"

    def __init__(self) -> None:
        self._threads = 1

    def missing(self) -> str | None:
        return None if importlib.util.find_spec("jax") else "jax is not installed"

    def version(self) -> str:
        return f"jax {_jax().__version__}"

    def supports(self, case: Case) -> bool:
        return case.mode != "stream" or case.layers == 1

    @contextmanager
    def using(self, threads: int) -> Iterator[None]:
        self._threads = threads  # `prepare` puts the case on a device with so many
        yield

    def prepare(self, problem: Problem) -> Job:
        jax, case, device = _jax(), problem.case, _device(self._threads)

        def put(value: Any) -> Any:
            return jax.device_put(value, device)

        lengths = problem.lengths
        valid = None if lengths is None else put(np.arange(case.T)[:, None, None] < lengths[None, :, None])
        forward = _forward(case, valid)
        params, x, state = put(problem.params), put(problem.x), put(problem.state)
        if case.mode == "stream":
            return _stream_job(jax.jit(forward), params, x, state)
        if case.mode == "train":
            return _training_job(jax.jit(_with_gradients(forward)), params, x, state, put(problem.dy))
        compiled, wait = jax.jit(forward), jax.block_until_ready

        def call() -> Any:
            return wait(compiled(params, x, state))

        return Job(call, lambda: _named(*call()))


def _jax() -> Any:
    """With float64 allowed; the arrays' own dtypes decide."""
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


@cache
def _device(threads: int) -> Any:
    """A device of its own for each thread count: XLA's pool is sized, by NPROC, when a client is made.

    There is no public way to have two; `jax.devices()` makes one for the whole process. Calls run in the caller's
    thread, which is faster than being handed to another and waited for.
    """
    _jax()
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = str(threads)
    try:
        return importlib.import_module("jaxlib.xla_client").make_cpu_client(asynchronous=False).devices()[0]
    finally:
        if before is None:
            del os.environ["NPROC"]
        else:
            os.environ["NPROC"] = before


def _step(cell: str, W_T: Any, b: Any) -> Callable[[tuple[Any, ...], Any], tuple[Any, ...]]:
    """(state, projected input) -> state, for one direction."""
    jax, jnp = _jax(), importlib.import_module("jax.numpy")
    sigmoid, tanh = jax.nn.sigmoid, jnp.tanh

    def lstm(state: tuple[Any, ...], a: Any) -> tuple[Any, ...]:
        h, c = state
        i, f, g, o = jnp.split(a + h @ W_T + b, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c

    def gru_after(state: tuple[Any, ...], a: Any) -> tuple[Any, ...]:
        (h,) = state
        (x_r, x_z, x_n), (h_r, h_z, h_n) = jnp.split(a, 3, axis=-1), jnp.split(h @ W_T + b, 3, axis=-1)
        z, n = sigmoid(x_z + h_z), tanh(x_n + sigmoid(x_r + h_r) * h_n)
        return (n + z * (h - n),)

    def gru_before(state: tuple[Any, ...], a: Any) -> tuple[Any, ...]:
        (h,) = state
        H = h.shape[-1]
        x_r, x_z, x_n = jnp.split(a + b, 3, axis=-1)
        h_r, h_z = jnp.split(h @ W_T[:, : 2 * H], 2, axis=-1)
        z, n = sigmoid(x_z + h_z), tanh(x_n + (sigmoid(x_r + h_r) * h) @ W_T[:, 2 * H :])
        return (n + z * (h - n),)

    def rnn(state: tuple[Any, ...], a: Any) -> tuple[Any, ...]:
        a = a + state[0] @ W_T + b
        return (tanh(a) if cell == "rnn_tanh" else jax.nn.relu(a),)

    return {"lstm": lstm, "gru_after": gru_after, "gru_before": gru_before}.get(cell, rnn)


def _forward(case: Case, valid: Any) -> Callable[[dict[str, Any], Any, tuple[Any, ...]], tuple[Any, tuple[Any, ...]]]:
    """(params, x, state) -> y, final state; `valid` (T, B, 1) masks the steps past a row's end."""
    jax, jnp = _jax(), importlib.import_module("jax.numpy")

    def direction(params: dict[str, Any], suffix: str, x: Any, state: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        a = x @ params["weight_ih" + suffix].T + params["bias_ih" + suffix]
        step = _step(case.cell, params["weight_hh" + suffix].T, params["bias_hh" + suffix])

        def body(state: tuple[Any, ...], given: tuple[Any, Any]) -> tuple[tuple[Any, ...], Any]:
            new = step(state, given[0])
            if valid is None:
                return new, new[0]
            new = tuple(jnp.where(given[1], n, s) for n, s in zip(new, state, strict=True))
            return new, jnp.where(given[1], new[0], 0)

        final, y = jax.lax.scan(body, state, (a, valid), reverse=suffix.endswith("_reverse"))
        return y, final

    def forward(params: dict[str, Any], x: Any, state: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        finals, outputs = [], []
        for row, (_, suffix) in enumerate(suffixes(case)):
            y, final = direction(params, suffix, x, tuple(s[row] for s in state))
            finals.append(final)
            outputs.append(y)
            if len(outputs) == case.directions:
                x, outputs = jnp.concatenate(outputs, axis=-1) if len(outputs) > 1 else y, []
        return x, tuple(jnp.stack(rows) for rows in zip(*finals, strict=True))

    return forward


def _with_gradients(forward: Callable[..., Any]) -> Callable[..., Any]:
    """(params, x, state, dy) -> y, final state, (dparams, dx, dstate)."""
    jax, jnp = _jax(), importlib.import_module("jax.numpy")

    def run(params: Any, x: Any, state: Any, dy: Any) -> tuple[Any, Any, Any]:
        (y, final), pull = jax.vjp(forward, params, x, state)
        return y, final, pull((dy, tuple(jnp.zeros_like(s) for s in final)))

    return run


def _named(y: Any, final: tuple[Any, ...]) -> dict[str, Array]:
    return {"y": np.asarray(y), **{n: np.asarray(s) for n, s in zip(("h_n", "c_n"), final, strict=False)}}


def _training_job(compiled: Callable[..., Any], params: Any, x: Any, state: Any, dy: Any) -> Job:
    wait = _jax().block_until_ready

    def call() -> Any:
        return wait(compiled(params, x, state, dy))

    def outputs() -> dict[str, Array]:
        y, final, (dparams, dx, dstate) = call()
        gradients = {"dx": dx, **dict(zip(("dh_0", "dc_0"), dstate, strict=False))}
        gradients |= {f"d{name}": gradient for name, gradient in dparams.items()}
        return {**_named(y, final), **{name: np.asarray(value) for name, value in gradients.items()}}

    return Job(call, outputs)


def _stream_job(compiled: Callable[..., Any], params: Any, x: Any, start: Any) -> Job:
    first, state = x[:1], start

    def call() -> None:
        nonlocal state
        _, state = compiled(params, first, state)
        state[0].block_until_ready()

    def outputs() -> dict[str, Array]:
        state, ys = start, []
        for step in range(x.shape[0]):
            y, state = compiled(params, x[step : step + 1], state)
            ys.append(np.asarray(y))
        return _named(np.concatenate(ys), state)

    return Job(call, outputs)
