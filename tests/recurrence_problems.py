"""Random problems of linear recurrences: one draw for tests of values, gradients and bits."""

from typing import Any

import numpy as np

from fusedrnn import functional, reference

Array = np.ndarray[Any, Any]


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
    """Normal numbers of a real or complex dtype."""
    array = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        array = array + 1j * rng.standard_normal(shape)
    return array.astype(dtype)


def a_shapes(T: int, B: int, H: int) -> list[tuple[int, ...]]:
    """Every way in which a may be broadcast."""
    return [(T, B, H), (H,), (T, 1, 1), (), (B, H), (B, 1), (T, B, 1), (T, 1, H), (1, 1, 1)]


def draw_steps(rng: np.random.Generator, T: int, B: int, which: int) -> dict[str, Any]:
    """Lengths, mask, reset and reverse, each if its bit of `which` is set."""
    options: dict[str, Any] = {"reverse": bool(which & 8)}
    if which & 1:
        options["lengths"] = rng.integers(0, T + 1, B)
    if which & 2:
        options["mask"] = rng.random((T, B)) < 0.6
    if which & 4:
        options["reset"] = rng.random((T, B)) < 0.3
    return options


def draw_scan(rng: np.random.Generator, T: int, B: int, H: int, kind: int, which: int, dtype: Any) -> dict[str, Any]:
    """Arguments of `scan_forward`; decays of at most 0.9, so that errors do not grow."""
    a = numbers(rng, a_shapes(T, B, H)[kind], dtype)
    a = (0.9 * a / np.maximum(np.abs(a), 1)).astype(dtype)
    h_0 = numbers(rng, (B, H), dtype) if rng.random() < 0.5 else None
    return {"a": a, "b": numbers(rng, (T, B, H), dtype), "h_0": h_0, **draw_steps(rng, T, B, which)}


def draw_state_space(
    rng: np.random.Generator,
    T: int,
    rows: int,
    sizes: tuple[int, int, int],
    forms: tuple[int, ...],
    which: int,
    dtype: Any,
) -> dict[str, Any]:
    """Arguments of `state_space_forward`; forms: 0 constant, 1 per step, 2 per step and row, and for D 3: None."""
    n, m, p = sizes
    arguments: dict[str, Any] = {"u": numbers(rng, (T, rows, m), dtype)}
    for name, (i, j), form in zip("ABCD", ((n, n), (n, m), (p, n), (p, m)), forms, strict=True):
        lead = ((), (T,), (T, rows), None)[form]
        arguments[name] = None if lead is None else (numbers(rng, (*lead, i, j)) / (2 * np.sqrt(j))).astype(dtype)
    arguments["x_0"] = numbers(rng, (rows, n), dtype) if rng.random() < 0.5 else None
    arguments["read"] = ("after", "before")[int(rng.integers(2))]
    return arguments | draw_steps(rng, T, rows, which)


FUNCTIONS = {
    "scan": (functional.scan_forward, functional.scan_backward),
    "state_space": (functional.state_space_forward, functional.state_space_backward),
}
REFERENCES = {
    "scan": (reference.scan_forward, reference.scan_backward),
    "state_space": (reference.state_space_forward, reference.state_space_backward),
}


def both(functions: Any, arguments: dict[str, Any], d_outputs: Any, d_state: Any) -> tuple[Any, ...]:
    """Outputs, final state and all gradients."""
    forward, backward = functions
    y, state, tape = forward(**arguments)
    return (y, state, *backward(tape, d_outputs, d_state))
