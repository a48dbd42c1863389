"""Options that change a step: projection, recurrent and weight dropout, zoneout.

Layers equal the reference, option by option and all together; the reference is compared with finite differences here,
and with torch in test_torch.py.
"""

import copy
import itertools
import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import functional, reference
from fusedrnn.parameters import CLASSES
from fusedrnn.reference import CELLS
from problems import assert_results, assert_same_bits, make_problem, with_structure
from tolerances import assert_close, dot_length

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])

#: Name -> constructor options that can be combined; zoneout in its two forms.
OPTIONS: dict[str, dict[str, Any]] = {
    "projection": {"proj_size": 19},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "weight_dropout": {"weight_dropout": 0.3},
    "zoneout": {"zoneout": 0.25},
}


def combinations(cell: str) -> list[dict[str, Any]]:
    names = [name for name in OPTIONS if cell == "lstm" or name != "projection"]
    chosen = itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(1, len(names) + 1))
    merged = [dict(item for name in each for item in OPTIONS[name].items()) for each in chosen]
    if cell == "lstm":
        merged += [{"zoneout": (0.3, 0.0)}, {"zoneout": (0.0, 0.6), "proj_size": 19}]
        merged += [OPTIONS["recurrent_dropout"] | OPTIONS["weight_dropout"] | {"zoneout": (0.3, 0.6), "proj_size": 19}]
    return merged


#: What acts on the recurrent product, or on h, exists for these.
RECURRENT = [name for name, cell in CELLS.items() if cell.recurrent]
CELL_OPTIONS = [(cell, options) for cell in RECURRENT for options in combinations(cell)]
COMBINED = pytest.mark.parametrize(
    ("cell", "options"),
    CELL_OPTIONS,
    ids=lambda v: v if isinstance(v, str) else "-".join(v) + str(v.get("zoneout", "")),
)
#: All options at once.
FULL = [(cell, combinations(cell)[-1]) for cell in RECURRENT]
FULLY = pytest.mark.parametrize(("cell", "options"), FULL, ids=RECURRENT)


def make_layer(cell: str, I: int, H: int, dtype: str, **options: Any) -> Any:
    kind, _, variant = cell.partition("_")
    if kind == "rnn":
        options["nonlinearity"] = variant
    elif kind == "gru":
        options |= {"reset_after": variant != "before", "reset_gate": variant != "simple"}
    classes = {name.lower(): cls for name, cls in CLASSES.items()}
    return classes[kind](I, H, dtype=dtype, rng=7, **options)


def normal(rng: np.random.Generator, dtype: str, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(dtype)


def parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


@dataclass
class Call:
    """Arguments of one layer, and gradients of its results."""

    x: Any
    state: tuple[Any, ...]
    lengths: Any
    dy: Any
    dstate: tuple[Any, ...]
    steps: dict[str, Any] = field(default_factory=dict)  # mask and reset


def make_call(
    rng: np.random.Generator, layer: Any, T: int, B: int, lengths: bool, tokens: bool = False, holes: bool = False
) -> Call:
    I, dtype, D = layer.input_size, layer.dtype, 1 + layer.bidirectional
    R = getattr(layer, "proj_size", 0) or layer.hidden_size
    units = (R, layer.hidden_size)[: 1 + isinstance(layer, fusedrnn.LSTM)]
    x = rng.integers(0, I, (T, B)) if tokens else normal(rng, dtype, T, B, I)
    rows = layer.num_layers * D
    state, dstate = (tuple(normal(rng, dtype, rows, B, n) for n in units) for _ in range(2))
    dy = normal(rng, dtype, T, B, D * R)
    ends = None
    if lengths:
        ends = rng.integers(0, T + 1, B)
        ends[rng.permutation(B)[:2]] = (0, T)[: min(B, 2)]
        padding = np.arange(T)[:, None] >= ends
        x[padding] = -1 if tokens else np.nan
        dy[padding] = np.nan
    steps = {"mask": rng.random((T, B)) < 0.7, "reset": rng.random((T, B)) < 0.3} if holes else {}
    return Call(x, state, ends, dy, dstate, steps)


def run_layer(layer: Any, call: Call, masks: Any = None) -> tuple[dict[str, Any], Any]:
    """All results of training, and the tape."""
    state = call.state if len(call.state) == 2 else call.state[0]
    y, state_n, tape = layer.forward(call.x, state, lengths=call.lengths, masks=masks, **call.steps)
    grads = tape.backward(call.dy, call.dstate if len(call.dstate) == 2 else call.dstate[0])
    results = {"y": y, "dx": grads.x} | dict(zip(("h_n", "c_n"), parts(state_n), strict=False))
    results |= dict(zip(("dh_0", "dc_0"), parts(grads.state), strict=False))
    return results | grads.params, tape


def reference_arguments(layer: Any, masks: dict[str, Any], direction: int) -> tuple[dict[str, Any], Any]:
    """Weights and options for the reference, and the factors of W_hh."""
    suffix = ("_l0", "_l0_reverse")[direction]
    arguments = {
        name: layer.params.get(long + suffix)
        for name, long in zip(
            ("W_ih", "W_hh", "b_ih", "b_hh", "W_hr"),
            ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"),
            strict=True,
        )
    }
    arguments = {name: None if w is None else w.astype(np.float64) for name, w in arguments.items()}
    factors = 1.0
    if "weight_dropout" in masks:
        factors = masks["weight_dropout"][direction] / (1 - layer.weight_dropout)
        arguments["W_hh"] = arguments["W_hh"] * factors
    if "recurrent_dropout" in masks:
        arguments["recurrent_mask"] = masks["recurrent_dropout"][direction] / (1 - layer.recurrent_dropout)
    keep = [masks.get(name) for name in ("zoneout_h", "zoneout_c")]
    arguments["zoneout"] = tuple(0 if k is None else k[direction].astype(np.float64) for k in keep)
    return arguments, factors


def run_reference(cell: str, layer: Any, call: Call, masks: dict[str, Any]) -> dict[str, Any]:
    """One layer with one or two directions, merged as in the layers."""
    D = 1 + layer.bidirectional
    R = getattr(layer, "proj_size", 0) or layer.hidden_size
    results: dict[str, Any] = {}
    ys, states, dstates, dx = [], [], [], 0.0
    for d in range(D):
        arguments, factors = reference_arguments(layer, masks, d)
        y, state_n, tape = reference.forward(
            *(cell, call.x, tuple(s[d] for s in call.state)),
            **(arguments | call.steps),
            lengths=call.lengths,
            reverse=d == 1,
        )
        grads = reference.backward(tape, call.dy[..., d * R : (d + 1) * R], tuple(s[d] for s in call.dstate))
        suffix = ("_l0", "_l0_reverse")[d]
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        values = (grads.dW_ih, grads.dW_hh * factors, grads.db_ih, grads.db_hh, grads.dW_hr)
        results |= {name + suffix: v for name, v in zip(names, values, strict=True) if v is not None}
        ys.append(y), states.append(state_n), dstates.append(grads.dstate)
        dx = None if grads.dx is None else dx + grads.dx
    results |= {"y": np.concatenate(ys, axis=-1), "dx": dx}
    results |= dict(zip(("h_n", "c_n"), (np.stack(s) for s in zip(*states, strict=True)), strict=False))
    return results | dict(zip(("dh_0", "dc_0"), (np.stack(s) for s in zip(*dstates, strict=True)), strict=False))


def assert_all_close(actual: dict[str, Any], expected: dict[str, Any], layer: Any, T: int, B: int, what: str) -> None:
    __tracebackhide__ = True
    assert actual.keys() == expected.keys()
    quantities = {"h_n": "state_n", "c_n": "state_n", "dh_0": "dstate", "dc_0": "dstate"}
    gates = len(layer.params["weight_ih_l0"]) // layer.hidden_size
    for name, value in expected.items():
        quantity: Any = "dW_ih" if "_l0" in name else quantities.get(name, name)
        K = dot_length(quantity, gates=gates, T=T, B=B, I=layer.input_size, H=layer.hidden_size)
        assert_close(actual[name], value, dtype=layer.dtype, K=K, T=T, what=f"{what}: {name}")


# ---- against the reference


@DTYPES
@COMBINED
@pytest.mark.parametrize("rows", ["full", "ragged", "holes"])
def test_layers_equal_the_reference(cell, options, isa, dtype, rows, rng):
    layer = make_layer(cell, 13, 37, dtype, bidirectional=True, **options)
    call = make_call(rng, layer, 7, 9, rows != "full", holes=rows == "holes")
    actual, tape = run_layer(layer, call)
    assert_all_close(actual, run_reference(cell, layer, call, tape.masks), layer, 7, 9, repr(layer))


@DTYPES
@FULLY
@pytest.mark.parametrize(
    ("T", "B", "I", "H"),
    [(1, 1, 1, 2), (3, 2, 5, 16), (2, 3, 17, 64), (4, 1, 3, 130), (97, 2, 3, 20), (12, 64, 3, 21), (2, 193, 3, 24)],
)
def test_sizes(cell, options, isa, dtype, T, B, I, H, rng):
    if "proj_size" in options:
        options = options | {"proj_size": max(1, H // 3)}
    layer = make_layer(cell, I, H, dtype, **options, bias=T != 3)
    call = make_call(rng, layer, T, B, T % 2 == 0, tokens=H == 64)
    actual, tape = run_layer(layer, call)
    assert_all_close(actual, run_reference(cell, layer, call, tape.masks), layer, T, B, repr(layer))


@DTYPES
@FULLY
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "ragged"])
def test_inference_takes_expectations(cell, options, isa, dtype, lengths, rng):
    """Weights and h are not masked; zoneout keeps its share of the old state."""
    layer = make_layer(cell, 13, 37, dtype, **options)
    call = make_call(rng, layer, 7, 9, lengths)
    state = call.state if len(call.state) == 2 else call.state[0]
    y, state_n = layer(call.x, state, lengths=call.lengths)
    arguments, _ = reference_arguments(layer, {}, 0)
    zoneout = parts(layer.zoneout) if isinstance(layer.zoneout, tuple) else (layer.zoneout,) * 2
    arguments["zoneout"] = zoneout[: len(call.state)]
    y_r, state_r, _ = reference.forward(
        cell, call.x, tuple(s[0] for s in call.state), **arguments, lengths=call.lengths
    )
    assert_close(y, y_r, dtype=dtype, K=50, T=7, what="y")
    for mine, other in zip(parts(state_n), state_r, strict=True):
        assert_close(mine[0], other, dtype=dtype, K=50, T=7, what="state_n")


# ---- plain arrays

STRUCTURES = [
    ("rnn_tanh", ("recurrent_mask", "zoneout_h")),
    ("gru_after", ("recurrent_mask",)),
    ("gru_before", ("recurrent_mask", "zoneout_h")),
    ("gru_simple", ("zoneout_h",)),
    ("lstm", ("W_hr",)),
    ("lstm", ("zoneout_c",)),
    ("lstm_ifo", ("W_hr", "recurrent_mask", "zoneout_h", "zoneout_c")),
]


@DTYPES
@pytest.mark.parametrize(("cell", "names"), STRUCTURES, ids=lambda v: v if isinstance(v, str) else "-".join(v))
@pytest.mark.parametrize("rows", ["full", "ragged", "holes"])
@pytest.mark.parametrize("sizes", [(6, 5, 7, 37), (2, 3, 30, 37)], ids=str)  # the second has few rows for its inputs
def test_functions_equal_the_reference(cell, names, isa, dtype, rows, sizes, rng):
    T, B, I, H = sizes
    problem = make_problem(rng, cell, dtype, T=T, B=B, I=I, H=H, lengths=rows != "full", reverse=rows != "full")
    problem = with_structure(problem, rng, *names)
    if rows == "holes":
        steps = {"mask": rng.random((T, B)) < 0.7, "reset": rng.random((T, B)) < 0.3}
        problem = problem.but(**steps, past_end="hold", dy=np.nan_to_num(problem.dy))
    assert_results(problem.run(functional), problem.run(reference), problem)


def test_functions_equal_layers(rng):
    layer = make_layer("lstm", 6, 20, "float32", proj_size=7, recurrent_dropout=0.4, zoneout=(0.2, 0.3))
    call = make_call(rng, layer, 5, 3, False)
    results, tape = run_layer(layer, call)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    masks = {name: mask[0] for name, mask in tape.masks.items()}
    y, h_n, c_n, kept = functional.lstm_forward(
        *(call.x, *(s[0] for s in call.state), *(layer.params[name] for name in names)),
        W_hr=layer.weight_hr_l0,
        recurrent_mask=masks["recurrent_dropout"] * np.float32(1 / 0.6),
        zoneout_h=masks["zoneout_h"],
        zoneout_c=masks["zoneout_c"],
    )
    grads = functional.lstm_backward(kept, call.dy, *(d[0] for d in call.dstate))
    assert_same_bits([y, h_n, c_n], [results["y"], results["h_n"][0], results["c_n"][0]], "results")
    expected = [results["dx"], results["dh_0"][0], results["dc_0"][0], *(results[name] for name in names)]
    assert_same_bits(list(grads)[:7], expected, "gradients")
    assert_same_bits(grads.dW_hr, results["weight_hr_l0"], "dW_hr")
    assert grads.dW_peephole is None


# ---- the reference itself


@FULLY
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_the_reference_against_differences(cell, options, reverse, rng):
    T, B, I, H, R = 5, 4, 2, 4, 3 if "proj_size" in options else 4
    G, S = CELLS[cell].gates, CELLS[cell].states
    units = (R, H)[:S]
    args = {"x": rng.standard_normal((T, B, I)), "W_ih": rng.standard_normal((G * H, I))}
    args |= {"W_hh": rng.standard_normal((G * H, R)) / 2, "b_ih": rng.standard_normal(G * H)}
    args |= {f"state_{k}": rng.standard_normal((B, n)) for k, n in enumerate(units)}
    if R != H:
        args["W_hr"] = rng.standard_normal((R, H))
    fixed = {"recurrent_mask": rng.integers(0, 2, (B, R)) * 1.5, "lengths": [3, 0, 5, 1], "reverse": reverse}
    fixed["zoneout"] = tuple((rng.random((T, B, n)) < 0.3) * 1.0 for n in units)
    dy, dstate = rng.standard_normal((T, B, R)), tuple(rng.standard_normal((B, n)) for n in units)

    def run(**changes: Any) -> Any:
        a = args | changes
        state = tuple(a[f"state_{k}"] for k in range(S))
        return reference.forward(
            cell, a["x"], state, a["W_ih"], a["W_hh"], a["b_ih"], a["b_ih"] * 0.5, W_hr=a.get("W_hr"), **fixed
        )

    def loss(**changes: Any) -> float:
        y, state_n, _ = run(**changes)
        return float((y * dy).sum() + sum((s * d).sum() for s, d in zip(state_n, dstate, strict=True)))

    grads = reference.backward(run()[2], dy, dstate)
    found = {"x": grads.dx, "W_ih": grads.dW_ih, "W_hh": grads.dW_hh, "W_hr": grads.dW_hr}
    found |= {"b_ih": grads.db_ih + 0.5 * grads.db_hh} | {f"state_{k}": d for k, d in enumerate(grads.dstate)}
    step = 1e-6 if cell == "rnn_relu" else 1e-3
    for name, value in args.items():
        expected = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            moved = []
            for shift in (step, -step, 2 * step, -2 * step):
                other = value.copy()
                other[index] += shift
                moved.append(loss(**{name: other}))
            expected[index] = (8 * (moved[0] - moved[1]) - (moved[2] - moved[3])) / (12 * step)
        what = f"{cell}: gradient of {name}"
        assert_close(found[name], expected, dtype=np.float64, K=1, T=1, what=what, quantity="central_difference")


def test_zoneout_by_hand():
    """Krueger et al. 2016, equations 7 and 8, with c kept and h not: h is still computed from the new c."""
    x, W_ih, W_hh = np.ones((1, 1, 1)), np.array([[0.5], [0.2], [1.0], [-0.3]]), np.zeros((4, 1))
    keep = np.array([[[1.0]]])
    _, (h, c), _ = reference.forward("lstm", x, ([[0.3]], [[0.7]]), W_ih, W_hh, zoneout=(1 - keep, keep))
    i, f, o = (1 / (1 + np.exp(-v)) for v in (0.5, 0.2, -0.3))
    np.testing.assert_allclose(c, 0.7, rtol=1e-15)
    np.testing.assert_allclose(h, o * np.tanh(f * 0.7 + i * np.tanh(1.0)), rtol=1e-14)


# ---- the same bits


@FULLY
def test_same_bits_for_any_threads_and_rows(cell, options, isa, rng):
    layer = make_layer(cell, 24, 150, "float32", bidirectional=True, **options)
    call = make_call(rng, layer, 6, 40, True)
    results = {}
    with fusedrnn.threads(1):
        expected, tape = run_layer(layer, call)
    for n in (2, 5):
        with fusedrnn.threads(n):
            results[n], _ = run_layer(layer, call, tape.masks)
        assert_same_bits(results[n], expected, f"{n} threads")
    rows = [7, 3, 31]
    few = Call(
        call.x[:, rows], tuple(s[:, rows] for s in call.state), call.lengths[rows], call.dy[:, rows], call.dstate
    )
    few.dstate = tuple(s[:, rows] for s in call.dstate)
    masks = {k: m if k == "weight_dropout" else m[..., rows, :] for k, m in tape.masks.items()}
    some, _ = run_layer(layer, few, masks)
    for name in ("y", "h_n", "dx", "dh_0"):
        assert_same_bits(some[name], expected[name][:, rows], name)


@DTYPES
@FULLY
@pytest.mark.parametrize("num_layers", [1, 2])
def test_streams_chunks_and_frozen_layers(cell, options, isa, dtype, num_layers, rng):
    layer = make_layer(cell, 13, 37, dtype, num_layers=num_layers, **options)
    call = make_call(rng, layer, 9, 3, False)
    y, state = layer(call.x)
    frozen = layer.freeze()
    assert_same_bits(frozen(call.x), (y, state), "frozen")
    assert_same_bits(pickle.loads(pickle.dumps(frozen))(call.x), (y, state), "unpickled")
    stream = frozen.stream(batch_size=3)
    assert_same_bits([stream.step(np.ascontiguousarray(x_t)) for x_t in call.x], list(y), "stream")
    assert_same_bits(stream.state, state, "state of the stream")
    stream.state = state
    other = copy.copy(stream)
    x_t = np.ascontiguousarray(call.x[0])
    assert_same_bits(other.step(x_t, out=np.empty_like(y[0])), stream.step(x_t), "copied stream")
    first, middle = layer(call.x[:4])
    second, end = layer(call.x[4:], middle)
    assert_same_bits([*first, *second], list(y), "chunks")
    assert_same_bits(end, state, "state after chunks")


@FULLY
def test_training_in_chunks_with_the_same_masks(cell, options, rng):
    layer = make_layer(cell, 13, 37, "float64", **options)
    call = make_call(rng, layer, 8, 3, False)
    state = call.state if len(call.state) == 2 else call.state[0]
    y, state_n, tape = layer.forward(call.x, state)
    for at in (slice(0, 3), slice(3, 8)):
        masks = {k: m[:, at] if k.startswith("zoneout") else m for k, m in tape.masks.items()}
        part, state, _ = layer.forward(call.x[at], state, masks=masks)
        assert_same_bits(part, y[at], "y")
    assert_same_bits(state, state_n, "state_n")


# ---- the layers around


@FULLY
def test_masks_can_be_drawn_again(cell, options, rng):
    layer = make_layer(cell, 5, 23, "float32", num_layers=2, bidirectional=True, **options)
    call = make_call(rng, layer, 4, 3, True)
    twin = copy.deepcopy(layer)
    assert twin == layer
    assert twin.freeze() == layer.freeze()
    assert repr(layer).count("=") >= len(options)
    first, tape = run_layer(layer, call)
    second, _ = run_layer(twin, call)
    assert_same_bits(first, second, "same rng")
    third, _ = run_layer(layer, call, tape.masks)
    assert_same_bits(third, first, "given masks")
    rates = layer._rates.by_name()
    assert set(tape.masks) == {name for name, rate in rates.items() if rate}
    for name, mask in tape.masks.items():
        assert (mask.dtype, mask.shape[0]) == (np.bool_, 4), name
        assert mask.any(), name
        assert not mask.all(), name


def test_shares_of_masks(rng):
    layer = fusedrnn.LSTM(3, 64, zoneout=(0.1, 0.8), recurrent_dropout=0.3, weight_dropout=0.6, rng=0)
    _, _, tape = layer.forward(np.zeros((50, 20, 3), np.float32))
    wanted = {"zoneout_h": 0.1, "zoneout_c": 0.8, "recurrent_dropout": 0.7, "weight_dropout": 0.4}
    for name, share in wanted.items():
        assert abs(tape.masks[name].mean() - share) < 0.04, name


@pytest.mark.parametrize("layout", ["batch_first", "unbatched", "list", "mul"])
def test_layouts(layout, rng):
    options = {"batch_first": layout == "batch_first", "merge": "mul" if layout == "mul" else "concat"}
    layer = fusedrnn.LSTM(
        5, 8, 2, bidirectional=True, proj_size=3, zoneout=0.2, recurrent_dropout=0.2, rng=1, **options
    )
    x = normal(rng, "float32", 4, 3, 5)
    if layout == "batch_first":
        y, _, tape = layer.forward(x.swapaxes(0, 1))
        assert y.shape == (3, 4, 6)
    elif layout == "unbatched":
        y, (h, c), tape = layer.forward(x[:, 0])
        assert (y.shape, h.shape, c.shape) == ((4, 6), (4, 3), (4, 8))
    elif layout == "list":
        y, _, tape = layer.forward([x[:, 0], x[:2, 1]])
        assert [a.shape for a in y] == [(4, 6), (2, 6)]
    else:
        y, _, tape = layer.forward(x)
        assert y.shape == (4, 3, 3)
    grads = tape.backward(y)
    assert {name: g.shape for name, g in grads.params.items()} == {name: w.shape for name, w in layer.params.items()}


@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0), (0, 0)])
@FULLY
def test_empty(cell, options, T, B, rng):
    layer = make_layer(cell, 5, 20, "float32", **options)
    call = make_call(rng, layer, T, B, False)
    results, _ = run_layer(layer, call)
    for k, name in enumerate(("h", "c")[: len(call.state)]):
        np.testing.assert_array_equal(results[f"{name}_n"], call.state[k])
        np.testing.assert_array_equal(results[f"d{name}_0"], call.dstate[k])
    for name in layer.params:
        assert not results[name].any(), name


# ---- messages

X = np.zeros((4, 2, 3), np.float32)


def lstm_forward(**options: Any) -> Any:
    weights = [
        options.pop(name, default) for name, default in (("W_ih", np.zeros((20, 3))), ("W_hh", np.zeros((20, 5))))
    ]
    return functional.lstm_forward(X, None, None, *weights, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: fusedrnn.LSTM(3, 5, proj_size=5),
            ValueError,
            "LSTM: proj_size is 5; expected less than hidden_size = 5, or 0 for none",
        ),
        (lambda: fusedrnn.LSTM(3, 5, proj_size=-1), ValueError, "LSTM: proj_size is -1; expected an integer >= 1"),
        (
            lambda: fusedrnn.LSTM(3, 5, proj_size=False),
            TypeError,
            "LSTM: proj_size is False (bool); expected an integer >= 1",
        ),
        (lambda: fusedrnn.GRU(3, 5, zoneout=1.0), ValueError, "GRU: zoneout is 1.0; expected 0 <= zoneout < 1"),
        (
            lambda: fusedrnn.GRU(3, 5, zoneout=(0.1, 0.1)),
            TypeError,
            "GRU: zoneout is a tuple; expected a number, as the state is h alone",
        ),
        (
            lambda: fusedrnn.LSTM(3, 5, zoneout=(0.1,)),
            ValueError,
            "LSTM: zoneout has 1 parts; expected a number or a pair (h, c)",
        ),
        (
            lambda: fusedrnn.RNN(3, 5, recurrent_dropout=-0.1),
            ValueError,
            "RNN: recurrent_dropout is -0.1; expected 0 <= recurrent_dropout < 1",
        ),
        (
            lambda: fusedrnn.RNN(3, 5).forward(X, masks={"zoneout_h": np.zeros((1, 4, 2, 5), bool)}),
            ValueError,
            "RNN: masks has 'zoneout_h', but this layer has zoneout=0",
        ),
        (
            lambda: fusedrnn.RNN(3, 5).forward(X, masks={"zone": 1}),
            ValueError,
            "RNN: masks has 'zone'; expected some of 'weight_dropout', 'recurrent_dropout', 'zoneout_h', 'zoneout_c', "
            "'dropout'",
        ),
        (
            lambda: lstm_forward(W_hr=np.zeros((5, 5))),
            ValueError,
            "lstm_forward: W_hr has shape (5, 5); expected (proj_size, hidden_size), 1 <= proj_size < hidden_size",
        ),
        (
            lambda: lstm_forward(W_hr=np.zeros((2, 5))),
            ValueError,
            "lstm_forward: W_hh has shape (20, 5); expected (4*hidden_size, proj_size) = (20, 2)",
        ),
        (
            lambda: lstm_forward(W_hh=np.zeros((20, 2)), W_hr=np.zeros((2, 5)), zoneout_h=np.zeros((4, 2, 5), bool)),
            ValueError,
            "lstm_forward: zoneout_h has shape (4, 2, 5); expected (T, B, proj_size) = (4, 2, 2)",
        ),
        (
            lambda: lstm_forward(zoneout_c=0.25),
            TypeError,
            "lstm_forward: zoneout_c has dtype float64; expected bool",
        ),
        (
            lambda: lstm_forward(recurrent_mask=np.ones((2, 3))),
            ValueError,
            "lstm_forward: recurrent_mask has shape (2, 3); expected (B, hidden_size) = (2, 5)",
        ),
        (
            lambda: fusedrnn.RNN(3, 5).forward(X, masks=[1]),
            TypeError,
            "RNN: masks is a list; expected a mapping of names to arrays of bools",
        ),
        (
            lambda: fusedrnn.LSTM(3, 5, proj_size=2, recurrent_dropout=0.1).forward(
                X, masks={"recurrent_dropout": np.ones((1, 2, 5), bool)}
            ),
            ValueError,
            "LSTM: masks['recurrent_dropout'] has shape (1, 2, 5); expected (num_layers*directions, B, proj_size) = "
            "(1, 2, 2)",
        ),
        (
            lambda: fusedrnn.RNN(3, 5, weight_dropout=0.1).forward(X, masks={"weight_dropout": np.ones((1, 5, 5))}),
            TypeError,
            "RNN: masks['weight_dropout'] has dtype float64; expected bool",
        ),
        (
            lambda: fusedrnn.LSTM(3, 5, proj_size=2)(X, (np.zeros((1, 2, 5)), np.zeros((1, 2, 5)))),
            ValueError,
            "LSTM: state h has shape (1, 2, 5); expected (num_layers, B, proj_size) = (1, 2, 2)",
        ),
        (
            lambda: fusedrnn.LSTM(3, 5, proj_size=2).load_state_dict(fusedrnn.LSTM(3, 5).state_dict(), strict=False),
            ValueError,
            "LSTM: load_state_dict changed nothing. weight_hh_l0 has shape (20, 5); expected (4*hidden_size, proj_size)"
            " = (20, 2)",
        ),
        (
            lambda: fusedrnn.LSTM(3, 5, proj_size=2).freeze().stream().step(X[0, :1], out=np.zeros((1, 5), np.float32)),
            ValueError,
            "Stream: out has shape (1, 5) and dtype float32; expected a contiguous, writable array of shape "
            "(batch_size, proj_size) = (1, 2) and dtype float32",
        ),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
