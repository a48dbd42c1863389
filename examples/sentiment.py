"""Many to one: is a sentence about a film kind or unkind? Beside logistic regression on a bag of words.

    x_t = E[word t]                        embedding
    h_t, c_t = LSTM(x_t, h_{t-1}, c_{t-1})   32 units; the acceptor's state is the one after the last word, h_n
    p = sigmoid(w . dropout(h_n) + b)

Each sentence ends where it ends: `lengths` gives the state at its last word, whatever it was padded with.
Data: the film reviews of vaderSentiment 0.5, which pip downloads (into --data) without installing it.
"""

import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import autograd.numpy as np
import matplotlib.pyplot as plt
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import fusedrnn
from fusedrnn.interop.autograd import apply
from training import dense, dense_params, dropout, fit, pad, parse_options, save, shuffled, sigmoid, verdict

UNKNOWN = 0


def read_reviews(folder: Path) -> tuple[list[str], np.ndarray]:
    """Sentences, and 1 for the kind ones, 0 for the unkind; those that 20 readers found neither are left out."""
    archive = folder / "vaderSentiment-0.5.zip"
    if not archive.exists():
        command = ["pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "vaderSentiment==0.5"]
        subprocess.run([sys.executable, "-m", *command], check=True)
    inside = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
    with zipfile.ZipFile(archive) as outer, outer.open(inside) as stream, tarfile.open(fileobj=stream) as inner:
        table = inner.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt").read().decode("latin-1")
    rows = [line.split("\t") for line in table.splitlines()]
    rows = [(float(mean), text) for _, mean, text in rows if abs(float(mean)) >= 0.5]
    return [text for _, text in rows], np.array([mean > 0 for mean, _ in rows], "f4")


def tokenize(text: str) -> list[str]:
    return (
        text.lower().replace("n't", " not").replace("'s", " 's").translate({ord(c): f" {c} " for c in ".,!?()"}).split()
    )


def word_ids(sentences: list[list[str]], n_train: int, at_least: int = 2) -> tuple[list[np.ndarray], list[str]]:
    """Tokens, and the vocabulary: the words seen at least that often in training; every other is UNKNOWN."""
    counts = Counter(word for sentence in sentences[:n_train] for word in sentence)
    vocabulary = ["<UNK>", *(word for word, n in counts.most_common() if n >= at_least)]
    ids = {word: i for i, word in enumerate(vocabulary)}
    return [np.array([ids.get(word, UNKNOWN) for word in s] or [UNKNOWN]) for s in sentences], vocabulary


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(
        __doc__, arguments, {"steps": 150}, steps=700, hidden=32, rate=0.5, data=Path("runs") / "data"
    )
    rng, H = np.random.default_rng(options.seed), options.hidden
    texts, kind = read_reviews(options.data)
    order = np.random.default_rng(0).permutation(len(texts))
    texts, kind = [texts[i] for i in order], kind[order]
    n = len(texts) * 4 // 5  # the last fifth is for testing
    words, vocabulary = word_ids([tokenize(text) for text in texts], n)
    print(f"{len(texts)} sentences, {kind.mean():.0%} of them kind; {len(vocabulary)} words")

    lstm = fusedrnn.LSTM(32, H, rng=rng)
    embedding = (0.1 * rng.normal(size=(len(vocabulary), 32))).astype("f4")
    params = {"E": embedding, "lstm": lstm.params, "out": dense_params(rng, H, 1)}

    def score(params, x, lengths, rate=0.0):
        """w . h_n + b for each of B sentences x (T, B)."""
        _, (h, _) = apply(lstm, params["lstm"], dropout(rng, params["E"][x], rate), lengths=lengths)
        return dense(params["out"], dropout(rng, h[-1], rate))[:, 0]

    def loss(params, x, lengths, target):
        """Binary cross-entropy: -ln p where kind, -ln(1 - p) where not."""
        a = score(params, x, lengths, options.rate)
        return np.mean(np.logaddexp(0, -a) * target + np.logaddexp(0, a) * (1 - target))

    def accuracy():
        x, lengths = pad(words[n:])
        return np.mean((score(params, x, lengths) > 0) == kind[n:])

    curve = []

    def check(step):
        curve.append((step, accuracy()))
        return f"accuracy {curve[-1][1]:.3f}"

    batches = ((*pad([words[i] for i in index]), kind[index]) for index in shuffled(rng, n, 64))
    fit(loss, params, batches, options.steps, lr=0.005, every=max(1, options.steps // 10), check=check)
    bag = make_pipeline(
        CountVectorizer(tokenizer=str.split, token_pattern=None), LogisticRegression(C=0.3, max_iter=500)
    )
    plain = [" ".join(tokenize(text)) for text in texts]
    of_bag = bag.fit(plain[:n], kind[:n]).score(plain[n:], kind[n:])
    print(
        f"accuracy: LSTM {curve[-1][1]:.3f}, bag of words {of_bag:.3f}, always the commoner answer "
        f"{max(kind[n:].mean(), 1 - kind[n:].mean()):.3f}"
    )
    ids = {word: i for i, word in enumerate(vocabulary)}
    for text in ("A wonderful film .", "Not a wonderful film .", "It is neither funny nor clever ."):
        x = np.array([ids.get(word, UNKNOWN) for word in tokenize(text)])[:, None]
        print(f"{sigmoid(score(params, x, [len(x)]))[0]:.2f}  {text}")

    figure, axes = plt.subplots(figsize=(6, 3))
    axes.plot(*zip(*curve, strict=True), "o-", label="LSTM, its state after the last word")
    axes.axhline(of_bag, color="C1", label="logistic regression, bag of words")
    axes.set(xlabel="training step", ylabel="accuracy on held-out sentences")
    axes.legend()
    save(figure, options.out, "sentiment")
    return verdict("accuracy of the LSTM", curve[-1][1], at_least=0.65 if options.quick else 0.75)


if __name__ == "__main__":
    sys.exit(main())
