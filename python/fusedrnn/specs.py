"""Plain data that arguments, parameters and messages share; imports nothing of ours."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

#: A name, (name, alpha) or (name, alpha, beta).
ActivationLike: TypeAlias = str | tuple[str, float] | tuple[str, float, float]

#: Activation -> alpha (and beta) where they are not given; None: they must be given.
ACTIVATIONS: dict[str, tuple[float | None, ...]] = {
    "tanh": (),
    "sigmoid": (),
    "relu": (),
    "hard_sigmoid": (1 / 6, 0.5),
    "hard_tanh": (),
    "softsign": (),
    "softplus": (),
    "leaky_relu": (0.01,),
    "elu": (1.0,),
    "affine": (None, None),
    "scaled_tanh": (None, None),
    "thresholded_relu": (1.0,),
    "linear": (),
}

#: Whether there are two biases, none, or one, as an argument of layers and cells.
Bias: TypeAlias = bool | Literal["single"]


class ParameterSpec(NamedTuple):
    """What one parameter is called, its shape, and how the shape is derived."""

    name: str
    shape: tuple[int, ...]
    formula: str
    role: str  # in its cell: the name that the kernels know it by
    initial: float | None = None  # of all its elements; None: drawn


class LoadReport(NamedTuple):
    """What ``load_state_dict(d, strict=False)`` left alone, as torch names it."""

    missing_keys: list[str]
    unexpected_keys: list[str]
