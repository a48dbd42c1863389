"""Several nets of one shape over one input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import _validate
from .groups import FrozenGroup, LayerGroup, prefixed, width_of
from .tape import Grads, KeptArrays

Array = NDArray[Any]


class Ensemble(LayerGroup):
    """Several nets of one shape over one input in one call; results are stacked along a new first axis.

    Parameters
    ----------
    layers : sequence of RNN, GRU, LSTM, Bidirectional or Stack
        E nets that differ in their parameters alone. They are not copied: their parameters are the ensemble's.

    Raises
    ------
    TypeError
        An argument is of the wrong kind.
    ValueError
        There is no layer, a layer occurs twice, or two differ in more than their parameters.

    Notes
    -----
    The members run one after the other, each with all threads, over the same kernels as alone, and have the bits that
    they have alone: one call is shorter to write, not quicker. Stacking costs a copy of the outputs. Parameters have
    the names of their layer after its number: ``"0.weight_ih_l0"``.

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

    _assignable: ClassVar[frozenset[str]] = frozenset()
    #: Outputs have an axis more than those of a layer, so nothing can stand upon them.
    stacks_outputs = True

    def __init__(self, layers: Sequence[Any]) -> None:
        members = _validate.members("Ensemble", layers)
        _validate.one_shape("Ensemble", members)
        self._configure(
            {str(k): member for k, member in enumerate(members)},
            input_size=members[0].input_size,
            output_size=width_of(members[0]),
        )

    @property
    def layers(self) -> tuple[Any, ...]:
        """The nets."""
        return tuple(self._members.values())

    def __len__(self) -> int:
        """E."""
        return len(self._members)

    def __call__(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        past_end: str = "zero",
    ) -> tuple[Any, Any]:
        """Run all nets over the same sequences; keeps nothing for a backward pass, and never drops out.

        Parameters
        ----------
        x, lengths, mask, reset, past_end
            As for calling one of the nets.
        state
            Initial states in the form that one net has them, each array with an axis of E before its own ones. None is
            the initial state of each net.

        Returns
        -------
        y, state
            In the form that one net has them, each array with an axis of E before its own ones: (E, T, B, H).

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling one of the nets.
        """
        return _infer(self.layers, x, state, lengths, mask, reset, past_end)

    def forward(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        past_end: str = "zero",
    ) -> tuple[Any, Any, EnsembleTape]:
        """Run all nets as in training: what is dropped is dropped, and what the backward pass needs is kept.

        Parameters
        ----------
        x, state, lengths, mask, reset, past_end
            As for calling the ensemble.

        Returns
        -------
        y, state
            As for calling the ensemble.
        tape : EnsembleTape
            ``tape.backward(dy, dstate)`` gives the gradients.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling the ensemble.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> net = fusedrnn.Ensemble([fusedrnn.GRU(3, 8, rng=0), fusedrnn.GRU(3, 8, rng=1)])
        >>> y, state, tape = net.forward(np.ones((7, 2, 3), np.float32))
        >>> grads = tape.backward(np.ones_like(y))
        >>> grads.x.shape, grads.state.shape, grads.params["1.weight_hh_l0"].shape
        ((7, 2, 3), (2, 1, 2, 8), (24, 8))
        """
        states = _unstacked("state", state, len(self))
        steps = {"lengths": lengths, "mask": mask, "reset": reset, "past_end": past_end}
        runs = [layer.forward(x, s, **steps) for layer, s in zip(self.layers, states, strict=True)]
        tape = EnsembleTape([tape for _, _, tape in runs])
        return _stacked([y for y, _, _ in runs]), _stacked([s for _, s, _ in runs]), tape

    def freeze(self, precision: str | None = None) -> FrozenEnsemble:
        """Pack all parameters once, for inference; later changes of the nets do not show.

        Parameters
        ----------
        precision : str or None
            As for ``layer.freeze``.

        Returns
        -------
        FrozenEnsemble

        Raises
        ------
        ValueError
            The precision is not available.
        """
        members = tuple(layer.freeze(precision) for layer in self.layers)
        return FrozenEnsemble("Ensemble", repr(self), members, members[0].precision)

    def __repr__(self) -> str:
        return f"Ensemble([{', '.join(map(repr, self.layers))}])"


def _infer(
    layers: tuple[Any, ...], x: Any, state: Any, lengths: Any, mask: Any, reset: Any, past_end: Any
) -> tuple[Any, Any]:
    """One net after the other."""
    states = _unstacked("state", state, len(layers))
    steps = {"lengths": lengths, "mask": mask, "reset": reset, "past_end": past_end}
    runs = [layer(x, s, **steps) for layer, s in zip(layers, states, strict=True)]
    return _stacked([y for y, _ in runs]), _stacked([s for _, s in runs])


def _stacked(results: Sequence[Any]) -> Any:
    """Arrays, or tuples and lists of them, along a new first axis of each array."""
    first = results[0]
    if isinstance(first, (tuple, list)):
        return type(first)([_stacked(items) for items in zip(*results, strict=True)])
    return np.stack(results)


def _unstacked(name: str, value: Any, E: int) -> Sequence[Any]:
    """The reverse of `_stacked`, of what a caller passes; None stands for None of every net."""
    if value is None:
        return (None,) * E
    if isinstance(value, (tuple, list)):
        parts = [_unstacked(f"{name}[{k}]", item, E) for k, item in enumerate(value)]
        return [type(value)([part[e] for part in parts]) for e in range(E)]
    return list(_validate.one_for_each("Ensemble", name, value, E))


class EnsembleTape(KeptArrays):
    """What ``ensemble.forward`` keeps for the backward pass: the tapes of all nets; see `Tape`.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> net = fusedrnn.Ensemble([fusedrnn.LSTM(3, 8), fusedrnn.LSTM(3, 8)])
    >>> y, (h, c), tape = net.forward(np.zeros((7, 2, 3), np.float32))
    >>> with tape:
    ...     grads = tape.backward(dstate=(None, np.ones_like(c)))
    >>> tape.nbytes
    0
    """

    __slots__ = ()

    def __init__(self, tapes: list[Any]) -> None:
        super().__init__("Ensemble", tapes)

    def backward(self, dy: Any = None, dstate: Any = None, *, need_dx: bool = True) -> Grads:
        """Gradients of a scalar with respect to input, initial states and parameters.

        Parameters
        ----------
        dy
            Gradient with respect to ``y``, in its form.
        dstate
            Gradient with respect to the final states, in their form; None where there is none.
        need_dx : bool
            False skips the gradient of the input.

        Returns
        -------
        Grads
            ``grads.x`` is the sum over all nets, as they share the input; ``grads.state`` has the form of the state.

        Raises
        ------
        TypeError, ValueError
            As for the tape of a net.
        """
        tapes = self._held()
        need_dx = _validate.flag("Ensemble", "need_dx", need_dx)
        if not _validate.any_gradient(dy) and not _validate.any_gradient(dstate):
            raise _validate.nothing_to_do("Ensemble")
        gradients = zip(_unstacked("dy", dy, len(tapes)), _unstacked("dstate", dstate, len(tapes)), strict=True)
        grads = [tape._backward(d, ds, need_dx) for tape, (d, ds) in zip(tapes, gradients, strict=True)]
        dx = grads[0].x
        for other in grads[1:]:
            pairs = zip(dx, other.x, strict=True) if isinstance(dx, list) else [(dx, other.x)]
            for total, share in pairs if dx is not None else ():
                with np.errstate(all="ignore"):
                    total += share
        params = {name: d for e, own in enumerate(grads) for name, d in prefixed(str(e), own.params).items()}
        return Grads(dx, _stacked([own.state for own in grads]), params)


class FrozenEnsemble(FrozenGroup):
    """An ensemble for inference only, made by ``ensemble.freeze()``. For streams, freeze the nets one by one.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> net = fusedrnn.Ensemble([fusedrnn.GRU(3, 8), fusedrnn.GRU(3, 8)])
    >>> x = np.ones((7, 2, 3), np.float32)
    >>> bool((net.freeze()(x)[0] == net(x)[0]).all())
    True
    """

    __slots__ = ()

    def __call__(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        past_end: str = "zero",
    ) -> tuple[Any, Any]:
        """Run all nets over the same sequences: the bits of calling the ensemble.

        Parameters
        ----------
        x, state, lengths, mask, reset, past_end
            As for calling an ensemble.

        Returns
        -------
        y, state
            As for calling an ensemble.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling an ensemble.
        """
        return _infer(self._members, x, state, lengths, mask, reset, past_end)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenEnsemble, (self._owner, self._description, self._members, self.precision)
