"""ONNX's operators on plain arrays: LinearAttention and CausalConvWithState, of opset 27 and of com.microsoft.

===================  ==========================================================================================
ONNX                 fusedrnn
===================  ==========================================================================================
LinearAttention      `linear_attention_forward`; q, k, v, decay, beta and output with the batch first
``past_state``       S_0, (B, kv_num_heads, d_k, d_v), the same; ``present_state`` is S_n
``decay``            the same: a logarithm, for each head or each key
``update_rule``      ``rule``; "gated_delta" is the default
``scale``            the same; 0, the default, is None: 1/sqrt(d_k)
``chunk_size``       a hint, which says nothing about results
CausalConvWithState  `causal_conv_forward`; input and output (B, D, T), weight (D, 1, k)
``past_state``       state, (B, D, k-1); ``present_state`` is state_n
``activation``       "silu" and "swish" are both "silu"
===================  ==========================================================================================

Sources: the operators' pages of the ONNX standard, https://onnx.ai/onnx/operators/, and onnxruntime's list of contrib
operators, which have the same inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import functional
from .._validate import as_array
from . import _messages
from .conventions import Array

if TYPE_CHECKING:
    import onnx

#: Inputs and outputs by place, and attributes with their types and defaults (None: must be given).
OPERATORS: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, Any]]]] = {
    "LinearAttention": (
        ("query", "key", "value", "past_state", "decay", "beta"),
        {
            "chunk_size": ("INT", 64),
            "kv_num_heads": ("INT", None),
            "q_num_heads": ("INT", None),
            "scale": ("FLOAT", 0.0),
            "update_rule": ("STRING", "gated_delta"),
        },
    ),
    "CausalConvWithState": (
        ("input", "weight", "bias", "past_state"),
        {"activation": ("STRING", "none"), "ndim": ("INT", 1)},
    ),
}
OUTPUTS = ("output", "present_state")
CHOICES = {
    "update_rule": ("linear", "gated", "delta", "gated_delta"),
    "activation": ("none", "silu", "swish"),
    "ndim": (1,),
}
DOMAINS = ("", "ai.onnx", "com.microsoft")
#: Inputs that a model computes; others may be constants.
COMPUTED = ("query", "key", "value", "input")
REQUIRED = {"LinearAttention": 3, "CausalConvWithState": 2}


class OnnxOperator:
    """A LinearAttention or CausalConvWithState node of an ONNX model: calling it is running the operator.

    `fusedrnn.interop.from_onnx` makes these of a model's nodes. One made by hand can be written as a node.

    Parameters
    ----------
    op_type : "LinearAttention" or "CausalConvWithState"
    name : str
    constants : dict of str to ndarray, or None
        Inputs that the model has as constants, by the operator's names.
    inputs : dict of str to str, or None
        Which of the model's tensors feed the other inputs; without it, a node that is written has the operator's names.
    outputs : tuple of str
        The model's names of output and present_state.
    **attributes
        Of the operator, as integers, floats and strings.

    Raises
    ------
    ValueError
        An attribute is missing, or is not the operator's, or has a wrong value.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.interop import OnnxOperator
    >>> attend = OnnxOperator("LinearAttention", q_num_heads=1, kv_num_heads=1, update_rule="linear")
    >>> q = k = v = np.ones((1, 3, 1), np.float32)
    >>> output, present_state = attend(q, k, v)
    >>> output.ravel(), present_state.shape
    (array([1., 2., 3.], dtype=float32), (1, 1, 1, 1))
    """

    def __init__(
        self,
        op_type: str,
        name: str = "",
        constants: dict[str, Array] | None = None,
        inputs: dict[str, str] | None = None,
        outputs: tuple[str, ...] = OUTPUTS,
        **attributes: Any,
    ) -> None:
        if op_type not in OPERATORS:
            expected = f"one of {_messages.listed(OPERATORS)}"
            raise ValueError(_messages.attribute("OnnxOperator", "op_type", op_type, expected))
        self.op_type = op_type
        self.name = name
        self.constants = dict(constants or {})
        self.arguments = OPERATORS[op_type][0]
        self.inputs = dict(inputs if inputs is not None else {n: n for n in self.arguments if n not in self.constants})
        self.outputs = outputs
        self.attributes = checked_attributes(f"{op_type} {name!r}" if name else op_type, op_type, attributes)

    def __repr__(self) -> str:
        return f"OnnxOperator({self.op_type!r}, {self.name!r}, {self.attributes})"

    def __call__(self, *arrays: Any, **named: Any) -> tuple[Array, Array]:
        """Run the operator.

        Parameters
        ----------
        *arrays : array-like or None
            The operator's inputs in its order; None is the model's constant, or no array.
        **named : array-like or None
            Inputs by the operator's names.

        Returns
        -------
        output, present_state : ndarray
            Of the dtype of the first input; float16 and bfloat16 are computed in single precision.

        Raises
        ------
        TypeError
            There are too many inputs, or one twice.
        ValueError
            An input is missing, or a shape is wrong.
        """
        owner = self.op_type
        if len(arrays) > len(self.arguments) or set(named) - set(self.arguments[len(arrays) :]):
            raise TypeError(_messages.operator_inputs(owner, self.arguments, len(arrays), list(named)))
        given = dict(zip(self.arguments, arrays, strict=False)) | named
        values: dict[str, Array] = {}
        for argument in self.arguments:
            value = given.get(argument)
            value = self.constants.get(argument) if value is None else value
            if value is not None:
                values[argument] = as_array(owner, argument, value)
        for argument in self.arguments[: REQUIRED[owner]]:
            if argument not in values:
                raise ValueError(_messages.no_input(owner, argument))
        results = (linear_attention if owner == "LinearAttention" else causal_conv)(owner, self.attributes, values)
        dtype = values[self.arguments[0]].dtype
        output, state = (np.asarray(x, dtype, order="C") for x in results)
        return output, state

    def to_node(self, domain: str = "") -> onnx.NodeProto:
        """The operator as a node of a model; needs the package onnx.

        Parameters
        ----------
        domain : "" or "com.microsoft"
            The standard's, of opset 27, or that of onnxruntime's contrib operators.

        Returns
        -------
        onnx.NodeProto
            Inputs and outputs have the names of `inputs`, `outputs` and, of constants, of the operator's inputs, which
            are tensors for the model to have.

        Raises
        ------
        ValueError
            There is no such domain.
        """
        import onnx

        if domain not in DOMAINS:
            raise ValueError(_messages.attribute("to_node", "domain", domain, f"one of {_messages.listed(DOMAINS)}"))
        names = [self.inputs.get(n, n if n in self.constants else "") for n in self.arguments]
        while not names[-1]:
            names.pop()
        attributes = dict(self.attributes)
        if self.op_type == "CausalConvWithState" and domain != "com.microsoft":
            del attributes["ndim"]
        node: onnx.NodeProto = onnx.helper.make_node(
            self.op_type, names, list(self.outputs), name=self.name, domain=domain, **attributes
        )
        return node


def is_operator(node: Any) -> bool:
    """Whether a node is one of these."""
    return node.op_type in OPERATORS and node.domain in DOMAINS


def read_operator(owner: str, node: Any, constants: Any) -> OnnxOperator:
    """One node; `constants` gives the value of a constant tensor by its name, or None."""
    import onnx

    name = node.name or next(filter(None, node.output), node.op_type)
    owner = f"{owner}: {node.op_type} node {name!r}"
    arguments, known = OPERATORS[node.op_type]
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
        if attribute.name not in known:
            raise ValueError(_messages.unknown_attributes(owner, [attribute.name]))
        expected = known[attribute.name][0]
        if kind != expected or attribute.name in attributes or attribute.ref_attr_name:
            raise ValueError(_messages.attribute(owner, attribute.name, kind, f"one {expected}"))
        value = onnx.helper.get_attribute_value(attribute)
        attributes[attribute.name] = value.decode(errors="replace") if kind == "STRING" else value
    attributes = checked_attributes(owner, node.op_type, attributes)
    if len(node.input) > len(arguments):
        raise ValueError(_messages.operator_inputs(owner, arguments, len(node.input), []))
    found: dict[str, Array] = {}
    inputs: dict[str, str] = {}
    for argument, tensor in zip(arguments, node.input, strict=False):
        value = constants(tensor) if tensor and argument not in COMPUTED else None
        if value is not None:
            found[argument] = value
        elif tensor:
            inputs[argument] = tensor
    for argument in arguments[: REQUIRED[node.op_type]]:
        if argument not in found and argument not in inputs:
            raise ValueError(_messages.no_input(owner, argument))
    return OnnxOperator(node.op_type, name, found, inputs, tuple(node.output), **attributes)


def checked_attributes(owner: str, op_type: str, given: dict[str, Any]) -> dict[str, Any]:
    """All attributes of an operator, each of its type."""
    known = OPERATORS[op_type][1]
    if set(given) - set(known):
        raise ValueError(_messages.unknown_attributes(owner, sorted(set(given) - set(known))))
    found: dict[str, Any] = {}
    for name, (kind, default) in known.items():
        value = given.get(name, default)
        if value is None:
            raise ValueError(_messages.no_input(owner, name))
        types = {"INT": (int, np.integer), "FLOAT": (int, float, np.integer, np.floating), "STRING": (str,)}[kind]
        if isinstance(value, bool) or not isinstance(value, types):
            raise ValueError(_messages.attribute(owner, name, value, f"one {kind}"))
        if name in CHOICES and value not in CHOICES[name]:
            raise ValueError(_messages.attribute(owner, name, value, f"one of {_messages.listed(CHOICES[name])}"))
        found[name] = {"INT": int, "FLOAT": float, "STRING": str}[kind](value)
    if op_type == "LinearAttention":
        heads, kv_heads = found["q_num_heads"], found["kv_num_heads"]
        if kv_heads < 1 or heads < 1 or heads % kv_heads:
            expected = f"a positive multiple of kv_num_heads = {kv_heads}"
            raise ValueError(_messages.attribute(owner, "q_num_heads", heads, expected))
    return found


def single(array: Array) -> Array:
    """Half precision as float32; others as they are."""
    narrow = array.dtype.itemsize < 4 and array.dtype.kind not in "iub"
    return array.astype(np.float32) if narrow else array


def linear_attention(owner: str, attributes: dict[str, Any], values: dict[str, Array]) -> tuple[Array, Array]:
    """LinearAttention on arrays (B, T, numbers of all heads)."""
    over_time: list[Any] = []
    for name in ("query", "key", "value", "decay", "beta"):
        value = values.get(name)
        if value is not None and value.ndim != 3:
            raise ValueError(_messages.shape(owner, name, value.shape, "(batch, steps, numbers of all heads)"))
        over_time.append(None if value is None else single(value).swapaxes(0, 1))
    past = values.get("past_state")
    o, S_n, _ = functional.linear_attention_forward(
        over_time[0],
        over_time[1],
        over_time[2],
        over_time[3],
        over_time[4],
        None if past is None else single(past),
        num_heads=attributes["q_num_heads"],
        num_kv_heads=attributes["kv_num_heads"],
        rule=attributes["update_rule"],
        scale=attributes["scale"] or None,
    )
    return o.swapaxes(0, 1), S_n


def causal_conv(owner: str, attributes: dict[str, Any], values: dict[str, Array]) -> tuple[Array, Array]:
    """CausalConvWithState on arrays (B, D, T)."""
    for name, expected in (
        ("input", "(batch, channels, steps)"),
        ("weight", "(channels, 1, k)"),
        ("past_state", "(batch, channels, k-1)"),
    ):
        if name in values and (values[name].ndim != 3 or (name == "weight" and values[name].shape[1] != 1)):
            raise ValueError(_messages.shape(owner, name, values[name].shape, expected))
    bias, past = values.get("bias"), values.get("past_state")
    y, state_n, _ = functional.causal_conv_forward(
        single(values["input"]).transpose(2, 0, 1),
        single(values["weight"])[:, 0],
        None if bias is None else single(bias),
        None if past is None else single(past).swapaxes(1, 2),
        activation=None if attributes["activation"] == "none" else "silu",
    )
    return y.transpose(1, 2, 0), state_n.swapaxes(1, 2)
