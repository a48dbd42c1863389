"""Layers equal torch's: same state_dict, same outputs, same final states, same gradients."""

from typing import Any

import numpy as np
import pytest

import fusedrnn
from tolerances import assert_close, dot_length

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")

T, B, I, H = 7, 6, 13, 22
LENGTHS = [4, 7, 1, 7, 2, 5]  # torch packs no empty rows

KINDS = ["RNN tanh", "RNN relu", "GRU", "LSTM"]
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
KIND = pytest.mark.parametrize("kind", KINDS)
SHAPES = pytest.mark.parametrize(
    ("num_layers", "bidirectional"),
    [(1, False), (1, True), (2, False), (3, True)],
    ids=["one layer", "both ways", "two layers", "three layers both ways"],
)


def pair(kind: str, dtype: str, **options: Any) -> tuple[Any, Any]:
    """torch's layer and ours, with the same parameters."""
    name, _, nonlinearity = kind.partition(" ")
    if nonlinearity:
        options["nonlinearity"] = nonlinearity
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(I, H, dtype=getattr(torch, dtype), **options)
    ours = getattr(fusedrnn, name)(I, H, dtype=dtype, **options)
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    return theirs, ours


def numbers(rng: np.random.Generator, dtype: str, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(dtype)


def parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


class Comparison:
    """Compares by name, with the tolerance of the deepest result: a stack errs like a layer of that many more steps."""

    def __init__(self, layer: Any, dtype: str) -> None:
        self.layer = layer
        self.dtype = dtype

    def __call__(self, ours: Any, theirs: Any, quantity: Any) -> None:
        __tracebackhide__ = True
        theirs = theirs.detach().numpy()
        layer = self.layer
        D = 1 + layer.bidirectional
        K = dot_length(quantity, gates=4, T=T, B=B, I=max(I, D * H), H=H)
        what = f"{layer!r}: {quantity}"
        # torch has a table entry only in float64; in float32 both sides may err by the bound of a result.
        if self.dtype == "float64":
            assert_close(ours, theirs, dtype=self.dtype, K=K, T=T, what=what, quantity="torch")
        else:
            assert_close(ours, theirs, dtype=self.dtype, K=K, T=T * layer.num_layers, what=what)


def check(theirs: Any, ours: Any, x: Any, state: tuple[Any, ...], rng: np.random.Generator, dtype: str) -> None:
    """Outputs, final states and all gradients of both, from the same gradients of outputs and final states."""
    compare = Comparison(ours, dtype)
    x_t, *state_t = (torch.tensor(a, requires_grad=True) for a in (x, *state))
    y_t, out_t = theirs(x_t, tuple(state_t) if len(state) == 2 else state_t[0])
    y, out, tape = ours.forward(x, state if len(state) == 2 else state[0])
    compare(y, y_t, "y")
    for mine, other in zip(parts(out), parts(out_t), strict=True):
        compare(mine, other, "state_n")

    dy, dstate = numbers(rng, dtype, *y.shape), tuple(numbers(rng, dtype, *s.shape) for s in parts(out))
    torch.autograd.backward([y_t, *parts(out_t)], [torch.tensor(d) for d in (dy, *dstate)])
    grads = tape.backward(dy, dstate if len(state) == 2 else dstate[0])
    compare(grads.x, x_t.grad, "dx")
    for mine, other in zip(parts(grads.state), state_t, strict=True):
        compare(mine, other.grad, "dstate")
    assert list(grads.params) == [name for name, _ in theirs.named_parameters()]
    for name, parameter in theirs.named_parameters():
        what = name.split("_l")[0].replace("weight", "dW").replace("bias", "db")
        compare(grads.params[name], parameter.grad, what)


@DTYPES
@KIND
@SHAPES
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_layers(kind, dtype, num_layers, bidirectional, bias, rng):
    theirs, ours = pair(kind, dtype, num_layers=num_layers, bidirectional=bidirectional, bias=bias)
    rows = num_layers * (1 + bidirectional)
    state = tuple(numbers(rng, dtype, rows, B, H) for _ in range(1 + (kind == "LSTM")))
    check(theirs, ours, numbers(rng, dtype, T, B, I), state, rng, dtype)


@DTYPES
@SHAPES
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("proj_size", [1, 9, H - 1])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_projections(dtype, num_layers, bidirectional, bias, proj_size, rng):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "bias": bias, "proj_size": proj_size}
    theirs, ours = pair("LSTM", dtype, **options)
    rows = num_layers * (1 + bidirectional)
    state = (numbers(rng, dtype, rows, B, proj_size), numbers(rng, dtype, rows, B, H))
    check(theirs, ours, numbers(rng, dtype, T, B, I), state, rng, dtype)


@DTYPES
@KIND
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
def test_batch_first(kind, dtype, bidirectional, rng):
    theirs, ours = pair(kind, dtype, num_layers=2, bidirectional=bidirectional, batch_first=True)
    state = tuple(numbers(rng, dtype, 2 * (1 + bidirectional), B, H) for _ in range(1 + (kind == "LSTM")))
    check(theirs, ours, numbers(rng, dtype, B, T, I), state, rng, dtype)


@DTYPES
@KIND
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
def test_unbatched(kind, dtype, batch_first, rng):
    theirs, ours = pair(kind, dtype, num_layers=2, bidirectional=True, batch_first=batch_first)
    state = tuple(numbers(rng, dtype, 4, H) for _ in range(1 + (kind == "LSTM")))
    check(theirs, ours, numbers(rng, dtype, T, I), state, rng, dtype)


@DTYPES
@KIND
def test_no_state_is_zeros(kind, dtype, rng):
    theirs, ours = pair(kind, dtype, bidirectional=True)
    x = numbers(rng, dtype, T, B, I)
    (y_t, state_t), (y, state) = theirs(torch.tensor(x)), ours(x)
    compare = Comparison(ours, dtype)
    compare(y, y_t, "y")
    for mine, other in zip(parts(state), parts(state_t), strict=True):
        compare(mine, other, "state_n")


@DTYPES
@KIND
@SHAPES
def test_packed_sequences_of_any_order(kind, dtype, num_layers, bidirectional, rng):
    theirs, ours = pair(kind, dtype, num_layers=num_layers, bidirectional=bidirectional)
    compare = Comparison(ours, dtype)
    x = numbers(rng, dtype, T, B, I)
    x_t = torch.tensor(x, requires_grad=True)
    rnn = torch.nn.utils.rnn
    packed, out_t = theirs(rnn.pack_padded_sequence(x_t, torch.tensor(LENGTHS), enforce_sorted=False))
    y_t, _ = rnn.pad_packed_sequence(packed, total_length=T)
    y, out, tape = ours.forward(x, lengths=LENGTHS)
    compare(y, y_t, "y")
    for mine, other in zip(parts(out), parts(out_t), strict=True):
        compare(mine, other, "state_n")

    dy, dstate = numbers(rng, dtype, *y.shape), tuple(numbers(rng, dtype, *s.shape) for s in parts(out))
    torch.autograd.backward([y_t, *parts(out_t)], [torch.tensor(d) for d in (dy, *dstate)])
    grads = tape.backward(dy, dstate if kind == "LSTM" else dstate[0])
    compare(grads.x, x_t.grad, "dx")
    for name, parameter in theirs.named_parameters():
        what = name.split("_l")[0].replace("weight", "dW").replace("bias", "db")
        compare(grads.params[name], parameter.grad, what)


@DTYPES
@KIND
def test_parameters_go_back_to_torch(kind, dtype):
    theirs, ours = pair(kind, dtype, num_layers=2, bidirectional=True)
    _, fresh = pair(kind, dtype, num_layers=2, bidirectional=True)
    fresh = type(fresh)(I, H, 2, bidirectional=True, dtype=dtype, rng=5)
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in fresh.state_dict().items()})
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), fresh.params[name])
    assert list(theirs.state_dict()) == list(ours.state_dict())


@DTYPES
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_cells(kind, dtype, rng):
    theirs = getattr(torch.nn, f"{kind}Cell")(I, H, dtype=getattr(torch, dtype))
    ours = getattr(fusedrnn, f"{kind}Cell")(I, H, dtype=dtype)
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    x, state = numbers(rng, dtype, B, I), tuple(numbers(rng, dtype, B, H) for _ in range(1 + (kind == "LSTM")))
    state_t = tuple(map(torch.tensor, state))
    new_t = theirs(torch.tensor(x), state_t if kind == "LSTM" else state_t[0])
    new = ours(x, state if kind == "LSTM" else state[0])
    for mine, other in zip(parts(new), parts(new_t), strict=True):
        assert_close(mine, other.detach().numpy(), dtype=dtype, K=I + H, T=1, what=f"{kind}Cell")


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_tensors_as_arguments(kind, rng):
    """CPU tensors are accepted as they are (DLPack), whatever their strides."""
    theirs, ours = pair(kind, "float32")
    x = torch.tensor(numbers(rng, "float32", B, T, I)).transpose(0, 1)
    y, _ = ours(x)
    np.testing.assert_array_equal(y, ours(x.numpy())[0])
    y_t, _ = theirs(x)
    Comparison(ours, "float32")(y, y_t, "y")
