"""Layers of any options on sequences of any shape equal the same composition written with the reference."""

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import fusedrnn
from composition import Checker, compose
from fusedrnn.reference import Cell
from problems import assert_same_bits, cell_of, has_kinks

KINDS = {"rnn": fusedrnn.RNN, "gru": fusedrnn.GRU, "lstm": fusedrnn.LSTM}

#: Functions for gates and for states that do not diverge within ten steps. Smooth ones first.
GATES = ["sigmoid", "softsign", ("affine", 0.2, 0.5), "hard_sigmoid", ("hard_sigmoid", 0.2), "hard_tanh"]
FUNCTIONS = [
    *("tanh", "sigmoid", "softsign", ("scaled_tanh", 1.7, 0.6), ("affine", 0.5, 0.1)),
    *("relu", "hard_tanh", "softplus", "leaky_relu", ("elu", 0.7), ("thresholded_relu", 0.3), "linear"),
]


@st.composite
def cells(draw: Any) -> tuple[str, dict[str, Any]]:
    """A family and its options: the usual or any others."""
    family = draw(st.sampled_from(list(KINDS)))
    options: dict[str, Any] = {"nonlinearity": draw(st.sampled_from(["tanh", "relu"]))} if family == "rnn" else {}
    if family == "gru":
        options = draw(st.sampled_from([{"reset_after": True}, {"reset_after": False}, {"reset_gate": False}]))
    if family == "lstm":
        options = {"peephole": draw(st.sampled_from([None, "ifo", "o_prev"])), "coupled": draw(st.booleans())}
    if draw(st.booleans()):
        return family, options
    smooth = draw(st.booleans(), "smooth")
    limits = st.none() if smooth else st.sampled_from([None, 0.5, 2.0])
    functions = st.sampled_from(FUNCTIONS[:5] if smooth else FUNCTIONS)
    options = options | {"activation": draw(st.none() | functions), "clip": draw(limits)}
    if family != "rnn":
        options["recurrent_activation"] = draw(st.sampled_from(GATES[:3] if smooth else GATES))
    if family == "lstm":
        options |= {"output_activation": draw(st.none() | functions), "cell_clip": draw(limits)}
    return family, options


def examples(count: int) -> settings:
    """The same ones in every run."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


# ---- problems


@st.composite
def layers(draw: Any) -> tuple[Cell, Any]:
    """A layer with any options, and the reference's cell for it."""
    family, options = draw(cells())
    bidirectional = draw(st.booleans())
    # In float32, rounding would sometimes decide on which side of relu's kink a gradient is taken.
    kinks = has_kinks(options) or (options.get("nonlinearity") == "relu" and options.get("activation") is None)
    dtypes = ["float64"] if kinks else ["float32", "float64"]
    layer = KINDS[family](
        draw(st.integers(1, 20), "I"),
        draw(st.integers(1, 35), "H"),
        num_layers=draw(st.integers(1, 3)),
        bias=draw(st.sampled_from([True, False, "single"])),
        batch_first=draw(st.booleans()),
        bidirectional=bidirectional,
        merge=draw(st.sampled_from(["concat", "sum", "mean", "mul", None])) if bidirectional else "concat",
        dtype=draw(st.sampled_from(dtypes)),
        rng=draw(st.integers(0, 1000)),
        **options,
    )
    return cell_of(family, options), layer


def strided(array: Any, draw: Any) -> Any:
    """The same values in another memory order, with gaps, or with negative strides."""
    order = draw(st.permutations(range(array.ndim)))
    steps = [draw(st.sampled_from([1, 1, 2, -1, -3])) for _ in order]
    turned = array.transpose(order)
    large = np.zeros([n * abs(step) for n, step in zip(turned.shape, steps, strict=True)], array.dtype)
    view = large[tuple(slice(None, None, step) for step in steps)]
    view[...] = turned
    return view.transpose(np.argsort(order))


@given(st.data())
@examples(1500)
def test_layers_equal_their_composition(data):
    draw = data.draw
    cell, layer = draw(layers())
    isa = draw(st.sampled_from(fusedrnn.available_isas()))
    T, B = draw(st.integers(0, 9), "T"), draw(st.integers(0, 9), "B")
    lengths = draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B), "lengths")
    tokens = draw(st.booleans(), "tokens")
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    S, D, dtype = cell.states, 1 + layer.bidirectional, layer.dtype
    note(f"{isa} {layer!r} {dtype}")

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    x = rng.integers(0, layer.input_size, (T, B)) if tokens else normal(T, B, layer.input_size)
    state = (
        [normal(layer.num_layers * D, B, layer.hidden_size) for _ in range(S)] if draw(st.booleans(), "state") else None
    )
    expected = compose(cell, layer, x, state, {"lengths": lengths})

    # The call under test: padding poisoned, memory in any order, the batch first or not.
    padding = np.arange(T)[:, None] >= (np.full(B, T) if lengths is None else np.array(lengths, int))
    poisoned = x.copy()
    poisoned[padding] = 10**6 if tokens else np.nan

    def turn(array: Any) -> Any:
        return array.swapaxes(0, 1) if layer.batch_first else array

    with fusedrnn.use_isa(isa):
        given_state = None if state is None else tuple(state) if S == 2 else state[0]
        y, state_n, tape = layer.forward(strided(turn(poisoned), draw), given_state, lengths=lengths)
        ys, expected_ys = (y, expected.y) if layer.merge is None else ([y], [expected.y])
        with_dy, with_dstate = draw(st.sampled_from([(True, True), (True, False), (False, True)]), "gradients")
        dys = [normal(*e.shape) for e in expected_ys] if with_dy else [None] * len(ys)
        dstate = [normal(*s.shape) for s in expected.state] if with_dstate else [None] * S
        poisoned_dys = [None if d is None else np.where(padding[..., None], np.nan, d).astype(dtype) for d in dys]
        turned = [None if d is None else strided(turn(d), draw) for d in poisoned_dys]
        grads = tape.backward(
            tuple(turned) if layer.merge is None else turned[0],
            None if not with_dstate else tuple(dstate) if S == 2 else dstate[0],
        )

    clean = [None if d is None else np.where(padding[..., None], 0, d) for d in dys]
    if layer.merge is None:
        dx, dstate_0, dparams = expected.backward(clean if with_dy else None, dstate)
    else:
        dx, dstate_0, dparams = expected.backward(clean[0], dstate)
    states, dstates = (state_n, grads.state) if S == 2 else ((state_n,), (grads.state,))
    assert (grads.x is None) == tokens
    assert list(grads.params) == list(layer.params)
    K = max(4 * layer.hidden_size, layer.input_size + layer.hidden_size, T * B)
    check = Checker(dtype, K, max(T, 1) * layer.num_layers)
    check.group("results", [turn(a) for a in ys], expected_ys)
    check.group("state", states, expected.state)
    # Both are sums of the same gradients of pre-activations times weights. If x has one element and the terms of its
    # gradient cancel, the gradient alone does not show the scale of the terms, on which rounding depends.
    inputs, d_inputs = ([], []) if tokens else ([turn(grads.x)], [dx])
    check.group("gradients", [*inputs, *dstates], [*d_inputs, *dstate_0])
    check.group("parameters", [grads.params[name] for name in layer.params], [dparams[name] for name in layer.params])


@given(st.data())
@examples(300)
def test_two_parts_are_the_whole(data):
    draw = data.draw
    _, layer = draw(layers().filter(lambda pair: not pair[1].bidirectional))
    T, B = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    cut = draw(st.integers(0, T))
    x = np.random.default_rng(T).standard_normal((T, B, layer.input_size)).astype(layer.dtype)
    whole, last = layer(x.swapaxes(0, 1) if layer.batch_first else x)
    axis = 1 if layer.batch_first else 0
    first, state = layer(x[:cut].swapaxes(0, 1) if layer.batch_first else x[:cut])
    second, state = layer(x[cut:].swapaxes(0, 1) if layer.batch_first else x[cut:], state)
    assert_same_bits(np.concatenate([first, second], axis=axis), whole, "y")
    assert_same_bits(state, last, "state")


@given(st.data())
@examples(300)
def test_permuting_the_batch_permutes_the_result(data):
    draw = data.draw
    _, layer = draw(layers())
    lengths = np.array(draw(st.lists(st.integers(0, 9), min_size=1, max_size=9)))
    order = np.array(draw(st.permutations(range(len(lengths)))))
    T, B = int(lengths.max()), len(lengths)
    x = np.random.default_rng(B).standard_normal((B, T, layer.input_size)).astype(layer.dtype)
    axis = 0 if layer.batch_first else 1

    def run(x: Any, lengths: Any) -> tuple[Any, Any]:
        return layer(x if layer.batch_first else x.swapaxes(0, 1), lengths=lengths)

    y, state = run(x, lengths)
    y_permuted, state_permuted = run(x[order], lengths[order])
    for ours, permuted in zip(as_tuple(y), as_tuple(y_permuted), strict=True):
        assert_same_bits(permuted, ours.take(order, axis), "y")
    for ours, permuted in zip(as_tuple(state), as_tuple(state_permuted), strict=True):
        assert_same_bits(permuted, ours[:, order], "state")


@given(st.data())
@examples(300)
def test_a_row_of_a_list_is_the_row_unbatched(data):
    draw = data.draw
    _, layer = draw(layers())
    lengths = draw(st.lists(st.integers(0, 9), min_size=1, max_size=6))
    rng = np.random.default_rng(sum(lengths))
    if draw(st.booleans()):
        xs = [rng.integers(0, layer.input_size, n) for n in lengths]
    else:
        xs = [rng.standard_normal((n, layer.input_size)).astype(layer.dtype) for n in lengths]
    y, state = layer(xs)
    for b, x in enumerate(xs):
        y_b, state_b = layer(x)
        for ours, alone in zip(y if layer.merge is None else [y], as_tuple(y_b), strict=True):
            assert_same_bits(ours[b], alone, f"y of row {b}")
        for ours, alone in zip(as_tuple(state), as_tuple(state_b), strict=True):
            assert_same_bits(ours[:, b], alone, f"state of row {b}")


def as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
