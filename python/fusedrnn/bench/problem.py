"""Weights, inputs and output gradients of a case: the same arrays for every peer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cases import Case

Array = NDArray[Any]

# A stream is checked over this many steps from its initial state; it is timed on the first of these inputs.
STREAM_STEPS = 8


@dataclass(frozen=True)
class Problem:
    """Arrays of one case, with torch's names and shapes.

    Attributes
    ----------
    case : Case
    params : dict
        `weight_ih_l0` (G*H, I), `weight_hh_l0` (G*H, H), `bias_ih_l0`, `bias_hh_l0` (G*H,), ..., `..._reverse`.
    x : ndarray, shape (T, B, I)
        T is `STREAM_STEPS` for a stream. Zeros past a row's end.
    state : tuple of ndarray
        (h_0,) or (h_0, c_0), each (layers*directions, B, H).
    dy : ndarray, shape (T, B, directions*H)
        Gradient of the outputs, for mode "train". Zeros past a row's end.
    lengths : ndarray of int64, shape (B,), or None
    """

    case: Case
    params: dict[str, Array]
    x: Array
    state: tuple[Array, ...]
    dy: Array
    lengths: NDArray[np.int64] | None

    @property
    def rows(self) -> int:
        """Sum of the lengths of one call."""
        return self.case.T * self.case.B if self.lengths is None else int(self.lengths.sum())

    @property
    def flops(self) -> float:
        """Useful operations of one call; see `Case.flops`."""
        return self.case.flops(self.rows)


def suffixes(case: Case) -> list[tuple[int, str]]:
    """(layer, suffix of its parameters' names) for every layer and direction, in the order of the state's rows."""
    return [
        (layer, f"_l{layer}" + ("_reverse" if direction else ""))
        for layer in range(case.layers)
        for direction in range(case.directions)
    ]


def make_problem(case: Case, seed: int = 0) -> Problem:
    """Draw the arrays of a case.

    Weights are U(-1/sqrt(H), 1/sqrt(H)), torch's initialisation; all else is standard normal.
    """
    rng = np.random.default_rng(seed)
    dtype = np.dtype(case.dtype)
    bound = case.H**-0.5

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    def weight(*shape: int) -> Array:
        return rng.uniform(-bound, bound, shape).astype(dtype)

    rows = case.gates * case.H
    params: dict[str, Array] = {}
    for layer, suffix in suffixes(case):
        params[f"weight_ih{suffix}"] = weight(rows, case.layer_input_size(layer))
        params[f"weight_hh{suffix}"] = weight(rows, case.H)
        params[f"bias_ih{suffix}"] = weight(rows)
        params[f"bias_hh{suffix}"] = weight(rows)
    T = STREAM_STEPS if case.mode == "stream" else case.T
    x = normal(T, case.B, case.I)
    dy = normal(T, case.B, case.directions * case.H)
    states = 2 if case.cell == "lstm" else 1
    state = tuple(normal(case.layers * case.directions, case.B, case.H) for _ in range(states))
    lengths = None
    if case.ragged:
        lengths = rng.integers(1, T, size=case.B, endpoint=True)
        past_end = np.arange(T)[:, None] >= lengths
        x[past_end] = 0
        dy[past_end] = 0
    return Problem(case, params, x, state, dy, lengths)
