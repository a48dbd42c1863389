"""LinearAttention and CausalConvWithState against the standard's reference evaluator and onnxruntime's operators."""

import itertools

import numpy as np
import pytest

from fusedrnn import interop
from tolerances import assert_close

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[conformance]'")
evaluator = pytest.importorskip("onnx.reference")

RULES = ("linear", "gated", "delta", "gated_delta")
FLOAT = onnx.TensorProto.FLOAT

if onnx.defs.onnx_opset_version() < 27:
    pytest.skip("this onnx has no opset 27", allow_module_level=True)


def model_of(operator, domain, feeds, constants=()):
    """A model of one node; all inputs but `constants` are inputs of the model."""
    node = operator.to_node(domain)
    infos = [onnx.helper.make_tensor_value_info(n, FLOAT, x.shape) for n, x in feeds.items() if n not in constants]
    ranks = (3, 4 if operator.op_type == "LinearAttention" else 3)
    shapes = [[None] * rank for rank in ranks]
    outputs = [onnx.helper.make_tensor_value_info(*x) for x in zip(operator.outputs, [FLOAT] * 2, shapes, strict=True)]
    tensors = [onnx.numpy_helper.from_array(feeds[n], n) for n in constants]
    opsets = [onnx.helper.make_opsetid("", 21 if domain else 27)]
    opsets += [onnx.helper.make_opsetid(domain, 1)] if domain else []
    graph = onnx.helper.make_graph([node], "graph", infos, outputs, tensors)
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def session_of(model):
    """onnxruntime's session, or None where it does not have the operator."""
    runtime = pytest.importorskip("onnxruntime")
    try:
        return runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        if "is not a registered function/op" in str(error) or "NOT_IMPLEMENTED" in str(error):
            return None
        raise


def draw(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def attention(rng, rule, heads, per_key, one_beta, past):
    B, T, dk, dv, H, kv = 2, 17, 8, 5, *heads
    key = draw(rng, B, T, kv, dk)
    key /= np.linalg.norm(key, axis=-1, keepdims=True)
    feeds = {"query": draw(rng, B, T, H * dk), "key": key.reshape(B, T, kv * dk), "value": draw(rng, B, T, kv * dv)}
    if past:
        feeds["past_state"] = draw(rng, B, kv, dk, dv)
    if "gated" in rule:
        feeds["decay"] = -rng.random((B, T, kv * (dk if per_key else 1)), dtype=np.float32)
    if "delta" in rule:
        feeds["beta"] = rng.random((B, T, 1 if one_beta else kv), dtype=np.float32)
    return feeds


def operator_of(op_type, feeds, **attributes):
    return interop.OnnxOperator(op_type, "node", inputs={name: name for name in feeds}, **attributes)


def compare(ours, theirs, T, what):
    for name, x, y in zip(("output", "present_state"), ours, theirs, strict=True):
        assert_close(x, y, dtype=np.float32, K=64, T=T, what=f"{what} {name}")


CASES = list(itertools.product(RULES, [(4, 4), (4, 2), (3, 1)], [False, True], [False, True], [0.0, 0.3]))


@pytest.mark.parametrize(("rule", "heads", "per_key", "past", "scale"), CASES)
def test_linear_attention_equals_the_evaluator(rng, rule, heads, per_key, past, scale):
    feeds = attention(rng, rule, heads, per_key, scale > 0, past)
    operator = operator_of(
        "LinearAttention", feeds, q_num_heads=heads[0], kv_num_heads=heads[1], update_rule=rule, scale=scale
    )
    model = model_of(operator, "", feeds)
    onnx.checker.check_model(model)
    expected = evaluator.ReferenceEvaluator(model).run(None, feeds)
    (read,) = interop.from_onnx(model).values()
    for node in (operator, read, interop.from_onnx(model.graph.node[0])):
        compare(node(**feeds), expected, 17, rule)
    assert read.attributes == operator.attributes
    assert read.to_node() == model.graph.node[0]


@pytest.mark.parametrize(("rule", "heads", "per_key", "past", "scale"), CASES)
def test_linear_attention_equals_onnxruntime(rng, rule, heads, per_key, past, scale):
    feeds = attention(rng, rule, heads, per_key, False, past)
    operator = operator_of(
        "LinearAttention", feeds, q_num_heads=heads[0], kv_num_heads=heads[1], update_rule=rule, scale=scale
    )
    model = model_of(operator, "com.microsoft", feeds)
    session = session_of(model)
    if session is None:
        pytest.skip("this onnxruntime has no LinearAttention on the CPU")
    (read,) = interop.from_onnx(model).values()
    compare(read(**feeds), session.run(None, feeds), 17, rule)


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
@pytest.mark.parametrize(("k", "activation"), list(itertools.product((2, 4), ("none", "silu", "swish"))))
@pytest.mark.parametrize(("bias", "past"), list(itertools.product((0, 1), (0, 1))))
def test_convolutions_equal_both(rng, domain, k, activation, bias, past):
    feeds = {"input": draw(rng, 2, 6, 9), "weight": draw(rng, 6, 1, k)}
    if bias:
        feeds["bias"] = draw(rng, 6)
    if past:
        feeds["past_state"] = draw(rng, 2, 6, k - 1)
    operator = operator_of("CausalConvWithState", feeds, activation=activation)
    model = model_of(operator, domain, feeds, [name for name in ("weight", "bias") if name in feeds])
    own = {name: feeds[name] for name in ("input", "past_state") if name in feeds}
    if domain:
        session = session_of(model)
        if session is None:
            pytest.skip("this onnxruntime has no CausalConvWithState on the CPU")
        expected = session.run(None, own)
    else:
        onnx.checker.check_model(model)
        expected = evaluator.ReferenceEvaluator(model).run(None, own)
    (read,) = interop.from_onnx(model).values()
    assert set(read.constants) == set(feeds) - set(own)
    compare(read(**own), expected, k, domain)
    compare(operator(*(feeds.get(name) for name in ("input", "weight", "bias", "past_state"))), expected, k, domain)


def test_half_precision_is_computed_in_single(rng):
    feeds = attention(rng, "gated_delta", (4, 2), False, False, True)
    operator = interop.OnnxOperator("LinearAttention", q_num_heads=4, kv_num_heads=2)
    half = {name: x.astype(np.float16) for name, x in feeds.items()}
    output, state = operator(**half)
    exact, _ = operator(**{name: x.astype(np.float32) for name, x in half.items()})
    assert output.dtype == state.dtype == np.float16
    assert (output == exact.astype(np.float16)).all()


WRONG = {
    "operator": (lambda: interop.OnnxOperator("Attention"), ValueError, "op_type is 'Attention'"),
    "no heads": (lambda: interop.OnnxOperator("LinearAttention", q_num_heads=1), ValueError, "kv_num_heads is missing"),
    "heads": (
        lambda: interop.OnnxOperator("LinearAttention", q_num_heads=3, kv_num_heads=2), ValueError, "q_num_heads is 3"
    ),
    "attribute": (lambda: interop.OnnxOperator("CausalConvWithState", k=3), ValueError, "unknown attributes 'k'"),
    "activation": (
        lambda: interop.OnnxOperator("CausalConvWithState", activation="relu"), ValueError, "activation is 'relu'"
    ),
    "no weight": (lambda: interop.OnnxOperator("CausalConvWithState")(np.ones((1, 1, 1))), ValueError, "weight is"),
    "axes": (
        lambda: interop.OnnxOperator("CausalConvWithState")(np.ones((1, 1)), np.ones((1, 1, 1))),
        ValueError, r"input has shape \(1, 1\)",
    ),
    "inputs": (lambda: interop.OnnxOperator("CausalConvWithState")(*[None] * 5), TypeError, "got 5 inputs"),
    "domain": (lambda: interop.OnnxOperator("CausalConvWithState").to_node("mine"), ValueError, "domain is 'mine'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_operators_are_refused(case):
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call()
