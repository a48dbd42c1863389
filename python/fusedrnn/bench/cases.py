"""The published grid of benchmark cases: what is computed, at which size, in which mode."""

import re
from dataclasses import asdict, dataclass
from typing import Any

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru_after": 3, "gru_before": 3, "lstm": 4}
MODES = ("stream", "infer", "train")

# Cells as a case's name spells them: the usual form of each has the short name.
_SHORT = {"rnn_tanh": "rnn", "rnn_relu": "rnn-relu", "gru_after": "gru", "gru_before": "gru-before", "lstm": "lstm"}


@dataclass(frozen=True)
class Case:
    """One benchmark: a layer, a size and a mode.

    Parameters
    ----------
    regime : str
        Group of the grid and first part of the name: "stream", "seq", "batch", "speech", "deepbench", "float64" or
        "ragged".
    cell : str
        "rnn_tanh", "rnn_relu", "gru_after", "gru_before" or "lstm".
    mode : str
        "stream" (one step a call, the state is kept), "infer" (a whole sequence) or "train" (the sequence forward and
        backward, with the gradients of the input, the initial state and every parameter).
    T, B, I, H : int
        Steps, batch, input size, hidden size. T = 1 in mode "stream".
    layers, directions : int
        Stacked layers; 1 or 2 directions, joined by concatenation.
    dtype : str
        "float32" or "float64".
    ragged : bool
        Lengths are uniform in [1, T] instead of all T.

    Raises
    ------
    ValueError
        A field is outside of what is said above.

    Examples
    --------
    >>> Case("batch", "lstm", "train", 100, 32, 128, 128).name
    'batch/lstm-train-T100B32I128H128'
    """

    regime: str
    cell: str
    mode: str
    T: int
    B: int
    I: int
    H: int
    layers: int = 1
    directions: int = 1
    dtype: str = "float32"
    ragged: bool = False

    def __post_init__(self) -> None:
        if self.cell not in GATES:
            raise ValueError(f"Case: cell is {self.cell!r}; expected one of {', '.join(GATES)}")
        if self.mode not in MODES:
            raise ValueError(f"Case: mode is {self.mode!r}; expected one of {', '.join(MODES)}")
        if min(self.T, self.B, self.I, self.H, self.layers) < 1 or self.directions not in (1, 2):
            raise ValueError(f"Case: sizes must be >= 1 and directions 1 or 2; got {asdict(self)}")
        if self.mode == "stream" and (self.T, self.directions, self.ragged) != (1, 1, False):
            raise ValueError(f"Case: a stream runs one step in one direction; got {asdict(self)}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"Case: dtype is {self.dtype!r}; expected 'float32' or 'float64'")

    @property
    def name(self) -> str:
        """Unique in the grid; `--cases` searches it."""
        parts = [_SHORT[self.cell]]
        if self.mode == "stream":
            parts.append((f"B{self.B}" if self.B > 1 else "") + f"I{self.I}H{self.H}")
        else:
            parts += [self.mode, f"T{self.T}B{self.B}I{self.I}H{self.H}"]
        if (self.layers, self.directions) != (1, 1):
            parts.append(f"L{self.layers}" + ("bi" if self.directions == 2 else ""))
        if self.dtype != "float32":
            parts.append(self.dtype)
        return f"{self.regime}/{'-'.join(parts)}"

    @property
    def gates(self) -> int:
        """Rows of the weights are gates*H."""
        return GATES[self.cell]

    def layer_input_size(self, layer: int) -> int:
        """Input size of one of the stacked layers."""
        return self.I if layer == 0 else self.directions * self.H

    def flops(self, rows: int | None = None) -> float:
        """Useful floating-point operations of the matrix products in one call.

        A multiply-add counts as two; gates and biases are not counted. Backward is twice the forward pass: once for the
        gradients of input and state, once for those of the weights.

        Parameters
        ----------
        rows : int, optional
            Sum of the lengths; T*B if not given.
        """
        rows = self.T * self.B if rows is None else rows
        inputs = sum(self.layer_input_size(layer) + self.H for layer in range(self.layers))
        forward = 2.0 * rows * self.directions * self.gates * self.H * inputs
        return 3.0 * forward if self.mode == "train" else forward

    def as_dict(self) -> dict[str, Any]:
        """Every field and the name, for the JSON report."""
        return {"name": self.name, **asdict(self)}


_CELLS = ("lstm", "gru_after", "gru_before", "rnn_tanh")


def _grid() -> list[Case]:
    """All cases, in the order of the report."""
    cases = [
        Case("stream", cell, "stream", 1, 1, I, H)
        for cell in _CELLS
        for I, H in ((32, 64), (64, 128), (128, 256), (256, 512))
    ]
    sequences = [(100, 1, H, H) for H in (64, 128, 256, 384, 512, 768, 1024)] + [(1000, 1, 64, 256)]
    sequences += [(200, 4, H, H) for H in (128, 256, 512)] + [(100, 16, H, H) for H in (128, 256, 512)]
    cases += [Case("seq", cell, "infer", *size) for cell in _CELLS for size in sequences]
    batches = [(100, 32, 128, 128), (50, 64, 256, 256), (50, 128, 512, 512), (25, 64, 1024, 1024)]
    cases += [Case("batch", cell, mode, *size) for mode in ("infer", "train") for cell in _CELLS for size in batches]
    cases += [
        Case("speech", cell, mode, 200, 16, 80, 256, layers=2, directions=2)
        for mode in ("infer", "train")
        for cell in _CELLS
    ]
    cases += [Case("deepbench", cell, mode, T, B, H, H) for cell, mode, H, B, T in _DEEPBENCH]
    cases += [Case("float64", cell, "train", 50, 32, 256, 256, dtype="float64") for cell in _CELLS]
    cases += [
        Case("ragged", cell, mode, 100, 32, 256, 256, ragged=True) for mode in ("infer", "train") for cell in _CELLS
    ]
    return cases


# Rows of Baidu's DeepBench (code/kernels/rnn_problems.h): cell, mode, hidden size, batch, steps. Left out are its
# widest and longest ones, of which one call takes a desktop CPU many seconds.
_DEEPBENCH = (
    ("lstm", "train", 512, 16, 25),
    ("lstm", "train", 512, 32, 25),
    ("lstm", "train", 512, 64, 25),
    ("lstm", "train", 512, 128, 25),
    ("lstm", "train", 1536, 8, 50),
    ("lstm", "train", 1536, 16, 50),
    ("lstm", "train", 1536, 32, 50),
    ("lstm", "train", 2048, 16, 25),
    ("lstm", "train", 2048, 32, 25),
    ("lstm", "train", 256, 16, 150),
    ("lstm", "train", 256, 32, 150),
    ("lstm", "train", 256, 64, 150),
    ("gru_after", "train", 2816, 32, 187),
    ("gru_after", "train", 2048, 32, 187),
    ("gru_after", "train", 1536, 32, 187),
    ("gru_after", "train", 512, 32, 1),
    ("rnn_tanh", "train", 1760, 16, 50),
    ("rnn_tanh", "train", 1760, 32, 50),
    ("rnn_tanh", "train", 1760, 64, 50),
    ("rnn_tanh", "train", 1760, 128, 50),
    ("lstm", "infer", 512, 1, 25),
    ("lstm", "infer", 512, 2, 25),
    ("lstm", "infer", 512, 4, 25),
    ("lstm", "infer", 1536, 1, 50),
    ("lstm", "infer", 1536, 2, 50),
    ("lstm", "infer", 1536, 4, 50),
    ("lstm", "infer", 256, 1, 150),
    ("lstm", "infer", 256, 2, 150),
    ("lstm", "infer", 256, 4, 150),
    ("gru_after", "infer", 2816, 1, 187),
    ("gru_after", "infer", 2048, 1, 187),
    ("gru_after", "infer", 1536, 1, 187),
    ("gru_after", "infer", 512, 1, 1),
)

CASES: tuple[Case, ...] = tuple(_grid())

# What `--quick` runs: training, streaming, a single sequence and a ragged batch.
QUICK: tuple[Case, ...] = (
    *(
        Case("batch", cell, "train", *size)
        for cell in ("lstm", "gru_after", "rnn_tanh")
        for size in ((100, 32, 128, 128), (50, 64, 256, 256))
    ),
    *(Case("stream", cell, "stream", 1, 1, 64, 128) for cell in ("lstm", "gru_after", "rnn_tanh")),
    Case("seq", "lstm", "infer", 100, 1, 128, 128),
    Case("batch", "lstm", "infer", 100, 32, 128, 128),
    Case("ragged", "lstm", "train", 100, 32, 256, 256, ragged=True),
)


def select_cases(pattern: str | None = None, *, quick: bool = False) -> list[Case]:
    """Cases whose name matches a regular expression anywhere.

    Parameters
    ----------
    pattern : str, optional
        As for `re.search`; all cases if not given.
    quick : bool
        Choose from the quick set only.

    Raises
    ------
    ValueError
        The pattern is no regular expression, or no case matches.

    Examples
    --------
    >>> [case.name for case in select_cases("^speech/lstm-train")]
    ['speech/lstm-train-T200B16I80H256-L2bi']
    """
    cases = QUICK if quick else CASES
    try:
        regex = re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"bench: {pattern!r} is not a regular expression: {error}") from error
    chosen = [case for case in cases if regex.search(case.name)]
    if not chosen:
        raise ValueError(f"bench: no case matches {pattern!r}; --list prints the names")
    return chosen
