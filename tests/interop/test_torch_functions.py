"""Functions of mamba_ssm and causal_conv1d for torch: values and gradients against torch's operations, step by step."""

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")


functional = torch.nn.functional

from fusedrnn.interop.torch import (  # noqa: E402
    causal_conv1d_fn,
    causal_conv1d_update,
    gated_delta_rule,
    linear_recurrence,
    mamba_chunk_scan_combined,
    selective_scan_fn,
    selective_state_update,
)

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


class Draw:
    """Random tensors with gradients."""

    def __init__(self, seed: int, dtype: Any) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype

    def __call__(self, *shape: int) -> Any:
        return torch.tensor(self.rng.standard_normal(shape), dtype=self.dtype, requires_grad=True)

    def complex(self, *shape: int) -> Any:
        return torch.complex(self(*shape).detach(), self(*shape).detach()).requires_grad_()


def compare(ours: Any, theirs: Any, given: dict[str, Any], dtype: Any) -> None:
    """Outputs, and the gradients of everything given, for random gradients of the outputs."""
    tolerance = 1e-10 if dtype is torch.float64 else 2e-5
    ours, theirs = (r if isinstance(r, tuple) else (r,) for r in (ours, theirs))
    gradients = []
    for k, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine.detach(), other.detach(), rtol=tolerance, atol=tolerance * 10, err_msg=str(k))
        gradients.append(torch.randn(mine.shape, dtype=mine.dtype, generator=torch.Generator().manual_seed(k)))
    tensors = {name: t for name, t in given.items() if t is not None and t.requires_grad}
    mine = torch.autograd.grad(ours, list(tensors.values()), gradients)
    other = torch.autograd.grad(theirs, list(tensors.values()), gradients)
    for name, a, b in zip(tensors, mine, other, strict=True):
        scale = float(b.abs().max()) or 1.0
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * 10 * scale, err_msg=f"gradient of {name}")


# ---- selective scan -------------------------------------------------------------------------------------------------


def scan_in_steps(
    u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, delta_bias: Any, delta_softplus: bool
) -> tuple[Any, Any]:
    """mamba_ssm's definition, one torch operation after the other."""
    L, channels = u.shape[2], u.shape[1]
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = functional.softplus(delta)

    def at(X: Any, t: int) -> Any:
        if X.ndim == 2:
            return X
        if A.is_complex():
            X = torch.view_as_complex(X.unflatten(-1, (L, 2)).contiguous())
        if X.ndim == 3:
            return X[:, None, :, t]
        return X[..., t].repeat_interleave(channels // X.shape[1], dim=1)

    h = torch.zeros(u.shape[0], *A.shape, dtype=A.dtype)
    outputs = []
    for t in range(L):
        h = torch.exp(delta[:, :, t, None] * A) * h + (delta[:, :, t] * u[:, :, t])[..., None] * at(B, t)
        outputs.append((h * at(C, t)).sum(-1))
    y = torch.stack(outputs, -1) if L else u.new_zeros(u.shape)
    y = 2 * y.real if y.is_complex() else y
    if D is not None:
        y = y + D[:, None] * u
    return (y if z is None else y * functional.silu(z)), h


@DTYPES
@pytest.mark.parametrize("options", range(16))
@pytest.mark.parametrize(("rows", "channels", "L", "N"), [(2, 6, 40, 3), (1, 16, 33, 16), (3, 4, 1, 1)])
def test_selective_scan(rows, channels, L, N, options, dtype):
    draw = Draw(options, dtype)
    with_D, with_z, with_bias, softplus = (bool(options >> k & 1) for k in range(4))
    B_shape = ((rows, N, L), (rows, 2, N, L), (channels, N))[options % 3]
    given = {
        "u": draw(rows, channels, L),
        "delta": draw(rows, channels, L),
        "A": (-torch.exp(draw(channels, N))).detach().requires_grad_(),
        "B": draw(*B_shape),
        "C": draw(*(B_shape if options % 3 == 1 else (rows, N, L))),
        "D": draw(channels) if with_D else None,
        "z": draw(rows, channels, L) if with_z else None,
        "delta_bias": draw(channels) if with_bias else None,
    }
    if not softplus:
        for name in ("delta", "delta_bias"):  # a negative step would let the states grow
            given[name] = given[name] if given[name] is None else (given[name].abs() * 0.3).detach().requires_grad_()
    ours = selective_scan_fn(**given, delta_softplus=softplus, return_last_state=True)
    compare(ours, scan_in_steps(**given, delta_softplus=softplus), given, dtype)
    only_y = selective_scan_fn(**given, delta_softplus=softplus)
    assert torch.equal(only_y, ours[0])


@DTYPES
@pytest.mark.parametrize("varies", [False, True], ids=["constant", "varies"])
def test_selective_scan_with_complex_A(varies, dtype):
    draw = Draw(1, dtype)
    A = torch.complex(-torch.exp(draw(4, 5)).detach(), draw(4, 5).detach()).requires_grad_()
    B, C = (draw(2, 5, 14), draw(2, 5, 14)) if varies else (draw.complex(4, 5), draw.complex(4, 5))
    given = {"u": draw(2, 4, 7), "delta": draw(2, 4, 7), "A": A, "B": B, "C": C, "D": draw(4), "z": draw(2, 4, 7)}
    given["delta_bias"] = None
    ours = selective_scan_fn(**given, delta_softplus=True)
    compare(ours, scan_in_steps(**given, delta_softplus=True)[0], given, dtype)


def test_a_view_is_read_without_a_copy(monkeypatch):
    from fusedrnn.interop import torch_kernels

    seen = []
    kept = torch_kernels.functional.selective_scan_forward
    monkeypatch.setattr(
        torch_kernels.functional, "selective_scan_forward", lambda *a, **k: seen.append(a) or kept(*a, **k)
    )
    u, A, B = torch.randn(2, 9, 4), -torch.ones(4, 3), torch.randn(2, 9, 3)
    selective_scan_fn(u.transpose(1, 2), u.transpose(1, 2), A, B.transpose(1, 2), B.transpose(1, 2))
    assert [
        np.shares_memory(array, tensor.numpy()) for array, tensor in zip(seen[0], (u, u, A, B, B), strict=False)
    ] == [True] * 5


@pytest.mark.parametrize("heads", [None, 2, 4])
@DTYPES
def test_state_update_continues_the_scan(heads, dtype):
    draw = Draw(3, dtype)
    rows, channels, L, N, G = 2, 8, 5, 3, 2 if heads else 1
    u, delta, z = (draw(rows, channels, L).detach() for _ in range(3))
    A, D, bias = -torch.exp(draw(channels, N).detach()), draw(channels).detach(), draw(channels).detach()
    B, C = (draw(rows, G, N, L).detach() for _ in range(2))
    y, last = selective_scan_fn(u, delta, A, B, C, D, z, bias, True, True)
    split = (lambda t: t) if heads is None else lambda t: t.unflatten(t.ndim - 1, (heads, channels // heads))
    of_A = A if heads is None else A.unflatten(0, (heads, -1))
    state = torch.zeros(rows, *of_A.shape, dtype=dtype)
    for t in range(L):
        here = [(X[:, 0] if heads is None else X)[..., t] for X in (B, C)]
        y_t = selective_state_update(
            state, split(u[..., t]), split(delta[..., t]), of_A, *here, split(D), split(z[..., t]), split(bias), True
        )
        assert torch.equal(y_t.reshape(rows, channels), y[..., t])
    assert torch.equal(state.reshape(last.shape), last)


def test_state_update_of_chosen_rows():
    state, x = torch.arange(6.0).reshape(3, 2, 1), torch.ones(2, 2)
    rows = torch.tensor([2, 0])
    expected = state.clone()
    part = expected[rows]
    y = selective_state_update(part, x, x, -torch.ones(2, 1), torch.ones(2, 1), torch.ones(2, 1))
    expected[rows] = part
    mine = selective_state_update(
        state, x, x, -torch.ones(2, 1), torch.ones(2, 1), torch.ones(2, 1), state_batch_indices=rows
    )
    assert torch.equal(mine, y)
    assert torch.equal(state, expected)


# ---- convolution ----------------------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("L", [1, 3, 40])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("with_state", [False, True], ids=["fresh", "state"])
def test_convolution(with_state, activation, L, k, dtype):
    draw = Draw(L, dtype)
    given = {"x": draw(2, 6, L), "weight": draw(6, k), "bias": draw(6)}
    before = given["x"].new_zeros(2, 6, k - 1)
    if with_state:
        given["initial_states"] = before = draw(2, 6, k - 1)
    whole = torch.cat([before, given["x"]], -1)
    y = functional.conv1d(whole, given["weight"][:, None], given["bias"], groups=6)
    y = y if activation is None else functional.silu(y)
    ours = causal_conv1d_fn(**given, activation=activation, return_final_states=True)
    if k == 1:  # no state
        assert ours[1].shape == (2, 6, 0)
        compare(ours[0], y, {name: t for name, t in given.items() if name != "initial_states"}, dtype)
    else:
        compare(ours, (y, whole[..., L:]), given, dtype)


def test_convolution_of_packed_sequences():
    draw = Draw(0, torch.float64)
    x, weight = draw(1, 3, 12), draw(3, 4)
    seq_idx = torch.tensor([[0] * 5 + [1] * 4 + [-1] * 3], dtype=torch.int32)
    y = causal_conv1d_fn(x, weight, None, seq_idx)
    parts = [causal_conv1d_fn(x[..., :5], weight), causal_conv1d_fn(x[..., 5:9], weight), torch.zeros(1, 3, 3)]
    compare(y, torch.cat(parts, -1), {"x": x, "weight": weight}, torch.float64)


@pytest.mark.parametrize("ring", [False, True], ids=["shifted", "ring"])
@pytest.mark.parametrize("S", [3, 5])
def test_convolution_update_continues_the_sequence(S, ring):
    draw = Draw(S, torch.float64)
    x, weight, bias = (draw(*shape).detach() for shape in ((2, 3, 12), (3, 4), (3,)))
    y = causal_conv1d_fn(x, weight, bias, activation="silu")
    state, parts = torch.zeros(2, 3, S, dtype=torch.float64), []
    for start, end in itertools.pairwise([0, 1, 2, 4, 9, 12]):
        options = {"cache_seqlens": torch.tensor([start, start], dtype=torch.int32)} if ring else {}
        parts.append(causal_conv1d_update(x[..., start:end], state, weight, bias, "silu", **options))
    np.testing.assert_array_equal(torch.cat(parts, -1), y)
    last = x[..., 12 - S :]
    np.testing.assert_array_equal(state, last.roll(12 % S, -1) if ring else last)
    one = causal_conv1d_update(x[..., 0], torch.zeros(2, 3, S, dtype=torch.float64), weight, bias, "silu")
    np.testing.assert_array_equal(one, y[..., 0])


# ---- linear attention -----------------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("options", range(8))
def test_chunk_scan(options, groups, dtype):
    draw = Draw(options, dtype)
    rows, L, H, P, N = 2, 35, 4, 5, 3
    with_D, with_z, with_state = (bool(options >> k & 1) for k in range(3))
    given = {
        "x": draw(rows, L, H, P),
        "dt": draw(rows, L, H),
        "A": (-torch.exp(draw(H))).detach().requires_grad_(),
        "B": draw(rows, L, groups, N),
        "C": draw(rows, L, groups, N),
        "D": draw(*((H, P) if with_z else (H,))) if with_D else None,
        "z": draw(rows, L, H, P) if with_z else None,
        "dt_bias": draw(H),
        "initial_states": draw(rows, H, P, N) if with_state else None,
    }
    limit = (0.5, 2.0) if options % 2 else (0.0, float("inf"))
    ours = mamba_chunk_scan_combined(**given, chunk_size=8, dt_softplus=True, dt_limit=limit, return_final_states=True)
    dt = functional.softplus(given["dt"] + given["dt_bias"]).clamp(*limit)
    S = torch.zeros(rows, H, P, N, dtype=dtype) if not with_state else given["initial_states"]
    outputs = []
    for t in range(L):
        B, C = (given[name][:, t].repeat_interleave(H // groups, 1) for name in "BC")
        x = given["x"][:, t]
        S = torch.exp(dt[:, t] * given["A"])[..., None, None] * S + (dt[:, t, :, None] * x)[..., None] * B[:, :, None]
        y = (S * C[:, :, None]).sum(-1)
        if with_D:
            y = y + (given["D"] if with_z else given["D"][:, None]) * x
        outputs.append(y * functional.silu(given["z"][:, t]) if with_z else y)
    compare(ours, (torch.stack(outputs, 1), S), given, dtype)


def test_chunk_scan_of_packed_sequences():
    draw = Draw(0, torch.float64)
    x, dt, A, B = draw(1, 9, 2, 3), draw(1, 9, 2), draw(2), draw(1, 9, 1, 4)
    seq_idx = torch.tensor([[7] * 5 + [3] * 4])
    y = mamba_chunk_scan_combined(x, dt, A, B, B, 4, dt_softplus=True, seq_idx=seq_idx)
    parts = [
        mamba_chunk_scan_combined(x[:, k], dt[:, k], A, B[:, k], B[:, k], 4, dt_softplus=True)
        for k in (slice(5), slice(5, 9))
    ]
    compare(y, torch.cat(parts, 1), {"x": x, "dt": dt, "A": A, "B": B}, torch.float64)


@DTYPES
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("with_state", [False, True])
def test_gated_delta_rule(with_state, groups, dtype):
    draw = Draw(groups, dtype)
    rows, L, H, K, V = 2, 20, 2, 4, 3
    given = {
        "query": draw(rows, L, groups, K),
        "key": draw(rows, L, groups, K),
        "value": draw(rows, L, H, V),
        "g": (-draw(rows, L, H).abs()).detach().requires_grad_(),
        "beta": draw(rows, L, H).sigmoid().detach().requires_grad_(),
        "initial_state": draw(rows, H, K, V) if with_state else None,
    }
    ours = gated_delta_rule(**given, normalised=True)
    q, k = (
        (t * torch.rsqrt((t * t).sum(-1, keepdim=True) + 1e-6)).repeat_interleave(H // groups, 2)
        for t in (given["query"], given["key"])
    )
    S = given["initial_state"] if with_state else torch.zeros(rows, H, K, V, dtype=dtype)
    outputs = []
    for t in range(L):
        S = S * given["g"][:, t].exp()[..., None, None]
        delta = (given["value"][:, t] - (S * k[:, t, ..., None]).sum(-2)) * given["beta"][:, t, :, None]
        S = S + k[:, t, ..., None] * delta[..., None, :]
        outputs.append((S * q[:, t, ..., None]).sum(-2) * K**-0.5)
    compare(ours, (torch.stack(outputs, 1), S), given, dtype)


@DTYPES
def test_linear_recurrence(dtype):
    draw = Draw(0, dtype)
    given = {"a": draw(2, 30, 5).sigmoid().detach().requires_grad_(), "b": draw(2, 30, 5), "h_0": draw(2, 5)}
    h, outputs = given["h_0"], []
    for t in range(30):
        h = given["a"][:, t] * h + given["b"][:, t]
        outputs.append(h)
    compare(linear_recurrence(**given), (torch.stack(outputs, 1), h), given, dtype)


# ---- torch's machinery ----------------------------------------------------------------------------------------------


def scanned(u: Any, A: Any, B: Any) -> Any:
    return selective_scan_fn(u, u, A, B, B, None, u, None, True)


def operands() -> tuple[Any, Any, Any]:
    draw = Draw(0, torch.float64)
    return draw(2, 4, 6).detach(), -torch.exp(draw(4, 3).detach()), draw(2, 3, 6).detach()


def test_gradcheck():
    u, A, B = operands()
    assert torch.autograd.gradcheck(scanned, [t.requires_grad_() for t in (u, A, B)])


def test_operators_pass_torchs_own_checks():
    from fusedrnn.interop import torch_kernels as f

    draw = Draw(0, torch.float64)
    T, B, D, N = 5, 2, 4, 3
    checks = [
        (f.SELECTIVE_SCAN, (draw(T, B, D), draw(T, B, D), draw(D, N), draw(T, B, N), draw(T, B, N), draw(D), None, None,
                            draw(B, D, N), True)),
        (f.CAUSAL_CONV, (draw(T, B, D), draw(D, 3), draw(D), draw(B, 2, D), None, None, "silu")),
        (f.LINEAR_ATTENTION, (draw(T, B, 6), draw(T, B, 6), draw(T, B, 4), draw(T, B, 2), draw(T, B, 2), None, None, 2,
                              0.5)),
        (f.SCAN, (draw(T, B, D), draw(T, B, D), draw(B, D))),
    ]  # fmt: skip
    for operator, arguments in checks:
        torch.library.opcheck(operator._op, arguments)


def test_compiled():
    torch._dynamo.reset()
    u, A, B = (t.requires_grad_() for t in operands())
    compiled = torch.compile(lambda *a: scanned(*a) * 2, fullgraph=True, backend="aot_eager")
    compare(compiled(u, A, B), scanned(u, A, B) * 2, {"u": u, "A": A, "B": B}, torch.float64)


def test_exported():
    class Model(torch.nn.Module):
        def forward(self, u: Any, A: Any, B: Any) -> Any:
            return scanned(causal_conv1d_fn(u, A, activation="silu"), A, B)

    given = operands()
    program = torch.export.export(Model(), given)
    assert any("fusedrnn.selective_scan" in str(node.target) for node in program.graph.nodes)
    assert torch.equal(program.module()(*given), Model()(*given))


def test_transforms_of_functions():
    u, A, B = operands()
    expected = torch.autograd.grad(scanned(u.requires_grad_(), A, B).square().sum(), u)[0]
    u = u.detach()
    found = torch.func.grad(lambda x: scanned(x, A, B).square().sum())(u)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    many = torch.stack([u, 2 * u, 3 * u])
    found = torch.func.vmap(scanned, (0, None, None))(many, A, B)
    assert torch.equal(found, torch.stack([scanned(x, A, B) for x in many]))
    each = torch.func.vmap(torch.func.grad(lambda x: scanned(x, A, B).square().sum()))(many)
    np.testing.assert_allclose(each[0], expected, rtol=1e-12)


def test_a_second_derivative_is_refused():
    u, A, B = operands()
    u.requires_grad_()
    with pytest.raises(NotImplementedError, match="selective_scan: differentiated twice; expected once"):
        torch.autograd.grad(scanned(u, A, B).sum(), u, create_graph=True)
    twice = torch.func.grad(lambda x: torch.func.grad(lambda y: scanned(y, A, B).sum())(x).sum())
    with pytest.raises(NotImplementedError, match="selective_scan: differentiated twice; expected once"):
        twice(u.detach())


def test_an_overwritten_input_is_an_error():
    u, A, B = operands()
    u.requires_grad_()
    x = (u * 1).transpose(1, 2).contiguous()
    y = scanned(x.transpose(1, 2), A, B)  # a view, which is not copied
    with torch.no_grad():
        x.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_half_precision_is_computed_in_single_precision():
    u, A, B = (t.bfloat16() for t in operands())
    y, state = selective_scan_fn(u, u, A, B, B, return_last_state=True)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    exact = selective_scan_fn(*(t.float() for t in (u, u, A, B, B)))
    assert torch.equal(y, exact.bfloat16())


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, r"delta has shape \(2, 4, 5\); expected \(B, D, L\)",
         lambda u, A, B: selective_scan_fn(u, u[..., 1:], A, B, B)),
        (ValueError, r"B has shape \(2, 3, 5\)", lambda u, A, B: selective_scan_fn(u, u, A, B[..., 1:], B)),
        (TypeError, "A has dtype torch.int64", lambda u, A, B: selective_scan_fn(u, u, A.long(), B, B)),
        (TypeError, "u is ndarray; expected a torch.Tensor", lambda u, A, B: selective_scan_fn(u.numpy(), u, A, B, B)),
        (ValueError, "activation is 'relu'", lambda u, A, B: causal_conv1d_fn(u, A, activation="relu")),
        (ValueError, r"weight has shape \(3,\)", lambda u, A, B: causal_conv1d_fn(u, A[0])),
        (RuntimeError, "a step in place does not have",
         lambda u, A, B: selective_state_update(u[..., :3], u[..., 0].requires_grad_(), u[..., 0], A, B[0], B[0])),
    ],
)  # fmt: skip
def test_errors(error, message, call):
    with pytest.raises(error, match=message):
        call(*operands())
