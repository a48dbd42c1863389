"""Embed, encode, attend, predict: an acceptor that looks at all its states, not at the last alone.

    embed     x_t = E[word t]
    encode    h_t = BiLSTM(x_1 ... x_T)_t
    attend    a_t = exp(w . h_t) / sum_s exp(w . h_s)   over the words of the sentence, and no padding
              s = sum_t a_t h_t
    predict   p = sigmoid(v . s + b)

The same film reviews as in sentiment.py; beside it the acceptor that takes the last state. The weights a_t show which
words decided.
"""

import sys
from pathlib import Path

import autograd.numpy as np
import matplotlib.pyplot as plt

import fusedrnn
from fusedrnn.interop.autograd import apply
from sentiment import read_reviews, tokenize, word_ids
from training import (
    dense,
    dense_params,
    dropout,
    fit,
    log_softmax,
    pad,
    parse_options,
    save,
    shuffled,
    sigmoid,
    verdict,
)


def attend(w, h, lengths):
    """Weights (T, B) and the weighted mean of h (T, B, H)."""
    valid = np.arange(len(h))[:, None] < np.asarray(lengths)
    scores = np.where(valid, np.tensordot(h, w, 1), -np.inf)  # exp(-inf) = 0: no weight past the end
    a = np.exp(log_softmax(scores.T)).T
    return a, np.sum(a[:, :, None] * h, axis=0)


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(
        __doc__, arguments, {"steps": 150}, steps=500, hidden=32, rate=0.5, data=Path("runs") / "data"
    )
    rng, H = np.random.default_rng(options.seed), options.hidden
    texts, kind = read_reviews(options.data)
    order = np.random.default_rng(0).permutation(len(texts))
    texts, kind = [texts[i] for i in order], kind[order]
    n = len(texts) * 4 // 5
    words, vocabulary = word_ids([tokenize(text) for text in texts], n)

    def model(attending):
        """(parameters, function of the parameters and a batch that returns scores and weights)."""
        lstm = fusedrnn.LSTM(32, H, bidirectional=True, rng=rng)
        params = {
            "E": (0.1 * rng.normal(size=(len(vocabulary), 32))).astype("f4"),
            "lstm": lstm.params,
            "w": np.zeros(2 * H, "f4"),  # at first all words weigh the same
            "out": dense_params(rng, 2 * H, 1),
        }

        def score(params, x, lengths, rate=0.0):
            h, (h_n, _) = apply(lstm, params["lstm"], dropout(rng, params["E"][x], rate), lengths=lengths)
            if attending:
                a, s = attend(params["w"], h, lengths)
            else:  # the last state of each direction, which for the one that runs backwards is at the first word
                a, s = None, np.concatenate([h_n[0], h_n[1]], axis=1)
            return dense(params["out"], dropout(rng, s, rate))[:, 0], a

        return params, score

    def train(attending):
        params, score = model(attending)

        def loss(params, x, lengths, target):
            margin, _ = score(params, x, lengths, options.rate)
            return np.mean(np.logaddexp(0, margin * (1 - 2 * target)))  # -ln p of the right answer

        batches = ((*pad([words[i] for i in index]), kind[index]) for index in shuffled(rng, n, 64))
        fit(loss, params, batches, options.steps, lr=0.005)
        x, lengths = pad(words[n:])
        margin, a = score(params, x, lengths)
        return np.mean((margin > 0) == kind[n:]), sigmoid(margin), a

    by_last, _, _ = train(attending=False)
    by_attention, p, a = train(attending=True)
    print(f"accuracy: last state {by_last:.3f}, attention {by_attention:.3f}")

    shown = [i for i in range(len(p)) if 8 <= len(words[n + i]) <= 16 and (p[i] > 0.5) == kind[n + i]][:8]
    figure, axes = plt.subplots(figsize=(10, 3.2))
    axes.set(xlim=(0, 1), ylim=(-len(shown), 0.5))
    axes.axis("off")
    axes.set_title("weights a_t of each word, and p(kind)", fontsize=10)
    for row, i in enumerate(shown):
        axes.text(0, -row, f"{p[i]:.2f}", family="monospace", fontsize=9, va="center")
        place = 0.06
        for word, weight in zip(tokenize(texts[n + i]), a[:, i], strict=False):
            colour = plt.get_cmap("Oranges")(min(0.8, 2 * weight))
            box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
            axes.text(place, -row, word, family="monospace", fontsize=9, va="center", bbox=box)
            place += 0.0103 * (len(word) + 1)
    save(figure, options.out, "attention")
    assert np.allclose(a.sum(axis=0), 1, atol=1e-5)
    return verdict("accuracy with attention", by_attention, at_least=0.65 if options.quick else 0.76)


if __name__ == "__main__":
    sys.exit(main())
