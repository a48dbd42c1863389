"""Layer normalisation: the reference against torch and finite differences, the kernels against the reference."""

import copy
import pickle
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pytest

import fusedrnn
from fusedrnn import interop, reference
from fusedrnn.reference import LayerNorm
from problems import assert_same_bits
from tolerances import assert_close

CELLS = pytest.mark.parametrize("cell", ["gru_after", "lstm"])
REVERSE = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])

EPS = 1e-5


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer in one direction, its arguments by name, and gradients of its results."""

    cell: str
    arrays: dict[str, Any]  # x, h_0, c_0, parameters under a layer's names
    dy: Any
    dstate: tuple[Any, ...]
    steps: dict[str, Any]  # lengths, mask, reset, past_end, reverse
    drops: dict[str, Any]  # recurrent_mask, zoneout

    def but(self, **changes: Any) -> Self:
        return replace(self, **changes)

    def forward(self, arrays: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        """y, h_n, c_n by name, and the tape, of the reference."""
        a = self.arrays if arrays is None else arrays
        state = tuple(a[name] for name in ("h_0", "c_0") if name in a)
        weights = (a["weight_ih"], a["weight_hh"], a.get("bias_ih"), a.get("bias_hh"))
        norm = LayerNorm(*(a.get(name) for name in NORM), EPS)
        y, state_n, tape = reference.forward(
            self.cell, a["x"], state, *weights, layer_norm=norm, **self.steps, **self.drops
        )
        return {"y": y} | dict(zip(("h_n", "c_n"), state_n, strict=False)), tape

    def backward(self, tape: Any) -> dict[str, Any]:
        """Gradients under the names of `arrays`."""
        grads = reference.backward(tape, self.dy, self.dstate)
        found = {"x": grads.dx} | dict(zip(("h_0", "c_0"), grads.dstate, strict=False))
        found |= {"weight_ih": grads.dW_ih, "weight_hh": grads.dW_hh, "bias_ih": grads.db_ih, "bias_hh": grads.db_hh}
        assert grads.dlayer_norm is not None
        found |= dict(zip(NORM, grads.dlayer_norm, strict=False))
        return {name: value for name, value in found.items() if value is not None}

    def run(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Results and gradients of the reference."""
        results, tape = self.forward()
        return results, self.backward(tape)


NORM = ("weight_ln_ih", "weight_ln_hh", "weight_ln_c", "bias_ln_c")


def draw(
    rng: np.random.Generator,
    cell: str,
    dtype: Any = "float64",
    *,
    T: int = 6,
    B: int = 5,
    I: int = 7,
    H: int = 9,
    reverse: bool = False,
    flags: bool = True,
    drops: bool = True,
    tokens: bool = False,
    bias: bool = True,
) -> Problem:
    """`flags`: lengths, a mask and resets; `drops`: recurrent dropout and zoneout."""
    G, S = {"gru_after": (3, 1), "lstm": (4, 2)}[cell]

    def normal(*shape: int, scale: float = 1.0, mean: float = 0.0) -> Any:
        return (mean + scale * rng.standard_normal(shape)).astype(dtype)

    arrays: dict[str, Any] = {"x": rng.integers(0, I, (T, B)) if tokens else normal(T, B, I)}
    arrays |= {name: normal(B, H) for name in ("h_0", "c_0")[:S]}
    arrays |= {"weight_ih": normal(G * H, I, scale=I**-0.5), "weight_hh": normal(G * H, H, scale=H**-0.5)}
    if bias:
        arrays |= {"bias_ih": normal(G * H, scale=0.5), "bias_hh": normal(G * H, scale=0.5)}
    arrays |= {name: normal(G * H, scale=0.2, mean=0.7) for name in NORM[:2]}
    if S == 2:
        arrays |= {"weight_ln_c": normal(H, scale=0.2, mean=1.0), "bias_ln_c": normal(H, scale=0.3)}
    steps: dict[str, Any] = {"reverse": reverse}
    if flags:
        lengths = rng.integers(0, T + 1, B)
        lengths[:2] = (T, 0)[: min(B, 2)]
        steps |= {"lengths": lengths, "mask": rng.random((T, B)) < 0.8, "reset": rng.random((T, B)) < 0.2}
    given: dict[str, Any] = {}
    if drops:
        given["recurrent_mask"] = (rng.random((B, H)) < 0.75) / np.asarray(0.75, dtype)
        given["zoneout"] = tuple((rng.random((T, B, H)) < p) for p in (0.3, 0.2)[:S])
    dstate = tuple(normal(B, H) for _ in range(S))
    return Problem(cell, arrays, normal(T, B, H), dstate, steps, given)


# ---- the reference


@CELLS
@REVERSE
@pytest.mark.parametrize("flags", [False, True], ids=["full", "flags"])
@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
def test_the_references_gradients_are_those_of_differences(cell, reverse, flags, tokens, rng):
    problem = draw(rng, cell, reverse=reverse, flags=flags, drops=flags, tokens=tokens)
    _, grads = problem.run()
    assert grads.keys() == problem.arrays.keys() - ({"x"} if tokens else set())

    def loss(**moved: Any) -> float:
        results, _ = problem.forward(problem.arrays | moved)
        return float(sum((a * b).sum() for a, b in zip(results.values(), (problem.dy, *problem.dstate), strict=True)))

    step = 1e-4
    for name, gradient in grads.items():
        for _ in range(3):
            direction = rng.standard_normal(gradient.shape)

            def at(shift: float, name: str = name, direction: Any = direction) -> float:
                return loss(**{name: problem.arrays[name] + shift * direction})

            near, far = at(step) - at(-step), at(2 * step) - at(-2 * step)
            slope, expected = (8 * near - far) / (12 * step), (gradient * direction).sum()
            scale = max(np.abs(gradient * direction).sum(), 1.0)
            assert abs(slope - expected) <= 1e-7 * scale, f"{name}: {slope} and {expected}"


@CELLS
@REVERSE
def test_the_reference_equals_torchs_autograd(cell, reverse, rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    problem = draw(rng, cell, reverse=reverse, flags=False)
    results, grads = problem.run()

    t = {name: torch.tensor(array, requires_grad=True) for name, array in problem.arrays.items()}
    H, F = len(problem.dstate[0][0]), torch.nn.functional
    mask = torch.tensor(problem.drops["recurrent_mask"])
    kept = [torch.tensor(k) for k in problem.drops["zoneout"]]
    h, c = t["h_0"], t.get("c_0")
    y = [h] * len(t["x"])
    for k in reversed(range(len(y))) if reverse else range(len(y)):
        x_part, h_part = t["x"][k] @ t["weight_ih"].T, (mask * h) @ t["weight_hh"].T

        def norm(part: Any, source: str, rows: slice) -> Any:
            gain, bias = t[f"weight_ln_{source}"][rows], t[f"bias_{source}"][rows]
            return F.layer_norm(part[:, rows], gain.shape, gain, bias, EPS)

        if cell == "lstm":
            every = slice(None)
            i, f, g, o = (norm(x_part, "ih", every) + norm(h_part, "hh", every)).chunk(4, 1)
            c_new = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            seen = F.layer_norm(c_new, (H,), t["weight_ln_c"], t["bias_ln_c"], EPS)
            h_new = torch.sigmoid(o) * torch.tanh(seen)
            c = torch.where(kept[1][k], c, c_new)
        else:
            both, last = slice(0, 2 * H), slice(2 * H, 3 * H)
            r, z = torch.sigmoid(norm(x_part, "ih", both) + norm(h_part, "hh", both)).chunk(2, 1)
            n = torch.tanh(norm(x_part, "ih", last) + r * norm(h_part, "hh", last))
            h_new = (1 - z) * n + z * h
        h = torch.where(kept[0][k], h, h_new)
        y[k] = h
    found = {"y": torch.stack(y), "h_n": h} | ({} if c is None else {"c_n": c})
    sum(
        (value * torch.tensor(d)).sum() for value, d in zip(found.values(), (problem.dy, *problem.dstate), strict=True)
    ).backward()  # type: ignore[union-attr]
    for name, value in results.items():
        np.testing.assert_allclose(value, found[name].detach(), rtol=0, atol=1e-12, err_msg=name)
    for name, gradient in grads.items():
        scale = float(np.abs(gradient).max())
        np.testing.assert_allclose(gradient, t[name].grad, rtol=0, atol=1e-12 * scale, err_msg=name)


def test_the_reference_refuses_what_has_no_such_form():
    norm = LayerNorm(np.ones(15), np.ones(15))
    with pytest.raises(ValueError, match="layer_norm is available for"):
        reference.forward(
            "gru_before", np.ones((2, 1, 4)), (None,), np.ones((15, 4)), np.ones((15, 5)), layer_norm=norm
        )


# ---- the kernels


def layer_of(problem: Problem, **options: Any) -> Any:
    """The layer of one direction with the problem's parameters."""
    a = problem.arrays
    make: Any = {"gru_after": fusedrnn.GRU, "lstm": fusedrnn.LSTM}[problem.cell]
    (rows, I), H = a["weight_ih"].shape, a["weight_hh"].shape[1]
    del rows
    options = {"bias": "bias_ih" in a, "backwards": problem.steps["reverse"]} | options
    if problem.drops:
        options = {"recurrent_dropout": 0.25, "zoneout": 0.5} | options
    layer = make(I, H, layer_norm=True, layer_norm_eps=EPS, dtype=a["weight_ih"].dtype, rng=0, **options)
    layer.load_state_dict({f"{k}_l0": v for k, v in a.items() if k not in ("x", "h_0", "c_0")})
    return layer


def masks_of(problem: Problem) -> dict[str, Any] | None:
    if not problem.drops:
        return None
    masks = {"recurrent_dropout": problem.drops["recurrent_mask"][None] > 0}
    return masks | {f"zoneout_{s}": k[None] for s, k in zip("hc", problem.drops["zoneout"], strict=False)}


def run(problem: Problem, layer: Any | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results and gradients of the layer, named as those of the reference."""
    layer = layer_of(problem) if layer is None else layer
    names = [name for name in ("h_0", "c_0") if name in problem.arrays]
    state = tuple(problem.arrays[name][None] for name in names)
    dstate = tuple(d[None] for d in problem.dstate)
    steps = {name: value for name, value in problem.steps.items() if name != "reverse"}
    one = len(names) == 1
    y, state_n, tape = layer.forward(problem.arrays["x"], state[0] if one else state, masks=masks_of(problem), **steps)
    grads = tape.backward(problem.dy, dstate[0] if one else dstate)
    results = {"y": y} | dict(zip(("h_n", "c_n"), [s[0] for s in ((state_n,) if one else state_n)], strict=False))
    found = {} if grads.x is None else {"x": grads.x}
    found |= dict(zip(names, [s[0] for s in ((grads.state,) if one else grads.state)], strict=True))
    return results, found | {name.removesuffix("_l0"): d for name, d in grads.params.items()}


def check(problem: Problem) -> None:
    results, grads = run(problem)
    expected, expected_grads = problem.run()
    T, B = problem.dy.shape[:2]
    (rows, I), H = problem.arrays["weight_ih"].shape, problem.arrays["weight_hh"].shape[1]
    K = max(rows, I + H, T * B)
    for got, wanted in (results, expected), (grads, expected_grads):
        assert got.keys() == wanted.keys()
        for name, value in wanted.items():
            what = f"{problem.cell} T={T} B={B} I={I} H={H}: {name}"
            assert_close(got[name], value, dtype=problem.dy.dtype, K=K, T=T, what=what)


@CELLS
@DTYPES
@REVERSE
@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize(
    "sizes", [(7, 9, 13, 17), (40, 23, 33, 20), (11, 1, 5, 40), (5, 70, 30, 33), (2, 5, 51, 33)], ids=str
)
def test_kernels_equal_the_reference(cell, isa, dtype, sizes, tokens, reverse, rng):
    T, B, I, H = sizes
    for every in False, True:
        check(draw(rng, cell, dtype, T=T, B=B, I=I, H=H, reverse=reverse, tokens=tokens, flags=every, drops=every))


@CELLS
@DTYPES
def test_many_chunks(cell, isa, dtype, rng):
    check(draw(rng, cell, dtype, T=150, B=13, I=9, H=24))


@CELLS
@pytest.mark.parametrize("H", [2, 3])
def test_few_units(cell, isa, H, rng):
    check(draw(rng, cell, "float64", T=5, B=4, I=3, H=H))


@CELLS
def test_one_unit_is_its_own_mean(cell, isa, rng):
    problem = draw(rng, cell, "float64", T=5, B=4, I=3, H=1)
    (results, grads), (expected, expected_grads) = run(problem), problem.run()
    for name, value in (expected | expected_grads).items():  # many gradients are zero except for rounding
        np.testing.assert_allclose((results | grads)[name], value, rtol=1e-12, atol=1e-12, err_msg=name)


@CELLS
def test_no_steps_and_no_rows(cell, rng):
    for T, B in (0, 3), (4, 0), (0, 0):
        problem = draw(rng, cell, "float64", T=T, B=B, flags=False)
        results, grads = run(problem)
        assert_same_bits(results["h_n"], problem.arrays["h_0"], "nothing happened")
        for name in grads.keys() - {"x", "h_0", "c_0"}:
            assert not grads[name].any(), name


@CELLS
@DTYPES
def test_a_mean_far_from_zero_costs_few_digits(cell, isa, dtype, rng):
    """A variance computed as the difference of two squares would have no correct digits left."""
    problem = draw(rng, cell, dtype, T=1, B=9, I=8, H=64, flags=False, drops=False)
    a = problem.arrays
    a["weight_ih"] = (a["weight_ih"] + 300).astype(dtype)
    a["x"] = (np.abs(a["x"]) + 0.5).round(2).astype(dtype)
    (results, _), (expected, _) = run(problem), problem.but(arrays={k: v.astype("f8") for k, v in a.items()}).run()
    ratio = 3000 * np.finfo(dtype).eps  # 3000: the mean, relative to the deviations from it
    np.testing.assert_allclose(results["y"], expected["y"], rtol=0, atol=4 * ratio)


@CELLS
@pytest.mark.parametrize("bias", [False, "single"])
def test_fewer_biases(cell, bias, rng):
    problem = draw(rng, cell, "float64", bias=False)
    if bias:
        problem.arrays["bias_ih"] = rng.standard_normal(len(problem.arrays["weight_ih"]))
    layer = layer_of(problem, bias=bias)
    results, grads = run(problem, layer)
    if bias:
        problem = problem.but(arrays=problem.arrays | {"bias_hh": 0 * problem.arrays["bias_ih"]})
    expected, expected_grads = problem.run()
    expected_grads.pop("bias_hh", None), expected_grads.pop("bias_ih" if not bias else "", None)
    assert_all_close(results, expected), assert_all_close(grads, expected_grads)


def assert_all_close(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(got[name], value, dtype="float64", K=100, T=10, what=name)


@CELLS
def test_zoneout_in_inference_is_its_expectation(cell, isa, rng):
    problem = draw(rng, cell, "float64", flags=False, H=21)
    rates = (0.3, 0.2)[: len(problem.dstate)]
    layer = layer_of(problem, zoneout=rates if cell == "lstm" else 0.3, recurrent_dropout=0.0)
    expected, _ = problem.but(drops={"zoneout": rates}).forward()
    names = [name for name in ("h_0", "c_0") if name in problem.arrays]
    state = [problem.arrays[name][None] for name in names]
    for module in layer, layer.freeze():
        y, _ = module(problem.arrays["x"], tuple(state) if len(state) == 2 else state[0])
        assert_close(y, expected["y"], dtype="float64", K=30, T=6, what="y")
    stream = layer.freeze().stream(len(state[0][0]))
    stream.state = tuple(state) if len(state) == 2 else state[0]
    assert_same_bits(np.stack([stream.step(x) for x in problem.arrays["x"]]), y, "stream")


# ---- bits


@CELLS
@DTYPES
def test_threads_and_batch_change_no_bit(cell, dtype, rng):
    problem = draw(rng, cell, dtype, T=9, B=34, I=50, H=203)
    with fusedrnn.threads(1):
        expected = run(problem)
    for n in 2, 3, 16:
        with fusedrnn.threads(n):
            assert_same_bits(run(problem), expected, f"{n} threads")
    for rows in [0], [33, 2], list(range(5, 20)):
        a, steps = problem.arrays, problem.steps
        alone = problem.but(
            arrays=a | {"x": a["x"][:, rows]} | {name: a[name][rows] for name in ("h_0", "c_0") if name in a},
            dy=problem.dy[:, rows],
            dstate=tuple(d[rows] for d in problem.dstate),
            steps={
                "reverse": False,
                "lengths": steps["lengths"][rows],
                "mask": steps["mask"][:, rows],
                "reset": steps["reset"][:, rows],
            },
            drops={
                "recurrent_mask": problem.drops["recurrent_mask"][rows],
                "zoneout": tuple(k[:, rows] for k in problem.drops["zoneout"]),
            },
        )
        results, grads = run(alone)
        assert_same_bits(results["y"], expected[0]["y"][:, rows], "y")
        assert_same_bits(grads["x"], expected[1]["x"][:, rows], "dx")
        assert_same_bits(grads["h_0"], expected[1]["h_0"][rows], "dh_0")


@pytest.mark.parametrize("make", [fusedrnn.GRU, fusedrnn.LSTM])
@DTYPES
@pytest.mark.parametrize("B", [1, 2, 7])
def test_streams_frozen_layers_and_tapes_have_the_same_bits(make, isa, dtype, B, rng):
    layer = make(12, 37, num_layers=2, layer_norm=True, zoneout=0.0, dtype=dtype, rng=0)
    perturb(layer, rng)
    x, reset = rng.standard_normal((11, B, 12)).astype(dtype), rng.random((11, B)) < 0.3
    y, state = layer(x, reset=reset)
    frozen = layer.freeze()
    assert_same_bits(frozen(x, reset=reset), (y, state), "frozen")
    assert_same_bits(pickle.loads(pickle.dumps(frozen))(x, reset=reset)[0], y, "pickled")
    assert_same_bits(layer.forward(x, reset=reset)[:2], (y, state), "tape")
    stream = frozen.stream(B)
    steps = []
    for x_t, reset_t in zip(x, reset, strict=True):
        stream.reset(reset_t)
        steps.append(stream.step(x_t))
    assert_same_bits(np.stack(steps), y, "stream")
    first, middle = layer(x[:4])
    assert_same_bits(np.concatenate([first, layer(x[4:], middle)[0]]), layer(x)[0], "two calls")


@CELLS
@DTYPES
def test_a_nan_stays_in_its_row(cell, isa, dtype, rng):
    problem = draw(rng, cell, dtype, H=21, flags=False)
    (good, good_grads), a = run(problem), problem.arrays
    spoiled = problem.but(arrays=a | {"x": np.where(np.arange(5)[:, None] == 2, np.nan, a["x"]).astype(dtype)})
    results, grads = run(spoiled)
    others = [0, 1, 3, 4]
    assert_same_bits(results["y"][:, others], good["y"][:, others], "y")
    assert_same_bits(grads["x"][:, others], good_grads["x"][:, others], "dx")
    assert np.isnan(results["y"][-1, 2]).all()


@pytest.mark.parametrize("make", [fusedrnn.GRU, fusedrnn.LSTM])
def test_a_stream_recovers_from_nan(make, isa, rng):
    stream = make(3, 5, layer_norm=True, rng=0).freeze().stream(2)
    x = rng.standard_normal((2, 3)).astype("f4")
    start = copy.deepcopy(stream.state)
    expected = stream.step(x)
    stream.step(np.full((2, 3), np.nan, np.float32))
    stream.state = start
    assert_same_bits(stream.step(x), expected, "after its state was set")


def perturb(layer: Any, rng: np.random.Generator) -> None:
    """Gains and biases as they might be after some training."""
    for name, array in layer.params.items():
        if "_ln_" in name:
            array += 0.2 * rng.standard_normal(array.shape).astype(array.dtype)


# ---- layers


@pytest.mark.parametrize("make", [fusedrnn.GRU, fusedrnn.LSTM])
@pytest.mark.parametrize("merge", ["concat", "mean"])
def test_stacks_of_two_directions_equal_their_composition(make, merge, rng):
    layer = make(5, 18, num_layers=2, bidirectional=True, merge=merge, layer_norm=True, dtype="f8", rng=0)
    perturb(layer, rng)
    x, lengths = rng.standard_normal((7, 4, 5)), [7, 0, 3, 5]
    y, _, tape = layer.forward(x, lengths=lengths)
    tapes, below = [], x
    for k in range(2):
        parts = []
        for suffix in "", "_reverse":
            one = make(below.shape[-1], 18, layer_norm=True, backwards=bool(suffix), dtype="f8")
            one.load_state_dict({name: layer.params[f"{name[:-3]}_l{k}{suffix}"] for name in one.params})
            out, _, its = one.forward(below, lengths=lengths)
            parts.append(out), tapes.append(its)
        below = np.concatenate(parts, -1) if merge == "concat" else (parts[0] + parts[1]) * 0.5
    assert_same_bits(y, below, "y")
    dy = rng.standard_normal(y.shape)
    grads = tape.backward(dy)
    for k in 1, 0:
        d = np.split(dy, 2, -1) if merge == "concat" else [dy * 0.5] * 2
        both = [its.backward(part) for its, part in zip(tapes[2 * k : 2 * k + 2], d, strict=True)]
        for its, suffix in zip(both, ("", "_reverse"), strict=True):
            for name, value in its.params.items():
                assert_same_bits(grads.params[f"{name[:-3]}_l{k}{suffix}"], value, name)
        dy = both[0].x + both[1].x
    np.testing.assert_allclose(grads.x, dy, rtol=0, atol=1e-12 * np.abs(dy).max())


def test_the_parameters_and_where_they_start():
    layer = fusedrnn.LSTM(3, 5, num_layers=2, bidirectional=True, layer_norm=True, rng=0)
    plain = fusedrnn.LSTM(3, 5, num_layers=2, bidirectional=True, rng=0)
    names = [name for name in layer.params if name.endswith("_l1_reverse")]
    expected = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", *NORM]
    assert names == [f"{name}_l1_reverse" for name in expected]
    shapes = {name: layer.params[f"{name}_l0"].shape for name in NORM}
    assert shapes == {"weight_ln_ih": (20,), "weight_ln_hh": (20,), "weight_ln_c": (5,), "bias_ln_c": (5,)}
    for name, array in layer.params.items():
        if "_ln_" in name:
            assert (array == (0 if name.startswith("bias") else 1)).all()
        else:
            assert_same_bits(array, plain.params[name], name)
    gru = fusedrnn.GRU(3, 5, layer_norm=True)
    assert [*gru.params][4:] == ["weight_ln_ih_l0", "weight_ln_hh_l0"]
    assert repr(gru) == "GRU(3, 5, layer_norm=True)"
    assert gru != fusedrnn.GRU(3, 5)


@pytest.mark.parametrize("make", [fusedrnn.GRU, fusedrnn.LSTM])
def test_copies_pickles_and_files_keep_it(make, rng, tmp_path):
    layer = make(3, 5, num_layers=2, layer_norm=True, layer_norm_eps=1e-3, rng=0)
    perturb(layer, rng)
    interop.save_npz(layer, tmp_path / "a.npz")
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), interop.load_npz(tmp_path / "a.npz")]
    try:
        import safetensors
    except ImportError:
        pass
    else:
        del safetensors
        interop.save_safetensors(layer, tmp_path / "a.safetensors")
        copies.append(interop.load_safetensors(tmp_path / "a.safetensors"))
    x = rng.standard_normal((4, 2, 3)).astype("f4")
    for other in copies:
        assert other == layer
        assert other.layer_norm_eps == 1e-3
        assert_same_bits(other(x), layer(x), "copy")
    assert not np.array_equal(layer(x)[0], make(3, 5, num_layers=2, layer_norm=True, rng=0)(x)[0])


@pytest.mark.parametrize("make", [fusedrnn.GRU, fusedrnn.LSTM])
def test_weight_dropout_and_learned_states(make, rng):
    layer = make(3, 8, layer_norm=True, weight_dropout=0.5, learned_state=True, dtype="f8", rng=0)
    perturb(layer, rng)
    for name in layer.params:
        if name in ("h_0_l0", "c_0_l0"):
            layer.params[name][:] = rng.standard_normal(8)
    x = rng.standard_normal((4, 3, 3))
    y, _, tape = layer.forward(x)
    dy = rng.standard_normal(y.shape)
    grads = tape.backward(dy)
    for name, gradient in grads.params.items():
        direction, ends = rng.standard_normal(gradient.shape), []
        for shift in 1e-5, -1e-5:
            moved = copy.deepcopy(layer)
            moved.params[name] += shift * direction
            ends.append((moved.forward(x, masks=tape.masks)[0] * dy).sum())
        slope = (ends[0] - ends[1]) / 2e-5
        assert abs(slope - (gradient * direction).sum()) < 1e-6 * max(1, np.abs(gradient * direction).sum()), name


@pytest.mark.parametrize("make", [fusedrnn.GRU, fusedrnn.LSTM])
def test_groups_of_layers(make, rng):
    layers = [make(6, 6, layer_norm=True, dtype="f8", rng=k) for k in range(3)]
    for layer in layers:
        perturb(layer, rng)
    x = rng.standard_normal((5, 3, 6))
    stack = fusedrnn.Stack(layers[:2])
    assert_same_bits(stack(x)[0], layers[1](layers[0](x)[0])[0], "Stack")
    y, _, tape = stack.forward(x)
    above = layers[1].forward(layers[0](x)[0])[2].backward(y)
    assert_same_bits(tape.backward(y).x, layers[0].forward(x)[2].backward(above.x).x, "Stack, backward")
    both = fusedrnn.Bidirectional(layers[0], layers[1])
    assert_same_bits(both(x)[0][..., :6], layers[0](x)[0], "Bidirectional")
    assert_same_bits(both(x)[0][..., 6:][::-1], layers[1](x[::-1])[0], "Bidirectional, reverse")
    ensemble = fusedrnn.Ensemble(layers)
    for k, layer in enumerate(layers):
        assert_same_bits(ensemble(x)[0][k], layer(x)[0], "Ensemble")


def test_inspect_shows_normalised_gates(rng):
    x = rng.standard_normal((6, 3, 4))
    gru = fusedrnn.GRU(4, 9, num_layers=2, layer_norm=True, dtype="f8", rng=0)
    perturb(gru, rng)
    seen = gru.inspect(x)
    before = np.concatenate([np.zeros((2, 1, 3, 9)), seen.outputs[:, :-1]], 1)
    z, n = seen.gates["z"], seen.gates["n"]
    np.testing.assert_allclose((1 - z) * n + z * before, seen.outputs, rtol=0, atol=1e-13)
    lstm = fusedrnn.LSTM(4, 9, num_layers=2, layer_norm=True, dtype="f8", rng=0)
    perturb(lstm, rng)
    seen = lstm.inspect(x)
    before = np.concatenate([np.zeros((2, 1, 3, 9)), seen.c[:, :-1]], 1)
    i, f, g, o = (seen.gates[name] for name in "ifgo")
    np.testing.assert_allclose(f * before + i * g, seen.c, rtol=0, atol=1e-13)
    for k in range(2):
        normal = seen.c[k] - seen.c[k].mean(-1, keepdims=True)
        normal /= np.sqrt((normal**2).mean(-1, keepdims=True) + 1e-5)
        what = o[k] * np.tanh(normal * lstm.params[f"weight_ln_c_l{k}"] + lstm.params[f"bias_ln_c_l{k}"])
        np.testing.assert_allclose(what, seen.outputs[k], rtol=0, atol=1e-12)


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "options", "name"),
    [
        (fusedrnn.GRU, {"reset_after": False}, "reset_after is False"),
        (fusedrnn.GRU, {"reset_gate": False}, "reset_gate is False"),
        (fusedrnn.GRU, {"activation": "relu"}, "activation is 'relu'"),
        (fusedrnn.GRU, {"recurrent_activation": "hard_sigmoid"}, "recurrent_activation is"),
        (fusedrnn.GRU, {"clip": 3.0}, "clip is 3.0"),
        (fusedrnn.LSTM, {"proj_size": 2}, "proj_size is 2"),
        (fusedrnn.LSTM, {"peephole": "ifo"}, "peephole is 'ifo'"),
        (fusedrnn.LSTM, {"coupled": True}, "coupled is True"),
        (fusedrnn.LSTM, {"cell_clip": 1.0}, "cell_clip is 1.0"),
        (fusedrnn.LSTM, {"output_activation": "linear"}, "output_activation is 'linear'"),
    ],
)
def test_options_without_such_a_form_are_refused(make, options, name):
    with pytest.raises(ValueError, match=f"{name}.*not available together with layer_norm=True"):
        make(3, 5, layer_norm=True, **options)


def test_the_usual_functions_may_be_named():
    assert fusedrnn.LSTM(3, 5, layer_norm=True, activation="tanh", recurrent_activation="sigmoid").layer_norm


@pytest.mark.parametrize("make", [fusedrnn.GRU, fusedrnn.LSTM])
def test_wrong_arguments(make):
    with pytest.raises(TypeError, match="layer_norm"):
        make(3, 5, layer_norm=1)
    for eps in 0.0, -1.0, float("nan"):
        with pytest.raises(ValueError, match="layer_norm_eps"):
            make(3, 5, layer_norm_eps=eps)
    with pytest.raises(TypeError, match="layer_norm"):
        fusedrnn.RNN(3, 5, layer_norm=True)
    layer = make(3, 5, layer_norm=True)
    layer.params["weight_ln_ih_l0"] = np.ones(4, np.float32)
    with pytest.raises(ValueError, match="weight_ln_ih_l0 has shape"):
        layer(np.ones((2, 1, 3), np.float32))


@pytest.mark.parametrize("make", [fusedrnn.GRU, fusedrnn.LSTM])
def test_other_frameworks_have_no_such_layer(make):
    layer = make(3, 5, layer_norm=True)
    exports = [interop.to_torch, interop.to_keras, interop.to_onnx]
    for export, module in zip(exports, ("torch", "keras", "onnx"), strict=True):
        pytest.importorskip(module, reason=f"{module} is not installed")
        with pytest.raises(ValueError, match="layer_norm=True"):
            export(layer)
    with pytest.raises(ValueError, match="weight_ln_ih_l0, of layer normalisation"):
        interop.from_torch(layer.state_dict())
    with pytest.raises(ValueError, match="layer_norm=True"):
        layer.freeze().c_weights()
