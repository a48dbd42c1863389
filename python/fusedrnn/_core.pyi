"""Types of the compiled module. The module trusts its callers: every check with a message lives in `_validate.py`."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

def available_isas() -> list[str]: ...
def cells() -> dict[str, dict[str, Any]]:
    """For each cell "gates", "states", "units" (parameters per unit) and "forms", ordered as in csrc/cells/cells.h."""

def activations() -> list[str]: ...
def current_isa() -> str: ...
def set_isa(name: str) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def get_local_num_threads() -> int:
    """Of the calling thread alone; 0: as the process."""

def set_local_num_threads(n: int) -> None: ...
def build_info() -> dict[str, str]: ...
def empty(shape: tuple[int, ...], dtype: Any, /) -> Array:
    """An uninitialised C-contiguous array whose memory goes back to a pool when it is garbage."""

def rows_apart(array: Array) -> bool:
    """Whether no two rows (along the last axis, which is contiguous) share memory."""

def trim_pool() -> int:
    """Give pooled memory back to the system; returns the bytes freed."""

def apply(function: str, x: Array) -> Array:
    """`exp`, `sigmoid` or `tanh` of the current ISA over a contiguous array; for accuracy tests."""

@final
class Schedule:
    """Which rows are active at which step: sorted by falling length inside, in the caller's order outside."""

    def __init__(
        self,
        T: int,
        B: int,
        lengths: NDArray[np.int64] | None = None,
        mask: NDArray[np.bool_] | None = None,  # (B, T), C-contiguous; False: skipped; not read past the length
        reset: NDArray[np.bool_] | None = None,  # (B, T), the same; True: the row starts anew before this step
    ) -> None: ...
    @staticmethod
    def packed(
        lengths: NDArray[np.int64],
        by_step: bool = False,
        mask: NDArray[np.bool_] | None = None,  # (N,); only if not by_step
        reset: NDArray[np.bool_] | None = None,
    ) -> Schedule:
        """For arrays (N, 1, ...) with the steps of all rows: row after row, or first steps before second ones."""

    @property
    def T(self) -> int:
        """Length of arrays along time: T, or N."""

    @property
    def B(self) -> int: ...
    @property
    def columns(self) -> int:
        """Length of arrays along the batch axis: B, or 1 if packed."""

    @property
    def rows(self) -> int:
        """Steps that run, of all rows."""

    def hold(self, y: Array, reverse: bool) -> None:
        """Fill skipped steps of (T, columns, H) with the row's last output in running order, zeros before its first."""

    def sum_held(self, dy: Array, reverse: bool) -> Array:
        """The gradient of what `hold` did: (T, columns, H), undefined where no step ran."""

@final
class Weights:
    """Packed weights of one layer in one direction, for the ISA that is current when they are packed."""

    def __init__(
        self,
        cell: str,  # "rnn_tanh", "rnn_relu", "gru_after", "gru_before", "gru_simple", "lstm", and with `options`
        # "rnn_options", "gru_after_options", "gru_before_options", "gru_simple_options", "lstm_options", "lstm_coupled"
        # By role, C-contiguous: "W_ih" (G*H, I), "W_hh" (G*H, R), "b_ih", "b_hh" (G*H,), gates as in torch; "units"
        # (U, H): peepholes; "W_hr" (R, H): projection of an LSTM's h, without which R is H; layer normalisation, for
        # "gru_after" and "lstm": "gain_ih", "gain_hh" (G*H,), and an LSTM's "gain_c", "bias_c" (H,).
        parameters: dict[str, Array],
        training: bool,  # pack what backward needs, too
        options: tuple[Any, ...] | None = None,  # fusedrnn.kinds.Options
        zoneout: tuple[float, float] = (0.0, 0.0),  # shares of old h and c, in inference
        norm_eps: float | None = None,  # None: no layer normalisation
        like: Weights | None = None,  # whose instruction set to pack for; None: the current one
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def cell(self) -> str: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def output_size(self) -> int: ...

def usual_weights(
    cell: str,
    W_ih: Array,
    W_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
    training: bool,
    like: Weights | None = None,
) -> Weights:
    """`Weights` of the parameters that most cells have, as quickly as can be."""

def number_tokens(
    tokens: NDArray[np.int64],  # (T, B), C-contiguous
    schedule: Schedule,
    input_size: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct tokens of the steps that run, ascending; and (T, B), the place of each step's token among them.

    Places are 0 at skipped steps. IndexError for a token outside [0, input_size) at a step that runs.
    """

def take_columns(W: Array, ids: NDArray[np.int64]) -> Array:
    """``W[:, ids]`` as a C-contiguous array, from a matrix with any strides; reads only these columns."""

@final
class Tape:
    """What forward saved for backward. Owns all its memory; nothing of the caller's is referenced."""

    @property
    def nbytes(self) -> int: ...
    def read_states(self) -> tuple[tuple[Array, ...], tuple[Array, ...], NDArray[np.bool_]]:
        """h (and c) before each step, and after it, (T, B, units) each, zero where none ran; where one ran, (T, B)."""

def forward(
    weights: Weights,
    x: Array,  # (T, B, I) of weights.dtype, any strides; or tokens (T, B): contiguous int64 in range
    # (h,) or (h, c), each (B, H), last axis contiguous; None, also for a part: `initial`
    state: tuple[Array | None, ...] | None,
    y: Array,  # out: (T, B, H), last axis contiguous; zeros past a row's end
    state_n: tuple[Array, ...],  # out: as state
    schedule: Schedule,
    reverse: bool,  # run from each row's last valid step to its first
    training: bool,  # needs Weights(training=True)
    # Training: factors of h in the recurrent product (B, R), and where the old values of h and c stay, bool (T, B, R)
    # and (T, B, H), last axes contiguous.
    masks: tuple[Array | None, Array | None, Array | None] | None = None,
    # The layer's own initial state, to which resets return: (h,) or (h, c), each (H,); None, also for a part: zeros
    initial: tuple[Array | None, ...] | None = None,
) -> Tape | None: ...
def infer(weights: list[Weights], x: Any, batch_first: bool, state: Any, /) -> tuple[Any, Any] | None:
    """y and the final state of stacked one-directional layers; None: x or the state is no plain array of floats.

    `state` is h, or the pair (h, c), each (L, B, units); None is zeros. The same as `forward` of each layer, without
    the way back and forth between Python and here.
    """

def forward_all(calls: list[tuple[Any, ...]], training: bool) -> list[Tape | None]:
    """`forward` of several independent calls, side by side where that is quicker.

    Each is (weights, x, state, y, state_n, schedule, reverse, masks, initial).
    """

def forward_stacked(calls: list[tuple[Any, ...]]) -> list[None]:
    """Inference through stacked layers: the x of each call is the y (the same object) of the one before it."""

def backward(
    tape: Tape,
    dy: Array | None,  # (T, B, H), last axis contiguous
    dstate_n: tuple[Array | None, ...],  # as state; None = zeros
    dx: Array | None,  # out: (T, B, I), last axis contiguous, zeros past the end; None (always for tokens): not wanted
    accumulate: bool,  # add to dx instead of overwriting it
    dstate: tuple[Array, ...],  # out: as state
    dparams: dict[str, Array],  # out: by the roles of the parameters
    dinitial: tuple[Array, ...] | None = None,  # out: gradients of `initial`, of each row: (B, H); None: not wanted
) -> None: ...
def backward_all(calls: list[tuple[Any, ...]]) -> None:
    """`backward` of calls that do not depend on each other, but for adding to one dx in their order.

    Each is (tape, dy, dstate_n, dx, accumulate, dstate, dparams, dinitial).
    """

class Stream:
    """One step at a time over stacked one-directional layers; owns its state. Base of `fusedrnn.frozen.Stream`."""

    def __init__(self, weights: list[Weights], batch_size: int, window: int = 1) -> None: ...
    def step(self, x: Any, out: Array | None = None) -> Array:
        """(B, I) floats or (B,) integer tokens -> (B, H).

        Contiguous arrays of the layer's dtype are taken as they are; anything else goes through ``self._as_input(x)``,
        which the subclass provides: it returns such an array, or contiguous int64 tokens (B,) in range, or raises.
        """

    def get_state(self) -> tuple[Array, ...]:
        """Copies: (L, B, H) for each state."""

    def set_state(self, state: tuple[Array, ...]) -> None: ...
    def get_inputs(self) -> tuple[Array, ...]:
        """With a window, copies of the last inputs of each layer, (B, window - 1, I); else an empty tuple."""

    def set_inputs(self, inputs: tuple[Array, ...]) -> None: ...
    def reset_rows(self, rows: NDArray[np.bool_] | None) -> None: ...

def widen(schedule: Schedule, x: Array, window: int, reverse: bool, wide: Array) -> None:
    """Fill wide (T, columns, window * I) with the inputs of each step's last steps, the oldest first, where steps run.

    x: (T, columns, I), or int64 tokens (T, columns), which become one-hot rows. A step that the row, or the run after a
    reset, does not have is zero.
    """

def narrow(schedule: Schedule, dwide: Array, window: int, reverse: bool, dx: Array, accumulate: bool) -> None:
    """Set dx (T, columns, I), or add to it: the gradient of the x of `widen` from that of its result."""

_C_API: Any  # capsule "fusedrnn._core._C_API" of the function table; see include/fusedrnn.h

def weights_capsule(weights: Weights) -> Any:
    """A capsule "fusedrnn_weights" that shares the weights; see include/fusedrnn.h."""

def machine(threads: bool = True) -> dict[str, Any]:
    """The rates and thresholds of core/policy.h as of now; without `threads`, the processors are not counted."""

def measure(weights: Weights, schedule: Schedule, tokens: bool, training: bool, masked: bool = False) -> dict[str, Any]:
    """What a call would need: workloads for `decide`, and bytes."""

def decide(loads: list[dict[str, Any]], order: str, machine: dict[str, Any]) -> list[dict[str, Any]]:
    """How core/policy.h shares calls, "independent" or "stacked", among the threads of a machine: stages."""

def step_threads(load: dict[str, Any], machine: dict[str, Any], awake: bool) -> int:
    """On how many threads a stream would take a step."""

# ---- linear recurrences on plain arrays, all in running order

@final
class StepFlags:
    """Which rows run which steps, and where their states become zero; lengths, mask and reset in the order of time."""

    def __init__(
        self,
        T: int,
        B: int,
        lengths: NDArray[np.int64] | None,
        mask: NDArray[np.bool_] | None,  # (T, B), C-contiguous, as reset
        reset: NDArray[np.bool_] | None,
        reverse: bool,
    ) -> None: ...

def scan_sums(units: int) -> int:
    """The number of sums into which `scan_backward` divides the products of a row of `units` numbers."""

def scan_forward(
    a: Array,  # (T, B, H) with a contiguous last axis, or 1 for some of these sizes
    b: Array,  # (T, B, H), last axis contiguous
    h_0: Array | None,  # (B, H), C-contiguous
    h: Array,  # out: (T, B, H), the rows of a step C-contiguous; its dtype is that of all arrays
    h_n: Array,  # out: (B, H)
    flags: StepFlags | None,
) -> None: ...
def scan_backward(
    a: Array,
    h: Array,
    h_0: Array | None,
    flags: StepFlags | None,
    dh: Array | None,  # (T, B, H), last axis contiguous
    dh_n: Array | None,
    da: Array,  # out: (1, B, H) if a has one step; (T, B, scan_sums) if it has one unit; else (T, B, H)
    db: Array,  # out: (T, B, H)
    dh_0: Array,  # out: (B, H)
) -> None: ...

@final
class StateSpaceTape:
    """What `state_space_forward` keeps: states, and inputs if it could not read them in place."""

    @property
    def nbytes(self) -> int: ...

def state_space_forward(
    u: Array,  # (T, B, m), any strides
    matrices: tuple[Array | None, ...],  # A, B, C, D: (rows, columns) in C order, after T, or T and B; D may be None
    x_0: Array | None,  # (B, n), C-contiguous
    y: Array,  # out: (T, B, p), the rows of a step C-contiguous
    x_n: Array,  # out: (B, n)
    before: bool,  # outputs see the state before their step
    flags: StepFlags | None,
) -> StateSpaceTape: ...
def state_space_backward(
    tape: StateSpaceTape,
    u: Array,  # as in forward
    matrices: tuple[Array | None, ...],  # as in forward
    dy: Array | None,  # (T, B, p), any strides
    dx_n: Array | None,
    du: Array,  # out: (T, B, m), the rows of a step C-contiguous
    dmatrices: tuple[Array | None, ...],  # out: in the form of the matrices
    dx_0: Array,  # out: (B, n)
) -> None: ...

@final
class SelectiveTape:
    """The states that `selective_scan_forward` keeps: those before every 32nd step."""

    @property
    def nbytes(self) -> int: ...

def selective_scan_forward(
    u: Array,  # (T, B, D), last axis contiguous, as delta and z
    delta: Array,
    z: Array | None,
    A: Array,  # (D, N), C-contiguous; if it is complex, so are B, C and h
    B: Array,  # (T, B, G, N), last two axes contiguous; or (D, N), C-contiguous
    C: Array,
    D: Array | None,  # (D,)
    delta_bias: Array | None,  # (D,)
    h: Array,  # (B, D, N), in: the first state; out: the last one
    y: Array,  # out: (T, B, D), the rows of a step C-contiguous
    flags: StepFlags | None,
    softplus: bool,
    rule: int,  # mamba, zoh, bilinear
) -> SelectiveTape: ...
def selective_scan_backward(
    tape: SelectiveTape,
    u: Array,
    delta: Array,
    z: Array | None,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None,
    delta_bias: Array | None,
    dy: Array | None,  # (T, B, D), last axis contiguous
    du: Array,  # out, as ddelta and dz: (T, B, D), the rows of a step C-contiguous
    ddelta: Array,
    dz: Array | None,
    dA: Array,  # out: (D, N)
    dB: Array,  # out, as dC: of the shape of B, the rows of a step C-contiguous
    dC: Array,
    dD: Array,  # out, as ddelta_bias: (D,)
    ddelta_bias: Array,
    dh: Array,  # (B, D, N), in: the gradient of the last state; out: that of the first one
) -> None: ...
def selective_scan_step(
    h: Any, u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, delta_bias: Any, softplus: Any, /
) -> Array | None:
    """One step of "mamba" with real numbers, h updated in place; None if an argument needs a look by Python."""

def selective_functions(function: str, x: Array) -> Array:
    """exp2, softplus, phi or sine of each element, for accuracy tests."""

def causal_conv_forward(
    x: Array,  # (T, B, D) in running order, last axis contiguous, as all arrays over time
    weight: Array,  # (D, k)
    bias: Array | None,
    state: Array | None,  # (B, k-1, D)
    silu: bool,
    y: Array,  # out
    state_n: Array,  # out
    flags: StepFlags | None,
) -> None: ...
def causal_conv_backward(
    x: Array,
    weight: Array,
    bias: Array | None,
    state: Array | None,
    silu: bool,
    dy: Array,
    dstate_n: Array | None,
    dx: Array,  # out, as what follows
    dweight: Array,
    dbias: Array,
    dstate: Array,
    flags: StepFlags | None,
) -> None: ...
def linear_attention_forward(
    inputs: tuple[Array | None, ...],  # q, k, v, decay, beta
    S_0: Array | None,  # (B, kv_heads, d_k, d_v)
    scale: float,
    o: Array,  # out
    S_n: Array,  # out
    error: Array | None,  # out, with beta: v - S^T k
    flags: StepFlags | None,
) -> None: ...
def linear_attention_backward(
    inputs: tuple[Array | None, ...],
    S_0: Array | None,
    scale: float,
    error: Array | None,
    do: Array,
    dS_n: Array | None,
    outputs: tuple[Array | None, ...],  # out: the gradients of the inputs
    dS_0: Array,  # out
    flags: StepFlags | None,
) -> None: ...
