"""Thread count of NumPy's BLAS, through threadpoolctl where it is installed."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

NO_CONTROL = "threadpoolctl is not installed: NumPy's BLAS runs with as many threads as it likes in every section"


@cache
def _controller() -> Any:
    """Finding the loaded libraries takes milliseconds, so it is done once; None without threadpoolctl."""
    try:
        return importlib.import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None


def controlled() -> bool:
    """Whether the thread count can be set."""
    return _controller() is not None


def blas_version() -> str:
    """Name and version of the BLAS that NumPy loaded, as far as it is known."""
    found = [lib for lib in _controller().info() if lib["user_api"] == "blas"] if controlled() else []
    return ", ".join(f"{lib['internal_api']} {lib['version']}" for lib in found) or "unknown BLAS"


@contextmanager
def blas_threads(threads: int) -> Iterator[None]:
    """Limit the BLAS to so many threads; nothing happens without threadpoolctl."""
    if not controlled():
        yield
        return
    with _controller().limit(limits=threads, user_api="blas"):
        yield
