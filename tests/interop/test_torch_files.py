"""`from_torch` of a path: state dicts of torch and of safetensors; damaged files, and files with code."""

import io
import os
import random
import sys
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import interop

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")


class Tagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(7, 3)
        self.lstm = torch.nn.LSTM(3, 5, 2, bidirectional=True)
        self.head = torch.nn.Linear(10, 2)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return Tagger()


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
def test_files_of_torch_save(model, new, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=new)
    expected = interop.from_torch(model.lstm)
    assert interop.from_torch(path) == expected
    assert interop.from_torch(os.fspath(path), "lstm") == expected
    assert interop.from_torch(path, dtype="float64").dtype == np.float64
    assert interop.from_torch(path, batch_first=True).batch_first


def test_checkpoints(model, tmp_path):
    path = tmp_path / "checkpoint.pth"
    optimizer = torch.optim.Adam(model.parameters())
    model.lstm(torch.zeros(2, 1, 3))[0].sum().backward()
    optimizer.step()
    state = {"epoch": 3, "model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save(state, path)
    assert interop.from_torch(path) == interop.from_torch(model.lstm)
    assert interop.from_torch(path, "model_state_dict.lstm") == interop.from_torch(model.lstm)
    torch.save({"a": model.state_dict(), "b": Tagger().state_dict()}, path)
    with pytest.raises(ValueError, match=r"several recurrent modules: 'a.lstm.', 'b.lstm.'"):
        interop.from_torch(path)


def test_half_precision_and_other_devices_of_a_file(tmp_path):
    path = tmp_path / "model.pt"
    module = torch.nn.GRU(3, 5).bfloat16()
    torch.save(module.state_dict(), path)
    assert interop.from_torch(path) == interop.from_torch(module.float())


def test_safetensors_need_no_torch(model, tmp_path, monkeypatch):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed: pip install safetensors")
    path = tmp_path / "model.safetensors"
    numpy.save_file({name: value.numpy() for name, value in model.state_dict().items()}, path)
    expected = interop.from_torch(model.lstm)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert interop.from_torch(path) == expected
    layer = fusedrnn.LSTM(3, 5, rng=0)
    fusedrnn.save(path, {"model": layer, "step": 3})
    assert interop.from_torch(path) == layer


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("import os; os.environ['FUSEDRNN_TEST_RAN'] = '1'",)


@pytest.mark.parametrize("new", [True, False])
def test_no_code_is_run(model, new, tmp_path):
    path = tmp_path / "model.pt"
    for content in ({"lstm": Evil()}, model):
        torch.save(content, path, _use_new_zipfile_serialization=new)
        with pytest.raises(
            ValueError, match=r"from_torch: torch.load\(weights_only=True\) refuses the file: .*expected"
        ):
            interop.from_torch(path)
    assert "FUSEDRNN_TEST_RAN" not in os.environ


def test_damaged_files_are_refused_or_read(model, tmp_path):
    file = io.BytesIO()
    torch.save(torch.nn.RNN(1, 2).state_dict(), file)
    whole, draw, path = file.getvalue(), random.Random(0), tmp_path / "model.pt"
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged[: draw.choice((len(whole), len(whole), draw.randrange(len(whole))))])
        try:
            interop.from_torch(path)
        except ValueError as error:
            assert str(error).startswith("from_torch: "), error  # noqa: PT017


def test_what_is_no_state_dict(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(FileNotFoundError):
        interop.from_torch(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="from_torch: the length of the header"):
        interop.from_torch(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="from_torch: found no weight_ih_l0 and weight_hh_l0"):
        interop.from_torch(path)


def test_what_needs_a_package_says_so(model, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    torch.save(model.state_dict(), path)
    layer = fusedrnn.GRU(3, 5)
    for package, call, message in (
        (
            "torch",
            lambda: interop.from_torch(path),
            "from_torch: 'model.pt', a file of torch.save, needs the package torch",
        ),
        ("torch", lambda: interop.to_torch(layer), "to_torch: this needs the package torch, which is not installed"),
        ("onnx", lambda: interop.from_onnx("model.onnx"), "from_onnx: this needs the package onnx"),
        ("onnx", lambda: interop.to_onnx(layer), r"to_onnx: this needs the package onnx.*\(pip install onnx\)"),
        ("keras", lambda: interop.to_keras(layer), "to_keras: this needs the package keras"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(ModuleNotFoundError, match=message):
                call()
