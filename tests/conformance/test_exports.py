"""Layers with every option exported to onnxruntime, torch and Keras: same outputs, or an error naming the option."""

import os
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import interop
from tolerances import assert_close

T, B, I, H = 6, 4, 3, 5
KINDS = {"RNN": fusedrnn.RNN, "GRU": fusedrnn.GRU, "LSTM": fusedrnn.LSTM}


def make_layer(kind: str, options: dict[str, Any]) -> Any:
    """Parameters from N(0, 1/2), so that clips take effect, and learned states and peepholes matter."""
    layer = KINDS[kind](I, H, rng=1, **options)
    for w in layer.params.values():
        w[...] = layer.rng.standard_normal(w.shape) / 2
    return layer


def as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def name_of(value: Any) -> str:
    return ",".join(f"{k}={v}" for k, v in value.items()).replace(" ", "") if isinstance(value, dict) else str(value)


def assert_all_close(mine: Any, theirs: Any, layer: Any) -> None:
    __tracebackhide__ = True
    for k, (a, e) in enumerate(zip(mine, theirs, strict=True)):
        assert_close(a, e, dtype="float32", K=I + H, T=T * layer.num_layers, what=f"{layer!r}: output {k}")


# ---- ONNX

BOTH = {"bidirectional": True}
ONNX: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {"activation": "softsign", "clip": 0.5}),
    ("RNN", {"activation": ("leaky_relu", 0.1), "backwards": True, "bias": "single", "num_layers": 2}),
    ("RNN", {"activation": ("scaled_tanh", 1.7, 0.6), "learned_state": True} | BOTH),
    ("RNN", {"activation": ("affine", 0.4, 0.1), "batch_first": True}),
    ("RNN", {"activation": "elu", "recurrent_dropout": 0.4, "weight_dropout": 0.2}),
    ("GRU", {"recurrent_activation": "hard_sigmoid", "backwards": True}),
    ("GRU", {"recurrent_activation": ("hard_sigmoid", 0.2, 0.5), "activation": "relu", "bias": "single"}),
    ("GRU", {"reset_after": False, "clip": 0.5, "bias": "single", "learned_state": True}),
    ("GRU", {"reset_after": False, "activation": "softplus", "num_layers": 2, "weight_dropout": 0.5} | BOTH),
    ("LSTM", {"peephole": "ifo"}),
    ("LSTM", {"peephole": "ifo", "num_layers": 2, "bias": "single"} | BOTH),
    ("LSTM", {"peephole": "ifo", "backwards": True, "bias": False, "clip": 0.7}),
    ("LSTM", {"coupled": True}),
    ("LSTM", {"coupled": True, "peephole": "ifo", "learned_state": True} | BOTH),
    ("LSTM", {"coupled": True, "bias": "single", "backwards": True, "batch_first": True}),
    ("LSTM", {"clip": 0.5, "merge": "sum"} | BOTH),
    ("LSTM", {"activation": "softsign", "recurrent_activation": "hard_sigmoid", "output_activation": "tanh"} | BOTH),
    (
        "LSTM",
        {"activation": ("thresholded_relu", 0.2), "output_activation": ("scaled_tanh", 1.7, 0.6), "num_layers": 2},
    ),
    ("LSTM", {"recurrent_dropout": 0.5, "peephole": "ifo", "coupled": True, "clip": 0.9}),
]


@pytest.mark.parametrize("lengths", [False, True], ids=["dense", "lengths"])
@pytest.mark.parametrize(("kind", "options"), ONNX, ids=name_of)
def test_onnxruntime_runs_what_is_exported(kind, options, lengths, rng):
    pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[conformance]'")
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed: pip install '.[conformance]'"
    )
    layer = make_layer(kind, options)
    x = rng.standard_normal((B, T, I) if layer.batch_first else (T, B, I)).astype(np.float32)
    model = interop.to_onnx(layer, lengths=lengths)
    feeds = {"x": x} | ({"lengths": np.array([3, 6, 1, 5], np.int32)} if lengths else {})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, state_n = layer(x, lengths=feeds.get("lengths"))
    assert_all_close([*as_tuple(y), *as_tuple(state_n)], session.run(None, feeds), layer)
    if layer.num_layers == 1 and not layer.learned_state:  # and back: the same layer, with two biases in place of one
        (node,) = interop.from_onnx(model).values()
        assert_all_close(
            [*as_tuple(node.layer(x.swapaxes(0, 1) if layer.batch_first else x)[1])], as_tuple(layer(x)[1]), layer
        )


NOT_ONNX: list[tuple[str, dict[str, Any], str]] = [
    ("LSTM", {"proj_size": 2}, "proj_size=2; expected 0"),
    ("LSTM", {"peephole": "o_prev"}, "peephole='o_prev'; expected None"),
    ("LSTM", {"cell_clip": 3.0}, "cell_clip=3.0; expected None"),
    ("LSTM", {"zoneout": (0.1, 0.0)}, r"zoneout=\(0.1, 0.0\); expected 0.0"),
    ("GRU", {"reset_gate": False}, "reset_gate=False; expected True"),
    ("GRU", {"zoneout": 0.25}, "zoneout=0.25; expected 0.0"),
    ("RNN", {"activation": "hard_tanh"}, "activation is 'hard_tanh'; expected one of"),
]


@pytest.mark.parametrize(("kind", "options", "message"), NOT_ONNX, ids=name_of)
def test_what_onnx_does_not_have(kind, options, message):
    pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[conformance]'")
    with pytest.raises(ValueError, match=f"to_onnx: .*{message}"):
        interop.to_onnx(make_layer(kind, options))


# ---- torch

TORCH: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {"proj_size": 2}),
    ("LSTM", {"proj_size": 2, "num_layers": 2, "batch_first": True} | BOTH),
    ("LSTM", {"proj_size": 3, "bias": "single"}),
    ("LSTM", {"proj_size": 4, "bias": False} | BOTH),
    ("GRU", {"bias": "single", "num_layers": 2}),
    ("RNN", {"bias": "single", "nonlinearity": "relu"} | BOTH),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("kind", "options"), TORCH, ids=name_of)
def test_torch_runs_what_is_exported(kind, options, rng):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
    layer = make_layer(kind, options)
    x = rng.standard_normal((B, T, I) if layer.batch_first else (T, B, I)).astype(np.float32)
    module = interop.to_torch(layer)
    with torch.no_grad():
        y, state_n = module(torch.from_numpy(x))
    ours, state = layer(x)
    assert_all_close([ours, *as_tuple(state)], [y.numpy(), *(s.numpy() for s in as_tuple(state_n))], layer)
    back = interop.from_torch(module)
    assert_all_close(as_tuple(back(x)[1]), as_tuple(state), layer)
    if layer.bias != "single":
        assert back == layer


NOT_TORCH: list[tuple[str, dict[str, Any], str]] = [
    ("LSTM", {"peephole": "ifo"}, "peephole='ifo'"),
    ("LSTM", {"coupled": True}, "coupled=True"),
    ("LSTM", {"proj_size": 2, "cell_clip": 3.0}, "cell_clip=3.0"),
    ("LSTM", {"proj_size": 2, "zoneout": 0.1}, "zoneout=0.1"),
    ("LSTM", {"proj_size": 2, "backwards": True}, "backwards=True"),
    ("LSTM", {"proj_size": 2, "learned_state": True}, "learned_state=True"),
    ("GRU", {"recurrent_dropout": 0.1}, "recurrent_dropout=0.1"),
    ("GRU", {"weight_dropout": 0.1}, "weight_dropout=0.1"),
    ("GRU", {"reset_gate": False}, "reset_gate=False"),
    ("GRU", {"recurrent_activation": "softsign"}, "recurrent_activation='softsign'"),
    ("RNN", {"activation": "softsign"}, "activation='softsign'"),
    ("RNN", {"clip": 1.0}, "clip=1.0"),
]


@pytest.mark.parametrize(("kind", "options", "message"), NOT_TORCH, ids=name_of)
def test_what_torch_does_not_have(kind, options, message):
    pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
    with pytest.raises(ValueError, match=f"to_torch: .*{message}; expected .*, as torch has nothing else"):
        interop.to_torch(make_layer(kind, options))


# ---- Keras

KERAS: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {"activation": "softsign", "bias": "single", "backwards": True}),
    ("GRU", {"reset_after": False, "bias": "single", "recurrent_activation": "hard_sigmoid", "backwards": True}),
    ("GRU", {"reset_after": False, "activation": "relu", "merge": "mul"} | BOTH),
    ("GRU", {"activation": "softsign", "num_layers": 2} | BOTH),
    ("GRU", {"bias": "single", "recurrent_activation": "hard_sigmoid"}),
    ("LSTM", {"bias": "single", "activation": "softplus", "backwards": True}),
    ("LSTM", {"recurrent_activation": "hard_sigmoid", "merge": "sum", "bias": False} | BOTH),
]


def keras_layers() -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    pytest.importorskip("keras", reason="keras is not installed: pip install keras")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "options"), KERAS, ids=name_of)
def test_keras_runs_what_is_exported(kind, options, rng):
    keras_layers()
    layer = make_layer(kind, options | {"batch_first": True})
    x = rng.standard_normal((B, T, I)).astype(np.float32)
    import keras

    theirs = keras.ops.convert_to_numpy(interop.to_keras(layer)(x))
    y, _ = layer(x)
    assert_all_close([y[:, ::-1] if layer.backwards else y], [theirs], layer)


NOT_KERAS: list[tuple[str, dict[str, Any], str]] = [
    ("LSTM", {"proj_size": 2}, "proj_size=2; expected 0"),
    ("LSTM", {"peephole": "ifo"}, "peephole='ifo'; expected None"),
    ("LSTM", {"coupled": True}, "coupled=True; expected False"),
    ("LSTM", {"cell_clip": 2.0}, "cell_clip=2.0; expected None"),
    ("LSTM", {"output_activation": "relu"}, "output_activation='relu'; expected None"),
    ("GRU", {"reset_gate": False}, "reset_gate=False; expected True"),
    ("GRU", {"zoneout": 0.25}, "zoneout=0.25; expected 0.0"),
    ("GRU", {"recurrent_dropout": 0.25}, "recurrent_dropout=0.25; expected 0.0"),
    ("RNN", {"weight_dropout": 0.25}, "weight_dropout=0.25; expected 0.0"),
    ("RNN", {"learned_state": True}, "learned_state=True; expected False"),
    ("RNN", {"clip": 1.0}, "clip=1.0; expected None"),
    ("RNN", {"activation": ("affine", 0.4, 0.1)}, "activation is .*; expected one of"),
]


@pytest.mark.parametrize(("kind", "options", "message"), NOT_KERAS, ids=name_of)
def test_what_keras_does_not_have(kind, options, message):
    keras_layers()
    with pytest.raises(ValueError, match=f"to_keras: .*{message}"):
        interop.to_keras(make_layer(kind, options))
