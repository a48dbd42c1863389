"""Train a character-level language model on the Python standard library's own source, then let it write some.

    python examples/char_lm.py                      # about two minutes on two cores; more options: --help, README.md

    h_t, c_t = LSTM(x_t, h_{t-1}, c_{t-1})         x_t: the character at t, an integer (no one-hot, no embedding)
    p(x_{t+1} | x_1 ... x_t) = softmax(W h_t + b)
    loss = mean of -ln p(x_{t+1} | ...);           in bits per character: divided by ln 2

Gradients go back through the T steps of a chunk and no further; the state is carried on (truncated backpropagation
through time). All that is not fusedrnn's is written out here, gradients included. Text and batches are in
char_lm_text.py; options, files and the progress bar in char_lm_run.py; the model in torch in char_lm_torch.py.
"""

import math
import os
import sys
from collections.abc import Iterator
from typing import Any

# The threads of NumPy's matrix products keep spinning for a while after each product, on the cores that the recurrent
# layer needs next. The products here are small: one thread is enough. Must be set before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import fusedrnn
from char_lm_cells import make_layer
from char_lm_run import Arrays, Data, Progress, Run, parse_options, read_data, watched
from char_lm_text import UNKNOWN, Array, batches, encode

State = Any  # h, or (h, c); None is zeros


def cross_entropy(scores: Array, targets: Array) -> float:
    """Mean of -ln p(target) over rows. Turns the scores (N, V) into probabilities, in place."""
    scores -= scores.max(axis=1, keepdims=True)  # the largest exponent is 0: nothing overflows
    target_scores = scores[np.arange(targets.size), targets]
    np.exp(scores, out=scores)
    total = scores.sum(axis=1, keepdims=True)
    scores /= total
    return float(np.mean(np.log(total[:, 0]) - target_scores, dtype=np.float64))


class CharModel:
    """A recurrent layer that reads tokens, a dense layer that scores the next one, and Adam's two moments."""

    def __init__(self, options: Any, V: int) -> None:
        rng = np.random.default_rng(options.seed)
        self.layer = make_layer(options.cell, V, options.hidden, options.layers, rng)
        H = self.layer.hidden_size
        self.W = rng.uniform(-(H**-0.5), H**-0.5, (V, H)).astype(np.float32)
        self.b = np.zeros(V, np.float32)
        # The arrays themselves, not copies: changing them in place changes the model.
        self.params: Arrays = {**self.layer.params, "dense.weight": self.W, "dense.bias": self.b}
        self.m, self.v = ({name: np.zeros_like(p) for name, p in self.params.items()} for _ in range(2))

    def gradients(self, x: Array, targets: Array, state: State) -> tuple[float, Arrays, State]:
        """The mean loss on tokens x and targets, both (T, B), its gradients, and the state after x."""
        y, state, tape = self.layer.forward(x, state)
        h = y.reshape(targets.size, -1)  # all steps and rows below each other: one product for all of them
        p = h @ self.W.T + self.b
        loss = cross_entropy(p, targets.ravel())
        p[np.arange(targets.size), targets.ravel()] -= 1
        d_scores = np.divide(p, targets.size, out=p)  # the loss by the scores: (p - one_hot(target)) / N
        dy = (d_scores @ self.W).reshape(y.shape)
        dense = {"dense.weight": d_scores.T @ h, "dense.bias": d_scores.sum(axis=0)}
        return loss, tape.backward(dy).params | dense, state  # no gradient passes the start: that is the truncation

    def update(self, grads: Arrays, lr: float, step: int) -> None:
        """One step of Adam (Kingma & Ba 2015), after clipping by the norm of all gradients (Pascanu et al. 2013)."""
        fusedrnn.clip_grad_norm(grads, 1.0)
        correction = math.sqrt(1 - 0.999**step)
        rate, epsilon = lr * correction / (1 - 0.9**step), 1e-8 * correction
        for name, w in self.params.items():
            g, m, v = grads[name], self.m[name], self.v[name]
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            w -= rate * m / (np.sqrt(v) + epsilon)

    def loss_on(self, x: Array, targets: Array, state: State) -> tuple[float, State]:
        """Mean loss and the state after x; keeps nothing for a backward pass."""
        y, state = self.layer(x, state)
        return cross_entropy(y.reshape(targets.size, -1) @ self.W.T + self.b, targets.ravel()), state


def evaluate(model: Any, text: Array, length: int) -> float:
    """Bits per character over columns of text (N, B), each read to its end from a zero state."""
    total, state = 0.0, None
    for t in range(0, len(text) - 1, length):
        targets = text[t + 1 : t + 1 + length]
        loss, state = model.loss_on(text[t : t + len(targets)], targets, state)
        total += loss * len(targets)
    return total / (len(text) - 1) / math.log(2)


def train(model: Any, options: Any, data: Data, progress: Progress, run: Run | None = None) -> bool:
    """Train until the budget is spent (True) or Ctrl-C (False); the run keeps the best weights."""
    source = batches(data.tokens, options.batch, options.length, options.seed, progress.step)
    with watched(options, progress, run) as bar:
        while (spent := progress.spent(options)) < 1 and not bar.stop:
            first, x, targets = next(source)
            # The learning rate rises for a moment, then falls along half a cosine to a twentieth.
            lr = options.lr * min(1.0, (progress.step + 1) / 50) * (0.525 + 0.475 * math.cos(math.pi * spent))
            state = None if first else progress.state  # where the chunk before ended
            loss, grads, progress.state = model.gradients(x, targets, state)
            model.update(grads, lr, progress.step + 1)
            bar.count(loss / math.log(2))
            if progress.step % options.eval_every == 0 or progress.spent(options) >= 1:
                bar.evaluated(evaluate(model, data.held_out, options.length))
    return not bar.stop


def sample(model: CharModel, vocabulary: str, temperature: float, seed: int) -> Iterator[str]:
    """Draw characters one after the other, feeding each back: one row, one step, which is what a stream is for."""
    rng, stream, token = np.random.default_rng(seed), model.layer.freeze().stream(), encode("\n", vocabulary)
    while True:
        scores = model.W @ stream.step(token)[0] + model.b
        scores[UNKNOWN] = -np.inf  # the same as drawing again until a known character comes
        if temperature > 0:  # the largest of scores plus Gumbel noise is a draw from their softmax
            scores = scores / temperature + rng.gumbel(size=scores.size)
        token = scores.argmax(keepdims=True)
        yield vocabulary[token[0]]


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(arguments)
    data = read_data(options)
    model = CharModel(options, len(data.vocabulary))
    run = Run(options, model, data)
    if not train(model, options, data, run.progress, run):
        return 130
    run.take_best()
    reached = run.report(evaluate(model, data.held_out, options.length))
    if options.check_torch:
        from char_lm_torch import compare

        compare(train, options, data, run)
    run.write(sample(model, data.vocabulary, options.temperature, options.seed))
    return 0 if reached else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
