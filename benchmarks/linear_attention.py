"""Linear attention beside onnxruntime's operator and torch's chunked form, in interleaved rounds.

    python benchmarks/linear_attention.py                    # one thread
    python benchmarks/linear_attention.py --rounds 21 --threads 2

Float32, one decay for each head. Outputs, and in training gradients, are compared with ours before anything is timed;
peers that are not installed are left out. Times are CPU times; a ratio is the median over the rounds of (peer's time /
fusedrnn's time in the same round).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fusedrnn
from fusedrnn import functional

SHAPES = ((1, 512, 24, 128, 64), (1, 2048, 8, 64, 64))  # B, T, heads, d_k, d_v
Step = Callable[[], tuple[Any, ...]]


def arguments_of(B: int, T: int, heads: int, d_k: int, d_v: int) -> dict[str, Any]:
    """q, keys of length one, v, decay, beta and do, time-major."""
    rng = np.random.default_rng(0)
    key = rng.standard_normal((T, B, heads, d_k), dtype=np.float32)
    key /= np.linalg.norm(key, axis=-1, keepdims=True)
    return {
        "q": rng.standard_normal((T, B, heads * d_k), dtype=np.float32),
        "k": key.reshape(T, B, -1),
        "v": rng.standard_normal((T, B, heads * d_v), dtype=np.float32),
        "decay": -0.2 * rng.random((T, B, heads), dtype=np.float32),
        "beta": rng.random((T, B, heads), dtype=np.float32),
        "do": rng.standard_normal((T, B, heads * d_v), dtype=np.float32),
    }


def ours(a: dict[str, Any], heads: int, delta: bool, train: bool) -> Step:
    """The functions themselves."""

    def step() -> tuple[Any, ...]:
        beta = a["beta"] if delta else None
        o, _, tape = functional.linear_attention_forward(
            a["q"], a["k"], a["v"], a["decay"], beta, num_heads=heads, scale=1.0
        )
        if not train:
            return (o,)
        grads = functional.linear_attention_backward(tape, a["do"])
        return o, grads.dq, grads.dk, grads.dv, grads.ddecay

    return step


def onnxruntime_operator(a: dict[str, Any], heads: int, delta: bool, threads: int) -> Step:
    """com.microsoft's LinearAttention."""
    import onnx.helper as helper
    import onnxruntime

    rule, names = ("gated_delta", "qkvgb") if delta else ("gated", "qkvg")
    sources = dict(zip("qkvgb", ("q", "k", "v", "decay", "beta"), strict=True))
    feeds = {name: np.ascontiguousarray(a[sources[name]].swapaxes(0, 1)) for name in names}
    inputs = ["q", "k", "v", "", "g", *(["b"] if delta else [])]
    attributes = {"q_num_heads": heads, "kv_num_heads": heads, "update_rule": rule, "scale": 1.0}
    node = helper.make_node("LinearAttention", inputs, ["o", "s"], domain="com.microsoft", **attributes)
    infos = [helper.make_tensor_value_info(name, 1, x.shape) for name, x in feeds.items()]
    graph = helper.make_graph([node], "graph", infos, [helper.make_tensor_value_info("o", 1, None)])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: (session.run(["o"], feeds)[0].swapaxes(0, 1),)


def torch_chunked(a: dict[str, Any], heads: int, train: bool, threads: int, size: int = 64) -> Step:
    """Products of matrices within chunks of steps, and a loop over the chunks' states."""
    import torch

    torch.set_num_threads(threads)
    names = ("q", "k", "v", "decay")
    tensors = [torch.tensor(np.ascontiguousarray(a[name].swapaxes(0, 1)), requires_grad=train) for name in names]
    of_output = torch.tensor(np.ascontiguousarray(a["do"].swapaxes(0, 1)))
    below = torch.ones(size, size, dtype=torch.bool).tril()

    def forward() -> Any:
        B, T = tensors[0].shape[:2]
        q, k, v = (x.reshape(B, T // size, size, heads, -1) for x in tensors[:3])
        total = tensors[3].reshape(B, T // size, size, heads).permute(0, 3, 1, 2).cumsum(-1)
        between = torch.exp((total[..., :, None] - total[..., None, :]).masked_fill(~below, -torch.inf))
        inside = torch.einsum("bcthn,bcshn->bhcts", q, k) * between
        o = torch.einsum("bhcts,bcshp->bcthp", inside, v)
        made = torch.einsum("bcshn,bhcs,bcshp->bchnp", k, torch.exp(total[..., -1:] - total), v)
        state, states = torch.zeros_like(made[:, 0]), []
        for c in range(T // size):
            states.append(state)
            state = state * torch.exp(total[:, :, c, -1])[..., None, None] + made[:, c]
        o = o + torch.einsum("bcthn,bchnp,bhct->bcthp", q, torch.stack(states, 1), torch.exp(total))
        return o.reshape(B, T, -1)

    def step() -> tuple[Any, ...]:
        if not train:
            with torch.no_grad():
                return (forward().numpy().swapaxes(0, 1),)
        for tensor in tensors:
            tensor.grad = None
        o = forward()
        o.backward(of_output)
        return (o.detach().numpy().swapaxes(0, 1), *(x.grad.numpy().swapaxes(0, 1) for x in tensors))  # type: ignore[union-attr]

    return step


def check(name: str, theirs: tuple[Any, ...], own: tuple[Any, ...]) -> None:
    """The same results, to 1e-4 of the largest."""
    for x, y in zip(theirs, own, strict=True):
        error = np.abs(x - y).max() / np.abs(y).max()
        if not error < 1e-4:
            raise SystemExit(f"{name} differs by {error:.1e}")


def measured(title: str, step: Step, peers: dict[str, Callable[[], Step]], rounds: int) -> None:
    """One line for each peer."""
    own, steps = step(), {}
    for name, make in peers.items():
        try:
            steps[name] = make()
        except ImportError:
            continue
        check(name, steps[name](), own)
    times: dict[str, list[float]] = {"fusedrnn": [], **{name: [] for name in steps}}
    for _ in range(rounds):
        for name, one in (("fusedrnn", step), *steps.items()):
            start = time.process_time()
            one()
            times[name].append(time.process_time() - start)
    print(f"{title}: fusedrnn {1e3 * np.median(times['fusedrnn']):.2f} ms")
    for name in steps:
        ratio = np.median(np.array(times[name]) / np.array(times["fusedrnn"]))
        print(f"  {name}: {ratio:.2f} times as long")


def main() -> None:
    """All shapes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with fusedrnn.threads(options.threads):
        for shape in SHAPES:
            heads, a = shape[2], arguments_of(*shape)
            for delta in (False, True):
                peers = {"onnxruntime": lambda a=a, h=heads, d=delta: onnxruntime_operator(a, h, d, options.threads)}
                if not delta:
                    peers["torch, chunked"] = lambda a=a, h=heads: torch_chunked(a, h, False, options.threads)
                name = "gated delta" if delta else "gated"
                measured(f"{shape} {name}, forward", ours(a, heads, delta, False), peers, options.rounds)
            chunked = {"torch, chunked": lambda a=a, h=heads: torch_chunked(a, h, True, options.threads)}
            measured(f"{shape} gated, training", ours(a, heads, False, True), chunked, options.rounds)


if __name__ == "__main__":
    main()
