"""The selective scan: against the reference, finite differences, and itself."""

import ctypes
import resource
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

NAMES = ("y", "h_n", "du", "ddelta", "dA", "dB", "dC", "dD", "dz", "ddelta_bias", "dh_0")
RULES = ("mamba", "zoh", "bilinear")
OURS = functional.selective_scan_forward, functional.selective_scan_backward
THEIRS = reference.selective_scan_forward, reference.selective_scan_backward


def draw(rng, T, B, D, N, dtype, *, wide=False, forms=(0, 0), G=1, rule="mamba", softplus=True, given=0b1111, which=0):
    """Arguments of a call; forms of B and C: 0 (T, B, N), 1 (T, B, G, N), 2 constant; 3 and more: real."""
    complex_dtype = np.result_type(dtype, np.complex64) if wide else dtype
    A = -np.exp(rng.uniform(-2, 1, (D, N)))
    if wide:
        A = A + 1j * rng.standard_normal((D, N)) * 3
    arguments = {"u": numbers(rng, (T, B, D), dtype), "A": A.astype(complex_dtype)}
    delta = rng.uniform(-2, 1, (T, B, D)) if softplus else rng.uniform(0, 1, (T, B, D))
    arguments["delta"] = delta.astype(dtype)
    for name, form in zip("BC", forms, strict=True):
        shape = ((T, B, N), (T, B, G, N), (D, N))[form % 3]
        arguments[name] = numbers(rng, shape, dtype if form >= 3 else complex_dtype)
    arguments["D"] = numbers(rng, (D,), dtype) if given & 1 else None
    arguments["z"] = numbers(rng, (T, B, D), dtype) if given & 2 else None
    arguments["delta_bias"] = rng.uniform(0, 0.5, D).astype(dtype) if given & 4 else None
    arguments["h_0"] = numbers(rng, (B, D, N), complex_dtype) if given & 8 else None
    return arguments | {"delta_softplus": softplus, "discretization": rule} | draw_steps(rng, T, B, which)


def both(functions, arguments, dy, dh_n):
    y, h_n, tape = functions[0](**arguments)
    return (y, h_n, *functions[1](tape, dy, dh_n))


def agree(arguments, dy, dh_n, dtype):
    """Every result is that of the reference in double precision, up to the scale of the terms that it sums."""
    ours, theirs = (both(functions, arguments, dy, dh_n) for functions in (OURS, THEIRS))
    size = {x: np.abs(arguments[x]) if arguments[x] is not None else None for x in ("u", "B", "C", "D", "z", "h_0")}
    if arguments["A"].dtype.kind == "c":
        size["A"] = arguments["A"].real + 0j
    terms = both(THEIRS, arguments | size, *(None if d is None else np.abs(d) for d in (dy, dh_n)))
    T, B, D = arguments["u"].shape
    for name, x, y, term in zip(NAMES, ours, theirs, terms, strict=True):
        if x is None or y is None:
            assert x is y, name
            continue
        assert x.shape == y.shape, name
        assert x.dtype.kind == y.dtype.kind, name
        scale = max(float(np.abs(part).max(initial=1e-30)) for part in (term, y))
        real = np.dtype(dtype)
        flat = np.append(np.ascontiguousarray(x).reshape(-1).view(real), real.type(scale))
        wide = np.append(np.ascontiguousarray(y).reshape(-1).view(np.float64), float(real.type(scale)))
        assert_close(flat, wide, dtype=real, K=B * D * arguments["A"].shape[1], T=T, what=name)


def gradients_of(rng, arguments, which=3):
    T, B, D = arguments["u"].shape
    A = arguments["A"]
    dy = numbers(rng, (T, B, D), arguments["u"].dtype) if which & 1 else None
    return dy, numbers(rng, (B, D, A.shape[1]), A.dtype) if which & 2 else None


@settings(max_examples=200, deadline=None)
@given(
    T=st.one_of(st.integers(1, 12), st.sampled_from([31, 32, 33, 64, 70])), B=st.integers(1, 4),
    per_group=st.one_of(st.integers(1, 20), st.sampled_from([32, 33, 130, 257])), G=st.integers(1, 3),
    N=st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 20, 33])), dtype=st.sampled_from(["f4", "f8"]),
    wide=st.booleans(), forms=st.tuples(st.integers(0, 5), st.integers(0, 5)), rule=st.sampled_from(RULES),
    softplus=st.booleans(), optional=st.integers(0, 15), which=st.integers(0, 15), gradients=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_equals_the_reference(
    T, B, per_group, G, N, dtype, wide, forms, rule, softplus, optional, which, gradients, seed
):
    rng = np.random.default_rng(seed)
    if {form % 3 for form in forms} == {0, 1}:
        forms = (1, 1)
    if 1 not in [form % 3 for form in forms]:
        G = 1
    arguments = draw(
        rng, T, B, per_group * G, N, dtype, wide=wide, forms=forms, G=G, rule=rule, softplus=softplus, given=optional,
        which=which,
    )  # fmt: skip
    agree(arguments, *gradients_of(rng, arguments, gradients), dtype)


@settings(max_examples=60, deadline=None)
@given(
    T=st.sampled_from([1, 5, 33, 70]), B=st.integers(1, 3), D=st.sampled_from([1, 7, 16, 40, 130]),
    N=st.sampled_from([1, 2, 3, 4, 7, 8, 16, 17, 30]), dtype=st.sampled_from(["f4", "f8"]),
    optional=st.integers(0, 15), which=st.integers(0, 15), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_mamba_equals_the_reference(T, B, D, N, dtype, optional, which, seed):
    """The usual case has a loop of its own."""
    rng = np.random.default_rng(seed)
    arguments = draw(rng, T, B, D, N, dtype, given=optional, which=which)
    agree(arguments, *gradients_of(rng, arguments), dtype)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("N", [1, 3, 16, 17, 64, 256])
def test_every_instruction_set_and_number_of_states(isa, rng, N, dtype):
    for wide in (False, True):
        arguments = draw(rng, 40, 2, 19, N, dtype, wide=wide, which=7)
        agree(arguments, *gradients_of(rng, arguments), dtype)


def test_more_rows_than_parts(rng):
    """Sums over rows are made in at most 16 parts."""
    arguments = draw(rng, 3, 37, 5, 4, "f8", forms=(2, 2))
    agree(arguments, *gradients_of(rng, arguments), "f8")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("forms", [(0, 0), (1, 1), (2, 2), (3, 2), (2, 0)])
def test_the_reference_s_gradients_are_finite_differences(rng, rule, wide, forms):
    for which in (0, 7, 15):
        arguments = draw(rng, 5, 2, 4, 3, "f8", wide=wide, forms=forms, G=2, rule=rule, which=which)
        dy, dh_n = gradients_of(rng, arguments)

        def value(changed, dy=dy, dh_n=dh_n):
            y, h_n, _ = THEIRS[0](**changed)
            return np.vdot(dy, y).real + np.vdot(dh_n, h_n).real

        grads = THEIRS[1](THEIRS[0](**arguments)[2], dy, dh_n)
        for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "h_0"):
            direction = numbers(rng, arguments[name].shape, arguments[name].dtype)
            sides = [value(arguments | {name: arguments[name] + step * direction}) for step in (1e-5, -1e-5)]
            gradient = getattr(grads, f"d{name}")
            assert gradient.dtype == arguments[name].dtype
            found = np.vdot(direction, gradient).real
            scale = np.linalg.norm(gradient) * np.linalg.norm(direction) + 1
            assert abs((sides[0] - sides[1]) / 2e-5 - found) < bound("f8", 1, 1, "central_difference") * scale, name


def same_bits(first, second):
    for name, x, y in zip(NAMES, first, second, strict=True):
        if x is None:
            assert y is None
        else:
            np.testing.assert_array_equal(x, y, err_msg=name)


CASES = [
    {}, {"wide": True}, {"rule": "zoh"}, {"forms": (2, 2), "wide": True, "rule": "zoh"}, {"forms": (1, 1), "G": 3},
    {"which": 15}, {"rule": "bilinear", "forms": (2, 0)},
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_bits_do_not_depend_on_threads(isa, rng, case, dtype):
    arguments = draw(rng, 70, 3, 270, 9, dtype, **case)
    gradients = gradients_of(rng, arguments)
    results = []
    for threads in (1, 2, 3, 5, 16):
        with fusedrnn.threads(threads):
            results.append(both(OURS, arguments, *gradients))
    for result in results[1:]:
        same_bits(results[0], result)


@pytest.mark.parametrize("case", CASES)
def test_rows_alone_are_rows_of_a_batch(rng, case):
    arguments = draw(rng, 40, 5, 30, 17, "f4", **case)
    dy, dh_n = gradients_of(rng, arguments)
    y, h_n, *grads = both(OURS, arguments, dy, dh_n)
    for row in range(5):
        alone = dict(arguments)
        for name in ("u", "delta", "z", "mask", "reset"):
            if alone.get(name) is not None:
                alone[name] = alone[name][:, row : row + 1]
        for name in "BC":
            if alone[name].ndim > 2:
                alone[name] = alone[name][:, row : row + 1]
        for name in ("h_0", "lengths"):
            if alone.get(name) is not None:
                alone[name] = alone[name][row : row + 1]
        result = both(OURS, alone, dy[:, row : row + 1], dh_n[row : row + 1])
        np.testing.assert_array_equal(result[0][:, 0], y[:, row])
        np.testing.assert_array_equal(result[1][0], h_n[row])
        for i in (2, 3, 8):
            np.testing.assert_array_equal(result[i][:, 0], grads[i - 2][:, row])
        for i, name in ((5, "B"), (6, "C")):
            if arguments[name].ndim > 2:
                np.testing.assert_array_equal(result[i][:, 0], grads[i - 2][:, row])
        np.testing.assert_array_equal(result[10][0], grads[8][row])


@pytest.mark.parametrize("case", [{}, {"wide": True}, {"rule": "zoh"}, {"which": 4}])
@pytest.mark.parametrize("cut", [1, 31, 32, 33, 50])
def test_two_calls_with_a_carried_state_are_one(isa, rng, case, cut):
    arguments = draw(rng, 70, 2, 21, 18, "f4", **case)
    y, h_n, _ = OURS[0](**arguments)
    over_time = ("u", "delta", "z", "B", "C", "mask", "reset")
    parts = []
    for steps in (slice(0, cut), slice(cut, None)):
        part = {k: v[steps] if k in over_time and v is not None else v for k, v in arguments.items()}
        if parts:
            part["h_0"] = parts[0][1]
        parts.append(OURS[0](**part))
    np.testing.assert_array_equal(np.concatenate([parts[0][0], parts[1][0]]), y)
    np.testing.assert_array_equal(parts[1][1], h_n)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("case", [{}, {"wide": True}, {"rule": "bilinear"}, {"forms": (2, 2)}, {"given": 0}])
@pytest.mark.parametrize(("D", "N"), [(37, 16), (64, 3), (16, 32)])
def test_steps_are_a_sequence(isa, rng, case, dtype, D, N):
    arguments = draw(rng, 9, 3, D, N, dtype, **case)
    arguments.pop("reverse")
    y, h_n, _ = OURS[0](**arguments)
    h = arguments.pop("h_0")
    h = np.zeros_like(h_n) if h is None else h.copy()
    softplus, rule = arguments.pop("delta_softplus"), arguments.pop("discretization")
    for t in range(9):
        at = {k: v[t] if k in ("u", "delta", "z") or (v is not None and v.ndim > 2) else v for k, v in
              arguments.items() if v is not None}  # fmt: skip
        out = functional.selective_scan_step(h, **at, delta_softplus=softplus, discretization=rule)
        np.testing.assert_array_equal(out, y[t])
    np.testing.assert_array_equal(h, h_n)


def test_a_step_takes_any_arrays(rng):
    arguments = draw(rng, 1, 3, 8, 16, "f4", given=7)
    plain = {
        k: v[0] if np.ndim(v) == 3 else v for k, v in arguments.items() if k in ("u", "delta", "A", "B", "C", "D", "z")
    }
    h = numbers(rng, (3, 8, 16), "f4")
    expected_h = h.copy()
    expected = functional.selective_scan_step(expected_h, **plain)
    others = {k: np.asfortranarray(v).astype(">f4") for k, v in plain.items()}
    wide = np.zeros((3, 8, 32), "f4")
    view = wide[:, :, ::2]
    view[...] = h
    np.testing.assert_array_equal(functional.selective_scan_step(view, **others), expected)
    np.testing.assert_array_equal(view, expected_h)
    assert not wide[:, :, 1::2].any()
    shared = numbers(rng, (3, 8, 16), "f4")  # the state is also an input: it is read before it is written
    given = shared.copy()
    one = functional.selective_scan_step(shared, shared[:, :, 3], plain["delta"], plain["A"], plain["B"], plain["C"])
    two = functional.selective_scan_step(
        given, given[:, :, 3].copy(), plain["delta"], plain["A"], plain["B"], plain["C"]
    )
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(shared, given)
    constant = functional.selective_scan_step(h.copy(), plain["u"], plain["delta"], plain["A"], plain["A"], plain["A"])
    assert constant.shape == (3, 8)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_large_and_zero_steps(isa, rng, wide, rule):
    """Decays that underflow, steps of zero and an A of zero: finite results, those of the reference."""
    for dtype in ("f4", "f8"):
        for delta in (0.0, 1e-30, 30.0, 1e4):
            arguments = draw(rng, 40, 2, 17, 5, dtype, wide=wide, rule=rule, softplus=False, given=11)
            arguments["delta"][5:9] = delta
            results = both(OURS, arguments, *gradients_of(rng, arguments))
            assert all(np.isfinite(x).all() for x in results if x is not None)
            if not wide:  # the phase of a complex decay is lost at large angles
                agree(arguments, *gradients_of(rng, arguments), dtype)
            arguments["A"][...] = 0
            arguments["delta"][5:9] = min(delta, 30)
            agree(arguments, *gradients_of(rng, arguments), dtype)


@pytest.mark.parametrize("case", CASES[:4])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["u", "delta", "z", "h_0"])
def test_values_that_are_no_numbers_stay_in_their_row(isa, rng, case, bad, where):
    arguments = draw(rng, 40, 3, 33, 6, "f4", **case)
    gradients = gradients_of(rng, arguments)
    clean = both(OURS, arguments, *gradients)
    arguments[where] = arguments[where].copy()
    arguments[where][1 if where == "h_0" else (7, 1)] = bad
    with np.errstate(all="ignore"):
        dirty = both(OURS, arguments, *gradients)
    for i in (0, 2, 3, 8):
        np.testing.assert_array_equal(np.delete(dirty[i], 1, axis=1), np.delete(clean[i], 1, axis=1))
    if not (where == "delta" and bad == -np.inf):  # softplus of which is a step of zero
        assert not np.isfinite(dirty[0][7:, 1]).all()
    for i in (1, 10):
        np.testing.assert_array_equal(np.delete(dirty[i], 1, axis=0), np.delete(clean[i], 1, axis=0))


def test_infinite_exponents_decay_to_zero(isa):
    for dtype in ("f4", "f8"):
        large = np.array(np.finfo(dtype).max, dtype)
        one = np.ones((2, 1, 1), dtype)
        y, _, _ = functional.selective_scan_forward(one, np.array([large, 1]).reshape(2, 1, 1), [[-4.0]], one * 0, one,
                                                    h_0=np.ones((1, 1, 1), dtype))  # fmt: skip
        assert y.tolist() == [[[0.0]], [[0.0]]]


def test_arrays_of_any_layout(rng):
    arguments = draw(rng, 40, 3, 20, 16, "f4", which=15)
    gradients = gradients_of(rng, arguments)
    expected = both(OURS, arguments, *gradients)
    for change in (
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: x.astype(x.dtype.newbyteorder()),
    ):
        changed = {
            k: change(v) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v for k, v in arguments.items()
        }
        for x in changed.values():
            if isinstance(x, np.ndarray):
                x.setflags(write=False)
        same_bits(expected, both(OURS, changed, *(change(x) for x in gradients)))
    same = dict(arguments, delta=np.broadcast_to(arguments["delta"][:1, :1], (40, 3, 20)))
    copied = dict(same, delta=same["delta"].copy())
    same_bits(both(OURS, same, *gradients), both(OURS, copied, *gradients))


def test_empty_sequences_pass_the_state_through():
    for T, B in ((0, 2), (3, 0), (0, 0)):
        x, h_0, A = np.ones((T, B, 4)), np.full((B, 4, 3), 2.0), np.ones((4, 3))
        y, h_n, tape = functional.selective_scan_forward(x, x, A, np.ones((T, B, 3)), A, np.ones(4), x, h_0=h_0)
        assert y.shape == (T, B, 4)
        assert (h_n == h_0).all()
        grads = functional.selective_scan_backward(tape, dh_n=h_0)
        assert (grads.dh_0 == h_0).all()
        assert [g.shape for g in grads[:6]] == [x.shape, x.shape, (4, 3), (T, B, 3), (4, 3), (4,)]
        assert not grads.dA.any()
        assert grads.ddelta_bias is None


def test_dtypes_follow_the_arrays(rng):
    arguments = draw(rng, 3, 1, 2, 2, "f4")
    assert functional.selective_scan_forward(**arguments)[0].dtype == np.float32
    assert functional.selective_scan_forward(**dict(arguments, D=np.ones(2)))[0].dtype == np.float32
    assert functional.selective_scan_forward(**dict(arguments, z=np.ones((3, 1, 2))))[0].dtype == np.float64
    y, h_n, _ = functional.selective_scan_forward(**dict(arguments, A=arguments["A"] * np.complex64(1)))
    assert (y.dtype, h_n.dtype) == (np.float32, np.complex64)


def test_memory_of_training(rng):
    """No array of states: a training step needs at most a fifth of its inputs, outputs and gradients beyond these."""
    T, B, D, N = 1024, 1, 1536, 16
    arguments = draw(rng, T, B, D, N, "f4")
    dy = numbers(rng, (T, B, D), "f4")
    whole = sum(x.nbytes for x in arguments.values() if isinstance(x, np.ndarray)) * 2 + 2 * dy.nbytes
    y, h_n, tape = functional.selective_scan_forward(**arguments)
    held = tape.nbytes - sum(arguments[x].nbytes for x in ("u", "delta", "z", "B", "C"))
    parts = 2 * 12 * T * B * N * 4  # the sums of 12 panels of channels, for B and C
    assert held == T // 32 * B * D * N * 4
    assert held + parts + 2**21 <= 0.2 * whole
    del y, h_n
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    functional.selective_scan_backward(tape, dy)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown <= whole / 2 + parts + 2**22


WRONG = {
    "u has two axes": ({"u": np.ones((3, 4))}, ValueError, r"u has shape \(3, 4\); expected \(T, B, D\)"),
    "delta": ({"delta": np.ones((3, 1, 4))}, ValueError, r"delta has shape \(3, 1, 4\)"),
    "z": ({"z": np.ones((3, 2, 5))}, ValueError, "z has shape"),
    "A": ({"A": np.ones((3, 5))}, ValueError, r"A has shape \(3, 5\); expected \(D, N\) with D = 4"),
    "no states": ({"A": np.ones((4, 0))}, ValueError, "N >= 1"),
    "B": ({"B": np.ones((3, 2, 6))}, ValueError, r"B has shape \(3, 2, 6\); expected \(T, B, N\) = \(3, 2, 5\)"),
    "C": ({"C": np.ones((5, 4))}, ValueError, "C has shape"),
    "groups": ({"B": np.ones((3, 2, 3, 5)), "C": np.ones((3, 2, 3, 5))}, ValueError, "B has 3 groups; expected a"),
    "other groups": ({"B": np.ones((3, 2, 2, 5))}, ValueError, "expected as many groups in both"),
    "complex B": ({"B": np.ones((3, 2, 5), complex)}, TypeError, "B has dtype complex128; expected a real one"),
    "complex u": ({"u": np.ones((3, 2, 4), complex)}, TypeError, "u has dtype complex128"),
    "D": ({"D": np.ones(5)}, ValueError, "D has shape"),
    "delta_bias": ({"delta_bias": np.ones((4, 1))}, ValueError, "delta_bias has shape"),
    "h_0": ({"h_0": np.ones((2, 5, 4))}, ValueError, r"h_0 has shape \(2, 5, 4\); expected \(B, D, N\)"),
    "complex h_0": ({"h_0": np.ones((2, 4, 5), complex)}, TypeError, "h_0 has dtype"),
    "text": ({"u": "a"}, TypeError, "u has dtype"),
    "softplus": ({"delta_softplus": 1}, TypeError, "delta_softplus is 1"),
    "rule": ({"discretization": "euler"}, ValueError, "discretization is 'euler'; expected one of 'mamba', 'zoh'"),
    "lengths": ({"lengths": [4, 1]}, ValueError, r"lengths\[0\] is 4"),
    "mask": ({"mask": np.ones((2, 3), bool)}, ValueError, "mask has shape"),
    "large": (
        {"u": np.broadcast_to(np.ones(1), (2**30, 2**10, 4)), "delta": np.broadcast_to(np.ones(1), (2**30, 2**10, 4)),
             "B": np.ones((4, 5)), "C": np.ones((4, 5))}, MemoryError, "this machine",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused(case):
    changed, error, message = WRONG[case]
    good = {"u": np.ones((3, 2, 4)), "delta": np.ones((3, 2, 4)), "A": np.ones((4, 5))}
    good |= {"B": np.ones((3, 2, 5)), "C": np.ones((3, 2, 5))}
    with pytest.raises(error, match=f"selective_scan_forward: .*{message}"):
        functional.selective_scan_forward(**(good | changed))


def test_wrong_gradients_and_steps_are_refused():
    x = np.ones((3, 1, 2))
    tape = functional.selective_scan_forward(x, x, np.ones((2, 1)), x[..., :1], x[..., :1])[2]
    for gradients, error, message in (
        ((None, None), ValueError, "dy, dh_n are all None"),
        ((x[:2],), ValueError, "dy has shape"),
        ((x * 1j,), TypeError, "dy has dtype"),
        ((x, np.ones((1, 2))), ValueError, "dh_n has shape"),
    ):
        with pytest.raises(error, match=message):
            functional.selective_scan_backward(tape, *gradients)
    with pytest.raises(TypeError, match="tape of scan_forward"):
        functional.selective_scan_backward(functional.scan_forward(0.5, x)[2], x)
    tape.release()
    with pytest.raises(ValueError, match="released"):
        functional.selective_scan_backward(tape, x)
    one = np.ones((1, 1))
    for h, error, message in (
        ([[[1.0]]], TypeError, "h is a list; expected a writable"),
        (np.ones((1, 1, 1), np.float32), TypeError, "h has dtype float32; expected float64"),
        (np.ones((1, 2, 1)), ValueError, "h_0 has shape"),
        (np.broadcast_to(1.0, (1, 1, 1)), TypeError, "writable"),
    ):
        with pytest.raises(error, match=message):
            functional.selective_scan_step(h, one, one, one, one, one)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that raises a signal")
def test_a_signal_ends_a_long_call():
    class StopError(Exception):
        pass

    def stop(*_):
        raise StopError

    x = np.broadcast_to(np.ones((1, 1, 16), np.float32), (1_000_000, 1, 16))
    A = np.full((16, 16), -1.0, np.float32)

    def run_for(seconds, call):
        start = time.process_time()
        while time.process_time() - start < seconds:
            call()

    tape = functional.selective_scan_forward(x, x, A, x, x)[2]
    old = signal.signal(signal.SIGALRM, stop)
    try:
        for call in (
            lambda: functional.selective_scan_forward(x, x, A, x, x),
            lambda: functional.selective_scan_backward(tape, x),
        ):
            signal.setitimer(signal.ITIMER_REAL, 0.06)
            with pytest.raises(StopError):
                run_for(20, call)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_the_caller_s_rounding_does_not_matter(rng):
    """The sums of parts and panels are made in the kernels, too."""
    arguments = draw(rng, 33, 20, 150, 5, "f4")
    gradients = gradients_of(rng, arguments)
    libm = ctypes.CDLL("libm.so.6")
    expected = both(OURS, arguments, *gradients)
    rounding = libm.fegetround()
    libm.fesetround(0x400)
    try:
        result = both(OURS, arguments, *gradients)
    finally:
        libm.fesetround(rounding)
    same_bits(expected, result)
