"""fusedrnn as one of the peers."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fusedrnn

from ..cases import Case
from ..problem import Problem
from .base import Job, Peer

Array = NDArray[Any]


class FusedPeer(Peer):
    """fusedrnn's layers.

    Parameters
    ----------
    frozen : bool
        Inference through `layer.freeze()`, which packs the weights once, or through `layer(...)`, which packs them in
        every call. Training packs in every call either way.
    """

    def __init__(self, *, frozen: bool = True) -> None:
        self.name = "fusedrnn" if frozen else "fusedrnn-unfrozen"
        self._frozen = frozen

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return f"fusedrnn {fusedrnn.__version__} ({fusedrnn.current_isa()})"

    def supports(self, case: Case) -> bool:
        return self._frozen or case.mode == "infer"

    @contextmanager
    def using(self, threads: int) -> Iterator[None]:
        with fusedrnn.threads(threads):
            yield

    def prepare(self, problem: Problem) -> Job:
        layer = _layer(problem)
        if problem.case.mode == "stream":
            return _stream_job(problem, layer)
        if problem.case.mode == "train":
            return _training_job(problem, layer)
        run = partial(layer.freeze() if self._frozen else layer, problem.x, _state(problem), lengths=problem.lengths)
        return Job(run, lambda: _named(*run()))


def _layer(problem: Problem) -> Any:
    case = problem.case
    kind: Any
    options: dict[str, Any]
    if case.cell == "lstm":
        kind, options = fusedrnn.LSTM, {}
    elif case.cell.startswith("gru"):
        kind, options = fusedrnn.GRU, {"reset_after": case.cell == "gru_after"}
    else:
        kind, options = fusedrnn.RNN, {"nonlinearity": case.cell.removeprefix("rnn_")}
    layer = kind(case.I, case.H, case.layers, bidirectional=case.directions == 2, dtype=case.dtype, **options)
    layer.load_state_dict(problem.params)
    return layer


def _state(problem: Problem) -> Any:
    return problem.state if len(problem.state) == 2 else problem.state[0]


def _named(y: Array, state: Any) -> dict[str, Array]:
    final = state if isinstance(state, tuple) else (state,)
    return {"y": y, **dict(zip(("h_n", "c_n"), final, strict=False))}


def _training_job(problem: Problem, layer: Any) -> Job:
    state = _state(problem)

    def call() -> tuple[Array, Any, Any]:
        y, final, tape = layer.forward(problem.x, state, lengths=problem.lengths)
        return y, final, tape.backward(problem.dy)

    def outputs() -> dict[str, Array]:
        y, final, grads = call()
        dstate = grads.state if isinstance(grads.state, tuple) else (grads.state,)
        named = {**_named(y, final), "dx": grads.x, **dict(zip(("dh_0", "dc_0"), dstate, strict=False))}
        return {**named, **{f"d{name}": gradient for name, gradient in grads.params.items()}}

    return Job(call, outputs)


def _stream_job(problem: Problem, layer: Any) -> Job:
    stream = layer.freeze().stream(batch_size=problem.case.B)
    stream.state = _state(problem)
    out = np.empty((problem.case.B, problem.case.H), problem.case.dtype)

    def outputs() -> dict[str, Array]:
        stream.state = _state(problem)
        y = np.stack([stream.step(x) for x in problem.x])
        return _named(y, stream.state)

    return Job(partial(stream.step, problem.x[0], out), outputs)
