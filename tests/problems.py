"""Random problems for one layer in one direction, for `fusedrnn.functional` and `fusedrnn.reference` alike."""

from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Self

import numpy as np

from fusedrnn.reference.cells import CELLS, Cell, gru_cell, lstm_cell, rnn_cell
from fusedrnn.reference.cells.indrnn import IndRNN
from fusedrnn.reference.cells.mingru import MinGRU, MinLSTM
from fusedrnn.reference.elementwise import sru_cell
from tolerances import assert_close, bound, dot_length

#: Results and gradients of a layer -> their names in `tolerances.dot_length`.
QUANTITIES = {
    "h_n": "state_n",
    "c_n": "state_n",
    "dh_0": "dstate",
    "dc_0": "dstate",
    "dW_hr": "dW_hh",
    "dW_unit": "dW_peephole",
    "dh_initial": "db_ih",
    "dc_initial": "db_ih",
}

Results = dict[str, Any]

#: Name -> family and options, as layers and functions take them. Tests that run over all cells run over these.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn_tanh": ("rnn", {"nonlinearity": "tanh"}),
    "rnn_relu": ("rnn", {"nonlinearity": "relu"}),
    "gru_after": ("gru", {"reset_after": True}),
    "gru_before": ("gru", {"reset_after": False}),
    "gru_simple": ("gru", {"reset_gate": False}),
    "lstm": ("lstm", {}),
    "lstm_ifo": ("lstm", {"peephole": "ifo"}),
    "mingru_tanh": ("mingru", {"activation": "tanh"}),
    "minlstm_identity": ("minlstm", {"activation": "identity"}),
    "indrnn_tanh": ("indrnn", {"nonlinearity": "tanh"}),
    "sru_plain": ("sru", {"rescale": False}),
    "sru_wide": ("sru", {}),
    "rglru_wide": ("rglru", {}),
}
# A family that is not listed above has no options; its cell, its functions and its only variant have the same name.
VARIANTS |= {name: (name, {}) for name in CELLS if name not in VARIANTS}


#: Variants whose gradient jumps where a pre-activation is zero -> which of those that the reference saves.
KINKS = {"rnn_relu": 0, "indrnn": 0, "mingru": 1, "minlstm": 2}


def cell_of(cell: str, options: dict[str, Any] | None = None) -> Cell:
    """The reference's cell of a variant, or of a family and its options."""
    if options is None and cell in CELLS:
        return CELLS[cell]
    family, options = VARIANTS[cell] if options is None else (cell, options)
    if family in CELLS and not options:
        return CELLS[family]
    make: Any = {"rnn": rnn_cell, "gru": gru_cell, "lstm": lstm_cell} | {
        "mingru": MinGRU,
        "minlstm": MinLSTM,
        "indrnn": IndRNN,
        "sru": sru_cell,
    }
    make = make[family]
    made: Cell = make(**options)
    return made


#: Variants with a recurrent matrix.
RECURRENT = [name for name in VARIANTS if cell_of(name).recurrent]

#: The variants that tests over all sizes and instruction sets run over: those with a recurrent matrix, and one for each
#: other family, whose passes are shared. The reference's tests and test_elementwise.py run over all.
SWEPT = [*RECURRENT, *(name for name in VARIANTS if name not in RECURRENT and name == VARIANTS[name][0])]


def has_kinks(options: dict[str, Any], second: bool = False) -> bool:
    """Whether an option makes a first (or second) derivative discontinuous, so that rounding may decide a gradient."""
    smooth = {"tanh", "sigmoid", "softplus", "affine", "scaled_tanh", "linear"} | (set() if second else {"softsign"})
    functions = [value for key, value in options.items() if key.endswith("activation") and value is not None]
    names = {f if isinstance(f, str) else f[0] for f in functions}
    return not names <= smooth or any(options.get(key) is not None for key in ("clip", "cell_clip"))


@dataclass(frozen=True, eq=False)
class Problem:
    """Arguments of a layer, and gradients of its results. Values past a row's length are poisoned."""

    cell: str  # a key of VARIANTS; or a family, with `options`
    x: Any  # (T, B, I), or tokens (T, B)
    state: tuple[Any, ...]  # (h,) or (h, c), each (B, H) or None
    weights: tuple[Any, Any, Any, Any]  # W_ih, W_hh, b_ih, b_hh; the biases may be None
    dy: Any  # (T, B, H) or None
    dstate: tuple[Any, ...]
    lengths: Any = None
    reverse: bool = False
    mask: Any = None  # (T, B)
    reset: Any = None  # (T, B)
    past_end: str = "zero"
    W_peephole: Any = None
    options: dict[str, Any] | None = None
    structure: dict[str, Any] = field(default_factory=dict)  # W_hr, masks, own initial states: those in use

    @property
    def family(self) -> tuple[str, dict[str, Any]]:
        """Name of the family in its functions, and its options."""
        return VARIANTS[self.cell] if self.options is None else (self.cell, self.options)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.weights[0].dtype

    @property
    def sizes(self) -> dict[str, int]:
        T, B = self.x.shape[:2]
        gates = cell_of(self.cell, self.options).gates
        return {"T": T, "B": B, "I": self.weights[0].shape[1], "H": len(self.weights[0]) // gates}

    def but(self, **changes: Any) -> Self:
        return replace(self, **changes)

    def forward(self, module: ModuleType) -> tuple[Results, Any]:
        """y, h_n (and c_n), and the tape."""
        name, options = self.family
        names = ("lengths", "reverse", "mask", "reset", "past_end")
        options = options | {name: getattr(self, name) for name in names} | self.structure
        weights = {"W_ih": self.weights[0], "W_hh": self.weights[1], "b_ih": self.weights[2], "b_hh": self.weights[3]}
        if not cell_of(self.cell, self.options).recurrent:
            del weights["W_hh"], weights["b_hh"]
        if self.W_peephole is not None:
            weights["W_peephole" if "W_hh" in weights else "W_unit"] = self.W_peephole
        y, *state_n, tape = getattr(module, f"{name}_forward")(self.x, *self.state, **weights, **options)
        return {"y": y} | dict(zip(("h_n", "c_n"), state_n, strict=False)), tape

    def backward(self, module: ModuleType, tape: Any, need_dx: bool = True) -> Results:
        """All gradients by name."""
        name, _ = self.family
        return getattr(module, f"{name}_backward")(tape, self.dy, *self.dstate, need_dx=need_dx)._asdict()

    def run(self, module: ModuleType) -> Results:
        """Results and gradients by name."""
        results, tape = self.forward(module)
        return results | self.backward(module, tape)


def make_problem(
    rng: np.random.Generator,
    cell: str,
    dtype: Any,
    *,
    T: int,
    B: int,
    I: int,
    H: int,
    lengths: bool | Any = False,
    reverse: bool = False,
    tokens: bool = False,
    bias: bool = True,
    near_kinks: bool = True,
    options: dict[str, Any] | None = None,
) -> Problem:
    """Pre-activations are about N(0, 1): the gates are curved there but not saturated, so errors show.

    `lengths` may be True for random, unsorted lengths, with one zero and one full row if there are enough rows. With
    `near_kinks=False` no pre-activation is so close to relu's kink that rounding would decide a gradient; no large
    float32 problem satisfies this.
    """
    while True:
        problem = _draw(rng, cell, options, dtype, T, B, I, H, lengths, reverse, tokens, bias)
        if near_kinks or cell not in KINKS or _distance_from_kink(problem) > 3 * bound(dtype, I + H, T):
            return problem


def with_structure(problem: Problem, rng: np.random.Generator, *names: str) -> Problem:
    """The same problem with a projection to a third of the units, and with the named masks and own initial states."""
    (T, B, H), dtype = (problem.sizes[k] for k in "TBH"), problem.dtype  # type: ignore[misc]
    R = max(1, H // 3) if "W_hr" in names else H
    structure: dict[str, Any] = {}
    if "W_hr" in names:
        structure["W_hr"] = (rng.standard_normal((R, H)) * H**-0.5).astype(dtype)
    if "recurrent_mask" in names:
        structure["recurrent_mask"] = (rng.integers(0, 2, (B, R)) * 1.5).astype(dtype)
    for name, n in (("zoneout_h", R), ("zoneout_c", H)):
        if name in names and (name == "zoneout_h" or len(problem.state) == 2):
            structure[name] = rng.random((T, B, n)) < 0.3
    for name, n in (("h_initial", R), ("c_initial", H)):
        if name in names and (name == "h_initial" or len(problem.state) == 2):
            structure[name] = rng.standard_normal(n).astype(dtype)
    W_ih, W_hh, *biases = problem.weights
    if W_hh is None:
        return problem.but(structure=structure)

    def cut(state: tuple[Any, ...]) -> tuple[Any, ...]:
        return (np.ascontiguousarray(state[0][:, :R]), *state[1:])

    weights = (W_ih, np.ascontiguousarray(W_hh[:, :R]), *biases)
    dy = np.ascontiguousarray(problem.dy[..., :R])
    state, dstate = cut(problem.state), cut(problem.dstate)
    return problem.but(structure=structure, weights=weights, dy=dy, state=state, dstate=dstate)


def _draw(
    rng: np.random.Generator,
    cell: str,
    options: dict[str, Any] | None,
    dtype: Any,
    T: int,
    B: int,
    I: int,
    H: int,
    lengths: bool | Any,
    reverse: bool,
    tokens: bool,
    bias: bool,
) -> Problem:
    made = cell_of(cell, options)
    G, S, U = made.gates, made.states, made.unit_parameters

    def normal(*shape: int, scale: float = 1.0) -> Any:
        return (scale * rng.standard_normal(shape)).astype(dtype)

    if lengths is True:
        lengths = rng.integers(0, T + 1, B)
        lengths[rng.permutation(B)[:2]] = (0, T)[: min(B, 2)]
    elif lengths is False:
        lengths = None
    if made.skip:
        I = H
    H += H % made.sharing
    x = rng.integers(0, I, (T, B)) if tokens else normal(T, B, I)
    dy = normal(T, B, H)
    if lengths is not None:
        padding = np.arange(T)[:, None] >= np.asarray(lengths)
        x[padding] = -1 if tokens else np.nan
        dy[padding] = np.nan
    scale = (2 if tokens else I + H) ** -0.5
    weights = (normal(G * H, I, scale=1.0 if tokens else scale), normal(G * H, H, scale=(I + H) ** -0.5))
    biases = (normal(G * H, scale=0.5), normal(G * H, scale=0.5)) if bias else (None, None)
    if not made.recurrent:
        weights, biases = (weights[0], None), (biases[0], None)
    state = tuple(normal(B, H) for _ in range(S))
    dstate = tuple(normal(B, H) for _ in range(S))
    W_peephole = (
        normal(U, H // made.sharing, scale=0.2) if U else None
    )  # larger ones make c diverge, because c feeds back into itself
    return Problem(
        cell, x, state, (*weights, *biases), dy, dstate, lengths, reverse, W_peephole=W_peephole, options=options
    )


def _distance_from_kink(problem: Problem) -> float:
    from fusedrnn import reference

    results, tape = problem.forward(reference)
    T, B = problem.x.shape[:2]
    inside = np.ones((T, B), bool) if problem.lengths is None else np.arange(T)[:, None] < problem.lengths
    if not inside.any():
        return np.inf
    a = tape.saved[:, KINKS[problem.cell]]
    return float(np.abs(a[inside]).min() / max(1.0, np.abs(results["y"]).max()))


def assert_results(actual: Results, expected: Results, problem: Problem) -> None:
    """Check that exactly the expected results and gradients exist, each within its tolerance."""
    __tracebackhide__ = True
    assert actual.keys() == expected.keys()
    sizes, gates = problem.sizes, cell_of(problem.cell, problem.options).gates
    for name, value in expected.items():
        K = dot_length(QUANTITIES.get(name, name), gates=gates, **sizes)  # type: ignore[arg-type]
        what = f"{problem.cell} {sizes}: {name}"
        assert_close(actual[name], value, dtype=problem.dtype, K=K, T=sizes["T"], what=what)


def assert_same_bits(actual: Any, expected: Any, what: str) -> None:
    """Check for equal bits, including the signs of zeros; in dictionaries, tuples and lists, for all members."""
    __tracebackhide__ = True
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), what
        for name, value in expected.items():
            assert_same_bits(actual[name], value, f"{what}: {name}")
    elif isinstance(expected, (tuple, list)):
        assert len(actual) == len(expected), what
        for k, value in enumerate(expected):
            assert_same_bits(actual[k], value, f"{what}[{k}]")
    elif expected is None:
        assert actual is None, what
    else:
        actual, expected = np.ascontiguousarray(actual), np.ascontiguousarray(expected)
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), what
        bits = np.dtype(f"u{expected.itemsize}")
        differ = actual.view(bits) != expected.view(bits)
        assert not differ.any(), (
            f"{what}: {np.count_nonzero(differ)} of {differ.size} elements differ, first at "
            f"{tuple(int(k) for k in np.argwhere(differ)[0])}: {actual[differ][0]!r} and {expected[differ][0]!r}"
        )
