"""What a run of char_lm.py needs beside the learning: options, how far it is, files to carry on from, Ctrl-C."""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import fusedrnn
from char_lm_cells import CELLS
from char_lm_text import Array, columns, encode, make_vocabulary, read_files, read_standard_library

try:
    from safetensors import safe_open
    from safetensors.numpy import save_file
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f'char_lm.py needs {error.name}: pip install ".[examples]"')

Arrays = dict[str, Array]
QUICK = {"hidden": 64, "batch": 16, "length": 32, "steps": 600, "eval_every": 200, "max_chars": 200_000, "threads": 1}
FIXED = ("text", "max_chars", "cell", "layers", "hidden", "batch", "length", "seed")  # what --resume may not change


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--text", nargs="+", metavar="FILE", help="UTF-8 files to learn from instead of Python's standard library")
    add("--out", default="runs/char_lm", metavar="DIR", help="where the run is kept")
    add("--resume", action="store_true", help="carry on with the run in --out, with its options")
    add("--quick", action="store_true", help="a tiny model in a few seconds, kept in runs/char_lm_quick")
    add("--check-torch", action="store_true", help="train torch on the same batches, too, and compare")
    add("--cell", choices=tuple(CELLS), default="lstm", help="kind of layer")
    add("--layers", type=int, metavar="L", help="stacked layers; None is 1, without a recurrent matrix 3")
    add(
        "--hidden",
        type=int,
        metavar="H",
        help="units per layer; None is 256, without a recurrent matrix as many as "
        "give the parameters of an LSTM of 256",
    )
    add("--batch", type=int, default=32, metavar="B", help="places in the text that are read side by side")
    add("--length", type=int, default=64, metavar="T", help="steps that gradients go back through time")
    add("--steps", type=int, default=4500, metavar="N", help="training steps")
    add("--seconds", type=float, metavar="S", help="train this long, whatever --steps says; not reproducible")
    add("--lr", type=float, help="highest learning rate; None is 0.01, for rnn 0.004")
    add("--eval-every", type=int, default=500, metavar="N", help="steps between evaluations")
    add("--at-most", type=float, metavar="BITS", help="the figure to reach: fail if held-out text takes more")
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
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; expected at least 1")
    if options.check_torch and options.cell not in ("lstm", "gru", "rnn"):
        parser.error(f"--check-torch: torch has no {options.cell}; --cell lstm, gru and rnn have twins there")
    if options.check_torch and (options.resume or options.seconds):
        parser.error("--check-torch compares whole runs of equal steps: not with --resume or --seconds")
    if options.check_torch and importlib.util.find_spec("torch") is None:
        parser.error("--check-torch: torch is not installed: pip install torch")
    return options


class Data(NamedTuple):
    """The text as tokens, and what has to be known of a run to repeat it."""

    tokens: Array
    held_out: Array  # as columns, (N, B)
    vocabulary: str
    about: dict[str, Any]


def read_data(options: argparse.Namespace) -> Data:
    train, held_out = read_files(options.text) if options.text else read_standard_library()
    train, held_out = train[: options.max_chars], held_out[: min(options.max_chars // 10, 200_000)]
    if len(train) <= options.batch * (options.length + 1) or len(held_out) < options.batch * 2:
        count = f"{len(train)} + {len(held_out)} characters"
        sys.exit(f"--text: {count} are too few for --batch {options.batch} and --length {options.length}")
    vocabulary = make_vocabulary(train)
    kept = {name: getattr(options, name) for name in (*FIXED, "steps", "seconds", "lr", "eval_every")}
    digest = hashlib.sha256((train + held_out).encode()).hexdigest()
    about = {"options": kept, "vocabulary": vocabulary, "text_sha256": digest}
    return Data(encode(train, vocabulary), columns(encode(held_out, vocabulary), options.batch), vocabulary, about)


@dataclass
class Progress:
    """Where a run stands. With the model's arrays, all it takes to carry on as if it had never stopped."""

    step: int = 0
    seconds: float = 0.0  # spent in training steps, evaluation excluded
    best: float = math.inf  # held-out bits per character
    recent: list[float] = field(default_factory=list)  # training bits per character since the last evaluation
    curve: list[tuple[int, float, float]] = field(default_factory=list)  # step, training bits, held-out bits
    state: Any = None

    def spent(self, options: argparse.Namespace) -> float:
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


class Run:
    """A model on its way: how far it is, and its files, the best weights and a checkpoint to carry on from."""

    def __init__(self, options: argparse.Namespace, model: Any, data: Data) -> None:
        self.best, self.checkpoint = (Path(options.out) / f"{name}.safetensors" for name in ("best", "checkpoint"))
        self.options, self.model, self.about = options, model, data.about
        self.start = {name: p.copy() for name, p in model.params.items()}
        self.arrays = {**model.params, **{f"adam.{k}.{n}": a for k in "mv" for n, a in getattr(model, k).items()}}
        self.progress = self._resumed() if options.resume else Progress()
        fusedrnn.set_num_threads(options.threads)
        counts = f"{data.tokens.size:,} characters to learn from, {data.held_out.size:,} held out"
        print(f"{counts}, {len(data.vocabulary)} distinct")
        print(f"{model.layer} and a dense layer: {sum(p.size for p in self.start.values()):,} parameters")

    def keep(self, bits: float | None = None) -> None:
        """Write the checkpoint, and the weights if these held-out bits per character are the fewest so far."""
        progress = self.progress
        if bits is not None and bits < progress.best:
            progress.best = bits
            save(self.best, self.model.params, self.about | {"bits_per_character": bits})
        states = progress.state if isinstance(progress.state, tuple) else (progress.state,)
        arrays = self.arrays | {f"state.{i}": s for i, s in enumerate(states)}
        save(self.checkpoint, arrays, self.about | {"progress": {**vars(progress), "state": None}})

    def stopped(self) -> None:
        if self.progress.step:
            self.keep()
        print(f"stopped at step {self.progress.step}; --resume --out {self.options.out} carries on")

    def take_best(self) -> None:
        """Give the model the best weights there were."""
        for name, p in load(self.best)[0].items():
            self.model.params[name][...] = p

    def report(self, bits: float) -> bool:
        """Print what came out; whether --at-most is kept."""
        progress, at_most = self.progress, self.options.at_most
        rate = progress.step * self.options.batch * self.options.length / progress.seconds
        took = f"{progress.step} steps in {progress.seconds:.1f} s"
        print(f"result: {bits:.3f} bits per character on held-out text, perplexity {2**bits:.2f}, {took}")
        print(f"speed: {rate:,.0f} characters/s, {fusedrnn.get_num_threads()} threads, {fusedrnn.current_isa()}")
        if at_most is not None:
            print(f"reached: bits per character {bits:.3f}; expected at most {at_most:g}")
        return at_most is None or bits <= at_most

    def write(self, letters: Iterator[str]) -> None:
        """Print as many of the model's letters as are wanted."""
        began = time.perf_counter()
        written = "".join(islice(letters, max(0, self.options.sample)))
        each = (time.perf_counter() - began) / max(1, len(written)) * 1e6
        at = f"characters at temperature {self.options.temperature}"
        print(f"\n{len(written)} {at}, {each:.0f} microseconds each:\n\n{written}")

    def _resumed(self) -> Progress:
        """Put the model where the checkpoint left it."""
        arrays, about = load(self.checkpoint)
        if about["text_sha256"] != self.about["text_sha256"]:
            sys.exit("--resume: the text is not the one that the run was started with")
        states = tuple(arrays.pop(name) for name in ("state.0", "state.1") if name in arrays)
        for name, a in self.arrays.items():
            a[...] = arrays[name]
        return Progress(**about["progress"] | {"state": states if len(states) == 2 else states[0]})


class Watched:
    """A progress bar over training steps, and whether Ctrl-C was pressed."""

    def __init__(self, bar: Any, progress: Progress, run: Run | None, per_step: int) -> None:
        self.bar, self.progress, self.run, self.per_step = bar, progress, run, per_step
        self.stop = False
        self.since = time.perf_counter()

    def count(self, bits: float) -> None:
        """One more training step, of so many bits per character."""
        progress, now = self.progress, time.perf_counter()
        progress.step, progress.seconds, self.since = progress.step + 1, progress.seconds + now - self.since, now
        progress.recent.append(bits)
        last = progress.recent[-50:]
        self.bar.set_postfix_str(f"{sum(last) / len(last):.3f} bits/char", refresh=False)
        self.bar.update(self.per_step)

    def evaluated(self, bits: float) -> None:
        """One more point of the curve. The clock stands still from the step before to the next."""
        progress = self.progress
        progress.curve.append((progress.step, sum(progress.recent) / len(progress.recent), bits))
        progress.recent.clear()
        self.bar.write("step {:6}   training {:.3f}   held-out {:.3f} bits/char".format(*progress.curve[-1]))
        if self.run:
            self.run.keep(bits)
        self.since = time.perf_counter()


@contextlib.contextmanager
def watched(options: argparse.Namespace, progress: Progress, run: Run | None) -> Iterator[Watched]:
    """Training under a progress bar. Ctrl-C is noted, so that no step stays half applied; a second one interrupts."""
    per_step = options.batch * options.length
    bar = tqdm(
        total=None if options.seconds else options.steps * per_step,
        initial=progress.step * per_step, unit="char", unit_scale=True, disable=None, leave=False,
    )  # fmt: skip
    watch = Watched(bar, progress, run, per_step)

    def note(*_: object) -> None:
        watch.stop = True
        signal.signal(signal.SIGINT, usual)

    usual = signal.signal(signal.SIGINT, note)
    try:
        with bar:
            yield watch
        if watch.stop and run:
            run.stopped()
    except FloatingPointError as error:
        sys.exit(f"step {progress.step + 1}: {error}; try a smaller --lr")
    finally:
        signal.signal(signal.SIGINT, usual)
