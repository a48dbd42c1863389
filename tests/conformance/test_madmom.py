"""from_madmom on the trained networks that madmom's source archive contains, against madmom's own layers.

madmom 0.16.1 cannot be installed with a current NumPy, but its layers are plain Python: the file
``madmom/ml/nn/layers.py`` is run from the archive, which pip downloads. Nothing from the archive is committed: the
networks are licensed CC BY-NC-SA 4.0.
"""

import importlib
import pickle
import subprocess
import sys
import tarfile
import types
import warnings

import numpy as np
import pytest

from fusedrnn import interop

pytest.importorskip("scipy", reason="madmom's layers import SciPy: pip install '.[conformance]'")

RECURRENT = ("RecurrentLayer", "LSTMLayer", "GRULayer", "BidirectionalLayer")
#: Folder of networks, and their total number of recurrent layers.
FOLDERS = {
    "beats/2015": 24,
    "beats/2016": 24,
    "downbeats/2016": 48,
    "notes/2013": 3,
    "onsets/2013": 48,
    "onsets/2014": 16,
}
#: Both compute in float32, with sums over up to 482 products of trained weights; the largest difference is 1.4e-5.
ROUNDING = 3e-5


@pytest.fixture(scope="module")
def madmom(tmp_path_factory):
    """The archive's folder, from which its layers can be imported."""
    folder = tmp_path_factory.mktemp("madmom")
    command = ["pip", "download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run([sys.executable, "-m", *command, "madmom==0.16.1"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot download madmom 0.16.1: {done.stderr.strip().splitlines()[-1:]}")
    with tarfile.open(folder / "madmom-0.16.1.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    root = folder / "madmom-0.16.1/madmom"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("madmom", "madmom.ml", "madmom.ml.nn"):  # packages without their imports
            package = types.ModuleType(name)
            package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
            patch.setitem(sys.modules, name, package)
        sys.modules["madmom.ml.nn"].NeuralNetwork = type("NeuralNetwork", (), {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("madmom.ml.nn.layers")
        yield root
        for name in [name for name in sys.modules if name.startswith("madmom.")]:
            patch.delitem(sys.modules, name, raising=False)


def networks(root, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pickles of older versions of madmom and NumPy
        for path in sorted((root / "models" / folder).glob("*.pkl")):
            with path.open("rb") as file:
                yield path.name, pickle.load(file, encoding="latin1").layers


def features(layer, rng):
    one_way = getattr(layer, "fwd_layer", layer)
    gate = getattr(one_way, "cell", one_way)
    return rng.standard_normal((60, gate.weights.shape[0])).astype("float32")


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_layer(folder, madmom, rng):
    layers = [layer for _, net in networks(madmom, folder) for layer in net if type(layer).__name__ in RECURRENT]
    assert len(layers) == FOLDERS[folder]
    for layer in layers:
        x = features(layer, rng)
        y, _ = interop.from_madmom(layer)(x)
        np.testing.assert_allclose(y, layer.activate(x), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("folder", ["beats/2015", "downbeats/2016"])
def test_whole_networks(folder, madmom, rng):
    """Three bidirectional layers each, LSTM with peepholes or GRU; then madmom's own dense layer."""
    for name, net in networks(madmom, folder):
        recurrent = [layer for layer in net if type(layer).__name__ in RECURRENT]
        x = features(recurrent[0], rng)
        expected = x
        for layer in recurrent:
            expected = layer.activate(expected)
        y, _ = interop.from_madmom(recurrent)(x)
        np.testing.assert_allclose(y, expected, rtol=0, atol=ROUNDING, err_msg=name)
