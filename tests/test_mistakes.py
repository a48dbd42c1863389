"""What newcomers get wrong: each mistake is told by a message that names the argument, what came, and what to do."""

import warnings

import numpy as np
import pytest

import fusedrnn
from fusedrnn import interop

X = np.random.default_rng(0).standard_normal((7, 3, 5)).astype("float32")


def lstm(**options):
    return fusedrnn.LSTM(5, 8, rng=0, **options)


def gru():
    return fusedrnn.GRU(5, 8, rng=0)


class Table:
    """As a DataFrame: columns, dtypes, and a conversion to an array."""

    def __init__(self, array):
        self.array = np.asarray(array)
        self.columns = list(range(self.array.shape[1]))
        self.dtypes = [self.array.dtype] * self.array.shape[1]
        self.shape = self.array.shape

    def __array__(self, dtype=None, copy=None):
        return self.array.astype(dtype) if dtype else self.array


def assigned():
    layer = gru()
    layer.weight_hh_l0 = np.zeros((3, 3), "float32")
    return layer(X)


def released():
    tape = lstm().forward(X)[2]
    tape.release()
    return tape.backward(np.ones((7, 3, 8)))


#: The mistake, the error, and the parts that the message must have.
MISTAKES = {
    # constructors
    "hidden_dim": (lambda: fusedrnn.LSTM(5, hidden_dim=8), TypeError, "'hidden_dim'", "did you mean hidden_size"),
    "num_hidden": (lambda: fusedrnn.GRU(5, num_hidden=8), TypeError, "'num_hidden'", "did you mean hidden_size"),
    "Keras' units": (lambda: fusedrnn.LSTM(5, units=8), TypeError, "'units'", "did you mean hidden_size"),
    "Keras' return_sequences": (
        lambda: fusedrnn.LSTM(5, 8, return_sequences=True), TypeError, "'return_sequences'", "outputs of all steps",
    ),
    "torch's device": (lambda: fusedrnn.LSTM(5, 8, device="cpu"), TypeError, "'device'", "on the CPU"),
    "a misspelt argument": (lambda: fusedrnn.LSTM(5, 8, bidirectionl=True), TypeError, "did you mean bidirectional"),
    "an unknown argument": (lambda: fusedrnn.LSTM(5, 8, xyz=True), TypeError, "'xyz'", "input_size, hidden_size"),
    "units of a Linear": (lambda: fusedrnn.Linear(5, units=3), TypeError, "did you mean out_features"),
    "vocab_size": (lambda: fusedrnn.Embedding(vocab_size=9), TypeError, "did you mean num_embeddings"),
    "a size as text": (lambda: fusedrnn.LSTM(5, "8"), TypeError, "hidden_size is '8' (str)", "integer >= 1"),
    "a size as float": (lambda: fusedrnn.LSTM(5, 8.0), TypeError, "hidden_size is 8.0 (float)", "integer >= 1"),
    "float16": (lambda: lstm(dtype="float16"), TypeError, "dtype is float16", "float32 or float64"),
    "dropout above 1": (lambda: lstm(num_layers=2, dropout=1.5), ValueError, "dropout is 1.5", "0 <= dropout < 1"),
    "an unknown activation": (lambda: lstm(activation="swish"), ValueError, "activation is 'swish'", "'tanh'"),
    "peephole=True": (lambda: lstm(peephole=True), ValueError, "peephole is True", "'ifo'"),
    "a huge layer": (lambda: fusedrnn.LSTM(10**6, 10**6), MemoryError, "the parameters", "GiB; this machine has"),
    # inputs
    "a wrong width": (lambda: lstm()(np.zeros((3, 7, 6))), ValueError, "x has shape (3, 7, 6)", "(T, B, 5)"),
    "four axes": (lambda: lstm()(np.zeros((2, 7, 3, 5))), ValueError, "x has shape (2, 7, 3, 5)", "(T, B, 5)"),
    "one axis": (lambda: lstm()(np.zeros(5)), ValueError, "x has shape (5,)", "(T, input_size) unbatched"),
    "text": (lambda: lstm()("hello"), TypeError, "x has dtype <U5", "map strings to integers"),
    "None": (lambda: lstm()(None), TypeError, "x has dtype object", "objects holds None"),
    "an array of arrays": (
        lambda: lstm()(np.array([np.ones((2, 5)), np.ones((3, 5))], dtype=object)), TypeError, "object", "as a list",
    ),
    "a table with text": (lambda: lstm()(Table(np.array([["x"] * 5], object))), TypeError, "object", "as numbers"),
    "a table of integers": (
        lambda: lstm()(Table(np.zeros((7, 5), int))), TypeError, "Table of integers in shape (7, 5)", ".astype(",
    ),
    "integers with three axes": (lambda: lstm()(np.ones((7, 3, 5), int)), TypeError, "x holds integers", ".astype("),
    "a token out of range": (lambda: lstm()(np.array([[5]])), IndexError, "token 5 at t=0, b=0", "input_size = 5"),
    "a state without c": (lambda: lstm()(X, np.zeros((1, 3, 8))), TypeError, "state is an ndarray", "pair (h, c)"),
    "a state with c": (lambda: gru()(X, (np.zeros((1, 3, 8)),) * 2), TypeError, "state is a tuple", "one array h"),
    "a state without layers": (lambda: gru()(X, np.zeros((3, 8))), ValueError, "state h has shape (3, 8)", "(1, 3, 8)"),
    "a length too large": (lambda: lstm()(X, lengths=[7, 8, 7]), ValueError, "lengths[1] is 8", "T = 7"),
    "too few lengths": (lambda: lstm()(X, lengths=[7, 7]), ValueError, "lengths has shape (2,)", "(B,) = (3,)"),
    "lengths as floats": (lambda: lstm()(X, lengths=[7.0] * 3), TypeError, "lengths has dtype float64", "integers"),
    "a mask of integers": (lambda: lstm()(X, mask=np.ones((7, 3), int)), TypeError, "mask has dtype int64", "bool"),
    "a mask transposed": (lambda: lstm()(X, mask=np.ones((3, 7), bool)), ValueError, "shape (3, 7)", "transpose"),
    # training
    "dy of another shape": (
        lambda: lstm().forward(X)[2].backward(np.zeros((7, 3, 9))), ValueError, "dy has shape (7, 3, 9)", "(7, 3, 8)",
    ),
    "backward of nothing": (lambda: lstm().forward(X)[2].backward(), ValueError, "neither dy nor dstate"),
    "dstate without c": (
        lambda: lstm().forward(X)[2].backward(dstate=np.zeros((1, 3, 8))), TypeError, "is an ndarray", "pair (h, c)",
    ),
    "backward after release": (released, ValueError, "this tape was released", "run forward again"),
    "clipping parameters without a norm": (lambda: fusedrnn.clip_grad_norm(gru().params), TypeError, "max_norm"),
    "optimising nothing": (lambda: fusedrnn.optim.Adam([]), ValueError, "params has no arrays", "a layer"),
    "gradients of another layer": (
        lambda: fusedrnn.optim.SGD(fusedrnn.Linear(5, 2)).step(gru().forward(X)[2].backward(np.ones((7, 3, 8)))),
        ValueError, "gradients has no weight, bias but weight_ih_l0",
    ),
    # attributes of other libraries' objects
    "layer.stream": (lambda: lstm().stream(), AttributeError, "'stream'", "layer.freeze().stream()"),
    "frozen.forward": (lambda: lstm().freeze().forward(X), AttributeError, "'forward'", "layer.forward(x)"),
    "layer.train": (lambda: lstm().train(), AttributeError, "'train'", "layer.forward(x) trains"),
    "layer.eval": (lambda: lstm().eval(), AttributeError, "'eval'", "layer(x) is inference"),
    "stack.eval": (lambda: fusedrnn.Stack([gru()]).eval(), AttributeError, "'eval'", "layer(x) is inference"),
    "layer.parameters": (lambda: lstm().parameters(), AttributeError, "'parameters'", "layer.params", "fusedrnn.optim"),
    "layer.save": (lambda: lstm().save("a"), AttributeError, "'save'", "fusedrnn.save(path, layer)"),
    "layer.predict": (lambda: lstm().predict(X), AttributeError, "'predict'", "y, state = layer(x)"),
    "layer.backward": (lambda: lstm().backward(X), AttributeError, "'backward'", "tape.backward(dy)"),
    "a misspelt parameter": (lambda: lstm().weight_hi_l0, AttributeError, "did you mean 'weight_"),
    "fusedrnn.Lstm": (lambda: fusedrnn.Lstm(5, 8), AttributeError, "'Lstm'", "did you mean 'LSTM'"),
    "fusedrnn.Dense": (lambda: fusedrnn.Dense(5, 8), AttributeError, "'Dense'", "did you mean 'Linear'"),
    # setting
    "params assigned": (lambda: setattr(lstm(), "params", {}), AttributeError, "params cannot be assigned", "in place"),
    "a size assigned": (lambda: setattr(lstm(), "hidden_size", 3), AttributeError, "hidden_size is fixed"),
    "a parameter of another shape": (assigned, ValueError, "weight_hh_l0 has shape (3, 3)", "(24, 8)"),
    "a layer as a key": (lambda: hash(lstm()), TypeError, "unhashable type: 'LSTM'"),
    # saved parameters
    "other parameters": (
        lambda: lstm().load_state_dict({"weight_ih_l0": np.zeros((32, 6)), "foo": 1}),
        ValueError, "missing: weight_hh_l0", "unexpected: foo", "(32, 6)", "(32, 5)",
    ),
    "parameters with a prefix": (
        lambda: lstm().load_state_dict({f"lstm.{name}": w for name, w in lstm().params.items()}),
        ValueError, "begin with 'lstm.'", "from_torch(d, prefix='lstm')",
    ),
    # streams, frozen layers, groups
    "a stream of two directions": (
        lambda: lstm(bidirectional=True).freeze().stream(), ValueError, "bidirectional layer", "look-ahead",
    ),
    "a step without a batch": (
        lambda: lstm().freeze().stream().step(np.zeros(5, "float32")), ValueError, "x has shape (5,)", "(1, 5)",
    ),
    "a precision that is not there": (lambda: lstm().freeze("float16"), ValueError, "is 'float16'", "'float32'"),
    "out of another dtype": (
        lambda: lstm().freeze()(X, out=np.zeros((7, 3, 8))), ValueError, "out has dtype float64", "float32",
    ),
    "out in place of x": (
        lambda: fusedrnn.LSTM(5, 5).freeze()(X, out=X), ValueError, "out overlaps x", "memory of its own",
    ),
    "widths that do not fit": (
        lambda: fusedrnn.Stack([lstm(), fusedrnn.GRU(9, 8)]), ValueError, "GRU(9, 8) has input_size 9", "expected 8",
    ),
    "a stack of no list": (lambda: fusedrnn.Stack(lstm(), gru()), TypeError, "layers is a LSTM", "sequence of layers"),
    "no thread": (lambda: fusedrnn.set_num_threads(0), ValueError, "n is 0", "integer >= 1"),
    "another instruction set": (lambda: fusedrnn.use_isa("sparc"), ValueError, "'sparc' is not available", "one of"),
    "a bridge to no layer": (lambda: interop.from_keras(3), TypeError, "from_keras: got int", "Keras layer"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told(mistake):
    call, error, *parts = MISTAKES[mistake]
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is error
    assert [part for part in parts if part not in message] == [], message


def test_idle_dropout_warns():
    with pytest.warns(UserWarning, match="dropout=0.5 does nothing with num_layers=1"):
        lstm(dropout=0.5)


@pytest.mark.parametrize("make", [lstm, gru, lambda: fusedrnn.Stack([gru()])])
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_integers_of_the_shape_of_features_warn(make, dtype):
    """They are read as tokens, which the shape (T, B) also says, but not in silence."""
    layer, x = make(), np.ones((7, 5), dtype)
    with pytest.warns(
        UserWarning, match=r"integers in shape \(7, 5\) and is read as tokens \(T, B\).*astype"
    ) as caught:
        y, _ = layer(x)
    assert caught[0].filename == __file__
    assert y.shape == (7, 5, 8)
    with pytest.warns(UserWarning, match="read as tokens"):
        layer([[1, 2, 3, 4, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x[:, :4])  # tokens
        layer(x.astype("float32"))  # features
        layer([np.ones(5, int), np.ones(3, int)])  # a list of token sequences


def test_integers_of_the_shape_of_a_cell_s_features_warn():
    cell = fusedrnn.GRUCell(5, 8, rng=0)
    with pytest.warns(UserWarning, match=r"integers in shape \(5,\) and is read as tokens \(B,\)"):
        assert cell(np.arange(5)).shape == (5, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cell(np.arange(4))
        gru().freeze().stream(batch_size=5).step(np.arange(5))  # the batch size is known: nothing to mistake


def test_a_table_of_floats_is_a_sequence():
    x = Table(X[:, 0].astype("float64"))
    np.testing.assert_array_equal(lstm()(x)[0], lstm()(X[:, 0])[0])


def test_names_of_a_subclass_are_its_own():
    class Wide(fusedrnn.GRU):
        def __init__(self, width, scale=1):
            super().__init__(width, scale * width)

    assert Wide(3, scale=2).hidden_size == 6
    with pytest.raises(TypeError, match="did you mean scale"):
        Wide(3, scal=2)


def test_missing_attributes_are_still_missing():
    for thing in (lstm(), lstm().freeze(), fusedrnn.Stack([gru()]), fusedrnn.Linear(3, 4)):
        assert not hasattr(thing, "eval")
        assert not hasattr(thing, "__dlpack__")
        assert not hasattr(thing, "_something")
