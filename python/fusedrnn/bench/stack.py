"""Layers and directions stacked over functions for one layer: for the reference and for the NumPy loop alike."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .problem import Problem, suffixes

Array = NDArray[Any]

_PARAMS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_FAMILY = {"rnn_tanh": "rnn", "rnn_relu": "rnn", "gru_after": "gru", "gru_before": "gru", "lstm": "lstm"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "rnn_tanh": {"nonlinearity": "tanh"},
    "rnn_relu": {"nonlinearity": "relu"},
    "gru_after": {"reset_after": True},
    "gru_before": {"reset_after": False},
    "lstm": {},
}


def forward(functions: Any, problem: Problem, **options: Any) -> tuple[Array, list[tuple[Array, ...]], list[Any]]:
    """Run every layer and direction of a problem.

    Parameters
    ----------
    functions : module
        Has `rnn_forward`, `gru_forward`, `lstm_forward` as `fusedrnn.reference` has them.
    problem : Problem
    **options
        Passed on to the function.

    Returns
    -------
    y : ndarray, shape (T, B, directions*H)
    states : list of tuple
        Final (h,) or (h, c) of each layer and direction, each (B, H).
    tapes : list
        In the same order.
    """
    case = problem.case
    function = getattr(functions, f"{_FAMILY[case.cell]}_forward")
    options = {**_OPTIONS[case.cell], **options}
    states, tapes, outputs = [], [], []
    x = problem.x
    for row, (_, suffix) in enumerate(suffixes(case)):
        direction = row % case.directions
        y, *state, tape = function(
            x,
            *(s[row] for s in problem.state),
            *(problem.params[name + suffix] for name in _PARAMS),
            lengths=problem.lengths,
            reverse=direction == 1,
            **options,
        )
        states.append(tuple(state))
        tapes.append(tape)
        outputs.append(y)
        if direction == case.directions - 1:
            x = outputs[0] if case.directions == 1 else np.concatenate(outputs, axis=-1)
            outputs = []
    return x, states, tapes


def backward(functions: Any, problem: Problem, tapes: list[Any]) -> tuple[Array, list[tuple[Any, ...]]]:
    """Gradients of every layer and direction for the problem's `dy`.

    Returns
    -------
    dx : ndarray, shape (T, B, I)
    gradients : list of tuple
        (*dstate, dW_ih, dW_hh, db_ih, db_hh) of each layer and direction.
    """
    case = problem.case
    function = getattr(functions, f"{_FAMILY[case.cell]}_backward")
    gradients: list[tuple[Any, ...]] = [()] * len(tapes)
    dy = problem.dy
    for layer in reversed(range(case.layers)):
        parts = []
        for direction in range(case.directions):
            row = layer * case.directions + direction
            dx, *gradients_of_row = function(tapes[row], dy[..., direction * case.H : (direction + 1) * case.H])
            gradients[row] = tuple(gradients_of_row)
            parts.append(dx)
        dy = parts[0] if case.directions == 1 else parts[0] + parts[1]
    return dy, gradients


def outputs(functions: Any, problem: Problem, **options: Any) -> dict[str, Array]:
    """All results of a problem under the names of `Job.outputs`."""
    y, states, tapes = forward(functions, problem, **options)
    named = {"y": y, **{name: np.stack(s) for name, s in zip(("h_n", "c_n"), zip(*states, strict=True), strict=False)}}
    if problem.case.mode != "train":
        return named
    named["dx"], gradients = backward(functions, problem, tapes)
    states_count = len(problem.state)
    for name, rows in zip(("dh_0", "dc_0")[:states_count], zip(*gradients, strict=True), strict=False):
        named[name] = np.stack(rows)
    for (_, suffix), row in zip(suffixes(problem.case), gradients, strict=True):
        for name, gradient in zip(_PARAMS, row[states_count : states_count + 4], strict=True):  # no peepholes here
            named[f"d{name}{suffix}"] = gradient
    return named
