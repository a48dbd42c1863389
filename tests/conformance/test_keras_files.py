"""`from_keras` of a path: models in files give what Keras computes with them, and Keras is not needed to read them."""

import io
import json
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install keras")
h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install h5py")

import fusedrnn  # noqa: E402  after the choice of Keras' backend
from fusedrnn import interop  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras warns that .h5 is its old format, and of NumPy

L = keras.layers
V, T, B, I = 20, 9, 4, 3

Make = Callable[[], list[Any]]

#: Models that read tokens.
OF_TOKENS: dict[str, Make] = {
    "first": lambda: [L.Embedding(V, 8), L.LSTM(32), L.Dropout(0.5), L.Dense(1, activation="sigmoid")],
    "masked": lambda: [L.Embedding(V, 8, mask_zero=True), L.LSTM(7), L.Dense(3, activation="softmax")],
    "two directions": lambda: [
        L.Embedding(V, 8, mask_zero=True),
        L.Bidirectional(L.LSTM(6, return_sequences=True)),
        L.SpatialDropout1D(0.2),
        L.Bidirectional(L.GRU(5)),
        L.Dense(4, activation="relu"),
        L.Dense(3),
        L.Activation("tanh"),
    ],
    "sum of directions": lambda: [L.Embedding(V, 4), L.Bidirectional(L.GRU(5), merge_mode="sum"), L.Dense(2)],
    "mean of directions": lambda: [L.Embedding(V, 4), L.Bidirectional(L.LSTM(5), merge_mode="ave"), L.Dense(2)],
    "backwards": lambda: [L.Embedding(V, 4), L.GRU(5, go_backwards=True), L.Dense(2, activation="elu")],
    "no head": lambda: [L.Embedding(V, 4), L.SimpleRNN(5)],
}

#: Models that read floats.
OF_FLOATS: dict[str, Make] = {
    "tagger": lambda: [L.LSTM(6, return_sequences=True), L.Dense(4, activation="softmax")],
    "same classes": lambda: [
        L.TimeDistributed(L.Dense(5, activation="relu")),
        L.GRU(6, return_sequences=True, reset_after=False),
        L.GRU(7, return_sequences=True),
        L.GRU(7, return_sequences=True, use_bias=False),
        L.TimeDistributed(L.Dense(4)),
        L.Dense(2, use_bias=False),
    ],
    "activations": lambda: [
        L.LSTM(6, activation="relu", recurrent_activation="hard_sigmoid", return_sequences=True),
        L.SimpleRNN(5, activation="softsign", return_sequences=True),
        L.Dense(2),
    ],
}


def built(layers: list[Any], tokens: bool) -> Any:
    model = keras.Sequential([keras.Input((T,) if tokens else (T, I)), *layers])
    rng = np.random.default_rng(0)
    model.set_weights([rng.standard_normal(w.shape).astype(w.dtype) * 0.4 for w in model.get_weights()])
    return model


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("name", [*OF_TOKENS, *OF_FLOATS])
def test_models_in_files(name, ending, tmp_path):
    tokens = name in OF_TOKENS
    model = built((OF_TOKENS | OF_FLOATS)[name](), tokens)
    path = tmp_path / f"model.{ending}"
    model.save(path)
    rng = np.random.default_rng(1)
    x: Any = rng.integers(0, V, (B, T)) if tokens else rng.standard_normal((B, T, I)).astype("f4")
    if tokens:
        x[1, 4:] = 0
        x[2, 2] = 0
    expected = np.asarray(model(x).detach().cpu() if hasattr(model(x), "detach") else model(x))
    found = interop.from_keras(path)
    assert isinstance(found, fusedrnn.Pipeline)
    y, _ = found(x)
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() < 1e-6
    assert interop.from_keras(os.fspath(path), dtype="float64").dtype == np.float64
    other = interop.from_keras(path, batch_first=False)
    swapped = other(x.swapaxes(0, 1))[0]
    assert np.array_equal(y, swapped if found.last else swapped.swapaxes(0, 1))
    if name in ("first", "masked", "tagger"):
        stream = found.stream(B)
        steps = [stream.step(np.ascontiguousarray(x[:, t])) for t in range(T)]
        whole = interop.from_keras(path).recurrent
        assert whole.dtype == np.float32
        if name == "first":
            assert np.array_equal(steps[-1], y)
        if name == "tagger":
            assert np.array_equal(np.stack(steps, 1), y)
    fusedrnn.save(tmp_path / "saved", found)
    assert fusedrnn.load(tmp_path / "saved") == found


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_recurrent_layers_alone_are_what_the_model_gives(ending, tmp_path):
    model = built([L.Bidirectional(L.LSTM(4, return_sequences=True)), L.GRU(5, return_sequences=True)], False)
    path = tmp_path / f"model.{ending}"
    model.save(path)
    assert interop.from_keras(path) == interop.from_keras(model)
    with pytest.raises(ValueError, match="from_keras: kind is 'LSTM', but the weights are those of GRU"):
        interop.from_keras(path, kind="LSTM")
    with pytest.raises(ValueError, match="from_keras: activation is 'relu', but a file has its own"):
        interop.from_keras(path, activation="relu")


def test_keras_is_not_needed(tmp_path):
    path = tmp_path / "model.keras"
    built(OF_TOKENS["first"](), True).save(path)
    code = f"""
import sys
for name in ("keras", "tensorflow", "torch", "jax"):
    sys.modules[name] = None
import numpy as np
from fusedrnn import interop
net = interop.from_keras({str(path)!r})
print(net)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lstm = "LSTM(8, 32, bias='single', batch_first=True)"
    said = f"Pipeline([Embedding(20, 8), {lstm}, Linear(32, 1), 'sigmoid'], last=True)"
    assert done.stdout.strip() == said, done.stderr


def test_what_is_refused(tmp_path):
    class Own(L.LSTM):
        pass

    inputs = keras.Input((T, I))
    models: dict[str, tuple[Any, str]] = {
        "functional": (keras.Model(inputs, L.LSTM(3)(inputs)), "the model is 'Functional'; expected 'Sequential'"),
        "own": (built([Own(4)], False), "Own of .*, registered by the user,, which has no counterpart|Own"),
        "convolution": (built([L.Conv1D(4, 2), L.LSTM(3)], False), "found Conv1D 'conv1d.*', which has no counterpart"),
        "gelu": (built([L.LSTM(3), L.Dense(2, activation="gelu")], False), "the activation of Dense .* is 'gelu'"),
        "dense between": (
            built([L.LSTM(3, return_sequences=True), L.Dense(2), L.LSTM(3)], False),
            "expected recurrent layers right upon each other",
        ),
        "reversed": (
            built([L.LSTM(3, go_backwards=True, return_sequences=True)], False),
            "go_backwards of LSTM .* is True; expected False with return_sequences",
        ),
        "nothing recurrent": (built([L.Dense(3)], False), "found no recurrent layer in"),
        "half": (built([L.LSTM(3, dtype="mixed_float16")], False), "LSTM computes in mixed_float16"),
    }
    for name, (model, message) in models.items():
        for ending in ("keras", "h5"):
            path = tmp_path / f"{name}.{ending}"
            model.save(path)
            with pytest.raises(ValueError, match=message) as caught:
                interop.from_keras(path)
            assert str(caught.value).startswith("from_keras: ")
    path = tmp_path / "model.weights.h5"
    built([L.LSTM(3)], False).save_weights(path)
    with pytest.raises(ValueError, match=r"the file is 'one of weights without the model'; expected a .keras"):
        interop.from_keras(path)
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match="the file is 'neither zip nor HDF5'"):
        interop.from_keras(path)
    with pytest.raises(FileNotFoundError):
        interop.from_keras(tmp_path / "none.keras")


def changed(
    path: Path, config: Callable[[Any], None] | None = None, weights: Callable[[Any], None] | None = None
) -> Path:
    """A .keras file whose description or weights were changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if config is not None:
        tree = json.loads(members["config.json"])
        config(tree["config"]["layers"])
        members["config.json"] = json.dumps(tree).encode()
    if weights is not None:
        file = io.BytesIO(members["model.weights.h5"])
        with h5py.File(file, "r+") as held:
            weights(held)
        members["model.weights.h5"] = file.getvalue()
    other = path.with_name("changed.keras")
    with zipfile.ZipFile(other, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return other


def test_files_that_lie(tmp_path):
    path = tmp_path / "model.keras"
    built(OF_TOKENS["first"](), True).save(path)
    secret = tmp_path / "other.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones((20, 8), "f4")

    def link(held: Any) -> None:
        del held["layers/embedding/vars/0"]
        held["layers/embedding/vars/0"] = h5py.ExternalLink(os.fspath(secret), "x")

    def elsewhere(held: Any) -> None:
        del held["layers/embedding/vars/0"]
        where = [(os.fspath(secret), 0, 20 * 8 * 4)]
        held["layers/embedding/vars"].create_dataset("0", (20, 8), "f4", external=where)

    def huge(held: Any) -> None:
        del held["layers/embedding/vars/0"]
        held["layers/embedding/vars"].create_dataset("0", (10**7, 10**3), "f4", chunks=(10**3, 10**3))

    def units(layers: Any) -> None:
        layers[2]["config"]["activation"] = ["tanh"]

    def shape(held: Any) -> None:
        del held["layers/dense/vars/0"]
        held["layers/dense/vars/0"] = np.ones((31, 1), "f4")

    for options, message in (
        ({"weights": link}, "is 'not there, or a link'; expected weights in the file"),
        ({"weights": elsewhere}, "expected an array in the file"),
        ({"weights": huge}, "the size of .* is 40000000000; expected 0, as the file has"),
        ({"weights": shape}, "reads 31 features; expected 32"),
        ({"config": units}, r"activation of LSTM .* is \['tanh'\]"),
        ({"config": lambda layers: layers.append(3)}, "a layer is None; expected a class_name and a config"),
        ({"config": lambda layers: layers.append(layers[-1])}, "is 'not there, or a link'"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            interop.from_keras(changed(path, **options))
        assert str(caught.value).startswith("from_keras: ")
    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", b" " * 10**8)
    with pytest.raises(ValueError, match=r"metadata.json unpacks to 100000000 bytes; expected at most"):
        interop.from_keras(bomb)


def test_damaged_files_are_refused_or_read(tmp_path):
    path, draw = tmp_path / "model.keras", random.Random(0)
    built([L.LSTM(2), L.Dense(1)], False).save(path)
    whole = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged[: draw.choice((len(whole), len(whole), draw.randrange(len(whole))))])
        try:
            interop.from_keras(path)
        except ValueError as error:
            assert str(error).startswith("from_keras: "), error  # noqa: PT017


def test_what_needs_h5py_says_so(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    built([L.LSTM(2)], False).save(path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match=r"from_keras: a file of Keras needs the package h5py, which is not"):
        interop.from_keras(path)
