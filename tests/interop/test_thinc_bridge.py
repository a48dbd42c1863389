"""fusedrnn.interop.thinc in thinc's own terms: kinds of sequences, gradients, training, configs, saving."""

import numpy as np
import pytest

import fusedrnn

pytest.importorskip("thinc", reason="thinc is not installed: pip install thinc")

from thinc.api import (
    LSTM,
    Adam,
    Config,
    Model,
    Padded,
    Ragged,
    Softmax,
    chain,
    fix_random_seed,
    set_dropout_rate,
    with_array,
    with_padded,
)
from thinc.api import registry as thinc_registry

from fusedrnn.interop import from_thinc
from fusedrnn.interop.thinc import FusedGRU, FusedLSTM

I, W = 3, 8
LENGTHS = [4, 1, 5]
MODELS = pytest.mark.parametrize("make", [FusedLSTM, FusedGRU])


@pytest.fixture(autouse=True)
def seeded():
    fix_random_seed(20140601)


@pytest.fixture
def sentences(rng):
    return [rng.standard_normal((n, I)).astype("float32") for n in LENGTHS]


def made(make, **options):
    return make(W, I, **options).initialize()


def twin(model):
    """The layer that a model wraps."""
    kind = getattr(fusedrnn, model.attrs["cell"])
    dirs = model.get_dim("dirs")
    layer = kind(I, W // dirs, model.get_dim("depth"), bidirectional=dirs == 2)
    layer.load_state_dict({name: model.get_param(name) for name in model.param_names})
    return layer


def kinds(model, sentences):
    """The same sentences as every kind of sequences, each with a function that converts it back to a list."""
    ops = model.ops
    ragged = Ragged(np.concatenate(sentences), ops.asarray1i(LENGTHS))
    return {
        "list": (sentences, list),
        "ragged": (ragged, lambda r: ops.unflatten(r.data, r.lengths)),
        "padded": (ops.list2padded(sentences), ops.padded2list),
    }


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "with_padded"])
@pytest.mark.parametrize("kind", ["list", "ragged", "padded"])
@pytest.mark.parametrize("options", [{}, {"bi": True, "depth": 2}], ids=["one", "two both ways"])
@MODELS
def test_kinds_of_sequences(make, options, kind, wrapped, sentences, rng):
    model = made(make, **options)
    given, to_list = kinds(model, sentences)[kind]
    ys, _, tape = twin(model).forward(sentences)
    dys = [rng.standard_normal(y.shape).astype("float32") for y in ys]
    expected = tape.backward(dys)
    outer = with_padded(model) if wrapped else model

    Y, backprop = outer(given, is_train=True)
    assert type(Y) is type(given)
    for mine, y in zip(to_list(Y), ys, strict=True):
        np.testing.assert_array_equal(mine, y)
    dX = backprop(kinds(model, dys)[kind][0])
    for mine, dx in zip(to_list(dX), expected.x, strict=True):
        np.testing.assert_allclose(mine, dx, atol=1e-6)
    for name, gradient in expected.params.items():
        np.testing.assert_allclose(model.get_grad(name), gradient, atol=1e-5)
    for mine, y in zip(to_list(outer.predict(given)), ys, strict=True):
        np.testing.assert_array_equal(mine, y)


@MODELS
def test_arrays(make, rng):
    model = made(make)
    x = rng.standard_normal((5, 2, I)).astype("float32")
    Y, backprop = model(x, is_train=True)
    np.testing.assert_array_equal(Y, twin(model)(x)[0])
    assert backprop(Y).shape == x.shape


@MODELS
def test_widths_are_found_out(make, sentences):
    model = make(bi=True).initialize(X=sentences, Y=[np.zeros((n, W), "float32") for n in LENGTHS])
    assert (model.get_dim("nI"), model.get_dim("nO")) == (I, W)
    assert model.get_param("weight_hh_l0_reverse").shape[1] == W // 2


@MODELS
def test_a_tagger_learns(make, rng):
    """Whether a number is larger than the one before."""
    X = [rng.standard_normal((n, 1)).astype("float32") for n in rng.integers(2, 12, 60)]
    Y = [np.eye(2, dtype="float32")[(np.diff(x[:, 0], prepend=0) > 0).astype(int)] for x in X]
    model = chain(make(16, 1), with_array(Softmax(2))).initialize(X=X, Y=Y)
    optimizer = Adam(0.02)
    for _ in range(60):
        guesses, backprop = model.begin_update(X)
        backprop([g - y for g, y in zip(guesses, Y, strict=True)])
        model.finish_update(optimizer)
    right = [(g.argmax(1) == y.argmax(1)).mean() for g, y in zip(model.predict(X), Y, strict=True)]
    assert np.mean(right) > 0.95


def test_saving_and_configs(sentences):
    model = made(FusedLSTM, bi=True)
    config = Config().from_str('[model]\n@layers = "fusedrnn.LSTM.v1"\nnO = 8\nnI = 3\nbi = true')
    other = thinc_registry.resolve(config)["model"]
    assert isinstance(other, Model)
    other.from_bytes(model.to_bytes())
    for a, b in zip(model.predict(sentences), other.predict(sentences), strict=True):
        np.testing.assert_array_equal(a, b)


def test_dropout_follows_the_seed(sentences):
    model = made(FusedGRU, depth=2, dropout=0.5)

    def run(seed):
        fix_random_seed(seed)
        return np.concatenate(model(sentences, is_train=True)[0])

    np.testing.assert_array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))
    plain = np.concatenate(model.predict(sentences))
    set_dropout_rate(model, 0.0)
    np.testing.assert_array_equal(run(1), plain)


def test_errors(sentences):
    with pytest.raises(ValueError, match="FusedLSTM: nO is 7; expected an even number"):
        FusedLSTM(7, 3, bi=True)
    with pytest.raises(ValueError, match="FusedGRU: depth is 0"):
        FusedGRU(8, 3, depth=0)
    model = made(FusedLSTM)
    _, backprop = model(sentences, is_train=False)
    with pytest.raises(ValueError, match="is_train=False"):
        backprop(sentences)
    assert isinstance(model.ops.list2padded(sentences), Padded)


def thincs_lstm(rng, depth=1, bi=False, initial=False):
    """An LSTM.v1 with random weights and, optionally, a random initial state."""
    model = with_padded(LSTM(W, I, depth=depth, bi=bi)).initialize()
    node = next(node for node in model.walk() if node.name == "lstm")
    for name in ("LSTM", "HC0") if initial else ("LSTM",):
        node.set_param(name, rng.standard_normal(node.get_param(name).shape).astype("float32") / 2)
    return model


@pytest.mark.parametrize("lengths", [[6], [6, 6], LENGTHS], ids=str)
@pytest.mark.parametrize("initial", [False, True], ids=["zeros", "HC0"])
@pytest.mark.parametrize("bi", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("depth", [1, 2])
def test_weights_of_thincs_own_lstm(depth, bi, initial, lengths, rng):
    model = thincs_lstm(rng, depth, bi, initial)
    x = [rng.standard_normal((n, I)).astype("float32") for n in lengths]
    for mine, theirs in zip(from_thinc(model)(x)[0], model.predict(x), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)


def test_gradients_of_thincs_own_lstm(rng):
    """Compared with finite differences of thinc's outputs: thinc 9.1's own gradients on the CPU disagree with them."""
    model = thincs_lstm(rng)
    x, dy = (rng.standard_normal((5, width)).astype("float32") for width in (I, W))
    dx = from_thinc(model).forward(x)[2].backward(dy).x
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = 0.01
        above, below = (np.sum(model.predict([x + sign * step])[0] * dy, dtype="float64") for sign in (1, -1))
        assert abs((above - below) / 0.02 - dx[place]) < 1e-3 * np.abs(dx).max()
