"""NumPy as a peer: the per-step loop that people write by hand."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import stack
from ..blas import blas_threads, blas_version
from ..cases import Case
from ..problem import Problem
from . import numpy_loop
from .base import Job, Peer
from .numpy_loop.shared import sigmoid

Array = NDArray[Any]
Step = Callable[[Array, tuple[Array, ...]], tuple[Array, ...]]


class NumpyPeer(Peer):
    """See `fusedrnn.bench.peers.numpy_loop`; a stream is one such step, with both biases added up beforehand."""

    name = "numpy"

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return f"numpy {np.__version__} ({blas_version()})"

    def supports(self, case: Case) -> bool:
        return case.mode != "stream" or case.layers == 1

    def using(self, threads: int) -> AbstractContextManager[None]:
        return blas_threads(threads)

    def prepare(self, problem: Problem) -> Job:
        if problem.case.mode == "stream":
            return _stream_job(problem)
        training = problem.case.mode == "train"

        def call() -> None:
            _, _, tapes = stack.forward(numpy_loop, problem, keep=training)
            if training:
                stack.backward(numpy_loop, problem, tapes)

        return Job(call, lambda: stack.outputs(numpy_loop, problem, keep=training))


def _stream_job(problem: Problem) -> Job:
    step = _step_function(problem)
    first = problem.x[0]
    start = tuple(s[0] for s in problem.state)
    state = start

    def call() -> None:
        nonlocal state
        state = step(first, state)

    def outputs() -> dict[str, Array]:
        state, ys = start, []
        for x in problem.x:
            state = step(x, state)
            ys.append(state[0])
        return {"y": np.stack(ys), **{n: s[None] for n, s in zip(("h_n", "c_n"), state, strict=False)}}

    return Job(call, outputs)


def _step_function(problem: Problem) -> Step:
    """One step of the cell: (x, state) -> state."""
    W_ih, W_hh, b_ih, b_hh = (problem.params[f"{n}_l0"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    W_ih_T, W_hh_T, b = W_ih.T, W_hh.T, b_ih + b_hh
    H, cell = problem.case.H, problem.case.cell

    def lstm(x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        h, c = state
        a = x @ W_ih_T + h @ W_hh_T + b
        i, f, g, o = sigmoid(a[:, :H]), sigmoid(a[:, H : 2 * H]), np.tanh(a[:, 2 * H : 3 * H]), sigmoid(a[:, 3 * H :])
        c = f * c + i * g
        return o * np.tanh(c), c

    def gru_after(x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        (h,) = state
        a, u = x @ W_ih_T + b_ih, h @ W_hh_T + b_hh
        r, z = sigmoid(a[:, :H] + u[:, :H]), sigmoid(a[:, H : 2 * H] + u[:, H : 2 * H])
        n = np.tanh(a[:, 2 * H :] + r * u[:, 2 * H :])
        return (n + z * (h - n),)

    def gru_before(x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        (h,) = state
        a, u = x @ W_ih_T + b, h @ W_hh_T[:, : 2 * H]
        r, z = sigmoid(a[:, :H] + u[:, :H]), sigmoid(a[:, H : 2 * H] + u[:, H:])
        n = np.tanh(a[:, 2 * H :] + (r * h) @ W_hh_T[:, 2 * H :])
        return (n + z * (h - n),)

    def rnn(x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        a = x @ W_ih_T + state[0] @ W_hh_T + b
        return (np.tanh(a) if cell == "rnn_tanh" else np.maximum(a, 0),)

    return {"lstm": lstm, "gru_after": gru_after, "gru_before": gru_before}.get(cell, rnn)
