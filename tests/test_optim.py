"""Optimisers and losses: torch's numbers, sparse gradients, any form of parameters, resuming, and messages."""

import numpy as np
import pytest

import fusedrnn
from fusedrnn import losses, optim

RULES = {
    "sgd": ("SGD", {}),
    "sgd-decay": ("SGD", {"weight_decay": 0.1}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "nesterov": ("SGD", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01}),
    "adam": ("Adam", {}),
    "adam-decay": ("Adam", {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    "adamw": ("AdamW", {}),
    "adamw-decay": ("AdamW", {"weight_decay": 0.3, "betas": (0.0, 0.5)}),
}
ALL = pytest.mark.parametrize("rule", RULES)


def make(rule, params, lr=0.01, **more):
    name, options = RULES[rule]
    return getattr(optim, name)(params, lr=lr, **options, **more)


@ALL
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_s_numbers(rule, dtype, rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    start = [rng.standard_normal(shape).astype(dtype) for shape in ((5, 3), (7,))]
    ours = {"a": start[0].copy(), "b": {"c": start[1].copy()}}
    theirs = [torch.tensor(w, requires_grad=True) for w in start]
    name, options = RULES[rule]
    rates = [0.1 / (1 + step) for step in range(30)]
    mine = make(rule, ours, lr=lambda step: rates[step])
    other = getattr(torch.optim, name)(theirs, lr=rates[0], **options)
    for step in range(30):
        gradients = [rng.standard_normal(w.shape).astype(dtype) for w in start]
        mine.step({"a": gradients[0], "b": {"c": gradients[1]}})
        for group in other.param_groups:
            group["lr"] = rates[step]
        for w, g in zip(theirs, gradients, strict=True):
            w.grad = torch.tensor(g)
        other.step()
    for w, w_theirs in zip((ours["a"], ours["b"]["c"]), theirs, strict=True):
        np.testing.assert_allclose(w, w_theirs.detach(), rtol=0, atol=64 * np.finfo(dtype).eps)


@ALL
@pytest.mark.parametrize("axis", [0, 1])
def test_a_sparse_gradient_is_its_dense_form(rule, axis, rng):
    shape = (40, 6) if axis == 0 else (6, 40)
    a, b = ({"w": w} for w in [rng.standard_normal(shape)] * 2)
    a = {"w": a["w"].copy()}
    one, two = make(rule, a), make(rule, b)
    for _ in range(5):
        ids = np.unique(rng.integers(0, 40, 8))
        values = rng.standard_normal((len(ids), 6) if axis == 0 else (6, len(ids)))
        sparse = fusedrnn.SparseGrad(ids, values, 40, axis)
        one.step({"w": sparse})
        two.step({"w": sparse.to_dense()})
    np.testing.assert_array_equal(a["w"], b["w"])


def test_lazy_adam_is_torch_s_sparse_adam(rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    w = rng.standard_normal((40, 6))
    theirs = torch.tensor(w, requires_grad=True)
    params = {"w": w}
    # Theirs adds eps to another root; without it the rules are one.
    adam, other = optim.Adam(params, lr=0.1, eps=0, lazy=True), torch.optim.SparseAdam([theirs], lr=0.1, eps=1e-300)
    for _ in range(8):
        ids = np.unique(rng.integers(0, 40, 8))
        values = rng.standard_normal((len(ids), 6))
        before = w.copy()
        adam.step({"w": fusedrnn.SparseGrad(ids, values, 40, axis=0)})
        theirs.grad = torch.sparse_coo_tensor(ids[None], values, (40, 6), check_invariants=True).coalesce()
        other.step()
        untouched = np.setdiff1d(np.arange(40), ids)
        np.testing.assert_array_equal(w[untouched], before[untouched])
    np.testing.assert_allclose(w, theirs.detach(), rtol=0, atol=1e-14)


def test_plain_sgd_touches_only_what_tokens_select():
    layer = fusedrnn.Embedding(1000, 4, rng=0)
    before = layer.weight.copy()
    y, tape = layer.forward([3, 7, 3])
    optim.SGD(layer, lr=0.5).step(tape.backward(np.ones_like(y), sparse=True))
    np.testing.assert_array_equal(np.flatnonzero((layer.weight != before).any(axis=1)), [3, 7])
    np.testing.assert_array_equal(layer.weight[3], before[3] - 1)


FORMS = {
    "layer": lambda layer, grads: (layer, grads),
    "params": lambda layer, grads: (layer.params, grads.params),
    "list": lambda layer, grads: ([layer], [grads]),
    "mapping": lambda layer, grads: ({"net": layer}, {"net": grads}),
    "nested": lambda layer, grads: ({"net": [layer.params]}, {"net": [grads.params]}),
}


@ALL
@pytest.mark.parametrize("kind", ["layer", "stack", "bidirectional"])
def test_any_form_of_parameters(rule, kind, rng):
    x = rng.standard_normal((4, 2, 3)).astype("float32")
    found = []
    for form in FORMS.values():
        layer = {
            "layer": lambda: fusedrnn.LSTM(3, 4, rng=0),
            "stack": lambda: fusedrnn.Stack([fusedrnn.GRU(3, 4, rng=0), fusedrnn.RNN(4, 2, rng=1)]),
            "bidirectional": lambda: fusedrnn.Bidirectional(fusedrnn.GRU(3, 4, rng=0), fusedrnn.RNN(3, 2, rng=1)),
        }[kind]()
        optimiser = None
        for _ in range(3):
            y, _state, tape = layer.forward(x)
            params, grads = form(layer, tape.backward(y))
            optimiser = optimiser or make(rule, params)
            optimiser.step(grads)
        found.append({name: array.copy() for name, array in layer.params.items()})
    for other in found[1:]:
        for name, array in found[0].items():
            np.testing.assert_array_equal(other[name], array)


@ALL
def test_resuming_gives_the_same_bits(rule, rng, tmp_path):
    x = rng.standard_normal((4, 2, 3)).astype("float32")

    def train(layer, optimiser, steps):
        for _ in range(steps):
            y, _, tape = layer.forward(x)
            optimiser.step(tape.backward(y))

    schedule = lambda step: 0.1 / (1 + step)  # noqa: E731
    whole = fusedrnn.GRU(3, 4, rng=0)
    train(whole, make(rule, whole, schedule), 6)
    half = fusedrnn.GRU(3, 4, rng=0)
    optimiser = make(rule, half, schedule)
    train(half, optimiser, 3)
    np.savez(tmp_path / "state.npz", **optimiser.state_dict())
    resumed = fusedrnn.GRU(3, 4, rng=5)
    resumed.load_state_dict(half.state_dict())
    again = make(rule, resumed, schedule)
    with np.load(tmp_path / "state.npz") as state:
        again.load_state_dict(dict(state))
    assert again.steps == 3
    train(resumed, again, 3)
    assert resumed == whole


def test_none_leaves_a_parameter_alone():
    params = {"a": np.ones(2), "b": np.ones(2)}
    adam = optim.AdamW(params, lr=0.1)
    adam.step({"a": np.ones(2), "b": None})
    assert (params["b"] == 1).all()
    assert (params["a"] != 1).all()


def test_a_replaced_entry_is_found():
    layer = fusedrnn.Linear(2, 1, rng=0)
    sgd = optim.SGD(layer, lr=1.0)
    layer.weight = np.zeros((1, 2), np.float32)
    sgd.step({"weight": np.ones((1, 2)), "bias": None})
    np.testing.assert_array_equal(layer.weight, [[-1, -1]])


W = {"w": np.ones(3)}
READ_ONLY = np.broadcast_to(1.0, 3)
ERRORS = [
    (lambda: optim.Adam({}), ValueError, "Adam: params has no arrays"),
    (lambda: optim.Adam(3), TypeError, "Adam: params is an int; expected a layer, a group, or arrays by name"),
    (lambda: optim.Adam(np.ones(3)), TypeError, "Adam: params is an ndarray; expected a layer"),
    (lambda: optim.Adam([np.ones(3, int)]), TypeError, "0 has dtype int64; expected an ndarray of float32 or float64"),
    (lambda: optim.Adam({"w": [1.0]}), TypeError, "w.0 is a float"),
    (lambda: optim.Adam({"w": READ_ONLY}), ValueError, "w is read-only"),
    (lambda: optim.Adam([W, W]), ValueError, "1.w is 0.w, the same array"),
    (lambda: optim.Adam(W, lr=-1), ValueError, "lr is -1.0; expected a number >= 0"),
    (lambda: optim.Adam(W, lr="fast"), TypeError, "lr is 'fast'"),
    (lambda: optim.Adam(W, lr=lambda step: np.nan).step(W), ValueError, r"lr\(0\) is nan"),
    (lambda: optim.Adam(W, betas=0.9), TypeError, "betas is 0.9; expected a pair"),
    (lambda: optim.Adam(W, betas=(0.9, 1.0)), ValueError, r"betas\[1\] is 1.0"),
    (lambda: optim.SGD(W, nesterov=True), ValueError, "nesterov is True with momentum=0.0; expected a momentum > 0"),
    (lambda: optim.SGD(W).step(None), TypeError, "SGD: gradients is None; expected Grads, or arrays by name"),
    (lambda: optim.SGD(W).step([np.ones(3)]), ValueError, "gradients has no w but 0; expected w"),
    (lambda: optim.SGD(W).step({"w": np.ones(4)}), ValueError, r"gradient of w has shape \(4,\); expected \(3,\)"),
    (lambda: optim.SGD(W).step({"w": np.ones(3) * 1j}), TypeError, "gradient of w has dtype complex128"),
    (lambda: optim.Adam(W).load_state_dict({"steps": 1}), ValueError, "changed nothing. missing: m.w, v.w"),
    (lambda: optim.Adam(W).load_state_dict(3), TypeError, "load_state_dict got an int"),
    (lambda: optim.SGD(W).load_state_dict({"steps": -1}), ValueError, "steps is -1; expected an integer >= 0"),
    (lambda: losses.cross_entropy(np.ones((2, 3)), [0]), ValueError, r"targets has shape \(1,\)"),
    (lambda: losses.cross_entropy(np.ones((2, 3)), [0, 3]), IndexError, r"targets\[1\] is 3; expected 0 <= target < C"),
    (lambda: losses.cross_entropy(np.ones((2, 3)), [0.0, 1.0]), TypeError, "targets has dtype float64; expected int"),
    (lambda: losses.cross_entropy(np.ones((1, 3)), [0], mask=[1]), TypeError, "mask has dtype int64; expected bool"),
    (lambda: losses.cross_entropy(np.ones((1, 3)), [0], weight=[1, -1, 0]), ValueError, "weight has elements that are"),
    (lambda: losses.cross_entropy([np.ones((1, 3))], [[0], [1]]), ValueError, "targets has 2 arrays; expected a list"),
    (lambda: losses.mse(np.ones((4, 1)), np.ones(4)), ValueError, r"mse: targets has shape \(4,\); .* = \(4, 1\)"),
    (lambda: losses.mse("x", np.ones(4)), TypeError, "outputs has dtype <U1"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[message for _, _, message in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
    assert (W["w"] == 1).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [(), ("ignore",), ("weight",), ("ignore", "weight")], ids=str)
@pytest.mark.parametrize("shape", [(6,), (4, 3)], ids=str)
def test_cross_entropy_is_torch_s(dtype, options, shape, rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    z = (3 * rng.standard_normal((*shape, 5))).astype(dtype)
    targets = rng.integers(0, 5, shape)
    if "ignore" in options:
        targets[0] = -100
    weight = rng.random(5) if "weight" in options else None
    loss, d = losses.cross_entropy(z, targets, weight=weight)
    z_theirs = torch.tensor(z.reshape(-1, 5), requires_grad=True)
    given = None if weight is None else torch.tensor(weight.astype(dtype))
    theirs = torch.nn.functional.cross_entropy(z_theirs, torch.tensor(targets.reshape(-1)), given)
    theirs.backward()
    close = {"rtol": 0, "atol": 16 * np.finfo(dtype).eps}
    np.testing.assert_allclose(loss, theirs.item(), **close)
    np.testing.assert_allclose(d.reshape(-1, 5), z_theirs.grad, **close)
    assert d.dtype == z.dtype
    if "ignore" in options:
        assert not d[0].any()


def test_mse_is_torch_s(rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    y, target = rng.standard_normal((2, 4, 3, 2))
    loss, d = losses.mse(y, target)
    y_theirs = torch.tensor(y, requires_grad=True)
    theirs = torch.nn.functional.mse_loss(y_theirs, torch.tensor(target))
    theirs.backward()
    np.testing.assert_allclose(loss, theirs.item(), rtol=1e-15)
    np.testing.assert_allclose(d, y_theirs.grad, rtol=1e-14)


@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_weights_masks_and_lists(name, rng):
    """A mask is a weight of zero, a weight of two counts twice, and a list is the array of its positions."""
    loss = getattr(losses, name)
    z = rng.standard_normal((6, 3))
    target = rng.integers(0, 3, 6) if name == "cross_entropy" else rng.standard_normal((6, 3))
    keep = np.array([True, False, True, True, False, True])
    expected, d = loss(z[keep], target[keep])
    for how in ({"mask": keep}, {"sample_weight": keep.astype(float)}):
        dirty = np.where(keep[:, None], z, np.nan)
        value, gradient = loss(dirty, target, **how)
        np.testing.assert_allclose(value, expected, rtol=1e-14)
        np.testing.assert_allclose(gradient[keep], d, rtol=1e-14)
        assert not gradient[~keep].any()
    twice = np.concatenate([z, z[:1]]), np.concatenate([target, target[:1]])
    value, gradient = loss(z, target, sample_weight=[2, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(value, loss(*twice)[0], rtol=1e-14)
    np.testing.assert_allclose(gradient[0], 2 * loss(*twice)[1][0], rtol=1e-14)
    value, parts = loss([z[:4], z[4:4], z[4:]], [target[:4], target[4:4], target[4:]])
    whole, gradient = loss(z, target)
    assert value == whole
    np.testing.assert_array_equal(np.concatenate(parts), gradient)
    value, parts = loss([z[:4], z[4:]], [target[:4], target[4:]], mask=[keep[:4], keep[4:]])
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    value, gradient = loss(z, target, mask=np.zeros(6, bool))
    assert value == 0
    assert not gradient.any()
    step = rng.standard_normal(z.shape)
    ahead, behind = (loss(z + e * step, target)[0] for e in (1e-6, -1e-6))
    np.testing.assert_allclose((ahead - behind) / 2e-6, (whole and (loss(z, target)[1] * step).sum()), rtol=1e-7)


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.AdamW])
def test_a_parameter_without_axes(make, rng):
    one, none = {"w": np.array([0.5])}, {"w": np.array(0.5)}
    options = {"lr": 0.1, "weight_decay": 0.01} | ({"momentum": 0.9} if make is optim.SGD else {})
    first, second = make(one, **options), make(none, **options)
    for _ in range(3):
        g = rng.standard_normal(1)
        first.step({"w": g})
        second.step({"w": g[0, ...]})
    assert isinstance(none["w"], np.ndarray)
    np.testing.assert_array_equal(none["w"], one["w"][0])


def test_extreme_logits():
    loss, d = losses.cross_entropy(np.array([[1e30, -1e30, -np.inf]], "float32"), [0])
    assert loss == 0
    np.testing.assert_array_equal(d, [[0, 0, 0]])


def test_a_loop_learns(rng):
    """Tokens through an embedding, a recurrent layer and a dense one: which token came first."""
    words, layer, head = fusedrnn.Embedding(4, 6, rng=0), fusedrnn.GRU(6, 16, rng=1), fusedrnn.Linear(16, 4, rng=2)
    adam = optim.Adam([words, layer, head], lr=0.02)
    for _ in range(60):
        tokens = rng.integers(0, 4, (5, 32))
        x, tape_0 = words.forward(tokens)
        y, _, tape_1 = layer.forward(x)
        z, tape_2 = head.forward(y[-1])
        loss, dz = losses.cross_entropy(z, tokens[0])
        of_head = tape_2.backward(dz)
        of_layer = tape_1.backward(dstate=of_head.x[None])
        gradients = [tape_0.backward(of_layer.x, sparse=True), of_layer, of_head]
        fusedrnn.clip_grad_norm(gradients, 1.0)
        adam.step(gradients)
    assert loss < 0.1
