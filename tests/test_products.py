"""The kernels' matrix products without a recurrent step: a layer y = x W^T + b over ragged rows, against NumPy."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from problems import assert_same_bits
from tolerances import assert_close

ROOT = Path(__file__).parents[1]
COMPILER = os.environ.get("CXX", "g++")
# As in CMakeLists.txt, but faster to compile.
KERNEL = ["-O1", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-exceptions", "-fno-rtti"]
AVX2 = ["-mavx2", "-mfma", "-mbmi", "-mbmi2"]
FLAGS = {
    "avx512": [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")), "-mprefer-vector-width=512"],
    "avx2": AVX2,
}

pytestmark = pytest.mark.skipif(not shutil.which(COMPILER), reason=f"needs {COMPILER}")


@pytest.fixture(scope="module", params=fusedrnn.available_isas())
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile `native/products.cpp` for each instruction set of this CPU."""
    program = tmp_path_factory.mktemp("products") / "products"
    flags = [*KERNEL, *FLAGS.get(request.param, []), f"-DFUSEDRNN_ISA={request.param}"]
    source = ROOT / "tests/native/products.cpp"
    common = ["-std=gnu++17", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run([COMPILER, *common, *flags, str(source), "-o", str(program)], check=True)
    return program


SIZES: list[dict[str, Any]] = [
    {"T": 5, "B": 7, "I": 11, "H": 37, "gates": 2, "room": 9},  # several chunks
    {"T": 4, "B": 9, "I": 33, "H": 70, "gates": 1, "room": 200},
    {"T": 30, "B": 13, "I": 5, "H": 9, "gates": 4, "room": 250},  # more rows than the kernels read of x at once
    {"T": 3, "B": 1, "I": 1, "H": 3, "gates": 3, "room": 1},
    {"T": 2, "B": 3, "I": 70, "H": 41, "gates": 3, "room": 6, "few_rows": True},
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"tokens": True}], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_layer_without_a_recurrent_product(program, rng, sizes, options, dtype):
    problem = draw(rng, dtype, **sizes, **options)
    expected = in_numpy(problem)
    actual = run(program, problem, threads=1)
    K = sizes["T"] * sizes["B"] + sizes["I"] + sizes["H"] * sizes["gates"]
    for name, value in expected.items():
        assert_close(actual[name], value, dtype=dtype, K=K, T=1, what=name)
    for threads, row_groups in ((2, 1), (3, 1), (4, 2)):
        assert_same_bits(run(program, problem, threads, row_groups), actual, f"{threads} threads")
    for l2_bytes in (1, 1 << 10, 1 << 24):
        assert_same_bits(run(program, problem, 2, 1, l2_bytes), actual, f"{l2_bytes} bytes of L2")


def draw(
    rng: np.random.Generator,
    dtype: Any,
    T: int,
    B: int,
    I: int,
    H: int,
    gates: int,
    room: int,
    few_rows: bool = False,
    reverse: bool = False,
    tokens: bool = False,
) -> dict[str, Any]:
    """Arrays by name. Values past a row's length are poisoned."""
    lengths = rng.integers(1, T + 1, B)
    lengths[B // 2] = T
    past = np.arange(T)[:, None] >= lengths
    x = rng.integers(0, I, (T, B)) if tokens else rng.standard_normal((T, B, I)).astype(dtype)
    dy = rng.standard_normal((T, B, gates * H)).astype(dtype)
    x[past] = -1 if tokens else np.nan
    dy[past] = np.nan
    W = (rng.standard_normal((gates * H, I)) * I**-0.5).astype(dtype)
    b = rng.standard_normal(gates * H).astype(dtype)
    sizes = (T, B, I, H, gates)
    return {"x": x, "W": W, "b": b, "dy": dy, "lengths": lengths, "past": past, "sizes": sizes} | {
        "room": max(room, T * B if few_rows else B),
        "few_rows": few_rows,
        "reverse": reverse,
        "tokens": tokens,
    }


def in_numpy(problem: dict[str, Any]) -> dict[str, Any]:
    """y, dW, db and (without tokens) dx."""
    x, W, b, dy, past = (problem[name] for name in ("x", "W", "b", "dy", "past"))
    I = W.shape[1]
    inputs = np.eye(I, dtype=W.dtype)[np.where(past, 0, x)] if problem["tokens"] else x.copy()
    inputs[past], dy = 0, np.where(past[..., None], 0, dy)
    y = inputs @ W.T + b
    y[past] = 0
    flat = dy.reshape(-1, dy.shape[-1])
    results = {"y": y, "dW": flat.T @ inputs.reshape(-1, I), "db": flat.sum(0)}
    return results if problem["tokens"] else results | {"dx": dy @ W}


def run(
    program: Path, problem: dict[str, Any], threads: int, row_groups: int = 1, l2_bytes: int = 1 << 20
) -> dict[str, Any]:
    """The same from the kernels' products, on this number of threads."""
    (T, B, I, H, gates), dtype = problem["sizes"], problem["W"].dtype
    lengths, tokens = problem["lengths"], problem["tokens"]
    numbers = [dtype == np.float64, T, B, I, H, gates, threads, row_groups]
    numbers += [problem[name] for name in ("room", "reverse", "few_rows", "tokens")]
    numbers.append(l2_bytes)
    x = problem["x"]
    if tokens:  # in the order of rows
        order = np.argsort(-lengths, kind="stable")
        times = ((t, b, lengths[b] - 1 - t if problem["reverse"] else t) for t in range(T) for b in order)
        x = np.array([x[at, b] for t, b, at in times if t < lengths[b]], np.int64)
    arrays = [np.array(numbers, np.int64), lengths.astype(np.int64), problem["W"], problem["b"], x, problem["dy"]]
    given = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    done = subprocess.run([str(program)], input=given, capture_output=True, check=True, timeout=60).stdout
    results, at, actual = np.frombuffer(done, dtype), 0, {}
    shapes = {"y": (T, B, gates * H), "dx": (T, B, I), "dW": (gates * H, I), "db": (gates * H,)}
    for name, shape in shapes.items():
        actual[name] = results[at : at + int(np.prod(shape))].reshape(shape)
        at += actual[name].size
    assert at == results.size
    if tokens:
        del actual["dx"]
    return actual
