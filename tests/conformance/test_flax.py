"""from_flax against Flax: random modules of linen and nnx, and what is refused."""

import warnings
from typing import Any

import numpy as np
import pytest

from fusedrnn import interop
from tolerances import assert_close

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    linen = pytest.importorskip("flax.linen", reason="flax is not installed: pip install '.[conformance]'")

import jax
import jax.numpy as jnp
from flax import nnx

pytestmark = pytest.mark.filterwarnings("ignore")

CELLS = ["LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"]
ACTIVATIONS = {
    "LSTMCell": jnp.tanh,
    "OptimizedLSTMCell": jax.nn.soft_sign,
    "GRUCell": jax.nn.elu,
    "SimpleCell": jax.nn.relu,
}
B, T = 2, 5


def random(tree: Any, rng: np.random.Generator) -> Any:
    """The same tree with random numbers, biases included."""
    return jax.tree_util.tree_map(lambda a: jnp.asarray(rng.standard_normal(a.shape), a.dtype) / 2, tree)


def options_of(rng: np.random.Generator, name: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if rng.integers(2):
        options["activation_fn"] = ACTIVATIONS[name]
        if name != "SimpleCell":
            options["gate_fn"] = jax.nn.hard_sigmoid
    return options


def linen_cell(rng: np.random.Generator, name: str) -> Any:
    return getattr(linen, name)(int(rng.integers(1, 7)), **options_of(rng, name))


def compare(layer: Any, x: Any, expected: Any, flipped: bool, time_major: bool = False) -> None:
    y = layer(np.asarray(x))[0]
    if flipped:
        y = y[::-1] if time_major else y[:, ::-1]
    assert_close(y, expected, dtype="float32", K=14, T=2 * T, what=repr(layer))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("seed", range(3))
def test_linen(name, seed):
    rng = np.random.default_rng([seed, len(name)])
    I, time_major = int(rng.integers(1, 6)), bool(rng.integers(2))
    x = rng.standard_normal((T, B, I) if time_major else (B, T, I)).astype("f")
    reverse, keep = bool(rng.integers(2)), bool(rng.integers(2))
    rnn = linen.RNN(linen_cell(rng, name), time_major=time_major, reverse=reverse, keep_order=keep)
    other = linen.RNN(linen_cell(rng, CELLS[seed % 4]), reverse=bool(rng.integers(2)))
    first = linen.RNN(linen_cell(rng, name), reverse=reverse, keep_order=keep)
    pair = linen.Bidirectional(
        linen.RNN(linen_cell(rng, name)), linen.RNN(linen_cell(rng, name)), time_major=time_major
    )
    for module, flipped in (
        (rnn, reverse and not keep),
        (pair, False),
        (linen.Sequential([first, other]), (reverse and not keep) != other.reverse),
    ):
        major = time_major and not isinstance(module, linen.Sequential)
        x_in = x if major == time_major else np.ascontiguousarray(x.swapaxes(0, 1))
        variables = random(module.init(jax.random.key(seed), x_in), rng)
        expected = module.apply(variables, x_in)
        compare(interop.from_flax(module, variables), x_in, expected, flipped, major)
        compare(interop.from_flax(module.bind(variables)), x_in, expected, flipped, major)
    variables = random(rnn.init(jax.random.key(seed), x), rng)
    plain = linen.RNN(type(rnn.cell)(rnn.cell.features), time_major=time_major)
    layer = interop.from_flax(variables, time_major=time_major)
    compare(layer, x, plain.apply(variables, x), False)
    assert interop.from_flax({"params": {"a": variables["params"], "b": {"kernel": np.ones((2, 2))}}}, prefix="a") == (
        interop.from_flax(variables)
    )


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("seed", range(3))
def test_nnx(name, seed):
    rng = np.random.default_rng([seed, len(name)])
    I, time_major, reverse = int(rng.integers(1, 6)), bool(rng.integers(2)), bool(rng.integers(2))

    def cell() -> Any:
        made = getattr(nnx, name)(I, int(rng.integers(1, 7)), rngs=nnx.Rngs(seed), **options_of(rng, name))
        nnx.update(made, random(nnx.state(made, nnx.Param), rng))
        return made

    x = rng.standard_normal((T, B, I) if time_major else (B, T, I)).astype("f")
    rnn = nnx.RNN(cell(), time_major=time_major, reverse=reverse, rngs=nnx.Rngs(0))
    compare(interop.from_flax(rnn), x, rnn(x), reverse, time_major)
    pair = nnx.Bidirectional(
        nnx.RNN(cell(), rngs=nnx.Rngs(0)), nnx.RNN(cell(), rngs=nnx.Rngs(0)), time_major=time_major, rngs=nnx.Rngs(0)
    )
    compare(interop.from_flax(pair), x, pair(x), False, time_major)


class Residual(linen.GRUCell):
    def __call__(self, carry, inputs):
        carry, y = super().__call__(carry, inputs)
        return carry, 2 * y


class Plain(linen.GRUCell):
    """Nothing of its own."""


def tanh(x):
    return 2 * x


def test_what_is_refused():
    x = np.ones((B, T, 3), "f")

    def converted(cell: Any, **options: Any) -> Any:
        module = linen.RNN(cell, **options)
        return interop.from_flax(module, module.init(jax.random.key(0), x))

    assert repr(converted(Plain(4))) == "GRU(3, 4, batch_first=True)"
    for cell, message in {
        Residual(4): "Residual has '__call__' of its own.*expected GRUCell",
        linen.MGUCell(4): "found MGUCell, which has no counterpart",
        linen.SimpleCell(4, residual=True): "residual is True; expected False",
        linen.GRUCell(4, activation_fn=tanh): "activation_fn is <function tanh.*expected one of JAX' own",
        linen.GRUCell(4, gate_fn=jax.nn.gelu): "gate_fn is .*expected one of JAX' own",
        linen.LSTMCell(4, carry_init=jax.nn.initializers.ones): "carry_init is .*expected zeros",
        linen.LSTMCell(4, dtype=jnp.bfloat16): "LSTMCell computes in bfloat16.*expected dtype=",
    }.items():
        with pytest.raises(ValueError, match=f"^from_flax: {message}"):
            converted(cell)
    pair = linen.Bidirectional(linen.RNN(linen.GRUCell(4)), linen.RNN(linen.GRUCell(4)), merge_fn=lambda a, b: a + b)
    with pytest.raises(ValueError, match=r"from_flax: merge_fn is .*; expected Flax' own"):
        interop.from_flax(pair, pair.init(jax.random.key(0), x))
    module = linen.RNN(linen.GRUCell(4))
    with pytest.raises(ValueError, match="from_flax: params is missing"):
        interop.from_flax(module)
    cell = nnx.GRUCell(3, 4, rngs=nnx.Rngs(0))
    cell.dense_h = nnx.LoRA(4, 2, 12, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"from_flax: dense_h \(LoRA\) has weights"):
        interop.from_flax(nnx.RNN(cell, rngs=nnx.Rngs(0)))


def test_parameters_that_are_refused():
    variables = linen.RNN(linen.GRUCell(4)).init(jax.random.key(0), np.ones((B, T, 3), "f"))
    cell = variables["params"]["cell"]
    for tree, message in {
        "beside": ({**cell, "norm": {"scale": np.ones(4)}}, "beside the weights there are .*'norm'"),
        "several": ({"a": cell, "b": cell}, "there are several recurrent cells: 'a', 'b'; choose one with prefix="),
        "none": ({"dense": {"kernel": np.ones((3, 4))}}, "found no recurrent cell in parameters called 'dense'"),
        "shape": ({**cell, "hr": {"kernel": np.ones((4, 3))}}, r"hr/kernel has shape \(4, 3\); expected \(4, 4\)"),
        "missing": ({**cell, "hr": {}}, "hr/kernel is missing"),
        "mgu": ({n: {"kernel": np.ones((4, 4))} for n in ("if", "in", "hf", "hn")}, "found MGUCell, which has no"),
    }.values():
        with pytest.raises(ValueError, match=f"^from_flax: {message}"):
            interop.from_flax(tree)
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(ValueError, match="from_flax: the nesting of the parameters is 65; expected at most 64"):
        interop.from_flax(deep)
    with pytest.raises(TypeError, match="from_flax: got list; expected a module of flax"):
        interop.from_flax([])
