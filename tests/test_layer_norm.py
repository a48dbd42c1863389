"""Layer normalisation: the reference against torch and finite differences, the kernels against the reference."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pytest

from fusedrnn import reference
from fusedrnn.reference import LayerNorm

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
        steps |= {"lengths": lengths, "mask": rng.random((B, T)) < 0.8, "reset": rng.random((T, B)) < 0.2}
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
