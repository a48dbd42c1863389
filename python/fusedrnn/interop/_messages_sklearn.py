"""Error messages of the scikit-learn bridge: ``owner: argument came-as-this; expected that``."""

from __future__ import annotations

from collections.abc import Iterable

from ._messages import listed


def not_tokens(owner: str) -> str:
    return f"{owner}: X holds numbers; expected tokens (sequences of integers or strings), as fit had"


def only_tokens(owner: str) -> str:
    return f"{owner}: X holds tokens (integers or strings); expected sequences of numbers, as fit had: .astype(float)"


def mixed_tokens(owner: str, i: int) -> str:
    return f"{owner}: X[{i}] is not a sequence of tokens as the others are; expected integers in all, or strings in all"


def no_tokens(owner: str) -> str:
    return f"{owner}: X has sequences without any token; expected at least one, for the vocabulary"


def numbers_of_layer(owner: str) -> str:
    return f"{owner}: X holds strings, but layer is given, which has numbers for tokens; expected sequences of integers"


def integer_table(owner: str, shape: tuple[int, ...]) -> str:
    return (
        f"{owner}: X holds integers in shape {shape} and is read as numbers, as arrays are in scikit-learn; for tokens "
        "pass a list of sequences: list(X)"
    )


def new_classes(owner: str, found: Iterable[object]) -> str:
    return f"{owner}: y has the classes {listed(found)}, which the first fit did not have; expected known ones"


def other_outputs(owner: str, came: int, expected: int) -> str:
    return f"{owner}: y has {came} outputs; expected {expected}, as the first fit had"


def other_columns(owner: str, came: int, expected: int) -> str:
    return f"{owner}: X has {came} columns; expected {expected}, as fit had"


def short_series(owner: str, steps: int, length: int) -> str:
    return f"{owner}: X has {steps} steps; expected at least length = {length}"
