"""A deep RNN: three layers, each with its own memory, and dense layers on top that have none.

    h1_t = GRU1(x_t,  h1_{t-1})        layer by layer upwards, and step by step to the right;
    h2_t = GRU2(h1_t, h2_{t-1})        between the layers dropout
    h3_t = GRU3(h2_t, h3_{t-1})
    a_t  = relu(V h3_t + c)            dense: the same at every step, with no connection from a_{t-1}
    p_t  = softmax(W a_t + b)

Task: what is each character of a Python program: a name, a keyword, a number, a string, a comment, ...? Beside it one
wide layer with as many parameters, and dense layers alone, which see one character and nothing before it.
Data: modules of Python's standard library; the truth comes from its own tokenize.
"""

import keyword
import sys
import sysconfig
import tokenize
from pathlib import Path

import autograd.numpy as np
import matplotlib.pyplot as plt
from matplotlib.patches import Patch

import fusedrnn
from fusedrnn.interop.autograd import apply
from training import cross_entropy, dense, dense_params, fit, leaves, parse_options, save, verdict

KINDS = ("space", "name", "keyword", "number", "operator", "string", "comment")
V = 128  # ASCII


def read_module(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Characters of a module (those beyond ASCII as 0), and the kind of each."""
    text = path.read_text(encoding="utf-8")
    starts = [0, *(i + 1 for i, c in enumerate(text) if c == "\n"), len(text)]
    kinds = np.zeros(len(text), int)
    plain = {tokenize.NUMBER: 3, tokenize.OP: 4, tokenize.STRING: 5, tokenize.COMMENT: 6}
    with path.open("rb") as stream:
        for token in tokenize.tokenize(stream.readline):
            kind = plain.get(token.type, 0)
            if token.type == tokenize.NAME:
                kind = 2 if keyword.iskeyword(token.string) else 1
            elif tokenize.tok_name[token.type].startswith("FSTRING"):
                kind = 5
            if kind:
                (row, column), (end_row, end_column) = token.start, token.end
                kinds[starts[row - 1] + column : starts[end_row - 1] + end_column] = kind
    return np.array([ord(c) if ord(c) < V else 0 for c in text]), kinds


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(
        __doc__, arguments, {"steps": 250, "hidden": 32, "modules": 20}, steps=500, hidden=64, modules=60
    )
    rng, H, T, B = np.random.default_rng(options.seed), options.hidden, 100, 32
    paths = sorted(p for p in Path(sysconfig.get_path("stdlib")).glob("*.py") if p.stem in sys.stdlib_module_names)
    modules = [read_module(path) for path in paths[: options.modules]]
    text, kinds = (np.concatenate(part) for part in zip(*modules, strict=True))
    n = len(text) * 9 // 10
    print(f"{n:,} characters to learn from, {len(text) - n:,} held out")

    def columns(part):
        """A text as (T, B): B pieces side by side."""
        return part[: len(part) // B * B].reshape(B, -1).T

    x_test, truth = columns(text[n:]), columns(kinds[n:])

    def batches():
        """T characters from B places anywhere in the text."""
        while True:
            places = np.arange(T)[:, None] + rng.integers(n - T, size=B)
            yield text[places], kinds[places]

    wide = int(np.sqrt(3) * H) + 1  # one layer of H' units has 3 (V H' + H'^2) weights
    while 3 * wide * (V + wide) > 3 * H * (V + H) + 2 * 6 * H * H:
        wide -= 1
    layers = {
        "dense layers alone": None,
        f"one layer of {wide}": fusedrnn.GRU(V, wide, rng=rng),
        f"three layers of {H}": fusedrnn.GRU(V, H, num_layers=3, dropout=0.1, rng=rng),
    }
    accuracy, shown = {}, None
    for name, layer in layers.items():
        width = layer.hidden_size if layer else V
        params = {
            "gru": layer.params if layer else {},
            "hidden": dense_params(rng, width, 64),
            "out": dense_params(rng, 64, len(KINDS)),
        }

        def scores(params, x, layer=layer):
            h = apply(layer, params["gru"], x)[0] if layer else np.eye(V, dtype="f4")[x]
            return dense(params["out"], np.maximum(0, dense(params["hidden"], h)))

        def loss(params, x, kinds, scores=scores):
            return cross_entropy(scores(params, x), kinds)

        fit(loss, params, batches(), options.steps, lr=0.005)
        found = scores(params, x_test).argmax(axis=-1)
        accuracy[name] = np.mean(found == truth)
        size = sum(p.size for p in leaves(params))
        print(f"{name:20} {size:7,} parameters, accuracy {accuracy[name]:.3f}")
        shown = found[:, 0]

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.6), width_ratios=(1, 2.4))
    left.bar_label(left.barh(list(accuracy), list(accuracy.values())), fmt="%.3f", padding=3)
    left.set(xlim=(0.5, 1.1), xlabel="accuracy on held-out characters")
    colours = ["k", "C0", "C1", "C3", "C7", "C2", "C4"]
    characters = [chr(c) for c in x_test[:1000, 0]]
    begins = characters.index("\n") + 1
    row = column = 0
    for c, kind in zip(characters[begins:], shown[begins:1000], strict=True):
        if c == "\n" and (row := row + 1) > 13:
            break
        column = 0 if c == "\n" else column + 1
        if c != "\n":
            right.text(column / 85, -row, c, color=colours[kind], family="monospace", fontsize=8)
    right.set(xlim=(0, 1), ylim=(-14, 1))
    right.axis("off")
    patches = [Patch(color=colour, label=kind) for colour, kind in zip(colours[1:], KINDS[1:], strict=True)]
    right.legend(handles=patches, ncols=6, loc="lower center", bbox_to_anchor=(0.5, -0.1), fontsize=8)
    figure.tight_layout()
    save(figure, options.out, "deep_rnn")
    deep = accuracy[f"three layers of {H}"]
    return verdict("accuracy of three layers", deep, at_least=0.75 if options.quick else 0.93)


if __name__ == "__main__":
    sys.exit(main())
