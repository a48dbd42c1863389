"""States of NumPy's random generators as plain dicts, checked before a generator is given one from a file."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _messages

#: The bit generators of NumPy, and within the state of each: the counter that NumPy does not check, and its limit.
KINDS: dict[str, tuple[tuple[str, ...], int] | None] = {
    "PCG64": None,
    "PCG64DXSM": None,
    "SFC64": None,
    "MT19937": (("state", "pos"), 624),
    "Philox": (("buffer_pos",), 4),
}


def state_of(owner: str, rng: np.random.Generator) -> dict[str, Any]:
    """The state of a generator."""
    kind = type(rng.bit_generator)
    if getattr(np.random, kind.__name__, None) is not kind or kind.__name__ not in KINDS:
        expected = f"one over {', '.join(KINDS)} of numpy.random (assign layer.rng)"
        raise TypeError(_messages.not_saved(owner, "the bit generator of rng", rng.bit_generator, expected))
    state: Any = rng.bit_generator.state
    return dict(state)


def generator_of(owner: str, state: Any) -> np.random.Generator:
    """A generator with this state."""
    name = state.get("bit_generator") if isinstance(state, dict) else None
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(_messages.attribute(owner, "a generator", name, f"one of {_messages.listed(KINDS)}"))
    counter = KINDS[name]
    made: Any = getattr(np.random, name)(0)
    try:
        if counter is not None:
            value = state
            for key in counter[0]:
                value = value[key]
            if type(value) is not int or not 0 <= value <= counter[1]:
                raise ValueError(_messages.attribute(owner, counter[0][-1], value, f"an integer in [0, {counter[1]}]"))
        made.state = state
    except (KeyError, TypeError, OverflowError, ValueError) as error:
        raise ValueError(_messages.unreadable(owner, f"the state of a generator {name}", error)) from None
    return np.random.Generator(made)
