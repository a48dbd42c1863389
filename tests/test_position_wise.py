"""`Linear` and `Embedding`: torch's numbers, bits that do not depend on the batch, and the edges."""

import copy
import pickle

import numpy as np
import pytest

import fusedrnn
from fusedrnn import Embedding, Linear

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
SHAPES = [(5,), (1, 5), (4, 5), (7, 3, 5), (2, 2, 3, 5), (0, 5), (3, 0, 5)]


@DTYPES
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_is_torch_s(dtype, bias, shape, rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    layer = Linear(5, 3, bias, dtype=dtype, rng=0)
    theirs = torch.nn.Linear(5, 3, bias=bias, dtype=getattr(torch, dtype))
    assert list(layer.params) == [name for name, _ in theirs.named_parameters()]
    theirs.load_state_dict({name: torch.tensor(w) for name, w in layer.state_dict().items()})
    x = rng.standard_normal(shape).astype(dtype)
    y, tape = layer.forward(x)
    dy = rng.standard_normal(y.shape).astype(dtype)
    grads = tape.backward(dy)
    x_theirs = torch.tensor(x, requires_grad=True)
    y_theirs = theirs(x_theirs)
    y_theirs.backward(torch.tensor(dy))
    close = {"rtol": 0, "atol": 32 * np.finfo(dtype).eps}
    np.testing.assert_allclose(y, y_theirs.detach(), **close)
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_allclose(grads.x, x_theirs.grad, **close)
    assert list(grads.params) == list(layer.params)
    for name, w in theirs.named_parameters():
        np.testing.assert_allclose(grads.params[name], w.grad, **close)
    assert tape.backward(dy, need_dx=False).x is None


@DTYPES
@pytest.mark.parametrize("padding", [None, 2, -1])
def test_embedding_is_torch_s(dtype, padding, rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    layer = Embedding(11, 4, padding, dtype=dtype, rng=0)
    theirs = torch.nn.Embedding(11, 4, padding, dtype=getattr(torch, dtype))
    theirs.load_state_dict({name: torch.tensor(w) for name, w in layer.state_dict().items()})
    tokens = rng.integers(0, 11, (9, 7))
    y, tape = layer.forward(tokens)
    dy = rng.standard_normal(y.shape).astype(dtype)
    y_theirs = theirs(torch.tensor(tokens))
    y_theirs.backward(torch.tensor(dy))
    np.testing.assert_array_equal(y, y_theirs.detach())
    np.testing.assert_array_equal(layer(tokens), y)
    dense, sparse = tape.backward(dy).params["weight"], tape.backward(dy, sparse=True).params["weight"]
    np.testing.assert_allclose(dense, theirs.weight.grad, rtol=0, atol=32 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(sparse.to_dense(), dense)
    np.testing.assert_array_equal(sparse.ids, np.unique(tokens))
    if padding is not None:
        assert layer.padding_idx == padding % 11
        assert not dense[padding].any()
        assert not Embedding(11, 4, padding).weight[padding].any()


@DTYPES
@pytest.mark.parametrize("threads", [1, 2])
def test_bits_of_a_row_do_not_depend_on_the_batch(dtype, threads, rng):
    layer = Linear(67, 33, dtype=dtype, rng=0)
    x = rng.standard_normal((300, 67)).astype(dtype)
    expected = layer(x)
    with fusedrnn.threads(threads):
        for rows in (slice(0, 1), slice(5, 12), slice(100, 300)):
            np.testing.assert_array_equal(layer(x[rows]), expected[rows])
        np.testing.assert_array_equal(layer(x.reshape(50, 6, 67)).reshape(300, 33), expected)
        y, tape = layer.forward(x)
        grads = tape.backward(y)
    with fusedrnn.threads(1):
        other = layer.forward(x)[1].backward(y)
    np.testing.assert_array_equal(grads.x, other.x)
    for name in grads.params:
        np.testing.assert_array_equal(grads.params[name], other.params[name])


def test_a_list_is_a_batch(rng):
    layer, words = Linear(5, 3, rng=0), Embedding(9, 5, rng=1)
    xs = [rng.standard_normal((n, 5)).astype("float32") for n in (3, 0, 2)]
    ys, tape = layer.forward(xs)
    for x, y in zip(xs, ys, strict=True):
        np.testing.assert_array_equal(y, layer(x))
    grads = tape.backward(ys)
    one, one_tape = layer.forward(np.concatenate(xs))
    expected = one_tape.backward(one)
    np.testing.assert_array_equal(np.concatenate(grads.x), expected.x)
    for name in grads.params:
        np.testing.assert_array_equal(grads.params[name], expected.params[name])
    tokens = [np.array([1, 2]), np.array([], int), np.array([8])]
    vectors, tape = words.forward(tokens)
    assert [v.shape for v in vectors] == [(2, 5), (0, 5), (1, 5)]
    np.testing.assert_array_equal(tape.backward(vectors).params["weight"][[1, 2, 8]], words.weight[[1, 2, 8]])
    assert layer([]) == []
    assert words.forward([])[1].backward([]).params["weight"].shape == (9, 5)


def test_the_tape_owns_its_data(rng):
    layer = Linear(5, 3, rng=0)
    x = rng.standard_normal((4, 5)).astype("float32")
    y, tape = layer.forward(x)
    expected = tape.backward(y)
    x[:] = np.nan
    layer.weight[:] = np.nan
    again = tape.backward(y)
    np.testing.assert_array_equal(again.x, expected.x)
    np.testing.assert_array_equal(again.params["weight"], expected.params["weight"])
    with tape:
        assert tape.nbytes > 0
    assert tape.nbytes == 0
    with pytest.raises(ValueError, match="Linear: this tape was released"):
        tape.backward(y)


@pytest.mark.parametrize(
    "arrange", ["fortran", "strided", "negative", "big-endian", "read-only", "float64", "unaligned"]
)
def test_any_array_is_read(arrange, rng):
    layer = Linear(5, 3, rng=0)
    x = rng.standard_normal((4, 6, 5)).astype("float32")
    given = {
        "fortran": lambda: np.asfortranarray(x),
        "strided": lambda: np.repeat(x, 2, axis=2)[..., ::2],
        "negative": lambda: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
        "big-endian": lambda: x.astype(">f4"),
        "read-only": lambda: np.broadcast_to(x, x.shape),
        "float64": lambda: x.astype("float64"),
        "unaligned": lambda: np.frombuffer(b"\0" + x.tobytes(), "u1")[1:].view("float32").reshape(x.shape),
    }[arrange]()
    np.testing.assert_array_equal(layer(given), layer(x))
    y, tape = layer.forward(given)
    np.testing.assert_array_equal(tape.backward(y).x, layer.forward(x)[1].backward(y).x)


def test_infinity_stays_in_its_row(rng):
    layer = Linear(2, 2, rng=0)
    y = layer(np.array([[np.inf, 0], [1, 1]], "float32"))
    assert np.isinf(y[0]).all()
    assert np.isfinite(y[1]).all()


OBJECTS = [
    Linear(5, 3, rng=0), Linear(5, 3, False, rng=0), Linear(5, 3, dtype="float64", rng=0),
    Embedding(9, 4, rng=0), Embedding(9, 4, 3, dtype="float64", rng=0),
]  # fmt: skip


@pytest.mark.parametrize("layer", OBJECTS, ids=repr)
def test_objects(layer):
    again = pickle.loads(pickle.dumps(layer))
    assert again == layer
    assert repr(again) == repr(layer)
    assert eval(repr(layer), {"Linear": Linear, "Embedding": Embedding}) != layer  # other parameters
    assert copy.deepcopy(layer) == layer
    assert copy.copy(layer).weight is layer.weight
    other = copy.deepcopy(layer)
    other.weight[0, 0] += 1
    assert other != layer
    assert layer.load_state_dict(layer.state_dict()) == ([], [])
    again.weight = layer.weight
    assert again.params["weight"] is layer.weight
    with pytest.raises(AttributeError):
        next(setattr(layer, name, 7) for name in ("in_features", "num_embeddings") if hasattr(layer, name))
    assert type(layer)(*(getattr(layer, name) for name in layer._sizes_of), dtype=layer.dtype, rng=0).rng is not None


def test_bias_is_the_parameter():
    layer = Linear(5, 3, rng=0)
    assert layer.bias is layer.params["bias"]
    layer.bias = np.ones(3, "float32")
    assert layer.params["bias"].all()
    assert pickle.loads(pickle.dumps(layer)).bias.shape == (3,)
    assert Linear(5, 3, bias=False).bias is None
    assert pickle.loads(pickle.dumps(Linear(5, 3, bias=False))).bias is None


ERRORS = [
    (lambda: Linear(5, 3)(np.ones((2, 4))), ValueError, r"Linear: x has shape \(2, 4\); expected .* \(\.\.\., 5\)"),
    (lambda: Linear(5, 3)(np.ones((2, 5), int)), TypeError, r"x holds integers .*astype\('float32'\).*Embedding"),
    (lambda: Linear(5, 3)((np.ones((2, 5)), [2])), TypeError, r"x is a tuple; .* the values alone"),
    (lambda: Linear(5, 3)("x"), TypeError, "Linear: x has dtype <U1"),
    (lambda: Linear(5, 3)([np.ones((2, 5)), np.ones((2, 4))]), ValueError, r"x\[1\] has shape \(2, 4\)"),
    (lambda: Linear(5, 0), ValueError, "out_features is 0; expected an integer >= 1"),
    (lambda: Linear(5, 3, "no"), TypeError, "bias is 'no'"),
    (lambda: Linear(2**30, 2**30), MemoryError, "Linear: the parameters would take"),
    (lambda: Linear(5, 3).forward(np.ones((2, 5)))[1].backward(np.ones(3)), ValueError, r"Linear: dy has shape \(3,\)"),
    (lambda: Linear(5, 3).forward([np.ones((2, 5))])[1].backward(np.ones((2, 3))), TypeError, "dy is an ndarray"),
    (lambda: Linear(5, 3).forward([np.ones((2, 5))])[1].backward([]), ValueError, "dy has 0 arrays; expected a list"),
    (lambda: Embedding(9, 4)([1.0]), TypeError, "Embedding: x has dtype float64; expected integers"),
    (lambda: Embedding(9, 4)([True]), TypeError, "Embedding: x has dtype bool; expected integers"),
    (lambda: Embedding(9, 4)([[3, 9]]), IndexError, "x holds token 9; expected 0 <= token < num_embeddings = 9"),
    (lambda: Embedding(9, 4)([-1]), IndexError, "x holds token -1"),
    (lambda: Embedding(9, 4)(np.array([2**63], "u8")), IndexError, "x holds token 9223372036854775808"),
    (lambda: Embedding(9, 4)((np.array([1]), np.array([1]))), TypeError, "x is a tuple; .* the tokens alone"),
    (lambda: Embedding(9, 4, 9), ValueError, "padding_idx is 9; expected -9 <= padding_idx < num_embeddings = 9"),
    (lambda: Embedding(9, 4, 3.0), TypeError, r"padding_idx is 3.0 \(float\)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[message for _, _, message in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
