"""Groups of layers as ONNX models: onnxruntime runs them, and importing them gives the same groups."""

from typing import Any

import numpy as np
import pytest

from fusedrnn import GRU, LSTM, RNN, Bidirectional, Ensemble, Stack, interop
from tolerances import assert_close

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime")

T, B, I = 6, 4, 3


def pair(inputs: int = I, merge: Any = "concat", **options: Any) -> Any:
    H = 4 if merge in ("sum", "mean", "mul") else 6
    return Bidirectional(
        LSTM(inputs, 4, peephole="ifo", clip=2.0, rng=1, **options), GRU(inputs, H, rng=2, **options), merge
    )


#: All but the last two are the same after export and import.
NETS: dict[str, Any] = {
    "sizes": lambda **o: Stack([LSTM(I, 5, rng=1, **o), LSTM(5, 4, rng=2, **o), LSTM(4, 2, rng=3, **o)]),
    "kinds": lambda **o: Stack(
        [
            GRU(I, 5, bidirectional=True, merge="mul", reset_after=False, rng=1, **o),
            RNN(5, 4, nonlinearity="relu", rng=2, backwards=True, **o),
            LSTM(4, 2, coupled=True, bidirectional=True, rng=3, **o),
        ]
    ),
    "pair": pair,
    "sum": lambda **o: pair(merge="sum", **o),
    "none": lambda **o: pair(merge=None, **o),
    "pairs": lambda **o: Stack([pair(merge="mean", **o), pair(4, **o), GRU(10, 3, rng=0, **o)]),
    "directions apart": lambda **o: Stack([GRU(I, 4, rng=0, **o), GRU(4, 2, bidirectional=True, merge=None, **o)]),
    "stack in a stack": lambda **o: Stack([Stack([GRU(I, 4, rng=0, **o), RNN(4, 3, rng=1, **o)]), pair(**o)]),
    "pair of stacks": lambda **o: Bidirectional(
        Stack([GRU(I, 4, 2, rng=0, **o), RNN(4, 3, rng=1, **o)]), LSTM(I, 5, 2, rng=2, **o)
    ),
}


def run(model: Any, feeds: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def named(layer: Any, state: Any, prefix: str = "") -> dict[str, Any]:
    """A state's parts under the names of parameters."""
    if hasattr(layer, "layers"):
        own = [named(m, s, f"{prefix}{n}.") for (n, m), s in zip(layer._members.items(), state, strict=True)]
        return {name: part for parts in own for name, part in parts.items()}
    parts = state if isinstance(state, tuple) else (state,)
    return {f"{prefix}{part}": array for part, array in zip("hc", parts, strict=False)}


@pytest.mark.parametrize("which", NETS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_onnxruntime_runs_groups(which, batch_first, given, rng):
    net = NETS[which](batch_first=batch_first)
    x = rng.standard_normal((B, T, I) if batch_first else (T, B, I)).astype("f4")
    feeds: dict[str, Any] = {"x": x}
    state = lengths = None
    if given:
        lengths = np.array([6, 1, 4, 5], np.int32)

        def like(value: Any) -> Any:
            return (
                tuple(map(like, value)) if isinstance(value, tuple) else rng.standard_normal(value.shape).astype("f4")
            )

        state = like(net(x)[1])
        feeds |= {"lengths": lengths} | {f"{name}_0": part for name, part in named(net, state).items()}
    y, state_n = net(x, state, lengths=lengths)
    theirs = run(interop.to_onnx(net, lengths=given, state=given), feeds)
    ours = dict(zip(("y", "y_reverse"), y if isinstance(y, tuple) else (y,), strict=False))
    ours |= {f"{name}_n": part for name, part in named(net, state_n).items()}
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        assert_close(value, theirs[name], dtype="float32", K=16, T=4 * T, what=name)


@pytest.mark.parametrize("which", list(NETS)[:-2])
@pytest.mark.parametrize("state", [False, True])
def test_groups_come_back(which, state):
    net = NETS[which]()
    assert interop.from_onnx(interop.to_onnx(net, state=state, lengths=state), chain=True) == net


def test_layers_of_a_stack_that_are_alike_come_back_as_one():
    net = LSTM(I, 4, 3, bidirectional=True, merge="sum", rng=0)
    assert interop.from_onnx(interop.to_onnx(net), chain=True) == net
    flat = interop.from_onnx(interop.to_onnx(NETS["stack in a stack"]()), chain=True)
    assert [repr(layer) for layer in flat.layers[:2]] == ["GRU(3, 4)", "RNN(4, 3)"]


@pytest.mark.parametrize("layout", [0, 1])
def test_directions_with_different_activations(layout, rng):
    H = 5
    W, R = (rng.standard_normal((2, 4 * H, n)).astype("f4") * 0.5 for n in (I, H))
    B_ = rng.standard_normal((2, 8 * H)).astype("f4") * 0.5
    activations = ["Sigmoid", "Tanh", "Tanh", "HardSigmoid", "Softsign", "Relu"]
    attributes = {"direction": "bidirectional", "hidden_size": H, "activations": activations}
    names = ["X", "W", "R", "B", "", "initial_h", "initial_c"]
    node = onnx.helper.make_node("LSTM", names, ["Y", "Y_h", "Y_c"], name="lstm", layout=layout, **attributes)
    read = interop.from_onnx(node, {"W": W, "R": R, "B": B_})
    assert repr(read.layer).startswith("Bidirectional(LSTM(3, 5")
    X = rng.standard_normal((B, T, I) if layout else (T, B, I)).astype("f4")
    h, c = (rng.standard_normal((B, 2, H) if layout else (2, B, H)).astype("f4") for _ in range(2))
    ours = read(X, initial_h=h, initial_c=c)
    feeds = {"X": X, "W": W, "R": R, "B": B_, "initial_h": h, "initial_c": c}
    if layout:  # onnxruntime refuses it
        plain = interop.from_onnx(
            onnx.helper.make_node("LSTM", names, ["Y", "Y_h", "Y_c"], name="lstm", **attributes),
            {"W": W, "R": R, "B": B_},
        )
        theirs = plain(X.swapaxes(0, 1), initial_h=h.swapaxes(0, 1), initial_c=c.swapaxes(0, 1))
        theirs = (theirs[0].transpose(2, 0, 1, 3), *(part.swapaxes(0, 1) for part in theirs[1:]))
    else:
        infos = [onnx.helper.make_tensor_value_info(name, 1, value.shape) for name, value in feeds.items()]
        results = [onnx.helper.make_tensor_value_info(name, 1, None) for name in node.output]
        graph = onnx.helper.make_graph([node], "g", infos, results)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
        theirs = tuple(run(model, feeds).values())
    for mine, other, name in zip(ours, theirs, ("Y", "Y_h", "Y_c"), strict=True):
        assert_close(mine, other, dtype="float32", K=16, T=T, what=name)
    with pytest.raises(ValueError, match="initial_c is None; expected an array, as the model computes it"):
        read(X, initial_h=h)


def test_what_is_no_chain(rng):
    net = Stack([GRU(I, 4, rng=0), RNN(4, 3, rng=1)])
    model = interop.to_onnx(net)
    doubled = onnx.ModelProto.FromString(model.SerializeToString())
    two = onnx.numpy_helper.from_array(np.float32(2), "two")
    doubled.graph.initializer.append(two)
    place = next(k for k, node in enumerate(doubled.graph.node) if node.op_type == "RNN")
    doubled.graph.node.insert(place, onnx.helper.make_node("Mul", ["0.y_0", "two"], ["doubled"]))
    doubled.graph.node[place + 1].input[0] = "doubled"
    assert len(interop.from_onnx(doubled)) == 2
    with pytest.raises(ValueError, match=r"from_onnx: 'RNN_.' reads something else than the outputs of 'GRU_0'"):
        interop.from_onnx(doubled, chain=True)
    with pytest.raises(ValueError, match="reads something else than the outputs of 'GRU_0', 'LSTM_"):
        interop.from_onnx(interop.to_onnx(NETS["pair of stacks"]()), chain=True)
    learned = GRU(I, 4, learned_state=True)
    learned.h_0_l0[:] = 1.0
    message = r"node 'GRU_.' has initial_h of its own: it is a constant; expected an input of the model"
    with pytest.raises(ValueError, match=message):
        interop.from_onnx(interop.to_onnx(Stack([learned, RNN(4, 3)])), chain=True)
    with pytest.raises(TypeError, match="to_onnx: got Ensemble; expected RNN, GRU, LSTM, Stack or Bidirectional"):
        interop.to_onnx(Ensemble([GRU(3, 4)]))
    with pytest.raises(ValueError, match=r"to_onnx: .*zoneout=0\.5; expected 0\.0, as ONNX's RNN has nothing else"):
        interop.to_onnx(Stack([GRU(3, 4), RNN(4, 4, zoneout=0.5)]))
