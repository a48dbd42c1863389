"""What Keras 3's own tests of its recurrent layers require: outputs, masks, go_backwards, states, two directions.

Keras computes the expected results, on the numbers of its tests (such as lstm_test.py) and on random ones; our layer is
made from its weights by `interop.from_keras`.
"""

import os
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
keras = pytest.importorskip("keras", reason="keras is not installed")

from fusedrnn import interop  # noqa: E402  Keras is looked for first

# Importing TensorFlow raises warnings about its own internals.
pytestmark = pytest.mark.filterwarnings("ignore")

LAYERS: list[tuple[str, dict[str, Any]]] = [
    ("SimpleRNN", {}),
    ("GRU", {}),
    ("GRU", {"reset_after": False}),
    ("LSTM", {}),
]
EACH = pytest.mark.parametrize(("kind", "options"), LAYERS, ids=["SimpleRNN", "GRU", "GRU-before", "LSTM"])
BACKWARDS = pytest.mark.parametrize("go_backwards", [False, True], ids=["forwards", "backwards"])
B, T, I, H = 3, 6, 4, 5


def constant(kind: str, units: int, **options: Any) -> Any:
    """A layer with the weights of Keras' tests."""
    initializers = {"kernel": 0.01, "recurrent": 0.02, "bias": 0.03}
    weights = {f"{name}_initializer": keras.initializers.Constant(value) for name, value in initializers.items()}
    return getattr(keras.layers, kind)(units, return_sequences=True, return_state=True, **weights, **options)


def random(kind: str, units: int, seed: int = 0, **options: Any) -> Any:
    weights = {
        f"{name}_initializer": keras.initializers.RandomNormal(stddev=0.5, seed=seed + k)
        for k, name in enumerate(("kernel", "recurrent", "bias"))
    }
    return getattr(keras.layers, kind)(units, return_sequences=True, return_state=True, **weights, **options)


def numbers(result: Any) -> list[Any]:
    return [np.asarray(part) for part in (result if isinstance(result, (list, tuple)) else [result])]


def ours(source: Any, x: Any, mask: Any = None, state: Any = None, zero: bool = False) -> list[Any]:
    """y in Keras' format, and the states."""
    layer = interop.from_keras(source)
    y, state_n = layer(x, state, mask=mask, past_end="zero" if zero or mask is None else "hold")
    turned = y[:, ::-1] if getattr(source, "go_backwards", False) else y
    return [turned, *(part[0] for part in (state_n if isinstance(state_n, tuple) else (state_n,)))]


def assert_equal(actual: list[Any], expected: list[Any]) -> None:
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=2e-5, atol=2e-6)


@EACH
@BACKWARDS
@pytest.mark.parametrize("make", [constant, random])
@pytest.mark.parametrize("use_bias", [True, False])
def test_outputs_and_states(kind, options, go_backwards, make, use_bias):
    x = np.arange(B * T * I).reshape(B, T, I).astype("float32") / (1 if make is constant else B * T * I)
    layer = make(kind, H, go_backwards=go_backwards, use_bias=use_bias, **options)
    expected = numbers(layer(x))
    assert_equal(ours(layer, x), expected)


MASKS = {
    "right padding": np.arange(T) < np.array([[6], [4], [1]]),
    "left padding": np.arange(T) >= np.array([[0], [2], [5]]),
    "holes": np.array([[1, 0, 1, 1, 0, 1], [0, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0]], bool),
    "a row without a step": np.array([[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]], bool),
}


@EACH
@BACKWARDS
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("zero", [False, True], ids=["held", "zero"])
def test_masks(kind, options, go_backwards, mask, zero, rng):
    x = rng.standard_normal((B, T, I)).astype("float32")
    # With go_backwards, Keras' unrolled loop zeroes masked outputs in the wrong order of time.
    layer = random(kind, H, go_backwards=go_backwards, zero_output_for_mask=zero, unroll=not zero, **options)
    expected = numbers(layer(x, mask=MASKS[mask]))
    assert_equal(ours(layer, x, MASKS[mask], zero=zero), expected)


@EACH
@BACKWARDS
def test_initial_states(kind, options, go_backwards, rng):
    x = rng.standard_normal((B, T, I)).astype("float32")
    layer = random(kind, H, go_backwards=go_backwards, **options)
    states = [rng.standard_normal((B, H)).astype("float32") for _ in range(2 if kind == "LSTM" else 1)]
    expected = numbers(layer(x, initial_state=states if len(states) == 2 else states[0]))
    given = tuple(s[None] for s in states)
    assert_equal(ours(layer, x, state=given if len(given) == 2 else given[0]), expected)


@EACH
def test_statefulness(kind, options, rng):
    x = rng.standard_normal((2, B, T, I)).astype("float32")
    layer = random(kind, H, stateful=True, **options)
    first, second = numbers(layer(x[0])), numbers(layer(x[1]))
    assert_equal(ours(layer, x[0]), first)
    state = tuple(part[None] for part in first[1:])
    assert_equal(ours(layer, x[1], state=state if len(state) == 2 else state[0]), second)
    layer.reset_state()
    assert_equal(numbers(layer(x[0])), first)


@EACH
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "ave", "mul", None])
@pytest.mark.parametrize("mask", [None, *MASKS])
def test_two_directions(kind, options, merge_mode, mask, rng):
    x = rng.standard_normal((B, T, I)).astype("float32")
    one_way = getattr(keras.layers, kind)(H, return_sequences=True, **options)
    layer = keras.layers.Bidirectional(one_way, merge_mode=merge_mode)
    flags = None if mask is None else MASKS[mask]
    expected = numbers(layer(x, mask=flags))
    y, _ = interop.from_keras(layer)(x, mask=flags)  # Bidirectional puts zeros at masked steps
    assert_equal(list(y) if merge_mode is None else [y], expected)
