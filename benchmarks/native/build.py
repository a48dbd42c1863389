"""Compile a source of this directory with whatever C++ compiler is at hand, once, and load it."""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

_SOURCES = Path(__file__).parent

# The flags of the instruction sets that `--isa` can force; by default it is the processor at hand.
_ISA_FLAGS = {"avx2": ("-mavx2", "-mfma"), "sse2": (), "neon": ()}


class BuildError(RuntimeError):
    """No compiler, or it failed; the message says why in a few words."""


@cache
def load(source: str, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Compile (unless that was done before) and load a source file.

    Parameters
    ----------
    source : str
        Name of a file of this directory.
    flags : tuple of str
        Include directories and libraries.

    Raises
    ------
    BuildError
        There is no compiler, or the file does not compile or load.
    """
    path = _SOURCES / source
    command = [*_compiler(), "-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp", *_isa_flags()]
    key = hashlib.sha256("\0".join([*command, *flags, _processor(), path.read_text(encoding="utf-8")]).encode())
    library = _cache_directory() / f"{path.stem}-{key.hexdigest()[:16]}.so"
    if not library.exists():
        _compile([*command, str(path), *flags], library)
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise BuildError(str(error)) from error


def _compile(command: list[str], library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as directory:
        made = Path(directory) / library.name
        done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise BuildError(f"{Path(command[0]).name} failed: {errors[0] if errors else done.returncode}")
        made.replace(library)  # whoever comes second finds a whole file


def _compiler() -> list[str]:
    """$CXX, or the first of the usual names."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildError("no C++ compiler was found")


def _isa_flags() -> tuple[str, ...]:
    return _ISA_FLAGS.get(os.environ.get("FUSEDRNN_ISA", ""), ("-march=native",))


def _processor() -> str:
    """What `-march=native` means here: a cache may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _cache_directory() -> Path:
    """The user's cache; a temporary directory of their own where there is no home."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        (base / "fusedrnn-bench").mkdir(parents=True, exist_ok=True)
        return base / "fusedrnn-bench"
    except (OSError, RuntimeError):
        return _temporary_directory()


@cache
def _temporary_directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="fusedrnn-bench-"))
