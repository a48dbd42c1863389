"""Is a peer right? Every output and every gradient, before anything is timed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import reference
from . import stack
from .problem import Problem

Array = NDArray[Any]

# Largest error allowed, relative to the largest value of the array. This is to catch a peer that computes something
# else (a swapped gate is off by 0.1 or more), not to compare accuracies: weight gradients are sums over up to 10^5
# rows, which float32 rounds to some 1e-5. The strict tolerances are those of the tests.
TOLERANCE = {"float32": 2e-4, "float64": 1e-10}

# Up to so many operations the float64 reference is run; it does about 1e10 in a second on one core.
REFERENCE_FLOPS = 1.5e10


def expected_outputs(problem: Problem) -> dict[str, Array] | None:
    """Outputs of `fusedrnn.reference` in float64, or None when that would take too long."""
    return stack.outputs(reference, problem) if problem.flops <= REFERENCE_FLOPS else None


def disagreements(outputs: dict[str, Array], expected: dict[str, Array], dtype: str) -> list[str]:
    """What is wrong with a peer's outputs, each in a few words; empty when all is well.

    Parameters
    ----------
    outputs, expected : dict
        As `Job.outputs` gives them.
    dtype : str
        Dtype of the case, which sets the tolerance.

    Examples
    --------
    >>> disagreements({"y": np.ones((2, 3))}, {"y": np.ones((2, 2))}, "float32")
    ['y has shape (2, 3), expected (2, 2)']
    """
    found = []
    for name, want in expected.items():
        if name not in outputs:
            found.append(f"{name} is missing")
            continue
        got = np.asarray(outputs[name])
        if got.shape != want.shape:
            found.append(f"{name} has shape {got.shape}, expected {want.shape}")
            continue
        scale = float(np.max(np.abs(want), initial=0.0)) or 1.0
        error = float(np.max(np.abs(got.astype(np.float64) - want), initial=0.0)) / scale
        if not error <= TOLERANCE[dtype]:  # a NaN is an error too
            found.append(f"{name} is off by {error:.2g} of its largest value")
    return found
