"""Fail if a kernel object could give other code ISA-specific instructions.

Each ISA's kernels are in ``namespace fusedrnn::<isa>``. The linker merges a weak symbol outside this namespace (an
inline function of the standard library, say) with the copies in other objects. If it keeps the copy compiled with
AVX-512, an older CPU crashes far away from any kernel. Every build runs ``check_objects.py NM ISA=OBJECT;OBJECT...``.
"""

from __future__ import annotations

import subprocess
import sys


def leaks(nm: str, isa: str, path: str) -> list[str]:
    """Weak or unique symbols of the object outside its own namespace, and strong symbols other than its table."""
    listing = subprocess.run([nm, path], check=True, capture_output=True, text=True).stdout
    inside = f"8fusedrnn{len(isa)}{isa}"  # fusedrnn::<isa> in Itanium C++ mangling
    found = []
    for line in listing.splitlines():
        *_, kind, name = line.split()
        defined = kind not in "Uw"
        if defined and kind in "WVuTDBRi" and inside not in name:
            found.append(f"{isa}: {kind} {name}")
    return found


if __name__ == "__main__":
    nm, *objects = sys.argv[1:]
    pairs = [(isa, path) for isa, _, paths in (item.partition("=") for item in objects) for path in paths.split(";")]
    problems = [leak for isa, path in pairs for leak in leaks(nm, isa, path)]
    if problems:
        sys.exit("ISA-specific code in shared functions:\n" + "\n".join(problems))
