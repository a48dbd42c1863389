"""Keras layers run unchanged, and survive the conversion in both directions bit for bit."""

import os

import numpy as np
import pytest

from fusedrnn import interop
from tolerances import assert_close

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="keras is not installed: pip install keras")

LAYERS = {
    "LSTM": lambda L: L.LSTM(5, return_sequences=True, bias_initializer="uniform"),
    "GRU after": lambda L: L.GRU(5, return_sequences=True, bias_initializer="uniform"),
    "GRU before": lambda L: L.GRU(5, reset_after=False, return_sequences=True, recurrent_activation="hard_sigmoid"),
    "SimpleRNN": lambda L: L.SimpleRNN(5, activation="relu", return_sequences=True, go_backwards=True),
    "Bidirectional": lambda L: L.Bidirectional(L.LSTM(5, return_sequences=True, activation="elu"), merge_mode="ave"),
    "RNN of a cell": lambda L: L.RNN(L.LSTMCell(5, use_bias=False), return_sequences=True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LAYERS)
def test_keras_layers_there_and_back(name, rng):
    theirs = LAYERS[name](keras.layers)
    x = rng.standard_normal((2, 6, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(theirs(x))
    layer = interop.from_keras(theirs)
    y = layer(x)[0]
    assert_close(y[:, ::-1] if layer.backwards else y, expected, dtype="float32", K=8, T=6, what=name)
    back = interop.to_keras(layer)
    for mine, other in zip(back.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert interop.from_keras(back) == layer
