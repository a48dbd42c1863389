"""Linear attention on plain arrays: against the reference, finite differences, and themselves."""

import itertools
import signal
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusedrnn
from fusedrnn import functional, reference
from recurrence_problems import draw_steps, numbers
from tolerances import assert_close, bound

NAMES = ("o", "S_n", "dq", "dk", "dv", "ddecay", "dbeta", "dS_0")
RULES = ("linear", "gated", "delta", "gated_delta")
OVER_TIME = ("q", "k", "v", "decay", "beta", "mask", "reset")
SIZES = st.sampled_from([1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 64, 70])


def draw(rng, T, B, sizes, heads, rule, which, dtype):
    """Arguments; bits 16 to 64 of `which`: a decay per key, one beta for all heads, S_0."""
    dk, dv = sizes
    kv_heads, group = heads
    key = numbers(rng, (T, B, kv_heads, dk))
    key /= np.linalg.norm(key, axis=-1, keepdims=True)
    arguments = {
        "q": numbers(rng, (T, B, kv_heads * group * dk), dtype),
        "k": key.reshape(T, B, kv_heads * dk).astype(dtype),
        "v": numbers(rng, (T, B, kv_heads * dv), dtype),
        "num_heads": kv_heads * group,
        "num_kv_heads": kv_heads,
        "rule": rule,
        **draw_steps(rng, T, B, which),
    }
    if "gated" in rule:
        arguments["decay"] = -2 * rng.random((T, B, kv_heads * (dk if which & 16 else 1))).astype(dtype)
    if "delta" in rule:
        arguments["beta"] = rng.random((T, B, 1 if which & 32 else kv_heads)).astype(dtype)
    if which & 64:
        arguments["S_0"] = numbers(rng, (B, kv_heads, dk, dv), dtype)
    return arguments


def run(arguments, do, dS_n, module=functional):
    o, S_n, tape = module.linear_attention_forward(**arguments)
    return (o, S_n, *module.linear_attention_backward(tape, do, dS_n))


def gradients_for(rng, arguments, dtype):
    o, S_n, _ = reference.linear_attention_forward(**arguments)
    return numbers(rng, o.shape, dtype), numbers(rng, S_n.shape, dtype)


def same_bits(one, other):
    for x, y in zip(one, other, strict=True):
        assert (x is None and y is None) or (x.shape == y.shape and x.tobytes() == y.tobytes())


def magnitudes(arguments):
    """Arguments with which nothing cancels; beta (v - S^T k) becomes a sum of magnitudes, too."""
    sign = -1 if "beta" in arguments else 1
    full = {name: np.abs(arguments[name]) for name in ("q", "k", "S_0") if name in arguments}
    full |= {name: sign * np.abs(arguments[name]) for name in ("v", "beta") if name in arguments}
    return arguments | full


def agree(arguments, do, dS_n, dtype):
    """Every result of the kernels is that of the reference in double precision.

    Where terms cancel, the scale of an error is that of the terms. The gradient of a decay is a difference of sums of
    q dq and k dk, and its scale is that of these.
    """
    ours, theirs = run(arguments, do, dS_n), run(arguments, do, dS_n, reference)
    given = [None if d is None else np.abs(d) for d in (do, dS_n)]
    terms = run(magnitudes(arguments), *given, reference)
    T, _, width = arguments["v"].shape
    dk, dv = (n // arguments["num_kv_heads"] for n in (arguments["k"].shape[2], width))
    products = [np.abs(terms[2] * arguments["q"]).max(initial=0), np.abs(terms[3] * arguments["k"]).max(initial=0)]
    for name, x, y, term in zip(NAMES, ours, theirs, terms, strict=True):
        if x is None or y is None:
            assert x is y
            continue
        assert x.shape == y.shape, name
        scale = max(np.abs(term).max(initial=1e-30), max(products) * dk if name == "ddecay" else 0)
        x, y = np.append(x, x.dtype.type(scale)), np.append(y, np.float64(x.dtype.type(scale)))
        assert_close(x, y, dtype=dtype, K=max(dk, dv) * arguments["num_heads"], T=T, what=f"{arguments['rule']} {name}")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([1, 2, 5, 31, 32, 33, 70, 140]), st.integers(1, 3), st.tuples(SIZES, SIZES),
    st.tuples(st.integers(1, 3), st.integers(1, 3)), st.sampled_from(RULES), st.integers(0, 127),
    st.integers(0, 2**32), st.sampled_from([np.float32, np.float64]), st.integers(1, 3),
)  # fmt: skip
def test_equals_the_reference(T, B, sizes, heads, rule, which, seed, dtype, gradients):
    rng = np.random.default_rng(seed)
    arguments = draw(rng, T, B, sizes, heads, rule, which, dtype)
    do, dS_n = gradients_for(rng, arguments, dtype)
    agree(arguments, do if gradients & 1 else None, dS_n if gradients & 2 else None, dtype)


@pytest.mark.parametrize("rule", ["gated", "gated_delta"])
@pytest.mark.parametrize("which", [0, 16, 64 + 7])
def test_decays_over_several_checkpoints(rng, isa, rule, which):
    for dtype in (np.float32, np.float64):
        arguments = draw(rng, 700, 2, (20, 6), (1, 2), rule, which, dtype)
        agree(arguments, *gradients_for(rng, arguments, dtype), dtype)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("which", range(0, 128, 5))
def test_the_reference_s_gradients_are_finite_differences(rng, rule, which):
    arguments = draw(rng, 5, 2, (3, 2), (2, 2), rule, which | 64, np.float64)
    d = gradients_for(rng, arguments, np.float64)
    _, _, tape = reference.linear_attention_forward(**arguments)
    grads = reference.linear_attention_backward(tape, *d)
    for name in ("q", "k", "v", "decay", "beta", "S_0"):
        if name not in arguments:
            continue
        direction = numbers(rng, arguments[name].shape)
        sides = []
        for step in (1e-5, -1e-5):
            o, S_n, _ = reference.linear_attention_forward(**arguments | {name: arguments[name] + step * direction})
            sides.append(np.vdot(d[0], o) + np.vdot(d[1], S_n))
        found = np.vdot(direction, getattr(grads, f"d{name}"))
        scale = np.linalg.norm(getattr(grads, f"d{name}")) * np.linalg.norm(direction) + 1
        assert abs((sides[0] - sides[1]) / 2e-5 - found) < bound(np.float64, 1, 1, "central_difference") * scale, name


# ---- bits


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("which", [0, 16 + 64, 7 + 32])
def test_the_same_bits_for_any_number_of_threads(rng, isa, rule, which):
    arguments = draw(rng, 150, 3, (70, 100), (2, 2), rule, which, np.float32)
    d = gradients_for(rng, arguments, np.float32)
    with fusedrnn.threads(1):
        alone = run(arguments, *d)
    for threads in (2, 3, 5, 16):
        with fusedrnn.threads(threads):
            same_bits(alone, run(arguments, *d))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("which", [64, 127])
def test_a_row_has_the_same_bits_alone(rng, isa, rule, which):
    T, B = 40, 4
    arguments = draw(rng, T, B, (20, 37), (2, 1), rule, which, np.float32)
    do, dS_n = gradients_for(rng, arguments, np.float32)
    together = run(arguments, do, dS_n)
    for b in range(B):
        row = slice(b, b + 1)
        own = {name: value[:, row] if name in OVER_TIME else value for name, value in arguments.items()}
        own |= {name: arguments[name][row] for name in ("lengths", "S_0") if name in arguments}
        for name, x, y in zip(NAMES, together, run(own, do[:, row], dS_n[row]), strict=True):
            if x is not None:
                assert (x[row] if "S_" in name else x[:, row]).tobytes() == y.tobytes(), name


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_sequence_in_two_calls_has_the_same_bits(rng, isa, rule, reverse):
    T, B = 37, 2
    whole = draw(rng, T, B, (20, 37), (2, 2), rule, 2 + 16 + 64, np.float32) | {"reverse": reverse}
    o, S_n, _ = functional.linear_attention_forward(**whole)
    for cut in range(1, T):
        parts, carried, outputs = [slice(0, cut), slice(cut, T)], whole["S_0"], []
        for part in parts[::-1] if reverse else parts:
            own = {name: value[part] if name in OVER_TIME else value for name, value in whole.items()}
            out, carried, _ = functional.linear_attention_forward(**own | {"S_0": carried})
            outputs.append(out)
        assert np.concatenate(outputs[::-1] if reverse else outputs).tobytes() == o.tobytes(), cut
        assert carried.tobytes() == S_n.tobytes()


def test_layouts_of_memory_change_no_bits(rng):
    arguments = draw(rng, 7, 3, (5, 6), (2, 2), "gated_delta", 64, np.float32)
    d = gradients_for(rng, arguments, np.float32)
    plain = run(arguments, *d)
    for change in (
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: x.astype(x.dtype.newbyteorder(">")),
        lambda x: np.frombuffer(b"x" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    ):
        changed = {name: change(x) if isinstance(x, np.ndarray) else x for name, x in arguments.items()}
        same_bits(plain, run(changed, change(d[0]), change(d[1])))


# ---- limits


@pytest.mark.parametrize("rule", RULES)
def test_nan_and_infinities_stay_in_their_row(rng, isa, rule):
    arguments = draw(rng, 20, 3, (5, 6), (2, 2), rule, 64, np.float32)
    d = gradients_for(rng, arguments, np.float32)
    clean = run(arguments, *d)
    for name, bad in itertools.product(("q", "k", "v", "decay", "beta"), (np.nan, np.inf)):
        if name not in arguments:
            continue
        dirty = arguments[name].copy()
        dirty[2, 1, 0] = bad
        results = run(arguments | {name: dirty}, *d)
        assert not np.isfinite(results[0][2, 1]).all() or name == "decay"
        for what, x, y in zip(NAMES, results, clean, strict=True):
            if x is not None:
                axis = 0 if "S_" in what else 1
                assert np.delete(x, 1, axis=axis).tobytes() == np.delete(y, 1, axis=axis).tobytes(), (name, what)


@pytest.mark.parametrize("rule", ["gated", "gated_delta"])
@pytest.mark.parametrize("which", [64, 64 + 16])
def test_a_decay_that_underflows_forgets_everything(rng, isa, rule, which):
    for dtype, value in itertools.product((np.float32, np.float64), (-1e4, -np.inf)):
        arguments = draw(rng, 9, 2, (5, 6), (2, 1), rule, which, dtype)
        arguments["decay"][4] = value
        d = gradients_for(rng, arguments, dtype)
        results = run(arguments, *d)
        assert all(np.isfinite(x).all() for x in results if x is not None)
        changed = run(arguments | {"v": np.concatenate([2 * arguments["v"][:4], arguments["v"][4:]])}, *d)
        assert changed[0][4:].tobytes() == results[0][4:].tobytes()


def test_skipped_steps_are_not_read(rng):
    for rule in RULES:
        arguments = draw(rng, 9, 4, (3, 5), (2, 1), rule, 3 + 64, np.float64)
        runs = (np.arange(9)[:, None] < arguments["lengths"]) & arguments["mask"]
        do, dS_n = gradients_for(rng, arguments, np.float64)
        clean = run(arguments, do, dS_n)
        for name in ("q", "k", "v", "decay", "beta"):
            if name in arguments:
                arguments[name][~runs] = np.nan
        do[~runs] = np.nan
        same_bits(clean, run(arguments, do, dS_n))


@pytest.mark.parametrize(("T", "B", "dk", "dv"), [(0, 2, 3, 4), (3, 0, 3, 4), (3, 2, 0, 4), (3, 2, 3, 0), (0, 0, 0, 0)])
def test_empty_arrays_pass_the_state_through(T, B, dk, dv):
    q, v, rates, state = np.ones((T, B, 2 * dk)), np.ones((T, B, 2 * dv)), np.ones((T, B, 2)), np.ones((B, 2, dk, dv))
    o, S_n, tape = functional.linear_attention_forward(q, q, v, rates, rates, state, num_heads=2)
    grads = functional.linear_attention_backward(tape, dS_n=state)
    assert [x.shape for x in (o, *grads)] == [v.shape, q.shape, q.shape, v.shape, *[rates.shape] * 2, state.shape]
    assert (o == 0).all()
    assert (S_n == state).all()
    assert (grads.dS_0 == state).all()


def test_no_step_runs():
    q = np.full((3, 2, 2), np.nan)
    o, S_n, tape = functional.linear_attention_forward(
        q, q, q, q, q, np.ones((2, 2, 1, 1)), num_heads=2, lengths=[0, 0]
    )
    grads = functional.linear_attention_backward(tape, q, np.ones((2, 2, 1, 1)))
    assert (S_n == 1).all()
    assert (grads.dS_0 == 1).all()
    assert all((x == 0).all() for x in (o, *grads[:5]))


def test_training_keeps_no_states():
    """States of all steps would be 64 times the inputs."""
    x = np.ones((2000, 1, 64), np.float32)
    _, _, tape = functional.linear_attention_forward(x, x, x, decay=-x[..., :1], beta=x[..., :1], num_heads=1)
    assert np.shares_memory(tape._unreleased().arrays[0], x)
    assert tape.nbytes <= 4.2 * x.nbytes


Q, RATE = np.ones((3, 2, 4)), np.ones((3, 2, 2))
WRONG = {
    "no heads": (lambda f: f(Q, Q, Q, num_heads=0), ValueError, "num_heads is 0; expected an integer >= 1"),
    "heads": (lambda f: f(Q, Q, Q, num_heads=3, num_kv_heads=2), ValueError, "num_heads is 3; expected a multiple of"),
    "q": (lambda f: f(Q[0], Q, Q, num_heads=2), ValueError, r"q has shape \(2, 4\); expected \(T, B, num_heads"),
    "width": (lambda f: f(Q, Q, Q, num_heads=3), ValueError, r"q has shape .*num_heads = 3"),
    "k": (lambda f: f(Q, Q[..., :2], Q, num_heads=2), ValueError, r"k has shape .*\(3, 2, 4\)"),
    "v": (lambda f: f(Q, Q, Q[:2], num_heads=2), ValueError, r"v has shape \(2, 2, 4\); expected \(T, B, num_kv_heads"),
    "decay": (lambda f: f(Q, Q, Q, RATE[..., :1], num_heads=2), ValueError, r"decay has shape .* \(3, 2, 2\) or"),
    "beta": (lambda f: f(Q, Q, Q, None, Q, num_heads=2), ValueError, r"beta has shape .* \(3, 2, 2\) or \(3, 2, 1\)"),
    "S_0": (lambda f: f(Q, Q, Q, S_0=Q, num_heads=2), ValueError, r"S_0 has shape .*\(2, 2, 2, 2\)"),
    "rule": (lambda f: f(Q, Q, Q, num_heads=2, rule="gate"), ValueError, "rule is 'gate'"),
    "no decay": (lambda f: f(Q, Q, Q, num_heads=2, rule="gated"), ValueError, "decay is None with rule='gated'"),
    "a decay": (lambda f: f(Q, Q, Q, RATE, num_heads=2, rule="linear"), ValueError, "given with rule='linear'"),
    "scale": (lambda f: f(Q, Q, Q, num_heads=2, scale=np.inf), ValueError, "scale is inf"),
    "complex": (lambda f: f(Q, 1j * Q, Q, num_heads=2), TypeError, "k has dtype complex128"),
    "no gradient": (
        lambda f: functional.linear_attention_backward(f(Q, Q, Q, num_heads=2)[2]), ValueError, "do, dS_n are all None"
    ),
    "a gradient": (
        lambda f: functional.linear_attention_backward(f(Q, Q, Q, num_heads=2)[2], RATE), ValueError, "do has shape"
    ),
    "another tape": (
        lambda f: functional.linear_attention_backward(functional.scan_forward(0.5, Q)[2], Q), TypeError, "of scan_forw"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused(case):
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call(functional.linear_attention_forward)


def test_tapes_are_used_again_and_released(rng):
    arguments = draw(rng, 9, 2, (5, 6), (2, 2), "gated_delta", 64, np.float32)
    do, _ = gradients_for(rng, arguments, np.float32)
    _, _, tape = functional.linear_attention_forward(**arguments)
    same_bits(*(functional.linear_attention_backward(tape, do) for _ in range(2)))
    tape.release()
    with pytest.raises(ValueError, match="this tape was released"):
        functional.linear_attention_backward(tape, do)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that raises a signal")
@pytest.mark.parametrize("beta", [False, True])
def test_a_signal_ends_a_long_call(beta):
    class StopError(Exception):
        pass

    def stop(*_):
        raise StopError

    x = np.broadcast_to(np.ones((1, 1, 64), np.float32), (200_000, 1, 64))

    def run_for(seconds):
        start = time.process_time()
        while time.process_time() - start < seconds:
            functional.linear_attention_forward(x, x, x, beta=x[..., :1] if beta else None, num_heads=1)

    old = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.06)
        with pytest.raises(StopError):
            run_for(20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
