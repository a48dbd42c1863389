"""Keras with TensorFlow as a peer: its layers inside `tf.function`."""

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
from fusedrnn.bench.problem import Problem

Array = NDArray[Any]

# Torch's gates in Keras's order: LSTM i f c o, as torch; GRU z r h.
_ORDER = {"rnn_tanh": [0], "rnn_relu": [0], "gru_after": [1, 0, 2], "gru_before": [1, 0, 2], "lstm": [0, 1, 2, 3]}


class KerasPeer(Peer):
    """`keras.layers.LSTM`, `GRU` and `SimpleRNN`, one layer in one direction, with TensorFlow behind them."""

    name = "keras"

    def missing(self) -> str | None:
        if not hasattr(os, "sched_setaffinity"):
            return "its threads can only be limited on Linux"
        absent = [name for name in ("tensorflow", "keras") if not importlib.util.find_spec(name)]
        return f"{' and '.join(absent)} not installed" if absent else None

    def version(self) -> str:
        tensorflow, keras = _modules()
        return f"keras {keras.__version__} (tensorflow {tensorflow.__version__})"

    def supports(self, case: Case) -> bool:
        return (case.layers, case.directions, case.dtype, case.ragged) == (1, 1, "float32", False)

    @contextmanager
    def using(self, threads: int) -> Iterator[None]:
        """TensorFlow's threads are counted once for a process, so they are all put on so many cores meanwhile."""
        _modules()
        cores = os.sched_getaffinity(0)
        _put_threads_on(set(sorted(cores)[:threads]))
        try:
            yield
        finally:
            _put_threads_on(cores)

    def prepare(self, problem: Problem) -> Job:
        tensorflow, _ = _modules()
        layer = _layer(problem)
        x = tensorflow.constant(problem.x.swapaxes(0, 1))  # Keras wants (B, T, I); turning it round is not timed
        state = [tensorflow.constant(s[0]) for s in problem.state]
        if problem.case.mode == "stream":
            return _stream_job(layer, x, state)
        if problem.case.mode == "train":
            return _training_job(problem, layer, x, state)
        run = tensorflow.function(lambda x, state: layer(x, initial_state=state))
        return Job(lambda: run(x, state), lambda: _named(run(x, state)))


def _put_threads_on(cores: set[int]) -> None:
    for task in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(task), cores)
        except ProcessLookupError:  # it has ended meanwhile
            continue


@cache
def _modules() -> tuple[Any, Any]:
    """tensorflow and keras; silent about what it finds on the machine."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return importlib.import_module("tensorflow"), importlib.import_module("keras")


def _layer(problem: Problem) -> Any:
    _, keras = _modules()
    case = problem.case
    options: dict[str, Any] = {"return_sequences": True, "return_state": True}
    if case.cell == "lstm":
        layer = keras.layers.LSTM(case.H, **options)
    elif case.cell.startswith("gru"):
        layer = keras.layers.GRU(case.H, reset_after=case.cell == "gru_after", **options)
    else:
        layer = keras.layers.SimpleRNN(case.H, activation=case.cell.removeprefix("rnn_"), **options)
    layer.build((case.B, None, case.I))
    G, H, order = case.gates, case.H, _ORDER[case.cell]
    params = {name.removesuffix("_l0"): array for name, array in problem.params.items()}
    kernels = [params[n].reshape(G, H, -1)[order].reshape(G * H, -1).T for n in ("weight_ih", "weight_hh")]
    b_ih, b_hh = (params[n].reshape(G, H)[order].reshape(-1) for n in ("bias_ih", "bias_hh"))
    layer.set_weights([*kernels, np.stack([b_ih, b_hh]) if case.cell == "gru_after" else b_ih + b_hh])
    return layer


def _named(values: Any) -> dict[str, Array]:
    y, *states = values
    final = {n: s.numpy()[None] for n, s in zip(("h_n", "c_n"), states, strict=False)}
    return {"y": y.numpy().swapaxes(0, 1), **final}


def _training_job(problem: Problem, layer: Any, x: Any, state: list[Any]) -> Job:
    tensorflow, _ = _modules()
    dy = tensorflow.constant(problem.dy.swapaxes(0, 1))
    variables = [weight.value for weight in layer.weights if weight.trainable]

    @tensorflow.function  # type: ignore[untyped-decorator]
    def run(x: Any, state: Any, dy: Any) -> Any:
        with tensorflow.GradientTape() as tape:
            tape.watch([x, *state])
            values = layer(x, initial_state=state)
        return values, tape.gradient(values[0], [x, *state, *variables], output_gradients=dy)

    def outputs() -> dict[str, Array]:
        values, (dx, *gradients) = run(x, state, dy)
        states, weights = gradients[: len(state)], gradients[len(state) :]
        named = {"dx": dx.numpy().swapaxes(0, 1)}
        named |= {n: s.numpy()[None] for n, s in zip(("dh_0", "dc_0"), states, strict=False)}
        return {**_named(values), **named, **_parameter_gradients(problem.case, [w.numpy() for w in weights])}

    return Job(lambda: run(x, state, dy), outputs)


def _parameter_gradients(case: Case, gradients: list[Array]) -> dict[str, Array]:
    G, H, order = case.gates, case.H, np.argsort(_ORDER[case.cell])
    d_ih, d_hh = (g.T.reshape(G, H, -1)[order].reshape(G * H, -1) for g in gradients[:2])
    biases = gradients[2].reshape(-1, G, H)[:, order].reshape(-1, G * H)
    return {
        "dweight_ih_l0": d_ih,
        "dweight_hh_l0": d_hh,
        "dbias_ih_l0": biases[0],
        "dbias_hh_l0": biases[-1],
    }


def _stream_job(layer: Any, x: Any, start: list[Any]) -> Job:
    """A step of the layer's cell: of the ways to make single steps, the shortest."""
    tensorflow, _ = _modules()
    cell: Callable[..., Any] = layer.cell

    @tensorflow.function  # type: ignore[untyped-decorator]
    def run(x: Any, state: Any) -> Any:
        return cell(x, state)[1]

    first, state = x[:, 0], start

    def call() -> None:
        nonlocal state
        state = run(first, state)

    def outputs() -> dict[str, Array]:
        state, ys = start, []
        for step in range(x.shape[1]):
            state = run(x[:, step], state)
            ys.append(state[0].numpy())
        return {"y": np.stack(ys), **{n: s.numpy()[None] for n, s in zip(("h_n", "c_n"), state, strict=False)}}

    return Job(call, outputs)
