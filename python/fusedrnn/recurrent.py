"""Common base of all layers: configuration, parameters, and the run over a sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _core, _validate, masks, unroll
from .calling import Mode, SequenceLayer
from .form import Extent, Outputs, Plan
from .frozen import FrozenLayer
from .kinds import CellKind
from .masks import Masks, Rates
from .parameters import Parameterized, arguments_of, layer_specs, learned_specs, pack
from .specs import Bias, ParameterSpec
from .tokens import Seen, pack_columns, see
from .unroll import Record, Run

if TYPE_CHECKING:
    from .reference.cells import Cell

Array = NDArray[Any]

#: Options that the kernels with layer normalisation do not support.
NOT_NORMED = (
    *("reset_after", "reset_gate", "proj_size", "peephole", "coupled", "clip", "cell_clip"),
    *("activation", "recurrent_activation", "output_activation"),
)


def layer_norm_options(owner: str, layer_norm: object, layer_norm_eps: object) -> dict[str, Any]:
    """The arguments of layer normalisation by name, checked."""
    return {
        "layer_norm": _validate.flag(owner, "layer_norm", layer_norm),
        "layer_norm_eps": _validate.layer_norm_eps(owner, layer_norm_eps),
    }


class SavedLayer:
    """The data that a layer's run saves for the backward pass."""

    __slots__ = ("extent", "factors", "masks", "plan", "records", "seen", "specs")

    def __init__(
        self,
        plan: Plan,
        specs: tuple[ParameterSpec, ...],
        extent: Extent,
        records: list[Record],
        masks: Masks,
        factors: Array | None,
        seen: Seen | None,
    ) -> None:
        self.plan = plan
        self.specs = specs
        self.extent = extent
        self.records = records
        self.masks = masks
        self.factors = factors  # by which each weight_hh was multiplied
        self.seen = seen  # the tokens

    @property
    def nbytes(self) -> int:
        return sum(record.nbytes for record in self.records)

    def backward(
        self, dys: tuple[Array | None, ...], dstate_n: Any, dx: Array | None
    ) -> Run[tuple[tuple[Array, ...], dict[str, Any]]]:
        """See `Saved`."""
        plan, seen = self.plan, self.seen
        rows = plan.num_layers * plan.directions
        shapes = [spec.shape for spec in self.specs[: rows * plan.kind.each]]  # without learned initial states
        if seen is not None:
            for i in plan.lowest_W_ih:
                shapes[i] = (shapes[i][0], seen.width)
        dstate_0, dinitial, arrays = yield from unroll.backward(
            plan, self.extent, self.records, dys, dstate_n, dx, shapes
        )
        dparams: list[Any] = arrays
        if seen is not None:
            for i in plan.lowest_W_ih:
                dparams[i] = seen.gradient(dparams[i], plan.kind.window * plan.input_size)
        if self.factors is not None:
            for dW_hh, factors in zip(dparams[plan.kind.every("W_hh")], self.factors, strict=True):
                dW_hh *= factors
        if dinitial is not None:
            dparams += [part[i].sum(axis=0) for i in range(rows) for part in dinitial]
        return dstate_0, {spec.name: array for spec, array in zip(self.specs, dparams, strict=True)}


class RecurrentLayer(SequenceLayer, Parameterized):
    """Base of all layers, which process sequences in the same way.

    A layer without options of its own inherits this constructor and names its cell with `_cell`; others list their
    options in a constructor of their own, which calls `_construct`.
    """

    _assignable: ClassVar[frozenset[str]] = frozenset({"rng", "dropout", "recurrent_dropout", "weight_dropout"})

    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    merge: str | None
    backwards: bool
    learned_state: bool
    zoneout: float | tuple[float, float]
    recurrent_dropout: float
    weight_dropout: float
    layer_norm: bool = False
    layer_norm_eps: float = 1e-5
    _plan: Plan

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
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self._construct(
            *(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, merge),
            *(backwards, learned_state, zoneout, recurrent_dropout, weight_dropout, dtype, rng),
        )

    _arguments = arguments_of(__init__)

    #: Parts of the state.
    _states: ClassVar[tuple[str, ...]] = ("h",)

    def _construct(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: Bias,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        merge: str | None,
        backwards: bool,
        learned_state: bool,
        zoneout: float | tuple[float, float],
        recurrent_dropout: float,
        weight_dropout: float,
        dtype: DTypeLike,
        rng: np.random.Generator | int | None,
        check_options: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        """Initialise from the arguments that all layers share, and from a family's options.

        `check_options` returns the options; it is called with the shared arguments, which have been checked.
        """
        owner = type(self).__name__
        values = self._sizes(input_size, hidden_size, bias, dtype, rng)
        values["num_layers"] = _validate.size(owner, "num_layers", num_layers, _validate.MOST_LAYERS)
        values["batch_first"] = _validate.flag(owner, "batch_first", batch_first)
        values["dropout"] = _validate.probability(owner, "dropout", dropout)
        values["bidirectional"] = _validate.flag(owner, "bidirectional", bidirectional)
        values["merge"] = _validate.merge(owner, merge, values["bidirectional"])
        if values["dropout"] and values["num_layers"] == 1:
            _validate.warn_idle_dropout(owner, values["dropout"], stacklevel=3)
        rates = _validate.zoneout(owner, zoneout, self._states)
        values["zoneout"] = rates if len(self._states) == 2 and rates[0] != rates[1] else rates[0]
        values["recurrent_dropout"] = _validate.probability(owner, "recurrent_dropout", recurrent_dropout)
        values["weight_dropout"] = _validate.probability(owner, "weight_dropout", weight_dropout)
        values["backwards"] = _validate.backwards(owner, backwards, values["bidirectional"])
        values["learned_state"] = _validate.flag(owner, "learned_state", learned_state)
        self._configure(values if check_options is None else values | check_options(values))
        self._initialise()

    def _specify(self) -> tuple[ParameterSpec, ...]:
        plan = Plan(
            type(self).__name__,
            self._kind,
            self.dtype,
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bidirectional,
            self.batch_first,
            self.merge,
            self.backwards,
            self.learned_state,
            self._rates.zoneout,
        )
        self.__dict__["_plan"] = plan
        return layer_specs(plan) + learned_specs(plan)

    def _normed(self, kind: CellKind) -> CellKind:
        """The kind with layer normalisation, if it is requested and the cell supports it."""
        if not self.layer_norm:
            return kind
        if not kind.can_be_normed:
            for name, default in self._arguments:
                value = getattr(self, name)
                if name in NOT_NORMED and value != default:
                    raise _validate.no_layer_norm(type(self).__name__, name, value, default)
        return kind._replace(norm_eps=self.layer_norm_eps)

    def _draw(self) -> None:
        super()._draw()
        for spec in learned_specs(self._plan):
            self.params[spec.name][:] = 0

    def _reversed(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _plan=self._plan.reversed())
        return other

    @property
    def _rates(self) -> Rates:
        h, c = self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout, self.zoneout)
        c = c if "c" in self._kind.states else 0.0
        between = self.dropout if self.num_layers > 1 else 0.0
        return Rates(self.recurrent_dropout, self.weight_dropout, (h, c), between)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("dropout", "recurrent_dropout", "weight_dropout"):
            value = _validate.probability(type(self).__name__, name, value)
        super().__setattr__(name, value)

    def _quick(self, x: Any, state: Any) -> tuple[Any, Any] | None:
        plan = self._plan
        if not plan.takes_quickly(x):
            return None
        if state is not None:  # before anything is packed
            given = (state,) if len(plan.parts) == 1 else state
            if not plan.is_plain_state(given, x.shape[0 if plan.batch_first else 1]):
                return None
        return _core.infer(pack(plan.kind, self._arrays(), False, plan.zoneout), x, plan.batch_first, state)

    def _given_masks(self, masks: Any) -> Mapping[str, Any]:
        return {} if masks is None else _validate.mask_names(self._plan.owner, masks, self._rates.by_name())

    def _run(
        self, x: Array, state: Any, extent: Extent, outputs: Outputs, mode: Mode
    ) -> Run[tuple[tuple[Array, ...], SavedLayer | None]]:
        plan = self._plan
        lowest = plan.lowest_W_ih if x.ndim == 2 else ()
        arrays, learned = plan.split_learned(self._arrays(lowest))
        seen = see(x, extent.schedule, plan.input_size, mode.save, plan.kind)
        pack_columns(seen, arrays, lowest)
        if seen is not None:
            x = seen.numbers
        rows, rates = plan.num_layers * plan.directions, self._rates
        used: Masks = {}
        if mode.drop and rates.any:
            between = plan.num_layers - 1, plan.inner_width
            shapes = masks.shapes(rows, extent, plan.units, self._shape_of_W_hh(), between)
            used = masks.settle(plan.owner, rates, mode.masks, shapes, self.rng)
        factors = masks.weight_factors(used, rates, plan.dtype)
        if factors is not None:
            every = plan.kind.every("W_hh")
            arrays[every] = [W_hh * factor for W_hh, factor in zip(arrays[every], factors, strict=True)]
        weights = pack(plan.kind, arrays, mode.save, (0.0, 0.0) if mode.drop else plan.zoneout)
        inside = masks.with_columns(used, extent)
        step_masks = masks.for_kernels(inside, rates, rows, plan.dtype)
        states, kept = (state, learned), inside.get("dropout")
        state_n, records = yield from unroll.forward(
            plan, weights, x, states, extent, outputs, mode.save, kept, rates.dropout, step_masks
        )
        if not mode.save:
            return state_n, None
        return state_n, SavedLayer(plan, self._specs, extent, records, used, factors, seen)

    def _shape_of_W_hh(self) -> tuple[int, ...]:
        """Shape of the lowest layer's W_hh; empty if there is none."""
        return next((spec.shape for spec in self._specs if spec.role == "W_hh"), ())

    def _show(self, saved: Any, x: Array, extent: Extent) -> tuple[Any, Array]:
        from .inspection import show_layer  # imports the reference, which calls do not need

        plan = self._plan
        weights, _ = plan.split_learned(self._arrays(plan.lowest_W_ih if x.ndim == 2 else ()))
        return show_layer(plan, self._reference_cell(), weights, saved.records, x, extent)

    def _reference_cell(self) -> Cell:
        """The reference's cell with the options of this layer, except layer normalisation."""
        from .reference.cells import CELLS  # calls do not need the reference

        return CELLS[self._cell]

    def freeze(self, precision: str | None = None) -> FrozenLayer:
        """Pack the parameters once, for inference and streaming; later changes of the layer have no effect on it.

        Parameters
        ----------
        precision : "float32", "float64" or None
            The layer's own dtype, which is also the meaning of None; others are not available yet.

        Returns
        -------
        FrozenLayer

        Raises
        ------
        ValueError
            The precision is not available.
        """
        owner = type(self).__name__
        chosen = _validate.precision(owner, precision, self.dtype)
        arrays = self._arrays()
        params = {spec.name: array.copy() for spec, array in zip(self._specs, arrays, strict=True)}
        return FrozenLayer(self._plan, repr(self), params, chosen, self._source())
