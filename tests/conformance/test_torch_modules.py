"""torch's own inputs for its recurrent modules and cells: same outputs, final states and gradients.

The inputs of torch's own module tests (`torch.testing._internal.common_modules`) go through `from_torch`: each
constructor call with each forward call, with all gradients.
"""

from typing import Any

import numpy as np
import pytest

from fusedrnn import interop
from tolerances import assert_close

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
pytest.importorskip("expecttest", reason="expecttest is not installed: pip install '.[conformance]'")
common_modules = pytest.importorskip("torch.testing._internal.common_modules")

NAMES = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")
INFOS = {info.module_cls.__name__: info for info in common_modules.module_db if info.module_cls.__name__ in NAMES}


def cases(name: str, dtype: str, training: bool) -> list[Any]:
    """torch's test inputs for a module: arguments of the constructor and of forward."""
    info = INFOS[name]
    torch.manual_seed(0)
    made: list[Any] = info.module_inputs_func(
        info, device="cpu", dtype=getattr(torch, dtype), requires_grad=True, training=training
    )
    return made


COUNTS = {name: len(cases(name, "float32", False)) for name in NAMES}


def test_torch_has_the_inputs_this_is_about():
    assert COUNTS.keys() == set(NAMES)
    assert sum(COUNTS.values()) >= 80


def flat(values: Any) -> list[Any]:
    """Tensors or arrays of nested tuples in order."""
    if isinstance(values, (tuple, list)):
        return [leaf for value in values for leaf in flat(value)]
    return [] if values is None else [values]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "k"), [(name, k) for name in NAMES for k in range(COUNTS[name])])
def test_module_inputs(name, k, dtype, training, rng):
    case = cases(name, dtype, training)[k]
    constructor, call = case.constructor_input, case.forward_input
    module = INFOS[name].module_cls(*constructor.args, dtype=getattr(torch, dtype), **constructor.kwargs)
    module.train(training)
    layer = interop.from_torch(module)

    x_t, state_t = (*call.args, None)[:2] if call.args else (call.kwargs["input"], call.kwargs.get("hx"))
    out_t = module(x_t, state_t) if state_t is not None else module(x_t)
    x = x_t.detach().numpy()
    state = None if state_t is None else [part.detach().numpy() for part in flat(state_t)]
    pair = "LSTM" in name
    state = None if state is None else tuple(state) if pair else state[0]
    *out, tape = layer.forward(x, state)

    def check(ours: Any, theirs: Any, what: str) -> None:
        __tracebackhide__ = True
        T = 1 if name.endswith("Cell") else len(x) * layer.num_layers
        K = layer.input_size + 2 * layer.hidden_size
        quantity = "torch" if dtype == "float64" else "sequence"
        what = f"{layer!r} {what}"
        assert_close(ours, theirs.detach().numpy(), dtype=dtype, K=4 * K, T=T, what=what, quantity=quantity)

    for j, (ours, theirs) in enumerate(zip(flat(out), flat(out_t), strict=True)):
        check(ours, theirs, f"result {j}")

    if dtype == "float32":
        return  # gradients of inputs this large cancel too much to test float32: they are compared in float64
    gradients = [rng.standard_normal(part.shape).astype(dtype) for part in flat(out_t)]
    torch.autograd.backward(flat(out_t), [torch.from_numpy(g) for g in gradients])
    if name.endswith("Cell"):
        grads = tape.backward(tuple(gradients) if pair else gradients[0])
    else:
        grads = tape.backward(gradients[0], tuple(gradients[1:]) if pair else gradients[1])
    check(grads.x, x_t.grad, "dx")
    if state_t is not None:
        for ours, theirs in zip(flat(grads.state), flat(state_t), strict=True):
            check(ours, theirs.grad, "dstate")
    parameters = dict(module.named_parameters())
    assert grads.params.keys() == parameters.keys()
    for key, parameter in parameters.items():
        check(grads.params[key], parameter.grad, f"d{key}")
    assert np.isfinite(grads.x).all()
