"""The reference is right: compared with finite differences, with torch, and with numbers computed by hand.

Nothing here uses the compiled kernels. Other tests compare them with the reference that is verified here.
"""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusedrnn import reference
from fusedrnn.reference import CELLS
from problems import KINKS, VARIANTS, cell_of, has_kinks
from tolerances import assert_close, dot_length

T, B, I, H = 5, 4, 2, 3
LENGTHS = [3, 0, 5, 1]  # unsorted, with an empty row and a full one


@dataclass
class Case:
    """A layer's arguments, and gradients of its results; the values in padding must never matter."""

    cell: str
    args: dict[str, Any]  # x, state_0, (state_1), W_ih, W_hh, (b_ih, b_hh)
    dy: Any
    dstate_n: tuple[Any, ...]
    lengths: Any = None
    reverse: bool = False
    options: dict[str, Any] | None = None  # of a family that `cell` names then

    def forward(self, **changes: Any) -> Any:
        args = self.args | changes
        state = tuple(args[f"state_{k}"] for k in range(cell_of(self.cell, self.options).states))
        weights = (args["W_ih"], args.get("W_hh"), args.get("b_ih"), args.get("b_hh"))
        options = {"W_peephole": args.get("W_peephole"), "lengths": self.lengths, "reverse": self.reverse}
        return reference.forward(cell_of(self.cell, self.options), args["x"], state, *weights, **options)

    def grads(self) -> dict[str, Any]:
        _, _, tape = self.forward()
        grads = reference.backward(tape, self.dy, self.dstate_n)
        states = {f"state_{k}": grads.dstate[k] for k in range(len(grads.dstate))}
        rest = {"x": grads.dx, "W_ih": grads.dW_ih, "b_ih": grads.db_ih}
        if cell_of(self.cell, self.options).recurrent:
            rest |= {"W_hh": grads.dW_hh, "b_hh": grads.db_hh}
        return states | rest | ({} if grads.dW_peephole is None else {"W_peephole": grads.dW_peephole})

    def loss(self, **changes: Any) -> float:
        """The scalar whose gradients are `grads`."""
        y, state_n, _ = self.forward(**changes)
        dy = np.where(padding(self.lengths, len(y), y.shape[1]), 0.0, self.dy)
        return float((y * dy).sum() + sum((s * ds).sum() for s, ds in zip(state_n, self.dstate_n, strict=True)))


def padding(lengths: Any, T: int, B: int) -> Any:
    """True past a row's length, (T, B, 1)."""
    return np.arange(T)[:, None, None] >= (np.full(B, T) if lengths is None else np.array(lengths))[:, None]


def make_case(
    rng: np.random.Generator,
    cell: str,
    *,
    lengths: Any = None,
    reverse: bool = False,
    bias: bool = True,
    tokens: bool = False,
    sizes: tuple[int, int, int, int] = (T, B, I, H),
    options: dict[str, Any] | None = None,
) -> Case:
    T, B, I, H = sizes
    made = cell_of(cell, options)
    H += H % made.sharing
    I = H if made.skip else I
    GH, S = made.gates * H, made.states
    x = rng.integers(0, I, (T, B)) if tokens else rng.standard_normal((T, B, I))
    dy = rng.standard_normal((T, B, H))
    padded = padding(lengths, T, B)
    dy[padded[..., 0]] = np.nan
    x[padded[..., 0]] = -1 if tokens else np.nan
    args = {"x": x} | {f"state_{k}": rng.standard_normal((B, H)) for k in range(S)}
    args["W_ih"] = rng.standard_normal((GH, I)) / np.sqrt(I)
    if made.recurrent:
        args["W_hh"] = rng.standard_normal((GH, H)) / np.sqrt(H)
    for name in ("b_ih", "b_hh")[: 1 + made.recurrent] if bias else ():
        args[name] = rng.standard_normal(GH)
    if made.unit_parameters:
        args["W_peephole"] = rng.standard_normal((made.unit_parameters, H // made.sharing))
    return Case(cell, args, dy, tuple(rng.standard_normal((S, B, H))), lengths, reverse, options)


def assert_equal_results(actual: Any, expected: Any, what: str, quantity: str = "sequence") -> None:
    assert_close(actual, expected, dtype=np.float64, K=1, T=1, what=what, quantity=quantity)


# ---- against differences


def central_difference(case: Case, name: str) -> Any:
    """Gradient of the loss by a fourth-order difference formula, one element after the other."""
    # No formula holds across a kink: use a step so small that no kink is crossed.
    step = 1e-6 if case.cell in KINKS or has_kinks(case.options or {}, second=True) else 1e-3
    value = case.args[name]
    grad = np.zeros_like(value)
    for index in np.ndindex(value.shape):

        def loss(shift: float, index: tuple[int, ...] = index) -> float:
            moved = value.copy()
            moved[index] += shift
            return case.loss(**{name: moved})

        near, far = loss(step) - loss(-step), loss(2 * step) - loss(-2 * step)
        grad[index] = (8 * near - far) / (12 * step)
    return grad


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    "options",
    [{}, {"lengths": LENGTHS}, {"bias": False}, {"tokens": True}, {"lengths": LENGTHS, "tokens": True, "bias": False}],
    ids=["plain", "lengths", "no-bias", "tokens", "lengths-tokens-no-bias"],
)
def test_gradients_are_those_of_central_differences(cell, options, reverse, rng):
    case = make_case(rng, cell, reverse=reverse, **options)
    grads = case.grads()
    for name, value in case.args.items():
        if value.dtype.kind == "f":
            what = f"{cell}: gradient of {name}"
            assert_equal_results(grads[name], central_difference(case, name), what, "central_difference")
    if "tokens" in options:
        assert grads["x"] is None
    if options.get("bias") is False:
        assert grads["b_ih"] is None
        assert grads.get("b_hh") is None


# ---- against torch


def torch_loop(torch: Any, cell: str, leaf: dict[str, Any], x: Any, lengths: Any, reverse: bool) -> tuple[Any, Any]:
    """Layers that torch lacks, written in torch row by row, independently of the reference."""
    W_ih, W_hh, p = leaf["W_ih"], leaf["W_hh"], leaf.get("W_peephole")
    H = W_hh.shape[1]
    none = torch.zeros(len(W_ih), dtype=x.dtype)
    b_ih, b_hh = leaf.get("b_ih", none), leaf.get("b_hh", none)
    rows, finals = [], []
    for b in range(x.shape[1]):
        h, length = leaf["state_0"][b], int(lengths[b])
        c = leaf["state_1"][b] if "state_1" in leaf else None
        outputs = [torch.zeros(H, dtype=x.dtype)] * len(x)
        for t in reversed(range(length)) if reverse else range(length):

            def gate(k: int, h: Any, t: int = t, b: int = b) -> Any:
                block = slice(k * H, (k + 1) * H)
                return W_ih[block] @ x[t, b] + b_ih[block] + W_hh[block] @ h + b_hh[block]

            if cell == "gru_before":  # Cho et al. 2014
                r, z = torch.sigmoid(gate(0, h)), torch.sigmoid(gate(1, h))
                h = (1 - z) * torch.tanh(gate(2, r * h)) + z * h
            elif cell == "gru_simple":
                z = torch.sigmoid(gate(0, h))
                h = (1 - z) * torch.tanh(gate(1, h)) + z * h
            else:  # Gers, Schraudolph and Schmidhuber 2002
                i, f = torch.sigmoid(gate(0, h) + p[0] * c), torch.sigmoid(gate(1, h) + p[1] * c)
                c = f * c + i * torch.tanh(gate(2, h))
                h = torch.sigmoid(gate(3, h) + p[2] * c) * torch.tanh(c)
            outputs[t] = h
        rows.append(torch.stack(outputs))
        finals.append((h,) if c is None else (h, c))
    return torch.stack(rows, 1), tuple(torch.stack(parts) for parts in zip(*finals, strict=True))


#: The variants of which torch has the layer, or `torch_loop` the equations.
TORCHS = ["rnn_tanh", "rnn_relu", "gru_after", "gru_before", "gru_simple", "lstm", "lstm_ifo"]


def run_torch(torch: Any, cases: list[Case]) -> tuple[list[Any], list[Any], list[dict[str, Any]], Any]:
    """One bidirectional layer whose directions are two cases: their y, final states and gradients, and that of x."""
    cell, lengths = cases[0].cell, cases[0].lengths
    T, B, I = cases[0].args["x"].shape
    H, S = cases[0].args["W_hh"].shape[1], cell_of(cell).states
    padded = padding(lengths, T, B)
    leaves = [
        {k: torch.tensor(v, requires_grad=True) for k, v in case.args.items() if k != "x"} | {"case": case}
        for case in cases
    ]
    # torch multiplies padding by zero in some places, so it gets no NaN
    x = torch.tensor(np.where(padded, 0.0, cases[0].args["x"]), requires_grad=True)
    names = ["W_ih", "W_hh", "b_ih", "b_hh"]
    if cell in ("gru_before", "gru_simple", "lstm_ifo"):
        ends = [T] * B if lengths is None else lengths
        done = [torch_loop(torch, cell, leaf, x, ends, leaf["case"].reverse) for leaf in leaves]
        ys, states = [y for y, _ in done], [state for _, state in done]
    else:
        make, kwargs = {
            "rnn_tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}),
            "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
            "gru_after": (torch.nn.GRU, {}),
            "lstm": (torch.nn.LSTM, {}),
        }[cell]
        bias = "b_ih" in cases[0].args
        layer = make(I, H, bias=bias, bidirectional=True, dtype=torch.float64, **kwargs)
        parameters = {
            torch_name + suffix: leaf[name]
            for leaf, suffix in zip(leaves, ("", "_reverse"), strict=True)
            for name, torch_name in zip(
                names, ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), strict=True
            )
            if name in leaf
        }
        state = tuple(torch.stack([leaf[f"state_{k}"] for leaf in leaves]) for k in range(S))
        data = x
        if lengths is not None:
            data = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, state_n = torch.func.functional_call(layer, parameters, (data, state if S == 2 else state[0]))
        if lengths is not None:
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=T)
        state_n = state_n if S == 2 else (state_n,)
        ys, states = list(y.split(H, dim=2)), [tuple(s[d] for s in state_n) for d in range(2)]
    loss = 0
    for case, y, state_n in zip(cases, ys, states, strict=True):
        loss = loss + (y * torch.tensor(np.where(padded, 0.0, case.dy))).sum()
        loss = loss + sum((s * torch.tensor(ds)).sum() for s, ds in zip(state_n, case.dstate_n, strict=True))
    loss.backward()
    grads = [{k: v.grad.numpy() for k, v in leaf.items() if k != "case"} for leaf in leaves]
    ys = [y.detach().numpy() for y in ys]
    return ys, [tuple(s.detach().numpy() for s in state_n) for state_n in states], grads, x.grad.numpy()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("lengths", [None, [6, 1, 9, 4, 9]], ids=["full", "packed"])
@pytest.mark.parametrize("cell", TORCHS)
def test_both_directions_are_torchs(cell, lengths, bias, rng):
    torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'fusedrnn[torch]'")
    sizes = (9, 5, 7, 8)
    cases = [
        make_case(rng, cell, lengths=lengths, bias=bias, sizes=sizes, reverse=reverse) for reverse in (False, True)
    ]
    cases[1].args["x"] = cases[0].args["x"]
    ys, states, all_grads, dx = run_torch(torch, cases)
    for case, y, state_n, grads in zip(cases, ys, states, all_grads, strict=True):
        what = f"{cell} reverse={case.reverse}"
        actual_y, actual_state_n, _ = case.forward()
        assert_equal_results(actual_y, y, f"{what}: y", "torch")
        for k in range(len(state_n)):
            assert_equal_results(actual_state_n[k], state_n[k], f"{what}: state {k}", "torch")
        for name in grads:
            assert_equal_results(case.grads()[name], grads[name], f"{what}: gradient of {name}", "torch")
    assert_equal_results(cases[0].grads()["x"] + cases[1].grads()["x"], dx, f"{cell}: dx of both directions", "torch")


# ---- the functional API


def test_functions_have_the_cells_results(cell, rng):
    case = make_case(rng, cell, lengths=LENGTHS, reverse=True)
    family, options = VARIANTS[cell]
    options = options | {"lengths": LENGTHS, "reverse": True}
    a = dict(case.args)
    units = "W_peephole" if cell_of(cell).recurrent else "W_unit"
    if "W_peephole" in a:
        options[units] = a.pop("W_peephole")
    x, W = a.pop("x"), [a.pop(name) for name in ("W_ih", "W_hh", "b_ih", "b_hh") if name in a]
    y, *state_n, tape = getattr(reference, f"{family}_forward")(x, *a.values(), *W, **options)
    actual = getattr(reference, f"{family}_backward")(tape, case.dy, *case.dstate_n)._asdict()
    expected_y, expected_state_n, _ = case.forward()
    assert np.array_equal(y, expected_y)
    assert all(np.array_equal(s, e) for s, e in zip(state_n, expected_state_n, strict=True))
    for name, expected in case.grads().items():
        found = actual["d" + {"state_0": "h_0", "state_1": "c_0", "W_peephole": units}.get(name, name)]
        assert np.array_equal(found, expected), (cell, name)


def test_gradients_left_out_are_zeros(cell, rng):
    case = make_case(rng, cell)
    _, _, tape = case.forward()
    zeros = tuple(np.zeros_like(ds) for ds in case.dstate_n)
    nothing = (None,) * len(zeros)
    for given, spelled_out in [
        ((case.dy, nothing), (case.dy, zeros)),
        ((None, case.dstate_n), (np.zeros_like(case.dy), case.dstate_n)),
    ]:
        actual, expected = reference.backward(tape, *given), reference.backward(tape, *spelled_out)
        assert np.array_equal(actual.dx, expected.dx)
        assert np.array_equal(actual.dW_hh, expected.dW_hh)
    assert reference.backward(tape, case.dy, nothing, need_dx=False).dx is None


def test_tape_owns_what_it_needs_and_may_be_used_again(cell, rng):
    case = make_case(rng, cell, lengths=LENGTHS)
    expected = case.grads()
    _, state_n, tape = case.forward()
    before = {name: value.copy() for name, value in case.args.items()}
    first = reference.backward(tape, case.dy, case.dstate_n)
    assert all(np.array_equal(case.args[name], before[name], equal_nan=True) for name in before)
    for array in (*case.args.values(), *state_n):
        array[...] = np.nan
    again = reference.backward(tape, case.dy, case.dstate_n)
    assert np.array_equal(first.dW_ih, expected["W_ih"])
    assert np.array_equal(again.dW_ih, expected["W_ih"])


# ---- by hand


def test_rnn_known_answer():
    # h = 1*1 + 2*1 - 1 = 2, then -1*1 + 2*2 - 1 = 2, then -4*1 + 2*2 - 1 = -1 -> 0
    y, h_n, tape = reference.rnn_forward(
        [[[1.0]], [[-1.0]], [[-4.0]]], [[1.0]], [[1.0]], [[2.0]], [-1.0], nonlinearity="relu"
    )
    assert y.ravel().tolist() == [2.0, 2.0, 0.0]
    assert h_n.tolist() == [[0.0]]
    # No gradient passes through the last step; da_1 = 1, da_0 = 1 + 2 * da_1 = 3, dh_0 = 2 * da_0.
    grads = reference.rnn_backward(tape, np.ones((3, 1, 1)))
    assert grads.dx.ravel().tolist() == [3.0, 1.0, 0.0]
    assert grads.dh_0.tolist() == [[6.0]]
    assert grads.dW_ih.tolist() == [[1.0 * 3 - 1.0 * 1]]
    assert grads.dW_hh.tolist() == [[1.0 * 3 + 2.0 * 1]]
    assert grads.db_ih.tolist() == [4.0]
    assert grads.db_hh is None


def test_rnn_tanh_known_answer():
    y, _, _ = reference.rnn_forward([[[2.0]]], [[3.0]], [[0.25]], [[0.5]], None, [-1.0])
    assert_equal_results(y, np.tanh([[[0.25 * 2 + 0.5 * 3 - 1]]]), "y")


@pytest.mark.parametrize(
    ("reset_after", "n"),
    [(True, np.tanh(0.5 + 0.5 * (1 * 2 + 1))), (False, np.tanh(0.5 + 1 * (0.5 * 2) + 1))],
    ids=["after", "before"],
)
def test_gru_known_answer(reset_after, n):
    # r = z = 1/2 because their inputs are zero; h = 2, W_in x = 0.5, W_hn = 1, b_hn = 1.
    y, _, _ = reference.gru_forward(
        [[[1.0]]], [[2.0]], [[0.0], [0.0], [0.5]], [[0.0], [0.0], [1.0]], None, [0.0, 0.0, 1.0], reset_after=reset_after
    )
    assert_equal_results(y, np.array([[[0.5 * n + 0.5 * 2]]]), "y")


@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_gate_order(reset_after):
    def h_after(r: float, z: float) -> float:
        y, _, _ = reference.gru_forward(
            [[[0.0]]], [[0.5]], np.zeros((3, 1)), [[0.0], [0.0], [2.0]], [r, z, 0.0], reset_after=reset_after
        )
        return float(y[0, 0, 0])

    assert h_after(1000.0, 1000.0) == 0.5  # z open: the state stays
    assert h_after(-1000.0, -1000.0) == 0.0  # z and r closed: n of nothing
    assert h_after(1000.0, -1000.0) == np.tanh(2.0 * 0.5)


def test_lstm_gate_order():
    def states_after(i: float, f: float, g: float, o: float) -> tuple[float, float]:
        x, h_0, c_0, W = [[[0.0]]], [[0.0]], [[0.25]], np.zeros((4, 1))
        _, h_n, c_n, _ = reference.lstm_forward(x, h_0, c_0, W, W, [i, f, g, o])
        return float(h_n[0, 0]), float(c_n[0, 0])

    on, off = 1000.0, -1000.0
    assert states_after(off, on, on, on) == (np.tanh(0.25), 0.25)  # i closed: c stays
    assert states_after(on, off, on, on) == (np.tanh(1.0), 1.0)  # f closed: c is new
    assert states_after(on, on, off, on) == (np.tanh(-0.75), -0.75)  # g is a tanh, not a gate
    assert states_after(on, on, on, off) == (0.0, 1.25)  # o closed: c is hidden


def test_sigmoid_is_precise_in_both_tails():
    x = np.array([-np.inf, -745.0, -100.0, -1.0, 0.0, 1.0, 100.0, np.inf])
    expected = np.array([0.0, np.exp(-745.0), np.exp(-100.0), 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1.0, 1.0])
    for value, target in zip(reference.sigmoid(x), expected, strict=True):
        assert_equal_results(np.array(value), np.array(target), "sigmoid")
    assert np.isnan(reference.sigmoid(np.array(np.nan)))
    assert reference.sigmoid(np.zeros(2, np.float32)).dtype == np.float32


@pytest.mark.parametrize("cell", [name for name in VARIANTS if name != "rnn_relu"])
def test_huge_pre_activations_saturate_without_warnings(cell, rng):
    case = make_case(rng, cell)
    y, _, tape = case.forward(**{name: 1e6 * case.args[name] for name in ("W_ih", "W_hh") if name in case.args})
    grads = reference.backward(tape, case.dy, case.dstate_n)
    assert np.isfinite(y).all()
    assert np.isfinite(grads.dx).all()


# ---- lengths, directions, tokens, empty sizes


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_row_with_a_length_is_that_row_cut_and_alone(cell, reverse, rng):
    case = make_case(rng, cell, lengths=LENGTHS, reverse=reverse)
    y, state_n, _ = case.forward()
    dx = case.grads()["x"]
    names = ("W_ih", "W_hh", "b_ih", "b_hh", "W_peephole")
    sums = {name: np.zeros_like(case.args[name]) for name in names if name in case.args}
    for b, length in enumerate(LENGTHS):
        row = {name: v[b : b + 1] for name, v in case.args.items() if name.startswith("state")}
        row |= {name: case.args[name] for name in sums} | {"x": case.args["x"][:length, b : b + 1]}
        dstate_n = tuple(ds[b : b + 1] for ds in case.dstate_n)
        alone = Case(cell, row, case.dy[:length, b : b + 1], dstate_n, reverse=reverse)
        y_alone, state_alone, _ = alone.forward()
        grads = alone.grads()
        assert_equal_results(y[:length, b : b + 1], y_alone, f"{cell}: y of row {b}")
        assert_equal_results(dx[:length, b : b + 1], grads["x"], f"{cell}: dx of row {b}")
        assert not y[length:, b].any()
        assert not dx[length:, b].any()
        for k in range(len(state_n)):
            assert_equal_results(state_n[k][b : b + 1], state_alone[k], f"{cell}: state {k} of row {b}")
            if length == 0:
                assert np.array_equal(state_n[k][b], case.args[f"state_{k}"][b])
                assert np.array_equal(case.grads()[f"state_{k}"][b], case.dstate_n[k][b])
        for name, total in sums.items():
            total += grads[name]
    for name, total in sums.items():
        assert_equal_results(case.grads()[name], total, f"{cell}: gradient of {name}")


def test_reverse_is_forward_on_flipped_time(cell, rng):
    case = make_case(rng, cell, reverse=True)
    flipped = Case(cell, case.args | {"x": case.args["x"][::-1]}, case.dy[::-1], case.dstate_n)
    y, state_n, _ = case.forward()
    y_flipped, state_flipped, _ = flipped.forward()
    assert np.array_equal(y, y_flipped[::-1])
    assert all(np.array_equal(s, e) for s, e in zip(state_n, state_flipped, strict=True))
    assert np.array_equal(state_n[0], y[0])
    grads, grads_flipped = case.grads(), flipped.grads()
    assert np.array_equal(grads.pop("x"), grads_flipped.pop("x")[::-1])
    assert all(np.array_equal(grads[name], grads_flipped[name]) for name in grads)


def test_tokens_are_rows_of_the_identity(cell, rng):
    case = make_case(rng, cell, lengths=LENGTHS, tokens=True)
    one_hot = np.eye(case.args["W_ih"].shape[1])[np.where(case.args["x"] < 0, 0, case.args["x"])]
    dense = Case(cell, case.args | {"x": one_hot}, case.dy, case.dstate_n, LENGTHS)
    assert_equal_results(case.forward()[0], dense.forward()[0], f"{cell}: y")
    grads = case.grads()
    assert grads.pop("x") is None
    for name, value in grads.items():
        assert_equal_results(value, dense.grads()[name], f"{cell}: gradient of {name}")


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize(("T", "B"), [(0, 2), (3, 0), (0, 0)])
def test_nothing_in_is_the_state_out(cell, T, B, tokens, reverse, rng):
    case = make_case(rng, cell, sizes=(T, B, I, H), tokens=tokens, reverse=reverse)
    y, state_n, _ = case.forward()
    grads = case.grads()
    assert y.shape == case.dy.shape
    for k in range(len(state_n)):
        assert np.array_equal(state_n[k], case.args[f"state_{k}"])
        assert np.array_equal(grads[f"state_{k}"], case.dstate_n[k])
    assert tokens or grads["x"].shape == case.args["x"].shape
    for name in ("W_ih", "W_hh", "b_ih", "b_hh"):
        if name not in case.args:
            continue
        assert grads[name].shape == case.args[name].shape
        assert not grads[name].any()


@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_dtype_is_that_of_every_operation(cell, dtype, rng):
    case = make_case(rng, cell)
    a, made = case.args, cell_of(cell)
    state, weights = (
        tuple(a[f"state_{k}"] for k in range(made.states)),
        (a["W_ih"], a.get("W_hh"), a["b_ih"], a.get("b_hh")),
    )
    y, state_n, tape = reference.forward(made, a["x"], state, *weights, W_peephole=a.get("W_peephole"), dtype=dtype)
    grads = reference.backward(tape, case.dy, case.dstate_n)
    weights = [array for name, array in grads._asdict().items() if name.startswith(("dW", "db")) and array is not None]
    gradients = [grads.dx, *grads.dstate, *grads.dinitial, *weights]
    assert {array.dtype for array in (y, *state_n, *gradients)} == {np.dtype(dtype)}
    if dtype is np.float32:
        K = dot_length("dx", gates=made.gates, T=T, B=B, I=I, H=H)
        assert_close(grads.dx, case.grads()["x"], dtype=dtype, K=K, T=T, what=f"{cell}: dx in float32")


# ---- shape of the code


def test_traits_say_what_the_cells_do(cell):
    c, one = cell_of(cell), np.full((2, 4), 0.5)
    s, p = (one,) * c.states, (one[:, :: c.sharing],) * c.unit_parameters
    if c.phases == 1:
        s_new, save = c.forward((one,) * (c.gates + c.split + c.skip), s, p)
        da, ds = c.backward(save, s, s_new, p, s_new)
        assert len(c.unit_gradients(save, s, s_new, p, s_new, da)) == len(p)
    else:
        _, save_first = c.gate((one,) * c.first, s)
        s_new, save_last = c.forward((one,) * (c.gates - c.first), s, save_first)
        save = (*save_first, *save_last)
        da_last, ds = c.backward(save, s, s_new)
        da_first, ds = c.backward_gate(save, s, s_new, one, ds)
        da = (*da_first, *da_last)
    assert (len(s_new), len(ds)) == (c.states, c.states)
    assert len(save) == c.saved
    assert len(da) == c.gates + c.split + c.skip
    assert c.first == (c.gates if c.phases == 1 else c.gates - 1)


def test_reference_needs_numpy_alone():
    for path in Path(reference.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if name.startswith("fusedrnn"):
                    plain = ("fusedrnn.reference", "fusedrnn.grads", "fusedrnn.signatures")
                    assert name.startswith(plain), f"{path.name} imports {name}"


# ---- messages

W1, W3, W4 = np.zeros((H, H)), np.zeros((3 * H, H)), np.zeros((4 * H, H))
X = np.zeros((T, B, H))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: reference.lstm_forward(X, None, None, W4, np.zeros((4 * H, H + 1))),
            ValueError,
            "lstm: W_hh has shape (12, 4); expected (4*H, H) with H >= 1",
        ),
        (
            lambda: reference.gru_forward(X, None, W4, W3),
            ValueError,
            "gru_after: W_ih has shape (12, 3); expected (3*H, I) = (9, I) with I >= 1",
        ),
        (
            lambda: reference.rnn_forward(X[..., :2], None, W1, W1),
            ValueError,
            "rnn_tanh: x has shape (5, 4, 2); expected (T, B, I) with I = 3",
        ),
        (
            lambda: reference.rnn_forward(X, None, W1, W1, np.zeros(1)),
            ValueError,
            "rnn_tanh: b_ih has shape (1,); expected (1*H,) = (3,)",
        ),
        (
            lambda: reference.lstm_forward(X, None, np.zeros(H), W4, W4),
            ValueError,
            "lstm: c_0 has shape (3,); expected (B, H) = (4, 3)",
        ),
        (
            lambda: reference.rnn_forward(X.astype(np.int64), None, W1, W1),
            TypeError,
            "rnn_tanh: x is of int64, hence tokens (T, B), but has 3 axes; cast it to a float type",
        ),
        (
            lambda: reference.rnn_forward(X.astype(complex), None, W1, W1),
            TypeError,
            "rnn_tanh: x is of complex128; expected floats (T, B, I) or integer tokens (T, B)",
        ),
        (
            lambda: reference.rnn_forward([[0, 1], [-1, 3]], None, W1, W1),
            IndexError,
            "rnn_tanh: tokens at step 1 are from -1 to 3; expected 0 to I-1 = 2",
        ),
        (
            lambda: reference.rnn_forward(X, None, W1, W1, lengths=[1, 2, 6, 0]),
            ValueError,
            "rnn_tanh: lengths is [1, 2, 6, 0]; expected values from 0 to T = 5",
        ),
        (
            lambda: reference.rnn_forward(X, None, W1, W1, lengths=[1.0, 2.0, 3.0, 0.0]),
            TypeError,
            "rnn_tanh: lengths is of float64; expected integers",
        ),
        (
            lambda: reference.rnn_forward(X, None, W1, W1, nonlinearity="sin"),
            ValueError,
            "rnn: nonlinearity is 'sin'; expected 'tanh' or 'relu'",
        ),
        (
            lambda: reference.rnn_forward(X, None, W1, W1, dtype=np.int32),
            TypeError,
            "rnn_tanh: dtype is int32; expected a floating type",
        ),
        (
            lambda: reference.gru_backward(reference.rnn_forward(X, None, W1, W1)[-1], X),
            ValueError,
            "gru_backward: the tape is of rnn_tanh; expected one of gru_forward",
        ),
        (
            lambda: reference.rnn_backward(reference.rnn_forward(X, None, W1, W1)[-1], X[0]),
            ValueError,
            "rnn_tanh: dy has shape (4, 3); expected (T, B, H) = (5, 4, 3)",
        ),
        (
            lambda: reference.rnn_backward(reference.rnn_forward(X, None, W1, W1)[-1]),
            ValueError,
            "rnn_tanh: every gradient of the results is None; give dy or a gradient of a state",
        ),
        (
            lambda: reference.forward("mgu", X, (None,), W1, W1),
            ValueError,
            f"cell is 'mgu'; expected one of {', '.join(CELLS)}",
        ),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


# ---- the tolerances themselves


def test_assert_close_says_what_is_wrong():
    expected = np.array([1.0, -4.0])
    assert_close(expected + 3e-12, expected, dtype=np.float64, K=8, T=2, what="y")
    with pytest.raises(AssertionError, match=r"^y: 1 of 2 elements are too far off; worst at \(1,\): got -4\.1"):
        assert_close(np.array([1.0, -4.1]), expected, dtype=np.float64, K=8, T=2, what="y")
    with pytest.raises(AssertionError, match="worst"):
        assert_close(expected * np.nan, expected, dtype=np.float64, K=8, T=2, what="y")
    with pytest.raises(AssertionError, match="dtype is float64, expected float32"):
        assert_close(expected, expected, dtype=np.float32, K=8, T=2, what="y")
    with pytest.raises(AssertionError, match="got None"):
        assert_close(None, expected, dtype=np.float64, K=8, T=2, what="y")
    # 4 * eps * log2(8 * 2) * 4 is 7.6e-6
    eps = np.float32([0.0, 7e-6])
    assert_close(expected.astype(np.float32) + eps, expected, dtype=np.float32, K=8, T=2, what="y")
    with pytest.raises(AssertionError, match="float32 sequence, K=8, T=2"):
        assert_close(expected.astype(np.float32) + 2 * eps, expected, dtype=np.float32, K=8, T=2, what="y")
    with pytest.raises(AssertionError, match="bound 0"):
        assert_close(np.array([1e-30]), np.zeros(1), dtype=np.float64, K=8, T=2, what="padding")
