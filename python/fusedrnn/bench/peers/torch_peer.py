"""PyTorch as a peer: `nn.LSTM`, `nn.GRU`, `nn.RNN`, and the `...Cell` classes for streams."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from ..cases import Case
from ..problem import Problem
from .base import Job, Peer

Array = NDArray[Any]


class TorchPeer(Peer):
    """torch in eager mode: `no_grad` for inference, autograd for all gradients in training.

    Parameters
    ----------
    onednn : bool
        Let torch use its oneDNN kernels (its default), or the ones of ATen only.
    """

    def __init__(self, *, onednn: bool = True) -> None:
        self.name = "torch" if onednn else "torch-no-onednn"
        self._onednn = onednn

    def missing(self) -> str | None:
        return None if importlib.util.find_spec("torch") else "torch is not installed"

    def version(self) -> str:
        return f"torch {_torch().__version__}"

    def supports(self, case: Case) -> bool:
        return case.cell != "gru_before" and (case.mode != "stream" or case.layers == 1)

    @contextmanager
    def using(self, threads: int) -> Iterator[None]:
        torch = _torch()
        before = torch.get_num_threads(), torch.backends.mkldnn.enabled
        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = self._onednn and before[1]
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.backends.mkldnn.enabled = before[1]

    def prepare(self, problem: Problem) -> Job:
        if problem.case.mode == "stream":
            return _stream_job(problem)
        if problem.case.mode == "train":
            return _training_job(problem)
        return _inference_job(problem)


def _torch() -> Any:
    """torch is optional, so it is imported by those who need it."""
    return importlib.import_module("torch")


def _layer(problem: Problem) -> Any:
    torch, case = _torch(), problem.case
    kind = {"lstm": torch.nn.LSTM, "gru_after": torch.nn.GRU}.get(case.cell, torch.nn.RNN)
    options = {"nonlinearity": case.cell.removeprefix("rnn_")} if kind is torch.nn.RNN else {}
    dtype = getattr(torch, case.dtype)
    layer = kind(case.I, case.H, case.layers, bidirectional=case.directions == 2, dtype=dtype, **options)
    layer.load_state_dict({name: torch.from_numpy(array) for name, array in problem.params.items()})
    return layer


def _run_function(problem: Problem, layer: Any, x: Any, state: tuple[Any, ...]) -> Callable[[], tuple[Any, ...]]:
    """() -> (y, h_n) or (y, h_n, c_n); ragged batches go through a packed sequence, as torch wants it."""
    rnn = _torch().nn.utils.rnn
    given = state if len(state) == 2 else state[0]
    lengths = None if problem.lengths is None else _torch().from_numpy(problem.lengths)

    def run() -> tuple[Any, ...]:
        if lengths is None:
            y, final = layer(x, given)
        else:
            packed, final = layer(rnn.pack_padded_sequence(x, lengths, enforce_sorted=False), given)
            y, _ = rnn.pad_packed_sequence(packed, total_length=problem.case.T)
        return (y, *final) if isinstance(final, tuple) else (y, final)

    return run


def _named(values: tuple[Any, ...]) -> dict[str, Array]:
    return {name: value.detach().numpy() for name, value in zip(("y", "h_n", "c_n"), values, strict=False)}


def _inference_job(problem: Problem) -> Job:
    torch = _torch()
    layer = _layer(problem).eval()
    run = _run_function(problem, layer, torch.from_numpy(problem.x), tuple(map(torch.from_numpy, problem.state)))

    def call() -> tuple[Any, ...]:
        with torch.no_grad():
            return run()

    return Job(call, lambda: _named(call()))


def _training_job(problem: Problem) -> Job:
    torch = _torch()
    layer = _layer(problem).train()
    x = torch.from_numpy(problem.x).requires_grad_()
    state = tuple(torch.from_numpy(s).requires_grad_() for s in problem.state)
    dy = torch.from_numpy(problem.dy)
    run = _run_function(problem, layer, x, state)
    params = dict(layer.named_parameters())
    wanted = [x, *state, *params.values()]

    def call() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        values = run()
        return values, torch.autograd.grad(values[0], wanted, dy)

    def outputs() -> dict[str, Array]:
        values, gradients = call()
        names = ["dx", *("dh_0", "dc_0")[: len(state)], *(f"d{name}" for name in params)]
        return {**_named(values), **{n: g.numpy() for n, g in zip(names, gradients, strict=True)}}

    return Job(call, outputs)


def _stream_job(problem: Problem) -> Job:
    """A step of the `...Cell` class: for single steps it is several times faster in torch than the layer."""
    torch, case = _torch(), problem.case
    kind = {"lstm": torch.nn.LSTMCell, "gru_after": torch.nn.GRUCell}.get(case.cell, torch.nn.RNNCell)
    options = {"nonlinearity": case.cell.removeprefix("rnn_")} if kind is torch.nn.RNNCell else {}
    cell = kind(case.I, case.H, dtype=getattr(torch, case.dtype), **options).eval()
    cell.load_state_dict({name.removesuffix("_l0"): torch.from_numpy(a) for name, a in problem.params.items()})
    inputs = torch.from_numpy(problem.x)
    first = inputs[0]
    start: Any = tuple(torch.from_numpy(s[0]) for s in problem.state)
    if len(start) == 1:
        (start,) = start
    state = start
    no_grad = torch.no_grad

    def call() -> None:
        nonlocal state
        with no_grad():
            state = cell(first, state)

    def outputs() -> dict[str, Array]:
        state, ys = start, []
        with no_grad():
            for x in inputs:
                state = cell(x, state)
                ys.append(state[0] if isinstance(state, tuple) else state)
            final = state if isinstance(state, tuple) else (state,)
            return _named((torch.stack(ys), *(s[None] for s in final)))

    return Job(call, outputs)
