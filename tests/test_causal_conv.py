"""Causal convolutions on plain arrays: against the reference, finite differences, and themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusedrnn
from fusedrnn import functional, reference
from recurrence_problems import draw_steps, numbers
from tolerances import assert_close, bound

NAMES = ("y", "state_n", "dx", "dweight", "dbias", "dstate")
CHANNELS = st.sampled_from([1, 3, 8, 15, 16, 17, 70, 255, 256, 257, 530])
KERNELS = st.sampled_from([1, 2, 3, 4, 5, 8, 33])


def draw(rng, T, B, D, k, which, dtype):
    """Arguments; bits 16 to 64 of `which`: bias, state, silu."""
    return {
        "x": numbers(rng, (T, B, D), dtype),
        "weight": numbers(rng, (D, k), dtype),
        "bias": numbers(rng, (D,), dtype) if which & 16 else None,
        "state": numbers(rng, (B, k - 1, D), dtype) if which & 32 else None,
        "activation": "silu" if which & 64 else None,
        **draw_steps(rng, T, B, which),
    }


def run(arguments, dy, dstate_n, module=functional):
    y, state_n, tape = module.causal_conv_forward(**arguments)
    return (y, state_n, *module.causal_conv_backward(tape, dy, dstate_n))


def same_bits(one, other):
    for x, y in zip(one, other, strict=True):
        assert (x is None and y is None) or (x.shape == y.shape and x.tobytes() == y.tobytes())


@settings(max_examples=120, deadline=None)
@given(
    st.one_of(st.integers(1, 40), st.just(70)), st.integers(1, 11), CHANNELS, KERNELS, st.integers(0, 127),
    st.integers(0, 2**32), st.sampled_from([np.float32, np.float64]), st.integers(1, 3),
)  # fmt: skip
def test_equals_the_reference(T, B, D, k, which, seed, dtype, gradients):
    rng = np.random.default_rng(seed)
    arguments = draw(rng, T, B, D, k, which, dtype)
    d = numbers(rng, (T, B, D), dtype) if gradients & 1 else None
    d_n = numbers(rng, (B, k - 1, D), dtype) if gradients & 2 else None
    for name, ours, theirs in zip(NAMES, run(arguments, d, d_n), run(arguments, d, d_n, reference), strict=True):
        length = k * T * B if name in ("dweight", "dbias") else k
        assert_close(ours, theirs, dtype=dtype, K=length, T=T, what=name)


@pytest.mark.parametrize("which", range(0, 128, 3))
def test_the_reference_s_gradients_are_finite_differences(rng, which):
    for k in (1, 2, 4):
        arguments = draw(rng, 6, 3, 4, k, which | 48, np.float64)
        d = numbers(rng, (6, 3, 4)), numbers(rng, (3, k - 1, 4))
        _, _, tape = reference.causal_conv_forward(**arguments)
        grads = reference.causal_conv_backward(tape, *d)
        for name in ("x", "weight", "bias", "state"):
            direction = numbers(rng, arguments[name].shape)
            sides = []
            for step in (1e-5, -1e-5):
                y, state_n, _ = reference.causal_conv_forward(**arguments | {name: arguments[name] + step * direction})
                sides.append(np.vdot(d[0], y) + np.vdot(d[1], state_n))
            found = np.vdot(direction, getattr(grads, f"d{name}"))
            scale = np.linalg.norm(getattr(grads, f"d{name}")) * np.linalg.norm(direction) + 1
            assert abs((sides[0] - sides[1]) / 2e-5 - found) < bound(np.float64, 1, 1, "central_difference") * scale


@pytest.mark.parametrize("which", [0, 64, 48 + 7, 127])
def test_the_same_bits_for_any_number_of_threads(rng, isa, which):
    arguments = draw(rng, 90, 9, 700, 4, which, np.float32)
    d = numbers(rng, (90, 9, 700), np.float32), numbers(rng, (9, 3, 700), np.float32)
    with fusedrnn.threads(1):
        alone = run(arguments, *d)
    for threads in (2, 3, 5, 16):
        with fusedrnn.threads(threads):
            same_bits(alone, run(arguments, *d))


@pytest.mark.parametrize("which", [64, 127])
def test_a_row_has_the_same_bits_alone(rng, isa, which):
    T, B = 40, 5
    arguments = draw(rng, T, B, 75, 4, which, np.float32)
    d = numbers(rng, (T, B, 75), np.float32), numbers(rng, (B, 3, 75), np.float32)
    together = run(arguments, *d)
    for b in range(B):
        row = slice(b, b + 1)
        own = dict(arguments)
        for name, index in (("x", (slice(None), row)), ("state", row), ("lengths", row)):
            own[name] = None if own.get(name) is None else own[name][index]
        for name in ("mask", "reset"):
            own[name] = None if own.get(name) is None else own[name][:, row]
        alone = run(own, d[0][:, row], d[1][row])
        for k in (0, 2):
            assert together[k][:, row].tobytes() == alone[k].tobytes()
        for k in (1, 5):
            assert together[k][row].tobytes() == alone[k].tobytes()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_a_sequence_in_two_calls_has_the_same_bits(rng, isa, reverse, k):
    T, B, D = 37, 3, 21
    whole = draw(rng, T, B, D, k, 2 + 48 + 64, np.float32) | {"reverse": reverse}
    y, state_n, _ = functional.causal_conv_forward(**whole)
    for cut in range(1, T):
        parts, carried, ys = [slice(0, cut), slice(cut, T)], whole["state"], []
        for part in parts[::-1] if reverse else parts:
            own = whole | {"x": whole["x"][part], "mask": whole["mask"][part], "state": carried}
            out, carried, _ = functional.causal_conv_forward(**own)
            ys.append(out)
        assert np.concatenate(ys[::-1] if reverse else ys).tobytes() == y.tobytes(), cut
        assert carried.tobytes() == state_n.tobytes()


def test_layouts_of_memory_change_no_bits(rng):
    arguments = draw(rng, 7, 3, 21, 4, 48, np.float32)
    d = numbers(rng, (7, 3, 21), np.float32), numbers(rng, (3, 3, 21), np.float32)
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


def test_nan_stays_in_its_row_and_channel(rng):
    arguments = draw(rng, 20, 3, 40, 4, 64 + 16, np.float32)
    d = numbers(rng, (20, 3, 40), np.float32)
    clean = run(arguments, d, None)
    arguments["x"][2, 1, 4] = np.nan
    dirty = run(arguments, d, None)
    assert np.isnan(dirty[0][2:6, 1, 4]).all()
    assert np.isfinite(dirty[0][6:]).all()
    for k in (0, 2):
        assert np.delete(dirty[k], 1, axis=1).tobytes() == np.delete(clean[k], 1, axis=1).tobytes()
        assert np.delete(dirty[k], 4, axis=2).tobytes() == np.delete(clean[k], 4, axis=2).tobytes()


def test_skipped_steps_are_not_read(rng):
    arguments = draw(rng, 9, 4, 5, 3, 3 + 16 + 32 + 64, np.float64)
    runs = (np.arange(9)[:, None] < arguments["lengths"]) & arguments["mask"]
    d = numbers(rng, (9, 4, 5))
    clean = run(arguments, d, None)
    arguments["x"][~runs] = np.nan
    d[~runs] = np.nan
    same_bits(clean, run(arguments, d, None))


@pytest.mark.parametrize(("T", "B", "D"), [(0, 2, 3), (3, 0, 3), (3, 2, 0), (0, 0, 0)])
def test_empty_arrays_pass_the_state_through(T, B, D):
    state = np.ones((B, 2, D))
    y, state_n, tape = functional.causal_conv_forward(np.ones((T, B, D)), np.ones((D, 3)), None, state)
    grads = functional.causal_conv_backward(tape, dstate_n=state)
    assert y.shape == grads.dx.shape == (T, B, D)
    assert (grads.dweight.shape, grads.dbias) == ((D, 3), None)
    assert (state_n == state).all()
    assert (grads.dstate == state).all()


def test_memory_of_a_training_step_is_that_of_its_arrays():
    x = np.ones((1000, 4, 64), np.float32)
    tape = functional.causal_conv_forward(x, np.ones((64, 4), np.float32))[2]
    assert np.shares_memory(tape._unreleased().x, x)
    assert tape.nbytes <= 1.01 * x.nbytes


X, W = np.ones((3, 2, 4)), np.ones((4, 2))
WRONG = {
    "x has two axes": (lambda f: f.causal_conv_forward(X[0], W), ValueError, r"x has shape \(2, 4\); expected \(T, B"),
    "weight": (lambda f: f.causal_conv_forward(X, W.T), ValueError, r"weight has shape \(2, 4\); expected \(D, k\)"),
    "no kernel": (lambda f: f.causal_conv_forward(X, W[:, :0]), ValueError, "k at least 1"),
    "bias": (lambda f: f.causal_conv_forward(X, W, np.ones(3)), ValueError, r"bias has shape \(3,\); expected \(D,\)"),
    "state": (lambda f: f.causal_conv_forward(X, W, None, X), ValueError, r"state has shape .*\(B, k-1, D\) = \(2, 1"),
    "activation": (lambda f: f.causal_conv_forward(X, W, activation="relu"), ValueError, "activation is 'relu'"),
    "complex": (lambda f: f.causal_conv_forward(1j * X, W), TypeError, "x has dtype complex128"),
    "no gradient": (lambda f: f.causal_conv_backward(f.causal_conv_forward(X, W)[2]), ValueError, "dy, dstate_n are"),
    "a gradient": (lambda f: f.causal_conv_backward(f.causal_conv_forward(X, W)[2], W), ValueError, "dy has shape"),
    "another tape": (
        lambda f: f.causal_conv_backward(f.scan_forward(0.5, X)[2], X), TypeError, "tape is a tape of scan_forward"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused(case):
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call(functional)
