"""Many to many, same length: a part of speech for every unit of a sentence, by a layer that reads both ways.

    x_t = [E[form t]; F[last three letters of t]]
    forwards  f_t = GRU(x_t, f_{t-1}),  backwards  b_t = GRU(x_t, b_{t+1})
    y_t = [f_t; b_t]  (concat)   or   f_t + b_t  (sum)
    p_t = softmax(W y_t + b)

Compared: reading forwards only, both ways joined by concat or by sum, and taking each form's most frequent tag.
Data: the Turkish Web Treebank, which the package turkish-treebanks contains. Its units are stems and suffixes.
"""

import sys
from collections import Counter, defaultdict
from importlib.metadata import distribution

import autograd.numpy as np
import matplotlib.pyplot as plt
from sklearn.metrics import ConfusionMatrixDisplay

import fusedrnn
from fusedrnn.interop.autograd import apply
from training import cross_entropy, dense, dense_params, dropout, fit, pad, parse_options, save, shuffled, verdict


def read_sentences() -> list[list[tuple[str, str]]]:
    """(form, tag) pairs of each sentence, from the package's two CoNLL-U files."""
    package, sentences = distribution("turkish-treebanks"), []
    for name in ("data/web.conllu", "data/wiki.conllu"):
        text = package.locate_file(name).read_text(encoding="utf-8")
        for block in text.split("\n\n"):
            rows = [line.split("\t") for line in block.splitlines() if line and not line.startswith("#")]
            if rows:
                sentences.append([(row[1].lower(), row[3]) for row in rows])
    return sentences


def numbered(items: list[str]) -> dict[str, int]:
    """A number from 1 for each item seen more than once; 0 is for all others."""
    return {item: i for i, item in enumerate((item for item, n in Counter(items).items() if n > 1), start=1)}


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(__doc__, arguments, {"steps": 60, "hidden": 32}, steps=400, hidden=64, rate=0.4)
    rng, H = np.random.default_rng(options.seed), options.hidden
    sentences = read_sentences()
    np.random.default_rng(0).shuffle(sentences)
    n = len(sentences) * 4 // 5
    units = [unit for sentence in sentences[:n] for unit in sentence]
    forms, ends = numbered([form for form, _ in units]), numbered([form[-3:] for form, _ in units])
    tags = sorted({tag for sentence in sentences for _, tag in sentence})
    data = [np.array([(forms.get(f, 0), ends.get(f[-3:], 0), tags.index(tag)) for f, tag in s]) for s in sentences]
    x_test, lengths_test = pad(data[n:])
    valid_test = np.arange(len(x_test))[:, None] < lengths_test
    truth = x_test[..., 2][valid_test]
    print(f"{len(sentences)} sentences, {sum(map(len, data))} units, {len(forms)} forms, {len(tags)} tags")

    def train(**directions):
        gru = fusedrnn.GRU(64, H, rng=rng, **directions)
        width = 2 * H if directions.get("merge") == "concat" else H
        params = {
            "E": (0.1 * rng.normal(size=(len(forms) + 1, 32))).astype("f4"),
            "F": (0.1 * rng.normal(size=(len(ends) + 1, 32))).astype("f4"),
            "gru": gru.params,
            "out": dense_params(rng, width, len(tags)),
        }

        def scores(params, x, lengths, rate=0.0):
            embedded = np.concatenate([params["E"][x[..., 0]], params["F"][x[..., 1]]], axis=-1)
            y, _ = apply(gru, params["gru"], dropout(rng, embedded, rate), lengths=lengths)
            return dense(params["out"], dropout(rng, y, rate))

        def loss(params, x, lengths):
            valid = np.arange(len(x))[:, None] < lengths
            return cross_entropy(scores(params, x, lengths, options.rate), x[..., 2], valid)

        fit(loss, params, (pad([data[i] for i in index]) for index in shuffled(rng, n, 32)), options.steps)
        return scores(params, x_test, lengths_test).argmax(axis=-1)[valid_test]

    usual = defaultdict(Counter)
    for form, tag in units:
        usual[form][tag] += 1
    commonest = Counter(tag for _, tag in units).most_common(1)[0][0]
    guess = [usual[form].most_common(1)[0][0] if form in usual else commonest for s in sentences[n:] for form, _ in s]
    order = [tags.index(tag) for sentence in sentences[n:] for _, tag in sentence]
    accuracy = {"most frequent tag": np.mean([tags[i] == g for i, g in zip(order, guess, strict=True)])}
    found = {
        "GRU forwards": train(),
        "GRU both ways, sum": train(bidirectional=True, merge="sum"),
        "GRU both ways, concat": train(bidirectional=True, merge="concat"),
    }
    accuracy |= {name: np.mean(tagged == truth) for name, tagged in found.items()}
    for name, value in accuracy.items():
        print(f"{name:22} {value:.3f}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5))
    left.barh(list(accuracy), list(accuracy.values()), color=["C7", "C0", "C0", "C0"])
    left.bar_label(left.containers[0], fmt="%.3f", padding=3)
    left.set(xlim=(0.5, 1), xlabel="accuracy on held-out sentences")
    left.invert_yaxis()
    ConfusionMatrixDisplay.from_predictions(
        truth, found["GRU both ways, concat"], labels=range(len(tags)), display_labels=tags, normalize="true",
        include_values=False, xticks_rotation="vertical", ax=right,
    )  # fmt: skip
    right.set_title("concat: which tag is taken for which")
    figure.tight_layout()
    save(figure, options.out, "tagging")
    return verdict("accuracy, concat", accuracy["GRU both ways, concat"], at_least=0.75 if options.quick else 0.92)


if __name__ == "__main__":
    sys.exit(main())
