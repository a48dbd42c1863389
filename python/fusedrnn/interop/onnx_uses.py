"""One use of an operator, as the rules of `onnx_rules` see it: attributes, and what is known of the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .onnx_constants import Evaluator
from .onnx_values import NUMBERS, Numbers, Size, Tensor, UnclearError, Value, fill


@dataclass
class Use:
    """One node, with what is known of its inputs."""

    node: Any
    attributes: Mapping[str, Any]
    inputs: Sequence[Value | None]  # None is left out
    evaluator: Evaluator

    @property
    def opset(self) -> int:
        return self.evaluator.opset(self.node)

    def given(self, k: int) -> bool:
        return len(self.inputs) > k and self.inputs[k] is not None

    def value(self, k: int) -> Value:
        value = self.inputs[k] if len(self.inputs) > k else None
        if value is None:
            raise UnclearError
        return value

    def tensor(self, k: int) -> Tensor:
        """An input as a tensor: a constant, if it has one value in all places."""
        value = self.value(k)
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Numbers) and value.array.size == 1:
            return fill(value.array.reshape(-1)[0], value.shape, value.dtype)
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "fiu":
            import onnx

            self.evaluator.spend("what lies between nodes", value.size)
            first = value.reshape(-1)[0]
            if np.all(value == first):
                dtype = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
                return fill(float(first), map(Size, value.shape), dtype)
        raise UnclearError

    def numbers(self, k: int) -> Numbers:
        """An input as whole numbers that are known, or follow from sizes."""
        value = self.value(k)
        if isinstance(value, Numbers):
            return value
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" or value.size > NUMBERS:
            raise UnclearError
        array = np.empty(value.shape, object)
        for place, number in np.ndenumerate(value):
            array[place] = Size(int(number))
        return Numbers(array)

    def sizes(self, k: int) -> list[Size]:
        return list(self.numbers(k).array.reshape(-1))

    def integers(self, k: int, attribute: str) -> list[int] | None:
        """Constant whole numbers: an attribute of old versions of an operator, an input of new ones."""
        if attribute in self.attributes:
            value = self.attributes[attribute]
            return [int(n) for n in value] if isinstance(value, (list, tuple)) else [int(value)]
        if not self.given(k):
            return None
        known = [size.known for size in self.sizes(k)]
        if None in known:
            raise UnclearError
        return [n for n in known if n is not None]


Results = Sequence[Value | None]


def place(axis: int, ndim: int) -> int:
    """An axis, counted from the front."""
    if not -ndim <= axis < ndim:
        raise UnclearError
    return axis % ndim


def places(axes: Sequence[int], ndim: int) -> list[int]:
    found = [place(axis, ndim) for axis in axes]
    if len(set(found)) != len(found):
        raise UnclearError
    return found
