"""Scans and dense state spaces on plain arrays: against the reference, finite differences, and themselves."""

import itertools
import signal
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusedrnn
from fusedrnn import functional
from fusedrnn.reference.array_checks import sum_to_shape
from recurrence_problems import (
    FUNCTIONS,
    REFERENCES,
    both,
    draw_scan,
    draw_state_space,
    draw_steps,
    numbers,
)
from tolerances import assert_close, bound

NAMES = {
    "scan": ("h", "h_n", "da", "db", "dh_0"),
    "state_space": ("y", "x_n", "du", "dA", "dB", "dC", "dD", "dx_0"),
}
UNITS = st.one_of(st.integers(1, 70), st.sampled_from([128, 130, 1100, 4099]))
SIZES = st.sampled_from([1, 2, 3, 4, 8, 9, 16, 17, 33, 70])


def magnitudes(kind, arguments):
    """Magnitudes of all arguments, a or the matrices repeated for each step and row."""
    of_all = (arguments["b"] if kind == "scan" else arguments["u"]).shape
    full = {
        name: np.abs(x) if isinstance(x, np.ndarray) and x.dtype.kind in "fc" else x for name, x in arguments.items()
    }
    if kind == "scan":
        return full | {"a": np.array(np.broadcast_to(full["a"], of_all))}
    for name in "ABCD":
        M = full[name]
        if M is not None:
            full[name] = np.array(np.broadcast_to(M[:, None] if M.ndim == 3 else M, (*of_all[:2], *M.shape[-2:])))
    return full


def agree(kind, arguments, d_outputs, d_state, dtype, K, T):
    """Every result of the kernels is that of the reference in double precision.

    Where terms cancel, the scale of an error is that of the terms: the same result of all magnitudes.
    """
    ours = both(FUNCTIONS[kind], arguments, d_outputs, d_state)
    theirs = both(REFERENCES[kind], arguments, d_outputs, d_state)
    given = (None if d is None else np.abs(d) for d in (d_outputs, d_state))
    terms = both(REFERENCES[kind], magnitudes(kind, arguments), *given)
    real = np.dtype(dtype).type(0).real.dtype
    for name, x, y, term in zip(NAMES[kind], ours, theirs, terms, strict=True):
        if x is None or y is None:
            assert x is y
            continue
        assert x.shape == y.shape, name
        assert x.dtype == np.dtype(dtype), name
        total = np.abs(term)
        if total.shape != y.shape:
            lead = total.sum(1) if kind == "state_space" and y.ndim == 3 else total
            total = lead if lead.shape == y.shape else sum_to_shape(lead, y.shape)
        scale = float(total.max(initial=1e-30))
        flat, wide = np.ascontiguousarray(x).reshape(-1).view(real), np.ascontiguousarray(y).reshape(-1)
        wide = wide.view(wide.real.dtype)
        with_scale = np.append(flat, real.type(scale)), np.append(wide, float(real.type(scale)))
        assert_close(*with_scale, dtype=real, K=K, T=T, what=f"{kind} {name}")


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 5), UNITS, st.integers(0, 8), st.integers(0, 15), st.integers(0, 2**32),
    st.sampled_from([np.float32, np.float64, np.complex64, np.complex128]), st.integers(1, 3),
)  # fmt: skip
def test_scans_equal_the_reference(T, B, H, kind, which, seed, dtype, gradients):
    rng = np.random.default_rng(seed)
    arguments = draw_scan(rng, T, B, H, kind, which, dtype)
    dh = numbers(rng, (T, B, H), dtype) if gradients & 1 else None
    dh_n = numbers(rng, (B, H), dtype) if gradients & 2 else None
    agree("scan", arguments, dh, dh_n, dtype, B * H, T)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 7), st.one_of(st.integers(1, 6), st.just(40)), st.tuples(SIZES, SIZES, SIZES),
    st.tuples(*[st.integers(0, 2)] * 3, st.integers(0, 3)), st.integers(0, 15), st.integers(0, 2**32),
    st.sampled_from([np.float32, np.float64]), st.integers(1, 3),
)  # fmt: skip
def test_state_spaces_equal_the_reference(T, rows, sizes, forms, which, seed, dtype, gradients):
    rng = np.random.default_rng(seed)
    arguments = draw_state_space(rng, T, rows, sizes, forms, which, dtype)
    dy = numbers(rng, (T, rows, sizes[2]), dtype) if gradients & 1 else None
    dx_n = numbers(rng, (rows, sizes[0]), dtype) if gradients & 2 else None
    agree("state_space", arguments, dy, dx_n, dtype, max(sizes) * rows, T)


def central_difference(kind, arguments, names, d_outputs, d_state, rng):
    """The derivative along one random direction of each argument, beside the gradient that backward returns."""

    def value(changed):
        y, state, _ = REFERENCES[kind][0](**changed)
        return np.vdot(d_outputs, y).real + np.vdot(d_state, state).real

    _, _, tape = REFERENCES[kind][0](**arguments)
    grads = REFERENCES[kind][1](tape, d_outputs, d_state)
    for name in names:
        if arguments[name] is None:
            continue
        direction = numbers(rng, arguments[name].shape, arguments[name].dtype)
        sides = [value(arguments | {name: arguments[name] + step * direction}) for step in (1e-5, -1e-5)]
        found = np.vdot(direction, getattr(grads, f"d{name}")).real
        scale = np.linalg.norm(getattr(grads, f"d{name}")) * np.linalg.norm(direction) + 1
        assert abs((sides[0] - sides[1]) / 2e-5 - found) < bound(np.float64, 1, 1, "central_difference") * scale, name


@pytest.mark.parametrize("which", range(16))
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_the_reference_s_gradients_of_scans_are_finite_differences(rng, which, dtype):
    for kind in range(9):
        arguments = draw_scan(rng, 6, 3, 4, kind, which, dtype)
        arguments["h_0"] = numbers(rng, (3, 4), dtype)
        d = numbers(rng, (6, 3, 4), dtype), numbers(rng, (3, 4), dtype)
        central_difference("scan", arguments, ("a", "b", "h_0"), *d, rng)


@pytest.mark.parametrize("which", range(16))
def test_the_reference_s_gradients_of_state_spaces_are_finite_differences(rng, which):
    for forms in itertools.product(range(3), repeat=2):
        arguments = draw_state_space(rng, 5, 3, (3, 2, 4), (*forms, *forms[::-1]), which, np.float64)
        arguments["x_0"] = numbers(rng, (3, 3))
        d = numbers(rng, (5, 3, 4)), numbers(rng, (3, 3))
        central_difference("state_space", arguments, ("u", "A", "B", "C", "D", "x_0"), *d, rng)


# ---- bits


def same_bits(one, other):
    for x, y in zip(one, other, strict=True):
        assert (x is None and y is None) or (x.shape == y.shape and x.tobytes() == y.tobytes())


@pytest.mark.parametrize("kind", range(9))
@pytest.mark.parametrize("which", [0, 7, 15])
def test_scans_have_the_same_bits_for_any_number_of_threads(rng, isa, kind, which):
    arguments = draw_scan(rng, 600, 5, 301, kind, which, np.float32)
    d = numbers(rng, (600, 5, 301), np.float32), numbers(rng, (5, 301), np.float32)
    with fusedrnn.threads(1):
        alone = both(FUNCTIONS["scan"], arguments, *d)
    for threads in (2, 3, 5, 16):
        with fusedrnn.threads(threads):
            same_bits(alone, both(FUNCTIONS["scan"], arguments, *d))


@pytest.mark.parametrize("forms", [(0, 0, 0, 0), (1, 0, 1, 3), (2, 1, 0, 2)])
@pytest.mark.parametrize("which", [0, 7])
def test_state_spaces_have_the_same_bits_for_any_number_of_threads(rng, isa, forms, which):
    arguments = draw_state_space(rng, 90, 37, (19, 7, 5), forms, which, np.float32)
    d = numbers(rng, (90, 37, 5), np.float32), numbers(rng, (37, 19), np.float32)
    with fusedrnn.threads(1):
        alone = both(FUNCTIONS["state_space"], arguments, *d)
    for threads in (2, 3, 5, 16):
        with fusedrnn.threads(threads):
            same_bits(alone, both(FUNCTIONS["state_space"], arguments, *d))


def row_of(name, value, T, B, b):
    """The part of an argument or a result that belongs to row b."""
    if value is None or not isinstance(value, np.ndarray):
        return value
    if name in ("lengths", "h_0", "x_0", "dh_0", "dx_0", "h_n", "x_n"):
        return value[b : b + 1]
    if value.ndim >= 3 and value.shape[:2] == (T, B):
        return value[:, b : b + 1]
    return value[:, b : b + 1] if name in ("mask", "reset") else value


@pytest.mark.parametrize("which", [0, 7, 15])
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_a_row_of_a_scan_has_the_same_bits_alone(rng, isa, which, dtype):
    T, B, H = 9, 4, 37
    for kind in (0, 1, 2):
        arguments = draw_scan(rng, T, B, H, kind, which, dtype)
        dh, dh_n = numbers(rng, (T, B, H), dtype), numbers(rng, (B, H), dtype)
        names = NAMES["scan"]
        together = both(FUNCTIONS["scan"], arguments, dh, dh_n)
        for b in range(B):
            own = {name: row_of(name, value, T, B, b) for name, value in arguments.items()}
            alone = both(FUNCTIONS["scan"], own, dh[:, b : b + 1], dh_n[b : b + 1])
            for name, x, y in zip(names, together, alone, strict=True):
                if name != "da" or kind == 0:  # a shared a has the sum over rows
                    assert row_of(name, x, T, B, b).tobytes() == y.tobytes(), name


@pytest.mark.parametrize("which", [0, 7, 15])
@pytest.mark.parametrize("forms", [(0, 0, 0, 0), (1, 0, 1, 3), (2, 1, 0, 2)])
def test_a_row_of_a_state_space_has_the_same_bits_alone(rng, isa, which, forms):
    T, B = 6, 13
    arguments = draw_state_space(rng, T, B, (19, 7, 5), forms, which, np.float32)
    dy, dx_n = numbers(rng, (T, B, 5), np.float32), numbers(rng, (B, 19), np.float32)
    together = both(FUNCTIONS["state_space"], arguments, dy, dx_n)
    for b in (0, 5, 12):
        own = {name: row_of(name, value, T, B, b) for name, value in arguments.items()}
        alone = both(FUNCTIONS["state_space"], own, dy[:, b : b + 1], dx_n[b : b + 1])
        for name, x, y in zip(NAMES["state_space"], together, alone, strict=True):
            if name in ("y", "x_n", "du", "dx_0"):
                assert row_of(name, x, T, B, b).tobytes() == y.tobytes(), name


@pytest.mark.parametrize("which", [0, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (2, 2, 1), (3, 5, 2), (16, 4, 17), (40, 16, 2), (32, 32, 32)])
def test_rows_in_lanes_have_the_bits_of_packed_matrices(rng, isa, sizes, dtype, which):
    # 150 rows lie in the lanes of vectors unless a matrix has a row of its own; a single row never does.
    T, B = 5, 150
    for forms in ((0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 1, 3)):
        arguments = draw_state_space(rng, T, B, sizes, forms, which, dtype)
        y, x_n, _ = functional.state_space_forward(**arguments)
        arguments["A"] = np.broadcast_to(arguments["A"][..., None, :, :], (T, B, sizes[0], sizes[0]))
        packed = functional.state_space_forward(**arguments)
        same_bits((y, x_n), packed[:2])
        for b in (0, 31, 149):
            own = {name: row_of(name, value, T, B, b) for name, value in arguments.items()}
            alone = functional.state_space_forward(**own)
            same_bits((y[:, b : b + 1], x_n[b : b + 1]), alone[:2])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["scan", "state_space"])
def test_a_sequence_in_two_calls_has_the_same_bits(rng, isa, reverse, kind):
    T, B, H = 11, 3, 21
    if kind == "scan":
        whole = draw_scan(rng, T, B, H, 0, 2 + 4, np.float32)
        state, over_time = "h_0", ("a", "b", "mask", "reset")
    else:
        whole = draw_state_space(rng, T, B, (H, 4, 5), (1, 2, 0, 1), 2 + 4, np.float32)
        state, over_time = "x_0", ("u", "A", "B", "D", "mask", "reset")
    forward = FUNCTIONS[kind][0]
    y, state_n, _ = forward(**whole | {"reverse": reverse})
    for cut in range(1, T):
        parts = [slice(0, cut), slice(cut, T)]
        carried, ys = whole[state], []
        for part in parts[::-1] if reverse else parts:
            own = {name: value[part] if name in over_time else value for name, value in whole.items()}
            if reverse and part.start == cut:
                own["reset"] = own["reset"].copy()
            out, carried, _ = forward(**own | {"reverse": reverse, state: carried})
            if reverse and part.start == cut:  # the cut at a chunk's first step lies between two calls
                carried = np.where(whole["reset"][cut][:, None], 0, carried).astype(np.float32)
            ys.append(out)
        assert np.concatenate(ys[::-1] if reverse else ys).tobytes() == y.tobytes(), cut
        assert carried.tobytes() == state_n.tobytes()


def test_layouts_of_memory_change_no_bits(rng):
    T, B, H = 7, 3, 21
    for dtype in (np.float32, np.complex128):
        arguments = draw_scan(rng, T, B, H, 0, 0, dtype)
        arguments["h_0"] = numbers(rng, (B, H), dtype)
        d = numbers(rng, (T, B, H), dtype), numbers(rng, (B, H), dtype)
        plain = both(FUNCTIONS["scan"], arguments, *d)
        for change in (
            np.asfortranarray,
            lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
            lambda x: x[::-1].copy()[::-1],
            lambda x: x.astype(x.dtype.newbyteorder(">")),
            lambda x: np.frombuffer(b"x" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
        ):
            changed = {name: change(x) if isinstance(x, np.ndarray) else x for name, x in arguments.items()}
            for x in changed.values():
                if isinstance(x, np.ndarray) and x.base is None:
                    x.flags.writeable = False
            same_bits(plain, both(FUNCTIONS["scan"], changed, change(d[0]), change(d[1])))
    arguments = draw_state_space(rng, T, B, (5, 3, 2), (1, 2, 0, 2), 8, np.float32)
    arguments["x_0"] = numbers(rng, (B, 5), np.float32)
    d = numbers(rng, (T, B, 2), np.float32), numbers(rng, (B, 5), np.float32)
    plain = both(FUNCTIONS["state_space"], arguments, *d)
    for change in (np.asfortranarray, lambda x: np.repeat(x, 2, axis=-1)[..., ::2], lambda x: x[::-1].copy()[::-1]):
        changed = {name: change(x) if isinstance(x, np.ndarray) else x for name, x in arguments.items()}
        same_bits(plain, both(FUNCTIONS["state_space"], changed, change(d[0]), change(d[1])))


def test_a_broadcast_a_is_that_of_its_repetition(rng):
    """A copy of the repeated a has the same outputs, bit for bit, and a gradient whose sum is that of a."""
    T, B, H = 300, 3, 150
    for kind in range(9):
        arguments = draw_scan(rng, T, B, H, kind, 0, np.float64)
        full = arguments | {"a": np.array(np.broadcast_to(arguments["a"], (T, B, H)))}
        d = numbers(rng, (T, B, H)), None
        ours, repeated = (both(FUNCTIONS["scan"], x, *d) for x in (arguments, full))
        for k in (0, 1, 3, 4):
            assert ours[k].tobytes() == repeated[k].tobytes()
        total = sum_to_shape(repeated[2], arguments["a"].shape)
        assert_close(ours[2], total, dtype=np.float64, K=B * H, T=T, what=f"da of {arguments['a'].shape}")


# ---- limits


def test_large_arrays_are_written_past_the_caches(rng, isa):
    """More than 32 MiB: the same values as a part of it, computed alone, which is not."""
    T, B, H = 700, 4, 1024
    a, b = (rng.random((T, B, H), dtype=np.float32) for _ in range(2))
    h, h_n, tape = functional.scan_forward(a, b)
    grads = functional.scan_backward(tape, dh=b)
    part = slice(0, 256)
    small, small_n, small_tape = functional.scan_forward(a[..., part], b[..., part])
    small_grads = functional.scan_backward(small_tape, dh=b[..., part])
    assert h[..., part].tobytes() == small.tobytes()
    assert h_n[..., part].tobytes() == small_n.tobytes()
    for x, y in zip(grads, small_grads, strict=True):
        assert x[..., part].tobytes() == y.tobytes()


def test_nan_and_infinities_stay_in_their_row(rng):
    a, b = rng.random((6, 3, 20)), rng.random((6, 3, 20))
    clean = both(FUNCTIONS["scan"], {"a": a, "b": b}, b, None)
    for bad in (np.nan, np.inf, -np.inf):
        dirty = b.copy()
        dirty[2, 1, 4] = bad
        results = both(FUNCTIONS["scan"], {"a": a, "b": dirty}, b, None)
        assert not np.isfinite(results[0][2:, 1, 4]).any()
        for x, y in zip(results, clean, strict=True):
            x, y = (np.delete(z, 1, axis=-2) for z in (x, y))
            assert x.tobytes() == y.tobytes()
    arguments = draw_state_space(rng, 6, 3, (5, 3, 2), (0, 0, 0, 0), 0, np.float64)
    clean_y = functional.state_space_forward(**arguments)[0]
    arguments["u"][2, 1, 0] = np.nan
    y = functional.state_space_forward(**arguments)[0]
    assert np.isnan(y[2:, 1]).all()
    assert np.delete(y, 1, axis=1).tobytes() == np.delete(clean_y, 1, axis=1).tobytes()


@pytest.mark.parametrize("reverse", [False, True])
def test_skipped_steps_are_not_read(rng, reverse):
    T, B = 7, 4
    steps = draw_steps(rng, T, B, 3) | {"reverse": reverse}
    runs = (np.arange(T)[:, None] < steps["lengths"]) & steps["mask"]
    scan = draw_scan(rng, T, B, 5, 0, 0, np.float64) | steps
    space = draw_state_space(rng, T, B, (5, 3, 2), (2, 0, 0, 0), 0, np.float64) | steps
    for kind, arguments, poisoned, width in (("scan", scan, ("a", "b"), 5), ("state_space", space, ("u", "A"), 2)):
        d = numbers(rng, (T, B, width)), None
        clean = both(FUNCTIONS[kind], arguments, *d)
        dirty = dict(arguments)
        for name in poisoned:
            dirty[name] = arguments[name].copy()
            dirty[name][~runs] = np.nan
        d[0][~runs] = np.nan
        same_bits(clean, both(FUNCTIONS[kind], dirty, *d))


def test_empty_sequences_pass_the_state_through():
    for T, B, H in itertools.product((0, 3), (0, 2), (0, 4)):
        if T and B and H:
            continue
        for a in (0.5, np.ones((T, B, H)), np.ones(H)):
            h_0 = np.ones((B, H))
            h, h_n, tape = functional.scan_forward(a, np.ones((T, B, H)), h_0, reset=np.ones((T, B), bool))
            grads = functional.scan_backward(tape, dh_n=h_0)
            assert (h.shape, grads.da.shape, grads.db.shape) == ((T, B, H), np.shape(a), (T, B, H))
            assert (h_n == h_0).all()
            assert (grads.dh_0 == h_0).all()
    for T, B in ((0, 2), (3, 0), (0, 0)):
        u, x_0 = np.ones((T, B, 3)), np.ones((B, 2))
        A = np.ones((T, B, 2, 2))
        y, x_n, tape = functional.state_space_forward(u, A, np.ones((2, 3)), np.ones((1, 2)), None, x_0)
        grads = functional.state_space_backward(tape, dx_n=x_0)
        assert (y.shape, grads.du.shape, grads.dA.shape) == ((T, B, 1), u.shape, A.shape)
        assert (x_n == x_0).all()
        assert (grads.dx_0 == x_0).all()
        assert (grads.dB == 0).all()


def test_reset_ignores_the_given_state():
    h = functional.scan_forward(0.5, np.ones((2, 2, 1)), np.full((2, 1), 100.0), reset=np.array([[True, False]] * 2))[0]
    assert h[:, 0, 0].tolist() == [1.0, 1.0]
    assert h[:, 1, 0].tolist() == [51.0, 26.5]


def test_dtypes_follow_the_arrays():
    b = np.ones((2, 1, 3), np.float32)
    assert functional.scan_forward(0.5, b)[0].dtype == np.float32
    assert functional.scan_forward(np.float64(0.5), b)[0].dtype == np.float64
    assert functional.scan_forward(np.ones(3, np.float16), b)[0].dtype == np.float32
    assert functional.scan_forward(np.ones(3, np.int64), b)[0].dtype == np.float64
    assert functional.scan_forward(0.5j, b)[0].dtype == np.complex64
    h, _, tape = functional.scan_forward(np.ones(3, np.complex64), b, np.ones((1, 3)))
    grads = functional.scan_backward(tape, dh=h)
    assert [x.dtype.name for x in (h, *grads)] == ["complex64", "complex64", "float32", "float32"]


def test_memory_of_a_training_step_is_that_of_its_arrays():
    """The tape refers to a and h; a broadcast a is not copied out."""
    b = np.ones((1000, 4, 64), np.float32)
    assert functional.scan_forward(0.5, b)[2].nbytes <= 1.01 * b.nbytes
    a = np.ones_like(b)
    assert functional.scan_forward(a, b)[2].nbytes <= 2.01 * b.nbytes
    tape = functional.scan_forward(a, b)[2]
    assert np.shares_memory(tape._unreleased().a, a)


WRONG = {
    "b has two axes": (lambda f: f.scan_forward(0.5, np.ones((3, 2))), ValueError, r"forward: b has shape \(3, 2\)"),
    "a does not broadcast": (
        lambda f: f.scan_forward(np.ones(3), np.ones((3, 2, 4))), ValueError, r"a has shape \(3,\); expected one that"
    ),
    "h_0": (lambda f: f.scan_forward(0.5, np.ones((3, 2, 4)), np.ones((2, 3))), ValueError, r"h_0 has shape \(2, 3\)"),
    "text": (lambda f: f.scan_forward("a", np.ones((3, 2, 4))), TypeError, "a has dtype"),
    "bools": (lambda f: f.scan_forward(np.ones(4, bool), np.ones((3, 2, 4))), TypeError, "a has dtype bool"),
    "large": (
        lambda f: f.scan_forward(0.5, np.broadcast_to(np.ones(1), (2**30, 2**10, 2**4))), MemoryError, "this machine"
    ),
    "lengths": (lambda f: f.scan_forward(0.5, np.ones((3, 1, 1)), lengths=[4]), ValueError, r"lengths\[0\] is 4"),
    "mask": (lambda f: f.scan_forward(0.5, np.ones((3, 1, 1)), mask=np.ones((1, 3), bool)), ValueError, "mask has"),
    "reset": (lambda f: f.scan_forward(0.5, np.ones((3, 1, 1)), reset=np.ones((3, 1))), TypeError, "reset has dtype"),
    "reverse": (lambda f: f.scan_forward(0.5, np.ones((3, 1, 1)), reverse=1), TypeError, "reverse is"),
    "no gradient": (lambda f: f.scan_backward(f.scan_forward(0.5, np.ones((3, 1, 1)))[2]), ValueError, "dh, dh_n are"),
    "complex gradient": (
        lambda f: f.scan_backward(f.scan_forward(0.5, np.ones((3, 1, 1)))[2], np.ones((3, 1, 1), complex)),
        TypeError, "dh has dtype complex128",
    ),
    "a shape of a gradient": (
        lambda f: f.scan_backward(f.scan_forward(0.5, np.ones((3, 1, 1)))[2], np.ones((3, 1))), ValueError, "dh has"
    ),
    "another tape": (
        lambda f: f.state_space_backward(f.scan_forward(0.5, np.ones((3, 1, 1)))[2], np.ones((3, 1, 1))),
        TypeError, "tape is a tape of scan_forward",
    ),
    "A is no square": (
        lambda f: f.state_space_forward(np.ones((3, 1, 1)), np.ones((2, 3)), np.ones((2, 1)), np.ones((1, 2))),
        ValueError, r"A has shape \(2, 3\); expected \(n, n\) = \(2, 2\)",
    ),
    "C for other rows": (
        lambda f: f.state_space_forward(np.ones((3, 1, 1)), np.eye(2), np.ones((2, 1)), np.ones((3, 2, 1, 2))),
        ValueError, "C has shape",
    ),
    "a complex A": (
        lambda f: f.state_space_forward(np.ones((3, 1, 1)), 1j * np.eye(2), np.ones((2, 1)), np.ones((1, 2))),
        TypeError, "A has dtype complex128; expected a real",
    ),
    "no state": (
        lambda f: f.state_space_forward(np.ones((3, 1, 1)), np.ones((0, 0)), np.ones((0, 1)), np.ones((1, 0))),
        ValueError, "expected at least 1 each",
    ),
    "read": (
        lambda f: f.state_space_forward(np.ones((3, 1, 1)), np.eye(1), np.eye(1), np.eye(1), read="now"),
        ValueError, "read is 'now'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused(case):
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call(functional)


def test_tapes_are_used_again_and_released():
    h, _, tape = functional.scan_forward(0.5, np.ones((3, 2, 4)))
    first, second = (functional.scan_backward(tape, dh=h) for _ in range(2))
    same_bits(first, second)
    tape.release()
    assert tape.nbytes == 0
    with pytest.raises(ValueError, match="this tape was released"):
        functional.scan_backward(tape, dh=h)


def test_one_tape_serves_several_threads(rng):
    h, _, tape = functional.scan_forward(rng.random((500, 3, 70)), rng.random((500, 3, 70)))
    expected = functional.scan_backward(tape, dh=h)
    results = [None] * 4

    def run(i):
        results[i] = functional.scan_backward(tape, dh=h)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for result in results:
        same_bits(expected, result)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that raises a signal")
@pytest.mark.parametrize("call", ["scan", "state_space"])
def test_a_signal_ends_a_long_call(call):
    class StopError(Exception):
        pass

    def stop(*_):
        raise StopError

    b = np.broadcast_to(np.ones((1, 1, 16), np.float32), (2_000_000, 1, 16))
    A = np.full((16, 16), 0.01, np.float32)

    def run_for(seconds):
        start = time.process_time()
        while time.process_time() - start < seconds:
            if call == "scan":
                functional.scan_forward(0.5, b)
            else:
                functional.state_space_forward(b, A, A, A, A)

    old = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.06)
        with pytest.raises(StopError):
            run_for(20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    h = functional.scan_forward(0.5, np.ones((3, 1, 1)))[0]
    assert h[:, 0, 0].tolist() == [1.0, 1.5, 1.75]
