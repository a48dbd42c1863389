"""The examples run, in their small versions, and print what their README says."""

import importlib.util
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(tmp_path: Path, *arguments: str) -> str:
    """What char_lm.py prints; a failure shows all of it."""
    command = [sys.executable, str(EXAMPLES / "char_lm.py"), "--quick", "--out", str(tmp_path / "out"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bits(printed: str) -> float:
    return float(re.search(r"result: ([\d.]+) bits per character", printed)[1])


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru-before", "rnn"])
def test_char_lm_learns_and_writes(tmp_path, cell):
    printed = run(tmp_path, "--cell", cell)
    assert bits(printed) < 4.5  # of log2(97) = 6.6; knowing only how frequent each character is gives 4.8
    assert "characters at temperature" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


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
