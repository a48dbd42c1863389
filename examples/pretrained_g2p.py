"""Pronounce words with g2p-en's trained network: its two GRUs, which are loops in NumPy, run by fusedrnn.

    pip install nltk inflect && pip install --no-deps g2p-en distance   # the network is inside
    python examples/pretrained_g2p.py                                   # compares and times both; about half a minute

A GRU reads a word letter by letter; another starts from its last state and writes phonemes until it writes "the end".
g2p-en has the weights in torch's convention under names of its own; `from_torch` needs no more than the right names.
Both run here as they are used there, one word at a time, and once more with all words at once, which lengths and
token input make easy. The words are those of Python's own source.
"""

import os
import re
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Small products: one thread is enough, and the others would spin on the cores. Must be set before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import fusedrnn

try:
    import nltk

    nltk.download = lambda *_, **__: False  # of a dictionary and a tagger, which the network does without
    import g2p_en.g2p
except ImportError as error:
    sys.exit(f"pretrained_g2p.py needs {error.name}: pip install nltk inflect && pip install --no-deps g2p-en distance")

Array = np.ndarray[Any, np.dtype[Any]]
START, END, LONGEST = 2, 3, 20  # phonemes "<s>", "</s>"; the original stops after 20
ONE_BY_ONE, ALL_AT_ONCE = 1000, 10_000  # words


class Network:
    """Encoder, decoder and the dense layer above it, with the original's weights."""

    def __init__(self, original: Any) -> None:
        self.letters = original.g2idx
        self.phonemes = original.idx2p
        self.encoder, self.decoder = (self.gru(original, part).freeze() for part in ("enc", "dec"))
        self.dense = np.ascontiguousarray(original.fc_w.T), original.fc_b
        self.stream = self.decoder.stream(batch_size=1)

    @staticmethod
    def gru(original: Any, part: str) -> Any:
        """One of the GRUs, with the embedding below it taken into its weights: its input is the tokens themselves."""
        weights = {"weight_ih_l0": getattr(original, f"{part}_w_ih") @ getattr(original, f"{part}_emb").T}
        weights |= {f"{name}_l0": getattr(original, f"{part}_{short}") for name, short in NAMES}
        return fusedrnn.interop.from_torch(weights, kind="GRU")

    def tokens(self, word: str) -> list[int]:
        unknown = self.letters["<unk>"]
        return [self.letters.get(letter, unknown) for letter in [*word, "</s>"]]

    def pronounce(self, word: str) -> list[str]:
        """One word, as the original does it."""
        W, b = self.dense
        _, self.stream.state = self.encoder(np.array(self.tokens(word))[:, None])
        token, found = np.array([START]), []
        for _ in range(LONGEST):
            token[0] = (self.stream.step(token) @ W + b).argmax()
            if token[0] == END:
                break
            found.append(self.phonemes[int(token[0])])
        return found

    def pronounce_all(self, words: list[str]) -> list[list[str]]:
        """All words in one batch, which shrinks as they end."""
        W, b = self.dense
        rows = [np.array(self.tokens(word)) for word in words]
        ids = np.zeros((max(map(len, rows)), len(rows)), np.int64)
        for k, row in enumerate(rows):
            ids[: len(row), k] = row
        _, state = self.encoder(ids, lengths=[len(row) for row in rows])
        found: list[list[str]] = [[] for _ in words]
        going, token = np.arange(len(rows)), np.full(len(rows), START)
        for _ in range(LONGEST):
            y, state = self.decoder(token[None], state)
            token = (y[0] @ W + b).argmax(axis=1)
            goes_on = token != END
            going, token, state = going[goes_on], token[goes_on], state[:, goes_on]
            for k, phoneme in zip(going, token, strict=True):
                found[k].append(self.phonemes[int(phoneme)])
        return found


#: torch's names and g2p-en's.
NAMES = (("weight_hh", "w_hh"), ("bias_ih", "b_ih"), ("bias_hh", "b_hh"))


def words_of_the_standard_library(count: int) -> list[str]:
    """The most frequent ones, longest names and all: few of them are in a pronouncing dictionary."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    found: Counter[str] = Counter()
    for file in files:
        found.update(re.findall(r"[a-z]{2,}", file.read_text(encoding="utf-8", errors="replace").lower()))
    return [word for word, _ in found.most_common(count)]


def fastest(rounds: int, *functions: Callable[[], Any]) -> list[float]:
    """Best time of each, in rounds of all of them, so that neighbours on the machine disturb all alike."""
    times = [float("inf")] * len(functions)
    for _ in range(rounds):
        for k, function in enumerate(functions):
            start = time.perf_counter()
            function()
            times[k] = min(times[k], time.perf_counter() - start)
    return times


def main() -> None:
    g2p_en.g2p.cmudict = SimpleNamespace(dict=dict)  # an empty dictionary: every word goes through the network
    original = g2p_en.g2p.G2p()
    network = Network(original)
    words = words_of_the_standard_library(ALL_AT_ONCE)
    with fusedrnn.threads(1):
        expected = [original.predict(word) for word in words]
        alone, together = [network.pronounce(word) for word in words], network.pronounce_all(words)
        print("activationist:", " ".join(network.pronounce("activationist")))
        for name, found in (("one by one", alone), ("all at once", together)):
            wrong = sum(a != b for a, b in zip(found, expected, strict=True))
            print(f"{name}: {len(words) - wrong} of {len(words)} words as the original pronounces them")
            if wrong:
                sys.exit("the outputs differ")
        some = words[:ONE_BY_ONE]
        mine, many, theirs = fastest(
            3,
            lambda: [network.pronounce(word) for word in some],
            lambda: network.pronounce_all(some),
            lambda: [original.predict(word) for word in some],
        )
    for name, seconds in (("g2p-en", theirs), ("one by one", mine), ("all at once", many)):
        print(f"{name}: {seconds / len(some) * 1e6:.0f} us a word, {theirs / seconds:.1f}x")


if __name__ == "__main__":
    main()
