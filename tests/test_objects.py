"""check_objects.py finds code of one instruction set that would leak into shared functions, and no other code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import check_objects

COMPILER = os.environ.get("CXX") or shutil.which("g++")
NM = shutil.which("nm")
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="compiles examples; there is neither $CXX nor g++"),
    pytest.mark.skipif(NM is None, reason="reads objects with nm, which is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at ELF objects"),
]

# As in csrc/kernels/kernels.cpp: everything inside the namespace, and one exported table.
CLEAN = """
namespace fusedrnn::avx2 {
inline int helper(int x) { return x + 1; }
template <class T> T generic(T x) { return static_cast<T>(helper(static_cast<int>(x))); }
inline int counter = 0;
extern int (*const table)(int);
int (*const table)(int) = [](int x) { ++counter; return generic(x) + static_cast<int>(generic(2.0)); };
}
"""

LEAKS = {
    "an inline function of the standard library": (
        "#include <algorithm>\n#include <vector>\n"
        + CLEAN
        + "namespace fusedrnn::avx2 { int use(std::vector<int>& v) { v.push_back(1); return v.back(); } }",
        "vector",
    ),
    "an inline function shared with other code": (
        "namespace fusedrnn { inline int shared(int x) { return x * 3; } }\n"
        + CLEAN
        + "namespace fusedrnn::avx2 { int (*use())(int) { return &fusedrnn::shared; } }",
        "shared",
    ),
    "the namespace of another instruction set": (CLEAN.replace("avx2", "avx512"), "avx512"),
    "a function outside every namespace": (CLEAN + 'extern "C" int stray(int x) { return x; }', "stray"),
    "a template outside": (
        "template <class T> struct Outer { static T twice(T x); };\n"
        "template <class T> T Outer<T>::twice(T x) { return x + x; }\n" + CLEAN + "template struct Outer<int>;",
        "Outer",
    ),
}


def compiled(source: str, directory: Path) -> str:
    (directory / "example.cpp").write_text(source)
    path = directory / "example.o"
    # Without optimisation, every inline function in use is in the object.
    subprocess.run([str(COMPILER), "-std=c++17", "-O0", "-c", directory / "example.cpp", "-o", path], check=True)
    return str(path)


def test_a_clean_object_passes(tmp_path):
    assert check_objects.leaks(str(NM), "avx2", compiled(CLEAN, tmp_path)) == []


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_is_found(kind, tmp_path):
    source, name = LEAKS[kind]
    found = check_objects.leaks(str(NM), "avx2", compiled(source, tmp_path))
    assert any(name in leak for leak in found), found
    assert all(leak.startswith("avx2: ") for leak in found)


def test_the_script_fails_and_says_why(tmp_path):
    script = Path(check_objects.__file__)
    leaking = compiled(LEAKS["a function outside every namespace"][0], tmp_path)
    done = subprocess.run([sys.executable, script, str(NM), f"avx2={leaking}"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["ISA-specific code in shared functions:", "avx2: T stray"]

    clean = compiled(CLEAN, tmp_path)
    done = subprocess.run([sys.executable, script, str(NM), f"avx2={clean}"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
