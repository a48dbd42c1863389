"""Plain data shared by arguments, parameters and messages; imports no other file of fusedrnn."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

#: A name, (name, alpha) or (name, alpha, beta).
ActivationLike: TypeAlias = str | tuple[str, float] | tuple[str, float, float]

#: Activation -> default alpha (and beta); None means that they must be given.
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

#: The argument of layers and cells that says whether there are two biases, none, or one.
Bias: TypeAlias = bool | Literal["single"]


class ParameterSpec(NamedTuple):
    """Name and shape of one parameter, and how the shape is derived."""

    name: str
    shape: tuple[int, ...]
    formula: str
    role: str  # the kernels' name of the parameter
    initial: float | None = None  # initial value of all elements; None: drawn


class LoadReport(NamedTuple):
    """The names that ``load_state_dict(d, strict=False)`` did not use, named as in torch."""

    missing_keys: list[str]
    unexpected_keys: list[str]
