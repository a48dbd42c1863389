"""`Pipeline`: the same as its parts by hand, in every form of input; step by step; checks; pickles and files."""

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import GRU, LSTM, Bidirectional, Embedding, Linear, Pipeline, Stack

V, E, H, O = 11, 4, 6, 3


def softmax(a: Any) -> Any:
    powers = np.exp(a - a.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


FUNCTIONS = {
    "relu": lambda a: np.maximum(a, 0),
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "softmax": softmax,
    "elu": lambda a: np.where(a > 0, a, np.expm1(a)),
}

RECURRENT = {
    "LSTM": lambda **o: LSTM(E, H, 2, rng=0, **o),
    "GRU, two directions": lambda **o: GRU(E, H, bidirectional=True, rng=0, **o),
    "sum of two": lambda **o: LSTM(E, H, bidirectional=True, merge="sum", rng=0, **o),
    "mean of two": lambda **o: LSTM(E, H, bidirectional=True, merge="mean", proj_size=2, rng=0, **o),
    "product of two": lambda **o: GRU(E, H, bidirectional=True, merge="mul", rng=0, **o),
    "backwards": lambda **o: LSTM(E, H, backwards=True, rng=0, **o),
    "stack": lambda **o: Stack([GRU(E, 5, rng=0, **o), LSTM(5, H, rng=1, **o)]),
    "two ways": lambda **o: Bidirectional(LSTM(E, 3, rng=0, **o), GRU(E, 5, rng=1, **o)),
    "stack of two ways": lambda **o: Stack(
        [fusedrnn.MinGRU(E, 5, rng=0, **o), Bidirectional(LSTM(5, 3, rng=0, **o), GRU(5, 3, rng=1, **o), "mean")]
    ),
    "QRNN": lambda **o: fusedrnn.QRNN(E, H, rng=0, **o),
}
ONE_WAY = ("LSTM", "stack", "QRNN")


def made(
    name: str, activation: str | None = None, dtype: Any = "float64", **options: Any
) -> tuple[Pipeline, list[Any]]:
    """A pipeline of an embedding, something recurrent and a dense layer; and these parts."""
    batch_first = options.pop("batch_first", False)
    recurrent = RECURRENT[name](dtype=dtype, batch_first=batch_first)
    width = recurrent._plan.widths[0]
    parts = [Embedding(V, E, dtype=dtype, rng=0), recurrent, Linear(width, O, dtype=dtype, rng=1)]
    return Pipeline([*parts, *([activation] if activation else [])], **options), parts


def tokens(T: int = 7, B: int = 5, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, V, (T, B))


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("name", RECURRENT)
def test_it_is_the_parts_one_after_the_other(name, activation):
    pipeline, (words, recurrent, head) = made(name, activation)
    x = tokens()
    y, state = pipeline(x)
    h, expected = recurrent(words.weight[x])
    by_hand = FUNCTIONS[activation](h @ head.weight.T + head.bias)
    assert np.abs(y - by_hand).max() <= 1e-13 * max(1, np.abs(by_hand).max())
    for a, b in zip(flat(state), flat(expected), strict=True):
        assert np.array_equal(a, b)


def flat(state: Any) -> list[Any]:
    return [a for part in state for a in flat(part)] if isinstance(state, tuple) else [state]


@pytest.mark.parametrize("past_end", ["zero", "hold"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", RECURRENT)
def test_lengths_and_masks(name, batch_first, past_end):
    pipeline, (words, recurrent, head) = made(name, batch_first=batch_first)
    x, rng = tokens(), np.random.default_rng(1)
    lengths, mask = np.array([7, 0, 3, 5, 1]), rng.random((7, 5)) < 0.7
    given, own = (x.T, mask.T) if batch_first else (x, mask)
    for options in ({"lengths": lengths}, {"mask": own}, {"mask": own, "lengths": lengths}):
        y, _ = pipeline(given, past_end=past_end, **options)
        h, _ = recurrent(words(given), past_end=past_end, **options)
        expected = head(h)
        if past_end == "zero":
            kept = (mask if "mask" in options else mask | True) & (
                np.arange(7)[:, None] < (lengths if "lengths" in options else 7)
            )
            expected[~(kept.T if batch_first else kept)] = 0
        assert np.array_equal(y, expected)


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_form_of_input_has_the_same_bits(name, dtype):
    pipeline, _ = made(name, "tanh", dtype)
    x, lengths = tokens(), [7, 4, 0, 1, 5]
    y, _ = pipeline(x, lengths=lengths)
    rows = [x[:n, b] for b, n in enumerate(lengths)]
    listed, _ = pipeline(rows)
    values, _ = pipeline((np.concatenate(rows), lengths))
    for b, n in enumerate(lengths):
        assert np.array_equal(listed[b], y[:n, b])
        assert np.array_equal(pipeline(rows[b])[0], y[:n, b]), "unbatched"
        assert not y[n:, b].any()
    assert np.array_equal(values, np.concatenate(listed))
    assert np.array_equal(pipeline(x.tolist())[0], pipeline(x)[0])
    assert np.array_equal(pipeline(np.asfortranarray(x))[0], pipeline(x)[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ONE_WAY)
def test_step_by_step_and_in_chunks_has_the_same_bits(name, dtype):
    pipeline, _ = made(name, "softmax", dtype)
    x = tokens()
    y, state = pipeline(x)
    stream = pipeline.stream(5)
    assert np.array_equal(np.stack([stream.step(x_t) for x_t in x]), y)
    for a, b in zip(flat(stream.state), flat(state), strict=True):
        assert np.array_equal(a, b)
    first, own = pipeline(x[:3])
    assert np.array_equal(np.concatenate([first, pipeline(x[3:], own)[0]]), y)
    stream.reset()
    stream.step(x[0])
    stream.reset(np.array([True, False, False, False, True]))
    stream.state = own
    assert np.array_equal(stream.step(x[3]), y[3])


def test_streams_need_one_direction():
    pipeline, _ = made("GRU, two directions")
    with pytest.raises(ValueError, match="GRU"):
        pipeline.stream()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", [name for name in RECURRENT if name != "QRNN"])
def test_last(name, batch_first):
    pipeline, (words, recurrent, head) = made(name, last=True, batch_first=batch_first)
    x, lengths = tokens(), [7, 4, 2, 1, 5]
    given = x.T if batch_first else x
    y, _ = pipeline(given, lengths=lengths)
    assert y.shape == (5, O)
    for b, n in enumerate(lengths):
        row = words(x[:n, b])
        assert np.array_equal(pipeline(x[:n, b])[0], y[b]), "unbatched"
        h, _ = recurrent(row)
        if name in ("LSTM", "stack"):
            top = h[-1]
        elif name == "backwards":
            top = h[0]
        else:
            top = two_ends(recurrent, row)
        assert np.abs(y[b] - head(top)).max() < 1e-14
    listed, _ = pipeline([x[:n, b] for b, n in enumerate(lengths)])
    assert np.array_equal(listed, y)
    values = np.concatenate([x[:n, b] for b, n in enumerate(lengths)])
    assert np.array_equal(pipeline((values, lengths))[0], y)


def two_ends(recurrent: Any, row: Any) -> Any:
    """What Keras returns without return_sequences: each direction's output at the step that it computed last."""
    group = recurrent
    if isinstance(recurrent, Stack):
        row, group = recurrent.layers[0](row)[0], recurrent.layers[1]
    if isinstance(group, Bidirectional):
        ends = [group.layers[0](row)[0][-1], group.layers[1](row[::-1])[0][-1]]
    else:
        h = group(row)[1]
        ends = list(h[0] if isinstance(h, tuple) else h)
    merge = {"concat": np.concatenate, "sum": sum, "mean": lambda ends: sum(ends) / 2, "mul": np.prod}[group.merge]
    return np.prod(ends, axis=0) if group.merge == "mul" else merge(ends)


def test_padding_is_skipped():
    pipeline, (words, recurrent, head) = made("LSTM", "sigmoid", padding=0)
    x = tokens()
    x[3:5, 1] = x[0, 2] = x[:, 4] = 0
    kept = x != 0
    y, state = pipeline(x)
    _, expected = recurrent(words(x), mask=kept)
    assert np.array_equal(y[kept], Pipeline([recurrent, head, "sigmoid"])(words(x), mask=kept)[0][kept])
    assert not y[~kept].any()
    for a, b in zip(flat(state), flat(expected), strict=True):
        assert np.array_equal(a, b)
    stream = pipeline.stream(5)
    assert np.array_equal(np.stack([stream.step(x_t) for x_t in x]), y)
    assert np.array_equal(np.stack(pipeline(list(x.T))[0], 1), y)
    mask = np.random.default_rng(0).random(x.shape) < 0.6
    assert np.array_equal(pipeline(x, mask=mask)[0][mask & kept], pipeline(np.where(mask, x, 0))[0][mask & kept])
    assert np.array_equal(pipeline(list(x.T), mask=list(mask.T))[0][0], pipeline(x, mask=mask)[0][:, 0])
    with pytest.raises(ValueError, match="the values hold the token 0, which is padding"):
        pipeline((x[:, 4], [7]))
    assert pipeline((np.arange(1, 7), [6]))[0].shape == (6, O)
    with pytest.raises(TypeError, match="x has dtype float64; expected tokens, as padding is 0"):
        pipeline(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"mask is bool of shape \(5, 7\); expected bool \(7, 5\)"):
        pipeline(x, mask=mask.T)


def test_a_mamba_layer_is_recurrent_too():
    words, layer, head = (
        Embedding(V, E, dtype="float64"),
        fusedrnn.Mamba(E, dtype="float64"),
        Linear(E, O, dtype="float64"),
    )
    pipeline = Pipeline([words, layer, head, "tanh"], padding=0)
    x = tokens()
    x[2, 1] = x[4:, 3] = 0
    y, _ = pipeline(x)
    expected = np.tanh(head(layer(words(x), mask=x != 0)[0]))
    assert np.abs(y - expected)[x != 0].max() < 1e-13
    stream = pipeline.stream(5)
    assert np.abs(np.stack([stream.step(x_t) for x_t in x]) - y).max() < 1e-13
    with pytest.raises(ValueError, match="expected an RNN, GRU or LSTM there"):
        Pipeline([words, layer], last=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_skip_adds_the_input(dtype):
    layer, head = LSTM(2, 8, dtype=dtype, rng=0), Linear(8, 2, dtype=dtype, rng=1)
    x = np.random.default_rng(0).standard_normal((9, 3, 2)).astype(dtype)
    for skip in (1, 2):
        pipeline = Pipeline([layer, head], skip=skip)
        y, _ = pipeline(x)
        assert np.array_equal(y, head(layer(x)[0]) + x[..., :skip])
        stream = pipeline.stream(3)
        assert np.array_equal(np.stack([stream.step(x_t) for x_t in x]), y)
        assert np.array_equal(np.stack(pipeline(list(x.swapaxes(0, 1)))[0], 1), y)
        assert np.array_equal(pipeline((x[:, 0], [9]))[0], y[:, 0])
        assert not pipeline(x, lengths=[9, 0, 2])[0][2:, 2].any()


def test_one_hot_tokens_and_dense_layers_before():
    layer, below, head = GRU(V, H, rng=0), Linear(2, V, rng=1), Linear(H, O, rng=2)
    x = tokens()
    assert np.array_equal(Pipeline([layer, head])(x)[0], head(layer(x)[0]))
    floats = np.random.default_rng(0).standard_normal((7, 5, 2)).astype("f4")
    y, _ = Pipeline([below, "relu", layer, head])(floats)
    assert np.array_equal(y, head(layer(np.maximum(below(floats), 0))[0]))


@pytest.mark.parametrize("T", [0, 1])
@pytest.mark.parametrize("B", [0, 2])
def test_nothing(T, B):
    pipeline, _ = made("LSTM", "softmax")
    assert pipeline(np.zeros((T, B), int))[0].shape == (T, B, O)
    assert made("stack", last=True)[0](np.zeros((T, B), int))[0].shape == (B, O)


def test_it_is_frozen():
    pipeline, (words, recurrent, head) = made("LSTM")
    x = tokens()
    before = pipeline(x)[0]
    for part in (words, recurrent, head):
        for array in part.params.values():
            array += 1
    assert np.array_equal(pipeline(x)[0], before)
    with pytest.raises(ValueError, match="read-only"):
        pipeline.parts[2].weight[:] = 0
    with pytest.raises(AttributeError, match="Pipeline: last cannot be set"):
        pipeline.last = True
    with pytest.raises(AttributeError, match="Pipeline: skip cannot be deleted"):
        del pipeline.skip
    with pytest.raises(ValueError, match=r"Pipeline"):
        pipeline.__init__([])
    assert copy.copy(pipeline) is copy.deepcopy(pipeline) is pipeline


@pytest.mark.parametrize("name", RECURRENT)
def test_pickles_and_files(name, tmp_path):
    pipeline, _ = made(name, "elu", padding=3)
    again = pickle.loads(pickle.dumps(pipeline))
    fusedrnn.save(tmp_path / "file", {"net": pipeline})
    loaded = fusedrnn.load(tmp_path / "file")["net"]
    x = tokens()
    for other in (again, loaded):
        assert other == pipeline
        assert repr(other) == repr(pipeline)
        assert np.array_equal(other(x)[0], pipeline(x)[0])
    assert made(name, "relu", padding=3)[0] != pipeline
    assert made(name, "elu")[0] != pipeline
    assert Pipeline(pipeline.parts, padding=3) == pipeline


layer, head = LSTM(E, H), Linear(H, O)
words = Embedding(V, E)
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no list": (layer, {}, "Pipeline: parts is a LSTM; expected a list of parts"),
    "a string": ("relu", {}, "Pipeline: parts is a str"),
    "nothing recurrent": ([words, Linear(E, O)], {}, "parts has 0 recurrent parts; expected one"),
    "two": ([layer, LSTM(H, 2)], {}, "parts has 2 recurrent parts; expected one (fusedrnn.Stack"),
    "a number": ([words, 3], {}, "parts[1] is an int; expected an Embedding, a recurrent layer"),
    "a cell": ([fusedrnn.LSTMCell(3, 5)], {}, "parts[0] is a LSTMCell; expected"),
    "ensemble": ([fusedrnn.Ensemble([LSTM(E, H)])], {}, "parts[0] is a FrozenGroup; expected"),
    "function": ([layer, "gelu"], {}, "parts[1] is 'gelu'; expected one of 'relu', 'tanh'"),
    "widths": ([layer, Linear(5, O)], {}, "parts[1], Linear(5, 3), reads 5 features; expected 6"),
    "dtypes": ([layer, Linear(H, O, dtype="float64")], {}, "has dtype float64; expected float32"),
    "embedding above": ([layer, Embedding(H, 2)], {}, "expected an Embedding at the start alone"),
    "a function first": (["tanh", layer], {}, "parts[0] is 'tanh'; expected an activation after a layer"),
    "a pair": ([LSTM(E, H, bidirectional=True, merge=None)], {}, "has merge=None, so puts out a pair"),
    "last of QRNN": ([fusedrnn.QRNN(E, H)], {"last": True}, "on top; expected an RNN, GRU or LSTM there"),
    "last": ([layer], {"last": 1}, "Pipeline: last is 1"),
    "padding": ([words, layer], {"padding": -1}, "padding is -1; expected a token, or None"),
    "skip": ([layer], {"skip": True}, "skip is True; expected an integer >= 0"),
    "skip of tokens": ([words, layer], {"skip": 1}, "skip is 1 with last=False and Embedding(11, 4) at the start"),
    "much to skip": ([layer, head], {"skip": 2}, "skip is 2; expected 0, 1 or the number of outputs, 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name):
    parts, options, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        Pipeline(parts, **options)


def test_it_says_what_it_is():
    pipeline = Pipeline([words, layer, head, "softmax"], last=True, padding=0)
    assert repr(pipeline) == "Pipeline([Embedding(11, 4), LSTM(4, 6), Linear(6, 3), 'softmax'], last=True, padding=0)"
    assert (pipeline.input_size, pipeline.output_size, pipeline.dtype, pipeline.batch_first) == (
        V,
        O,
        np.float32,
        False,
    )
    assert repr(pipeline.stream(2)) == f"<stream of {pipeline!r}, batch_size=2>"
