"""The modules of fusedrnn.interop.torch are torch's modules: same values, same gradients, same behaviour."""

import copy
import io
import pickle

import numpy as np
import pytest

import fusedrnn
from tolerances import bound

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")

from fusedrnn.interop import torch as bridge  # noqa: E402  torch must be there

T, B, I, H = 6, 4, 3, 5
LENGTHS = [4, 6, 1, 5]
KINDS = ["RNN", "RNN relu", "GRU", "LSTM"]
KIND = pytest.mark.parametrize("kind", KINDS)
STACK = pytest.mark.parametrize(
    ("num_layers", "bidirectional"), [(1, False), (2, True)], ids=["one layer", "two layers both ways"]
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(20140601)


def pair(kind, dtype=torch.float64, **options):
    """torch's module, and ours with the same parameters."""
    name, _, nonlinearity = kind.partition(" ")
    if nonlinearity:
        options["nonlinearity"] = nonlinearity
    theirs = getattr(torch.nn, name)(I, H, dtype=dtype, **options)
    ours = getattr(bridge, name)(I, H, dtype=dtype, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def random_state(module, *batch):
    rows = module.num_layers * (1 + module.bidirectional)
    state = tuple(
        torch.randn(rows, *batch, H, dtype=module.weight_hh_l0.dtype, requires_grad=True)
        for _ in range(1 + (module.mode == "LSTM"))
    )
    return state if len(state) == 2 else state[0]


def tensors(value):
    """All tensors in nested tuples, packed sequences included."""
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return [value.data]
    return [t for item in value for t in tensors(item)] if isinstance(value, tuple) else [value]


def check(theirs, ours, x, hx):
    """Results and all gradients of both, from the same gradients of the results."""
    inputs = [t for t in (*tensors(x), *(() if hx is None else parts(hx))) if t.is_leaf and t.requires_grad]
    results = []
    for module in (theirs, ours):
        out = tensors(module(x, hx) if hx is not None else module(x))
        torch.manual_seed(1)
        weights = [torch.randn(t.shape, dtype=t.dtype) for t in out]
        grads = torch.autograd.grad(out, [*inputs, *module.parameters()], weights)
        results.append([*out, *grads])
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        allowed = bound(str(a.dtype).removeprefix("torch."), K=T * B + 4 * H, T=T * ours.num_layers)
        assert (a - b).abs().max() <= allowed * a.abs().max()


@pytest.mark.parametrize("state", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bias": False}], ids=str)
@STACK
@KIND
def test_padded(kind, num_layers, bidirectional, options, state):
    theirs, ours = pair(kind, num_layers=num_layers, bidirectional=bidirectional, **options)
    x = torch.randn(*((B, T) if ours.batch_first else (T, B)), I, dtype=torch.float64, requires_grad=True)
    check(theirs, ours, x, random_state(ours, B) if state else None)


@KIND
def test_float32(kind):
    theirs, ours = pair(kind, torch.float32, num_layers=2, bidirectional=True)
    check(theirs, ours, torch.randn(T, B, I, requires_grad=True), random_state(ours, B))


@KIND
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
def test_unbatched(kind, batch_first):
    theirs, ours = pair(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    check(theirs, ours, torch.randn(T, I, dtype=torch.float64, requires_grad=True), random_state(ours))


@pytest.mark.parametrize("state", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("sort", [False, True], ids=["any order", "sorted"])
@STACK
@KIND
def test_packed(kind, num_layers, bidirectional, sort, state):
    theirs, ours = pair(kind, num_layers=num_layers, bidirectional=bidirectional, batch_first=True)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    lengths = sorted(LENGTHS, reverse=True) if sort else LENGTHS
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=sort)
    hx = random_state(ours, B) if state else None
    check(theirs, ours, packed, hx)
    (y, _), (expected, _) = ours(packed, hx), theirs(packed, hx)
    for mine, other in zip(y[1:], expected[1:], strict=True):
        assert (mine is None and other is None) or torch.equal(mine, other)
    y.data.sum().backward()
    assert torch.count_nonzero(x.grad[LENGTHS[2] :, 2]) == 0 or sort


@KIND
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_gradcheck(kind, packed):
    _, ours = pair(kind, num_layers=2, bidirectional=True)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in ours.named_parameters()]

    def run(x, *rest):
        state, params = rest[: -len(names)], rest[-len(names) :]
        if packed:
            x = torch.nn.utils.rnn.pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
        hx = state if len(state) == 2 else state[0]
        out = torch.func.functional_call(ours, dict(zip(names, params, strict=True)), (x, hx))
        return tuple(tensors(out))

    assert torch.autograd.gradcheck(run, (x, *parts(random_state(ours, B)), *ours.parameters()))


@KIND
def test_frozen_parameters_and_inputs_have_no_gradient(kind):
    _, ours = pair(kind)
    ours.weight_hh_l0.requires_grad_(False)
    y, _ = ours(torch.randn(T, B, I, dtype=torch.float64))
    y.sum().backward()
    assert ours.weight_hh_l0.grad is None
    assert ours.weight_ih_l0.grad is not None


@KIND
def test_without_gradients_is_inference(kind):
    _, ours = pair(kind)
    x = torch.randn(T, B, I, dtype=torch.float64)
    y, _ = ours(x)
    with torch.no_grad():
        again, state = ours(x)
    assert not again.requires_grad
    assert not parts(state)[0].requires_grad
    assert torch.equal(y, again)
    with torch.inference_mode():
        assert torch.equal(ours(x)[0], y)


def test_inference_keeps_nothing(monkeypatch):
    _, ours = pair("LSTM", num_layers=2)

    def refuse(*args, **kwargs):
        raise AssertionError("forward was called")

    monkeypatch.setattr(fusedrnn.LSTM, "forward", refuse)
    with torch.no_grad():
        ours(torch.randn(T, B, I, dtype=torch.float64))
    with pytest.raises(AssertionError, match="forward was called"):
        ours(torch.randn(T, B, I, dtype=torch.float64))


# ---- dropout ---------------------------------------------------------------------------------------------------------


def test_dropout_follows_torchs_seed_and_mode():
    _, ours = pair("GRU", num_layers=2, dropout=0.5)
    plain, _ = ours.eval()(x := torch.randn(T, B, I, dtype=torch.float64))
    assert torch.equal(ours(x)[0], plain)
    ours.train()

    def draw(seed, gradient=True):
        torch.manual_seed(seed)
        with torch.set_grad_enabled(gradient):
            return ours(x)[0]

    assert torch.equal(draw(3), draw(3))
    assert torch.equal(draw(3), draw(3, gradient=False))
    assert not torch.equal(draw(3), draw(4))
    assert not torch.equal(draw(3), plain)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant):
    """Running forward again during backward draws the same masks."""
    _, ours = pair("LSTM", num_layers=2, dropout=0.5)
    gradients = []
    for kept in (True, False):
        x = torch.ones(T, B, I, dtype=torch.float64, requires_grad=True)
        torch.manual_seed(5)
        if kept:
            y = ours(x)[0]
        else:
            y = torch.utils.checkpoint.checkpoint(lambda x: ours(x)[0], x, use_reentrant=reentrant)
        y.sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


# ---- torch's manners -------------------------------------------------------------------------------------------------


@KIND
def test_same_module_but_for_the_kernels(kind):
    theirs, ours = pair(kind, num_layers=2, bidirectional=True)
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.manual_seed(7)
    theirs.reset_parameters()
    torch.manual_seed(7)
    ours.reset_parameters()
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert torch.equal(a, b)


@KIND
def test_copies_and_pickles(kind):
    _, ours = pair(kind)
    x = torch.randn(T, B, I, dtype=torch.float64)
    y, _ = ours(x)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), torch.load(file, weights_only=False)):
        assert type(other) is type(ours)
        assert torch.equal(other(x)[0], y)
        with torch.no_grad():
            other.weight_ih_l0.zero_()
        assert not torch.equal(other(x)[0], y)
        assert torch.equal(ours(x)[0], y)
    assert len(pickle.dumps(ours)) < len(pickle.dumps(type(ours).__mro__[2](I, H, dtype=torch.float64))) + 100


def test_parameters_are_read_where_they_are():
    """In place, by data, by assignment and in another dtype: a module computes with its current parameters."""
    theirs, ours = pair("GRU")
    x = torch.randn(T, B, I, dtype=torch.float64)

    def both(change):
        for module in (theirs, ours):
            torch.manual_seed(3)
            with torch.no_grad():
                change(module)
        torch.testing.assert_close(ours(x.to(ours.weight_ih_l0.dtype))[0], theirs(x.to(theirs.weight_ih_l0.dtype))[0])

    both(lambda m: None)
    both(lambda m: m.weight_ih_l0.mul_(2))
    both(lambda m: m.weight_ih_l0.data.mul_(2))
    both(lambda m: setattr(m.weight_hh_l0, "data", torch.randn(3 * H, H, dtype=torch.float64)))
    both(lambda m: setattr(m.weight_hh_l0, "data", torch.randn(H, 3 * H, dtype=torch.float64).T))
    both(lambda m: setattr(m, "bias_hh_l0", torch.nn.Parameter(torch.randn(3 * H, dtype=torch.float64))))
    both(lambda m: m.float())
    both(lambda m: m.double())


def test_parametrizations():
    theirs, ours = pair("LSTM")
    for module in (theirs, ours):
        torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    x = torch.randn(T, B, I, dtype=torch.float64)
    check(theirs, ours, x, None)


def test_training_reaches_the_same_parameters():
    theirs, ours = pair("LSTM", num_layers=2)
    for module in (theirs, ours):
        torch.manual_seed(2)
        optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
        for _ in range(5):
            optimiser.zero_grad()
            y, _ = module(torch.randn(T, B, I, dtype=torch.float64))
            (y**2).sum().backward()
            optimiser.step()
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_graph_is_kept_as_long_as_torch_says():
    _, ours = pair("GRU")
    y, _ = ours(torch.randn(T, B, I, dtype=torch.float64))
    tape = y.grad_fn.tape
    loss = y.sum()
    loss.backward(retain_graph=True)
    first = ours.weight_hh_l0.grad.clone()
    assert not tape.released
    loss.backward()
    assert torch.equal(ours.weight_hh_l0.grad, 2 * first)
    assert tape.released


def test_twice_is_refused():
    _, ours = pair("GRU")
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    with pytest.raises(NotImplementedError, match="GRU: differentiated twice; expected once"):
        torch.autograd.grad(ours(x)[0].sum(), x, create_graph=True)


def test_unused_results_need_no_gradient():
    theirs, ours = pair("LSTM")
    x = torch.randn(T, B, I, dtype=torch.float64)
    for pick in (lambda y, h, c: y, lambda y, h, c: h, lambda y, h, c: c):
        expected, mine = (torch.autograd.grad(pick(*tensors(m(x))).sum(), list(m.parameters())) for m in (theirs, ours))
        for a, b in zip(expected, mine, strict=True):
            torch.testing.assert_close(a, b)


def test_threads_are_torchs(monkeypatch):
    _, ours = pair("GRU")
    seen = []
    original = fusedrnn.GRU.forward, fusedrnn.Tape.backward

    def forward(self, *args, **kwargs):
        seen.append(fusedrnn.get_num_threads())
        return original[0](self, *args, **kwargs)

    def backward(self, *args, **kwargs):
        seen.append(fusedrnn.get_num_threads())
        return original[1](self, *args, **kwargs)

    monkeypatch.setattr(fusedrnn.GRU, "forward", forward)
    monkeypatch.setattr(fusedrnn.Tape, "backward", backward)
    before, ours_before = torch.get_num_threads(), fusedrnn.get_num_threads()
    try:
        torch.set_num_threads(3)
        ours(torch.randn(T, B, I, dtype=torch.float64))[0].sum().backward()
    finally:
        torch.set_num_threads(before)
    assert seen == [3, 3]
    assert fusedrnn.get_num_threads() == ours_before


def test_nothing_is_copied():
    _, ours = pair("LSTM", torch.float32)
    x = torch.randn(T, B, I)
    with torch.no_grad():
        ours(x)
    for tensor, view in zip(ours.parameters(), ours._kept_layer[2].params.values(), strict=True):
        assert view.ctypes.data == tensor.data_ptr()
    assert bridge._array(x).ctypes.data == x.data_ptr()


def test_compiled():
    """torch.compile leaves the layer as it is and compiles the rest."""
    _, ours = pair("LSTM")
    model = torch.nn.ModuleDict({"lstm": ours, "head": torch.nn.Linear(H, 2, dtype=torch.float64)})

    def run(x):
        return model["head"](model["lstm"](x * 2)[0]).tanh()

    x = torch.randn(T, B, I, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(run, backend="eager")(x), run(x))


def test_autocast():
    _, ours = pair("GRU", torch.float32)
    x = torch.randn(T, B, I)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = ours(x.bfloat16())
    assert y.dtype == torch.float32
    assert torch.equal(y, ours(x.bfloat16().float())[0])


def test_tokens():
    _, ours = pair("GRU")
    x = torch.randint(0, I, (T, B))
    one_hot = torch.nn.functional.one_hot(x, I).double()
    torch.testing.assert_close(ours(x)[0], ours(one_hot)[0])
    ours(x)[0].sum().backward()
    assert torch.count_nonzero(ours.weight_ih_l0.grad)


@KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sparse_gradients_of_tokens(kind, dtype):
    name, _, nonlinearity = kind.partition(" ")
    options = {"nonlinearity": nonlinearity} if nonlinearity else {}
    plain = getattr(bridge, name)(700, H, bidirectional=True, dtype=dtype, **options)
    sparse = copy.deepcopy(plain)
    sparse.sparse = True
    x = torch.randint(0, 700, (T, B))
    for module in (plain, sparse):
        y, _ = module(x)
        y.pow(2).sum().backward()
    for key, d in plain.named_parameters():
        own = getattr(sparse, key).grad
        assert own.is_sparse == key.startswith("weight_ih_l0")
        assert torch.equal(own.to_dense(), d.grad), key
        if own.is_sparse:  # what torch was told: no element twice, in the order of rows
            where, values = own._indices(), own._values()
            again = torch.sparse_coo_tensor(where, values, own.shape, check_invariants=True).coalesce()
            assert torch.equal(again.indices(), where)
    for module in (plain, sparse):
        torch.optim.SGD(module.parameters(), 0.1).step()
    for key, w in plain.named_parameters():
        assert torch.equal(getattr(sparse, key), w), key
    torch.optim.SparseAdam([p for p in sparse.parameters() if p.grad.is_sparse]).step()
    sparse.zero_grad()
    sum(sparse(x)[0].sum() for _ in range(2)).backward()  # two gradients are added
    plain.load_state_dict(sparse.state_dict())
    plain.zero_grad()
    (2 * plain(x)[0].sum()).backward()
    torch.testing.assert_close(sparse.weight_ih_l0.grad.to_dense(), plain.weight_ih_l0.grad)
    assert pickle.loads(pickle.dumps(sparse)).sparse


def test_where_gradients_cannot_be_sparse():
    module = bridge.GRU(700, H)
    module.sparse = True
    module(torch.zeros(T, B, 700))[0].sum().backward()
    assert not module.weight_ih_l0.grad.is_sparse
    torch.nn.utils.parametrizations.weight_norm(module, "weight_ih_l0")
    module(torch.randint(0, 700, (T, B)))[0].sum().backward()
    assert not module.parametrizations.weight_ih_l0.original1.grad.is_sparse
    module.sparse = 2
    with pytest.raises(TypeError, match="sparse"):
        module(torch.randint(0, 700, (T, B)))


def test_weights_in_any_order_of_memory():
    module = bridge.LSTM(700, H)
    x = torch.randint(0, 700, (T, B))
    expected = module(x)[0]
    turned = torch.nn.Parameter(module.weight_ih_l0.detach().t().contiguous().t())
    module.weight_ih_l0 = turned
    y = module(x)[0]
    assert torch.equal(y, expected)
    y.sum().backward()
    assert turned.grad.shape == turned.shape


# ---- from_module -----------------------------------------------------------------------------------------------------


def test_from_module_swaps_in_place():
    class Mine(torch.nn.LSTM):
        pass

    model = torch.nn.ModuleDict(
        {
            "a": torch.nn.Sequential(torch.nn.RNN(I, H), torch.nn.Linear(1, 1)),
            "b": torch.nn.GRU(I, H),
            "c": torch.nn.LSTM(I, H, num_layers=2),
            "d": Mine(I, H),
        }
    )
    parameters = list(model.parameters())
    x = torch.randn(T, B, I)
    expected = [model["a"][0](x)[0], model["b"](x)[0], model["c"](x)[0]]
    assert bridge.from_module(model) is model
    assert [type(m) for m in (model["a"][0], model["b"], model["c"], model["d"])] == [
        bridge.RNN,
        bridge.GRU,
        bridge.LSTM,
        Mine,
    ]
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    for a, b in zip(expected, [model["a"][0](x)[0], model["b"](x)[0], model["c"](x)[0]], strict=True):
        torch.testing.assert_close(a, b)


def test_errors():
    _, ours = pair("LSTM")
    x = torch.randn(T, B, I, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"from_module: module is a list; expected a torch.nn.Module"):
        bridge.from_module([])
    with pytest.raises(TypeError, match=r"LSTM: input has dtype torch.float32; expected torch.float64, as the par"):
        ours(x.float())
    with pytest.raises(TypeError, match=r"LSTM: the parameters has dtype torch.bfloat16; expected torch.float32 or"):
        ours.bfloat16()(x)
    ours.double()
    with pytest.raises(ValueError, match=r"LSTM: x has shape \(6, 4, 2\)"):
        ours(x[..., :2])
    with pytest.raises(TypeError, match=r"LSTM: state is an ndarray; expected a pair"):
        ours(x, torch.zeros(1, B, H, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"LSTM: state h has shape \(1, 3, 5\)"):
        ours(x, (torch.zeros(1, 3, H, dtype=torch.float64),) * 2)


def test_views_are_arrays_of_numpy():
    assert isinstance(bridge._array(torch.ones(2)), np.ndarray)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"bidirectional": True, "num_layers": 2}], ids=str)
def test_projections(options):
    theirs = torch.nn.LSTM(4, 6, proj_size=3, dtype=torch.float64, **options)
    ours = bridge.LSTM(4, 6, proj_size=3, dtype=torch.float64, **options)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    for module in (theirs, ours):
        y, (h, c) = module(x)
        (y.sin().sum() + h.sum() + c.cos().sum()).backward()
    for (name, expected), given in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(given.grad, expected.grad, msg=lambda text, name=name: f"{name}: {text}")


# ---- masks and resets


@KIND
@pytest.mark.parametrize("batch_first", [False, True])
def test_resets_are_torchs_loop_over_a_rollout(kind, batch_first):
    """Values and gradients of recurrent PPO's loop, which multiplies the carried state before each step."""
    theirs, _ = pair(kind)
    _, ours = pair(kind, batch_first=batch_first)
    ours.load_state_dict(theirs.state_dict())
    start = torch.rand(T, B) < 0.3
    start[0, 1], start[:, 3] = True, False
    x, state = torch.randn(T, B, I, dtype=torch.float64), random_state(theirs, B)
    twin = tuple(s.detach().clone().requires_grad_() for s in parts(state))
    carried, outputs = parts(state), []
    for t in range(T):
        kept = tuple((~start[t]).double()[None, :, None] * s for s in carried)
        y_t, carried = theirs(x[t : t + 1], kept if len(kept) == 2 else kept[0])
        carried = parts(carried)
        outputs.append(y_t)
    expected = torch.cat(outputs)

    def turn(tensor):
        return tensor.transpose(0, 1) if batch_first else tensor

    y, state_n = ours(turn(x), twin if len(twin) == 2 else twin[0], reset=turn(start))
    torch.testing.assert_close(turn(y), expected, rtol=0, atol=1e-12)
    dy = torch.randn_like(expected)
    (expected * dy).sum().backward()
    (turn(y) * dy).sum().backward()
    torch.testing.assert_close(list(parts(state_n)), list(carried), rtol=0, atol=1e-12)
    for mine, s in zip(twin, parts(state), strict=True):
        torch.testing.assert_close(mine.grad, s.grad, rtol=0, atol=1e-12)
    for mine, w in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, w.grad, rtol=0, atol=1e-12)
    with torch.no_grad():
        again, _ = ours(turn(x), twin if len(twin) == 2 else twin[0], reset=turn(start))
    assert torch.equal(again, y)


def test_masks_are_the_layers_and_packed_sequences_have_none():
    _, ours = pair("GRU")
    layer = fusedrnn.GRU(I, H, dtype="float64")
    layer.load_state_dict(ours.state_dict())
    x, mask = torch.randn(T, B, I, dtype=torch.float64), torch.rand(T, B) < 0.6
    y, _ = ours(x, mask=mask)
    assert np.array_equal(y.detach(), layer(x, mask=mask)[0])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    with pytest.raises(ValueError, match="GRU: reset is given with a PackedSequence; expected a padded input"):
        ours(packed, reset=mask)
    with pytest.raises(ValueError, match=r"GRU: mask has shape .*the layout of x: transpose it"):
        ours(x, mask=mask.T)
    with pytest.raises(TypeError, match="GRU: reset has dtype float32; expected bool"):
        ours(x, reset=mask.float())
