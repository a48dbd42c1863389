"""The selective scan beside other people's: the published equations in torch, mambapy, transformers' own loop."""

import numpy as np
import pytest

from fusedrnn.functional import selective_scan_backward, selective_scan_forward, selective_scan_step
from recurrence_problems import numbers
from tolerances import assert_close

torch = pytest.importorskip("torch")

T, BATCH, D, N = 37, 2, 12, 8


@pytest.fixture
def problem(rng):
    return {
        "u": numbers(rng, (T, BATCH, D)), "delta": rng.uniform(-2, 1, (T, BATCH, D)),
        "A": -np.exp(rng.uniform(-2, 1, (D, N))), "B": numbers(rng, (T, BATCH, N)), "C": numbers(rng, (T, BATCH, N)),
        "D": numbers(rng, (D,)), "z": numbers(rng, (T, BATCH, D)), "delta_bias": rng.uniform(0, 0.5, D),
    }  # fmt: skip


def close(actual, expected, dtype="f8", quantity="torch"):
    assert_close(actual, expected, dtype=dtype, K=D * N * BATCH, T=T, what="ours and theirs", quantity=quantity)


def equations(u, delta, A, B, C, D, z, delta_bias):
    """The recurrence as Gu and Dao print it, a step at a time; complex states stand for conjugate pairs."""
    step = torch.nn.functional.softplus(delta + delta_bias)
    h = torch.zeros(u.shape[1], *A.shape, dtype=A.dtype)
    outputs = []
    for u_t, step_t, B_t, C_t, z_t in zip(u, step, B, C, z, strict=True):
        h = torch.exp(step_t[..., None] * A) * h + (step_t * u_t)[..., None] * B_t
        y = (h * C_t).sum(-1)
        y = 2 * y.real if y.is_complex() else y
        outputs.append((y + D * u_t) * torch.nn.functional.silu(z_t))
    return torch.stack(outputs), h


@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.parametrize("wide", [False, True])
def test_outputs_and_gradients_are_those_of_autograd(rng, problem, groups, wide):
    if groups:
        problem |= {name: numbers(rng, (T, BATCH, groups, N)) for name in "BC"}
    if wide:
        problem["A"] = problem["A"] + 3j * rng.standard_normal((D, N))
        problem |= {name: problem[name] + 1j * numbers(rng, problem[name].shape) for name in "BC"}
    leaves = {name: torch.tensor(x, requires_grad=True) for name, x in problem.items()}
    spread = {
        name: torch.repeat_interleave(x, D // groups, 2) if groups else x[:, :, None]
        for name, x in leaves.items()
        if name in "BC"
    }
    y, h_n = equations(**(leaves | spread))
    dy, dh_n = numbers(rng, (T, BATCH, D)), numbers(rng, (BATCH, D, N), problem["A"].dtype)
    torch.autograd.backward([y, h_n], [torch.tensor(dy), torch.tensor(dh_n)])
    ours, ours_n, tape = selective_scan_forward(**problem, delta_softplus=True)
    close(ours, y.detach().numpy())
    grads = selective_scan_backward(tape, dy, dh_n)

    def flat(x):
        return np.ascontiguousarray(x).reshape(-1).view("f8")

    close(flat(ours_n), flat(h_n.detach().numpy()))
    for name, leaf in leaves.items():
        close(flat(getattr(grads, f"d{name}")), flat(leaf.grad.numpy()))


def channels_first(x):
    return torch.tensor(np.ascontiguousarray(x.transpose(1, 2, 0)))


def test_transformers_loop(problem):
    modeling = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    theirs = getattr(modeling, "mamba_selective_scan", None)
    if theirs is None:
        pytest.skip("this transformers has no mamba_selective_scan")
    problem = {name: x.astype("f4") for name, x in problem.items()}
    given = {name: channels_first(x) if x.ndim == 3 else torch.tensor(x) for name, x in problem.items()}
    out = theirs(
        given["u"], given["delta"], given["A"], given["B"], given["C"], given["D"], given["z"], given["delta_bias"],
        delta_softplus=True, return_last_state=True,
    )  # fmt: skip
    y, h_n, _ = selective_scan_forward(**problem, delta_softplus=True)
    close(y, out[0].numpy().transpose(2, 0, 1), "f4", "sequence")
    close(h_n, out[1].numpy(), "f4", "sequence")


def test_mambapy_s_parallel_scan(problem):
    mamba = pytest.importorskip("mambapy.mamba")
    block = mamba.MambaBlock(mamba.MambaConfig(d_model=D // 2, n_layers=1, d_state=N))
    leaves = {
        name: torch.tensor(x.swapaxes(0, 1).copy(), requires_grad=True) for name, x in problem.items() if x.ndim == 3
    }
    leaves |= {name: torch.tensor(x, requires_grad=True) for name, x in problem.items() if x.ndim < 3}
    step = torch.nn.functional.softplus(leaves["delta"] + leaves["delta_bias"])
    y = block.selective_scan(leaves["u"], step, leaves["A"], leaves["B"], leaves["C"], leaves["D"])
    y = y * torch.nn.functional.silu(leaves["z"])
    y.sum().backward()
    ours, _, tape = selective_scan_forward(**problem, delta_softplus=True)
    close(ours, y.detach().numpy().swapaxes(0, 1), quantity="sequence")
    grads = selective_scan_backward(tape, np.ones_like(ours))
    for name, leaf in leaves.items():
        expected = leaf.grad.numpy()
        close(
            getattr(grads, f"d{name}"), expected.swapaxes(0, 1) if expected.ndim == 3 else expected, quantity="sequence"
        )


def test_steps_are_transformers_update(problem):
    modeling = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    theirs = getattr(modeling, "mamba_selective_state_update", None)
    if theirs is None:
        pytest.skip("this transformers has no mamba_selective_state_update")
    problem = {name: x.astype("f4") for name, x in problem.items()}
    state, h = torch.zeros(BATCH, D, N), np.zeros((BATCH, D, N), "f4")
    for t in range(5):
        now = {name: x[t] if x.ndim == 3 else x for name, x in problem.items()}
        tensors = {name: torch.tensor(x) for name, x in now.items()}
        out = theirs(
            state, tensors["u"], tensors["delta"], tensors["A"], tensors["B"], tensors["C"], tensors["D"],
            z=tensors["z"], dt_bias=tensors["delta_bias"], dt_softplus=True,
        )  # fmt: skip
        y = selective_scan_step(h, **now, delta_softplus=True)
        close(y, out.numpy().reshape(BATCH, D), "f4", "sequence")
        close(h, state.numpy(), "f4", "sequence")
