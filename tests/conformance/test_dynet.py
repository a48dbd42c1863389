"""from_dynet against DyNet itself (the fork dyNET38, which has wheels): outputs of its builders with random weights."""

import numpy as np
import pytest

from fusedrnn import interop

dynet = pytest.importorskip("dynet", reason="DyNet is not installed: pip install dynet38")

I, H, T = 3, 5, 7
#: In Python, DyNet's LSTMBuilder is the vanilla builder.
BUILDERS = ["LSTMBuilder", "VanillaLSTMBuilder", "CompactVanillaLSTMBuilder", "GRUBuilder", "SimpleRNNBuilder"]


def built(name, layers, rng):
    collection = dynet.ParameterCollection()
    builder = getattr(dynet, name)(layers, I, H, collection)
    for parameter in collection.parameters_list():
        parameter.set_value(rng.standard_normal(parameter.shape()) / 2)
    return builder, collection  # which owns the parameters


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", BUILDERS)
def test_outputs(name, layers, rng):
    builder, _owner = built(name, layers, rng)
    x = rng.standard_normal((T, I)).astype("float32")
    dynet.renew_cg()
    states = builder.initial_state().transduce([dynet.inputVector(step) for step in x])
    expected = np.array([state.npvalue() for state in states])
    y, _ = interop.from_dynet(builder)(x)  # float64; DyNet computes in float32
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6)


def test_coupled_gates_are_refused(rng):
    """DyNet's coupled LSTM has full matrices as peepholes."""
    builder, _owner = built("CoupledLSTMBuilder", 1, rng)
    with pytest.raises(ValueError, match="the number of arrays of layer 0 is 11; expected 3"):
        interop.from_dynet(builder)
