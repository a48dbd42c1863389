"""Several networks of the same shape over one input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core, _validate, unroll
from .calling import Mode
from .form import Extent, Outputs
from .groups import GroupForm, LayerGroup, SavedGroup, prefixed
from .unroll import Run

Array = NDArray[Any]


class Ensemble(LayerGroup):
    """Several networks of the same shape over one input in one call; results are stacked along a new first axis.

    Parameters
    ----------
    layers : sequence of RNN, GRU, LSTM, Bidirectional or Stack
        E networks that differ only in their parameters. They are not copied: the ensemble shares their parameters.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        There is no layer, a layer occurs twice, or two layers differ in more than their parameters.

    Notes
    -----
    If the weights of each member fit a core's cache, the members run side by side, each on its own thread; larger
    members run one after the other, each on all threads. In both cases the results have the same bits as separate
    calls. Names of parameters are prefixed with the number of their layer: ``"0.weight_ih_l0"``.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> net = fusedrnn.Ensemble([fusedrnn.LSTM(3, 8, rng=seed) for seed in range(5)])
    >>> y, (h, c) = net(np.ones((7, 2, 3), np.float32))
    >>> y.shape, h.shape
    ((5, 7, 2, 8), (5, 1, 2, 8))
    >>> y.mean(axis=0).shape, y.std(axis=0).shape
    ((7, 2, 8), (7, 2, 8))
    """

    #: Outputs have one axis more than those of a layer, so no layer can be stacked on an ensemble.
    stacks_outputs = True

    def __init__(self, layers: Sequence[Any]) -> None:
        members = _validate.members("Ensemble", layers)
        _validate.one_shape("Ensemble", members)
        self._configure(
            {str(k): member for k, member in enumerate(members)},
            input_size=members[0].input_size,
            output_size=members[0]._plan.widths[0],
        )

    def __len__(self) -> int:
        """E."""
        return len(self._members)

    def _form(self) -> EnsembleForm:
        plans = [layer._plan for layer in self.layers]
        return EnsembleForm("Ensemble", plans, plans[0].widths, (len(plans),))

    def _run(
        self, x: Array, state: Any, extent: Extent, outputs: Outputs, mode: Mode
    ) -> Run[tuple[Any, SavedEnsemble | None]]:
        ran = yield from unroll.side_by_side(
            [
                layer._run(x, own, extent, tuple([y[e] for y in outputs]), mode.of(name))
                for e, ((name, layer), own) in enumerate(zip(self._members.items(), state, strict=True))
            ]
        )
        final = tuple([own for own, _ in ran])
        saved: dict[str, Any] = {name: own for name, (_, own) in zip(self._members, ran, strict=True)}
        return final, SavedEnsemble(saved) if mode.save else None

    def _show(self, saved: Any, x: Array, extent: Extent) -> tuple[Any, Array]:
        shown = [layer._show(saved.members[name], x, extent) for name, layer in self._members.items()]
        return _shown_as_one([own for own, _ in shown]), np.stack([y for _, y in shown])


def _shown_as_one(shown: Sequence[Any]) -> Any:
    """The `Inspection`s of all networks (or tuples of them) as one; each array has a first axis of length E."""
    first = shown[0]
    if isinstance(first, tuple):
        return tuple([_shown_as_one(parts) for parts in zip(*shown, strict=True)])
    c = None if first.c is None else stacked([one.c for one in shown])
    gates = {name: stacked([one.gates[name] for one in shown]) for name in first.gates}
    return replace(first, outputs=stacked([one.outputs for one in shown]), c=c, gates=gates)


class EnsembleForm(GroupForm):
    """An ensemble's form: callers see the members' states as one state, whose arrays have a first axis of length E."""

    __slots__ = ()

    def read_state(self, extent: Extent, argument: str, state: Any, optional: bool = False) -> Any:
        return super().read_state(extent, argument, tuple(_unstacked(argument, state, len(self.members))), optional)

    def state_to_caller(self, extent: Extent, state: Any) -> Any:
        return stacked(super().state_to_caller(extent, state))


def stacked(results: Sequence[Any]) -> Any:
    """Arrays, or tuples and lists of them, along a new first axis of each array."""
    first = results[0]
    if isinstance(first, (tuple, list)):
        return type(first)([stacked(items) for items in zip(*results, strict=True)])
    return np.stack(results)


def _unstacked(name: str, value: Any, E: int) -> Sequence[Any]:
    """The inverse of `stacked`, for a caller's argument; None means None for every network."""
    if value is None:
        return (None,) * E
    if isinstance(value, (tuple, list)):
        parts = [_unstacked(f"{name}[{k}]", item, E) for k, item in enumerate(value)]
        return [type(value)([part[e] for part in parts]) for e in range(E)]
    return list(_validate.one_for_each("Ensemble", name, value, E))


class SavedEnsemble(SavedGroup):
    """The data that the runs of all networks save."""

    __slots__ = ()

    def backward(
        self, dys: tuple[Array | None, ...], dstate_n: Any, dx: Array | None
    ) -> Run[tuple[Any, dict[str, Array]]]:
        """See `Saved`; the networks share their input."""
        own_dx = [dx, *(None if dx is None else _core.empty(dx.shape, dx.dtype) for _ in range(len(self.members) - 1))]
        ran = yield from unroll.side_by_side(
            [
                member.backward(tuple([None if d is None else d[e] for d in dys]), dstate_n and dstate_n[e], own_dx[e])
                for e, member in enumerate(self.members.values())
            ]
        )
        unroll.add_up(own_dx)
        return tuple([d for d, _ in ran]), prefixed({name: d for name, (_, d) in zip(self.members, ran, strict=True)})
