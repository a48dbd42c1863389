"""Two layers of any kind, one for each direction of time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray

from . import _core, _validate, unroll
from .calling import Mode
from .form import Extent, Outputs
from .groups import GroupForm, LayerGroup, SavedGroup, prefixed
from .mixers import Mixer
from .recurrent import RecurrentLayer
from .stack import Stack
from .tape import Saved
from .unroll import Run

Array = NDArray[Any]

#: Names of the members, and of their parameters.
DIRECTIONS = ("forward", "backward")


class Bidirectional(LayerGroup):
    """One layer from the first step to the last and another from the last step to the first, over the same input.

    Parameters
    ----------
    forward_layer, backward_layer : RNN, GRU, LSTM or Stack
        One-directional layers of any kind, size and options, or stacks of these, with the same input size, dtype and
        ``batch_first``. The layers are not copied: this object shares their parameters. The second layer runs backwards
        here, whatever its own ``backwards`` says.
    merge : "concat", "sum", "mean", "mul" or None
        How the two outputs are merged; None returns them as a pair. All but "concat" and None need equal widths.

    Raises
    ------
    TypeError
        An argument is not such a layer, or the dtypes differ.
    ValueError
        The layers do not fit together or do not fit `merge`.

    Notes
    -----
    Schuster and Paliwal, Bidirectional recurrent neural networks, 1997. The state is a pair (state of the forward
    layer, state of the backward layer), each in the form of its layer; None means the initial state. Names of
    parameters are prefixed with "forward." or "backward.". A layer with ``num_layers > 1`` runs all of its layers in
    its direction before the outputs are merged; to merge after every layer, put several `Bidirectional` into a `Stack`.
    As with ``LSTM(..., bidirectional=True)``, the two directions run side by side if the weights of each fit a core's
    cache.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> net = fusedrnn.Bidirectional(fusedrnn.LSTM(3, 8), fusedrnn.GRU(3, 5))
    >>> y, ((h, c), h_back) = net(np.ones((7, 2, 3), np.float32), lengths=[7, 4])
    >>> y.shape, h.shape, h_back.shape
    ((7, 2, 13), (1, 2, 8), (1, 2, 5))
    >>> list(net.params)[4]
    'backward.weight_ih_l0'
    """

    _defaults: ClassVar[dict[str, object]] = {"merge": "concat"}

    merge: str | None

    def __init__(
        self,
        forward_layer: RecurrentLayer | Mixer | Stack,
        backward_layer: RecurrentLayer | Mixer | Stack,
        merge: str | None = "concat",
    ) -> None:
        owner = type(self).__name__
        layers = {"forward_layer": forward_layer, "backward_layer": backward_layer}
        for name, layer in layers.items():
            if not isinstance(layer, (RecurrentLayer, Mixer, Stack)):
                raise _validate.no_layer(owner, name, layer)
        _validate.both_directions(owner, layers, [layer._plan.ways for layer in layers.values()])
        merge = _validate.merge(owner, merge, True)
        widths = forward_layer._plan.widths[0], backward_layer._plan.widths[0]
        _validate.joinable(owner, merge, widths)
        self._configure(
            dict(zip(DIRECTIONS, layers.values(), strict=True)),
            input_size=forward_layer.input_size,
            output_size=sum(widths) if merge == "concat" else widths[0],
            merge=merge,
        )

    def _directed(self) -> dict[str, Any]:
        return {"forward": self._members["forward"], "backward": self._members["backward"]._reversed()}

    def _form(self) -> GroupForm:
        plans = [layer._plan for layer in self._directed().values()]
        widths = plans[0].widths + plans[1].widths
        return GroupForm("Bidirectional", plans, widths if self.merge is None else (self.output_size,))

    def _run(
        self, x: Array, state: Any, extent: Extent, outputs: Outputs, mode: Mode
    ) -> Run[tuple[Any, SavedBidirectional | None]]:
        members = self._directed()
        widths = tuple([layer._plan.widths[0] for layer in members.values()])
        buffers = unroll.direction_buffers(self.merge, outputs, extent, widths, mode.save)
        ran = yield from unroll.side_by_side(
            [
                layer._run(x, own, extent, (y,), mode.of(name))
                for (name, layer), own, y in zip(members.items(), state, buffers, strict=True)
            ]
        )
        factors = unroll.join(self.merge, outputs, buffers, mode.save)
        final = tuple([own for own, _ in ran])
        if not mode.save:
            return final, None
        saved: dict[str, Any] = {name: own for name, (_, own) in zip(DIRECTIONS, ran, strict=True)}
        return final, SavedBidirectional(saved, self.merge, widths[0], factors)

    def _show(self, saved: Any, x: Array, extent: Extent) -> tuple[Any, Array]:
        shown = [layer._show(saved.members[name], x, extent) for name, layer in self._directed().items()]
        return tuple([own for own, _ in shown]), unroll.joined(self.merge, [y for _, y in shown])

    def _config(self) -> dict[str, object]:
        return {"merge": self.merge}

    def __repr__(self) -> str:
        return f"Bidirectional({', '.join(map(repr, self.layers))}{self._shown_options()})"


class SavedBidirectional(SavedGroup):
    """The data that the runs of both directions save."""

    __slots__ = ("factors", "merge", "width")

    def __init__(
        self, members: Mapping[str, Saved], merge: str | None, width: int, factors: tuple[Array, Array] | None
    ) -> None:
        super().__init__(members)
        self.merge = merge
        self.width = width  # width of the forward layer's output
        self.factors = factors  # the outputs of both directions, for merge="mul"

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(array.nbytes for array in self.factors or ())

    def backward(
        self, dys: tuple[Array | None, ...], dstate_n: Any, dx: Array | None
    ) -> Run[tuple[Any, dict[str, Array]]]:
        """See `Saved`."""
        own_dys = unroll.split(self.merge, dys, self.factors, self.width)
        own_dx = [dx, None if dx is None else _core.empty(dx.shape, dx.dtype)]
        ran = yield from unroll.side_by_side(
            [
                member.backward((dy,), dstate_n and dstate_n[k], own_dx[k])
                for k, (member, dy) in enumerate(zip(self.members.values(), own_dys, strict=True))
            ]
        )
        unroll.add_up(own_dx)
        return tuple([d for d, _ in ran]), prefixed({name: d for name, (_, d) in zip(DIRECTIONS, ran, strict=True)})
