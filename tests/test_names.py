"""Files, functions and constants named in comments and documents exist: names are the part of prose that ages."""

import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = (".ci", "benchmarks", "csrc", "docs", "examples", "python", "tests")
CODE = (".h", ".cpp", ".c", ".py", ".pyi", ".pxd", ".pyx", ".txt", ".toml", ".in")

#: Files that are generated, or belong to other projects, systems or users; a clone does not have them.
ELSEWHERE = {
    "isas.inc", "results.json", "model.onnx", "model.safetensors", "setup.py", "conf.py", "libasan.so", "_core.so",
    "gru.safetensors", "lstm.npz", "gru.md", "xla/ffi/api/c_api.h", "DIR/benchmarks.md", "lstm_test.py",
    "madmom/ml/nn/layers.py", "model_loader.h", "torch_helpers.h", "RTNeuralLSTM.cpp", "modelbin.cpp", "paramdict.cpp",
    "code/kernels/rnn_problems.h", "kernels/gemm_amx.cpp",
}  # fmt: skip

#: Names of other libraries.
FOREIGN = {"pure_callback", "recurrent_kernel", "clip_grad_value_", "cell_bw"}


def in_tree() -> list[Path]:
    files = [path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    return [path for path in files if "__pycache__" not in path.parts and path.suffix != ".so"]


@cache
def files() -> frozenset[str]:
    return frozenset("/" + path.relative_to(ROOT).as_posix() for path in in_tree())


def exists(name: str) -> bool:
    return name in ELSEWHERE or any(file.endswith("/" + re.sub(r"^(\.\./)+", "", name)) for file in files())


def source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def is_code(path: Path) -> bool:
    return path.suffix in CODE or path.name in ("run", "CMakeLists.txt")


@cache
def identifiers() -> frozenset[str]:
    """All words of the code, without comments and docstrings."""
    words: set[str] = set()
    for path in in_tree():
        if not is_code(path):
            continue
        text = source(path)
        if path.suffix in (".py", ".pyi"):
            try:
                tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
            except tokenize.TokenError:
                continue
            for kind, string, *_ in tokens:
                if kind == tokenize.NAME:
                    words.add(string)
                elif kind == tokenize.STRING and not string.lstrip("rbfRBF").startswith('"""'):
                    words.update(re.findall(r"\w+", string))
        else:
            words.update(re.findall(r"\w+", re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)))
    return frozenset(words)


def known(name: str) -> bool:
    """A parameter's name may contain the number of its layer, as in torch."""
    return name in FOREIGN or name in identifiers() or re.sub(r"_l\d+(_reverse)?$", "", name) in identifiers()


def prose(path: Path) -> str:
    """Comments and docstrings of code; documents without their code blocks."""
    text = source(path)
    if path.suffix == ".md":
        return re.sub(r"^```.*?^```", " ", text, flags=re.DOTALL | re.MULTILINE)
    if path.suffix in (".py", ".pyi"):
        words = []
        for kind, string, *_ in tokenize.generate_tokens(io.StringIO(text).readline):
            if kind == tokenize.COMMENT:
                words.append(string)
            elif kind == tokenize.STRING and string.startswith(('"""', 'r"""')):
                words.append(re.sub(r"^\s*(>>>|\.\.\.).*$", "", string, flags=re.MULTILINE))
        return "\n".join(words)
    if path.suffix in (".h", ".cpp", ".c"):
        return "\n".join(re.findall(r"//[^\n]*|/\*.*?\*/", text, flags=re.DOTALL))
    return "\n".join(re.findall(r"#[^\n]*", text))


TEXTS = sorted(
    (path for path in in_tree() if (is_code(path) or path.suffix == ".md") and path.name != Path(__file__).name),
    key=str,
)
HISTORY = {"CHANGELOG.md", "experiments.md"}  # these describe the past: files may be gone


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_in_prose_exist(path):
    text = prose(path)
    wrong = set()
    if path.name not in HISTORY:
        for name in re.findall(
            r"(?<![\w/.{<*~-])((?:[\w.-]+/)*\w[\w-]*\.(?:h|cpp|py|pyi|pxd|md|toml|inc))\b(?!\()", text
        ):
            if "://" not in name and not exists(name):
                wrong.add(name)
        wrong |= {name for name in re.findall(r"\bk[A-Z]\w+", text) if name not in identifiers()}
    quoted = re.findall(r"`(?:[\w.]+(?:\.|::))?(_?[a-z]\w*_\w+|[A-Z][a-z]+[A-Z]\w*|\w+)\(\)`", text)
    quoted += re.findall(r"`(?:\w+(?:\.|::))*(_?[a-z]+(?:_[a-z]\w*)+)`", text)
    if path.name not in HISTORY:
        wrong |= {name for name in quoted if not known(name)}
    assert not wrong, f"{path.relative_to(ROOT)} names what does not exist: {', '.join(sorted(wrong))}"
