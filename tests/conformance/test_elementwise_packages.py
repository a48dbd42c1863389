"""Cells without a recurrent matrix against other people's code: values, gradients and converted weights.

sru compiles C++ when it is imported, so its layer is written here from the published equations; the others are run.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn.interop import from_mingru, from_recurrentgemma, from_sru
from tolerances import assert_close

torch = pytest.importorskip("torch")
T, B = 9, 3


@pytest.fixture
def seed() -> None:
    torch.manual_seed(5)


def tensor(array: Any) -> Any:
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def check(pairs: dict[str, tuple[Any, Any]], K: int) -> None:
    for what, (ours, theirs) in pairs.items():
        theirs = theirs.detach().numpy() if hasattr(theirs, "detach") else theirs
        assert_close(ours, theirs, dtype=np.float64, K=K, T=T, what=what, quantity="torch")


def gradients(layer: Any, x: Any, dy: Any) -> Any:
    y, _, tape = layer.forward(x)
    return y, tape.backward(dy)


@pytest.mark.parametrize("name", ["minGRU", "minLSTM"])
def test_mingru_pytorch(name, seed, rng):
    package = pytest.importorskip(f"minGRU_pytorch.{name}")
    module = getattr(package, name)(7).double()
    x, dy = tensor(rng.standard_normal((B, T, 7))), rng.standard_normal((B, T, 7))
    theirs = module(x)
    theirs.backward(torch.tensor(dy))
    layer = from_mingru(module)
    y, grads = gradients(layer, x.detach().numpy(), dy)
    (weight,) = module.parameters()
    blocks = dict(
        zip("hz" if name == "minGRU" else "hfi", np.split(weight.grad.numpy(), len(weight) // 7), strict=True)
    )
    dW = np.concatenate([blocks[gate] for gate in ("zh" if name == "minGRU" else "fih")])
    check({"y": (y, theirs), "dx": (grads.x, x.grad), "dW": (grads.params["weight_ih_l0"], dW)}, 14)


def test_recurrentgemma(seed, rng):
    modeling = pytest.importorskip("transformers.models.recurrent_gemma.modeling_recurrent_gemma")
    module = modeling.RecurrentGemmaRglru(SimpleNamespace(num_attention_heads=3, lru_width=12)).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, dy = tensor(rng.standard_normal((B, T, 12))), rng.standard_normal((B, T, 12))
    theirs = module(x, torch.arange(1, T + 1)[None].expand(B, T))  # position 0 would start without sqrt(1 - a^2)
    layer = from_recurrentgemma(module)
    y, grads = gradients(layer, x.detach().numpy(), dy)
    np.testing.assert_allclose(y, theirs.detach().numpy(), rtol=0, atol=2e-6)  # their state is float32
    theirs.backward(torch.tensor(dy))
    dW = grads.params["weight_ih_l0"].reshape(2, 3, 4, 3, 4)
    for k, gate in enumerate(("recurrent", "input")):
        own = getattr(module, f"{gate}_gate_weight").grad.numpy()
        for head in range(3):
            np.testing.assert_allclose(dW[k, head, :, head].T, own[head], rtol=0, atol=2e-5)
    np.testing.assert_allclose(grads.x, x.grad.numpy(), rtol=0, atol=2e-5)
    np.testing.assert_allclose(
        grads.params["weight_unit_l0"][0], module.recurrent_param.grad.numpy(), rtol=0, atol=2e-5
    )


def test_lru_pytorch(seed, rng):
    package = pytest.importorskip("LRU_pytorch")
    theirs = package.LRU(in_features=5, out_features=4, state_features=6)
    x = rng.standard_normal((T, 5))
    layer = fusedrnn.LRU(5, 12, bias=False)
    B_matrix = theirs.B.detach().numpy()
    layer.weight_ih_l0[:] = np.stack([B_matrix.real, B_matrix.imag], 1).reshape(12, 5)
    layer.weight_unit_l0[:] = np.stack(
        [p.detach().numpy() for p in (theirs.nu_log, theirs.theta_log, theirs.gamma_log)]
    )
    h = layer(x.astype(np.float32))[0].view(np.complex64)
    C, D = theirs.C.detach().numpy(), theirs.D.detach().numpy()
    y = (h @ C.T).real + x @ D.T
    np.testing.assert_allclose(y, theirs(torch.tensor(x, dtype=torch.float32)).detach().numpy(), rtol=0, atol=1e-5)


def test_lru_gradients_of_the_published_equations(rng):
    layer = fusedrnn.LRU(5, 12, r_min=0.3, r_max=0.9, dtype="float64", rng=2)
    x, dy = tensor(rng.standard_normal((T, B, 5))), rng.standard_normal((T, B, 12))
    y, grads = gradients(layer, x.detach().numpy(), dy)
    W, b, p = (tensor(w) for w in layer.params.values())
    decay = torch.exp(torch.complex(-torch.exp(p[0]), torch.exp(p[1])))
    a = torch.view_as_complex((x @ W.T + b).reshape(T, B, 6, 2))
    h, outputs = torch.zeros(B, 6, dtype=torch.complex128), []
    for t in range(T):
        h = decay * h + torch.exp(p[2]) * a[t]
        outputs.append(torch.view_as_real(h).reshape(B, 12))
    theirs = torch.stack(outputs)
    theirs.backward(torch.tensor(dy))
    pairs = {"y": (y, theirs), "dx": (grads.x, x.grad)}
    names = layer.params
    check(pairs | {n: (grads.params[n], w.grad) for n, w in zip(names, (W, b, p), strict=True)}, 5)


@pytest.mark.parametrize(
    ("inputs", "layers", "bidirectional", "rescale", "highway_bias"),
    [(6, 2, False, True, -1.0), (6, 2, False, False, 0.0), (4, 2, False, True, 0.5), (5, 2, True, True, -0.5)],
)
def test_sru_from_a_module_with_its_names(inputs, layers, bidirectional, rescale, highway_bias, rng):
    H, D = 6, 1 + bidirectional
    cells = []
    for layer in range(layers):
        I = inputs if layer == 0 else D * H
        k = 3 if D * H == I else 4
        cells.append(
            SimpleNamespace(
                hidden_size=H,
                input_size=I,
                bidirectional=bidirectional,
                num_matrices=k,
                weight=tensor(rng.standard_normal((I, D * H * k)) / math.sqrt(I)),
                weight_c=tensor(rng.standard_normal(2 * D * H)),
                bias=tensor(rng.standard_normal(2 * D * H)),
                rescale=rescale,
                highway_bias=highway_bias,
                scale_x=torch.tensor(
                    [math.sqrt(1 + 2 * math.exp(highway_bias)) if rescale else 1.0], dtype=torch.float64
                ),
            )
        )
    module = SimpleNamespace(rnn_lst=cells)
    x, dy = tensor(rng.standard_normal((T, B, inputs))), rng.standard_normal((T, B, D * H))
    theirs = x
    for cell in cells:
        theirs = sru_layer(cell, theirs)
    theirs.backward(torch.tensor(dy))
    layer = from_sru(module)
    y, grads = gradients(layer, x.detach().numpy(), dy)
    check({"y": (y, theirs), "dx": (grads.x, x.grad)}, 4 * H)
    for l, cell in enumerate(cells):
        own = [grads.params[f"weight_unit_l{l}{way}"] for way in ("", "_reverse")[:D]]
        check({"dv": (np.stack(own, 1), cell.weight_c.grad.reshape(2, D, H))}, 4 * H)


def sru_layer(cell: Any, x: Any) -> Any:
    """Equations 1 to 4 of the paper, over the package's parameters."""
    H, D, k = cell.hidden_size, 1 + cell.bidirectional, cell.num_matrices
    U = (x @ cell.weight).reshape(T, B, D, H, k)
    v, b = cell.weight_c.reshape(2, D, H), cell.bias.reshape(2, D, H)
    highway = x.reshape(T, B, D, H) * (cell.scale_x if cell.rescale else 1) if k == 3 else U[..., 3]
    outputs = []
    for d in range(D):
        c, ys = torch.zeros(B, H, dtype=torch.float64), {}
        for t in reversed(range(T)) if d else range(T):
            f = torch.sigmoid(U[t, :, d, :, 1] + v[0, d] * c + b[0, d])
            r = torch.sigmoid(U[t, :, d, :, 2] + v[1, d] * c + b[1, d])
            c = f * c + (1 - f) * U[t, :, d, :, 0]
            ys[t] = r * c + (1 - r) * highway[t, :, d]
        outputs.append(torch.stack([ys[t] for t in range(T)]))
    return torch.cat(outputs, dim=2)


def test_indrnn_and_qrnn_of_the_published_equations(rng):
    x, dy = tensor(rng.standard_normal((T, B, 5))), rng.standard_normal((T, B, 4))
    for cls in (fusedrnn.IndRNN, fusedrnn.QRNN):
        layer = cls(5, 4, dtype="float64", rng=3)
        y, grads = gradients(layer, x.detach().numpy(), dy)
        W, b, *p = (tensor(w) for w in layer.params.values())
        a, s, outputs = x @ W.T + b, torch.zeros(B, 4, dtype=torch.float64), []
        for t in range(T):
            if p:
                s = torch.relu(a[t] + p[0] * s)
                outputs.append(s)
            else:
                z, f, o = a[t].chunk(3, dim=1)
                s = torch.sigmoid(f) * s + (1 - torch.sigmoid(f)) * torch.tanh(z)
                outputs.append(torch.sigmoid(o) * s)
        x.grad = None
        theirs = torch.stack(outputs)
        theirs.backward(torch.tensor(dy))
        pairs = {"y": (y, theirs), "dx": (grads.x, x.grad)}
        check(pairs | {n: (grads.params[n], w.grad) for n, w in zip(layer.params, (W, b, *p), strict=True)}, 12)


@pytest.mark.parametrize("window", [1, 2, 3, T + 2])
@pytest.mark.parametrize("zoned", [False, True])
def test_qrnn_of_the_published_equations_behind_a_causal_convolution(window, zoned, rng):
    """Section 2 of the paper: Z, F and O are masked convolutions along time; zoneout, section 2.1, acts on F."""
    H = 4
    layer = fusedrnn.QRNN(5, H, window=window, zoneout=0.3 if zoned else 0.0, dtype="float64", rng=3)
    x, dy = tensor(rng.standard_normal((T, B, 5))), rng.standard_normal((T, B, H))
    y, _, tape = layer.forward(x.detach().numpy())
    grads = tape.backward(dy)
    kernel = layer.weight_ih_l0.reshape(3 * H, window, 5).transpose(0, 2, 1)
    W, b = tensor(kernel), tensor(layer.bias_ih_l0)
    padded = torch.nn.functional.pad(x.permute(1, 2, 0), (window - 1, 0))
    a = torch.nn.functional.conv1d(padded, W, b).permute(2, 0, 1)
    kept = torch.tensor(tape.masks["zoneout_c"][0] if zoned else np.zeros((T, B, H), bool))
    c, outputs = torch.zeros(B, H, dtype=torch.float64), []
    for t in range(T):
        z, f, o = a[t].chunk(3, dim=1)
        f = torch.where(kept[t], 1.0, torch.sigmoid(f))
        c = f * c + (1 - f) * torch.tanh(z)
        outputs.append(torch.sigmoid(o) * c)
    theirs = torch.stack(outputs)
    theirs.backward(torch.tensor(dy))
    dW = W.grad.permute(0, 2, 1).reshape(3 * H, -1)
    pairs = {"y": (y, theirs), "dx": (grads.x, x.grad), "dW": (grads.params["weight_ih_l0"], dW)}
    check(pairs | {"db": (grads.params["bias_ih_l0"], b.grad)}, 5 * window)
