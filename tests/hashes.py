"""Hashes of the results of every cell, to check changes to the kernels that must not change a bit.

    python tests/hashes.py --write FILE
    python tests/hashes.py --check FILE       # prints the cases that differ, and exits with 1 if there are any

A line is one case on one instruction set: a hash of the outputs and final states, and a hash of all gradients, in
float32 and in float64. Every case runs on 1, 2 and 3 threads, which must agree. `tests/hashes.txt` has the hashes of
the current kernels. They are the same on every machine with the same instruction set, because the kernels call no
mathematical library. But the compiler chooses which products become fused multiply-adds, so the file names its
compiler, and hashes from another compiler are not compared.

Inputs are made by integer arithmetic, so no version of NumPy can change them.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import fusedrnn
from fusedrnn import _core, functional

RECORDED = Path(__file__).with_name("hashes.txt")
THREADS = (1, 2, 3)
DTYPES = ("float32", "float64")

#: Name -> family and options. Every kernel cell is here; for cells with options, one entry uses all of their options.
CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn_tanh": ("rnn", {}),
    "rnn_relu": ("rnn", {"nonlinearity": "relu"}),
    "rnn_options": ("rnn", {"activation": "softsign", "clip": 0.9}),
    "gru_after": ("gru", {"reset_after": True}),
    "gru_before": ("gru", {"reset_after": False}),
    "gru_simple": ("gru", {"reset_gate": False}),
    "gru_after_options": ("gru", {"recurrent_activation": "hard_sigmoid", "activation": "softplus"}),
    "gru_before_options": ("gru", {"reset_after": False, "activation": "elu", "clip": 1.1}),
    "gru_simple_options": ("gru", {"reset_gate": False, "activation": ("leaky_relu", 0.1)}),
    "lstm": ("lstm", {}),
    "lstm_ifo": ("lstm", {"peephole": "ifo", "cell_clip": 0.4}),
    "lstm_o_prev": ("lstm", {"peephole": "o_prev", "activation": ("scaled_tanh", 1.7, 0.6)}),
    "lstm_coupled": ("lstm", {"peephole": "ifo", "coupled": True, "output_activation": ("affine", 0.5, 0.1)}),
}
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
STATES = {"rnn": 1, "gru": 1, "lstm": 2}

#: Name -> sizes and other properties of a case. Sizes are deliberately odd, and exceed the units in which kernels cut
#: their work: vectors, panels, tiles, 192 rows of input, 768 rows of backward, the least work for a second thread.
SITUATIONS: dict[str, dict[str, Any]] = {
    "one_row": {"T": 5, "B": 1, "I": 3, "H": 21},
    "plain": {"T": 6, "B": 7, "I": 11, "H": 37},
    "reverse_strided": {"T": 4, "B": 13, "I": 9, "H": 70, "reverse": True, "strided": True, "bias": False},
    "lengths": {"T": 7, "B": 9, "I": 5, "H": 19, "lengths": True, "reverse": True},
    "mask_reset_hold": {"T": 7, "B": 5, "I": 6, "H": 18, "mask": True, "reset": True, "past_end": "hold"},
    "tokens": {"T": 5, "B": 6, "I": 13, "H": 27, "tokens": True, "lengths": True},
    "few_rows": {"T": 2, "B": 3, "I": 70, "H": 41},
    "few_rows_tokens": {"T": 2, "B": 3, "I": 70, "H": 41, "tokens": True},
    "chunks": {"T": 70, "B": 29, "I": 7, "H": 9, "lengths": True},
    "chunks_tokens": {"T": 60, "B": 29, "I": 7, "H": 9, "tokens": True},
    "masked": {"T": 6, "B": 11, "I": 8, "H": 35, "lengths": True, "masks": True},
    "masked_chunks": {"T": 70, "B": 25, "I": 5, "H": 17, "masks": True, "reverse": True},
    "threads": {"T": 9, "B": 34, "I": 150, "H": 203},
    "threads_ragged": {"T": 9, "B": 34, "I": 150, "H": 203, "lengths": True, "masks": True},
    "threads_one_row": {"T": 9, "B": 1, "I": 150, "H": 403},
    "threads_tokens": {"T": 9, "B": 34, "I": 150, "H": 203, "tokens": True},
}
PROJECTED: dict[str, dict[str, Any]] = {
    "projected": {"T": 6, "B": 7, "I": 11, "H": 37, "R": 13},
    "projected_few_rows": {"T": 2, "B": 3, "I": 70, "H": 41, "R": 20},
    "projected_chunks": {"T": 70, "B": 25, "I": 5, "H": 17, "R": 9, "lengths": True, "masks": True},
    "projected_threads": {"T": 9, "B": 34, "I": 150, "H": 203, "R": 90, "masks": True},
}
#: Layers: name -> families, arguments of the layer, sizes.
LAYERS: dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, int]]] = {
    "two_directions": (("rnn", "gru", "lstm"), {"bidirectional": True}, {"T": 6, "B": 5, "I": 7, "H": 19}),
    "two_directions_sum": (
        ("gru", "lstm"),
        {"bidirectional": True, "merge": "sum", "num_layers": 2, "batch_first": True},
        {"T": 5, "B": 17, "I": 40, "H": 33},
    ),
    "stack": (("rnn", "gru", "lstm"), {"num_layers": 3, "dropout": 0.3}, {"T": 30, "B": 6, "I": 9, "H": 50}),
    "stack_threads": (("rnn", "gru", "lstm"), {"num_layers": 2}, {"T": 50, "B": 2, "I": 90, "H": 203}),
    "dropped": (
        ("rnn", "gru", "lstm"),
        {"recurrent_dropout": 0.3, "weight_dropout": 0.2, "zoneout": 0.2, "backwards": True},
        {"T": 6, "B": 7, "I": 5, "H": 35},
    ),
    "projected_stack": (("lstm",), {"proj_size": 11, "num_layers": 2}, {"T": 6, "B": 9, "I": 7, "H": 29}),
    "normed": (("gru", "lstm"), {"layer_norm": True}, {"T": 6, "B": 7, "I": 11, "H": 37}),
    "normed_one_row": (("gru", "lstm"), {"layer_norm": True}, {"T": 6, "B": 1, "I": 3, "H": 70}),
    "normed_few_rows": (("gru", "lstm"), {"layer_norm": True}, {"T": 2, "B": 3, "I": 70, "H": 41}),
    "normed_dropped": (
        ("gru", "lstm"),
        {"layer_norm": True, "zoneout": 0.2, "recurrent_dropout": 0.3, "bidirectional": True, "num_layers": 2},
        {"T": 6, "B": 7, "I": 11, "H": 35},
    ),
    "normed_chunks": (("gru", "lstm"), {"layer_norm": True}, {"T": 70, "B": 29, "I": 5, "H": 17}),
    "normed_threads": (("gru", "lstm"), {"layer_norm": True, "zoneout": 0.1}, {"T": 9, "B": 34, "I": 150, "H": 203}),
}

#: Layers without a recurrent matrix: family -> class; and name -> arguments, sizes. H is even, as LRU's has to be.
ELEMENTWISE = {
    "mingru": "MinGRU",
    "minlstm": "MinLSTM",
    "indrnn": "IndRNN",
    "qrnn": "QRNN",
    "sru": "SRU",
    "lru": "LRU",
    "rglru": "RGLRU",
}
ELEMENTWISE_LAYERS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "plain": ({}, {"T": 6, "B": 7, "I": 11, "H": 38}),
    "one_row": ({"bias": False}, {"T": 5, "B": 1, "I": 3, "H": 70}),
    "own_inputs": ({"num_layers": 2}, {"T": 7, "B": 9, "I": 34, "H": 34}),
    "two_directions": ({"bidirectional": True, "num_layers": 2}, {"T": 6, "B": 5, "I": 7, "H": 20}),
    "chunks": ({"backwards": True}, {"T": 70, "B": 29, "I": 5, "H": 18}),
    "few_rows": ({}, {"T": 2, "B": 3, "I": 70, "H": 42}),
    "threads": ({"num_layers": 2}, {"T": 9, "B": 34, "I": 204, "H": 204}),
}

Arrays = dict[str, Any]


class Numbers:
    """Pseudo-random arrays: SplitMix64 of a counter."""

    def __init__(self, seed: int) -> None:
        self._at = seed << 32

    def bits(self, *shape: int) -> Any:
        """64 bits each."""
        n = math.prod(shape)
        with np.errstate(over="ignore"):
            z = (np.arange(self._at, self._at + n, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        self._at += n
        return (z ^ (z >> np.uint64(31))).reshape(shape)

    def real(self, dtype: Any, *shape: int, scale: float = 1.0) -> Any:
        """Numbers between -scale and scale, with 24 random bits."""
        units = (self.bits(*shape) >> np.uint64(40)).astype(np.float64)
        return ((units * 2.0**-23 - 1.0) * scale).astype(dtype)

    def below(self, n: int, *shape: int) -> Any:
        """Integers."""
        return ((self.bits(*shape) >> np.uint64(33)) % np.uint64(n)).astype(np.int64)

    def flags(self, *shape: int, of_eight: int) -> Any:
        """True in `of_eight` of eight cases."""
        return self.below(8, *shape) < of_eight


@lru_cache(maxsize=1)  # shared by all numbers of threads
def draw(cell: str, name: str, dtype: str) -> tuple[list[Any], Arrays, list[Any]]:
    """Arguments of a cell's forward function by position and by name, and gradients of its results."""
    return _draw(cell, dtype, **(SITUATIONS | PROJECTED)[name])


def _draw(
    cell: str,
    dtype: str,
    *,
    T: int,
    B: int,
    I: int,
    H: int,
    R: int = 0,
    bias: bool = True,
    strided: bool = False,
    tokens: bool = False,
    lengths: bool = False,
    mask: bool = False,
    reset: bool = False,
    masks: bool = False,
    **steps: Any,
) -> tuple[list[Any], Arrays, list[Any]]:
    family, options = CELLS[cell]
    gates = GATES[family]
    gates -= options.get("coupled", False) or not options.get("reset_gate", True)
    numbers, units = Numbers(1), R or H
    weight = 1.7 / math.sqrt(I + H)

    x = numbers.below(I, T, B) if tokens else numbers.real(dtype, T, B, I, scale=1.5)
    if strided:
        x = np.ascontiguousarray(x.transpose(2, 1, 0)).transpose(2, 1, 0)
    states = [numbers.real(dtype, B, n) for n in (units, H)[: STATES[family]]]
    weights = [numbers.real(dtype, gates * H, I, scale=weight), numbers.real(dtype, gates * H, units, scale=weight)]
    biases = [numbers.real(dtype, gates * H, scale=0.5) for _ in range(2)] if bias else []

    named = options | steps
    if "peephole" in options:
        rows = 1 if options["peephole"] == "o_prev" else gates - 1
        named["W_peephole"] = numbers.real(dtype, rows, H, scale=0.3)
    if R:
        named["W_hr"] = numbers.real(dtype, R, H, scale=1.7 / math.sqrt(H))
    if lengths:
        named["lengths"] = numbers.below(T + 1, B)
        named["lengths"][:2] = (T, 0)
    if mask:
        named["mask"] = numbers.flags(B, T, of_eight=6).T
    if reset:
        named["reset"] = numbers.flags(T, B, of_eight=2)
    if masks:
        named["recurrent_mask"] = numbers.flags(B, units, of_eight=5).astype(dtype) * 1.5
        named["zoneout_h"] = numbers.flags(T, B, units, of_eight=2)
        if family == "lstm":
            named["zoneout_c"] = numbers.flags(T, B, H, of_eight=1)
    gradients = [numbers.real(dtype, T, B, units), *(numbers.real(dtype, B, n) for n in (units, H)[: len(states)])]
    return [x, *states, *weights, *biases], named, gradients


def run_cell(cell: str, name: str, dtype: str) -> Iterator[Any]:
    """Outputs and final states of a cell's functions; then all gradients."""
    family, _ = CELLS[cell]
    given, named, gradients = draw(cell, name, dtype)
    *results, tape = getattr(functional, f"{family}_forward")(*given, **named)
    yield results
    grads = getattr(functional, f"{family}_backward")(tape, *gradients)
    yield [d for name, d in grads._asdict().items() if "initial" not in name or d is not None]


def make_layer(family: str, arguments: dict[str, Any], sizes: dict[str, int], dtype: str, numbers: Numbers) -> Any:
    """A layer with parameters of its own."""
    layer = getattr(fusedrnn, ELEMENTWISE.get(family, family.upper()))(
        sizes["I"], sizes["H"], dtype=dtype, rng=1, **arguments
    )
    for name, parameter in layer.params.items():
        scale = 1.0 if "_ln_" in name else 1.5 / math.sqrt(parameter.shape[-1] if parameter.ndim == 2 else 9.0)
        parameter[...] = numbers.real(dtype, *parameter.shape, scale=scale)
    return layer


def flat(state: Any) -> list[Any]:
    """A state as a list of arrays."""
    return list(state) if isinstance(state, tuple) else [state]


def run_layer(family: str, arguments: dict[str, Any], sizes: dict[str, int], ragged: bool, dtype: str) -> Iterator[Any]:
    """Outputs and final states of training and of inference; then all gradients."""
    numbers = Numbers(2)
    layer = make_layer(family, arguments, sizes, dtype, numbers)
    T, B = sizes["T"], sizes["B"]
    shape = (B, T) if arguments.get("batch_first") else (T, B)
    x = numbers.real(dtype, *shape, sizes["I"], scale=1.5)
    lengths = numbers.below(T + 1, B) if ragged else None
    *_, tape = layer.forward(x, lengths=lengths)
    masks = {name: numbers.flags(*mask.shape, of_eight=5) for name, mask in tape.masks.items()}
    y, state, tape = layer.forward(x, lengths=lengths, masks=masks)
    inferred, inferred_state = layer(x, lengths=lengths)
    yield [y, *flat(state), inferred, *flat(inferred_state)]
    dstate = tuple(numbers.real(dtype, *s.shape) for s in flat(state))
    grads = tape.backward(numbers.real(dtype, *y.shape), dstate if len(dstate) > 1 else dstate[0])
    yield [grads.x, *flat(grads.state), *grads.params.values()]


def run_stream(family: str, arguments: dict[str, Any], sizes: dict[str, int], dtype: str) -> Iterator[Any]:
    """Outputs and state of a frozen layer step by step, and over the sequence; no gradients."""
    numbers = Numbers(3)
    frozen = make_layer(family, arguments, sizes, dtype, numbers).freeze()
    x = numbers.real(dtype, sizes["T"], sizes["B"], sizes["I"], scale=1.5)
    stream = frozen.stream(sizes["B"])
    steps = [stream.step(x_t) for x_t in x]
    y, state = frozen(x)
    yield [*steps, *flat(stream.state), y, *flat(state)]
    yield []


#: Scans: shape of a, complex or not, sizes. The second carries a block and the last rows sum a's gradient in time.
SCANS: dict[str, tuple[tuple[int, ...], bool, dict[str, int]]] = {
    "whole": ((9, 3, 37), False, {"T": 9, "B": 3, "H": 37}),
    "block": ((4, 3, 1500), False, {"T": 4, "B": 3, "H": 1500}),
    "complex": ((9, 3, 21), True, {"T": 9, "B": 3, "H": 21}),
    "step": ((7, 1, 1), False, {"T": 7, "B": 2, "H": 1100}),
    "unit": ((19,), False, {"T": 600, "B": 2, "H": 19}),
}
#: State spaces: forms of A, B, C, D (0 constant, 1 per step, 2 per step and row), sizes.
SPACES: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
    "constant": ((0, 0, 0, 0), {"T": 70, "B": 29, "n": 19, "m": 7, "p": 5}),
    "narrow": ((0, 0, 0, 0), {"T": 40, "B": 34, "n": 4, "m": 4, "p": 2}),
    "steps": ((1, 1, 1, 1), {"T": 6, "B": 34, "n": 35, "m": 16, "p": 32}),
    "steps_one_row": ((1, 1, 1, 1), {"T": 6, "B": 1, "n": 35, "m": 16, "p": 32}),
    "rows": ((2, 1, 0, 2), {"T": 6, "B": 9, "n": 19, "m": 7, "p": 5}),
}


def steps_of(numbers: Numbers, T: int, B: int, ragged: bool) -> dict[str, Any]:
    """Lengths and resets of a recurrence over plain arrays, in reverse; or nothing."""
    if not ragged:
        return {}
    lengths = numbers.below(T + 1, B)
    return {"lengths": lengths, "reset": numbers.flags(T, B, of_eight=1), "reverse": True}


def run_scan(
    shape: tuple[int, ...], complex_: bool, sizes: dict[str, int], ragged: bool, dtype: str
) -> Iterator[list[Any]]:
    """h and the last state; then all gradients."""
    numbers, (T, B, H) = Numbers(4), sizes.values()

    def draw(*shape: int) -> Any:
        parts = [numbers.real(dtype, *shape, scale=0.7) for _ in range(1 + complex_)]
        return parts[0] + 1j * parts[1] if complex_ else parts[0]

    h, h_n, tape = functional.scan_forward(draw(*shape), draw(T, B, H), draw(B, H), **steps_of(numbers, T, B, ragged))
    yield [h, h_n]
    yield list(functional.scan_backward(tape, draw(T, B, H), draw(B, H)))


def run_space(forms: tuple[int, ...], sizes: dict[str, int], ragged: bool, dtype: str) -> Iterator[list[Any]]:
    """y and the last state; then all gradients."""
    numbers, (T, B, n, m, p) = Numbers(5), sizes.values()
    matrices = [
        numbers.real(dtype, *((), (T,), (T, B))[form], *size, scale=1.2 / math.sqrt(size[1]))
        for form, size in zip(forms, ((n, n), (n, m), (p, n), (p, m)), strict=True)
    ]
    read = "before" if ragged else "after"
    y, x_n, tape = functional.state_space_forward(
        numbers.real(dtype, T, B, m), *matrices, numbers.real(dtype, B, n), read=read, **steps_of(numbers, T, B, ragged)
    )
    yield [y, x_n]
    yield list(functional.state_space_backward(tape, numbers.real(dtype, T, B, p), numbers.real(dtype, B, n)))


Case = Callable[[str], Iterator[Any]]


def cases() -> Iterator[tuple[str, Case]]:
    """All cases: a name without spaces, and a function that takes the dtype and yields results, then gradients."""
    for cell, (family, _) in CELLS.items():
        situations = SITUATIONS | (PROJECTED if family == "lstm" else {})
        for name in situations:
            yield f"{cell}:{name}", partial(run_cell, cell, name)
    for name, (families, arguments, sizes) in LAYERS.items():
        for family in families:
            for ragged in (False, True):
                yield f"{family}:{name}{'_lengths' * ragged}", partial(run_layer, family, arguments, sizes, ragged)
    for family in GATES:
        for variant, arguments in {"": {"num_layers": 2}, "_zoned": {"zoneout": 0.2}}.items():
            for B in (1, 3):
                sizes = {"T": 4, "B": B, "I": 7, "H": 45}
                yield f"{family}:stream{variant}_{B}", partial(run_stream, family, arguments, sizes)
    for family, arguments in (
        ("lstm", {"proj_size": 20}),
        ("lstm", {"layer_norm": True}),
        ("gru", {"layer_norm": True}),
    ):
        sizes = {"T": 4, "B": 3, "I": 7, "H": 45}
        yield f"{family}:stream_{next(iter(arguments))}", partial(run_stream, family, arguments, sizes)
    for family in ELEMENTWISE:
        for name, (arguments, sizes) in ELEMENTWISE_LAYERS.items():
            for ragged in (False, True):
                yield f"{family}:{name}{'_lengths' * ragged}", partial(run_layer, family, arguments, sizes, ragged)
        for B in (1, 3):
            sizes = {"T": 4, "B": B, "I": 7, "H": 46}
            yield f"{family}:stream_{B}", partial(run_stream, family, {"num_layers": 2}, sizes)
    for ragged in (False, True):
        sizes = {"T": 6, "B": 7, "I": 11, "H": 35}
        yield f"qrnn:zoned{'_lengths' * ragged}", partial(run_layer, "qrnn", {"zoneout": 0.2}, sizes, ragged)
        window = {"window": 3, "num_layers": 2, "bidirectional": True}
        yield f"qrnn:window{'_lengths' * ragged}", partial(run_layer, "qrnn", window, sizes, ragged)
    sizes = {"T": 6, "B": 3, "I": 7, "H": 45}
    yield "qrnn:stream_window", partial(run_stream, "qrnn", {"window": 3, "num_layers": 2}, sizes)
    for ragged in (False, True):
        for name, scan in SCANS.items():
            yield f"scan:{name}{'_ragged' * ragged}", partial(run_scan, *scan, ragged)
        for name, space in SPACES.items():
            yield f"state_space:{name}{'_ragged' * ragged}", partial(run_space, *space, ragged)
    yield "gru:stream_before", partial(run_stream, "gru", {"reset_after": False}, {"T": 4, "B": 1, "I": 7, "H": 45})


def hash_of(arrays: list[Any]) -> str:
    """The first eight digits of the SHA-256 of the arrays' shapes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(None if array is None else array.shape).encode())
        if array is not None:
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:8] if arrays else "-"


def same_bits(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists of arrays are equal bit for bit."""
    return len(a) == len(b) and all(
        x is y is None or (x.shape == y.shape and x.tobytes() == y.tobytes()) for x, y in zip(a, b, strict=True)
    )


def hashes_of(case: Case, dtype: str) -> str:
    """ "results/gradients"; if results depend on the number of threads, the hashes of each number."""
    found = []
    for n in THREADS:
        with fusedrnn.threads(n):
            found.append(list(case(dtype)))
    agree = all(same_bits(*pair) for other in found[1:] for pair in zip(other, found[0], strict=True))
    return "|".join("/".join(hash_of(arrays) for arrays in parts) for parts in (found[:1] if agree else found))


def compute(isa: str) -> Iterator[tuple[str, str]]:
    """All cases of one instruction set by name, "isa:cell:situation", and their hashes in both dtypes."""
    with fusedrnn.use_isa(isa):
        for name, case in cases():
            yield f"{isa}:{name}", " ".join(hashes_of(case, dtype) for dtype in DTYPES)


def compilers() -> str:
    """The compiler of the installed kernels, as recorded in their file."""
    module = Path(str(_core.__file__)).read_bytes()
    found = re.findall(rb"(?:GCC: \([^)]*\)|clang version) (\d+\.\d+\.\d+)", module)
    name = "clang" if b"clang version" in module else "gcc"
    return " ".join([name, *sorted({version.decode() for version in found})])


def read(path: Path) -> tuple[str, dict[str, str]]:
    """The compiler named in a file, and the file's hashes by case."""
    compiler, *lines = path.read_text(encoding="utf-8").splitlines()
    return compiler.removeprefix("# "), dict(line.split(" ", 1) for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Hashes of what every cell computes.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="FILE")
    action.add_argument("--check", type=Path, metavar="FILE")
    parser.add_argument("--isa", action="append", choices=fusedrnn.available_isas(), help="this one only")
    arguments = parser.parse_args()

    isas = arguments.isa or fusedrnn.available_isas()
    computed = {name: value for isa in isas for name, value in compute(isa)}
    if arguments.write:
        lines = [f"# {compilers()}", *(f"{name} {value}" for name, value in computed.items())]
        arguments.write.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return 0

    compiler, recorded = read(arguments.check)
    if compiler != compilers():
        print(f"{arguments.check} is of {compiler}, these kernels of {compilers()}: they may differ")
    missing = [name for name in recorded if name.split(":")[0] in isas and name not in computed]
    different = [name for name, value in computed.items() if recorded.get(name) != value]
    for name in different:
        print(f"{name}: {recorded.get(name)} was recorded, computed is {computed[name]}")
    for name in missing:
        print(f"{name}: recorded, but there is no such case")
    print(f"{len(computed)} cases, {len(different)} differ, {len(missing)} missing")
    return 1 if different or missing else 0


if __name__ == "__main__":
    sys.exit(main())
