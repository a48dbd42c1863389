"""ONNX's RNN, GRU and LSTM: the standard's node tests; generated attributes against onnxruntime and the reference.

Every attribute of the operators is drawn: direction, layout, activations with and without alpha and beta, clip,
linear_before_reset, input_forget, peepholes, lengths, initial states, biases.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import interop
from tolerances import assert_close

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[conformance]'")
reference = pytest.importorskip("onnx.reference")

OPERATORS = ("RNN", "GRU", "LSTM")
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
NODES = Path(onnx.__file__).parent / "backend" / "test" / "data" / "node"

Case = dict[str, Any]


# ---- the standard's node tests --------------------------------------------------------------------------------------


def node_tests() -> list[str]:
    """Names of all tests that contain a recurrent node."""
    found = []
    for path in sorted(NODES.glob("*/model.onnx")):
        content = path.read_bytes()
        if any(op.encode() in content for op in OPERATORS):
            model = onnx.load_model_from_string(content)
            if any(node.op_type in OPERATORS for node in model.graph.node):
                found.append(path.parent.name)
    return found


NODE_TESTS = node_tests()


def tensors(folder: Path, kind: str) -> list[Any]:
    """The test's inputs or outputs in order."""
    found = []
    for k in range(len(list(folder.glob(f"{kind}_*.pb")))):
        tensor = onnx.TensorProto()
        tensor.ParseFromString((folder / f"{kind}_{k}.pb").read_bytes())
        found.append(onnx.numpy_helper.to_array(tensor))
    return found


def check(actual: Any, expected: Any, node: Any, T: int, what: str) -> None:
    """Same shape, and within the tolerance of the layer's dtype."""
    __tracebackhide__ = True
    layer = node.layer
    assert_close(actual, expected, dtype=layer.dtype, K=layer.input_size + layer.hidden_size, T=T, what=what)


@pytest.mark.parametrize("name", NODE_TESTS)
def test_node_tests_of_the_standard(name):
    folder = NODES / name
    model = onnx.load(folder / "model.onnx")
    (proto,) = model.graph.node
    data = sorted(folder.glob("test_data_set_*"))
    assert data
    for folder in data:
        inputs = dict(zip([i.name for i in model.graph.input], tensors(folder, "input"), strict=True))
        (node,) = interop.from_onnx(model, inputs).values()
        outputs = dict(zip([o.name for o in model.graph.output], tensors(folder, "output"), strict=True))
        results = dict(zip(proto.output, node(inputs[proto.input[0]]), strict=False))
        for output, expected in outputs.items():
            check(results[output], expected, node, expected.shape[0], f"{name}: {output}")


def test_the_standard_has_as_many_node_tests_as_we_know():
    """A newer onnx may have more tests: they are found and run automatically."""
    assert len(NODE_TESTS) >= 12
    assert all(
        any(op in onnx.load(NODES / n / "model.onnx").graph.node[0].op_type for op in OPERATORS) for n in NODE_TESTS
    )


# ---- generated attributes -------------------------------------------------------------------------------------------

#: Activation -> how many of alpha and beta it takes. Where the standard defines no defaults, both are given.
ACTIVATIONS = {
    "Tanh": 0,
    "Sigmoid": 0,
    "Relu": 0,
    "Softsign": 0,
    "Softplus": 0,
    "HardSigmoid": 2,
    "LeakyRelu": 1,
    "Elu": 1,
    "ThresholdedRelu": 1,
    "ScaledTanh": 2,
    "Affine": 2,
}
PLACES = {"RNN": 1, "GRU": 2, "LSTM": 3}


def draw(rng: np.random.Generator, k: int) -> Case:
    """One node: attributes and inputs. Pre-activations are about N(0, 1)."""
    op = OPERATORS[k % 3]
    T, B, I, H = (int(rng.integers(1, n)) for n in (8, 6, 12, 20))
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    D = 2 if direction == "bidirectional" else 1

    def normal(*shape: int, scale: float = 1.0) -> Any:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    G, scale = GATES[op], (I + H) ** -0.5
    attributes: Case = {"hidden_size": H}
    if direction != "forward" or rng.random() < 0.5:
        attributes["direction"] = direction
    inputs = {"X": normal(T, B, I), "W": normal(D, G * H, I, scale=scale), "R": normal(D, G * H, H, scale=scale)}
    if rng.random() < 0.8:
        inputs["B"] = normal(D, 2 * G * H, scale=0.5)
    if rng.random() < 0.5:
        lengths = rng.integers(1, T + 1, B)
        lengths[rng.integers(0, B)] = T
        inputs["sequence_lens"] = lengths.astype(np.int32)
    for part in ("initial_h", "initial_c")[: 1 + (op == "LSTM")]:
        if rng.random() < 0.5:
            inputs[part] = normal(D, B, H)
    if op == "LSTM" and rng.random() < 0.5:
        inputs["P"] = normal(D, 3 * H)
    if op == "LSTM" and rng.random() < 0.3:
        attributes["input_forget"] = 1
    if op == "GRU":
        attributes["linear_before_reset"] = int(rng.integers(0, 2))
    if rng.random() < 0.3:
        attributes["clip"] = float(rng.uniform(0.3, 1.5))
    if rng.random() < 0.5:
        # One list for both directions; gates are mostly between 0 and 1, because states grow without bounds otherwise.
        gates = str(rng.choice(["Sigmoid", "HardSigmoid", "Tanh"]))
        if gates == "Tanh" and "input_forget" in attributes:
            gates = "Sigmoid"  # with f = 1 - tanh(a) up to 2 the cell grows, and rounding errors with it
        others = [str(rng.choice(list(ACTIVATIONS))) for _ in range(PLACES[op] - (op != "RNN"))]
        chosen = ([gates] if op != "RNN" else []) + others
        taken = [ACTIVATIONS[name] for name in chosen]
        attributes["activations"] = chosen * D
        if any(taken):
            attributes["activation_alpha"] = [float(rng.uniform(0.1, 0.5)) for n in taken if n] * D
        if 2 in taken:
            attributes["activation_beta"] = [float(rng.uniform(0.1, 0.5)) for n in taken if n == 2] * D
    return {"op": op, "attributes": attributes, "inputs": inputs, "sizes": (T, B, I, H, D)}


def named(case: Case) -> str:
    shown = {name: value for name, value in case["attributes"].items() if name != "hidden_size"}
    return f"{case['op']}(T B I H D = {case['sizes']}, {sorted(case['inputs'])}, {shown})"


def model_of(case: Case, layout: int = 0, *, cell_state: bool = True) -> Any:
    """A model of one node whose inputs are the model's inputs, as in the standard's own tests."""
    places = ("X", "W", "R", "B", "sequence_lens", "initial_h", *(["initial_c", "P"] if case["op"] == "LSTM" else []))
    inputs = turned(case["inputs"]) if layout else case["inputs"]
    names = [name if name in inputs else "" for name in places]
    outputs = ["Y", "Y_h", "Y_c"][: 2 + (cell_state and case["op"] == "LSTM")]
    attributes = case["attributes"] | ({"layout": 1} if layout else {})
    node = onnx.helper.make_node(case["op"], names, outputs, name="node", **attributes)
    dtype = onnx.helper.np_dtype_to_tensor_dtype
    T, B, _, H, D = case["sizes"]
    shapes = [(B, T, D, H), *[(B, D, H)] * 2] if layout else [(T, D, B, H), *[(D, B, H)] * 2]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "one_node",
        [info(name, dtype(value.dtype), value.shape) for name, value in inputs.items()],
        [info(o, dtype(inputs["X"].dtype), s) for o, s in zip(outputs, shapes, strict=False)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def turned(inputs: Case) -> Case:
    """Inputs of layout 0, converted to layout 1."""
    sequences = ("X", "initial_h", "initial_c")
    return {name: value.transpose(1, 0, 2) if name in sequences else value for name, value in inputs.items()}


def ours(case: Case, layout: int = 0) -> tuple[Any, tuple[Any, ...]]:
    """The node, and its results."""
    inputs = turned(case["inputs"]) if layout else case["inputs"]
    (node,) = interop.from_onnx(model_of(case, layout), inputs).values()
    return node, node(inputs["X"])


GENERATED = [draw(np.random.default_rng([2014, k]), k) for k in range(180)]


@pytest.mark.parametrize("k", range(len(GENERATED)))
def test_generated_attributes_against_onnxruntime(k):
    """With layout=1, which onnxruntime refuses, the same node on transposed arrays gives transposed results."""
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed: pip install '.[conformance]'"
    )
    case = GENERATED[k]
    session = onnxruntime.InferenceSession(
        model_of(case).SerializeToString(), providers=["CPUExecutionProvider"], sess_options=quiet(onnxruntime)
    )
    expected = session.run(None, case["inputs"])
    node, results = ours(case)
    for name, result, theirs in zip(("Y", "Y_h", "Y_c"), results, expected, strict=False):
        check(result, theirs, node, case["sizes"][0], f"{named(case)}: {name}")
    node, (y, *states) = ours(case, layout=1)
    assert node.layer.batch_first
    np.testing.assert_array_equal(y.transpose(1, 2, 0, 3), results[0])
    for part, other in zip(states, results[1:], strict=True):
        np.testing.assert_array_equal(part.transpose(1, 0, 2), other)


def quiet(onnxruntime: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return options


def plain(case: Case, layout: int) -> Case:
    """The cases of ONNX's reference: forward, default activations, no lengths; layout 1: square, from zero states."""
    attributes = {n: v for n, v in case["attributes"].items() if n in ("hidden_size", "linear_before_reset")}
    T, B, I, H, _ = case["sizes"]
    if layout:
        T = B = min(T, B)
    kept = ("W", "R", "B", "P") if layout else ("W", "R", "B", "P", "initial_h", "initial_c")
    inputs = {name: value[:1] for name, value in case["inputs"].items() if name in kept}
    inputs["X"] = case["inputs"]["X"][:T, :B]
    return {"op": case["op"], "attributes": attributes, "inputs": inputs, "sizes": (T, B, I, H, 1)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("k", range(90))
def test_layouts_and_float64_against_the_reference(k, layout, dtype):
    """The reference has no Y_c, and its Y_h with layout=1 is not a state: only Y is compared then."""
    case = plain(GENERATED[k], layout)
    case["inputs"] = {name: value.astype(dtype) for name, value in case["inputs"].items()}
    inputs = turned(case["inputs"]) if layout else case["inputs"]
    model = model_of(case, layout, cell_state=False)
    expected = reference.ReferenceEvaluator(model).run(None, inputs)
    node, results = ours(case, layout)
    for name, result, theirs in zip(("Y", "Y_h")[: 2 - layout], results, expected, strict=False):
        check(result, theirs, node, case["sizes"][0], f"{named(case)}: {name}")


# ---- and back -------------------------------------------------------------------------------------------------------

EXPORTED = {
    "RNN": lambda: fusedrnn.RNN(3, 5, 2, nonlinearity="relu", rng=0),
    "GRU": lambda: fusedrnn.GRU(3, 5, 2, bidirectional=True, rng=0),
    "GRU before, sum": lambda: fusedrnn.GRU(3, 5, bidirectional=True, reset_after=False, merge="sum", rng=0),
    "GRU mean": lambda: fusedrnn.GRU(3, 5, 2, bidirectional=True, merge="mean", batch_first=True, bias=False, rng=0),
    "LSTM mul": lambda: fusedrnn.LSTM(3, 5, bidirectional=True, merge="mul", rng=0),
    "LSTM pair": lambda: fusedrnn.LSTM(3, 5, 2, bidirectional=True, merge=None, batch_first=True, rng=0),
    "LSTM": lambda: fusedrnn.LSTM(3, 5, 3, rng=0),
}


@pytest.mark.parametrize("state", [False, True], ids=["no state", "state"])
@pytest.mark.parametrize("lengths", [False, True], ids=["dense", "lengths"])
@pytest.mark.parametrize("name", EXPORTED)
def test_exported_models_run(name, lengths, state, rng):
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed: pip install '.[conformance]'"
    )
    layer = EXPORTED[name]()
    T, B = 6, 4
    x = rng.standard_normal((B, T, 3) if layer.batch_first else (T, B, 3)).astype(np.float32)
    model = interop.to_onnx(layer, lengths=lengths, state=state)
    feeds = {"x": x}
    options: Case = {}
    if lengths:
        options["lengths"] = feeds["lengths"] = np.array([3, 6, 1, 5], np.int32)
    if state:
        rows = layer.num_layers * (1 + layer.bidirectional)
        parts = [rng.standard_normal((rows, B, 5)).astype(np.float32) for _ in range(1 + (name[0] == "L"))]
        feeds |= dict(zip(("h_0", "c_0"), parts, strict=False))
        options["state"] = tuple(parts) if len(parts) == 2 else parts[0]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, state_n = layer(x, **options)
    expected = [*(y if isinstance(y, tuple) else (y,)), *(state_n if isinstance(state_n, tuple) else (state_n,))]
    for k, (theirs, mine) in enumerate(zip(session.run(None, feeds), expected, strict=True)):
        assert_close(theirs, mine, dtype="float32", K=8, T=T * layer.num_layers, what=f"{layer!r}: output {k}")


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_models_come_back_bit_for_bit(name):
    layer = EXPORTED[name]()
    nodes = list(interop.from_onnx(interop.to_onnx(layer)).values())
    assert len(nodes) == layer.num_layers
    suffixes = ("", "_reverse")[: 1 + layer.bidirectional]
    for k, node in enumerate(nodes):
        for what in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if layer.bias else ("weight_ih", "weight_hh"):
            for suffix in suffixes:
                mine = layer.params[f"{what}_l{k}{suffix}"]
                np.testing.assert_array_equal(node.layer.params[f"{what}_l0{suffix}"], mine)


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_models_that_are_refused(tmp_path):
    case = GENERATED[1]
    model = model_of(case)
    with pytest.raises(ValueError, match=r"GRU node 'node': W \('W'\) is no constant; expected it in tensors="):
        interop.from_onnx(model)
    with pytest.raises(ValueError, match="R has shape"):
        interop.from_onnx(model, case["inputs"] | {"R": case["inputs"]["R"][:, :-1]})
    with pytest.raises(ValueError, match="W has shape"):
        interop.from_onnx(model, case["inputs"] | {"W": case["inputs"]["W"][:, :-1]})
    add = onnx.helper.make_node("Add", ["X", "X"], ["Y"])
    with pytest.raises(ValueError, match="op_type is 'Add'; expected one of 'RNN', 'GRU', 'LSTM'"):
        interop.from_onnx(add)
    with pytest.raises(TypeError, match="got int; expected an onnx"):
        interop.from_onnx(3)
    with pytest.raises(ValueError, match="B has shape"):
        interop.from_onnx(model, case["inputs"] | {"B": np.zeros((1, 3))})
    wrong = onnx.helper.make_node("GRU", ["X", "W", "R"], ["Y"], name="g", activations=["Sigmoid", "Sin"])
    with pytest.raises(ValueError, match="activations is 'Sin'; expected one of"):
        interop.from_onnx(wrong, {"W": np.zeros((1, 6, 1)), "R": np.zeros((1, 6, 2))})
    few = onnx.helper.make_node("GRU", ["X", "W", "R"], ["Y"], name="g", activations=["Sigmoid"])
    with pytest.raises(ValueError, match=r"activations is \['Sigmoid'\]; expected 2 of them"):
        interop.from_onnx(few, {"W": np.zeros((1, 6, 1)), "R": np.zeros((1, 6, 2))})
    with pytest.raises(TypeError, match="got dict; expected RNN, GRU, LSTM, Stack or Bidirectional"):
        interop.to_onnx({})
