"""Two layers of any kind, one for each direction of time."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from . import _validate
from .groups import FrozenGroup, LayerGroup, prefixed, width_of
from .layers import RecurrentLayer
from .tape import Grads, KeptArrays

Array = NDArray[Any]

#: Names of the members, and of their parameters.
WAYS = ("forward", "backward")


class Bidirectional(LayerGroup):
    """One layer from the first step to the last and another one from the last to the first, over the same input.

    Parameters
    ----------
    forward_layer, backward_layer : RNN, GRU or LSTM
        One-way layers of any kind, size and options, with the same input size, dtype and ``batch_first``. They are not
        copied: their parameters are those of this object. The second runs backwards here, whatever it does by itself.
    merge : "concat", "sum", "mean", "mul" or None
        How the two outputs join; None gives them as a pair. All but "concat" and None need equal widths.

    Raises
    ------
    TypeError
        An argument is no such layer, or the dtypes differ.
    ValueError
        The layers do not fit each other or `merge`.

    Notes
    -----
    Schuster and Paliwal, Bidirectional recurrent neural networks, 1997. The state is a pair, (that of the forward
    layer, that of the backward layer), each in the form that its layer has; None stands for the initial one. Parameters
    have the names of their layer after "forward." or "backward.". Layers of several layers each run all of them in
    their direction before the outputs join; for joining after each, put several of these into a `Stack`. The two
    layers run one after the other, each with all threads; two directions of one kind and size are quicker as
    ``LSTM(..., bidirectional=True)``.

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

    _assignable: ClassVar[frozenset[str]] = frozenset()

    merge: str | None

    def __init__(
        self, forward_layer: RecurrentLayer, backward_layer: RecurrentLayer, merge: str | None = "concat"
    ) -> None:
        owner = type(self).__name__
        layers = {"forward_layer": forward_layer, "backward_layer": backward_layer}
        for name, layer in layers.items():
            if not isinstance(layer, RecurrentLayer):
                raise _validate.no_layer(owner, name, layer)
        _validate.two_ways(owner, layers, [layer.__dict__["_plan"].ways for layer in layers.values()])
        merge = _validate.merge(owner, merge, True)
        widths = width_of(forward_layer), width_of(backward_layer)
        _validate.joinable(owner, merge, widths)
        self._configure(
            dict(zip(WAYS, layers.values(), strict=True)),
            input_size=forward_layer.input_size,
            output_size=sum(widths) if merge == "concat" else widths[0],
            merge=merge,
        )

    @property
    def layers(self) -> tuple[RecurrentLayer, RecurrentLayer]:
        """The forward and the backward layer, as they were given."""
        return self._members["forward"], self._members["backward"]

    def _directed(self) -> tuple[RecurrentLayer, RecurrentLayer]:
        first, second = self.layers
        return first, second._turned()

    def __call__(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        past_end: str = "zero",
    ) -> tuple[Any, tuple[Any, Any]]:
        """Run both layers over whole sequences; keeps nothing for a backward pass, and never drops out.

        Parameters
        ----------
        x, lengths, mask, reset, past_end
            As for calling a layer.
        state : pair with one state for each layer, or None
            Initial states, each as for calling that layer, None included.

        Returns
        -------
        y : ndarray, list of ndarray, or pair of these
            The joined outputs, aligned with `x`.
        state : pair
            Final states: that of the forward layer after each row's last valid step, that of the backward layer after
            its first.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling a layer; the message names the layer.
        """
        return _infer(self._directed(), self.merge, x, state, lengths, mask, reset, past_end)

    def forward(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        past_end: str = "zero",
    ) -> tuple[Any, tuple[Any, Any], BidirectionalTape]:
        """Run both layers as in training: their dropout acts, and what the backward pass needs is kept.

        Parameters
        ----------
        x, state, lengths, mask, reset, past_end
            As for calling this object.

        Returns
        -------
        y, state
            As for calling this object.
        tape : BidirectionalTape
            ``tape.backward(dy, dstate)`` gives the gradients.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling this object.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> net = fusedrnn.Bidirectional(fusedrnn.GRU(3, 8, rng=0), fusedrnn.RNN(3, 8, rng=0), merge="sum")
        >>> y, state, tape = net.forward(np.ones((7, 2, 3), np.float32))
        >>> grads = tape.backward(np.ones_like(y))
        >>> grads.x.shape, grads.params["backward.weight_hh_l0"].shape
        ((7, 2, 3), (8, 8))
        """
        states = _validate.member_states("Bidirectional", "state", state, 2)
        steps = {"lengths": lengths, "mask": mask, "reset": reset, "past_end": past_end}
        runs = [layer.forward(x, s, **steps) for layer, s in zip(self._directed(), states, strict=True)]
        (first, state_1, tape_1), (second, state_2, tape_2) = runs
        y = _join(self.merge, first, second)
        factors = (first, second) if self.merge == "mul" else None
        widths = width_of(self.layers[0]), width_of(self.layers[1])
        return y, (state_1, state_2), BidirectionalTape((tape_1, tape_2), self.merge, y, widths, factors)

    def freeze(self, precision: str | None = None) -> FrozenBidirectional:
        """Pack all parameters once, for inference; later changes of the layers do not show.

        Parameters
        ----------
        precision : str or None
            As for ``layer.freeze``.

        Returns
        -------
        FrozenBidirectional

        Raises
        ------
        ValueError
            The precision is not available.
        """
        members = tuple(layer.freeze(precision) for layer in self._directed())
        return FrozenBidirectional("Bidirectional", repr(self), members, members[0].precision, self.merge)

    def _config(self) -> dict[str, object]:
        return {"merge": self.merge}

    def __repr__(self) -> str:
        merge = "" if self.merge == "concat" else f", merge={self.merge!r}"
        return f"Bidirectional({self.layers[0]!r}, {self.layers[1]!r}{merge})"


def _infer(
    layers: tuple[Any, Any], merge: str | None, x: Any, state: Any, lengths: Any, mask: Any, reset: Any, past_end: Any
) -> tuple[Any, tuple[Any, Any]]:
    """One direction after the other."""
    states = _validate.member_states("Bidirectional", "state", state, 2)
    steps = {"lengths": lengths, "mask": mask, "reset": reset, "past_end": past_end}
    (first, state_1), (second, state_2) = (layer(x, s, **steps) for layer, s in zip(layers, states, strict=True))
    return _join(merge, first, second), (state_1, state_2)


def _join(merge: str | None, first: Any, second: Any, out: Array | None = None) -> Any:
    """Both outputs in one: of lists, item by item."""
    if merge is None:
        return first, second
    if isinstance(first, list):
        return [_join(merge, a, b) for a, b in zip(first, second, strict=True)]
    if merge == "concat":
        return np.concatenate((first, second), axis=-1, out=out)
    with np.errstate(all="ignore"):  # relu's infinities are the caller's business
        if merge == "mul":
            return np.multiply(first, second, out=out)
        y = np.add(first, second, out=out)
        if merge == "mean":
            y *= 0.5
        return y


def _split(merge: str | None, dy: Any, width: int, factors: tuple[Any, Any] | None) -> tuple[Any, Any]:
    """Gradients of both outputs from that of the joined one."""
    if merge is None:
        return _validate.pair("Bidirectional", "dy", (None, None) if dy is None else dy)
    if dy is None:
        return None, None
    if isinstance(dy, list):
        firsts, seconds = factors or ([None] * len(dy),) * 2
        parts = [_split(merge, d, width, (a, b)) for d, a, b in zip(dy, firsts, seconds, strict=True)]
        return [first for first, _ in parts], [second for _, second in parts]
    if merge == "concat":
        return dy[..., :width], dy[..., width:]
    if merge == "sum":
        return dy, dy
    with np.errstate(all="ignore"):  # at skipped steps there may be anything
        if merge == "mean":
            half = dy * dy.dtype.type(0.5)
            return half, half
        assert factors is not None
        return dy * factors[1], dy * factors[0]


class BidirectionalTape(KeptArrays):
    """What ``Bidirectional.forward`` keeps for the backward pass: the tapes of both layers; see `Tape`.

    With ``merge="mul"`` it keeps both outputs, too.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> net = fusedrnn.Bidirectional(fusedrnn.LSTM(3, 8), fusedrnn.GRU(3, 5))
    >>> y, state, tape = net.forward(np.zeros((7, 2, 3), np.float32))
    >>> with tape:
    ...     grads = tape.backward(dstate=(None, np.ones_like(state[1])))
    >>> tape.nbytes
    0
    """

    __slots__ = ("_factors", "_merge", "_shape", "_width")

    def __init__(
        self,
        tapes: tuple[Any, Any],
        merge: str | None,
        y: Any,
        widths: tuple[int, int],
        factors: tuple[Any, Any] | None,
    ) -> None:
        arrays = [a for f in factors or () for a in (f if isinstance(f, list) else [f])]
        super().__init__("Bidirectional", [*tapes, *arrays])
        self._merge = merge
        self._width = widths[0]
        # Of a list, the shapes; merge=None leaves checks to the layers.
        self._shape: Any = [a.shape for a in y] if isinstance(y, list) else None if merge is None else y.shape
        self._factors = factors

    def release(self) -> None:
        """Free the memory now; harmless when repeated."""
        super().release()
        self._factors = None

    def backward(self, dy: Any = None, dstate: Any = None, *, need_dx: bool = True) -> Grads:
        """Gradients of a scalar with respect to input, initial states and parameters.

        Parameters
        ----------
        dy
            Gradient with respect to ``y``; as for a layer's tape.
        dstate : pair with one gradient for each layer, or None
            Gradients with respect to the final states, each as for that layer's tape, None included.
        need_dx : bool
            False skips the gradient of the input.

        Returns
        -------
        Grads
            ``grads.x`` is the sum of both layers' gradients, ``grads.state`` a pair with one entry for each layer.

        Raises
        ------
        TypeError, ValueError
            As for a layer's tape.
        """
        need_dx = _validate.flag("Bidirectional", "need_dx", need_dx)
        if not _validate.any_gradient(dy) and not _validate.any_gradient(dstate):
            self._held()
            raise _validate.nothing_to_do("Bidirectional")
        return self._backward(dy, dstate, need_dx)

    def _backward(self, dy: Any, dstate: Any, need_dx: bool) -> Grads:
        """`backward`; without any gradient it gives zeros."""
        tapes = self._held()[:2]
        dstates = _validate.member_states("Bidirectional", "dstate", dstate, 2)
        dys = _split(self._merge, self._read_dy(dy, tapes[0]), self._width, self._factors)
        first, second = (tape._backward(d, ds, need_dx) for tape, d, ds in zip(tapes, dys, dstates, strict=True))
        params = prefixed("forward", first.params) | prefixed("backward", second.params)
        return Grads(_sum(first.x, second.x), (first.state, second.state), params)

    def _read_dy(self, dy: Any, tape: Any) -> Any:
        """The gradient of joined outputs, checked; those of a pair are the layers' to check."""
        if dy is None or self._merge is None:
            return dy
        owner, dtype = "Bidirectional", tape._plan.dtype
        if isinstance(self._shape, list):
            lengths = np.array([shape[0] for shape in self._shape], np.int64)
            width = self._shape[0][1] if self._shape else 0
            return _validate.gradient_list(owner, "dy", dy, lengths, width, "output_size", dtype)
        array = _validate.floats(owner, "dy", dy, dtype, rows=True)
        _validate.exact_shape(owner, "dy", array, self._shape, "that of y")
        return array


def _sum(first: Any, second: Any) -> Any:
    """The gradient of what both layers read, in the first one's memory."""
    if first is None:
        return None
    with np.errstate(all="ignore"):
        for a, b in zip(first, second, strict=True) if isinstance(first, list) else ((first, second),):
            a += b
    return first


class FrozenBidirectional(FrozenGroup):
    """Two directions for inference only, made by ``Bidirectional.freeze()``.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> net = fusedrnn.Bidirectional(fusedrnn.LSTM(3, 8), fusedrnn.GRU(3, 5))
    >>> x = np.ones((7, 2, 3), np.float32)
    >>> bool((net.freeze()(x)[0] == net(x)[0]).all())
    True
    """

    __slots__ = ("_merge",)

    _merge: str | None

    def __init__(
        self, owner: str, description: str, members: tuple[Any, ...], precision: str, merge: str | None
    ) -> None:
        super().__init__(owner, description, members, precision)
        object.__setattr__(self, "_merge", merge)

    def __call__(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        past_end: str = "zero",
        out: Any = None,
    ) -> tuple[Any, tuple[Any, Any]]:
        """Run both layers over whole sequences: the bits of calling the `Bidirectional`.

        Parameters
        ----------
        x, state, lengths, mask, reset, past_end
            As for calling a `Bidirectional`.
        out : ndarray, pair of ndarray, or None
            Where to write the outputs, sharing no memory with `x`; as for frozen layers. Unless ``merge=None``, both
            layers first write elsewhere.

        Returns
        -------
        y, state
            As for calling a `Bidirectional`; ``y is out`` if that was given.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling a frozen layer.
        """
        first, second = self._members
        y, states = _infer((first, second), None, x, state, lengths, mask, reset, past_end)
        if out is None:
            return _join(self._merge, *y), states
        if isinstance(y[0], list):
            raise _validate.out_for_list("Bidirectional")
        if self._merge is None:
            a, b = _validate.pair("Bidirectional", "out", out)
            self._into("out[0]", a, y[0].shape, [("x", x)])
            self._into("out[1]", b, y[1].shape, [("x", x), ("out[0]", a)])
            np.copyto(a, y[0])
            np.copyto(b, y[1])
            return tuple(out), states
        width = y[0].shape[-1] + (y[1].shape[-1] if self._merge == "concat" else 0)
        self._into("out", out, (*y[0].shape[:-1], width), [("x", x)])
        _join(self._merge, y[0], y[1], out)
        return out, states

    def _into(self, name: str, out: Any, shape: tuple[int, ...], others: list[tuple[str, Any]]) -> None:
        _validate.out("Bidirectional", name, out, shape, "that of y", self.dtype, others)

    def stream(self, batch_size: int = 1) -> NoReturn:
        """Refused: the backward layer starts from the last step.

        Parameters
        ----------
        batch_size : int

        Raises
        ------
        ValueError
            Always.
        """
        _validate.one_way("Bidirectional", (False, True))
        raise AssertionError

    def _names(self) -> tuple[str, ...]:
        return WAYS

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenBidirectional, (self._owner, self._description, self._members, self.precision, self._merge)
