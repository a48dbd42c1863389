"""The NEON kernels, cross-compiled from the same source and run under emulation, against the reference."""

import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusedrnn import _core, reference
from fusedrnn.families.gru import gru_kind
from fusedrnn.families.indrnn import indrnn_kind
from fusedrnn.families.lru import lru_kind
from fusedrnn.families.lstm import lstm_kind
from fusedrnn.families.mingru import mingru_kind, minlstm_kind
from fusedrnn.families.qrnn import qrnn_kind
from fusedrnn.families.rglru import rglru_kind
from fusedrnn.families.rnn import rnn_kind
from fusedrnn.families.sru import sru_kind
from fusedrnn.kinds import SIGMOID, TANH, Options
from problems import VARIANTS, Problem, assert_results, has_kinks, make_problem, with_structure

ROOT = Path(__file__).parents[1]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
# Numbered as in csrc/cells/cells.h and csrc/math/functions.h.
CELLS = list(_core.cells())
ACTIVATIONS: list[Any] = _core.activations()
PEEPHOLES: list[Any] = [None, "ifo", "o_prev"]
KINDS: dict[str, Any] = {
    "rnn": rnn_kind,
    "gru": gru_kind,
    "lstm": lstm_kind,
    "mingru": mingru_kind,
    "minlstm": minlstm_kind,
    "indrnn": indrnn_kind,
    "qrnn": qrnn_kind,
    "lru": lru_kind,
    "sru": partial(sru_kind, False),
    "rglru": partial(rglru_kind, False),
}

#: Cells, and options of each kind of cell; together they use every function of math/activations.h.
LAYERS: list[tuple[str, dict[str, Any]]] = [
    *VARIANTS.values(),
    *(("rnn", {"activation": f}) for f in ("softsign", "softplus", "elu", ("scaled_tanh", 1.7, 0.6), "leaky_relu")),
    ("rnn", {"activation": ("thresholded_relu", 0.3), "clip": 0.8}),
    ("gru", {"reset_after": True, "recurrent_activation": "hard_sigmoid", "activation": "softsign"}),
    ("gru", {"reset_after": False, "activation": ("affine", 0.4, 0.1), "clip": 0.7}),
    ("gru", {"reset_gate": False, "activation": "linear"}),
    ("lstm", {"peephole": "o_prev", "cell_clip": 0.6, "output_activation": "hard_tanh", "activation": "relu"}),
    ("lstm", {"peephole": "ifo", "coupled": True, "output_activation": "softsign"}),
]

pytestmark = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason=f"needs {COMPILER} and {EMULATOR} (Debian: apt install g++-aarch64-linux-gnu qemu-user)",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile `native/run_layer.cpp` for aarch64, with the flags of CMakeLists.txt."""
    build = tmp_path_factory.mktemp("aarch64")
    (build / "isas.inc").write_text("FUSEDRNN_LEVEL(neon)\n")
    common = [COMPILER, "-std=gnu++17", "-Wall", "-Wextra", "-Werror", "-fopenmp", f"-I{build}", "-c"]
    kernel = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-exceptions", "-fno-rtti"]
    sources = [*sorted((ROOT / "csrc/core").glob("*.cpp")), ROOT / "tests/native/run_layer.cpp"]
    objects = []
    for source in sources:
        objects.append(build / f"{source.stem}.o")
        subprocess.run([*common, "-O2", str(source), "-o", str(objects[-1])], check=True)
    for file in ("kernels", "scan_kernels", "recurrences", "selective_kernels", "attention"):
        source = ROOT / f"csrc/kernels/{file}.cpp"
        for element in ("float", "double"):
            objects.append(build / f"{file}_{element}.o")
            defines = ["-DFUSEDRNN_ISA=neon", f"-DFUSEDRNN_ELEMENT={element}"]
            subprocess.run([*common, *kernel, *defines, str(source), "-o", str(objects[-1])], check=True)
    program = build / "run_layer"
    subprocess.run([COMPILER, "-static", "-fopenmp", *map(str, objects), "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("family", "options"), LAYERS, ids=str)
@pytest.mark.parametrize("sizes", [(3, 5, 7, 13), (6, 17, 33, 70), (40, 1, 16, 64)], ids=str)
def test_agrees_with_the_reference(program, rng, family, options, dtype, sizes):
    if dtype == np.float32 and has_kinks(options):
        pytest.skip("rounding would decide on which side of a kink a gradient is taken; float64 has it")
    T, B, I, H = sizes
    ragged = B > 1
    shape: dict[str, Any] = {"T": T, "B": B, "I": I, "H": H, "lengths": ragged, "reverse": ragged}
    problem = make_problem(rng, family, dtype, **shape, options=options)
    assert_results(run(program, problem, family, options), problem.run(reference), problem)


MASKS = ("recurrent_mask", "zoneout_h", "zoneout_c")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("family", "options", "names"),
    [
        ("rnn", {}, MASKS),
        ("gru", {"reset_after": True}, MASKS),
        ("gru", {"reset_after": False, "activation": "softsign"}, MASKS),
        ("lstm", {}, ("W_hr",)),
        ("lstm", {}, MASKS),
        ("lstm", {"peephole": "ifo", "coupled": True}, ("W_hr", *MASKS)),
    ],
    ids=str,
)
def test_structure_agrees_with_the_reference(program, rng, family, options, names, dtype):
    problem = make_problem(rng, family, dtype, T=6, B=9, I=5, H=37, lengths=True, reverse=True, options=options)
    problem = with_structure(problem, rng, *names)
    assert_results(run(program, problem, family, options), problem.run(reference), problem)


def run(program: Path, problem: Problem, family: str, options: dict[str, Any]) -> dict[str, Any]:
    """Results and gradients by name, under emulation."""
    expected = problem.run(reference)  # for their shapes
    (T, B, I, H), dtype, ragged = problem.sizes.values(), problem.dtype, problem.lengths is not None
    structure = problem.structure

    arguments = {"nonlinearity": "tanh"} if family == "rnn" else {"reset_after": True} if family == "gru" else {}
    kind = KINDS[family](**(arguments | options))
    gate, state, output, *rest = kind.options or Options(SIGMOID, TANH, TANH, np.inf, np.inf, None)
    *limits, peephole, candidate, highway_bias = rest
    flat: list[Any] = [v for f in (gate, state, output) for v in (ACTIVATIONS.index(f[0]), *f[1:])]
    units = [] if problem.W_peephole is None else [problem.W_peephole]
    masks = [structure[name] for name in MASKS if name in structure]
    which = sum(1 << k for k, name in enumerate(MASKS) if name in structure)
    W_hr = [structure["W_hr"]] if "W_hr" in structure else []
    numbers = [CELLS.index(kind.name), dtype == np.float64, T, B, I, H, problem.reverse, ragged, kind.peepholes]
    own = [(None, "identity", "tanh").index(candidate), highway_bias]
    numbers += [len(W_hr[0]) if W_hr else 0, which]
    header = [np.array(numbers, np.int64), np.array([*flat, *limits, PEEPHOLES.index(peephole), *own], np.float64)]
    lengths = [np.asarray(problem.lengths, np.int64)] if ragged else []
    weights = [w for w in problem.weights if w is not None]
    arrays = [*weights, *units, *W_hr, problem.x, *problem.state, problem.dy, *problem.dstate, *masks]
    given = b"".join(np.ascontiguousarray(array).tobytes() for array in [*header, *lengths, *arrays])
    done = subprocess.run([EMULATOR, str(program)], input=given, capture_output=True, check=True, timeout=300).stdout

    results, at = np.frombuffer(done, dtype), 0
    actual: dict[str, Any] = {name: None for name, value in expected.items() if value is None}
    for name in (
        "y",
        "h_n",
        "c_n",
        "dx",
        "dh_0",
        "dc_0",
        "dW_ih",
        "dW_hh",
        "db_ih",
        "db_hh",
        "dW_peephole",
        "dW_unit",
        "dW_hr",
    ):
        if expected.get(name) is not None:
            shape_of = expected[name].shape
            actual[name] = results[at : at + expected[name].size].reshape(shape_of)
            at += actual[name].size
    assert at == results.size
    return actual
