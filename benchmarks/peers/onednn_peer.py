"""oneDNN as a peer, driven from C++: no Python runs between its primitives."""

import ctypes
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusedrnn.bench.cases import Case
from fusedrnn.bench.peers import Job, Peer
from fusedrnn.bench.problem import Problem, suffixes

from ..native import BuildError, load

Array = NDArray[Any]

_CELLS = ("rnn_tanh", "rnn_relu", "gru_after", "gru_before", "lstm")

# Torch's gates in oneDNN's order: LSTM i f g o, as torch; GRU update, reset, candidate.
_ORDER = {"rnn_tanh": [0], "rnn_relu": [0], "gru_after": [1, 0, 2], "gru_before": [1, 0, 2], "lstm": [0, 1, 2, 3]}

STREAM_STEPS_A_CALL = 32

_RPATH = "-Wl,--disable-new-dtags"  # this very library, whatever LD_LIBRARY_PATH says


class OnednnPeer(Peer):
    """oneDNN's RNN primitives in their best case: weights reordered beforehand, all buffers allocated beforehand.

    Parameters
    ----------
    variant : str
        "layers": whole sequences; a training step reorders the weights and their gradients, as it must when they
        change. "prepacked": training without that, which is no training but a bound. "stream": single steps in a loop
        in C++, of which one call from Python makes `STREAM_STEPS_A_CALL`.
    """

    def __init__(self, variant: str = "layers") -> None:
        self._variant = variant
        self.name = {"layers": "onednn", "prepacked": "onednn-prepacked", "stream": "onednn-cpp"}[variant]

    def missing(self) -> str | None:
        try:
            _library()
        except BuildError as error:
            return str(error)
        return None

    def version(self) -> str:
        numbers = (ctypes.c_int * 3)()
        _library().onednn_version(numbers)
        return f"oneDNN {'.'.join(map(str, numbers))} (OpenMP, from C++)"

    def supports(self, case: Case) -> bool:
        mode = {"layers": case.mode != "stream", "prepacked": case.mode == "train", "stream": case.mode == "stream"}
        return mode[self._variant] and case.dtype == "float32" and not case.ragged

    @contextmanager
    def using(self, threads: int) -> Iterator[None]:
        before = _library().onednn_set_threads(threads)
        try:
            yield
        finally:
            _library().onednn_set_threads(before)

    def prepare(self, problem: Problem) -> Job:
        network = Network(problem, reorder=self._variant == "layers")
        steps = STREAM_STEPS_A_CALL if self._variant == "stream" else 1
        return Job(lambda: network.run(steps), network.outputs, steps)


def prefix() -> Path:
    """Directory with `include/` and `lib/` of oneDNN: $FUSEDRNN_ONEDNN, or the environment that pip installs into."""
    return Path(os.environ.get("FUSEDRNN_ONEDNN") or sys.prefix)


@cache
def _library() -> Any:
    root = prefix()
    if not (root / "include" / "oneapi" / "dnnl" / "dnnl.hpp").exists():
        raise BuildError("oneDNN's headers were not found (pip install onednn-devel-cpu-gomp)")
    lib = root / "lib"
    library = load("onednn_driver.cpp", (f"-I{root / 'include'}", f"-L{lib}", "-ldnnl", f"-Wl,-rpath,{lib}", _RPATH))
    library.onednn_create.restype = ctypes.c_void_p
    library.onednn_data.restype = ctypes.POINTER(ctypes.c_float)
    library.onednn_destroy.restype = None
    return library


class Network:
    """The driver's network of one problem, and views of its buffers."""

    def __init__(self, problem: Problem, *, reorder: bool) -> None:
        case = problem.case
        self._problem = problem
        training, stream = case.mode == "train", case.mode == "stream"
        options = (_CELLS.index(case.cell), case.T, case.B, case.I, case.H, case.layers, case.directions)
        self._error = ctypes.create_string_buffer(500)
        made = _library().onednn_create(
            (ctypes.c_int * 10)(*options, training, stream, reorder), self._error, len(self._error)
        )
        if not made:
            raise RuntimeError(self._error.value.decode())
        self._handle = ctypes.c_void_p(made)
        weakref.finalize(self, _library().onednn_destroy, self._handle)
        for layer in range(case.layers):
            self._load_layer(layer)
        if training:
            self._view("dy")[...] = problem.dy
        self._start()

    def _view(self, name: str, layer: int = 0) -> Array:
        """A buffer of the driver, with the shape that its name and the case imply."""
        case = self._problem.case
        G, D, H = case.gates, case.directions, case.H
        shapes = {
            "x": (case.T, case.B, case.I),
            "y": (case.T, case.B, D * H),
            "w_ih": (D, G, H, case.layer_input_size(layer)),
            "w_hh": (D, G, H, H),
            "b": (D, 4 if case.cell == "gru_after" else G, H),
        }
        shape = shapes.get(name.removeprefix("d"), (D, case.B, H))
        pointer = _library().onednn_data(self._handle, name.encode(), layer)
        return np.ctypeslib.as_array(pointer, shape)

    def _checked(self, function: str, *arguments: Any) -> None:
        if getattr(_library(), function)(self._handle, *arguments, self._error, len(self._error)):
            raise RuntimeError(self._error.value.decode())

    def _load_layer(self, layer: int) -> None:
        case = self._problem.case
        G, H, D, order = case.gates, case.H, case.directions, _ORDER[case.cell]
        for row, (_, suffix) in enumerate(suffixes(case)):
            if row // D != layer:
                continue
            get = {name: self._problem.params[name + suffix] for name in _PARAMS}
            self._view("w_ih", layer)[row % D] = get["weight_ih"].reshape(G, H, -1)[order]
            self._view("w_hh", layer)[row % D] = get["weight_hh"].reshape(G, H, H)[order]
            b_ih, b_hh = (get[name].reshape(G, H)[order] for name in ("bias_ih", "bias_hh"))
            bias = self._view("b", layer)[row % D]
            bias[:G] = b_ih + b_hh
            if case.cell == "gru_after":  # the candidate's two biases stay apart: only one of them is reset
                bias[2:] = b_ih[2], b_hh[2]

    def _start(self) -> None:
        """From the initial state."""
        D = self._problem.case.directions
        self._view("x")[...] = self._problem.x[: self._problem.case.T]
        for layer in range(self._problem.case.layers):
            for name, state in zip(("h_0", "c_0"), self._problem.state, strict=False):
                self._view(name, layer)[...] = state[layer * D : (layer + 1) * D]
        self._checked("onednn_begin")

    def run(self, steps: int) -> None:
        """So many steps of a stream, or calls of the layers."""
        self._checked("onednn_run", ctypes.c_long(steps))

    def _stacked(self, name: str) -> Array:
        return np.concatenate([self._view(name, layer) for layer in range(self._problem.case.layers)])

    def outputs(self) -> dict[str, Array]:
        """See `Job.outputs`."""
        case = self._problem.case
        self._start()
        ys = []
        for x in self._problem.x if case.mode == "stream" else [self._problem.x]:
            self._view("x")[...] = x
            self.run(1)
            ys.append(self._view("y", case.layers - 1).copy())
        states = ("h", "c")[: len(self._problem.state)]
        named = {"y": np.concatenate(ys), **{f"{s}_n": self._stacked(f"{s}_n") for s in states}}
        if case.mode == "train":
            self._checked("onednn_finish")
            named |= {"dx": self._view("dx").copy(), **{f"d{s}_0": self._stacked(f"d{s}_0") for s in states}}
            named |= self._parameter_gradients()
        return named

    def _parameter_gradients(self) -> dict[str, Array]:
        case, named = self._problem.case, {}
        G, H, D, order = case.gates, case.H, case.directions, np.argsort(_ORDER[case.cell])
        for row, (layer, suffix) in enumerate(suffixes(case)):
            bias = self._view("db", layer)[row % D]
            hidden = bias[[0, 1, 3]] if case.cell == "gru_after" else bias
            named[f"dweight_ih{suffix}"] = self._view("dw_ih", layer)[row % D][order].reshape(G * H, -1)
            named[f"dweight_hh{suffix}"] = self._view("dw_hh", layer)[row % D][order].reshape(G * H, H)
            named[f"dbias_ih{suffix}"] = bias[:G][order].reshape(-1)
            named[f"dbias_hh{suffix}"] = hidden[order].reshape(-1)
        return named


_PARAMS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
