"""ONNX Runtime as a peer: a model of LSTM, GRU or RNN nodes, one for each layer."""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cases import Case
from ..forced import forced
from ..problem import Problem, suffixes
from .base import Job, Peer

Array = NDArray[Any]

# Torch's gates in ONNX's order: LSTM i o f c, GRU z r h.
_ORDER = {"rnn_tanh": [0], "rnn_relu": [0], "gru_after": [1, 0, 2], "gru_before": [1, 0, 2], "lstm": [0, 3, 1, 2]}
_OPSET, _IR = 17, 10


class OnnxruntimePeer(Peer):
    """The CPU provider, which packs the weights when the session is made. Inference only.

    Parameters
    ----------
    binding : bool
        Streams through IO bindings, into buffers made beforehand, instead of `session.run`.
    """

    def __init__(self, *, binding: bool = False) -> None:
        self.name = "onnxruntime-binding" if binding else "onnxruntime"
        self._binding = binding
        self._threads = 1

    def missing(self) -> str | None:
        if forced():
            return "onnxruntime can't be held to an instruction set"
        absent = [name for name in ("onnxruntime", "onnx") if not importlib.util.find_spec(name)]
        return f"{' and '.join(absent)} not installed" if absent else None

    def version(self) -> str:
        return f"onnxruntime {importlib.import_module('onnxruntime').__version__}"

    def supports(self, case: Case) -> bool:
        mode = case.mode == "stream" if self._binding else case.mode != "train"
        return mode and case.dtype == "float32"

    @contextmanager
    def using(self, threads: int) -> Iterator[None]:
        self._threads = threads  # a session has its own threads; `prepare` makes one with so many
        yield

    def prepare(self, problem: Problem) -> Job:
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        session = runtime.InferenceSession(model(problem), options, providers=["CPUExecutionProvider"])
        if problem.case.mode == "stream":
            return _binding_job(problem, session) if self._binding else _stream_job(problem, session)
        feeds = {"x": problem.x, **dict(zip(("h_0", "c_0"), problem.state, strict=False))}
        if problem.lengths is not None:
            feeds["lengths"] = problem.lengths.astype(np.int32)

        def outputs() -> dict[str, Array]:
            return dict(zip(("y", "h_n", "c_n"), session.run(None, feeds), strict=False))

        return Job(lambda: session.run(None, feeds), outputs)


def _stream_job(problem: Problem, session: Any) -> Job:
    names = ("h_0", "c_0")[: len(problem.state)]
    run = session.run
    start: dict[str, Any] = dict(zip(names, problem.state, strict=True))
    feeds = {"x": problem.x[:1], **start}

    def call() -> None:
        _, *state = run(None, feeds)
        feeds.update(zip(names, state, strict=True))

    def outputs() -> dict[str, Array]:
        state, ys = list(problem.state), []
        for x in problem.x:
            y, *state = run(None, {"x": x[None], **dict(zip(names, state, strict=True))})
            ys.append(y)
        return {"y": np.concatenate(ys), **dict(zip(("h_n", "c_n"), state, strict=False))}

    return Job(call, outputs)


def _binding_job(problem: Problem, session: Any) -> Job:
    """The state goes back and forth between two buffers; the input is copied in."""
    value = importlib.import_module("onnxruntime").OrtValue.ortvalue_from_numpy
    names = ("h", "c")[: len(problem.state)]
    x, y = value(problem.x[:1].copy()), value(np.empty((1, problem.case.B, problem.case.H), np.float32))
    buffers = [[value(s.copy()) for s in problem.state] for _ in range(2)]
    bindings = []
    for given, made in (buffers, buffers[::-1]):
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", x)
        binding.bind_ortvalue_output("y", y)
        for name, source, target in zip(names, given, made, strict=True):
            binding.bind_ortvalue_input(f"{name}_0", source)
            binding.bind_ortvalue_output(f"{name}_n", target)
        bindings.append(binding)
    first, write, run, step = problem.x[:1], x.update_inplace, session.run_with_iobinding, 0

    def call() -> None:
        nonlocal step
        write(first)
        run(bindings[step])
        step = 1 - step

    def outputs() -> dict[str, Array]:
        for buffer, start in zip(buffers[0], problem.state, strict=True):
            buffer.update_inplace(start)
        ys = []
        for number, one in enumerate(problem.x):
            write(one[None])
            run(bindings[number % 2])
            ys.append(y.numpy().copy())
        final = buffers[len(problem.x) % 2]
        return {"y": np.concatenate(ys), **{f"{n}_n": b.numpy().copy() for n, b in zip(names, final, strict=True)}}

    return Job(call, outputs)


def model(problem: Problem) -> bytes:
    """The case as a serialized ONNX model with inputs x, h_0, c_0, lengths and outputs y, h_n, c_n."""
    case = problem.case
    onnx = importlib.import_module("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    D, H, states = case.directions, case.H, len(problem.state)
    operator = {"lstm": "LSTM", "rnn_tanh": "RNN", "rnn_relu": "RNN"}.get(case.cell, "GRU")
    attributes: dict[str, Any] = {"hidden_size": H, "direction": "bidirectional" if D == 2 else "forward"}
    if operator == "GRU":
        attributes["linear_before_reset"] = int(case.cell == "gru_after")
    if operator == "RNN":
        attributes["activations"] = ["Tanh" if case.cell == "rnn_tanh" else "Relu"] * D
    nodes: list[Any] = []
    constants = {"joined": np.array([0, 0, D * H], np.int64)} if D == 2 else {"one": np.array([1], np.int64)}
    if case.layers > 1:
        constants["rows"] = np.full(case.layers, D, np.int64)
        for s in ("h", "c")[:states]:
            parts = [f"{s}_0{layer}" for layer in range(case.layers)]
            nodes.append(helper.make_node("Split", [f"{s}_0", "rows"], parts, axis=0))
    x = "x"
    for layer in range(case.layers):
        last = layer == case.layers - 1
        constants |= {f"{name}{layer}": array for name, array in _weights(problem, layer).items()}
        tail = str(layer) if case.layers > 1 else ""
        inputs = [x, *(f"{name}{layer}" for name in "WRB"), "lengths" if case.ragged else ""]
        inputs += [f"{s}_0{tail}" for s in ("h", "c")[:states]]
        outputs = [f"Y{layer}", *(f"{s}_n{tail}" for s in ("h", "c")[:states])]
        nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        x = "y" if last else f"x{layer + 1}"
        if D == 1:
            nodes.append(helper.make_node("Squeeze", [f"Y{layer}", "one"], [x]))
        else:  # (T, D, B, H) -> (T, B, D*H)
            nodes.append(helper.make_node("Transpose", [f"Y{layer}"], [f"Z{layer}"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"Z{layer}", "joined"], [x]))
    if case.layers > 1:
        for s in ("h", "c")[:states]:
            parts = [f"{s}_n{layer}" for layer in range(case.layers)]
            nodes.append(helper.make_node("Concat", parts, [f"{s}_n"], axis=0))
    f32, shape = onnx.TensorProto.FLOAT, [case.layers * D, case.B, H]
    given = [helper.make_tensor_value_info("x", f32, [case.T, case.B, case.I])]
    given += [helper.make_tensor_value_info(f"{s}_0", f32, shape) for s in ("h", "c")[:states]]
    if case.ragged:
        given.append(helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, [case.B]))
    made = [helper.make_tensor_value_info("y", f32, [case.T, case.B, D * H])]
    made += [helper.make_tensor_value_info(f"{s}_n", f32, shape) for s in ("h", "c")[:states]]
    initializers = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in constants.items()]
    graph = helper.make_graph(nodes, "case", given, made, initializers)
    serialized: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR
    ).SerializeToString()
    return serialized


def _weights(problem: Problem, layer: int) -> dict[str, Array]:
    """W (D, G*H, I), R (D, G*H, H), B (D, 2*G*H) of one layer."""
    case = problem.case
    rows = (np.arange(case.gates * case.H).reshape(case.gates, case.H)[_ORDER[case.cell]]).reshape(-1)
    names = [suffix for of_layer, suffix in suffixes(case) if of_layer == layer]

    def stacked(name: str) -> Array:
        return np.stack([problem.params[name + suffix][rows] for suffix in names])

    bias = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1)
    return {"W": stacked("weight_ih"), "R": stacked("weight_hh"), "B": bias}
