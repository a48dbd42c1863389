"""Packages that only some functions need."""

from __future__ import annotations

import importlib
from typing import Any

from . import _messages


def needs(owner: str, package: str, what: str = "") -> Any:
    """The package, or a ModuleNotFoundError that says what needs it and how to install it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:  # the package is there, and lacks one of its own
            raise
        raise ModuleNotFoundError(_messages.needs(owner, package, what), name=package) from None
