"""Combined options: any values of any three options occur together in some layer, which equals the reference.

The layers are a covering set, not all combinations: `covering` finds some hundred that contain all triples.
"""

import itertools
import math
import pickle
import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest

import fusedrnn
from composition import Checker, compose, join
from fusedrnn.reference import Cell
from problems import assert_same_bits, cell_of
from tolerances import assert_close

#: By the first word of the family.
KINDS: dict[str, Any] = {"rnn": fusedrnn.RNN, "gru": fusedrnn.GRU, "lstm": fusedrnn.LSTM, "qrnn": fusedrnn.QRNN}

#: Layers whose state is (h, c).
PAIRS = (fusedrnn.LSTM, fusedrnn.QRNN)

#: For all families: factor -> its values. `make_layer` and `make_call` define what a value means.
COMMON: dict[str, list[Any]] = {
    "dtype": ["float32", "float64"],
    "isa": fusedrnn.available_isas(),
    "sizes": [(6, 5, 7, 19), (5, 1, 4, 37), (3, 13, 5, 8)],  # T, B, I, H
    "num_layers": [1, 2],
    "bias": [True, False, "single"],
    "way": ["one", "backwards", "concat", "mul", None],  # the last three have two directions
    "state": ["zeros", "given", "learned", "learned but given"],
    "rows": ["full", "lengths", "mask", "reset", "all"],
    "past_end": ["zero", "hold"],
    "tokens": [False, True],
    "batch_first": [False, True],
    "zoneout": [0.0, 0.25],
    "recurrent_dropout": [0.0, 0.4],
    "weight_dropout": [0.0, 0.3],
}

#: Functions with kinks come last: in float32, rounding would decide on which side of a kink a gradient is taken.
FAMILIES: dict[str, dict[str, list[Any]]] = {
    "rnn": {
        "functions": [
            {},
            {"activation": "softsign"},
            {"activation": ("scaled_tanh", 1.7, 0.6)},
            {"nonlinearity": "relu"},
            {"activation": "hard_tanh", "clip": 0.8},
        ],
    },
    "gru": {
        "form": [{}, {"reset_after": False}, {"reset_gate": False}],
        "functions": [
            {},
            {"activation": "softsign"},
            {"recurrent_activation": ("affine", 0.2, 0.5)},
            {"recurrent_activation": "hard_sigmoid", "clip": 0.7},
        ],
    },
    "lstm": {
        "coupled": [False, True],
        "peephole": [None, "ifo", "o_prev"],
        "proj_size": [False, True],
        "zoneout": [0.0, 0.25, (0.3, 0.0), (0.0, 0.6)],
        "functions": [
            {},
            {"activation": "softsign", "output_activation": "tanh"},
            {"recurrent_activation": ("affine", 0.2, 0.5), "output_activation": ("scaled_tanh", 1.7, 0.6)},
            {"cell_clip": 0.6},
            {"recurrent_activation": "hard_sigmoid", "clip": 0.9},
        ],
    },
    "gru normed": {"layer_norm_eps": [1e-5, 1e-2], "functions": [{}]},
    "lstm normed": {
        "layer_norm_eps": [1e-5, 1e-2],
        "zoneout": [0.0, 0.25, (0.3, 0.0), (0.0, 0.6)],
        "functions": [{}],
    },
    "qrnn": {
        "window": [1, 2, 4],
        "bias": [True, False],
        "recurrent_dropout": [None],
        "weight_dropout": [None],
        "functions": [{}],
    },
}


def has_kinks(choice: dict[str, Any]) -> bool:
    functions = choice["functions"]
    return "clip" in functions or "cell_clip" in functions or functions.get("nonlinearity") == "relu"


def has_small_variances(choice: dict[str, Any]) -> bool:
    """Layer norm over few units: the variance may be near zero, and rounding errors grow with its reciprocal."""
    return choice.get("layer_norm_eps") == 1e-5 and choice.get("sizes") == (3, 13, 5, 8)


def allowed(choice: dict[str, Any]) -> bool:
    return choice.get("dtype") != "float32" or not (has_kinks(choice) or has_small_variances(choice))


def covering(factors: dict[str, list[Any]], strength: int, seed: int = 0) -> list[dict[str, Any]]:
    """Choices of one value per factor that together contain all allowed tuples of `strength` values; found greedily."""
    rng = np.random.default_rng(seed)
    sizes = np.array([len(values) for values in factors.values()])
    names = list(factors)

    def choice_of(row: Any) -> dict[str, Any]:
        return {name: factors[name][k] for name, k in zip(names, row, strict=True)}

    subsets = list(itertools.combinations(range(len(names)), strength))
    starts = np.cumsum([0] + [math.prod(int(sizes[k]) for k in subset) for subset in subsets])
    steps = np.zeros((len(subsets), len(names)), int)
    for s, subset in enumerate(subsets):
        for at, k in enumerate(subset):
            steps[s, k] = math.prod(int(sizes[j]) for j in subset[at + 1 :])

    def tuples_of(rows: Any) -> Any:
        return rows @ steps.T + starts[:-1]

    def drawn(count: int) -> Any:
        rows = rng.integers(0, sizes, (count, len(names)))
        return rows[[allowed(choice_of(row)) for row in rows]]

    missing = np.zeros(starts[-1], bool)
    for s, subset in enumerate(subsets):  # tuples that are in no allowed choice are not required
        for values in itertools.product(*(range(int(sizes[k])) for k in subset)):
            partial = {names[k]: factors[names[k]][v] for k, v in zip(subset, values, strict=True)}
            missing[starts[s] + sum(int(steps[s, k]) * v for k, v in zip(subset, values, strict=True))] = allowed(
                {"functions": {}} | partial
            )
    chosen = []
    while missing.any():
        rows = drawn(40)
        first = int(np.flatnonzero(missing)[0])  # a missing tuple, completed in several ways
        s = int(np.searchsorted(starts, first, "right")) - 1
        for k in subsets[s]:
            rows[:, k] = (first - starts[s]) // steps[s, k] % sizes[k]
        rows = rows[[allowed(choice_of(row)) for row in rows]]
        if not len(rows):
            continue
        best = rows[missing[tuples_of(rows)].sum(axis=1).argmax()]
        missing[tuples_of(best[None])] = False
        chosen.append(choice_of(best))
    return chosen


@cache
def choices(family: str, strength: int) -> list[dict[str, Any]]:
    return covering(COMMON | FAMILIES[family], strength)


def name_of(choice: dict[str, Any]) -> str:
    values = [str(v).replace(" ", "") for v in choice.values()]
    return "-".join(values)


def make_layer(family: str, choice: dict[str, Any]) -> tuple[Cell, Any]:
    """The layer, and the reference's cell for it."""
    _, _, I, H = choice["sizes"]
    options = choice.get("form", {}) | choice["functions"]
    options |= {name: choice[name] for name in ("coupled", "peephole") if choice.get(name)}
    structure = {name: choice[name] for name in ("zoneout", "recurrent_dropout", "weight_dropout", "bias")}
    structure = {name: value for name, value in structure.items() if value is not None}
    if "layer_norm_eps" in choice:
        structure |= {"layer_norm": True, "layer_norm_eps": choice["layer_norm_eps"]}
    if "window" in choice:
        structure["window"] = choice["window"]
    if choice.get("proj_size"):
        structure["proj_size"] = max(1, H // 3)
    way = choice["way"]
    if way == "backwards":
        structure["backwards"] = True
    elif way != "one":
        structure |= {"bidirectional": True, "merge": way}
    seed = zlib.crc32(name_of(choice).encode())
    family = family.split()[0]
    layer = KINDS[family](
        *(I, H, choice["num_layers"]),
        batch_first=choice["batch_first"],
        learned_state=choice["state"].startswith("learned"),
        dtype=choice["dtype"],
        rng=seed,
        **structure,
        **options,
    )
    rng = np.random.default_rng(seed)
    for name, w in layer.params.items():  # learned states start at zero, and at the usual scale gates are nearly linear
        w[...] = rng.standard_normal(w.shape) * (0.4 if w.ndim == 1 or "peephole" in name else (I + H) ** -0.5)
    return cell_of(family, options), layer


def make_call(layer: Any, choice: dict[str, Any], rng: np.random.Generator) -> tuple[Any, Any, dict[str, Any]]:
    """x and state, time-major and batched, and the arguments that say which steps run."""
    T, B, I, H = choice["sizes"]
    D = 1 + layer.bidirectional
    units = (getattr(layer, "proj_size", 0) or H, H)[: 1 + isinstance(layer, PAIRS)]
    x = rng.integers(0, I, (T, B)) if choice["tokens"] else rng.standard_normal((T, B, I)).astype(layer.dtype)
    given = choice["state"].endswith("given")
    state = [rng.standard_normal((layer.num_layers * D, B, n)).astype(layer.dtype) for n in units] if given else None
    rows, steps = choice["rows"], {"past_end": choice["past_end"]}
    if rows in ("lengths", "all"):
        lengths = rng.integers(0, T + 1, B)
        lengths[rng.permutation(B)[:2]] = (T, 0)[: min(B, 2)]
        steps["lengths"] = lengths
    if rows in ("mask", "all"):
        steps["mask"] = rng.random((T, B)) < 0.7
    if rows in ("reset", "all"):
        steps["reset"] = rng.random((T, B)) < 0.3
    return x, state, steps


def pair_of(layer: Any) -> bool:
    """Whether the outputs are a pair."""
    return bool(layer.bidirectional and layer.merge is None)


def checker(layer: Any, choice: dict[str, Any]) -> Checker:
    T, B, I, H = choice["sizes"]
    return Checker(layer.dtype, max(4 * H, I + H, T * B), T * layer.num_layers)


def as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


@pytest.mark.parametrize(
    ("family", "choice"),
    [
        pytest.param(family, choice, id=f"{family}-{k}")
        for family in FAMILIES
        for k, choice in enumerate(choices(family, 3))
    ],
)
def test_layers_equal_their_composition(family, choice):
    cell, layer = make_layer(family, choice)
    rng = np.random.default_rng(1)
    x, state, steps = make_call(layer, choice, rng)
    S = 1 + isinstance(layer, PAIRS)

    def turn(array: Any) -> Any:
        return array.swapaxes(0, 1) if layer.batch_first else array

    given = None if state is None else tuple(state) if S == 2 else state[0]
    ours = steps | {name: turn(steps[name]) for name in ("mask", "reset") if name in steps}
    with fusedrnn.use_isa(choice["isa"]):
        y, state_n, tape = layer.forward(turn(x), given, **ours)
        expected = compose(cell, layer, x, state, steps, tape.masks)
        dys = [rng.standard_normal(e.shape).astype(layer.dtype) for e in as_tuple(expected.y)]
        dstate = [rng.standard_normal(s.shape).astype(layer.dtype) for s in expected.state]
        pair = pair_of(layer)
        turned = tuple(turn(d) for d in dys)
        grads = tape.backward(turned if pair else turned[0], tuple(dstate) if S == 2 else dstate[0])
        calm, calm_n = layer(turn(x), given, **ours)
        frozen = layer.freeze()
        thawed = pickle.loads(pickle.dumps(frozen))
        assert_same_bits([*thawed(turn(x), given, **ours)], [calm, calm_n], "frozen")
        if not layer.zoneout and steps["past_end"] == "zero":
            seen = layer.inspect(turn(x), given, **{name: ours[name] for name in ours if name != "past_end"})
            top = [turn(h) for h in seen.outputs[-1 - layer.bidirectional :]]
            assert_same_bits([*as_tuple(join(layer.merge, top))], [turn(y) for y in as_tuple(calm)], "seen")
        if choice["way"] == "one" and choice["rows"] == "full" and not choice["tokens"]:
            stream = frozen.stream(batch_size=x.shape[1])
            if given is not None:
                stream.state = given
            assert_same_bits([stream.step(x_t) for x_t in x], list(turn(calm)), "stream")
            assert_same_bits(stream.state, calm_n, "state of the stream")

    dx, dstate_0, dparams = expected.backward(dys if pair else dys[0], dstate)
    check = checker(layer, choice)
    check.group("results", [turn(a) for a in as_tuple(y)], as_tuple(expected.y))
    check.group("state", as_tuple(state_n), expected.state)
    assert (grads.x is None) == choice["tokens"]
    if grads.x is not None:
        check.group("gradients", [turn(grads.x)], [dx])
    check.group("dstate", as_tuple(grads.state), dstate_0)
    assert list(grads.params) == list(layer.params)
    check.group("parameters", [grads.params[name] for name in layer.params], [dparams[name] for name in layer.params])
    expected = compose(cell, layer, x, state, steps)
    check.group("inference", [turn(a) for a in as_tuple(calm)], as_tuple(expected.y))
    check.group("state of inference", as_tuple(calm_n), expected.state)


@pytest.mark.parametrize(
    ("family", "choice"),
    [
        pytest.param(family, choice, id=f"{family}-{k}")
        for family in FAMILIES
        for k, choice in enumerate(choices(family, 2))
    ],
)
def test_the_composition_against_differences(family, choice):
    """The reference itself, at small sizes: finite differences along two directions of each argument."""
    choice = choice | {"sizes": (4, 3, 2, 4), "dtype": "float64", "isa": fusedrnn.current_isa()}
    if "layer_norm_eps" in choice:  # the variance of four numbers may be almost zero, and all derivatives large
        choice = choice | {"layer_norm_eps": 0.1}
    if has_kinks(choice) or "softsign" in choice["functions"].values():  # the formula needs more derivatives than one
        choice = choice | {"functions": {"activation": ("scaled_tanh", 1.7, 0.6)}}
    cell, layer = make_layer(family, choice)
    rng = np.random.default_rng(1)
    x, state, steps = make_call(layer, choice, rng)
    given = None if state is None else tuple(state) if len(state) == 2 else state[0]
    flags = [name for name in ("mask", "reset") if name in steps]
    ours = steps | ({name: steps[name].swapaxes(0, 1) for name in flags} if layer.batch_first else {})
    _, _, tape = layer.forward(x.swapaxes(0, 1) if layer.batch_first else x, given, **ours)  # for its masks
    arguments = dict(layer.params)
    arguments |= {} if choice["tokens"] else {"x": x}
    arguments |= {} if state is None else {f"state {k}": s for k, s in enumerate(state)}

    def run(changes: dict[str, Any]) -> Any:
        a = {name: value + changes.get(name, 0.0) for name, value in arguments.items()}
        s = None if state is None else [a[f"state {k}"] for k in range(len(state))]
        return compose(cell, layer, a.get("x", x), s, steps, tape.masks, {name: a[name] for name in layer.params})

    made = run({})
    pair = pair_of(layer)
    dys = [rng.standard_normal(e.shape) for e in as_tuple(made.y)]
    dstate = [rng.standard_normal(s.shape) for s in made.state]

    def loss(changes: dict[str, Any]) -> float:
        other = run(changes)
        results = [*as_tuple(other.y), *other.state]
        return float(sum((r * d).sum() for r, d in zip(results, [*dys, *dstate], strict=True)))

    dx, dstate_0, dparams = made.backward(dys if pair else dys[0], dstate)
    grads = {name: dparams[name] for name in layer.params} | {"x": dx}
    grads |= {f"state {k}": d for k, d in enumerate(dstate_0)}
    found, expected = [], []
    for name, value in arguments.items():
        for _ in range(2):
            along = rng.standard_normal(value.shape)
            along /= np.linalg.norm(along)
            moved = [loss({name: step * along}) for step in (1e-3, -1e-3, 2e-3, -2e-3)]
            expected.append((8 * (moved[0] - moved[1]) - (moved[2] - moved[3])) / 12e-3)
            found.append(float((grads[name] * along).sum()))
    assert_close(
        np.array(found), np.array(expected), dtype=np.float64, K=1, T=1, what=repr(layer), quantity="central_difference"
    )
