"""The NEON kernels, cross-compiled from the same source and run under emulation, against the reference."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fusedrnn import reference
from problems import assert_results, make_problem

ROOT = Path(__file__).parents[1]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
CELLS = ["rnn_tanh", "rnn_relu", "gru_after", "gru_before", "gru_simple", "lstm"]  # as csrc/core/api.h numbers them

pytestmark = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason=f"needs {COMPILER} and {EMULATOR} (Debian: apt install g++-aarch64-linux-gnu qemu-user)",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`native/run_layer.cpp` for aarch64, with the flags of CMakeLists.txt."""
    build = tmp_path_factory.mktemp("aarch64")
    (build / "isas.inc").write_text("FUSEDRNN_LEVEL(neon)\n")
    common = [COMPILER, "-std=gnu++17", "-Wall", "-Wextra", "-Werror", "-fopenmp", f"-I{build}", "-c"]
    kernel = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-exceptions", "-fno-rtti"]
    sources = [*sorted((ROOT / "csrc/core").glob("*.cpp")), ROOT / "tests/native/run_layer.cpp"]
    objects = []
    for source in sources:
        objects.append(build / f"{source.stem}.o")
        subprocess.run([*common, "-O2", str(source), "-o", str(objects[-1])], check=True)
    objects.append(build / "kernels.o")
    kernels = str(ROOT / "csrc/kernels/kernels.cpp")
    subprocess.run([*common, *kernel, "-DFUSEDRNN_ISA=neon", kernels, "-o", str(objects[-1])], check=True)
    program = build / "run_layer"
    subprocess.run([COMPILER, "-static", "-fopenmp", *map(str, objects), "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", [(3, 5, 7, 13), (6, 17, 33, 70), (40, 1, 16, 64)], ids=str)
def test_agrees_with_the_reference(program, rng, cell, dtype, sizes):
    T, B, I, H = sizes
    ragged = B > 1
    problem = make_problem(rng, cell, dtype, T=T, B=B, I=I, H=H, lengths=ragged, reverse=ragged)
    expected = problem.run(reference)

    header = np.array([CELLS.index(cell), dtype == np.float64, T, B, I, H, problem.reverse, ragged], np.int64)
    lengths = [np.asarray(problem.lengths, np.int64)] if ragged else []
    arrays = [*problem.weights, problem.x, *problem.state, problem.dy, *problem.dstate]
    given = b"".join(np.ascontiguousarray(array).tobytes() for array in [header, *lengths, *arrays])
    output = subprocess.run([EMULATOR, str(program)], input=given, capture_output=True, check=True, timeout=300).stdout

    flat, at, actual = np.frombuffer(output, dtype), 0, {}
    for name in ("y", "h_n", "c_n", "dx", "dh_0", "dc_0", "dW_ih", "dW_hh", "db_ih", "db_hh"):
        if expected.get(name) is not None:
            shape = expected[name].shape
            actual[name] = flat[at : at + expected[name].size].reshape(shape)
            at += actual[name].size
    assert at == flat.size
    actual |= {name: None for name, value in expected.items() if value is None}
    assert_results(actual, expected, problem)
