"""Run silero-vad's voice activity detector without onnxruntime: its LSTM streamed by fusedrnn, the rest in plain NumPy.

    pip install --no-deps silero-vad && pip install onnx onnxruntime   # the model is inside; --no-deps: without torch
    python examples/pretrained_vad.py                                  # compares and times both; about 20 seconds

The detector looks at 32 ms at a time: a short-time Fourier transform and four small convolutions make 128 numbers of
them, an LSTM remembers, one unit says how likely speech is. onnxruntime runs all of it as it comes with silero-vad,
once as a stream and once over blocks of many frames, the quickest way that silero-vad has. Here the weights are read
from the same file: `from_onnx` finds the LSTM, wherever it is in the graph, in whatever gate order.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Small products: one thread is enough, and the others would spin on the cores. Must be set before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import fusedrnn

try:
    import onnx
    import onnxruntime
except ImportError as error:
    sys.exit(f"pretrained_vad.py needs {error.name}: pip install onnx onnxruntime")

Array = np.ndarray[Any, np.dtype[Any]]
RATE, FRAME, CONTEXT, BLOCK = (
    16000,
    512,
    64,
    512,
)  # samples a second, in a frame, of the frame before it; frames a block
SECONDS = 30


def model_file(name: str) -> Path:
    """A file of the package silero_vad, which is not imported: that would need torch."""
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("pretrained_vad.py needs silero-vad: pip install --no-deps silero-vad")
    return Path(spec.submodule_search_locations[0]) / "data" / name


# ------------------------------------------------------------------------------------------------------------ fusedrnn
def convolve(x: Array, weight: Array, bias: Array, stride: int) -> Array:
    """x (N, L, C) with weight (3*C, O), zeros at both ends, then relu: one matrix product over all windows."""
    N, L, C = x.shape
    wide = np.zeros((N, L + 2, C), x.dtype)
    wide[:, 1:-1] = x
    windows = np.concatenate([wide[:, k : k + L : stride] for k in range(3)], axis=2)
    y = windows.reshape(-1, 3 * C) @ weight
    y += bias
    return np.maximum(y, 0, out=y).reshape(N, -1, y.shape[1])


class Detector:
    """The network: `features` of frames, then the LSTM over them, then one unit."""

    def __init__(self, path: Path) -> None:
        model = onnx.load(str(path))
        weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.basis = np.ascontiguousarray(weights["stft.forward_basis_buffer"][:, 0].T)  # (256, 2*129)
        self.layers = []
        for k, stride in enumerate((1, 2, 2, 1)):
            weight = weights[f"encoder.{k}.weight"].transpose(2, 1, 0)  # (3, C, O)
            weight = np.ascontiguousarray(weight).reshape(-1, weight.shape[2])
            self.layers.append((weight, weights[f"encoder.{k}.bias"], stride))
        self.weight, self.bias = weights["output.weight"][0, :, 0], weights["output.bias"]
        (node,) = fusedrnn.interop.from_onnx(model).values()
        self.lstm = node.layer.freeze()
        self.stream = self.lstm.stream(batch_size=1)
        self.context = np.zeros(CONTEXT, np.float32)

    def features(self, frames: Array) -> Array:
        """(N, 64 + 512) samples -> (N, 128)."""
        x = np.concatenate([frames, frames[:, -2 : -2 - CONTEXT : -1]], axis=1)  # reflected at the end
        windows = np.stack([x[:, start : start + 256] for start in range(0, 512, 128)], axis=1)
        spectrum = windows.reshape(-1, 256) @ self.basis
        half = spectrum.shape[1] // 2
        y = np.hypot(spectrum[:, :half], spectrum[:, half:]).reshape(len(x), 4, half)
        for weight, bias, stride in self.layers:
            y = convolve(y, weight, bias, stride)
        return y[:, 0]

    def probability(self, h: Array) -> Array:
        """(N, 128) outputs of the LSTM -> (N,)."""
        return 1 / (1 + np.exp(-(np.maximum(h, 0) @ self.weight + self.bias)))

    def step(self, samples: Array) -> float:
        """The next 512 samples of a stream."""
        frame = np.concatenate([self.context, samples])
        self.context = samples[-CONTEXT:]
        return float(self.probability(self.stream.step(self.features(frame[None])))[0])

    def recording(self, audio: Array) -> Array:
        """A whole recording at once."""
        frames = with_context(audio)
        y, _ = self.lstm(np.concatenate([self.features(block) for block in blocks(frames)])[:, None])
        return self.probability(y[:, 0])


# ------------------------------------------------------------------------------------------------------------- original
class Original:
    """The same file's network and the streaming one, run by onnxruntime on one thread as silero-vad does."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        names = ("silero_vad.onnx", "silero_vad_16k_sequence.onnx")
        self.one, self.many = (onnxruntime.InferenceSession(str(model_file(n)), options, providers) for n in names)
        self.state = np.zeros((2, 1, 128), np.float32)
        self.context = np.zeros(CONTEXT, np.float32)
        self.rate = np.array(RATE, np.int64)

    def step(self, samples: Array) -> float:
        frame = np.concatenate([self.context, samples])[None]
        self.context = samples[-CONTEXT:]
        y, self.state = self.one.run(None, {"input": frame, "state": self.state, "sr": self.rate})
        return float(y[0, 0])

    def recording(self, audio: Array) -> Array:
        h = c = np.zeros((1, 1, 128), np.float32)
        found = []
        for block in blocks(with_context(audio)):
            y, h, c = self.many.run(None, {"input": block, "h": h, "c": c})
            found.append(y.reshape(-1))
        return np.concatenate(found)


# ---------------------------------------------------------------------------------------------------------------- audio
def with_context(audio: Array) -> Array:
    """(N, 64 + 512): each frame behind the last samples of the one before it."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), audio])
    return sliding_window_view(padded, CONTEXT + FRAME)[::FRAME]


def blocks(frames: Array) -> list[Array]:
    """At most 512 frames in each, which is 16 seconds."""
    return [frames[k : k + BLOCK] for k in range(0, len(frames), BLOCK)]


def made_up_speech(seconds: int) -> Array:
    """Vowels: a buzzing voice through two resonances that wander, in phrases with pauses and noise between them."""
    rng = np.random.default_rng(0)
    n = seconds * RATE // FRAME * FRAME
    t = np.arange(n) / RATE
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    voice = np.zeros(n)
    for harmonic in range(1, 30):
        frequency = harmonic * 120
        first, second = 500 + 250 * np.sin(2 * np.pi * 1.9 * t), 1500 + 600 * np.sin(2 * np.pi * 1.3 * t + 1)
        gain = np.exp(-(((frequency - first) / 150) ** 2)) + 0.5 * np.exp(-(((frequency - second) / 250) ** 2))
        voice += gain * np.sin(harmonic * pitch)
    syllables = np.clip(np.sin(2 * np.pi * 4 * t), 0, 1) * (np.sin(2 * np.pi * 0.25 * t) > 0)
    return (0.2 * voice * syllables + 0.003 * rng.standard_normal(n)).astype(np.float32)


def streamed(detector: Any, audio: Array) -> Array:
    """Probabilities from one frame after another, as from a microphone."""
    return np.array([detector.step(frame) for frame in audio.reshape(-1, FRAME)])


def fastest(rounds: int, *functions: Callable[[], Any]) -> list[float]:
    """Best time of each, in rounds of all of them, so that neighbours on the machine disturb all alike."""
    times = [float("inf")] * len(functions)
    for _ in range(rounds):
        for k, function in enumerate(functions):
            start = time.perf_counter()
            function()
            times[k] = min(times[k], time.perf_counter() - start)
    return times


def main() -> None:
    audio = made_up_speech(SECONDS)
    ours, original = Detector(model_file("silero_vad_16k_sequence.onnx")), Original()
    with fusedrnn.threads(1):
        found = {"stream": (streamed(ours, audio), streamed(original, audio))}
        found["recording"] = (ours.recording(audio), original.recording(audio))
        for name, (mine, theirs) in found.items():
            far = np.abs(mine - theirs).max()
            print(
                f"{name}: {np.mean(theirs > 0.5):.0%} of {len(theirs)} frames are speech; largest difference {far:.1e}"
            )
            if far > 1e-4 or ((mine > 0.5) != (theirs > 0.5)).any():
                sys.exit("the outputs differ")
        N = len(audio) // FRAME
        layer, node = ours.lstm, lstm_alone()
        x = ours.features(with_context(audio)[:BLOCK])[:, None]
        state = dict.fromkeys(("h", "c"), np.zeros((1, 1, 128), np.float32))
        for name, count, functions in (
            ("a frame of a stream", N, (lambda: streamed(ours, audio), lambda: streamed(original, audio))),
            ("a frame of a recording", N, (lambda: ours.recording(audio), lambda: original.recording(audio))),
            ("its LSTM alone", len(x), (lambda: layer(x), lambda: node.run(None, {"x": x} | state))),
            ("its LSTM alone, streamed", len(x), (lambda: steps(ours, x), lambda: node_steps(node, x, state))),
        ):
            mine, theirs = fastest(5, *functions)
            print(
                f"{name}: fusedrnn {mine / count * 1e6:.1f} us, onnxruntime {theirs / count * 1e6:.1f} us, "
                f"{theirs / mine:.2f}x"
            )


def lstm_alone() -> Any:
    """An onnxruntime session of the LSTM node and nothing else."""
    model = onnx.load(str(model_file("silero_vad_16k_sequence.onnx")))
    (node,) = [node for node in model.graph.node if node.op_type == "LSTM"]
    node.input[0], node.input[5], node.input[6] = "x", "h", "c"
    info = onnx.helper.make_tensor_value_info
    shapes = {"x": ["T", 1, 128], "h": [1, 1, 128], "c": [1, 1, 128]}
    inputs = [info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [info(name, onnx.TensorProto.FLOAT, None) for name in node.output]
    weights = [tensor for tensor in model.graph.initializer if tensor.name in node.input]
    graph = onnx.helper.make_graph([node], "lstm", inputs, outputs, weights)
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(alone.SerializeToString(), options, providers=["CPUExecutionProvider"])


def steps(detector: Detector, x: Array) -> None:
    """The LSTM over x (T, 1, 128), one step after another."""
    out = np.empty((1, 128), np.float32)
    for x_t in x:
        detector.stream.step(x_t, out=out)


def node_steps(node: Any, x: Array, state: dict[str, Array]) -> None:
    """The same with onnxruntime."""
    h, c = state["h"], state["c"]
    for x_t in x:
        _, h, c = node.run(None, {"x": x_t[None], "h": h, "c": c})


if __name__ == "__main__":
    main()
