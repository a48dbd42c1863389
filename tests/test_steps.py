"""Which steps of a row run: masks, resets and held outputs, forward and backward.

The reference is compared with a loop over single steps in this file and with finite differences, the kernels with the
reference, and bits with those of the same steps without any mask or reset.
"""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

import fusedrnn
from composition import Checker, join, split
from fusedrnn import functional, reference
from fusedrnn.reference import CELLS
from problems import KINKS, VARIANTS, Problem, assert_results, assert_same_bits, cell_of, make_problem, with_structure
from test_properties import examples

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
REVERSE = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
PAST_END = pytest.mark.parametrize("past_end", ["zero", "hold"])


def valid_steps(problem: Problem) -> Any:
    """(T, B): the steps that neither length nor mask skips."""
    T, B = problem.x.shape[:2]
    valid = np.ones((T, B), bool)
    if problem.lengths is not None:
        valid &= np.arange(T)[:, None] < np.asarray(problem.lengths, int)
    if problem.mask is not None:
        valid &= np.asarray(problem.mask, bool)
    return valid


def with_steps(rng: np.random.Generator, problem: Problem, *, mask: Any, reset: Any, past_end: str) -> Problem:
    """The problem with these flags, and with poison wherever nothing may be read."""
    problem = problem.but(mask=mask, reset=reset, past_end=past_end)
    skipped = ~valid_steps(problem)
    x, dy = problem.x.copy(), problem.dy.copy()
    x[skipped] = -1 if problem.x.ndim == 2 else np.nan
    dy[skipped] = np.nan if past_end == "zero" else rng.standard_normal((int(skipped.sum()), dy.shape[2]))
    return problem.but(x=x, dy=dy)


def random_steps(rng: np.random.Generator, problem: Problem, past_end: str) -> Problem:
    """Gaps, left padding, a row without any step; resets at many, few and no steps."""
    T, B = problem.x.shape[:2]
    mask = rng.random((T, B)) < rng.choice([0.2, 0.5, 0.9], B)
    reset = rng.random((T, B)) < rng.choice([0.0, 0.2, 0.6], B)
    if B > 2:
        mask[:, rng.integers(B)] = False
        mask[:, rng.integers(B)] = np.arange(T) >= rng.integers(T + 1)
    return with_steps(rng, problem, mask=mask, reset=reset, past_end=past_end)


# ---- the reference


def own_state(problem: Problem) -> tuple[Any, ...]:
    """The own initial state of one row, (1, H) each."""
    return tuple(
        np.zeros((1, s.shape[1]), s.dtype)
        if f"{name}_initial" not in problem.structure
        else problem.structure[f"{name}_initial"][None]
        for name, s in zip("hc", problem.state, strict=False)
    )


def step_by_step(problem: Problem) -> tuple[Any, tuple[Any, ...]]:
    """Outputs and final states of a loop over single rows and steps."""
    T, B = problem.x.shape[:2]
    valid, cell = valid_steps(problem), cell_of(problem.cell)
    ends = np.full(B, T) if problem.lengths is None else problem.lengths
    y = np.zeros((T, B, problem.sizes["H"]))
    finals = [np.array(s, np.float64) for s in problem.state]
    for b in range(B):
        state = tuple(s[b : b + 1] for s in problem.state)
        output = np.zeros(problem.sizes["H"])
        for t in reversed(range(T)) if problem.reverse else range(T):
            begins = t + 1 if problem.reverse else t  # the step whose flag cuts this step from the last one
            if problem.reset is not None and begins < ends[b] and problem.reset[begins, b]:
                state = own_state(problem)
            if valid[t, b]:
                step, state, _ = reference.forward(
                    cell, problem.x[t : t + 1, b : b + 1], state, *problem.weights, W_peephole=problem.W_peephole
                )
                output = y[t, b] = step[0, 0]
            elif problem.past_end == "hold":
                y[t, b] = output
        for final, part in zip(finals, state, strict=True):
            final[b] = part[0]
    return y, tuple(finals)


@PAST_END
@REVERSE
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "ragged"])
def test_the_reference_is_a_loop_over_single_steps(cell, reverse, lengths, past_end, rng):
    problem = make_problem(rng, cell, "float64", T=9, B=7, I=4, H=3, lengths=lengths, reverse=reverse)
    problem = with_structure(
        random_steps(rng, problem, past_end), rng, *(["h_initial", "c_initial"] if lengths else [])
    )
    results, _ = problem.forward(reference)
    y, finals = step_by_step(problem)
    np.testing.assert_allclose(results["y"], y, rtol=0, atol=1e-14)
    for name, final in zip(("h_n", "c_n"), finals, strict=False):
        np.testing.assert_allclose(results[name], final, rtol=0, atol=1e-14)


@PAST_END
@REVERSE
@pytest.mark.parametrize("state", ["given", "own"])
def test_the_references_gradients_are_those_of_differences(cell, reverse, past_end, state, rng):
    problem = make_problem(rng, cell, "float64", T=7, B=5, I=3, H=4, lengths=True, reverse=reverse)
    problem = with_structure(random_steps(rng, problem, past_end), rng, "h_initial", "c_initial")
    if state == "own":
        problem = problem.but(state=(None,) * len(problem.state))
    _, tape = problem.forward(reference)
    found = problem.backward(reference, tape)
    if state == "own":
        found = {name: value for name, value in found.items() if name not in ("dh_0", "dc_0")}
    grads = [gradient for gradient in found.values() if gradient is not None]
    arguments = [np.where(np.isnan(problem.x), 0, problem.x), *(s for s in problem.state if s is not None)]
    n = len(arguments)
    there = [k for k, w in enumerate(problem.weights) if w is not None]
    arguments += [problem.weights[k] for k in there]
    arguments += [] if problem.W_peephole is None else [problem.W_peephole]
    first_own = len(arguments)
    arguments += problem.structure.values()
    assert len(arguments) == len(grads)
    dy = np.where(np.isnan(problem.dy), 0, problem.dy)

    def loss(values: list[Any]) -> float:
        end = n + len(there)
        peephole = values[end] if first_own > end else None
        given: list[Any] = [None] * 4
        for k, value in zip(there, values[n:end], strict=True):
            given[k] = value
        weights = (given[0], given[1], given[2], given[3])
        moved = problem.but(x=values[0], weights=weights, W_peephole=peephole)
        moved = moved.but(structure=dict(zip(problem.structure, values[first_own:], strict=True)))
        moved = moved.but(state=tuple(values[1:n])) if n > 1 else moved
        results, _ = moved.forward(reference)
        return float(sum((a * b).sum() for a, b in zip(results.values(), (dy, *problem.dstate), strict=True)))

    step = 1e-6 if cell in KINKS else 1e-3
    for k, gradient in enumerate(grads):  # along random directions, one argument at a time
        for _ in range(4):
            direction = rng.standard_normal(gradient.shape)

            def at(shift: float, k: int = k, direction: Any = direction) -> float:
                return loss([a + shift * direction if i == k else a for i, a in enumerate(arguments)])

            near, far = at(step) - at(-step), at(2 * step) - at(-2 * step)
            slope = np.array([(8 * near - far) / (12 * step)])
            expected = np.array([(gradient * direction).sum()])
            scale = np.abs(gradient * direction).sum()  # terms of opposite signs may cancel
            assert abs(slope - expected) <= 1e-7 * max(scale, 1.0), f"{cell}: argument {k}"


# ---- the kernels


@DTYPES
@PAST_END
@REVERSE
@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize("sizes", [(7, 9, 13, 17), (40, 23, 33, 20), (11, 1, 5, 40)], ids=str)
def test_kernels_equal_the_reference(cell, isa, dtype, sizes, tokens, reverse, past_end, rng):
    T, B, I, H = sizes
    if cell in KINKS and dtype == "float32":
        pytest.skip("rounding would decide on which side of relu's kink a gradient is taken; float64 has it")
    for lengths in False, True:
        problem = make_problem(rng, cell, dtype, T=T, B=B, I=I, H=H, lengths=lengths, reverse=reverse, tokens=tokens)
        problem = random_steps(rng, problem, past_end)
        if lengths:
            problem = with_structure(problem, rng, "h_initial", "c_initial")
        assert_results(problem.run(functional), problem.run(reference), problem)


@given(st.data())
@examples(500)
def test_any_flags(data):
    draw = data.draw
    cell = draw(st.sampled_from(list(VARIANTS)))
    T, B = draw(st.integers(0, 7), "T"), draw(st.integers(0, 5), "B")
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    problem = make_problem(
        rng, cell, "float64", T=T, B=B, I=3, H=5, tokens=draw(st.booleans()), reverse=draw(st.booleans())
    )
    if draw(st.booleans()):
        problem = problem.but(lengths=np.array(draw(st.lists(st.integers(0, T), min_size=B, max_size=B)), np.int64))

    def flags(rows: int, columns: int) -> Any:
        values = st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns)
        drawn = draw(st.none() | values)
        return None if drawn is None else np.array(drawn, bool).reshape(rows, columns)

    problem = with_steps(
        rng, problem, mask=flags(T, B), reset=flags(T, B), past_end=draw(st.sampled_from(["zero", "hold"]))
    )
    problem = with_structure(problem, rng, *draw(st.lists(st.sampled_from(["h_initial", "c_initial"]), unique=True)))
    if draw(st.booleans()):
        problem = problem.but(state=tuple(None if draw(st.booleans()) else s for s in problem.state))
    note(f"{problem.mask} {problem.reset} {problem.lengths} {problem.state} {problem.structure}")
    assert_results(problem.run(functional), problem.run(reference), problem)


# ---- bits


@DTYPES
@REVERSE
def test_nothing_skipped_and_nothing_reset_change_no_bit(cell, dtype, reverse, rng):
    plain = make_problem(rng, cell, dtype, T=12, B=19, I=14, H=35, reverse=reverse)
    flagged = plain.but(mask=np.ones((12, 19), bool), reset=np.zeros((12, 19), bool), past_end="hold")
    assert_same_bits(flagged.run(functional), plain.run(functional), "all steps")
    lengths = rng.integers(0, 13, 19)
    padding = plain.but(mask=np.arange(12)[:, None] < lengths)
    ragged = plain.but(lengths=lengths)
    assert_same_bits(padding.run(functional), ragged.run(functional), "right padding")


@DTYPES
@REVERSE
def test_a_row_with_holes_has_the_bits_of_its_steps_alone(cell, isa, dtype, reverse, rng):
    problem = make_problem(rng, cell, dtype, T=12, B=9, I=14, H=35, reverse=reverse)
    problem = with_steps(rng, problem, mask=rng.random((12, 9)) < 0.6, reset=None, past_end="zero")
    whole = problem.run(functional)
    valid = valid_steps(problem)
    for b in range(9):
        steps = np.flatnonzero(valid[:, b])
        alone = problem.but(
            x=problem.x[steps, b : b + 1],
            dy=problem.dy[steps, b : b + 1],
            state=tuple(s[b : b + 1] for s in problem.state),
            dstate=tuple(s[b : b + 1] for s in problem.dstate),
            mask=None,
        ).run(functional)
        for name in ("y", "dx"):
            assert_same_bits(whole[name][steps, b : b + 1], alone[name], f"row {b}: {name}")
            assert not whole[name][~valid[:, b], b].any()
        for name in {"h_n", "c_n", "dh_0", "dc_0"} & whole.keys():
            assert_same_bits(whole[name][b : b + 1], alone[name], f"row {b}: {name}")


@DTYPES
@REVERSE
def test_a_row_with_resets_has_the_bits_of_its_runs_alone(cell, isa, dtype, reverse, rng):
    T, B = 12, 5
    problem = make_problem(rng, cell, dtype, T=T, B=B, I=14, H=35, reverse=reverse)
    problem = problem.but(reset=rng.random((T, B)) < 0.3)
    whole = problem.run(functional)
    for b in range(B):
        cuts = [0, *(t for t in range(1, T) if problem.reset[t, b]), T]
        for begin, end in itertools.pairwise(cuts):
            last = begin == 0 if reverse else end == T
            goes_on = end == T if reverse else begin == 0 and not problem.reset[0, b]
            alone = problem.but(
                x=problem.x[begin:end, b : b + 1],
                dy=problem.dy[begin:end, b : b + 1],
                state=tuple(s[b : b + 1] if goes_on else None for s in problem.state),
                dstate=tuple(s[b : b + 1] if last else None for s in problem.dstate),
                reset=None,
            ).run(functional)
            for name in ("y", "dx"):
                assert_same_bits(whole[name][begin:end, b : b + 1], alone[name], f"row {b}: {name}")
            if last:
                for name in {"h_n", "c_n"} & whole.keys():
                    assert_same_bits(whole[name][b : b + 1], alone[name], f"row {b}: {name}")
            for name in ("dh_0", "dc_0"):
                if goes_on and name in alone:
                    assert_same_bits(whole[name][b : b + 1], alone[name], f"row {b}: {name}")
        if not reverse and problem.reset[0, b]:
            assert not any(whole[name][b].any() for name in ("dh_0", "dc_0") if name in whole)


@DTYPES
@REVERSE
def test_threads_and_batch_change_no_bit(cell, dtype, reverse, rng):
    problem = make_problem(rng, cell, dtype, T=9, B=34, I=150, H=203, lengths=True, reverse=reverse)
    problem = random_steps(rng, problem, "hold")
    with fusedrnn.threads(1):
        expected = problem.run(functional)
    for n in 2, 3, 16:
        with fusedrnn.threads(n):
            assert_same_bits(problem.run(functional), expected, f"{n} threads")
    for rows in [0], [33, 2], list(range(5, 20)):
        alone = problem.but(
            x=problem.x[:, rows],
            dy=problem.dy[:, rows],
            state=tuple(s[rows] for s in problem.state),
            dstate=tuple(s[rows] for s in problem.dstate),
            lengths=problem.lengths[rows],
            mask=problem.mask[:, rows],
            reset=problem.reset[:, rows],
        ).run(functional)
        for name in ("y", "dx"):
            assert_same_bits(alone[name], expected[name][:, rows], name)
        for name in {"h_n", "c_n", "dh_0", "dc_0"} & expected.keys():
            assert_same_bits(alone[name], expected[name][rows], name)


# ---- layers

LAYERS = [
    (fusedrnn.RNN, "rnn_tanh", {}),
    (fusedrnn.GRU, "gru_after", {}),
    (fusedrnn.GRU, "gru_before", {"reset_after": False}),
    (fusedrnn.LSTM, "lstm", {}),
]


@given(st.data())
@examples(150)
def test_layers_equal_their_composition(data):
    draw = data.draw
    make, cell, options = draw(st.sampled_from(LAYERS))
    bidirectional = draw(st.booleans())
    merge = draw(st.sampled_from(["concat", "sum", "mean", "mul", None])) if bidirectional else "concat"
    L, D, S = draw(st.integers(1, 3)), 1 + bidirectional, CELLS[cell].states
    batch_first = draw(st.booleans())
    layer = make(
        4,
        6,
        num_layers=L,
        bidirectional=bidirectional,
        merge=merge,
        batch_first=batch_first,
        dtype="f8",
        rng=0,
        **options,
    )
    T, B = draw(st.integers(0, 6)), draw(st.integers(0, 4))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x, mask, reset = rng.standard_normal((T, B, 4)), rng.random((T, B)) < 0.6, rng.random((T, B)) < 0.3
    lengths = draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B))
    past_end = draw(st.sampled_from(["zero", "hold"]))
    state = [rng.standard_normal((L * D, B, 6)) for _ in range(S)]

    # The composition.
    tapes, factors, finals, inputs = [], [], [], x
    for k in range(L):
        ys = []
        for d in range(D):
            suffix = f"_l{k}{('', '_reverse')[d]}"
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            y, final, tape = reference.forward(
                cell,
                inputs,
                tuple(s[k * D + d] for s in state),
                *(layer.params[name + suffix] for name in names),
                lengths=lengths,
                mask=mask,
                reset=reset,
                past_end=past_end,
                reverse=d == 1,
            )
            ys.append(y), tapes.append(tape), finals.append(final)
        factors.append(ys)
        inputs = join(merge if k == L - 1 else merge or "concat", ys)

    def turn(array: Any) -> Any:
        return array.swapaxes(0, 1) if batch_first else array

    given = {"lengths": lengths, "mask": turn(mask), "reset": turn(reset), "past_end": past_end}
    y, state_n, tape = layer.forward(turn(x), tuple(state) if S == 2 else state[0], **given)
    check = Checker(np.float64, 100, 20)
    check.group("y", [turn(a) for a in (y if merge is None else [y])], inputs if merge is None else [inputs])
    expected_states = [np.stack([final[s] for final in finals]) for s in range(S)]
    check.group("state", state_n if S == 2 else [state_n], expected_states)

    dys = [rng.standard_normal(a.shape) for a in (inputs if merge is None else [inputs])]
    dstate = [rng.standard_normal(s.shape) for s in expected_states]
    grads = tape.backward(
        tuple(map(turn, dys)) if merge is None else turn(dys[0]), tuple(dstate) if S == 2 else dstate[0]
    )
    dy: Any = tuple(dys) if merge is None else dys[0]
    for k in reversed(range(L)):
        each = split(merge if k == L - 1 else merge or "concat", dy, factors[k]) if D == 2 else [dy]
        dy = 0
        for d in range(D):
            row = k * D + d
            expected = reference.backward(tapes[row], each[d], tuple(s[row] for s in dstate))
            dy = dy + expected.dx
            suffix = f"_l{k}{('', '_reverse')[d]}"
            for name, value in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), expected[2:6], strict=True):
                check.group(name, [grads.params[name + suffix]], [value])
            got = grads.state if S == 2 else (grads.state,)
            check.group("dstate", [part[row] for part in got], expected.dstate)
    check.group("dx", [turn(grads.x)], [dy])


@pytest.mark.parametrize("past_end", ["zero", "hold"])
def test_lists_and_unbatched_sequences_have_flags_of_their_own(past_end, rng):
    layer = fusedrnn.GRU(3, 4, num_layers=2, bidirectional=True, rng=0)
    xs = [rng.standard_normal((n, 3)).astype("f4") for n in (5, 0, 7, 2)]
    masks = [rng.random(len(x)) < 0.6 for x in xs]
    resets = [rng.random(len(x)) < 0.4 for x in xs]
    y, h, tape = layer.forward(xs, mask=masks, reset=resets, past_end=past_end)
    dys = [rng.standard_normal(a.shape).astype("f4") for a in y]
    grads = tape.backward(dys)
    for b, x in enumerate(xs):
        y_b, h_b, tape_b = layer.forward(x, mask=masks[b], reset=resets[b], past_end=past_end)
        assert_same_bits([y[b], h[:, b]], [y_b, h_b], f"row {b}")
        alone = tape_b.backward(dys[b])
        assert_same_bits([grads.x[b], grads.state[:, b]], [alone.x, alone.state], f"row {b}")


def test_frozen_layers_take_flags(rng):
    layer = fusedrnn.LSTM(3, 4, batch_first=True, rng=0)
    x, mask, reset = rng.standard_normal((2, 6, 3)).astype("f4"), rng.random((2, 6)) < 0.5, rng.random((2, 6)) < 0.5
    given = {"mask": mask, "reset": reset, "past_end": "hold", "lengths": [6, 4]}
    out = np.empty((2, 6, 4), np.float32)
    y, state = layer.freeze()(x, out=out, **given)
    assert y is out
    assert_same_bits([y, state], list(layer(x, **given)), "frozen")


def test_a_reset_is_a_streams_reset(rng):
    layer = fusedrnn.LSTM(3, 4, num_layers=2, rng=0)
    x, reset = rng.standard_normal((9, 3, 3)).astype("f4"), rng.random((9, 3)) < 0.4
    y, state = layer(x, reset=reset)
    stream = layer.freeze().stream(3)
    steps = []
    for x_t, reset_t in zip(x, reset, strict=True):
        stream.reset(reset_t)
        steps.append(stream.step(x_t))
    assert_same_bits([np.stack(steps), state], [y, stream.state], "stream")


def test_masked_tokens_are_never_read(rng):
    layer = fusedrnn.GRU(5, 4, rng=0)
    ids, mask = rng.integers(0, 5, (6, 3)), rng.random((6, 3)) < 0.5
    poisoned = np.where(mask, ids, 99)
    assert_same_bits(list(layer(poisoned, mask=mask)), list(layer(ids, mask=mask)), "tokens")
    with pytest.raises(IndexError, match="x holds token 99"):
        layer(poisoned)


def test_time_follows_the_steps_that_run():
    schedule = fusedrnn._core.Schedule(100, 8, None, np.arange(100) % 4 == np.zeros((8, 1)), None)
    assert schedule.rows == 8 * 25


# ---- errors

X = np.zeros((4, 2, 3), np.float32)


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"mask": np.ones((2, 3), bool)}, ValueError, "GRU: mask has shape (2, 3); expected (T, B) = (4, 2)"),
        ({"reset": np.ones(4, bool)}, ValueError, "GRU: reset has shape (4,); expected (T, B) = (4, 2)"),
        ({"mask": np.ones((4, 2))}, TypeError, "GRU: mask has dtype float64; expected bool"),
        ({"mask": "yes"}, TypeError, "GRU: mask has dtype <U3; expected bool"),
        *(
            (
                {name: np.ones((2, 4), bool)},
                ValueError,
                f"GRU: {name} has shape (2, 4); expected (T, B) = (4, 2), the layout of x: transpose it",
            )
            for name in ("mask", "reset")
        ),
        ({"reset": np.ones((4, 2), int)}, TypeError, "GRU: reset has dtype int64; expected bool"),
        ({"past_end": "last"}, ValueError, "GRU: past_end is 'last'; expected one of 'zero', 'hold'"),
    ],
)
def test_wrong_flags_are_refused(flags, error, message):
    layer = fusedrnn.GRU(3, 4)
    for call in (layer, layer.forward, layer.freeze()):
        with pytest.raises(error) as caught:
            call(X, **flags)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (
            {"mask": np.ones((1, 4), bool)},
            TypeError,
            "GRU: mask is an ndarray; expected a list of 1 arrays, as x is a list",
        ),
        ({"reset": []}, ValueError, "GRU: reset has 0 arrays; expected 1, as x has"),
        ({"mask": [np.ones(3, bool)]}, ValueError, "GRU: mask[0] has shape (3,); expected (T_0,) = (4,)"),
        ({"reset": [np.ones(4)]}, TypeError, "GRU: reset[0] has dtype float64; expected bool"),
    ],
)
def test_wrong_flags_of_a_list_are_refused(flags, error, message):
    with pytest.raises(error) as caught:
        fusedrnn.GRU(3, 4)([X[:, 0]], **flags)
    assert str(caught.value) == message


def test_wrong_flags_of_an_unbatched_sequence_are_refused():
    layer = fusedrnn.GRU(3, 4)
    with pytest.raises(ValueError, match=r"mask has shape \(1, 4\); expected \(T,\) = \(4,\)"):
        layer(X[:, 0], mask=np.ones((1, 4), bool))
    with pytest.raises(ValueError, match=r"reset has shape \(4, 1\); expected \(T,\) = \(4,\)"):
        layer(X[:, 0], reset=np.ones((4, 1), bool))
    layer(X[:, 0], mask=np.ones(4, bool), reset=np.zeros(4, bool))


def test_the_reference_refuses_wrong_flags():
    W = np.ones((1, 1))
    for flags, error, message in [
        ({"mask": np.ones((3, 2))}, TypeError, "mask is of float64; expected bool"),
        ({"mask": np.ones((2, 3), bool)}, ValueError, r"mask has shape \(2, 3\); expected \(T, B\) = \(3, 2\)"),
        ({"reset": np.ones((2, 3), bool)}, ValueError, r"reset has shape \(2, 3\); expected \(T, B\) = \(3, 2\)"),
        ({"past_end": 0}, ValueError, "past_end is 0; expected 'zero' or 'hold'"),
    ]:
        with pytest.raises(error, match=message):
            reference.rnn_forward(np.ones((3, 2, 1)), None, W, W, **flags)
