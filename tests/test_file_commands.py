"""`python -m fusedrnn inspect FILE` and `convert FILE -o OUT`: every kind of file; errors are one line."""

import json
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import interop
from fusedrnn.__main__ import main


def run(capsys: Any, *arguments: str) -> tuple[int, list[str], str]:
    """Exit status, lines of the output, and errors."""
    status = main(list(arguments))
    printed = capsys.readouterr()
    return status, printed.out.splitlines(), printed.err


def guitar() -> tuple[dict[str, Any], Any, Any]:
    """A model as GuitarML's programs write them, and its two layers."""
    layer, head = fusedrnn.LSTM(1, 8, rng=0), fusedrnn.Linear(8, 1, rng=1)
    state = {f"rec.{name}": array.tolist() for name, array in layer.state_dict().items()}
    state |= {f"lin.{name}": array.tolist() for name, array in head.state_dict().items()}
    data = {"model": "SimpleRNN", "unit_type": "LSTM", "input_size": 1, "hidden_size": 8, "output_size": 1, "skip": 1}
    return {"model_data": data, "state_dict": state}, layer, head


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"fusedrnn {fusedrnn.__version__}\n"


def test_inspect_shows_what_is_in_a_file(tmp_path, capsys):
    path = str(tmp_path / "checkpoint")
    net = fusedrnn.Stack([fusedrnn.GRU(3, 4, rng=0), fusedrnn.RNN(4, 2, rng=1)])
    fusedrnn.save(path, {"model": net, "frozen": net.layers[1].freeze(), "m": [np.zeros((2, 3))], "step": 12})
    status, lines, _ = run(capsys, "inspect", path)
    assert status == 0
    assert lines == [
        f"{path}: fusedrnn",
        "dict of 4",
        "  model: Stack([GRU(3, 4), RNN(4, 2)])",
        "    0.weight_ih_l0 float32 (12, 3)",
        "    0.weight_hh_l0 float32 (12, 4)",
        "    0.bias_ih_l0 float32 (12,)",
        "    0.bias_hh_l0 float32 (12,)",
        "    1.weight_ih_l0 float32 (2, 4)",
        "    1.weight_hh_l0 float32 (2, 2)",
        "    1.bias_ih_l0 float32 (2,)",
        "    1.bias_hh_l0 float32 (2,)",
        f"  frozen: <frozen RNN(4, 2), float32, {fusedrnn.current_isa()}>",
        "    weight_ih_l0 float32 (2, 4)",
        "    weight_hh_l0 float32 (2, 2)",
        "    bias_ih_l0 float32 (2,)",
        "    bias_hh_l0 float32 (2,)",
        "  m: list of 1",
        "    0: array float64 (2, 3)",
        "  step: 12",
        "140 parameters",
    ]


def test_files_of_arrays_and_of_json(tmp_path, capsys):
    layer, out = fusedrnn.LSTM(3, 5, rng=0), str(tmp_path / "out")
    interop.save_npz(layer, tmp_path / "layer.npz")
    interop.save_safetensors(layer, tmp_path / "layer.safetensors")
    for name, kind in (("layer.npz", "npz"), ("layer.safetensors", "fusedrnn")):
        path = str(tmp_path / name)
        assert run(capsys, "inspect", path)[1][:2] == [f"{path}: {kind}", "LSTM(3, 5)"]
        assert run(capsys, "convert", path, "-o", out)[:2] == (0, [f"{path} ({kind}) -> {out} (fusedrnn)"])
        assert fusedrnn.load(out) == layer
    npz = str(tmp_path / "again.npz")
    assert run(capsys, "convert", out, "--output", npz)[0] == 0
    assert interop.load_npz(npz) == layer

    path = tmp_path / "amplifier.json"
    content, rec, lin = guitar()
    path.write_text(json.dumps(content))
    assert run(capsys, "inspect", str(path))[1][:2] == [
        f"{path}: RTNeural",
        "Pipeline([LSTM(1, 8), Linear(8, 1)], skip=1)",
    ]
    assert run(capsys, "convert", str(path), "-o", out)[0] == 0
    x = np.random.default_rng(0).standard_normal((64, 1, 1)).astype("f4")
    y, _ = fusedrnn.load(out)(x)
    assert np.array_equal(y, lin(rec(x)[0]) + x)
    stream = fusedrnn.load(out).stream()
    assert np.array_equal(np.stack([stream.step(x_t) for x_t in x]), y)


def test_files_of_torch(tmp_path, capsys):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    path, out = str(tmp_path / "model.pt"), str(tmp_path / "out")
    module = torch.nn.GRU(3, 5, bidirectional=True)
    torch.save({"model": module.state_dict()}, path)
    assert run(capsys, "inspect", path)[1][:2] == [f"{path}: torch", "GRU(3, 5, bidirectional=True)"]
    assert run(capsys, "convert", path, "-o", out)[0] == 0
    assert fusedrnn.load(out) == interop.from_torch(module)


def test_files_of_onnx(tmp_path, capsys):
    pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
    path, out = str(tmp_path / "model.onnx"), str(tmp_path / "out")
    net = fusedrnn.Stack([fusedrnn.GRU(3, 4, rng=0), fusedrnn.LSTM(4, 2, rng=1)])
    fusedrnn.save(out, net)
    assert run(capsys, "convert", out, "-o", path)[:2] == (0, [f"{out} (fusedrnn) -> {path} (ONNX)"])
    status, lines, _ = run(capsys, "inspect", path)
    assert (status, lines[:2]) == (0, [f"{path}: ONNX", "dict of 2"])
    assert run(capsys, "convert", path, "-o", out)[0] == 0
    assert fusedrnn.load(out) == interop.from_onnx(path, chain=True)


def test_errors_are_one_line(tmp_path, capsys):
    path, layer = str(tmp_path / "file"), str(tmp_path / "layer")
    fusedrnn.save(layer, fusedrnn.LSTM(3, 5).freeze())
    (tmp_path / "file").write_bytes(b"x")
    for arguments, message in (
        (["inspect", path], "inspect: the length of the header is 120"),
        (["inspect", path + "s"], "No such file or directory"),
        (
            ["convert", layer, "-o", path + ".npz"],
            "save_npz: got FrozenLayer; expected a layer or a cell (fused",
        ),
        (["convert", layer, "-o", path + ".keras"], "expected a name that ends with .safetensors, .npz or .onnx"),
        (["convert", layer, "-o", path + ".onnx"], "to_onnx"),
        (["convert", layer, "-o", str(tmp_path)], "expected a regular file"),
    ):
        status, lines, error = run(capsys, *arguments)
        assert (status, lines) == (1, [])
        assert error.startswith(f"python -m fusedrnn {arguments[0]}: ")
        assert message in error
        assert error.count("\n") == 1
