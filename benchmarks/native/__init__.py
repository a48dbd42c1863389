"""C++ that is compiled when the benchmark runs, and loaded by ctypes: the oneDNN driver and the machine's probes."""

from . import build
from .build import BuildError, load

__all__ = ["BuildError", "build", "load"]
