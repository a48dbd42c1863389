"""One to one against many to one: a dense network sees a digit at once, a GRU reads it row by row.

    dense, one to one:      h = relu(W1 x + b1),  p = softmax(W2 h + b2)          x: all 64 pixels
    GRU, many to one:       h_t = GRU(x_t, h_{t-1}),  p = softmax(W h_8 + b)      x_t: row t, 8 pixels

The dense network has a weight for every pixel; the GRU uses the same weights for every row, and has an opinion after
each of them, which is the picture drawn here.
"""

import sys

import autograd.numpy as np
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fusedrnn
from fusedrnn.interop.autograd import apply
from training import cross_entropy, dense, dense_params, fit, leaves, parse_options, save, shuffled, verdict


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(__doc__, arguments, {"steps": 150}, steps=1000, hidden=64)
    rng, H = np.random.default_rng(options.seed), options.hidden
    pixels, digits = load_digits(return_X_y=True)
    split = train_test_split(pixels.astype("f4") / 16, digits, test_size=0.25, random_state=0, stratify=digits)
    x, x_test, target, target_test = split

    def dense_scores(params, x):
        return dense(params["second"], np.maximum(0, dense(params["first"], x)))

    gru = fusedrnn.GRU(8, H, rng=rng)

    def gru_scores(params, x):
        """After each row: (8, B, 10)."""
        rows = x.reshape(-1, 8, 8).transpose(1, 0, 2)  # time first: (T, B, I)
        y, _ = apply(gru, params["gru"], rows)
        return dense(params["out"], y)

    def dense_loss(params, x, target):
        return cross_entropy(dense_scores(params, x), target)

    def gru_loss(params, x, target):
        return cross_entropy(gru_scores(params, x)[-1], target)

    dense_model = {"first": dense_params(rng, 64, H), "second": dense_params(rng, H, 10)}
    gru_model = {"gru": gru.params, "out": dense_params(rng, H, 10)}
    for model, loss in ((dense_model, dense_loss), (gru_model, gru_loss)):
        fit(loss, model, ((x[i], target[i]) for i in shuffled(rng, len(x), 64)), options.steps)

    def accuracy(scores):
        return np.mean(scores.argmax(axis=-1) == target_test, axis=-1)

    at_once, row_by_row = accuracy(dense_scores(dense_model, x_test)), accuracy(gru_scores(gru_model, x_test))
    for name, model, figure in (("dense", dense_model, at_once), ("GRU", gru_model, row_by_row[-1])):
        print(f"{name:6} {sum(p.size for p in leaves(model)):6} parameters, accuracy {figure:.3f} of {len(x_test)}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), width_ratios=(1, 2))
    left.imshow(x_test[0].reshape(8, 8), cmap="gray_r")
    left.set(title=f"a {target_test[0]}, read from the top", xticks=[], ylabel="row")
    right.plot(range(1, 9), row_by_row, "o-", label="GRU, after each row")
    right.axhline(at_once, color="C1", label="dense, all pixels at once")
    right.set(xlabel="rows read", ylabel="accuracy", ylim=(0, 1.02))
    right.legend()
    save(figure, options.out, "digits")
    return verdict("accuracy of the GRU", row_by_row[-1], at_least=0.9 if options.quick else 0.96)


if __name__ == "__main__":
    sys.exit(main())
