"""Train a character-level language model on the Python standard library's own source, then let it write some.

    python examples/char_lm.py                            # about two minutes on two cores; nothing is downloaded
    python examples/char_lm.py --text book.txt            # your own UTF-8 text
    python examples/char_lm.py --resume                   # carry on after Ctrl-C, or sample again from a finished run
    python examples/char_lm.py --cell gru --check-torch   # the same training in torch as well, side by side

Read it from top to bottom: text, model, training, sampling. What it shows of fusedrnn: integers as input (no one-hot,
no embedding), truncated backpropagation through time (a chunk starts from the state in which the one before it ended),
a tape and its gradients, clipping, and `freeze().stream().step` for sampling. Everything it writes goes into --out.
"""

import argparse
import hashlib
import importlib.util
import json
import math
import os
import signal
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

# The threads of NumPy's matrix products keep spinning for a while after each product, on the cores that the recurrent
# layer needs next. The products here are small: one thread is enough. Must be set before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import fusedrnn

try:
    from safetensors import safe_open
    from safetensors.numpy import save_file
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f'char_lm.py needs {error.name}: pip install ".[examples]"')

Array = np.ndarray[Any, np.dtype[Any]]
State = Any  # h, or (h, c); None is zeros
Options = argparse.Namespace
Arrays = dict[str, Array]
UNKNOWN = 0  # the token of every character too rare to be learned
CLIP_NORM = 1.0
QUICK = {"hidden": 64, "batch": 16, "length": 32, "steps": 600, "eval_every": 200, "max_chars": 200_000, "threads": 1}
FIXED = ("text", "max_chars", "cell", "layers", "hidden", "batch", "length", "seed")  # what --resume may not change


# ---------------------------------------------------------------------------------------------------------------- text
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


# --------------------------------------------------------------------------------------------------------------- model
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

    def __init__(self, options: Options, V: int) -> None:
        H, L, rng = options.hidden, options.layers, np.random.default_rng(options.seed)
        kind: Any = {"lstm": fusedrnn.LSTM, "rnn": fusedrnn.RNN}.get(options.cell, fusedrnn.GRU)
        self.layer = kind(V, H, L, rng=rng, **({"reset_after": False} if options.cell == "gru-before" else {}))
        self.weight = rng.uniform(-(H**-0.5), H**-0.5, (V, H)).astype(np.float32)
        self.bias = np.zeros(V, np.float32)
        # The arrays themselves, not copies: changing them in place changes the model.
        self.params: Arrays = {**self.layer.params, "dense.weight": self.weight, "dense.bias": self.bias}
        self.m: Arrays = {f"adam.m.{name}": np.zeros_like(p) for name, p in self.params.items()}
        self.v: Arrays = {f"adam.v.{name}": np.zeros_like(p) for name, p in self.params.items()}
        self.scores = np.empty((options.length * options.batch, V), np.float32)
        self.dy = np.empty((options.length * options.batch, H), np.float32)

    def score(self, y: Array) -> Array:
        """Scores of the next token, (T*B, V), for y (T, B, H): one matrix product over all steps and rows."""
        rows = y.reshape(-1, y.shape[-1])
        scores = np.matmul(rows, self.weight.T, out=self.scores[: len(rows)])
        scores += self.bias
        return scores

    def gradients(self, x: Array, targets: Array, state: State) -> tuple[float, Arrays, State]:
        """The mean loss on tokens x and targets, both (T, B), its gradients, and the state after x."""
        y, state, tape = self.layer.forward(x, state)
        p = self.score(y)
        loss = cross_entropy(p, targets.ravel())
        p[np.arange(targets.size), targets.ravel()] -= 1
        p /= targets.size  # now the gradient of the loss by the scores: (p - one_hot(target)) / N
        dy = np.matmul(p, self.weight, out=self.dy).reshape(y.shape)
        grads = dict(tape.backward(dy).params)  # no gradient passes the start of the chunk: that is the truncation
        grads["dense.weight"] = p.T @ y.reshape(-1, y.shape[-1])
        grads["dense.bias"] = p.sum(axis=0)
        return loss, grads, state

    def update(self, grads: Arrays, lr: float, step: int) -> None:
        """One step of Adam (Kingma & Ba 2015), with both bias corrections in the two scalars."""
        fusedrnn.clip_grad_norm(grads, CLIP_NORM)
        correction = math.sqrt(1 - 0.999**step)
        rate, epsilon = lr * correction / (1 - 0.9**step), 1e-8 * correction
        for name, w in self.params.items():
            g, m, v = grads[name], self.m[f"adam.m.{name}"], self.v[f"adam.v.{name}"]
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            w -= rate * m / (np.sqrt(v) + epsilon)

    def train_on(self, x: Array, targets: Array, state: State, lr: float, step: int) -> tuple[float, State]:
        """Learn from tokens x and targets, both (T, B). Returns the mean loss and the state after x."""
        loss, grads, state = self.gradients(x, targets, state)
        self.update(grads, lr, step)
        return loss, state

    def loss_on(self, x: Array, targets: Array, state: State) -> tuple[float, State]:
        """Mean loss and the state after x; keeps nothing for a backward pass."""
        y, state = self.layer(x, state)
        return cross_entropy(self.score(y), targets.ravel()), state


class TorchModel:
    """The same model, starting weights and training step in torch, for --check-torch."""

    def __init__(self, options: Options, params: Arrays) -> None:
        import torch

        torch.set_num_threads(fusedrnn.get_num_threads())
        kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[options.cell]
        V, H = params["dense.weight"].shape
        self.torch, self.one_hot = torch, torch.eye(V)  # torch's layers take vectors, not tokens
        self.net = torch.nn.ModuleDict({"layer": kind(V, H, options.layers), "dense": torch.nn.Linear(H, V)})
        self.net.load_state_dict({n if "." in n else f"layer.{n}": torch.from_numpy(p) for n, p in params.items()})
        self.optimiser = torch.optim.Adam(self.net.parameters())

    def forward(self, x: Array, targets: Array, state: State) -> tuple[Any, State]:
        y, state = self.net["layer"](self.one_hot[self.torch.from_numpy(x)], state)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        scores, flat_targets = self.net["dense"](y).flatten(0, 1), self.torch.from_numpy(targets).flatten()
        return self.torch.nn.functional.cross_entropy(scores, flat_targets), state

    def train_on(self, x: Array, targets: Array, state: State, lr: float, step: int) -> tuple[float, State]:
        self.optimiser.param_groups[0]["lr"] = lr
        self.optimiser.zero_grad()
        loss, state = self.forward(x, targets, state)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.net.parameters(), CLIP_NORM)
        self.optimiser.step()
        return loss.item(), state

    def loss_on(self, x: Array, targets: Array, state: State) -> tuple[float, State]:
        with self.torch.no_grad():
            loss, state = self.forward(x, targets, state)
        return loss.item(), state


Model = CharModel | TorchModel


def evaluate(model: Model, text: Array, length: int) -> float:
    """Bits per character over columns of text (N, B), each read to its end from a zero state."""
    total, state = 0.0, None
    for t in range(0, len(text) - 1, length):
        targets = text[t + 1 : t + 1 + length]
        loss, state = model.loss_on(text[t : t + len(targets)], targets, state)
        total += loss * len(targets)
    return total / (len(text) - 1) / math.log(2)


# ------------------------------------------------------------------------------------------------------------ training
@dataclass
class Progress:
    """Where a run stands. With the model's arrays, all it takes to carry on as if it had never stopped."""

    step: int = 0
    seconds: float = 0.0  # spent in training steps, evaluation excluded
    best: float = math.inf  # held-out bits per character
    recent: list[float] = field(default_factory=list)  # training bits per character since the last evaluation
    curve: list[tuple[int, float, float]] = field(default_factory=list)  # step, training bits, held-out bits
    state: State = None

    def spent(self, options: Options) -> float:
        """The part of the budget that is used up."""
        return float(self.seconds / options.seconds if options.seconds else self.step / options.steps)


def save(path: Path, arrays: Arrays, about: dict[str, Any]) -> None:
    """Write a safetensors file, whole or not at all; `about` goes into its header as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, path.with_suffix(".part"), metadata={"char_lm": json.dumps(about)})
    os.replace(path.with_suffix(".part"), path)


def load(path: Path) -> tuple[Arrays, dict[str, Any]]:
    if not path.is_file():
        sys.exit(f"--resume: there is no {path}; train first, or name the run's folder with --out")
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in list(file.keys())}, json.loads(file.metadata()["char_lm"])


def save_checkpoint(path: Path, model: CharModel, progress: Progress, about: dict[str, Any]) -> None:
    states = progress.state if isinstance(progress.state, tuple) else (progress.state,)
    arrays = model.params | model.m | model.v | {f"state.{i}": s for i, s in enumerate(states)}
    save(path, arrays, about | {"progress": {**vars(progress), "state": None}})


def load_checkpoint(path: Path, model: CharModel) -> Progress:
    arrays, about = load(path)
    states = tuple(arrays.pop(name) for name in ("state.0", "state.1") if name in arrays)
    for name, a in (model.params | model.m | model.v).items():
        np.copyto(a, arrays[name])
    return Progress(**about["progress"] | {"state": states if len(states) == 2 else states[0]})


def train(
    model: Model, options: Options, tokens: Array, held_out: Array, progress: Progress, about: dict[str, Any]
) -> bool:
    """Train until the budget is spent (True) or Ctrl-C (False). Saves the CharModel; torch's is only compared."""
    folder, per_step = Path(options.out), options.batch * options.length
    stop: list[Any] = []  # Ctrl-C leaves a note, so that no step stays half applied; a second one interrupts at once
    usual = signal.signal(signal.SIGINT, lambda *_: stop.append(signal.signal(signal.SIGINT, usual)))
    source = batches(tokens, options.batch, options.length, options.seed, progress.step)
    total = None if options.seconds else options.steps * per_step
    bar = tqdm(total=total, initial=progress.step * per_step, unit="char", unit_scale=True, disable=None, leave=False)
    while (spent := progress.spent(options)) < 1 and not stop:
        start = time.perf_counter()
        first, x, targets = next(source)
        # The learning rate rises for a moment, then falls along half a cosine to a twentieth.
        lr = options.lr * min(1.0, (progress.step + 1) / 50) * (0.525 + 0.475 * math.cos(math.pi * spent))
        try:
            loss, state = model.train_on(x, targets, None if first else progress.state, lr, progress.step + 1)
        except FloatingPointError as error:
            sys.exit(f"step {progress.step + 1}: {error}; try a smaller --lr")
        progress.step, progress.state = progress.step + 1, state
        progress.seconds += time.perf_counter() - start
        progress.recent.append(loss / math.log(2))
        bar.set_postfix_str(f"{np.mean(progress.recent[-50:]):.3f} bits/char", refresh=False)
        bar.update(per_step)
        if progress.step % options.eval_every == 0 or progress.spent(options) >= 1:
            bits = evaluate(model, held_out, options.length)
            progress.curve.append((progress.step, float(np.mean(progress.recent)), bits))
            progress.recent.clear()
            bar.write("step {:6}   training {:.3f}   held-out {:.3f} bits/char".format(*progress.curve[-1]))
            if isinstance(model, CharModel):
                if bits < progress.best:
                    progress.best = bits
                    save(folder / "best.safetensors", model.params, about | {"bits_per_character": bits})
                save_checkpoint(folder / "checkpoint.safetensors", model, progress, about)
    bar.close()
    signal.signal(signal.SIGINT, usual)
    if stop and progress.step and isinstance(model, CharModel):
        save_checkpoint(folder / "checkpoint.safetensors", model, progress, about)
    return not stop


# ------------------------------------------------------------------------------------------------------------ sampling
def sample(model: CharModel, vocabulary: str, temperature: float, seed: int) -> Iterator[str]:
    """Draw characters one after the other, feeding each back: one row, one step, which is what a stream is for."""
    rng = np.random.default_rng(seed)
    stream = model.layer.freeze().stream()
    token = encode("\n", vocabulary)
    while True:
        scores = model.weight @ stream.step(token)[0] + model.bias
        scores[UNKNOWN] = -np.inf  # the same as drawing again until a known character comes
        if temperature > 0:  # the largest of scores plus Gumbel noise is a draw from their softmax
            scores = scores / temperature + rng.gumbel(size=scores.size)
        token = scores.argmax(keepdims=True)
        yield vocabulary[token[0]]


# ------------------------------------------------------------------------------------------------------------- command
def parse_options(arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--text", nargs="+", metavar="FILE", help="UTF-8 files to learn from instead of Python's standard library")
    add("--out", default="runs/char_lm", metavar="DIR", help="where the run is kept")
    add("--resume", action="store_true", help="carry on with the run in --out, with its options")
    add("--quick", action="store_true", help="a tiny model in a few seconds, kept in runs/char_lm_quick")
    add("--check-torch", action="store_true", help="train torch on the same batches, too, and compare")
    add("--cell", choices=("lstm", "gru", "gru-before", "rnn"), default="lstm", help="kind of layer")
    add("--layers", type=int, default=1, metavar="L", help="stacked layers")
    add("--hidden", type=int, default=256, metavar="H", help="hidden units per layer")
    add("--batch", type=int, default=32, metavar="B", help="places in the text that are read side by side")
    add("--length", type=int, default=64, metavar="T", help="steps that gradients go back through time")
    add("--steps", type=int, default=4500, metavar="N", help="training steps")
    add("--seconds", type=float, metavar="S", help="train this long, whatever --steps says; not reproducible")
    add("--lr", type=float, help="highest learning rate; None is 0.01, for rnn 0.004")
    add("--eval-every", type=int, default=500, metavar="N", help="steps between evaluations")
    add("--max-chars", type=int, default=10_000_000, metavar="N", help="use no more text than this")
    add("--seed", type=int, default=0, help="of starting weights, batches and sample")
    add("--threads", type=int, default=fusedrnn.get_num_threads(), metavar="N", help="of the recurrent layer")
    add("--sample", type=int, default=600, metavar="N", help="characters to write at the end")
    add("--temperature", type=float, default=0.8, help="of sampling; 0 always takes the likeliest character")

    options = parser.parse_args(arguments)
    if options.quick:
        parser.set_defaults(**QUICK, out="runs/char_lm_quick")
        options = parser.parse_args(arguments)
    if options.resume:
        saved = load(Path(options.out) / "checkpoint.safetensors")[1]["options"]
        parser.set_defaults(**saved)
        options = parser.parse_args(arguments)
        for name in FIXED:
            if getattr(options, name) != saved[name]:
                parser.error(f"--resume: the run has {name} {saved[name]}, not {getattr(options, name)}")
    options.lr = options.lr or (0.004 if options.cell == "rnn" else 0.01)
    for name in ("layers", "hidden", "batch", "length", "steps", "eval_every", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; expected at least 1")
    if options.check_torch and options.cell == "gru-before":
        parser.error("--check-torch: torch has no GRU that resets before the product; --cell gru has a twin there")
    if options.check_torch and (options.resume or options.seconds):
        parser.error("--check-torch compares whole runs of equal steps: not with --resume or --seconds")
    if options.check_torch and importlib.util.find_spec("torch") is None:
        parser.error("--check-torch: torch is not installed: pip install torch")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(arguments)
    checkpoint, best = Path(options.out) / "checkpoint.safetensors", Path(options.out) / "best.safetensors"
    fusedrnn.set_num_threads(options.threads)

    train_text, held_out_text = read_files(options.text) if options.text else read_standard_library()
    train_text, held_out_text = train_text[: options.max_chars], held_out_text[: min(options.max_chars // 10, 200_000)]
    if len(train_text) <= options.batch * (options.length + 1) or len(held_out_text) < options.batch * 2:
        count = f"{len(train_text)} + {len(held_out_text)} characters"
        sys.exit(f"--text: {count} are too few for --batch {options.batch} and --length {options.length}")
    vocabulary = make_vocabulary(train_text)
    tokens, held_out = encode(train_text, vocabulary), columns(encode(held_out_text, vocabulary), options.batch)
    digest = hashlib.sha256((train_text + held_out_text).encode()).hexdigest()
    kept = {name: getattr(options, name) for name in (*FIXED, "steps", "seconds", "lr", "eval_every")}
    about = {"options": kept, "vocabulary": vocabulary, "text_sha256": digest}

    model, progress = CharModel(options, len(vocabulary)), Progress()
    start = {name: p.copy() for name, p in model.params.items()}
    if options.resume:
        if load(checkpoint)[1]["text_sha256"] != digest:
            sys.exit("--resume: the text is not the one that the run was started with")
        progress = load_checkpoint(checkpoint, model)
    print(f"{tokens.size:,} characters to learn from, {held_out.size:,} held out, {len(vocabulary)} distinct")
    print(f"{model.layer} and a dense layer: {sum(p.size for p in start.values()):,} parameters")
    if not train(model, options, tokens, held_out, progress, about):
        print(f"stopped at step {progress.step}; --resume --out {options.out} carries on")
        return 130
    for name, p in load(best)[0].items():
        np.copyto(model.params[name], p)
    bits = evaluate(model, held_out, options.length)
    rate = progress.step * options.batch * options.length / progress.seconds
    print(f"result: {bits:.3f} bits per character on held-out text, {progress.step} steps in {progress.seconds:.1f} s")
    print(f"speed: {rate:,.0f} characters/s, {fusedrnn.get_num_threads()} threads, {fusedrnn.current_isa()}")

    if options.check_torch:
        print("\nThe same in torch")
        twin = Progress()
        if not train(TorchModel(options, start), options, tokens, held_out, twin, about):
            return 130
        print("\nbits per character     training              held-out")
        print("    step    fusedrnn     torch    fusedrnn     torch")
        for (step, ours, ours_held_out), (_, torchs, torchs_held_out) in zip(progress.curve, twin.curve, strict=True):
            print(f"{step:8}{ours:12.3f}{torchs:10.3f}{ours_held_out:12.3f}{torchs_held_out:10.3f}")
        print(f"training took fusedrnn {progress.seconds:.1f} s, torch {twin.seconds:.1f} s")

    began = time.perf_counter()
    written = "".join(islice(sample(model, vocabulary, options.temperature, options.seed), max(0, options.sample)))
    each = (time.perf_counter() - began) / max(1, len(written)) * 1e6
    print(f"\n{len(written)} characters at temperature {options.temperature}, {each:.0f} microseconds each:\n")
    print(written)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
