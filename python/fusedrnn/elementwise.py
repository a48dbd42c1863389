"""Common base of layers, cells and functions without a recurrent matrix: units do not mix over time.

Parameters of a layer are ``weight_ih_l0`` (G*H, I), ``bias_ih_l0`` (G*H,) unless ``bias=False``, and in some families
``weight_unit_l0``, with a few elements for each unit. There is no ``weight_hh``, hence nothing that acts on the
recurrent product: no recurrent dropout, no weight dropout, no layer normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _validate
from .grads import ElementwiseGrads, ElementwisePairGrads
from .kinds import CELLS, CellKind
from .one_direction import run_backward, run_packed
from .parameters import Parameterized, arguments_of
from .recurrent import RecurrentLayer
from .recurrent_cell import RecurrentCell
from .signatures import backward_signature, forward_signature, named_function
from .specs import Bias

Array = NDArray[Any]

#: Arguments of all constructors, in their order, without the sizes, dtype and rng.
COMMON = ("num_layers", "bias", "batch_first", "dropout", "bidirectional", "merge", "backwards", "learned_state")


def draw_linear(layer: Parameterized, gain: float = 1.0) -> None:
    """Draw weight_ih and bias_ih from U(-gain/sqrt(inputs), gain/sqrt(inputs)), as torch's Linear does; others zero."""
    params: dict[str, Array] = {}
    bound = 0.0
    for spec in layer._specs:
        if spec.role == "W_ih":
            bound = gain / math.sqrt(spec.shape[1])
        drawn = layer.rng.uniform(-bound, bound, spec.shape) if spec.role in ("W_ih", "b_ih") else np.zeros(spec.shape)
        params[spec.name] = drawn.astype(layer.dtype, copy=False)
    layer.__dict__["params"] = params


def between(owner: str, name: str, value: object, low: float, high: float) -> float:
    """A number from `low` to `high`."""
    number = _validate.finite(owner, name, value)
    if not low <= number <= high:
        raise ValueError(f"{owner}: {name} is {number!r}; expected {low:g} <= {name} <= {high:g}")
    return number


class Elementwise(Parameterized):
    """What layers and cells without a recurrent matrix share."""

    @classmethod
    def _hidden_size_in(cls, arrays: Mapping[str, Any], suffix: str) -> tuple[int, str]:
        """The hidden size that stored parameters have, and the name of the parameter that says it."""
        cell, unit, weight = CELLS[cls._cell], f"weight_unit{suffix}", f"weight_ih{suffix}"
        if unit in arrays:
            return int(arrays[unit].shape[1]) * cell["sharing"], unit
        return int(arrays[weight].shape[0]) // cell["gates"], weight


class ElementwiseLayer(Elementwise, RecurrentLayer):
    """Base of all layers without a recurrent matrix."""

    _assignable: ClassVar[frozenset[str]] = frozenset({"rng", "dropout"})

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: Bias = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        merge: str | None = "concat",
        backwards: bool = False,
        learned_state: bool = False,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self._construct_elementwise(locals())

    _arguments = arguments_of(__init__)

    def _construct_elementwise(
        self, arguments: Mapping[str, Any], check: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    ) -> None:
        """Initialise from the arguments of a constructor by name; `check` returns a family's own, checked."""
        shared = {name: arguments[name] for name in ("input_size", "hidden_size", *COMMON, "dtype", "rng")}
        self._construct(**shared, zoneout=0.0, recurrent_dropout=0.0, weight_dropout=0.0, check_options=check)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("recurrent_dropout", "weight_dropout"):
            raise AttributeError(
                f"{type(self).__name__}: {name} acts on the recurrent product, which this layer lacks; expected dropout"
            )
        super().__setattr__(name, value)

    @property
    def _is_wide(self) -> bool:
        """Whether some layer has more or fewer inputs than units, so that x itself cannot stand for a unit's input."""
        above = self.hidden_size * (2 if self.bidirectional and self.merge in ("concat", None) else 1)
        return self.input_size != self.hidden_size or (self.num_layers > 1 and above != self.hidden_size)

    def _draw_own(self) -> None:
        """Draw the parameters of one family."""
        draw_linear(self)

    def _draw(self) -> None:
        self._draw_own()
        for spec in self._specs:
            if spec.role in ("h_0", "c_0"):
                self.params[spec.name] = np.zeros(spec.shape, self.dtype)


class ElementwiseCell(Elementwise, RecurrentCell):
    """Base of all cells without a recurrent matrix: one step of such a layer."""

    #: The layer of the same family, which knows how parameters are drawn.
    _layer: ClassVar[type[ElementwiseLayer]]

    @property
    def _is_wide(self) -> bool:
        return self.input_size != self.hidden_size

    def _draw(self) -> None:
        self._layer._draw_own(self)  # type: ignore[arg-type]


# ---- functions ------------------------------------------------------------------------------------------------------


class Family(NamedTuple):
    """What the functions of a family need.

    `options` are keyword arguments and their defaults; `check` checks them and returns the arguments of `kind`, whose
    first argument says whether the weights have a block of rows in place of x itself.
    """

    name: str
    options: dict[str, object]
    check: Callable[..., dict[str, Any]]
    kind: Callable[..., CellKind]
    wide: str | None = None  # the kernels' name of the cell with that block
    zoneout: bool = False


def functions_of(family: Family, summary: str, rows: str, module: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The pair of functions of a family; docstrings are made from `summary`, the equation, and `rows`, the gates."""
    cell = CELLS[family.name]
    states, has_units = cell["states"], bool(cell["units"])
    options = family.options | ({"zoneout_c": None} if family.zoneout else {})
    forward_name, backward_name = f"{family.name}_forward", f"{family.name}_backward"

    def forward(a: dict[str, Any]) -> Any:
        own = family.check(forward_name, **{name: a[name] for name in family.options})
        given, wide, dtype = _weights(forward_name, family, a["W_ih"], a["b_ih"], a.get("W_unit"), a.get("window", 1))
        state_0 = {name: a[name] for name in ("h_0", "c_0")[:states]}
        initial = {name: a[name] for name in ("h_initial", "c_initial")[:states]}
        masks = (None, None, a["zoneout_c"]) if family.zoneout else (None,)
        steps = (a["lengths"], a["mask"], a["reset"], a["past_end"])
        kind = family.kind(wide, **own)
        H = len(given["W_ih"]) // kind.gates
        y, state_n, tape = run_packed(
            forward_name, kind, a["x"], state_0, initial, given, (H,) * states, dtype, masks, steps, a["reverse"]
        )
        return (y, *state_n, tape)

    def backward(a: dict[str, Any]) -> Any:
        dstate_n = {name: a[name] for name in ("dh_n", "dc_n")[:states]}
        dx, dstate, (dW_ih, _, db_ih, _, dunits, _), own = run_backward(
            backward_name, forward_name, a["tape"], a["dy"], dstate_n, a["need_dx"], a["sparse"]
        )
        grads: Any = ElementwiseGrads if states == 1 else ElementwisePairGrads
        return grads(dx, *dstate, dW_ih, db_ih, dunits, *own)

    G = cell["gates"]
    texts = {"summary": summary, "name": family.name, "G": G, "rows": rows}
    texts |= {"state": "h_0" if states == 1 else "h_0, c_0", "final": "h_n" if states == 1 else "h_n, c_n"}
    U, H = cell["units"], f"{4 // cell['sharing']}"
    texts["initial"] = "h_initial" if states == 1 else "h_initial, c_initial"
    texts["unit"] = f"    W_unit : array-like ({U}, H{'/2' * (cell['sharing'] == 2)})\n" if has_units else ""
    texts["options"] = "".join(f"    {name}\n        As for the layer.\n" for name in family.options)
    texts["options"] += (
        "    zoneout_c : bool (T, B, H), or None\n        True where a unit keeps its c.\n" * family.zoneout
    )
    texts["call"] = f"np.ones((7, 2, 4)), {'None, ' * states}np.ones(({G} * 4, 4)), None"
    texts["call"] += f", np.zeros(({U}, {H}))" if has_units else ""
    texts["shapes"], texts["tuple"] = (".shape, ".join(texts["final"].split(", ")), ", (2, 4)" * states)
    texts["grads"] = "ElementwiseGrads" if states == 1 else "ElementwisePairGrads"
    texts["dfinal"] = texts["final"].replace("h_n", "dh_n").replace("c_n", "dc_n")
    return (
        named_function(
            forward_name, module, FORWARD_DOC.format(**texts), forward_signature(states, has_units, options), forward
        ),
        named_function(backward_name, module, BACKWARD_DOC.format(**texts), backward_signature(states), backward),
    )


FORWARD_DOC = """{summary}

    Parameters
    ----------
    x : array-like, (T, B, I) floats or (T, B) integer tokens
    {state} : array-like (B, H), or None for {initial}
    W_ih : array-like ({G}*H, I)
        {rows}
    b_ih : array-like ({G}*H,), or None for none
{unit}{options}    {initial}, lengths, mask, reset, past_end, reverse
        As for `rnn_forward`.

    Returns
    -------
    y : ndarray (T, B, H)
    {final} : ndarray (B, H)
    tape : FunctionalTape
        For `{name}_backward`.

    Raises
    ------
    TypeError, ValueError, IndexError
        As for `rnn_forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import {name}_forward
    >>> y, {final}, tape = {name}_forward({call})
    >>> y.shape, {shapes}.shape
    ((7, 2, 4){tuple})
    """

BACKWARD_DOC = """Gradients of a scalar with respect to everything that went into `{name}_forward`.

    Parameters
    ----------
    tape : FunctionalTape
        From `{name}_forward`; may be used again.
    dy, {dfinal}, need_dx, sparse
        As for `lstm_backward`.

    Returns
    -------
    {grads}

    Raises
    ------
    TypeError, ValueError
        As for `rnn_backward`.
    """


def _weights(
    owner: str, family: Family, W_ih: Any, b_ih: Any, W_unit: Any, window: int
) -> tuple[dict[str, Array], bool, np.dtype[Any]]:
    """The weights by role, whether there is a block of rows in place of x itself, and the dtype."""
    cell = CELLS[family.name]
    given: dict[str, Array] = {}
    dtype: np.dtype[Any] | None = None
    for role, name, value in (("W_ih", "W_ih", W_ih), ("b_ih", "b_ih", b_ih), ("units", "W_unit", W_unit)):
        if value is None and (role == "b_ih" or not cell["units"]):
            continue
        array = _validate.as_array(owner, name, value)
        if dtype is None:
            if array.dtype.type not in (np.float32, np.float64):
                raise TypeError(f"{owner}: {name} has dtype {array.dtype}; expected float32 or float64")
            dtype = np.dtype(array.dtype.type)
        elif array.dtype.type is not dtype.type:
            raise TypeError(f"{owner}: {name} has dtype {array.dtype}; expected {dtype}, as W_ih has")
        if not (array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative):
            array = np.array(array, dtype=dtype, order="C")
        given[role] = array
    assert dtype is not None
    G, U, sharing, ih = cell["gates"], cell["units"], cell["sharing"], given["W_ih"]
    if ih.ndim != 2 or min(ih.shape) < 1:
        raise ValueError(f"{owner}: W_ih has shape {ih.shape}; expected ({G}*H, I), both at least 1")
    if ih.shape[1] % window:
        raise ValueError(f"{owner}: W_ih has shape {ih.shape}; expected ({G}*H, window*I) with window = {window}")
    wide = False
    if U:
        units = given["units"]
        if units.ndim != 2 or len(units) != U or units.shape[1] < 1:
            width = "H" if sharing == 1 else f"H/{sharing}"
            raise ValueError(f"{owner}: W_unit has shape {units.shape}; expected ({U}, {width})")
        H = units.shape[1] * sharing
        wide = family.wide is not None and len(ih) == (G + 1) * H
        G += wide
        if len(ih) != G * H:
            either = f"({G}*H, I)" if family.wide is None else f"({G}*H, I), or ({G + 1}*H, I)"
            raise ValueError(f"{owner}: W_ih has shape {ih.shape}; expected {either} with H = {H}, as W_unit has")
        if family.wide is not None and not wide and ih.shape[1] != H:
            raise ValueError(
                f"{owner}: W_ih has shape {ih.shape}; x itself is an operand, which needs I = H = {H}, unless W_ih has "
                f"({G + 1}*H, I)"
            )
    elif len(ih) % G:
        raise ValueError(f"{owner}: W_ih has shape {ih.shape}; expected ({G}*H, I)")
    if "b_ih" in given:
        _validate.exact_shape(owner, "b_ih", given["b_ih"], (len(ih),), f"({G}*H,)")
    return given, wide, dtype
