"""What the examples share: options, a dense layer, losses, batches, clipping, a progress bar, pictures and the verdict.

The recurrent layers and Adam are fusedrnn's. Everything else is NumPy that autograd differentiates. Parameters are a
dict of arrays, or of such dicts: what autograd takes and gives back. ``layer.params`` is one, and its arrays are live:
what Adam changes in place, the layer has.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fusedrnn

try:
    import autograd.numpy as np
    import matplotlib
    from autograd import value_and_grad
    from autograd.scipy.special import logsumexp
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f'the gallery needs {error.name}: pip install ".[gallery]"')

matplotlib.use("agg")
# NumPy's threads keep spinning for a while after a product, on the cores that the recurrent layer needs next.
threadpool_limits(1, user_api="blas")

Array = Any
Params = dict[str, Any]


def parse_options(doc: str, arguments: list[str] | None, quick: dict[str, Any], **defaults: Any) -> argparse.Namespace:
    """The options every example has, and an option for each of `defaults`; --quick puts `quick` in their place."""
    name = Path(sys.modules["__main__"].__file__ or "").stem if arguments is None else "example"
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs") / name, help="folder for pictures (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small version, in a few seconds")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches, samples (%(default)s)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="(%(default)s)")
    for option, value in defaults.items():
        parser.add_argument("--" + option.replace("_", "-"), type=type(value), default=value, help="(%(default)s)")
    if parser.parse_known_args(arguments)[0].quick:
        parser.set_defaults(**quick)
    options = parser.parse_args(arguments)
    fusedrnn.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def dense_params(rng: Any, inputs: int, outputs: int) -> Params:
    """W ~ U(-1/sqrt(inputs), 1/sqrt(inputs)) and b = 0."""
    bound = inputs**-0.5
    return {"W": rng.uniform(-bound, bound, (inputs, outputs)).astype("f4"), "b": np.zeros(outputs, "f4")}


def dense(p: Params, x: Array) -> Array:
    """x W + b, for x of any number of axes: at every step the same W, and no connection from step to step."""
    return np.tensordot(x, p["W"], 1) + p["b"]


def sigmoid(a: Array) -> Array:
    return 0.5 * (np.tanh(0.5 * a) + 1)


def dropout(rng: Any, x: Array, rate: float) -> Array:
    """Each value kept with probability 1 - rate, and then larger by as much (training only)."""
    return x * (rng.random(x.shape) >= rate).astype("f4") / (1 - rate)


def log_softmax(scores: Array) -> Array:
    return scores - logsumexp(scores, axis=-1, keepdims=True)


def cross_entropy(scores: Array, targets: Array, valid: Array = True) -> Array:
    """Mean of -ln p(target) over the valid places: scores (..., V), integers targets and booleans valid (...)."""
    flat = log_softmax(scores).reshape(-1, scores.shape[-1])
    of_targets = flat[np.arange(targets.size), targets.reshape(-1)].reshape(targets.shape)
    weight = np.broadcast_to(valid, targets.shape).astype("f4")
    return -np.sum(of_targets * weight) / np.sum(weight)


def pad(sequences: list[Array]) -> tuple[Array, Array]:
    """Sequences of different length as one array (T, B, ...), zero past each end, and their lengths (B,)."""
    lengths = np.array([len(s) for s in sequences])
    first = np.asarray(sequences[0])
    padded = np.zeros((lengths.max(), len(sequences), *first.shape[1:]), first.dtype)
    for b, sequence in enumerate(sequences):
        padded[: len(sequence), b] = sequence
    return padded, lengths


def shuffled(rng: Any, n: int, batch: int) -> Iterator[Array]:
    """Endless batches of indices below n, in a new order at each pass."""
    while True:
        order = rng.permutation(n)
        yield from (order[i : i + batch] for i in range(0, n - batch + 1, batch))


def leaves(tree: Params) -> Iterator[Array]:
    """The arrays of a dict of arrays or of such dicts."""
    for value in tree.values():
        yield from leaves(value) if isinstance(value, dict) else (value,)


def copied(tree: Params) -> Params:
    """The same dict of arrays or of such dicts, of arrays that nobody else has and that can be changed in place."""
    return {name: copied(value) if isinstance(value, dict) else np.array(value) for name, value in tree.items()}


class Adam:
    """fusedrnn's Adam, after clipping by the norm of all gradients together (Pascanu et al. 2013)."""

    def __init__(self, params: Params, clip: float) -> None:
        self.optimiser, self.clip = fusedrnn.optim.Adam(params), clip

    def step(self, grads: Params, lr: float) -> float:
        """Change the parameters in place; returns the norm before clipping. FloatingPointError if it is not finite."""
        gradients = copied(grads)
        norm = fusedrnn.clip_grad_norm(gradients, self.clip)
        self.optimiser.lr = float(lr)
        self.optimiser.step(gradients)
        return norm


def fit(
    loss: Callable[..., Array],
    params: Params,
    batches: Iterator[Any],
    steps: int,
    lr: float = 0.01,
    clip: float = 1.0,
    every: int = 0,
    check: Callable[[int], str] | None = None,
) -> list[float]:
    """Adam on loss(params, *batch); the rate falls along half a cosine. check(step) is shown each `every` steps."""
    adam, both, losses = Adam(params, clip), value_and_grad(loss), []
    with tqdm(range(1, steps + 1), disable=None, leave=False) as bar:
        for step in bar:
            value, grads = both(params, *next(batches))
            adam.step(grads, lr * (0.525 + 0.475 * np.cos(np.pi * step / steps)))
            losses.append(float(value))
            bar.set_postfix_str(f"loss {np.mean(losses[-20:]):.3f}", refresh=False)
            if check and (step % every == 0 or step == steps):
                bar.write(f"step {step:5}  loss {np.mean(losses[-every:]):.3f}  {check(step)}")
    return losses


def save(figure: Any, out: Path, name: str) -> None:
    """The figure as SVG and PNG."""
    for ending in ("svg", "png"):
        figure.savefig(out / f"{name}.{ending}", dpi=110, bbox_inches="tight")
    print(f"drawn: {out / name}.svg, .png")


def verdict(what: str, figure: float, at_least: float = -np.inf, at_most: float = np.inf) -> int:
    """Print the figure that an example must reach; returns the exit status: 0 if it was reached."""
    bound = f"at least {at_least:g}" if np.isfinite(at_least) else f"at most {at_most:g}"
    print(f"reached: {what} {figure:.3f}; expected {bound}")
    return 0 if at_least <= figure <= at_most else 1
