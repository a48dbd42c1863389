"""from_keras reads a layer if its code is Keras' own, else refuses it: over 400 layers and lists, most of them traps.

Each layer and each list of weights that is read gives Keras' own outputs.
"""

import itertools
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusedrnn import interop
from tolerances import assert_close

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="keras is not installed: pip install keras")

pytestmark = pytest.mark.filterwarnings("ignore")

L = keras.layers
NAMES = ["SimpleRNN", "GRU", "LSTM"]
EACH = range(18)
B, T = 2, 5


def options_of(rng: np.random.Generator, name: str) -> dict[str, Any]:
    options: dict[str, Any] = {"use_bias": bool(rng.integers(4)), "bias_initializer": "uniform"}
    options["activation"] = str(rng.choice(["tanh", "relu", "softsign", "elu"]))
    if name != "SimpleRNN":
        options["recurrent_activation"] = str(rng.choice(["sigmoid", "hard_sigmoid"]))
    if name == "GRU":
        options["reset_after"] = bool(rng.integers(2))
    return options


def layer(rng: np.random.Generator, name: str, cls: Any = None, **fixed: Any) -> Any:
    options = options_of(rng, name) | {"return_sequences": True, "go_backwards": bool(rng.integers(4) == 0)}
    return (cls or getattr(L, name))(int(rng.integers(1, 7)), **options | fixed)


def cell(rng: np.random.Generator, name: str, cls: Any = None, units: int = 0) -> Any:
    return (cls or getattr(L, f"{name}Cell"))(units or int(rng.integers(1, 7)), **options_of(rng, name))


def run(model: Any, x: Any) -> Any:
    return keras.ops.convert_to_numpy(model(x))


def compare(source: Any, rng: np.random.Generator, I: int, turned: bool = False, **options: Any) -> None:
    x = rng.standard_normal((B, T, I)).astype("f")
    expected = run(source, x)
    y = interop.from_keras(source, **options)(x)[0]
    assert_close(y[:, ::-1] if turned else y, expected, dtype="float32", K=14, T=3 * T, what=type(source).__name__)


def one(rng: np.random.Generator, name: str, **fixed: Any) -> None:
    source = layer(rng, name, **fixed)
    compare(source, rng, int(rng.integers(1, 6)), source.go_backwards)


def over_cells(rng: np.random.Generator, name: str) -> None:
    cells = [cell(rng, str(n)) for n in rng.choice(NAMES, int(rng.integers(1, 4)))]
    source = L.RNN(cells, return_sequences=True, go_backwards=bool(rng.integers(2)))
    compare(source, rng, int(rng.integers(1, 6)), source.go_backwards)


def over_one_cell(rng: np.random.Generator, name: str) -> None:
    compare(L.RNN(cell(rng, name), return_sequences=True), rng, int(rng.integers(1, 6)))


def below_others(rng: np.random.Generator, name: str) -> None:
    """A list of cells between other layers, each of which may turn the steps round."""
    I = int(rng.integers(1, 6))
    first = layer(rng, name, go_backwards=bool(rng.integers(2)))
    middle = L.RNN([cell(rng, name), cell(rng, "GRU")], return_sequences=True, go_backwards=bool(rng.integers(2)))
    last = layer(rng, "LSTM", go_backwards=bool(rng.integers(2)))
    source = keras.Sequential([keras.Input((None, I)), first, L.Dropout(0.5), middle, last])
    compare(source, rng, I, first.go_backwards ^ middle.go_backwards ^ last.go_backwards)


def two_ways(rng: np.random.Generator, name: str) -> None:
    mode = str(rng.choice(["concat", "sum", "ave", "mul"]))
    compare(L.Bidirectional(layer(rng, name, go_backwards=False), merge_mode=mode), rng, int(rng.integers(1, 6)))


def plain(rng: np.random.Generator, name: str) -> None:
    """A subclass with nothing of its own; constraints, regularisers and dropout act in training only."""

    class Mine(getattr(L, name)):  # type: ignore[misc]
        def get_config(self) -> Any:
            return super().get_config() | {"mine": 1}

    extras = {"kernel_regularizer": "l2", "recurrent_constraint": "max_norm", "dropout": 0.5, "recurrent_dropout": 0.5}
    source = layer(rng, name, Mine, **extras)
    compare(source, rng, int(rng.integers(1, 6)), source.go_backwards)


def stacked_weights(rng: np.random.Generator, name: str) -> None:
    """The weights of a model, whose reading is said where the shapes leave it open."""
    both, I = bool(rng.integers(2)), int(rng.integers(1, 6))
    same: dict[str, Any] = {"activation": "tanh", "go_backwards": False, "return_sequences": True}
    same |= {"use_bias": bool(rng.integers(2)), "bias_initializer": "uniform"}
    if name == "GRU":
        same["reset_after"] = True
    count = int(rng.integers(1, 4))
    layers = [getattr(L, name)(int(rng.integers(3, 7)), **same) for _ in range(count)]
    source = keras.Sequential([keras.Input((None, I)), *([L.Bidirectional(way) for way in layers] if both else layers)])
    x = rng.standard_normal((B, T, I)).astype("f")
    weights = source.get_weights()
    y = interop.from_keras(weights, bidirectional=both, num_layers=count)(x)[0]
    assert_close(y, run(source, x), dtype="float32", K=14, T=3 * T, what="weights")
    try:
        unsaid = interop.from_keras(weights)
    except ValueError:  # several readings
        return
    np.testing.assert_array_equal(unsaid(x)[0], y)


READ: dict[str, Callable[[np.random.Generator, str], None]] = {
    "layer": one,
    "layer again": one,
    "cells": over_cells,
    "a cell": over_one_cell,
    "below others": below_others,
    "two directions": two_ways,
    "nothing of its own": plain,
    "weights": stacked_weights,
    "stateful": lambda rng, name: one(rng, name, stateful=True, unroll=True),
}


@pytest.mark.parametrize("name", READ)
def test_layers_that_are_read(name):
    for k in EACH[: 6 if name in ("below others", "weights") else None]:
        READ[name](np.random.default_rng([k, len(name)]), NAMES[k % 3])


# ---- traps ----------------------------------------------------------------------------------------------------------


def overriding(base: Any, method: str) -> Any:
    def own(self: Any, *args: Any, **options: Any) -> Any:
        return getattr(super(made, self), method)(*args, **options)

    made = type("Mine", (base,), {method: own})
    return keras.saving.register_keras_serializable()(made)  # Bidirectional makes copies of its layer


def built(source: Any, I: int = 3) -> Any:
    source.build((None, None, I))
    return source


def assigned(source: Any) -> Any:
    run = source.call
    source.call = lambda *args, **options: run(*args, **options)
    return source


def tanh(x: Any) -> Any:
    """Called like one of Keras' own."""
    return 2 * x


def other_kernel(source: Any) -> Any:
    """The cell computes with something else than its weights."""
    source.cell._tracker.unlock()
    source.cell.recurrent_kernel = 2 * source.cell.recurrent_kernel
    return source


class Dropout(L.Layer):
    def call(self, x: Any) -> Any:
        return 2 * x


class Doubled(L.Dropout):
    def call(self, x: Any, training: bool = False) -> Any:
        return 2 * x


def model(*layers: Any) -> Any:
    return keras.Sequential([keras.Input((None, 3)), *layers])


TRAPS: dict[str, Callable[[np.random.Generator, str], Any]] = {
    "call": lambda rng, name: built(layer(rng, name, overriding(getattr(L, name), "call"))),
    "call of a cell": lambda rng, name: built(L.RNN(cell(rng, name, overriding(getattr(L, f"{name}Cell"), "call")))),
    "build of a cell": lambda rng, name: built(L.RNN(cell(rng, name, overriding(getattr(L, f"{name}Cell"), "build")))),
    "inner_loop": lambda rng, name: built(layer(rng, name, overriding(getattr(L, name), "inner_loop"))),
    "call of RNN": lambda rng, name: built(overriding(L.RNN, "call")(cell(rng, name))),
    "one of several cells": lambda rng, name: built(
        L.RNN([cell(rng, "GRU"), cell(rng, name, overriding(getattr(L, f"{name}Cell"), "call"))])
    ),
    "assigned call": lambda rng, name: assigned(built(layer(rng, name))),
    "call of Bidirectional": lambda rng, name: built(
        overriding(L.Bidirectional, "call")(layer(rng, name, go_backwards=False))
    ),
    "direction": lambda rng, name: built(
        L.Bidirectional(layer(rng, name, overriding(getattr(L, name), "call"), go_backwards=False))
    ),
    "activation of that name": lambda rng, name: built(layer(rng, name, activation=tanh)),
    "activation layer": lambda rng, name: built(layer(rng, name, activation=L.LeakyReLU(0.1))),
    "half precision": lambda rng, name: built(
        layer(rng, name, dtype=str(rng.choice(["mixed_float16", "mixed_bfloat16"])))
    ),
    "dropout with a call": lambda rng, name: model(layer(rng, name), Doubled(0.5), layer(rng, name)),
    "layer called Dropout": lambda rng, name: model(layer(rng, name), Dropout(), layer(rng, name)),
    "model with a call": lambda rng, name: overriding(keras.Sequential, "call")(
        [keras.Input((None, 3)), layer(rng, name)]
    ),
}


@pytest.mark.parametrize("name", TRAPS)
def test_traps_are_refused(name):
    for k in EACH:
        with pytest.raises((ValueError, TypeError), match=r"^from_keras: .*expected"):
            interop.from_keras(TRAPS[name](np.random.default_rng([k, len(name)]), NAMES[k % 3]))


@pytest.mark.parametrize("G", [1, 3, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_lists_that_can_be_read_in_several_ways(G, bias, rng):
    """One width throughout: two directions, or layers upon each other."""

    def weights(*inputs: int, H: int = 5) -> list[Any]:
        return [
            a for I in inputs for a in (normal(rng, I, G * H), normal(rng, H, G * H), *([normal(rng, G * H)] * bias))
        ]

    for count in (2, 3, 4):
        source = weights(*[5] * count)
        with pytest.raises(
            ValueError, match=r"can be read in several ways, as num_layers=.* or as .*; choose one with num"
        ):
            interop.from_keras(source)
        assert interop.from_keras(source, bidirectional=False).num_layers == count
    pair = weights(5, 5)
    assert interop.from_keras(pair, bidirectional=True).bidirectional
    assert interop.from_keras(pair, num_layers=1) == interop.from_keras(pair, bidirectional=True)
    assert interop.from_keras(weights(4, 5)).num_layers == 2
    assert interop.from_keras(weights(4, 4)).bidirectional
    assert interop.from_keras(weights(4, 4, 10, 10)).num_layers == 2
    assert interop.from_keras(weights(4, 4, 5, 5), merge_mode="sum", bidirectional=True).num_layers == 2
    with pytest.raises(
        ValueError, match=r"from_keras: the kernels have shapes .*; expected two alike for two directions"
    ):
        interop.from_keras(weights(4, 3))
    with pytest.raises(ValueError, match=r"the kernels have shapes .*, and num_layers=3; expected"):
        interop.from_keras(weights(4, 5), num_layers=3)
    long = weights(4, *[5] * 60)  # the two upper ones could be two directions
    with pytest.raises(
        ValueError, match="as num_layers=60, the last of 2 directions, or as num_layers=61, bidirectional="
    ):
        interop.from_keras(long)
    assert interop.from_keras(long, bidirectional=False).num_layers == 61


def normal(rng: np.random.Generator, *shape: int) -> Any:
    return rng.standard_normal(shape) / 2


def test_force_and_dtype(rng):
    mine = built(
        layer(
            rng,
            "LSTM",
            overriding(L.LSTM, "call"),
            activation="tanh",
            recurrent_activation="sigmoid",
            go_backwards=False,
        )
    )
    ours = interop.from_keras(mine, force=True)
    assert ours == interop.from_keras(mine.get_weights())
    half = built(L.GRU(4, dtype="mixed_bfloat16"))
    assert interop.from_keras(half, dtype="float32").dtype == np.float32
    with pytest.raises(ValueError, match="GRU computes in bfloat16, to which it rounds weights"):
        interop.from_keras(half)
    with pytest.raises(ValueError, match="num_layers is 2, but layers have their own"):
        interop.from_keras(half, num_layers=2)


def test_several_cells_in_two_directions_say_what_to_do(rng):
    source = built(L.Bidirectional(L.RNN([L.GRUCell(4), L.GRUCell(5)], return_sequences=True)))
    with pytest.raises(ValueError, match=r"several cells in each direction; expected one .*fusedrnn.Bidirectional"):
        interop.from_keras(source)


def test_hard_sigmoid_of_a_subclass_is_that_of_keras_3(rng):
    class Mine(L.LSTM):
        """Nothing of its own."""

    source = Mine(4, recurrent_activation="hard_sigmoid", return_sequences=True, bias_initializer="uniform")
    compare(source, rng, 3)


def test_readings_are_found_quickly():
    shapes = [(np.zeros((5, 5)), np.zeros((5, 5)))] * 1000
    with pytest.raises(ValueError, match="can be read in several ways"):
        interop.from_keras(list(itertools.chain(*shapes)))


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_models_of_other_backends(backend):
    """Keras' models are made of other classes with each backend; one that was trained has attributes of its own."""
    pytest.importorskip(backend)
    code = """
        import keras, numpy as np, fusedrnn
        layers = [keras.layers.LSTM(5, return_sequences=True), keras.layers.GRU(2)]
        model = keras.Sequential([keras.Input((4, 3)), *layers])
        model.compile(loss="mse", optimizer="adam", metrics=["mae"])
        x = np.random.default_rng(0).standard_normal((2, 4, 3)).astype("float32")
        model.fit(x, np.zeros((2, 2), "float32"), verbose=0)
        y, _ = fusedrnn.interop.from_keras(model)(x)
        np.testing.assert_allclose(y[:, -1], model(x), atol=1e-6)
    """
    environment = os.environ | {"KERAS_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
