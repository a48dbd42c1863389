"""Keras models with different layers run unchanged as a stack, and stacks run as Keras models."""

import os
from typing import Any

import numpy as np
import pytest

from fusedrnn import GRU, LSTM, RNN, Bidirectional, Ensemble, Stack, interop
from tolerances import assert_close

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="keras is not installed: pip install keras")

L = keras.layers
SEQUENCES = {"return_sequences": True, "bias_initializer": "uniform"}


def two_ways(forward: Any, backward: Any, **options: Any) -> Any:
    return L.Bidirectional(forward, backward_layer=backward, **options)


#: Keras layers, and the layers they are converted to.
MODELS: dict[str, tuple[Any, str]] = {
    "sizes": (
        lambda: [L.LSTM(6, **SEQUENCES), L.Dropout(0.3), L.LSTM(4, **SEQUENCES)],
        "Stack([LSTM(3, 6, bias='single', batch_first=True), LSTM(6, 4, bias='single', batch_first=True)])",
    ),
    "alike": (
        lambda: [L.LSTM(4, **SEQUENCES), L.LSTM(4, **SEQUENCES)],
        "LSTM(3, 4, num_layers=2, bias='single', batch_first=True)",
    ),
    "kinds": (
        lambda: [
            L.Bidirectional(L.GRU(5, **SEQUENCES)),
            L.SimpleRNN(4, activation="relu", **SEQUENCES),
            keras.Sequential([L.LSTM(2, use_bias=False, return_sequences=True)]),
        ],
        "Stack([GRU(3, 5, batch_first=True, bidirectional=True), "
        "RNN(10, 4, nonlinearity='relu', bias='single', batch_first=True), LSTM(4, 2, bias=False, batch_first=True)])",
    ),
    "directions": (
        lambda: [
            two_ways(L.LSTM(4, **SEQUENCES), L.GRU(4, go_backwards=True, **SEQUENCES)),  # Keras' shapes need equal ones
            two_ways(
                L.GRU(3, **SEQUENCES), L.GRU(3, reset_after=False, go_backwards=True, **SEQUENCES), merge_mode="mul"
            ),
        ],
        "Stack([Bidirectional(LSTM(3, 4, bias='single', batch_first=True), GRU(3, 4, batch_first=True)), "
        "Bidirectional(GRU(8, 3, batch_first=True), GRU(8, 3, bias='single', batch_first=True, reset_after=False), "
        "merge='mul')])",
    ),
    "one pair": (
        lambda: [two_ways(L.LSTM(4, **SEQUENCES), L.LSTM(6, go_backwards=True, **SEQUENCES))],
        "Bidirectional(LSTM(3, 4, bias='single', batch_first=True), LSTM(3, 6, bias='single', batch_first=True))",
    ),
    "backwards, twice": (
        lambda: [L.GRU(4, go_backwards=True, **SEQUENCES), L.GRU(5, go_backwards=True, **SEQUENCES)],
        "Stack([GRU(3, 4, batch_first=True, backwards=True), GRU(4, 5, batch_first=True)])",
    ),
    "backwards, and on": (
        lambda: [L.GRU(4, go_backwards=True, **SEQUENCES), L.GRU(4, **SEQUENCES)],
        "GRU(3, 4, num_layers=2, batch_first=True, backwards=True)",
    ),
}


def top(layer: Any) -> Any:
    return top(layer.layers[-1]) if isinstance(layer, Stack) else layer


def in_keras_order(layer: Any, y: Any) -> Any:
    return y[:, ::-1] if getattr(top(layer), "backwards", False) else y


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_models_there_and_back(name, rng):
    make, shown = MODELS[name]
    theirs = keras.Sequential([keras.Input((None, 3)), *make()])
    layer = interop.from_keras(theirs)
    assert repr(layer) == shown
    x = rng.standard_normal((2, 6, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(theirs(x))
    assert_close(in_keras_order(layer, layer(x)[0]), expected, dtype="float32", K=12, T=18, what=name)
    back = interop.to_keras(layer)
    for mine, other in zip(back.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert interop.from_keras(back) == layer
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(back(x)), expected)
    assert interop.from_keras(theirs.layers) == layer


@pytest.mark.filterwarnings("ignore")
def test_stacks_run_in_keras(rng):
    inner = Stack([GRU(9, 4, 2, batch_first=True, rng=2), RNN(4, 3, backwards=True, batch_first=True, rng=3)])
    pair = Bidirectional(LSTM(3, 4, batch_first=True, rng=0), GRU(3, 5, batch_first=True, rng=1))
    net = Stack([pair, inner, LSTM(3, 3, 2, backwards=True, batch_first=True, rng=4), GRU(3, 2, batch_first=True)])
    x = rng.standard_normal((2, 6, 3)).astype(np.float32)
    theirs = interop.to_keras(net)
    expected = keras.ops.convert_to_numpy(theirs(x))
    assert_close(net(x)[0], expected, dtype="float32", K=12, T=36, what="stack")


@pytest.mark.filterwarnings("ignore")
def test_what_keras_cannot_have():
    pair = Bidirectional(LSTM(3, 4), GRU(3, 5))
    with pytest.raises(ValueError, match=r"to_keras: Bidirectional.* stands above a layer that goes backwards"):
        interop.to_keras(Stack([RNN(3, 3, backwards=True), pair]))
    with pytest.raises(ValueError, match=r"to_keras: GRU.* stands above a layer that goes backwards"):
        interop.to_keras(Stack([RNN(3, 3, backwards=True), GRU(3, 3, bidirectional=True)]))
    with pytest.raises(ValueError, match="expected directions of one layer each, as Keras has nothing else"):
        interop.to_keras(Bidirectional(LSTM(3, 4, 2), GRU(3, 5)))
    with pytest.raises(ValueError, match=r"to_keras: .*zoneout=0\.5; expected 0\.0, as Keras has nothing else"):
        interop.to_keras(Stack([RNN(3, 3), RNN(3, 3, zoneout=0.5)]))
    model = keras.Sequential(
        [keras.Input((None, 3)), L.GRU(4, go_backwards=True, **SEQUENCES), L.Bidirectional(L.GRU(4, **SEQUENCES))]
    )
    with pytest.raises(ValueError, match="from_keras: Bidirectional stands above a layer that goes backwards"):
        interop.from_keras(model)
    with pytest.raises(TypeError, match="from_keras: got Dense; expected one of SimpleRNN"):
        interop.from_keras(keras.Sequential([keras.Input((None, 3)), L.GRU(4, **SEQUENCES), L.Dense(2)]))
    with pytest.raises(ValueError, match="from_keras: kind is 'LSTM', but the weights are those of GRU"):
        interop.from_keras(keras.Sequential([keras.Input((None, 3)), L.LSTM(4, **SEQUENCES), L.GRU(5)]), kind="LSTM")
    with pytest.raises(ValueError, match="from_keras: found no recurrent layer in an empty model"):
        interop.from_keras(keras.Sequential([keras.Input((None, 3)), L.Dropout(0.5)]))
    with pytest.raises(TypeError, match="to_keras: got Ensemble; expected RNN, GRU, LSTM, Bidirectional or Stack"):
        interop.to_keras(Ensemble([GRU(3, 4)]))
