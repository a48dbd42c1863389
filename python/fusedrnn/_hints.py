"""What a caller may have meant, for messages about arguments."""

from __future__ import annotations


def instead_of_list(name: str, value: object) -> str:
    """For an input that is a list of lists of different lengths: how sequences of different lengths are passed."""
    if name == "x" and isinstance(value, (list, tuple)) and all(isinstance(row, (list, tuple)) for row in value):
        return " Expected rows of one length, or an array for each sequence, as in [np.array(row) for row in x]"
    return ""
