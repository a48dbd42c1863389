"""Whether an object of another framework still runs the code of the framework's class that it is, or derives from.

Weights say what a layer computes only as long as the layer's code is the framework's. A subclass with a method of its
own, or a method that is assigned to one object, may compute anything.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from . import _messages

#: What a subclass may define without computing something else: how objects are made, shown, copied and saved.
HARMLESS = frozenset(
    {
        *("__init__", "__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__slots__", "__constants__"),
        *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__orig_bases__"),
        *("__parameters__", "__class_getitem__", "__init_subclass__", "__static_attributes__", "__firstlineno__"),
        *("__repr__", "__str__", "__format__", "__dir__", "__eq__", "__ne__", "__hash__", "__sizeof__", "__copy__"),
        *("__deepcopy__", "__getstate__", "__setstate__", "__reduce__", "__reduce_ex__", "extra_repr", "_get_name"),
        *("reset_parameters", "flatten_parameters", "get_config", "from_config", "compute_output_shape"),
    }
)


def replaced(thing: Any, base: type, harmless: Container[str] = ()) -> list[str]:
    """Attributes of `base` that the object's class or the object itself replaces, without the harmless ones."""
    names: list[str] = []
    for cls in type(thing).__mro__:
        if cls is base:
            break
        names += [name for name in vars(cls) if name not in HARMLESS and name not in harmless and hasattr(base, name)]
    own = getattr(thing, "__dict__", {})
    names += [name for name in own if name not in harmless and callable(getattr(base, name, None))]
    return sorted(set(names))


def refuse_replaced(owner: str, thing: Any, homes: tuple[str, ...], names: Container[str] | None = None) -> None:
    """Refuse an object of a subclass that replaces methods of the framework's class, which is from one of `homes`."""
    for base in type(thing).__mro__:
        if base.__module__.split(".")[0] in homes and (names is None or base.__name__ in names):
            changed = replaced(thing, base)
            if changed:
                raise ValueError(_messages.replaced_code(owner, type(thing).__qualname__, base.__name__, changed))
            return
