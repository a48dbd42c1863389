"""Every family has everything: layer, cell, functions, frozen layer, stream, files; and all of these agree."""

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest

import fusedrnn
from composition import Checker, compose
from fusedrnn import functional, reference
from fusedrnn.parameters import CLASSES
from fusedrnn.recurrent import RecurrentLayer
from fusedrnn.recurrent_cell import RecurrentCell
from problems import assert_same_bits

LAYERS = {name: cls for name, cls in CLASSES.items() if issubclass(cls, RecurrentLayer)}
EACH = pytest.mark.parametrize("family", LAYERS)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
T, B, I, H = 11, 5, 7, 18  # LRU needs an even H


def made(family: str, dtype: str = "float64", **options: Any) -> Any:
    return LAYERS[family](I, H, dtype=dtype, rng=3, **options)


def drawn(rng: np.random.Generator, *shape: int, dtype: str = "float64") -> Any:
    return rng.standard_normal(shape).astype(dtype)


def parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


@EACH
def test_a_family_is_complete(family):
    low = family.lower()
    assert family in fusedrnn.__all__
    assert f"{family}Cell" in fusedrnn.__all__
    assert issubclass(CLASSES[f"{family}Cell"], RecurrentCell)
    for way in ("forward", "backward"):
        for module in (functional, reference):
            assert f"{low}_{way}" in module.__all__
            function = getattr(module, f"{low}_{way}")
            assert function.__name__ == f"{low}_{way}"
            assert function.__doc__


@EACH
@DTYPES
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True, "merge": "sum"}, {"learned_state": True, "bias": "single"}],
    ids=["one", "two-ways", "learned"],
)
def test_layers_are_the_references_composed(family, dtype, options, isa, rng):
    layer = made(family, dtype, **options)
    x, lengths = drawn(rng, T, B, I, dtype=dtype), rng.integers(0, T + 1, B)
    y, state, tape = layer.forward(x, lengths=lengths)
    expected = compose(layer._reference_cell(), layer, x, None, {"lengths": lengths})
    check = Checker(layer.dtype, K=I + 2 * H, T=T)
    check.group("results", [y], [expected.y])
    check.group("state", parts(state), expected.state)
    dy = drawn(rng, *y.shape, dtype=dtype)
    dstate = [drawn(rng, *part.shape, dtype=dtype) for part in expected.state]
    grads = tape.backward(dy, tuple(dstate) if len(dstate) == 2 else dstate[0])
    dx, dstate_0, dparams = expected.backward(dy, dstate)
    check.group("dx and dstate", [grads.x, *parts(grads.state)], [dx, *dstate_0])
    check.group("parameters", list(grads.params.values()), [dparams[name] for name in layer.params])


@EACH
@DTYPES
def test_frozen_layers_streams_cells_and_functions_agree(family, dtype, isa, rng):
    layer = made(family, dtype)
    x = drawn(rng, T, B, I, dtype=dtype)
    y, state, tape = layer.forward(x)
    assert_same_bits(layer(x), (y, state), "call")
    frozen = layer.freeze()
    assert_same_bits(frozen(x), (y, state), "frozen")
    stream = frozen.stream(B)
    assert_same_bits(np.stack([stream.step(row) for row in x]), y, "stream")
    assert_same_bits(parts(stream.state), parts(state), "stream's state")

    cell = CLASSES[f"{family}Cell"](I, H, dtype=dtype)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.params.items()})
    step, y_cells = None, []
    for row in x:
        step = cell(row, step)
        y_cells.append(parts(step)[0])
    assert_same_bits(np.stack(y_cells), y, "cell")

    weights = list(layer.params.values())
    forward, backward = (getattr(functional, f"{family.lower()}_{way}") for way in ("forward", "backward"))
    y_function, *state_function, own_tape = forward(x, *[None] * len(parts(state)), *weights)
    assert_same_bits(y_function, y, "function")
    assert_same_bits(tuple(part[None] for part in state_function), parts(state), "function's state")
    dy = drawn(rng, *y.shape, dtype=dtype)
    grads, own = tape.backward(dy), backward(own_tape, dy)
    assert_same_bits(grads.x, own.dx, "dx")
    own_weights = [d for name, d in own._asdict().items() if name.startswith(("dW", "db")) and d is not None]
    assert_same_bits(list(grads.params.values()), own_weights, "gradients")


@EACH
def test_files_pickles_and_copies_keep_a_layer_and_a_cell(family, tmp_path, rng):
    layer, cell = made(family, num_layers=2), CLASSES[f"{family}Cell"](I, H, rng=5)
    for thing in (layer, cell):
        assert pickle.loads(pickle.dumps(thing)) == thing
        assert copy.deepcopy(thing) == thing
        fusedrnn.interop.save_npz(thing, tmp_path / "a.npz")
        assert fusedrnn.interop.load_npz(tmp_path / "a.npz") == thing
        assert eval(repr(thing), {**vars(fusedrnn)}).params.keys() == thing.params.keys()


@EACH
def test_groups_take_every_family(family, rng):
    x = drawn(rng, T, B, I)
    low, high = made(family), LAYERS[family](H, 6, dtype="float64", rng=4)
    y, _ = fusedrnn.Stack([low, high])(x)
    assert_same_bits(y, high(low(x)[0])[0], "stack")
    y, _ = fusedrnn.Bidirectional(low, made(family, backwards=True))(x)
    assert_same_bits(y[..., :H], low(x)[0], "forward half")


@EACH
def test_the_values_inside_can_be_seen(family, rng):
    layer = made(family)
    x = drawn(rng, T, B, I)
    inside, y = layer.inspect(x), layer(x)[0]
    np.testing.assert_allclose(inside.outputs[0], y, rtol=1e-12)
    assert all(gate.shape == (1, T, B, H) for gate in inside.gates.values())


@EACH
def test_one_wrong_argument_is_named(family):
    with pytest.raises(ValueError, match=f"{family}: hidden_size"):
        LAYERS[family](3, 0)
    with pytest.raises(TypeError, match="unexpected keyword"):
        LAYERS[family](3, 5, no_such_option=1)
    assert list(inspect.signature(LAYERS[family]).parameters)[:2] == ["input_size", "hidden_size"]
