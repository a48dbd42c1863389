"""ONNX models that are damaged, or small but would need much work: a ValueError, before any work is done."""

from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import interop
from fusedrnn.interop import onnx_constants

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
reference = pytest.importorskip("onnx.reference")
helper = onnx.helper

#: W and R of an LSTM with I = H = 1.
W = np.ones((1, 4, 1), np.float32)


def node(operator: str, inputs: list[str], output: str = "w", **attributes: Any) -> Any:
    return helper.make_node(operator, inputs, [output], **attributes)


def model(nodes: list[Any], tensors: dict[str, Any], functions: Any = (), opset: int = 17, output: str = "w") -> Any:
    """An LSTM whose W is computed by nodes."""
    lstm = helper.make_node("LSTM", ["X", output, "R"], ["Y"], name="lstm", hidden_size=1)
    made = [onnx.numpy_helper.from_array(np.asarray(t), name) for name, t in ({"W": W, "R": W} | tensors).items()]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "XY")
    graph = helper.make_graph([*nodes, lstm], "graph", [x], [y], made)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ours", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


@pytest.fixture
def never_evaluated(monkeypatch):
    """Models are refused before any node runs."""

    def run(*_: Any) -> Any:
        raise SystemError("evaluated")

    monkeypatch.setattr(reference.ReferenceEvaluator, "run", run)


# ---- large work -----------------------------------------------------------------------------------------------------

LARGE: dict[str, Any] = {
    "Tile": ([node("Tile", ["W", "s"])], {"s": [2**40, 2**40, 1]}),
    "Expand": ([node("Expand", ["W", "s"])], {"s": [2**20, 2**20, 2**20]}),
    "ConstantOfShape": ([node("ConstantOfShape", ["s"])], {"s": [2**40, 4, 1]}),
    "ConstantOfShape, axes": ([node("ConstantOfShape", ["s"])], {"s": [2**62] * 10**5}),
    "Range": ([node("Range", ["a", "b", "c"])], {"a": 0, "b": 2**62, "c": 1}),
    "Range, infinite": ([node("Range", ["a", "b", "c"])], {"a": 0.0, "b": np.inf, "c": 1.0}),
    "Range, standing": ([node("Range", ["a", "b", "c"])], {"a": 0, "b": 1, "c": 0}),
    "Pad": ([node("Pad", ["W", "s"])], {"s": [0, 0, 0, 2**31, 2**31, 2**31]}),
    "Pad of opset 2": ([node("Pad", ["W"], pads=[0, 0, 0, 2**31, 2**31, 2**31])], {}, (), 2),
    "Pad of opset 1": ([node("Pad", ["W"], paddings=[0, 0, 0, 2**31, 2**31, 2**31])], {}, (), 1),
    "Gather": ([node("Gather", ["a", "s"])], {"a": np.ones((2, 10**5)), "s": np.zeros(10**4, np.int64)}),
    "Add": ([node("Add", ["a", "b"])], {"a": np.ones((1, 30000)), "b": np.ones((30000, 1))}),
    "Concat": ([node("Concat", ["a"] * 1000, axis=0)], {"a": np.ones((10**5, 1))}),
    "MatMul": ([node("MatMul", ["a", "b"])], {"a": np.ones((30000, 1)), "b": np.ones((1, 30000))}),
}


@pytest.mark.parametrize("case", LARGE)
def test_results_that_the_model_gives_no_reason_for(case, never_evaluated):
    with pytest.raises(ValueError, match=r"^from_onnx: node 'w' \(\w+\) makes \w+ elements; expected at most \d+ more"):
        interop.from_onnx(model(*LARGE[case]))


@pytest.mark.parametrize("operator", ["Concat", "Add", "MatMul"])
def test_many_results_that_are_large_together(operator, monkeypatch):
    """Each node doubles the output of the one before, or keeps its size."""
    monkeypatch.setattr(onnx_constants, "ELEMENTS", 2**16)
    options = {"axis": 0} if operator == "Concat" else {}
    start = W if operator == "Concat" else np.zeros((16, 16), np.float32)
    nodes = [node(operator, [f"w{k}", f"w{k}"], f"w{k + 1}", **options) for k in range(2000)]
    with pytest.raises(ValueError, match=rf"node 'w\d+' \({operator}\) makes \d+ elements; expected at most \d+ more"):
        interop.from_onnx(model(nodes, {"w0": start}, output="w2000"))


def test_weights_that_many_nodes_share(monkeypatch):
    """Each layer has its own copy."""
    monkeypatch.setattr(onnx_constants, "ELEMENTS", 2**8)
    shared = model([], {"w": W})
    shared.graph.node.extend([shared.graph.node[0]] * 1000)
    with pytest.raises(ValueError, match=r"^from_onnx: reading '\w' makes 4 elements; expected at most \d more"):
        interop.from_onnx(shared)


def spinning(turns: int = 2**62) -> tuple[Any, dict[str, Any]]:
    """A loop that would never end."""
    names = ("turn", "more", "value")
    kinds = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT)
    infos = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(names, kinds, strict=True)]
    outputs = [helper.make_tensor_value_info(f"{i.name}2", i.type.tensor_type.elem_type, None) for i in infos[1:]]
    nodes = [node("Identity", [name], f"{name}2") for name in names[1:]]
    body = helper.make_graph(nodes, "body", infos, outputs)
    return node("Loop", ["n", "c", "W"], body=body), {"n": np.int64(turns), "c": np.bool_(True)}


def test_loops_subgraphs_and_functions_are_never_run(never_evaluated):
    loop, tensors = spinning()
    opsets = [helper.make_opsetid("", 17)]
    spin = helper.make_function("ours", "Spin", ["n", "c", "W"], ["w"], [loop], opsets)
    hidden = helper.make_function("", "Identity", ["n", "c", "W"], ["w"], [loop], opsets)
    models = {
        "loop": model([loop], tensors),
        "function": model([node("Spin", ["n", "c", "W"], domain="ours")], tensors, [spin]),
        "operator of no standard": model([node("Identity", ["W"], domain="ours")], {}),
        "operator that no weights need": model([node("RandomNormal", [], shape=[2**20, 2**20])], {}),
    }
    for made in models.values():
        with pytest.raises(ValueError, match=r"W \('w'\) is no constant"):
            interop.from_onnx(made)
    itself = model([node("Identity", ["n", "c", "W"])], tensors, [hidden])  # the loop's body has an Identity
    with pytest.raises(ValueError, match="function 'Identity' calls itself, or calls are nested; expected at most 64"):
        interop.from_onnx(itself)


def doubling(depth: int) -> list[Any]:
    """Functions each of which calls the one before twice."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    functions = [helper.make_function("ours", "F0", ["a"], ["b"], [node("Identity", ["a"], "b")], opsets)]
    for k in range(1, depth):
        calls = [node(f"F{k - 1}", ["a"], "m", domain="ours"), node(f"F{k - 1}", ["m"], "b", domain="ours")]
        functions.append(helper.make_function("ours", f"F{k}", ["a"], ["b"], calls, opsets))
    return functions


@pytest.mark.parametrize("start", ["W", "X"])
def test_functions_that_stand_for_many_nodes(start, never_evaluated):
    functions = doubling(40)
    with pytest.raises(ValueError, match=r"makes one node more; expected at most 100000 in functions"):
        interop.from_onnx(model([node("F39", [start], domain="ours")], {}, functions))


def test_functions_in_functions():
    functions = doubling(5)
    assert interop.from_onnx(model([node("F4", ["W"], domain="ours")], {}, functions))
    with pytest.raises(ValueError, match=r"function 'F\d+' calls itself, or calls are nested; expected at most 64"):
        interop.from_onnx(model([node("F99", ["W"], domain="ours")], {}, doubling(100)))


def test_constants_of_functions_count_once(monkeypatch):
    """Calls do not make the budget grow."""
    monkeypatch.setattr(onnx_constants, "ELEMENTS", 2**8)
    opsets = [helper.make_opsetid("", 17)]
    inner = [node("Constant", [], "m", value=onnx.numpy_helper.from_array(np.ones(64, np.float32)))]
    inner.append(node("Concat", ["a", *["m"] * 16], "b", axis=0))
    grow = helper.make_function("ours", "Grow", ["a"], ["b"], inner, opsets)
    calls = [node("Grow", [f"w{k}"], f"w{k + 1}", domain="ours") for k in range(100)]
    with pytest.raises(ValueError, match=r"\(Concat\) makes \d+ elements; expected at most \d+ more"):
        interop.from_onnx(model(calls, {"w0": np.ones(4, np.float32)}, [grow], output="w100"))


def sparse_tensor(places: Any, shape: list[int], values: Any = (1.0,)) -> Any:
    places = np.asarray(places, np.int64)
    return helper.make_sparse_tensor(
        helper.make_tensor("w", onnx.TensorProto.FLOAT, [len(values)], values),
        helper.make_tensor("", onnx.TensorProto.INT64, places.shape, places.ravel()),
        shape,
    )


@pytest.mark.parametrize("where", ["constant", "initializer"])
@pytest.mark.parametrize(
    ("sparse", "message"),
    [
        (sparse_tensor([0], [2**40, 4]), "makes 4398046511104 elements; expected at most"),
        (sparse_tensor([2**62], [1, 4, 1]), "indices are not in rising order, or outside of the tensor"),
        (sparse_tensor([-1], [1, 4, 1]), "indices are not in rising order, or outside of the tensor"),
        (sparse_tensor([2, 1], [1, 4, 1], (1.0, 2.0)), "indices are not in rising order, or outside of the tensor"),
        (sparse_tensor([1, 2], [1, 4, 1]), "values and indices have shapes"),
        (sparse_tensor([0], [-1, 4, 1]), "cannot be read"),
        (sparse_tensor([[0, 9, 0]], [1, 4, 1]), "cannot be read"),
    ],
)
def test_sparse_tensors_that_are_damaged_or_large(sparse, message, where, never_evaluated):
    made = model([node("Constant", [], sparse_value=sparse)] if where == "constant" else [], {})
    if where == "initializer":
        made.graph.sparse_initializer.append(sparse)
    with pytest.raises(ValueError, match=rf"^from_onnx: .*{message}"):
        interop.from_onnx(made)


@pytest.mark.parametrize("where", ["constant", "initializer"])
@pytest.mark.parametrize("places", [[1, 3], [[0, 1, 0], [0, 3, 0]]])
def test_sparse_weights(places, where):
    sparse = sparse_tensor(places, [1, 4, 1], (2.0, 3.0))
    made = model([node("Constant", [], sparse_value=sparse)] if where == "constant" else [], {})
    if where == "initializer":
        made.graph.sparse_initializer.append(sparse)
    (read,) = interop.from_onnx(made).values()
    np.testing.assert_array_equal(read.layer.weight_ih_l0[:, 0], [0, 0, 3, 2])  # i o f c -> i f g o


@pytest.mark.parametrize("start", ["W", "X"])
def test_long_chains_of_nodes(start, monkeypatch):
    monkeypatch.setattr(onnx_constants, "NODES", 50)
    nodes = [node("Identity", [f"w{k}" if k else start], f"w{k + 1}") for k in range(20000)]
    message = r"expected at most 50 that are evaluated" if start == "W" else "is no constant"
    with pytest.raises(ValueError, match=message):
        interop.from_onnx(model(nodes, {}, output="w20000"))


def test_a_cycle_is_no_constant():
    with pytest.raises(ValueError, match=r"W \('w'\) is no constant"):
        interop.from_onnx(model([node("Identity", ["v"], "w"), node("Identity", ["w"], "v")], {}))


def test_what_lies_between_nodes_is_bounded_too():
    """With chain=True, nodes that are understood run on random numbers."""
    loop, tensors = spinning()
    loop.input[2] = "Y"
    upper = helper.make_node("LSTM", ["w", "W", "R"], ["Z"], name="upper", hidden_size=1)
    made = model([], tensors, output="W")
    made.graph.node.extend([loop, upper])
    with pytest.raises(ValueError, match="'upper' reads something else than the outputs of 'lstm'"):
        interop.from_onnx(made, chain=True)

    made = model([], {"s": [2**20, 2**20, 1, 1]}, output="W")
    made.graph.node.extend([node("Tile", ["Y", "s"]), upper])
    with pytest.raises(ValueError, match="'upper' reads something else than the outputs of 'lstm': Tile node 'w' may"):
        interop.from_onnx(made, chain=True)

    made = model([], {"s": [1]}, output="W")
    made.graph.node.append(node("Squeeze", ["Y", "s"], "y0"))
    made.graph.node.extend(node("Identity", [f"y{k}"], f"y{k + 1}") for k in range(3000))
    upper.input[0] = "y3000"
    made.graph.node.append(upper)
    with pytest.raises(ValueError, match="output 'Y' of the model follows from Y of 'lstm', upon which other nodes"):
        interop.from_onnx(made, chain=True)
    made.graph.output[0].name = "Z"
    assert repr(interop.from_onnx(made, chain=True)) == "LSTM(1, 1, num_layers=2, bias=False)"


def test_constants_are_still_evaluated(rng):
    """Weights sliced, joined, transposed and scaled; an initial state that is filled."""
    parts = rng.standard_normal((2, 1, 12, 3)).astype(np.float32)
    tensors = {"wide": np.concatenate([W3 := rng.standard_normal((1, 12, 2)).astype(np.float32)] * 2, 1)}
    tensors |= {"0": [0], "12": [12], "1": [1], "r0": parts[0][:, :6], "r1": parts[1][:, 6:], "half": np.float32(0.5)}
    nodes = [
        node("Slice", ["wide", "0", "12", "1"], "w"),
        node("Concat", ["r0", "r1"], "joined", axis=1),
        node("Mul", ["joined", "half"], "scaled"),
        node("Transpose", ["scaled"], "turned", perm=[0, 2, 1]),
        node("Transpose", ["turned"], "r", perm=[0, 2, 1]),
        node("Constant", [], "shape", value_ints=[1, 4, 3]),
        node("ConstantOfShape", ["shape"], "h"),
    ]
    made = model(nodes, tensors)
    made.graph.node[-1].input[2:] = ["r", "", "", "h"]
    made.graph.node[-1].attribute[0].i = 3
    (read,) = interop.from_onnx(made).values()
    recurrent = np.concatenate([parts[0][:, :6], parts[1][:, 6:]], 1) / 2
    order = [*range(3), *range(6, 9), *range(9, 12), *range(3, 6)]  # i f g o from i o f c
    np.testing.assert_array_equal(read.layer.weight_ih_l0, W3[0, order])
    np.testing.assert_array_equal(read.layer.weight_hh_l0, recurrent[0, order])
    assert [part.shape for part in read.state] == [(1, 4, 3)] * 2


# ---- damage ---------------------------------------------------------------------------------------------------------


def lstm_node(**attributes: Any) -> Any:
    return helper.make_node("LSTM", ["X", "W", "R"], ["Y"], name="n", **attributes)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"direction": 3}, "direction is 'INT'; expected one STRING"),
        ({"activations": [1.0]}, "activations is 'FLOATS'; expected one STRINGS"),
        ({"activation_alpha": ["a"]}, "activation_alpha is 'STRINGS'; expected one FLOATS"),
        ({"clip": "x"}, "clip is 'STRING'; expected one FLOAT"),
        ({"clip": float("nan")}, "clip is nan; expected a finite number"),
        ({"hidden_size": 1.5}, "hidden_size is 'FLOAT'; expected one INT"),
        ({"layout": "0"}, "layout is 'STRING'; expected one INT"),
        ({"layout": 2}, "layout is 2; expected 0 or 1"),
        ({"direction": b"\xff"}, "direction is '\ufffd'; expected 'forward'"),
        ({"axis": 1}, "has unknown attributes 'axis'"),
    ],
)
def test_attributes_that_the_standard_has_otherwise(attributes, message):
    with pytest.raises(ValueError, match=f"^from_onnx: LSTM node 'n': .*{message}|{message}"):
        interop.from_onnx(lstm_node(**attributes), {"W": W, "R": W})


def test_tensors_that_are_damaged(tmp_path):
    def damaged(change: Any) -> Any:
        made = model([], {}, output="W")
        change(made.graph.initializer[0])
        return made

    path = tmp_path / "model.onnx"
    for change, message in {
        lambda t: t.dims.__setitem__(0, 2**40): "initializer 'W' cannot be read: ValueError",
        lambda t: setattr(t, "raw_data", t.raw_data[:-1]): "initializer 'W' cannot be read: ValueError",
        lambda t: setattr(t, "data_type", 99): "initializer 'W' cannot be read: KeyError",
        lambda t: t.CopyFrom(onnx.numpy_helper.from_array(np.array(["a"]), "W")): "W has dtype object; expected real",
        lambda t: external(t, "/etc/passwd"): "initializer 'W' cannot be read: ",
        lambda t: external(t, "nothing"): "initializer 'W' cannot be read: ",
    }.items():
        onnx.save(damaged(change), path)
        with pytest.raises(ValueError, match=rf"^from_onnx: .*{message}.*\(file '.*model.onnx'\)$"):
            interop.from_onnx(path)
    made = model([], {"unneeded": W}, output="W")
    made.graph.initializer[-1].data_type = 99
    assert interop.from_onnx(made)


def external(tensor: Any, location: str) -> None:
    """Declare the data to be in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def test_data_beside_the_model(tmp_path):
    saved = fusedrnn.GRU(3, 5, rng=0)
    path = tmp_path / "model.onnx"
    onnx.save(interop.to_onnx(saved), path, save_as_external_data=True, location="data", size_threshold=0)
    assert interop.from_onnx(path, chain=True) == saved


def test_damaged_models(tmp_path, rng):
    content = interop.to_onnx(fusedrnn.GRU(3, 5, 2, bidirectional=True, rng=0)).SerializeToString()
    path = tmp_path / "model.onnx"
    refusals = []
    for k in range(150):
        array = bytearray(content[: rng.integers(len(content)) if k % 5 == 0 else None])
        for _ in range(k % 3):
            array[rng.integers(len(array))] ^= 1 << int(rng.integers(8))
        path.write_bytes(array)
        try:
            interop.from_onnx(path, chain=bool(k % 2))
        except ValueError as error:
            refusals.append(error)
    assert len(refusals) > 20
    assert {type(error) for error in refusals} == {ValueError}
    assert all(str(error).startswith("from_onnx: ") and str(path) in str(error) for error in refusals)
    with pytest.raises(ValueError, match=r"^from_onnx: the model cannot be read: DecodeError"):
        interop.from_onnx(b"\xff" * 50)
    with pytest.raises(FileNotFoundError):
        interop.from_onnx(tmp_path / "nothing.onnx")
