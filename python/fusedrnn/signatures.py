"""Signatures of the functions of cells without a recurrent matrix, for `functional` and for the reference; and how
``help()`` shows annotations.

Imports no other file of fusedrnn.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

STEPS: dict[str, object] = {"lengths": None, "mask": None, "reset": None, "past_end": "zero", "reverse": False}


def forward_signature(
    states: int, unit_parameters: bool, options: Mapping[str, object], others: Mapping[str, object] | None = None
) -> inspect.Signature:
    """x, initial states, weights; then by keyword the options of the cell, the arguments about steps, and `others`."""
    P = inspect.Parameter
    own = [P(name, P.POSITIONAL_OR_KEYWORD) for name in ("x", *("h_0", "c_0")[:states], "W_ih")]
    own += [P("b_ih", P.POSITIONAL_OR_KEYWORD, default=None)]
    own += [P("W_unit", P.POSITIONAL_OR_KEYWORD, default=None)] if unit_parameters else []
    initial = dict.fromkeys(("h_initial", "c_initial")[:states])
    named = dict(options) | initial | STEPS | dict(others or {})
    return inspect.Signature(own + [P(name, P.KEYWORD_ONLY, default=default) for name, default in named.items()])


def backward_signature(states: int) -> inspect.Signature:
    """tape, dy, gradients of the final states, need_dx, sparse."""
    P = inspect.Parameter
    own = [P("tape", P.POSITIONAL_OR_KEYWORD)]
    own += [P(name, P.POSITIONAL_OR_KEYWORD, default=None) for name in ("dy", *("dh_n", "dc_n")[:states])]
    flags = {"need_dx": True, "sparse": False}
    return inspect.Signature([*own, *(P(name, P.KEYWORD_ONLY, default=default) for name, default in flags.items())])


def named_function(
    name: str, module: str, doc: str, signature: inspect.Signature, run: Callable[[dict[str, Any]], Any]
) -> Callable[..., Any]:
    """A function with this name, docstring and signature that calls `run` with its arguments by name."""

    def function(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}() {error}") from None
        bound.apply_defaults()
        return run(dict(bound.arguments))

    function.__name__ = function.__qualname__ = name
    function.__module__ = module
    function.__doc__ = doc
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


class Annotation(str):
    """An annotation that is not evaluated, as ``help()`` is to show it: without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def unquote(things: Iterable[Any]) -> None:
    """Have ``help()`` show the annotations of functions, and of classes with their bases, without quotes."""
    top = __name__.partition(".")[0]
    seen: set[type] = set()
    for thing in things:
        if str(getattr(thing, "__module__", "")).partition(".")[0] != top:
            continue
        bases = thing.__mro__ if isinstance(thing, type) else ()
        new = [base for base in bases if base.__module__.partition(".")[0] == top and base not in seen]
        seen.update(new)
        own = [value for base in new for value in vars(base).values()]
        for value in [thing, *own]:
            function = getattr(value, "fget", getattr(value, "__func__", value))
            if inspect.isfunction(function):
                annotations = function.__annotations__
                annotations.update({k: Annotation(text) for k, text in annotations.items() if isinstance(text, str)})
