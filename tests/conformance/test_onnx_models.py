"""ONNX models of others: torch's two exporters, a model's own functions, quantized nodes; edges of the operators."""

import io
import itertools
import warnings
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import interop
from tolerances import assert_close

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[conformance]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install '.[conformance]'")
helper = onnx.helper

T, B, I, H = 5, 3, 4, 3


def model(nodes: list[Any], tensors: dict[str, Any], functions: Any = (), inputs: Any = None, output: str = "Y") -> Any:
    shapes = {"x": [T, B, I]} | (inputs or {})
    infos = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in shapes.items()]
    made = [onnx.numpy_helper.from_array(np.asarray(t), n) for n, t in tensors.items()]
    y = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", infos, [y], made)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))


def run(made: Any, feeds: dict[str, Any]) -> Any:
    return onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def weights(rng: Any, G: int = 1, inputs: int = I) -> dict[str, Any]:
    return {
        "W": rng.standard_normal((1, G * H, inputs)).astype("f4"),
        "R": rng.standard_normal((1, G * H, H)).astype("f4"),
    }


# ---- torch's exporters ----------------------------------------------------------------------------------------------


def exported(kind: str, layers: int, D: int, batch_first: bool, given: bool, open_sizes: bool, dynamo: bool) -> Any:
    """A torch layer as a model, its arguments, and torch's results."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    if dynamo:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install '.[conformance]'")
    torch.manual_seed(0)
    layer = getattr(torch.nn, kind)(I, H, layers, bidirectional=D == 2, batch_first=batch_first).eval()
    n = 1 + (kind == "LSTM")

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

    class WithoutState(Module):
        def forward(self, x: Any) -> Any:
            return self.layer(x)[0]

    class WithState(Module):
        def forward(self, x: Any, h: Any) -> Any:
            return self.layer(x, h)

    class WithBoth(Module):
        def forward(self, x: Any, h: Any, c: Any) -> Any:
            return self.layer(x, (h, c))

    module = ((WithState, WithBoth)[n - 1] if given else WithoutState)().eval()
    x = torch.randn(*((B, T, I) if batch_first else (T, B, I)))
    arguments = [x, *(torch.randn(layers * D, B, H) for _ in range(n if given else 0))]
    names = ["x", "h", "c"][: len(arguments)]
    options: dict[str, Any] = {"dynamo": dynamo, "input_names": names, "verbose": False}
    batch = 0 if batch_first else 1
    if dynamo and open_sizes:
        dynamic = torch.export.Dim.DYNAMIC
        options["dynamic_shapes"] = tuple([{batch: dynamic}] + [{1: dynamic}] * (len(names) - 1))
    elif open_sizes:
        options["dynamic_axes"] = {"x": {batch: "b", 1 - batch: "t"}} | {name: {1: "b"} for name in names[1:]}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        file = io.BytesIO()
        if dynamo:
            content = torch.onnx.export(module, tuple(arguments), **options).model_proto.SerializeToString()
        else:
            torch.onnx.export(module, tuple(arguments), file, opset_version=17, **options)
            content = file.getvalue()
        results = module(*arguments)
    flat: list[Any] = []
    for result in results if given else (results,):
        flat += list(result) if isinstance(result, tuple) else [result]
    return content, [a.numpy() for a in arguments], [r.numpy() for r in flat]


def check_export(form: tuple[Any, ...]) -> None:
    content, (x, *state), expected = exported(*form)
    layer = interop.from_onnx(content, chain=True)
    assert (type(layer).__name__, layer.num_layers, layer.batch_first) == (form[0], form[1], form[3])
    y, state_n = layer(x, (tuple(state) if len(state) == 2 else state[0]) if state else None)
    results = [y, *(state_n if isinstance(state_n, tuple) else (state_n,))]
    for result, theirs in zip(results, expected, strict=False):
        assert_close(result, theirs, dtype="float32", K=I + H, T=T * form[1], what=str(form))


SCRIPTED = list(itertools.product(("RNN", "GRU", "LSTM"), (1, 2, 3), (1, 2), (False, True), (False, True)))


@pytest.mark.parametrize("form", SCRIPTED, ids=str)
def test_what_torch_exports_without_dynamo(form):
    check_export((*form, sum(form[1:]) % 2 == 0, False))


@pytest.mark.parametrize(
    "form",
    [
        ("GRU", 1, 1, False, False, False),
        ("GRU", 2, 1, False, True, True),
        ("LSTM", 1, 2, True, False, True),
        ("LSTM", 2, 2, True, True, False),
        ("LSTM", 3, 1, False, False, False),
        ("GRU", 3, 2, False, True, False),
    ],
    ids=str,
)
def test_what_torch_exports_with_dynamo(form):
    """Its RNN is exported as single steps of other operators, without a recurrent node."""
    check_export((*form, True))


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("chain", [False, True])
def test_states_of_a_wrong_width(computed, chain, rng):
    """As torch exports an LSTM with proj_size: onnxruntime does not run it."""
    node = helper.make_node("LSTM", ["x", "W", "R", "", "", "h", "c"], ["Y"], hidden_size=H)
    tensors = weights(rng, 4) | {"h": np.zeros((1, B, H), "f4"), "c": np.zeros((1, B, H + 2), "f4")}
    before = []
    if computed:
        del tensors["c"]
        tensors |= {"one": np.array([1]), "width": np.array([H + 2])}
        before = [
            helper.make_node("Shape", ["x"], ["rows"], start=1, end=2),
            helper.make_node("Concat", ["one", "rows", "width"], ["shape"], axis=0),
            helper.make_node("ConstantOfShape", ["shape"], ["c"]),
        ]
    made = model([*before, node], tensors)
    with pytest.raises(Exception, match="initial_c"):
        run(made, {"x": np.zeros((T, B, I), "f4")})
    with pytest.raises(ValueError, match=r"initial_c has shape \(1, 3, 5\); expected \(1, 3, 3\)"):
        interop.from_onnx(made, chain=chain)


@pytest.mark.parametrize("what", ["initial_h", "sequence_lens"])
def test_constants_for_another_number_of_rows(what, rng):
    places = ["x", "W", "R", "", *(["L"] if what == "sequence_lens" else ["", "h"])]
    node = helper.make_node("RNN", places, ["Y"], hidden_size=H)
    tensors = weights(rng) | {"h": np.ones((1, B + 1, H), "f4"), "L": np.full(B + 1, T, np.int32)}
    with pytest.raises(ValueError, match=rf"{what} has shape \(.*4.*\); expected \(.*3.*\)"):
        interop.from_onnx(model([node], tensors))


def test_a_state_input_of_another_width(rng):
    node = helper.make_node("LSTM", ["x", "W", "R", "", "", "h", "c"], ["Y"], hidden_size=H)
    made = model([node], weights(rng, 4), inputs={"h": [1, B, H], "c": [1, B, H + 2]})
    with pytest.raises(ValueError, match=r"initial_c has shape \(1, 3, 5\); expected \(1, 3, 3\), as onnxruntime runs"):
        interop.from_onnx(made)


# ---- where nodes and weights are ------------------------------------------------------------------------------------


def test_nodes_in_functions(rng):
    """In a function that another calls, with attributes that the call gives, and defaults."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    node = helper.make_node("GRU", ["a", "b", "c"], ["d"], hidden_size=H)
    for name, kind in (("linear_before_reset", "INT"), ("direction", "STRING"), ("clip", "FLOAT")):
        attribute = node.attribute.add(name=name, ref_attr_name=name)
        attribute.type = getattr(onnx.AttributeProto, kind)
    inner = helper.make_function(
        "ours", "Inner", ["a", "b", "c"], ["d"], [node], opsets, ["linear_before_reset", "clip"],
        [helper.make_attribute("direction", "reverse")],
    )  # fmt: skip
    squeeze = [
        helper.make_node("Constant", [], ["m"], value_ints=[1]),
        helper.make_node("Inner", ["a", "b", "c"], ["Y"], domain="ours", linear_before_reset=1),
        helper.make_node("Squeeze", ["Y", "m"], ["d"]),
    ]
    outer = helper.make_function("ours", "Outer", ["a", "b", "c"], ["d"], squeeze, opsets)
    second = weights(rng, 3, H)
    nodes = [
        helper.make_node("Outer", ["x", "W", "R"], ["m"], domain="ours"),
        helper.make_node("Outer", ["m", "V", "S"], ["Y"], domain="ours"),
    ]
    made = model(nodes, weights(rng, 3) | {"V": second["W"], "S": second["R"]}, [inner, outer])
    x = rng.standard_normal((T, B, I)).astype("f4")
    layer = interop.from_onnx(made, chain=True)
    assert repr(layer) == "GRU(4, 3, num_layers=2, bias=False, backwards=True)"
    assert len(interop.from_onnx(made)) == 2
    assert_close(layer(x)[0], run(made, {"x": x})[0], dtype="float32", K=I + H, T=2 * T, what="y")


def test_nodes_in_branches_are_no_chain(rng):
    graphs = []
    for name in ("then", "else"):
        node = helper.make_node("RNN", ["x", "W", "R"], [name], hidden_size=H)
        graphs.append(helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, 1, None)]))
    branch = helper.make_node("If", ["c"], ["Y"], then_branch=graphs[0], else_branch=graphs[1])
    made = model([branch], weights(rng) | {"c": np.bool_(True)})
    assert sorted(interop.from_onnx(made)) == ["else", "then"]
    with pytest.raises(ValueError, match=r"node '(then|else)' is in a branch of If or a body of Loop or Scan"):
        interop.from_onnx(made, chain=True)


@pytest.mark.parametrize("beside", [False, True])
def test_quantized_nodes_are_named(beside, rng):
    node = helper.make_node("DynamicQuantizeLSTM", ["x", "V", "S"], ["Z"], domain="com.microsoft", hidden_size=H)
    float_node = helper.make_node("RNN", ["x", "W", "R"], ["Y"], hidden_size=H)
    made = model([*([float_node] if beside else []), node], weights(rng), output="Z")
    message = (
        "found DynamicQuantizeLSTM node 'Z' of domain 'com.microsoft'; expected .*: convert the model from before it"
    )
    with pytest.raises(ValueError, match=message):
        interop.from_onnx(made)


def test_lengths_that_are_all_steps(rng):
    """An exporter may write the number of steps for each row."""
    nodes = [
        helper.make_node("Shape", ["x"], ["steps"], start=0, end=1),
        helper.make_node("Shape", ["x"], ["rows"], start=1, end=2),
        helper.make_node("Expand", ["steps", "rows"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["L"], to=onnx.TensorProto.INT32),
        helper.make_node("RNN", ["x", "W", "R", "", "L"], ["Y"], hidden_size=H),
    ]
    x = rng.standard_normal((T, B, I)).astype("f4")
    for sizes in ([T, B, I], ["t", "b", I]):
        made = model(nodes, weights(rng), inputs={"x": sizes})
        assert_close(
            interop.from_onnx(made, chain=True)(x)[0],
            run(made, {"x": x})[0][:, 0],
            dtype="float32",
            K=I + H,
            T=T,
            what="y",
        )


def test_axes_that_are_swapped_on_one_side_only(rng):
    squeezed = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0, 2]),
        helper.make_node("RNN", ["turned", "W", "R"], ["Y"], hidden_size=H),
        helper.make_node("Squeeze", ["Y", "one"], ["y"]),
    ]
    made = model(squeezed, weights(rng) | {"one": np.array([1])}, output="y")
    with pytest.raises(ValueError, match=r"input has axes \(batch, time\), but its output 'y' has \(time, batch\)"):
        interop.from_onnx(made, chain=True)
    made.graph.node.append(helper.make_node("Transpose", ["y"], ["z"], perm=[1, 0, 2]))
    made.graph.output[0].name = "z"
    assert interop.from_onnx(made, chain=True).batch_first


def test_torch_without_recurrent_nodes(rng):
    """As torch exports its RNN with dynamo=True."""
    made = model([helper.make_node("Tanh", ["x"], ["Y"])], {})
    with pytest.raises(ValueError, match=r"found no RNN, GRU or LSTM node in graph 'graph'$"):
        interop.from_onnx(made)
    made.producer_name = "pytorch"
    with pytest.raises(ValueError, match=r"torch exports an RNN with dynamo=True as single steps; .* dynamo=False"):
        interop.from_onnx(made)


# ---- the operators --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps_and_rows", [(0, 3), (4, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"backwards": True}], ids=str)
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_no_steps_and_no_rows(kind, layout, options, steps_and_rows):
    made = interop.to_onnx(getattr(fusedrnn, kind)(I, H, rng=0, **options))
    if layout:
        (node,) = (n for n in made.graph.node if n.op_type == kind)
        node.attribute.append(helper.make_attribute("layout", 1))
    (node,) = interop.from_onnx(made).values()
    D = 1 + bool(options.get("bidirectional"))
    t, b = steps_and_rows
    one = np.ones((b, D, H) if layout else (D, b, H), np.float32)
    x = np.zeros((b, t, I) if layout else (t, b, I), np.float32)
    for given in ({}, {"initial_h": one}):
        Y, *states = node(x, **given)
        assert Y.shape == ((b, t, D, H) if layout else (t, D, b, H))
        assert len(states) == 1 + (kind == "LSTM")
        assert all(state.shape == one.shape for state in states)
        if not t:
            assert np.all(states[0] == (1 if given else 0))


def test_clip_of_an_lstm_is_that_of_onnxruntime(rng):
    """The standard's text could be read otherwise: onnxruntime does not clip c on its way to h; docs/conventions.md."""
    clip = 0.7
    tensors = weights(rng, 4) | {"h": np.zeros((1, B, H), "f4"), "c": np.full((1, B, H), 3.0, "f4")}
    node = helper.make_node("LSTM", ["x", "W", "R", "", "", "h", "c"], ["Y"], hidden_size=H, clip=clip)
    made = model([node], tensors)
    x = rng.standard_normal((T, B, I)).astype("f4")
    y = next(iter(interop.from_onnx(made).values()))(x)[0]
    assert_close(y, run(made, {"x": x})[0], dtype="float32", K=I + H, T=T, what="Y")

    def sigmoid(a: Any) -> Any:
        return 1 / (1 + np.exp(-a))

    def cut(a: Any) -> Any:
        return np.clip(a, -clip, clip)

    for clips_c in (False, True):
        h, c, outputs = tensors["h"][0], tensors["c"][0], []
        for x_t in x:
            i, o, f, g = (cut(a) for a in np.split(x_t @ tensors["W"][0].T + h @ tensors["R"][0].T, 4, 1))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(cut(c) if clips_c else c)
            outputs.append(h)
        assert np.allclose(y[:, 0], outputs, atol=1e-5) != clips_c
