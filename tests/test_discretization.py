"""Discretization: the series of the reference, finite differences, samples of unequal length, limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedrnn import functional, reference
from recurrence_problems import numbers
from tolerances import assert_close, bound

METHODS = ("zoh", "foh", "bilinear", "euler")
NAMES = ("A", "B", "dt", "C", "D")


def draw(rng, n, m, p, diagonal, steps, outputs, dtype):
    """Arguments without the method; a stable system, so that results have the size of the arguments."""
    A = numbers(rng, (n,) if diagonal else (n, n), dtype)
    A = A - 2 if diagonal else A / np.sqrt(n) - 2 * np.eye(n)
    dt = rng.uniform(0.01, 1.0, steps) if steps else float(rng.uniform(0.01, 1.0))
    B = numbers(rng, (n,) if diagonal and m == 0 else (n, max(m, 1)), dtype)
    arguments = {"A": A, "B": B, "dt": dt}
    if outputs and B.ndim == 2:
        arguments["C"] = numbers(rng, (p, n), dtype)
        if outputs > 1:
            arguments["D"] = numbers(rng, (p, B.shape[1]), dtype)
    return arguments


CASES = (
    st.integers(1, 6), st.integers(0, 3), st.integers(1, 3), st.booleans(), st.integers(0, 3), st.integers(0, 2),
    st.sampled_from(METHODS), st.sampled_from([np.float64, np.complex128]), st.integers(0, 2**32),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(*CASES)
def test_results_are_the_reference_s(n, m, p, diagonal, steps, outputs, method, dtype, seed):
    arguments = draw(np.random.default_rng(seed), n, m, p, diagonal, steps, outputs, dtype)
    ours = functional.discretize(**arguments, method=method)
    theirs = reference.discretize(**arguments, method=method)
    assert len(ours) == len(theirs) == (4 if "C" in arguments else 2)
    for x, y in zip(ours, theirs, strict=True):
        for part in (np.real, np.imag):
            assert_close(
                np.append(part(x), np.abs(y).max()), np.append(part(y), np.abs(y).max()),
                dtype=np.float64, K=n, T=1, what=method,
            )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(*CASES)
def test_gradients_are_finite_differences(n, m, p, diagonal, steps, outputs, method, dtype, seed):
    rng = np.random.default_rng(seed)
    arguments = draw(rng, n, m, p, diagonal, steps, outputs, dtype)
    *results, tape = functional.discretize_forward(**arguments, method=method)
    d = [numbers(rng, x.shape, dtype) for x in results]
    grads = functional.discretize_backward(tape, *d)

    def value(changed):
        return sum(np.vdot(g, x).real for g, x in zip(d, functional.discretize(**changed, method=method), strict=True))

    for name in NAMES:
        found = getattr(grads, f"d{name}")
        if name not in arguments:
            assert found is None
            continue
        of = np.asarray(arguments[name])
        assert found.shape == of.shape
        assert found.dtype == of.dtype
        direction = numbers(rng, of.shape, of.dtype)
        sides = [value(arguments | {name: of + step * direction}) for step in (1e-5, -1e-5)]
        along = np.vdot(direction, found).real
        scale = np.linalg.norm(found) * np.linalg.norm(direction) + 1
        assert abs((sides[0] - sides[1]) / 2e-5 - along) < bound(np.float64, 1, 1, "central_difference") * scale, name


@pytest.mark.parametrize("method", METHODS)
def test_samples_of_unequal_length_are_those_of_their_lengths(rng, method):
    for diagonal in (False, True):
        arguments = draw(rng, 3, 2, 2, diagonal, 4, 2, np.float64)
        together = functional.discretize(**arguments, method=method)
        for t, dt in enumerate(arguments["dt"]):
            for x, y in zip(together, functional.discretize(**arguments | {"dt": dt}, method=method), strict=True):
                assert_close(x[t], y, dtype=np.float64, K=3, T=1, what=method)


def test_two_half_steps_are_one(rng):
    """Only of the exact methods."""
    A, B = rng.standard_normal((5, 5)), rng.standard_normal((5, 2))
    half, of_half = functional.discretize(A, B, 0.35)
    whole, of_whole = functional.discretize(A, B, 0.7)
    assert_close(half @ half, whole, dtype=np.float64, K=5, T=2, what="A_d")
    assert_close(half @ of_half + of_half, of_whole, dtype=np.float64, K=5, T=2, what="B_d")


def test_a_singular_a_and_a_step_of_zero_are_allowed():
    A_d, B_d = functional.discretize(np.zeros((2, 2)), np.ones((2, 1)), 0.5)
    assert_close(A_d, np.eye(2), dtype=np.float64, K=2, T=1, what="A_d")
    assert_close(B_d, np.full((2, 1), 0.5), dtype=np.float64, K=2, T=1, what="B_d")
    for method in METHODS:
        for A in (np.ones((2, 2)), np.ones(2)):
            A_d, B_d = functional.discretize(A, np.ones((2, 1)), 0.0, method)
            expected = np.eye(2) if A.ndim == 2 else np.ones(2)
            assert_close(A_d, expected, dtype=np.float64, K=2, T=1, what=method)
            assert (B_d == 0).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1e-5, 0.5, 0.999, 1.001, 30.0])
def test_small_decays_lose_no_digits(scale):
    """B_d of a diagonal system is dt phi_1(A dt), here beside expm1."""
    A = np.array([-scale, scale])
    _, B_d = functional.discretize(A, np.ones(2), 1.0)
    assert_close(B_d, np.expm1(A) / A, dtype=np.float64, K=1, T=1, what="phi_1")


def test_huge_and_bad_numbers_stay_in_their_step():
    A = np.array([[0.0, 1.0], [-1.0, 0.0]])
    clean = functional.discretize(A, np.ones((2, 1)), [0.1, 0.2, 0.3])[0]
    for bad in (np.nan, np.inf):
        dirty = functional.discretize(A, np.ones((2, 1)), [0.1, bad, 0.3])[0]
        assert np.isnan(dirty[1]).any()
        assert (np.delete(dirty, 1, 0) == np.delete(clean, 1, 0)).all()
    assert functional.discretize([[800.0]], [[1.0]], 1.0)[0][0, 0] == np.inf
    assert functional.discretize([[-800.0]], [[1.0]], 1.0)[0][0, 0] == 0


def test_dtypes_follow_the_arrays():
    A, B = np.ones((2, 2), np.float32), np.ones((2, 1), np.float32)
    assert [x.dtype.name for x in functional.discretize(A, B, 0.1)] == ["float32", "float32"]
    assert [x.dtype.name for x in functional.discretize(A, B, np.array([0.1]))] == ["float64", "float64"]
    A_d, _, tape = functional.discretize_forward(A * np.complex64(1j), B, 0.1)
    grads = functional.discretize_backward(tape, np.ones_like(A_d))
    assert [x.dtype.name for x in (A_d, grads.dA, grads.dB)] == ["complex64", "complex64", "float32"]


WRONG = {
    "A": (lambda f: f.discretize(np.ones((2, 3)), np.ones((2, 1)), 0.1), ValueError, r"A has shape \(2, 3\)"),
    "B": (lambda f: f.discretize(np.eye(2), np.ones(2), 0.1), ValueError, r"B has shape \(2,\); expected \(n, m\)"),
    "dt": (lambda f: f.discretize(np.eye(2), np.ones((2, 1)), [[0.1]]), ValueError, r"dt has shape \(1, 1\)"),
    "complex dt": (lambda f: f.discretize(np.eye(2), np.ones((2, 1)), 1j), TypeError, "dt has dtype complex128"),
    "method": (lambda f: f.discretize(np.eye(2), np.ones((2, 1)), 0.1, "rk4"), ValueError, "method is 'rk4'"),
    "a pole": (lambda f: f.discretize([[2.0]], [[1.0]], 1.0, "bilinear"), ValueError, "I - A dt/2 is singular"),
    "D without C": (
        lambda f: f.discretize(np.eye(2), np.ones((2, 1)), 0.1, D=np.ones((1, 1))), ValueError, "D is given without C"
    ),
    "C": (lambda f: f.discretize(np.eye(2), np.ones((2, 1)), 0.1, C=np.ones((1, 3))), ValueError, "C has shape"),
    "no gradient": (
        lambda f: f.discretize_backward(f.discretize_forward(np.eye(2), np.eye(2), 0.1)[-1]), ValueError, "all None"
    ),
    "a gradient of C": (
        lambda f: f.discretize_backward(f.discretize_forward(np.eye(2), np.eye(2), 0.1)[-1], dC_d=np.ones((1, 2))),
        ValueError, "dC_d is given, but C was not",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused(case):
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call(functional)
