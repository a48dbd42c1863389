"""The text of char_lm.py: files, characters as integers, and batches whose columns follow on from each other."""

import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
UNKNOWN = 0  # the token of every character too rare to be learned


def read_standard_library() -> tuple[str, str]:
    """Training text and held-out text: whole modules, every sixteenth one held out."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [f.read_text(encoding="utf-8", errors="replace") for f in files if f.stem in sys.stdlib_module_names]
    held_out = texts[8::16]
    del texts[8::16]
    return "".join(texts), "".join(held_out)


def read_files(paths: list[str]) -> tuple[str, str]:
    """Training text and held-out text: the last tenth of every file is held out."""
    train, held_out = "", ""
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            sys.exit(f"--text {path}: {error.strerror if isinstance(error, OSError) else f'not UTF-8: {error}'}")
        cut = len(text) - len(text) // 10
        train, held_out = train + text[:cut], held_out + text[cut:]
    return train, held_out


def make_vocabulary(text: str) -> str:
    """The characters seen often enough to learn, in one string: a character's token is its index."""
    at_least = max(2, len(text) // 100_000)
    return "\ufffd" + "".join(sorted(c for c, n in Counter(text).items() if n >= at_least and c != "\ufffd"))


def encode(text: str, vocabulary: str) -> Array:
    """Tokens of a text, int64; characters outside the vocabulary become UNKNOWN."""
    table = np.full(sys.maxunicode + 1, UNKNOWN, np.int64)
    table[[ord(c) for c in vocabulary]] = np.arange(len(vocabulary))
    return table[np.frombuffer(text.encode("utf-32-le"), np.uint32)]


def columns(tokens: Array, batch: int) -> Array:
    """Cut a text into `batch` equal pieces and lay them side by side: (N, batch), time first."""
    n = tokens.size // batch
    return np.ascontiguousarray(tokens[: n * batch].reshape(batch, n).T)


def batches(tokens: Array, batch: int, length: int, seed: int, step: int) -> Iterator[tuple[bool, Array, Array]]:
    """Endless (first of a pass?, inputs, targets), both (length, batch), from a given step on.

    Column b of a batch follows on column b of the one before, so its state can be carried over. Each pass starts
    elsewhere in the text. A batch depends on (seed, step) alone: there is no other state to save.
    """
    chunks = (tokens.size // batch - 1) // length
    while True:
        epoch, done = divmod(step, chunks)
        text = columns(np.roll(tokens, np.random.default_rng([seed, epoch]).integers(tokens.size)), batch)
        for t in range(done * length, chunks * length, length):
            yield t == 0, text[t : t + length], text[t + 1 : t + 1 + length]
        step += chunks - done
