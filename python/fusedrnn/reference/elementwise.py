"""The functions of cells without a recurrent matrix, with the names and arguments of `fusedrnn.functional`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fusedrnn.grads import ElementwiseGrads, ElementwisePairGrads
from fusedrnn.reference.cells.cell import Cell
from fusedrnn.reference.cells.indrnn import IndRNN
from fusedrnn.reference.cells.lru import LRU
from fusedrnn.reference.cells.mingru import MinGRU, MinLSTM
from fusedrnn.reference.cells.qrnn import QRNN
from fusedrnn.reference.cells.rglru import RGLRU
from fusedrnn.reference.cells.sru import SRU
from fusedrnn.reference.sequence import backward, forward
from fusedrnn.reference.windows import WindowTape, backward_windows, forward_windows
from fusedrnn.signatures import backward_signature, forward_signature, named_function

__all__ = [
    *("indrnn_backward", "indrnn_forward", "lru_backward", "lru_forward", "mingru_backward", "mingru_forward"),
    *("minlstm_backward", "minlstm_forward", "qrnn_backward", "qrnn_forward", "rglru_backward", "rglru_forward"),
    *("sru_backward", "sru_forward"),
]


def functions_of(
    name: str, make: Callable[..., Cell], options: dict[str, object] | None = None, windows: bool = False
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The pair of functions of a family.

    `make` makes the cell from its options by name and, if cells of the family differ by the number of their gates,
    from `wide`. With `windows` W_ih may multiply the inputs of several steps.
    """
    options = options or {}
    usual = make(**options)
    has_units = usual.unit_parameters > 0
    zoneout = {"zoneout_c": None} if usual.zones_gate else {}

    def run_forward(a: dict[str, Any]) -> Any:
        W_ih, W_unit = np.asarray(a["W_ih"]), a.get("W_unit")
        own = {option: a[option] for option in options}
        if usual.skip and W_unit is not None and len(W_ih) == (usual.gates + 1) * np.shape(W_unit)[1]:
            own["wide"] = True
        steps: dict[str, Any] = {k: a[k] for k in ("lengths", "mask", "reset", "past_end", "reverse", "dtype")}
        if zoneout and a["zoneout_c"] is not None:
            steps["zoneout"] = (0, a["zoneout_c"])
        steps["initial"] = tuple(a[part] for part in ("h_initial", "c_initial")[: usual.states])
        state = tuple(a[part] for part in ("h_0", "c_0")[: usual.states])
        if a.get("window", 1) != 1:
            y, state_n, wide = forward_windows(make(**own), a["window"], a["x"], state, W_ih, a["b_ih"], **steps)
            return (y, *state_n, wide)
        y, state_n, tape = forward(make(**own), a["x"], state, W_ih, None, a["b_ih"], W_peephole=W_unit, **steps)
        return (y, *state_n, tape)

    def run_backward(a: dict[str, Any]) -> Any:
        tape = a["tape"]
        if not tape.cell.name.startswith(name):
            raise ValueError(f"{name}_backward: the tape is from {tape.cell.name}")
        dstate_n = tuple(a[part] for part in ("dh_n", "dc_n")[: usual.states])
        back: Any = backward_windows if isinstance(tape, WindowTape) else backward
        grads = back(tape, a["dy"], dstate_n, need_dx=a["need_dx"], sparse=a["sparse"])
        made: Any = ElementwiseGrads if usual.states == 1 else ElementwisePairGrads
        own = tuple(d if has else None for d, has in zip(grads.dinitial, tape.has_initial, strict=False))
        return made(grads.dx, *grads.dstate, grads.dW_ih, grads.db_ih, grads.dW_peephole, *own)

    doc = "`fusedrnn.functional.{}` in NumPy; the equations are in `cells/`."
    forward_name, backward_name = f"{name}_forward", f"{name}_backward"
    others = {"dtype": np.float64}
    window = {"window": 1} if windows else {}
    signature = forward_signature(usual.states, has_units, options | window | zoneout, others)
    return (
        named_function(forward_name, __name__, doc.format(forward_name), signature, run_forward),
        named_function(
            backward_name, __name__, doc.format(backward_name), backward_signature(usual.states), run_backward
        ),
    )


def sru_cell(highway_bias: float = 0.0, rescale: bool = True, wide: bool = False) -> Cell:
    """An SRU; arguments are those of `sru_forward`, and whether a product stands for x on the highway."""
    return SRU(wide, (1 + 2 * np.exp(highway_bias)) ** 0.5 if rescale else 1.0)


indrnn_forward, indrnn_backward = functions_of("indrnn", IndRNN, {"nonlinearity": "relu"})
lru_forward, lru_backward = functions_of("lru", LRU)
mingru_forward, mingru_backward = functions_of("mingru", MinGRU, {"activation": "g"})
minlstm_forward, minlstm_backward = functions_of("minlstm", MinLSTM, {"activation": "g"})
qrnn_forward, qrnn_backward = functions_of("qrnn", QRNN, windows=True)
rglru_forward, rglru_backward = functions_of("rglru", RGLRU)
sru_forward, sru_backward = functions_of("sru", sru_cell, {"highway_bias": 0.0, "rescale": True})
