"""Linear recurrences beside other people's: SciPy's filters, simulations and discretizations, JAX's scans."""

import numpy as np
import pytest

from fusedrnn.functional import (
    discretize,
    discretize_backward,
    discretize_forward,
    scan_backward,
    scan_forward,
    state_space_backward,
    state_space_forward,
)
from recurrence_problems import numbers
from tolerances import assert_close

signal = pytest.importorskip("scipy.signal")
linalg = pytest.importorskip("scipy.linalg")


def close(actual, expected, T=1, K=1):
    assert_close(actual, expected, dtype=np.float64, K=K, T=T, what="ours and theirs", quantity="sequence")


def test_a_constant_a_is_lfilter(rng):
    b = rng.standard_normal((200, 3, 5))
    zi = rng.standard_normal((3, 5))
    h, h_n, _ = scan_forward(0.9, b, zi)
    expected, state = signal.lfilter([1.0], [1.0, -0.9], b, axis=0, zi=0.9 * zi[None])
    close(h, expected, T=200)
    close(0.9 * h_n, state[0], T=200)


def test_two_complex_scans_are_a_resonator(rng):
    """A pole pair r exp(+-i w): the impulse response is r^t sin((t + 1) w) / sin(w)."""
    x = rng.standard_normal((300, 2, 1))
    r, w = 0.97, 0.3
    pole = r * np.exp(1j * w)
    h, _, _ = scan_forward(pole, x * (pole / (2j * np.imag(pole))))
    close(2 * h.real, signal.lfilter([1.0], [1.0, -2 * r * np.cos(w), r * r], x, axis=0), T=300)


def test_a_cascade_of_biquads_is_sosfilt(rng):
    """Direct form II transposed, with two states for each section."""
    sos = signal.butter(4, 0.2, output="sos")
    x = rng.standard_normal((150, 3, 1))
    y = x
    for b0, b1, b2, _, a1, a2 in sos:
        A, B = np.array([[-a1, 1.0], [-a2, 0.0]]), np.array([[b1 - a1 * b0], [b2 - a2 * b0]])
        y = state_space_forward(y, A, B, np.array([[1.0, 0.0]]), np.array([[b0]]), read="before")[0]
    close(y, signal.sosfilt(sos, x, axis=0), T=150, K=4)


@pytest.mark.parametrize("n", [1, 4, 17])
def test_constant_matrices_are_dlsim(rng, n):
    A = rng.standard_normal((n, n)) / (2 * np.sqrt(n))
    B, C, D = rng.standard_normal((n, 3)), rng.standard_normal((2, n)), rng.standard_normal((2, 3))
    u, x_0 = rng.standard_normal((60, 1, 3)), rng.standard_normal(n)
    y, x_n, _ = state_space_forward(u, A, B, C, D, x_0[None], read="before")
    _, expected, states = signal.dlsim((A, B, C, D, 1.0), u[:, 0], x0=x_0)
    close(y[:, 0], expected, T=60, K=n)
    close(x_n[0], A @ states[-1] + B @ u[-1, 0], T=60, K=n)


@pytest.mark.parametrize(("method", "interp"), [("zoh", False), ("foh", True)])
def test_a_continuous_system_is_lsim(rng, method, interp):
    """lsim's state is the continuous one; that of foh differs by F B u, which its output equation makes good."""
    A = rng.standard_normal((3, 3)) - 2 * np.eye(3)
    B, C, D = rng.standard_normal((3, 2)), rng.standard_normal((2, 3)), rng.standard_normal((2, 2))
    u = rng.standard_normal((50, 1, 2))
    u[0] = 0  # the state of foh then starts at that of lsim
    matrices = discretize(A, B, 0.1, method, C=C, D=D)
    y, _, _ = state_space_forward(u, *matrices, read="before")
    _, expected, _ = signal.lsim((A, B, C, D), u[:, 0], 0.1 * np.arange(50), interp=interp)
    close(y[:, 0], expected, T=50)


@pytest.mark.parametrize("method", ["zoh", "foh", "bilinear", "euler"])
@pytest.mark.parametrize("diagonal", [False, True])
def test_discretize_is_cont2discrete(rng, method, diagonal):
    for n in (1, 2, 5, 12):
        A = rng.standard_normal(n) if diagonal else rng.standard_normal((n, n))
        B, C, D = rng.standard_normal((n, 2)), rng.standard_normal((3, n)), rng.standard_normal((3, 2))
        steps = rng.uniform(0.001, 1.5, 4)
        ours = discretize(A, B, steps, method, C=C, D=D)
        for t, dt in enumerate(steps):
            theirs = list(signal.cont2discrete((np.diag(A) if diagonal else A, B, C, D), dt, method)[:4])
            theirs[0] = np.diag(theirs[0]) if diagonal else theirs[0]
            for x, y in zip(ours, theirs, strict=True):
                close(x[t], y, K=n)


@pytest.mark.parametrize("norm", [1e-8, 0.1, 1.0, 6.0, 50.0])
def test_the_exponential_is_expm(rng, norm):
    """zoh with B = 0 is exp(A dt); a matrix of large norm conditions both, so the scale is that of exp of its norm."""
    for n in (1, 3, 20):
        A = rng.standard_normal((n, n))
        A *= norm / np.abs(A).sum(0).max()
        A_d, _ = discretize(A, np.zeros((n, 1)), 1.0)
        close(A_d, linalg.expm(A), K=n)


# ---- gradients


def test_scans_and_their_gradients_are_jax_s(rng):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    with jax.enable_x64(True):
        T, B, H = 40, 3, 7
        for dtype in (np.float64, np.complex128):
            a, b, dh = (numbers(rng, (T, B, H), dtype) for _ in range(3))
            a = 0.9 * a / np.maximum(np.abs(a), 1)

            def combine(one, two):
                return one[0] * two[0], two[0] * one[1] + two[1]

            def scan(a, b):
                return jax.lax.associative_scan(combine, (a, b))[1]

            expected, pull = jax.vjp(scan, jnp.asarray(a), jnp.asarray(b))
            # JAX's gradient of a complex number is the conjugate of ours
            da, db = (np.conj(np.asarray(g)) for g in pull(jnp.asarray(np.conj(dh))))
            h, _, tape = scan_forward(a, b)
            grads = scan_backward(tape, dh)
            for x, y in ((h, expected), (grads.da, da), (grads.db, db)):
                parts = (np.real, np.imag) if np.dtype(dtype).kind == "c" else (np.real,)
                for part in parts:
                    close(np.ascontiguousarray(part(x)), part(np.asarray(y)), T=T)


def test_state_spaces_and_their_gradients_are_jax_s(rng):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    with jax.enable_x64(True):
        T, rows, n, m, p = 12, 5, 6, 3, 4
        A = rng.standard_normal((T, n, n)) / 4
        B, C = rng.standard_normal((n, m)), rng.standard_normal((T, rows, p, n))
        D, u, x_0 = rng.standard_normal((p, m)), rng.standard_normal((T, rows, m)), rng.standard_normal((rows, n))
        dy = rng.standard_normal((T, rows, p))

        def run(u, A, B, C, D, x_0):
            def step(x, now):
                u, A, C = now
                x = x @ A.T + u @ B.T
                return x, jnp.einsum("bpn,bn->bp", C, x) + u @ D.T

            return jax.lax.scan(step, x_0, (u, A, C))[1]

        expected, pull = jax.vjp(run, *(jnp.asarray(v) for v in (u, A, B, C, D, x_0)))
        y, _, tape = state_space_forward(u, A, B, C, D, x_0)
        close(y, np.asarray(expected), T=T, K=n)
        for x, g in zip(state_space_backward(tape, dy), pull(jnp.asarray(dy)), strict=True):
            close(x, np.asarray(g), T=T, K=n)


def test_gradients_of_discretize_are_jax_s(rng):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    with jax.enable_x64(True):
        A, B, dt = rng.standard_normal((4, 4)), rng.standard_normal((4, 2)), rng.uniform(0.1, 1, 3)

        def zoh(A, B, dt):
            block = jnp.zeros((6, 6)).at[:4, :4].set(A).at[:4, 4:].set(B)
            E = jax.vmap(lambda h: jax.scipy.linalg.expm(block * h))(dt)
            return E[:, :4, :4], E[:, :4, 4:]

        results, pull = jax.vjp(zoh, *(jnp.asarray(v) for v in (A, B, dt)))
        *ours, tape = discretize_forward(A, B, dt)
        d = [rng.standard_normal(x.shape) for x in ours]
        for x, y in zip(ours, results, strict=True):
            close(x, np.asarray(y))
        for x, y in zip(discretize_backward(tape, *d), pull(tuple(jnp.asarray(v) for v in d)), strict=False):
            close(x, np.asarray(y))


def test_scans_are_accelerated_scan_s_reference(rng):
    """Its layout is (B, H, T)."""
    ref = pytest.importorskip("accelerated_scan.ref")
    torch = pytest.importorskip("torch")
    a, b = rng.random((64, 2, 3)), rng.standard_normal((64, 2, 3))
    theirs = [torch.tensor(np.ascontiguousarray(x.transpose(1, 2, 0)), requires_grad=True) for x in (a, b)]
    expected = ref.scan(*theirs)
    dh = rng.standard_normal((64, 2, 3))
    expected.backward(torch.tensor(dh.transpose(1, 2, 0).copy()))
    h, _, tape = scan_forward(a, b)
    grads = scan_backward(tape, dh)
    for x, y in ((h, expected.detach()), (grads.da, theirs[0].grad), (grads.db, theirs[1].grad)):
        close(x, y.numpy().transpose(2, 0, 1), T=64)
