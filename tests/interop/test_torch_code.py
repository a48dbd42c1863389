"""from_torch reads a module if its code is torch's, and refuses it otherwise: 560 modules, half of them traps.

Each module that is read gives torch's own outputs. Each trap is a module that computes something else than its weights
say, in one of the ways that torch has for it; of a trap that is read all the same, the outputs would differ.
"""

import copy
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusedrnn import interop
from tolerances import assert_close

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")

from torch import nn  # noqa: E402  torch must be there
from torch.nn.utils import parametrizations, parametrize, prune  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

KINDS = ["RNN", "GRU", "LSTM"]
EACH = range(14)


def layer(rng: np.random.Generator, kind: str, cls: Any = None, **fixed: Any) -> Any:
    """A layer of torch of a random size with random options."""
    torch.manual_seed(int(rng.integers(2**31)))
    options: dict[str, Any] = {"num_layers": int(rng.integers(1, 4)), "bidirectional": bool(rng.integers(2))}
    options |= {"bias": bool(rng.integers(4)), "batch_first": bool(rng.integers(2)), "dtype": torch.float64}
    if kind == "RNN":
        options["nonlinearity"] = str(rng.choice(["tanh", "relu"]))
    H = int(rng.integers(2, 7))
    if kind == "LSTM" and rng.integers(3) == 0:
        options["proj_size"] = int(rng.integers(1, H))
    return (cls or getattr(nn, kind))(int(rng.integers(1, 6)), H, **options | fixed)


def cell(rng: np.random.Generator, kind: str, cls: Any = None) -> Any:
    """A cell of torch."""
    torch.manual_seed(int(rng.integers(2**31)))
    options: dict[str, Any] = {"bias": bool(rng.integers(2)), "dtype": torch.float64}
    if kind == "RNN":
        options["nonlinearity"] = str(rng.choice(["tanh", "relu"]))
    return (cls or getattr(nn, f"{kind}Cell"))(int(rng.integers(1, 6)), int(rng.integers(2, 7)), **options)


def same(module: Any, ours: Any, rng: np.random.Generator) -> None:
    """Outputs of both are equal."""
    if type(ours).__name__.endswith("Cell"):
        x = rng.standard_normal((3, ours.input_size))
        expected, actual = module(torch.from_numpy(x)), ours(x)
        expected, actual = (r[0] if isinstance(r, tuple) else r for r in (expected, actual))
    else:
        x = rng.standard_normal((4, 5, ours.input_size))
        expected, actual = module(torch.from_numpy(x))[0], ours(x)[0]
    assert_close(actual, expected.detach().numpy(), dtype="float64", K=12, T=15, what=type(module).__name__)


class Named(nn.LSTM):
    """Helpers of its own, and torch's code."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scale = nn.Parameter(torch.ones(3))

    def extra_repr(self) -> str:
        return "mine"

    def helper(self) -> int:
        return self.hidden_size


# ---- modules to read ------------------------------------------------------------------------------------------------


def pruned(module: Any) -> Any:
    prune.random_unstructured(module, "weight_hh_l0", 0.4)
    return prune.random_unstructured(module, "weight_hh_l0", 0.4)


def older_norm(module: Any) -> Any:
    module = torch.nn.utils.weight_norm(module, "weight_hh_l0")
    with torch.no_grad():
        module.weight_hh_l0_g.mul_(1.7)  # weight_hh_l0 is old until the next call
    return module


def swapped(rng: np.random.Generator, kind: str) -> Any:
    from fusedrnn.interop.torch import from_module

    return from_module(layer(rng, kind))


def in_a_model(rng: np.random.Generator, kind: str) -> Any:
    return nn.ModuleDict({"embed": nn.Linear(2, 2), "norm": nn.LayerNorm(2), "rnn": layer(rng, kind)})


READ: dict[str, Callable[[np.random.Generator, str], Any]] = {
    "layer": layer,
    "layer again": layer,
    "layer once more": layer,
    "cell": cell,
    "cell again": cell,
    "subclass without code": lambda rng, kind: layer(rng, "LSTM", Named),
    "compiled in place": lambda rng, kind: compiled_in_place(layer(rng, kind)),
    "compile": lambda rng, kind: torch.compile(layer(rng, kind)),
    "weight_norm": lambda rng, kind: parametrizations.weight_norm(layer(rng, kind), "weight_hh_l0"),
    "older weight_norm": lambda rng, kind: older_norm(layer(rng, kind)),
    "spectral_norm": lambda rng, kind: parametrizations.spectral_norm(layer(rng, kind), "weight_ih_l0").eval(),
    "older spectral_norm": lambda rng, kind: torch.nn.utils.spectral_norm(layer(rng, kind), "weight_ih_l0").eval(),
    "orthogonal": lambda rng, kind: parametrizations.orthogonal(layer(rng, kind), "weight_hh_l0"),
    "pruned": lambda rng, kind: pruned(layer(rng, kind)),
    "pruned for good": lambda rng, kind: prune.remove(pruned(layer(rng, kind)), "weight_hh_l0"),
    "swapped": swapped,
    "in a model": in_a_model,
    "copied": lambda rng, kind: copy.deepcopy(layer(rng, kind)),
    "state dict": layer,
    "dropout": lambda rng, kind: layer(rng, kind, num_layers=2, dropout=0.5).eval(),
}


def compiled_in_place(module: Any) -> Any:
    module.compile()
    return module


@pytest.mark.parametrize("name", READ)
def test_modules_that_are_read(name):
    for k in EACH:
        rng = np.random.default_rng([k, len(name)])
        module = READ[name](rng, KINDS[k % 3])
        source = module.state_dict() if name == "state dict" else module
        options = {}
        if name == "state dict":
            options = {"batch_first": module.batch_first, "nonlinearity": getattr(module, "nonlinearity", None)}
        ours = interop.from_torch(source, **options)
        # Compiling takes seconds; the wrapped module is what is compiled.
        plain = module["rnn"] if name == "in a model" else getattr(module, "_orig_mod", module)
        plain._compiled_call_impl = None
        same(plain, ours, rng)


def test_scripted_modules_are_read():
    for kind in KINDS:
        rng = np.random.default_rng(1)
        module = layer(rng, kind)
        same(module, interop.from_torch(torch.jit.script(module)), rng)
        same(module, interop.from_torch(torch.jit.script(nn.Sequential(module))), rng)


# ---- traps ----------------------------------------------------------------------------------------------------------


def doubled(result: Any) -> Any:
    return (
        tuple(2 * part if torch.is_tensor(part) else part for part in result)
        if isinstance(result, tuple)
        else 2 * result
    )


def overriding(base: Any, name: str) -> Any:
    """A subclass with one method of its own."""

    def method(self: Any, *args: Any, **options: Any) -> Any:
        return doubled(getattr(super(made, self), name)(*args, **options))

    made = type("Mine", (base,), {name: method})
    return made


def with_forward(module: Any) -> Any:
    run = module.forward
    module.forward = types.MethodType(lambda self, *args: doubled(run(*args)), module)
    return module


def with_hook(module: Any, register: str) -> Any:
    returns = {
        "register_forward_hook": lambda m, a, r: doubled(r),
        "register_forward_pre_hook": lambda m, a: (2 * a[0],),
    }
    getattr(module, register)(returns.get(register, lambda *args: None))
    return module


class Twice(nn.Module):
    def forward(self, weight: Any) -> Any:
        return 2 * weight


class Mixin:
    def __call__(self, *args: Any) -> Any:
        return doubled(super().__call__(*args))  # type: ignore[misc]


class Foreign(nn.Module):
    """Parameters of torch's names, and nothing else of torch's."""

    def __init__(self) -> None:
        super().__init__()
        for name, array in nn.LSTM(3, 5).state_dict().items():
            self.register_parameter(name, nn.Parameter(array))


class Backwards(nn.Sequential):
    def forward(self, x: Any) -> Any:
        return super().forward(x.flip(0))


def dropped(module: Any) -> Any:
    """A weight that somebody computes anew for each call."""
    raw = module.weight_hh_l0.detach()
    del module._parameters["weight_hh_l0"]
    module.weight_hh_l0 = raw
    return module


def between(rng: np.random.Generator, child: Any, container: Any = nn.ModuleList) -> Any:
    H = int(rng.integers(2, 6))
    return container(
        *[[nn.GRU(3, H), child(H), nn.GRU(H, H)]]
        if container is nn.ModuleList
        else [nn.GRU(3, H), child(H), nn.GRU(H, H)]
    )


def quantised(rng: np.random.Generator, kind: str) -> Any:
    engine = nn.Sequential(nn.LSTM(int(rng.integers(1, 6)), 5))
    return torch.ao.quantization.quantize_dynamic(engine, {nn.LSTM}, dtype=torch.qint8)


def traced(rng: np.random.Generator, kind: str) -> Any:
    module = layer(rng, kind, batch_first=True).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module, torch.zeros(2, 3, module.input_size, dtype=torch.float64), check_trace=False)


def peephole(rng: np.random.Generator, kind: str) -> Any:
    module = cell(rng, kind)
    return module.state_dict() | {"peephole_o": torch.zeros(module.hidden_size)}


TRAPS: dict[str, Callable[[np.random.Generator, str], Any]] = {
    "forward": lambda rng, kind: layer(rng, kind, overriding(getattr(nn, kind), "forward")),
    "__call__": lambda rng, kind: layer(rng, kind, overriding(getattr(nn, kind), "__call__")),
    "forward of a cell": lambda rng, kind: cell(rng, kind, overriding(getattr(nn, f"{kind}Cell"), "forward")),
    "mixin": lambda rng, kind: layer(rng, kind, type("Mine", (Mixin, getattr(nn, kind)), {})),
    "assigned forward": lambda rng, kind: with_forward(layer(rng, kind)),
    "forward hook": lambda rng, kind: with_hook(layer(rng, kind), "register_forward_hook"),
    "pre-hook": lambda rng, kind: with_hook(layer(rng, kind), "register_forward_pre_hook"),
    "pre-hook of a cell": lambda rng, kind: with_hook(cell(rng, kind), "register_forward_pre_hook"),
    "backward hook": lambda rng, kind: with_hook(layer(rng, kind), "register_full_backward_hook"),
    "parametrization": lambda rng, kind: own_parametrization(layer(rng, kind)),
    "spectral_norm in training": lambda rng, kind: parametrizations.spectral_norm(layer(rng, kind), "weight_ih_l0"),
    "assigned weight": lambda rng, kind: dropped(layer(rng, kind)),
    "foreign class": lambda rng, kind: Foreign(),
    "norm between": lambda rng, kind: between(rng, nn.LayerNorm),
    "activation between": lambda rng, kind: between(rng, lambda H: nn.ReLU(), nn.Sequential),
    "linear between": lambda rng, kind: between(rng, lambda H: nn.Linear(H, H)),
    "container's forward": lambda rng, kind: Backwards(nn.GRU(3, 4), nn.GRU(4, 4)),
    "quantised": quantised,
    "quantised state dict": lambda rng, kind: quantised(rng, kind).state_dict(),
    "state dict with peepholes": peephole,
    "state dict with a norm": lambda rng, kind: nn.ModuleDict({"rnn": with_child(layer(rng, kind))}).state_dict(),
    "state dict of weight_norm": lambda rng, kind: older_norm(layer(rng, kind)).state_dict(),
}


def own_parametrization(module: Any) -> Any:
    parametrize.register_parametrization(module, "weight_hh_l0", Twice())
    return module


def with_child(module: Any) -> Any:
    module.norm = nn.LayerNorm(module.hidden_size)
    return module


@pytest.mark.parametrize("name", TRAPS)
def test_traps_are_refused(name):
    for k in EACH:
        rng = np.random.default_rng([k, len(name)])
        with pytest.raises(ValueError, match=r"^from_torch: .*(expected|none|found no)"):
            interop.from_torch(TRAPS[name](rng, KINDS[k % 3]))


def test_traced_modules_are_refused():
    for kind in KINDS:
        with pytest.raises(
            ValueError, match=r"torch\.jit\.trace, which keeps weights, but neither nonlinearity nor batch"
        ):
            interop.from_torch(traced(np.random.default_rng(0), kind))


def test_force_reads_the_weights_alone():
    rng = np.random.default_rng(0)
    for name in (
        "forward",
        "forward hook",
        "assigned forward",
        "state dict with a norm",
        "foreign class",
        "parametrization",
    ):
        source = TRAPS[name](rng, "LSTM")
        ours = interop.from_torch(source, force=True)
        weights = source if isinstance(source, dict) else {n: getattr(source, n) for n in ours.params}
        for n, array in ours.params.items():
            np.testing.assert_array_equal(array, weights[n if n in weights else f"rnn.{n}"].detach().numpy())
    assert len(interop.from_torch(between(rng, nn.LayerNorm), ["0", "2"]).layers) == 2
    assert len(interop.from_torch(between(rng, nn.LayerNorm), force=True).layers) == 2
    with pytest.raises(ValueError, match="is quantised"):
        interop.from_torch(quantised(rng, "LSTM"), force=True)


def test_what_is_wrong_is_named():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"the module \(.*Mine\) has 'forward' of its own.* force=True"):
        interop.from_torch(layer(rng, "LSTM", overriding(nn.LSTM, "forward")))
    with pytest.raises(
        ValueError, match=r"'1' \(torch.nn.modules.normalization.LayerNorm\) stands between recurrent mod"
    ):
        interop.from_torch(between(rng, nn.LayerNorm))
    with pytest.raises(ValueError, match="weight_hh_l0 is computed by the parametrization Twice"):
        interop.from_torch(own_parametrization(layer(rng, "GRU")))
    with pytest.raises(ValueError, match="nonlinearity is 'relu', but the module has 'tanh'"):
        interop.from_torch(nn.RNN(3, 5), nonlinearity="relu")
    with pytest.raises(ValueError, match="beside the weights there are 'peephole_o', which no RNN, GRU or LSTM"):
        interop.from_torch(peephole(rng, "LSTM"))


def test_the_same_module_twice_is_a_stack():
    gru = nn.GRU(4, 4, dtype=torch.float64)
    x = np.random.default_rng(0).standard_normal((5, 2, 4))
    expected = gru(gru(torch.from_numpy(x))[0])[0].detach().numpy()
    y, _ = interop.from_torch(nn.Sequential(gru, gru))(x)
    assert_close(y, expected, dtype="float64", K=8, T=10, what="twice")
