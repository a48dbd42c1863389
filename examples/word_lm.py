"""A language model of words: which sentence is likelier, and what would come next?

    p(w_1 ... w_n <EOS>) = prod_t p(w_t | w_1 ... w_{t-1}),     perplexity = exp(-mean ln p)
    x_t = E[w_{t-1}],  h_t = LSTM(x_t, h_{t-1}),  p(w_t | ...) = softmax(W h_t + b)

A word seen only once is <UNK>; every sentence starts after and ends with <EOS>. Beside it the perplexity of counting
pairs of words. A sample ends at <EOS> or at a length, draws again instead of saying <UNK>, and a seed repeats it.
Data: Python's own language reference, as help("topics") shows it (pydoc_data in the standard library).
"""

import re
import sys
from collections import Counter
from itertools import pairwise
from pydoc_data.topics import topics

import autograd.numpy as np
import matplotlib.pyplot as plt

import fusedrnn
from fusedrnn.interop.autograd import apply
from training import (
    cross_entropy,
    dense,
    dense_params,
    dropout,
    fit,
    log_softmax,
    pad,
    parse_options,
    save,
    shuffled,
    verdict,
)

EOS, UNK = 0, 1


def read_sentences() -> list[list[str]]:
    """Sentences of the prose in lower case, each once; program text is indented further and left out."""
    paragraphs = re.split(r"\n\s*\n", "\n\n".join(topics[name] for name in sorted(topics)))
    prose = (" ".join(p.split()) for p in paragraphs if not p.startswith("    ") and len(p.split()) > 5)
    sentences = dict.fromkeys(s for p in prose for s in re.split(r"(?<=[.:])\s+(?=[A-Z*])", p) if s[-1] in ".:")
    words = (re.findall(r"[a-z_]+(?:['’][a-z]+)?|\d+|[^\sa-z\d]", s.lower()) for s in sentences)
    return [w for w in words if 4 <= len(w) <= 50]


def pair_perplexity(train: list[np.ndarray], test: list[np.ndarray], V: int) -> float:
    """p(w | v) = (count of v w + 5 p(w)) / (count of v + 5), where p(w) = (count of w + 1) / (all + V)."""
    pairs = Counter((v, w) for s in train for v, w in pairwise(s))
    before, single = Counter(v for s in train for v in s[:-1]), Counter(w for s in train for w in s[1:])
    N = single.total() + V
    tests = ((v, w) for s in test for v, w in pairwise(s))
    p = [(pairs[v, w] + 5 * (single[w] + 1) / N) / (before[v] + 5) for v, w in tests]
    return float(np.exp(-np.mean(np.log(p))))


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(
        __doc__, arguments, {"steps": 60, "hidden": 48}, steps=500, hidden=160, rate=0.4, temperature=0.7, longest=30
    )
    rng, H = np.random.default_rng(options.seed), options.hidden
    sentences = read_sentences()
    np.random.default_rng(0).shuffle(sentences)
    n = len(sentences) * 9 // 10
    counts = Counter(word for sentence in sentences[:n] for word in sentence)
    vocabulary = ["<EOS>", "<UNK>", *(word for word, count in counts.most_common() if count > 1)]
    ids, V = {word: i for i, word in enumerate(vocabulary)}, len(vocabulary)

    def encode(words):
        return np.array([EOS, *(ids.get(word, UNK) for word in words), EOS])

    data = [encode(sentence) for sentence in sentences]
    print(f"{len(data)} sentences, {sum(map(len, data)) - len(data):,} words of {V} kinds")
    lstm = fusedrnn.LSTM(64, H, rng=rng)
    params = {
        "E": (0.1 * rng.normal(size=(V, 64))).astype("f4"),
        "lstm": lstm.params,
        "out": dense_params(rng, H, V),
    }

    def scores(params, x, lengths=None, rate=0.0):
        y, _ = apply(lstm, params["lstm"], dropout(rng, params["E"][x], rate), lengths=lengths)
        return dense(params["out"], dropout(rng, y, rate))

    def loss(params, x, lengths, rate=0.0):
        """Mean of -ln p(w_t | w_1 ... w_{t-1}) over words and ends of sentences."""
        valid = np.arange(1, len(x))[:, None] < lengths
        return cross_entropy(scores(params, x[:-1], lengths - 1, rate), x[1:], valid)

    test, curve = pad(data[n:]), []

    def check(step):
        curve.append((step, float(np.exp(loss(params, *test)))))
        return f"held-out perplexity {curve[-1][1]:.1f}"

    batches = ((*pad([data[i] for i in index]), options.rate) for index in shuffled(rng, n, 32))
    fit(loss, params, batches, options.steps, lr=0.006, every=max(1, options.steps // 5), check=check)
    pairs = pair_perplexity(data[:n], data[n:], V)
    print(f"perplexity: LSTM {curve[-1][1]:.1f}, pairs of words {pairs:.1f}")

    def log_probability(text):
        x = encode(text.split())[:, None]
        logp = log_softmax(scores(params, x[:-1]))[:, 0]
        return float(np.sum(logp[np.arange(len(x) - 1), x[1:, 0]]))

    for pair in (("the value of the expression is true .", "the value of the expression are true ."),
                 ("a class is an object .", "object an is class a .")):  # fmt: skip
        print(*(f"ln p = {log_probability(text):7.1f}  {text}" for text in pair), sep="\n")

    def sample(seed):
        """One sentence, a step at a time: softmax(scores / temperature) without UNK, which is to draw again."""
        draw, stream = np.random.default_rng(seed), lstm.freeze().stream()
        words, word = [], EOS
        while len(words) < options.longest:
            a = dense(params["out"], stream.step(params["E"][[word]])[0]) / options.temperature
            a[UNK] = -np.inf
            word = int(np.argmax(a + draw.gumbel(size=V)))  # the largest of a + Gumbel noise is a draw from softmax(a)
            if word == EOS:
                break
            words.append(vocabulary[word])
        return " ".join(words)

    assert sample(1) == sample(1)
    for seed in range(4):
        print(f"seed {seed}: {sample(seed)}")

    figure, axes = plt.subplots(figsize=(6, 3))
    axes.plot(*zip(*curve, strict=True), "o-", label="LSTM")
    axes.axhline(pairs, color="C1", label="pairs of words")
    axes.set(xlabel="training step", ylabel="held-out perplexity")
    axes.legend()
    save(figure, options.out, "word_lm")
    return verdict("held-out perplexity", curve[-1][1], at_most=300 if options.quick else 65)


if __name__ == "__main__":
    sys.exit(main())
