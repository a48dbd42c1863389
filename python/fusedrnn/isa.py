"""Instruction sets: which are available, which one is used, and the configuration of this build."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TextIO

from . import _core, _validate
from ._version import __version__


def available_isas() -> list[str]:
    """Instruction sets for which this build has kernels and which this CPU supports, best first.

    Examples
    --------
    >>> import fusedrnn
    >>> fusedrnn.current_isa() in fusedrnn.available_isas()
    True
    """
    return _core.available_isas()


def current_isa() -> str:
    """The instruction set in use: the best one, or that of the environment variable FUSEDRNN_ISA or `use_isa`."""
    return _core.current_isa()


class use_isa:  # noqa: N801  a context manager that reads as a function, like np.errstate
    """Use another instruction set within a ``with`` block; for tests and comparisons.

    Parameters
    ----------
    name : str
        One of ``available_isas()``.

    Raises
    ------
    TypeError, ValueError
        There is no such instruction set, or this CPU does not support it.

    Notes
    -----
    The choice applies to the whole process, including other threads. Frozen layers and tapes keep the instruction set
    with which they were created.

    Examples
    --------
    >>> import fusedrnn
    >>> oldest = fusedrnn.available_isas()[-1]
    >>> with fusedrnn.use_isa(oldest):
    ...     fusedrnn.current_isa() == oldest
    True
    """

    def __init__(self, name: str) -> None:
        self._name = _validate.isa_name("use_isa", name, _core.available_isas())
        self._previous: list[str] = []  # a stack, because the same object may be entered again

    def __enter__(self) -> str:
        self._previous.append(_core.current_isa())
        _core.set_isa(self._name)
        return self._name

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _core.set_isa(self._previous.pop())


def show_config(file: TextIO | None = None) -> None:
    """Print version, instruction sets, threads and build configuration of the kernels.

    Parameters
    ----------
    file : file-like or None
        Where to print; None means standard output.

    Examples
    --------
    >>> import fusedrnn
    >>> fusedrnn.show_config()  # doctest: +ELLIPSIS
    fusedrnn ...
    """
    lines = {
        "fusedrnn": __version__,
        "isa": f"{_core.current_isa()} (available: {', '.join(_core.available_isas())})",
        "threads": str(_core.get_num_threads()),
        **_core.build_info(),
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}", file=sys.stdout if file is None else file)
