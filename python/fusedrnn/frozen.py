"""Layers with constant parameters, which are packed once, for inference and streaming."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core, _validate, unroll
from .calling import Frozen, Mode
from .form import Extent, Outputs, Plan
from .kinds import CellKind
from .parameters import PICKLE_VERSION, layer_specs, learned_specs, pack, same_arrays
from .tokens import pack_columns, see
from .unroll import Run

Array = NDArray[Any]


class FrozenLayer(Frozen):
    """A layer for inference only, created by ``layer.freeze()``: immutable, picklable, safe to call from many threads.

    Attributes
    ----------
    params : mapping of str to ndarray
        The parameters that were packed, read-only; stored for pickling, in addition to the packed weights.
    precision : str
        "float32" or "float64".
    isa : str
        The instruction set for which the weights are packed: the one that was current when the object was made.
    nbytes : int
        Bytes of packed weights and parameters.

    Notes
    -----
    A pickle holds the parameters; they are packed again on loading, for the CPU that loads them.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.GRU(3, 5)
    >>> frozen = layer.freeze()
    >>> x = np.ones((7, 2, 3), np.float32)
    >>> out = np.empty((7, 2, 5), np.float32)
    >>> y, h = frozen(x, out=out)
    >>> y is out, bool((y == layer(x)[0]).all())
    (True, True)
    """

    __slots__ = ("_initial", "_made_of", "_plan", "_weights", "params")

    params: Mapping[str, Array]
    _weights: list[_core.Weights]
    _initial: tuple[Array, ...] | None  # with learned_state
    _plan: Plan
    _made_of: tuple[str, dict[str, Any]] | None  # `Parameterized._source` of the layer, for files

    def __init__(
        self,
        plan: Plan,
        description: str,
        params: dict[str, Array],
        precision: str,
        made_of: tuple[str, dict[str, Any]] | None = None,
    ) -> None:
        self._refuse_second_init()
        for array in params.values():
            array.flags.writeable = False
        put = object.__setattr__
        put(self, "_plan", plan)
        put(self, "_description", description)
        put(self, "_made_of", made_of)
        weights, initial = plan.split_learned(list(params.values()))
        put(self, "_initial", initial)
        put(self, "_weights", pack(plan.kind, weights, False, plan.zoneout))
        put(self, "params", MappingProxyType(params))
        put(self, "precision", precision)

    def _quick(self, x: Any, state: Any) -> tuple[Any, Any] | None:
        plan = self._plan
        return _core.infer(self._weights, x, plan.batch_first, state) if plan.takes_quickly(x) else None

    def _run(
        self, x: Array, state: Any, extent: Extent, outputs: Outputs, mode: Mode
    ) -> Run[tuple[tuple[Array, ...], None]]:
        states, plan, weights = (state, self._initial), self._plan, self._weights
        if plan.kind.window > 1 and x.ndim == 2:  # the kernels get one-hot rows, which are shorter than input_size
            seen = see(x, extent.schedule, plan.input_size, False, plan.kind)
            assert seen is not None
            arrays = list(self.params.values())[: plan.lowest_W_ih.stop]
            pack_columns(seen, arrays, plan.lowest_W_ih)
            weights = pack(plan.kind, arrays, False, plan.zoneout, weights[0]) + weights[plan.directions :]
            x = seen.numbers
        state_n, _ = yield from unroll.forward(plan, weights, x, states, extent, outputs)
        return state_n, None

    def stream(self, batch_size: int = 1) -> Stream:
        """Process sequences one step at a time.

        Parameters
        ----------
        batch_size : int
            B, the number of sequences that advance together.

        Returns
        -------
        Stream

        Raises
        ------
        ValueError
            The layer is bidirectional or runs backwards, or `batch_size` is less than 1.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> frozen = fusedrnn.GRU(3, 5, num_layers=2).freeze()
        >>> x = np.ones((7, 2, 3), np.float32)
        >>> stream = frozen.stream(batch_size=2)
        >>> for x_t in x:
        ...     y_t = stream.step(x_t)  # (2, 5)
        >>> y, h = frozen(x)
        >>> bool((y_t == y[-1]).all()), bool((stream.state == h).all())
        (True, True)
        """
        return Stream(self, batch_size)

    def c_weights(self) -> tuple[Any, ...]:
        """The packed weights for C and Cython code: see docs/c-api.md.

        Returns
        -------
        tuple of capsules
            Named "fusedrnn_weights", each the ``const fusedrnn_weights *`` of one layer and direction; ordered by
            layer, then by direction. A capsule keeps its weights alive; the weights are shared, not copied.

        Raises
        ------
        ValueError
            The layer has ``layer_norm=True``, or a window.

        Examples
        --------
        >>> import fusedrnn
        >>> len(fusedrnn.GRU(3, 5, num_layers=2).freeze().c_weights())
        2
        """
        if self._plan.kind.norm_eps is not None:
            raise _validate.no_c_api(self._plan.owner)
        if self._plan.kind.window > 1:
            raise ValueError(
                f"{self._plan.owner}: window is {self._plan.kind.window}; the C API has no windows, expected window=1"
            )
        return tuple([_core.weights_capsule(weights) for weights in self._weights])

    @property
    def isa(self) -> str:
        return self._weights[0].isa

    @property
    def nbytes(self) -> int:
        return sum(w.nbytes for w in self._weights) + sum(array.nbytes for array in self.params.values())

    @property
    def hidden_size(self) -> int:
        """H."""
        return self._plan.hidden_size

    @property
    def num_layers(self) -> int:
        """L."""
        return self._plan.num_layers

    @property
    def bidirectional(self) -> bool:
        """Whether there are two directions."""
        return self._plan.directions == 2

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrozenLayer):
            return NotImplemented
        mine = (self._description, self.precision, *self._config())
        theirs = (other._description, other.precision, *other._config())
        return mine == theirs and same_arrays(self.params, other.params)

    def _config(self) -> tuple[Any, ...]:
        s = self._plan
        sizes = (s.input_size, s.hidden_size, s.num_layers)
        return (
            s.owner,
            tuple(s.kind),
            s.dtype.name,
            *sizes,
            s.directions == 2,
            s.batch_first,
            s.merge,
            s.ways == (True,),
            s.learned_state,
            s.zoneout,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _thaw, (
            PICKLE_VERSION,
            self._config(),
            self._description,
            dict(self.params),
            self.precision,
            self._made_of,
        )


def _thaw(
    version: int,
    config: tuple[Any, ...],
    description: str,
    params: dict[str, Array],
    precision: str,
    made_of: tuple[str, dict[str, Any]] | None = None,  # earlier pickles do not have it
) -> FrozenLayer:
    """Unpickle, and pack the weights for this machine."""
    if version != PICKLE_VERSION:
        raise ValueError(f"FrozenLayer: pickle has version {version}; expected {PICKLE_VERSION}")
    try:
        config = tuple(config)
        owner, kind, dtype, *sizes = config[:6]
        largest = (_validate.LARGEST_SIZE, _validate.LARGEST_SIZE, _validate.MOST_LAYERS)
        names = ("input_size", "hidden_size", "num_layers")
        I, H, L = map(_validate.size, (owner,) * 3, names, sizes, largest)
        bidirectional, batch_first, merge, backwards, learned_state, zoneout = config[6:]
        plan = Plan(
            owner,
            CellKind(*kind),
            _validate.layer_dtype(owner, dtype),
            I,
            H,
            L,
            _validate.flag(owner, "bidirectional", bidirectional),
            _validate.flag(owner, "batch_first", batch_first),
            _validate.merge(owner, merge, bidirectional),
            _validate.backwards(owner, backwards, bidirectional),
            _validate.flag(owner, "learned_state", learned_state),
            _validate.zoneout(owner, zoneout, ("h", "c")),
        )
        specs = layer_specs(plan) + learned_specs(plan)
        arrays = _validate.parameters(owner, params, specs, plan.dtype)
        named = {spec.name: array for spec, array in zip(specs, arrays, strict=True)}
        return FrozenLayer(plan, description, named, precision, made_of)
    except (AttributeError, KeyError, OverflowError, RuntimeError) as error:
        raise _validate.no_pickle("FrozenLayer", f"has a configuration that does not fit: {error!r}") from None


class Stream(_core.Stream):
    """One step at a time over the stacked layers of a frozen layer; owns its state. Created by ``frozen.stream()``.

    Attributes
    ----------
    state : ndarray or pair of ndarray
        h, for LSTM (h, c), each (L, B, H). Reading and assigning copy; assigning None sets the initial state: zeros, or
        with ``learned_state`` the learned state.

    Methods
    -------
    step(x, out=None)
        One step of all layers.

        Parameters: `x` is (B, I) floats, or (B,) integer tokens, each a one-hot vector. A C-contiguous array of the
        layer's dtype is read in place; tokens and other array-likes are converted, which costs a copy. `out` is None or
        a C-contiguous (B, H) array of the layer's dtype to write to, which must not overlap `x`.

        Returns: the (B, H) output of the last layer, with a projection (B, proj_size); this is `out` if it was given.

        Raises: TypeError or ValueError if `x` or `out` does not fit; IndexError if a token is outside [0, input_size);
        RuntimeError if another thread uses the stream. An error leaves the state unchanged.
    get_state(), set_state(parts), reset_rows(rows)
        Used by `state` and `reset`.

    Notes
    -----
    Steps give the same bits as a call over the whole sequence. Only one thread at a time may use a stream. Copies and
    pickles continue from the state of the stream, independently.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.LSTM(3, 5)
    >>> x = np.ones((7, 2, 3), np.float32)
    >>> stream = layer.freeze().stream(batch_size=2)
    >>> y = np.stack([stream.step(x_t) for x_t in x])
    >>> bool((y == layer(x)[0]).all())
    True

    Steps that write into the caller's array allocate nothing:

    >>> stream.reset()
    >>> y_t = np.empty((2, 5), np.float32)
    >>> for x_t in x:
    ...     _ = stream.step(x_t, out=y_t)
    >>> bool((y_t == y[-1]).all())
    True
    """

    def __init__(self, frozen: FrozenLayer, batch_size: int = 1) -> None:
        owner = frozen._plan.owner
        _validate.one_directional(owner, frozen._plan.ways)
        batch_size = _validate.size(owner, "batch_size", batch_size)
        elements = frozen.num_layers * batch_size * frozen.hidden_size
        _validate.room(owner, "the state", elements * len(frozen._plan.parts), frozen.dtype)
        window = frozen._plan.kind.window
        widest = max(frozen._plan.input_size, frozen.hidden_size)
        _validate.room(owner, "the last inputs", frozen.num_layers * batch_size * window * widest, frozen.dtype)
        super().__init__(frozen._weights, batch_size, window)
        self._frozen = frozen
        self._batch_size = batch_size
        if frozen._initial is not None:
            self.reset()

    @property
    def batch_size(self) -> int:
        """B."""
        return self._batch_size

    @property
    def state(self) -> Any:
        parts = self.get_state()
        return parts[0] if len(parts) == 1 else parts

    @state.setter
    def state(self, value: Any) -> None:
        if value is None:
            self.reset()
            return
        plan = self._frozen._plan
        shape = (plan.num_layers, self._batch_size, plan.hidden_size)
        formula = "(num_layers, batch_size, hidden_size)"
        h_shape = (*shape[:2], plan.output_size), f"(num_layers, batch_size, {plan.unit_formula})"
        parts = _validate.state(plan.owner, "state", value, plan.parts, shape, formula, plan.dtype, h_shape=h_shape)
        if plan.kind.window > 1:
            self.reset_rows(None)  # a state has no inputs
        self.set_state(tuple(np.ascontiguousarray(part) for part in parts))

    def _as_input(self, x: Any) -> Array:
        """Called by `step` if x is not a contiguous array of the layer's dtype: convert it, or raise an error."""
        plan = self._frozen._plan
        return _validate.step_input(plan.owner, x, plan.dtype, plan.input_size, self._batch_size)

    def reset(self, rows: Any = None) -> None:
        """Set the state to the initial state: zeros, or with ``learned_state`` the learned state.

        Parameters
        ----------
        rows : bool (B,) or None
            The rows to reset; None is all.

        Raises
        ------
        TypeError
            `rows` is not an array of bools.
        ValueError
            `rows` is not of shape (B,).
        RuntimeError
            The stream is in use by another thread.
        """
        if rows is not None:
            rows = _validate.rows(self._frozen._plan.owner, rows, self._batch_size)
        initial = self._frozen._initial
        if initial is None:
            self.reset_rows(rows)
            return
        state = self.get_state()
        if self._frozen._plan.kind.window > 1:
            self.reset_rows(rows)
        for part, learned in zip(state, initial, strict=True):
            part[:, slice(None) if rows is None else rows] = learned[:, None]
        self.set_state(state)

    def __repr__(self) -> str:
        return f"<stream of {self._frozen!r}, batch_size={self._batch_size}>"

    def __copy__(self) -> Stream:
        return _resume(self._frozen, self._batch_size, self.get_state(), self.get_inputs())

    def __deepcopy__(self, memo: dict[int, Any]) -> Stream:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _resume, (self._frozen, self._batch_size, self.get_state(), self.get_inputs())


def _resume(frozen: FrozenLayer, batch_size: int, state: tuple[Array, ...], inputs: tuple[Array, ...] = ()) -> Stream:
    """A stream that continues from a state, and with a window from the last inputs of each layer."""
    stream = Stream(frozen, batch_size)
    stream.set_state(state)
    stream.set_inputs(inputs)
    return stream
