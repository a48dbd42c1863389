"""Common base of layers around a scan of states: parameters, calls, tapes, frozen layers and streams.

A subclass says which parameters it has and computes whole sequences, forward and backward; its matrix products are
NumPy's.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _core, _validate
from .calling import Frozen, Mode, SequenceLayer
from .form import Extent, Form, Outputs
from .kinds import CellKind
from .parameters import PICKLE_VERSION, Parameterized, count_elements, same_arrays
from .specs import ParameterSpec
from .unroll import Run

Array = NDArray[Any]


class MixerForm(Form):
    """The form of such a layer: its state is a tuple of arrays, (B, ...) each."""

    __slots__ = ("parts",)

    def __init__(
        self, owner: str, dtype: np.dtype[Any], d_model: int, batch_first: bool, backwards: bool, parts: dict[str, Any]
    ) -> None:
        self.owner = owner
        self.dtype = dtype
        self.input_size = d_model
        self.batch_first = batch_first
        self.widths = (d_model,)
        self.ways = (backwards,)
        self.lead = ()
        self.parts = parts  # name -> shape without rows, and how it is derived

    @property
    def width_formula(self) -> str:
        return "d_model"

    def read_state(self, extent: Extent, argument: str, state: Any, optional: bool = False) -> Any:
        if state is None:
            return None
        names = ", ".join(self.parts)
        if not isinstance(state, (tuple, list)):
            raise TypeError(f"{self.owner}: {argument} is {_validate.kind(state)}; expected a tuple ({names})")
        if len(state) != len(self.parts):
            raise ValueError(f"{self.owner}: {argument} has {len(state)} parts; expected ({names})")
        arrays: list[Array | None] = []
        single = extent.layout == "unbatched"
        for (name, (shape, formula)), given in zip(self.parts.items(), state, strict=True):
            if given is None and optional:
                arrays.append(None)
                continue
            full = f"{argument} {name}"
            array = _validate.floats(self.owner, full, given, self.dtype, rows=True)
            whole = shape if single else (extent.B, *shape)
            _validate.exact_shape(self.owner, full, array, whole, f"({formula})" if single else f"(B, {formula})")
            arrays.append(array[None] if single else array)
        return tuple(arrays)

    def state_to_caller(self, extent: Extent, state: Any) -> Any:
        return tuple([part[0] for part in state]) if extent.layout == "unbatched" else tuple(state)

    def state_arrays(self, argument: str, state: Any) -> Iterator[tuple[str, Any]]:
        for name, array in zip(self.parts, state or (), strict=False):
            yield f"{argument} {name}", array


class StepsGiven(NamedTuple):
    """Which steps run, as the functions on plain arrays take it, and whether time runs backwards."""

    lengths: Array | None
    mask: NDArray[np.bool_] | None
    reset: NDArray[np.bool_] | None
    reverse: bool

    @property
    def some(self) -> bool:
        """Whether there is anything to say but the direction."""
        return not (self.lengths is self.mask is self.reset is None)

    def ran(self, T: int, B: int) -> NDArray[np.bool_] | None:
        """(T, B, 1), False at skipped steps; None if all run."""
        if self.lengths is None and self.mask is None:
            return None
        ran = np.ones((T, B), np.bool_) if self.mask is None else self.mask
        if self.lengths is not None:
            ran = ran & (np.arange(T)[:, None] < self.lengths)
        return ran[..., None]


class Grid:
    """A call's sequences as (T, B, width): packed ones are padded, which costs memory in proportion to the longest."""

    __slots__ = ("_places", "given", "shape")

    def __init__(self, extent: Extent, reverse: bool) -> None:
        if not extent.packed:
            flags = [None if x is None else np.ascontiguousarray(x.T) for x in (extent.mask, extent.reset)]
            self.shape = extent.T, extent.B
            self._places: Any = None
            self.given = StepsGiven(extent.lengths, flags[0], flags[1], reverse)
            return
        assert extent.lengths is not None
        lengths = extent.lengths
        self.shape = int(lengths.max(initial=0)), extent.B
        starts = np.cumsum(lengths) - lengths
        self._places = np.arange(extent.T) - np.repeat(starts, lengths), np.repeat(np.arange(extent.B), lengths)
        flags = []
        for x in (extent.mask, extent.reset):
            if x is not None:
                padded = np.zeros(self.shape, np.bool_)
                padded[self._places] = x
                x = padded
            flags.append(x)
        self.given = StepsGiven(lengths, flags[0], flags[1], reverse)

    def padded(self, x: Array) -> Array:
        """(T, B, width) from (T, B, width) or packed (N, 1, width)."""
        if self._places is None:
            return x
        whole = np.zeros((*self.shape, x.shape[2]), x.dtype)
        whole[self._places] = x[:, 0]
        return whole

    def put(self, array: Array, target: Array) -> None:
        """Write (T, B, width) into (T, B, width) or packed (N, 1, width)."""
        if self._places is None:
            target[...] = array
        else:
            target[:, 0] = array[self._places]


class SavedMixer:
    """The data that a run saves for the backward pass."""

    __slots__ = ("grid", "layer", "masks", "saved")

    def __init__(self, layer: Mixer, grid: Grid, saved: Any) -> None:
        self.layer = layer
        self.grid = grid
        self.saved = saved
        self.masks: dict[str, NDArray[np.bool_]] = {}

    @property
    def nbytes(self) -> int:
        return int(self.saved.nbytes)

    def backward(
        self, dys: tuple[Array | None, ...], dstate_n: Any, dx: Array | None
    ) -> Run[tuple[Any, dict[str, Array]]]:
        """See `Saved`."""
        yield from ()
        (dy,) = dys
        if dy is not None:
            dy = self.grid.padded(dy)
            ran = self.grid.given.ran(*self.grid.shape)
            dy = dy if ran is None else np.where(ran, dy, dy.dtype.type(0))
        of_x, dstate_0, dparams = self.layer._gradients(self.saved, dy, dstate_n, dx is not None)
        if dx is not None:
            self.grid.put(of_x, dx)
        return dstate_0, dparams


class Mixer(SequenceLayer, Parameterized):
    """Base of layers that mix steps through a scan of states.

    Attributes
    ----------
    params : dict of str to ndarray
        Live and writable, under mamba_ssm's names.
    """

    _plan: MixerForm
    d_model: int
    batch_first: bool
    backwards: bool

    # ---- what a layer defines

    def _parts(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """The parts of a state: shape of a row, and how it is derived."""
        raise NotImplementedError

    def _parameter_specs(self) -> list[ParameterSpec]:
        raise NotImplementedError

    def _initial_values(self) -> Mapping[str, Array]:
        """Drawn in float64."""
        raise NotImplementedError

    def _sequence(self, params: Mapping[str, Array], x: Array, state: Any, steps: StepsGiven) -> tuple[Array, Any, Any]:
        """y (T, B, d_model), the final state, and what the gradients need."""
        raise NotImplementedError

    def _gradients(
        self, saved: Any, dy: Array | None, dstate_n: Any, need_dx: bool
    ) -> tuple[Any, tuple[Array, ...], dict[str, Array]]:
        """Gradients of x, of the initial state and of the parameters."""
        raise NotImplementedError

    def _step(self, params: Mapping[str, Array], x: Array, state: list[Array]) -> Array:
        """y (B, d_model) of one step; the arrays of the state are updated in place."""
        raise NotImplementedError

    # ---- construction

    def _make(self, values: dict[str, Any], dtype: DTypeLike, rng: Any) -> None:
        """Initialise from checked arguments."""
        owner = type(self).__name__
        values["batch_first"] = _validate.flag(owner, "batch_first", values["batch_first"])
        values["backwards"] = _validate.flag(owner, "backwards", values["backwards"])
        values["dtype"] = _validate.layer_dtype(owner, dtype)
        values["rng"] = _validate.generator(owner, rng)
        self._configure(values)
        self._initialise()

    def _choose_kind(self) -> CellKind:
        return None  # type: ignore[return-value]  such a layer has no cell

    def _specify(self) -> tuple[ParameterSpec, ...]:
        owner = type(self).__name__
        plan = MixerForm(owner, self.dtype, self.d_model, self.batch_first, self.backwards, self._parts())
        self.__dict__["_plan"] = plan
        specs = tuple(self._parameter_specs())
        _validate.room(owner, "the parameters", count_elements(specs), self.dtype)
        return specs

    def _draw(self) -> None:
        drawn = self._initial_values()
        self.__dict__["params"] = {spec.name: drawn[spec.name].astype(self.dtype) for spec in self._specs}

    def _uniform(self, bound: float, shape: tuple[int, ...]) -> Array:
        return self.rng.uniform(-bound, bound, shape)

    def _linear(self, outputs: int, inputs: int) -> Array:
        """As torch's Linear draws its weight."""
        return self._uniform(1 / math.sqrt(inputs), (outputs, inputs))

    def _named(self) -> dict[str, Array]:
        """The parameters, checked."""
        return {spec.name: array for spec, array in zip(self._specs, self._arrays(), strict=True)}

    @property
    def input_size(self) -> int:  # type: ignore[override]
        """d_model."""
        return self.d_model

    @property
    def bidirectional(self) -> bool:
        """False: `Bidirectional` joins two of these layers."""
        return False

    # ---- configuration

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """Arguments after d_model and their defaults, without rng."""
        constructor = next(c for c in cls.__mro__ if "__init__" in c.__dict__ and issubclass(c, Mixer))
        parameters = list(inspect.signature(constructor.__init__).parameters.values())[2:]  # type: ignore[misc]
        return {p.name: np.dtype(np.float32) if p.name == "dtype" else p.default for p in parameters if p.name != "rng"}

    def _config(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("d_model", *self._defaults())}

    def __repr__(self) -> str:
        shown = [str(self.d_model)]
        for name, default in self._defaults().items():
            value = getattr(self, name)
            if value != default:
                shown.append(f"{name}={value.name if isinstance(value, np.dtype) else value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        owner = type(self).__name__
        if state.get("version") != PICKLE_VERSION:
            raise ValueError(f"{owner}: pickle has version {state.get('version')}; expected {PICKLE_VERSION}")
        names = ("d_model", *self._defaults())
        for name in ("params", "rng", *names):
            if name not in state:
                raise _validate.no_pickle(owner, f"has no {name}")
        if not isinstance(state["params"], Mapping):
            raise _validate.no_pickle(owner, f"has {_validate.kind(state['params'])} for params")
        self.__dict__.update((name, value) for name, value in state.items() if name != "version")
        self.__dict__["params"] = dict(state["params"])
        cls: Any = next(c for c in type(self).__mro__ if "__init__" in c.__dict__)
        cls.__init__(self, **{name: state[name] for name in names}, rng=state["rng"])

    # ---- calls

    def _reversed(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        plan = self._plan
        other.__dict__["_plan"] = MixerForm(plan.owner, plan.dtype, plan.input_size, plan.batch_first, True, plan.parts)
        return other

    def _run(
        self, x: Array, state: Any, extent: Extent, outputs: Outputs, mode: Mode
    ) -> Run[tuple[tuple[Array, ...], SavedMixer | None]]:
        yield from ()  # no calls of the kernels of layers
        owner = self._plan.owner
        if x.ndim == 2:
            raise TypeError(f"{owner}: x has integers; expected floats: embed tokens before the layer")
        if extent.hold:
            raise ValueError(f"{owner}: past_end is 'hold'; expected 'zero', which is all that this layer has")
        grid = Grid(extent, self._plan.ways[0])
        x = grid.padded(x)
        ran = grid.given.ran(*grid.shape)
        if ran is not None:
            x = np.where(ran, x, x.dtype.type(0))
        elif mode.save:
            x = x.copy()  # a tape owns what it needs
        params = self._named()
        if mode.save:
            params = {name: array.copy() for name, array in params.items()}
        y, state_n, saved = self._sequence(params, x, state, grid.given)
        if ran is not None:
            y = np.where(ran, y, y.dtype.type(0))
        grid.put(y, outputs[0])
        return state_n, SavedMixer(self, grid, saved) if mode.save else None

    def _given_masks(self, masks: Any) -> Mapping[str, Any]:
        return {} if masks is None else _validate.mask_names(self._plan.owner, masks, {})

    def _show(self, saved: Any, x: Array, extent: Extent) -> tuple[Any, Array]:
        raise ValueError(f"{self._plan.owner}: inspect is not available; expected a layer with gates")

    def freeze(self, precision: str | None = None) -> FrozenMixer:
        """Copy the parameters once, for inference and streaming; later changes of the layer have no effect on it.

        Parameters
        ----------
        precision : "float32", "float64" or None
            The layer's own dtype, which is also the meaning of None.

        Returns
        -------
        FrozenMixer

        Raises
        ------
        ValueError
            The precision is not available.
        """
        chosen = _validate.precision(type(self).__name__, precision, self.dtype)
        own = self._with_params({name: array.copy() for name, array in self._named().items()})
        return FrozenMixer(own, repr(self), chosen)


class FrozenMixer(Frozen):
    """A `Mamba` layer for inference only, created by ``layer.freeze()``: immutable, picklable.

    Attributes
    ----------
    params : mapping of str to ndarray
        The parameters, read-only.
    precision : str
        "float32" or "float64".
    isa : str
        The instruction set that calls use.
    nbytes : int
        Bytes of the parameters.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> frozen = fusedrnn.Mamba(4).freeze()
    >>> y, state = frozen(np.ones((7, 2, 4), np.float32))
    >>> y.shape
    (7, 2, 4)
    """

    __slots__ = ("_layer", "params")

    params: Mapping[str, Array]
    _layer: Mixer

    def __init__(self, layer: Mixer, description: str, precision: str) -> None:
        self._refuse_second_init()
        for array in layer.params.values():
            array.flags.writeable = False
        put = object.__setattr__
        put(self, "_layer", layer)
        put(self, "_description", description)
        put(self, "params", MappingProxyType(layer.params))
        put(self, "precision", precision)

    @property
    def _plan(self) -> MixerForm:
        return self._layer._plan

    def _run(self, x: Array, state: Any, extent: Extent, outputs: Outputs, mode: Mode) -> Run[Any]:
        return self._layer._run(x, state, extent, outputs, mode)

    @property
    def isa(self) -> str:
        from .isa import current_isa

        return current_isa()

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.params.values())

    def stream(self, batch_size: int = 1) -> MixerStream:
        """Process sequences one step at a time.

        Parameters
        ----------
        batch_size : int
            B, the number of sequences that advance together.

        Returns
        -------
        MixerStream

        Raises
        ------
        ValueError
            The layer runs backwards, or `batch_size` is less than 1.
        """
        return MixerStream(self, batch_size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrozenMixer):
            return NotImplemented
        return (self._description, self.precision) == (other._description, other.precision) and same_arrays(
            self.params, other.params
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenMixer, (self._layer._with_params(dict(self.params)), self._description, self.precision)


class MixerStream:
    """One step at a time over a frozen `Mamba` layer; owns its state. Created by ``frozen.stream()``.

    Attributes
    ----------
    state : tuple of ndarray
        As the state of the layer. Reading and assigning copy; assigning None sets zeros.

    Notes
    -----
    The convolution and the scan of a step have the bits of a sequence; the matrix products are NumPy's, whose last bits
    depend on the number of rows. Only one thread at a time may use a stream.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer, x = fusedrnn.Mamba(4), np.ones((7, 2, 4), np.float32)
    >>> stream = layer.freeze().stream(batch_size=2)
    >>> y = np.stack([stream.step(x_t) for x_t in x])
    >>> bool(np.allclose(y, layer(x)[0], atol=1e-6))
    True
    """

    def __init__(self, frozen: FrozenMixer, batch_size: int = 1) -> None:
        if hasattr(self, "_in_use"):  # another thread may be in a step
            raise _validate.initialised("MixerStream", "frozen.stream()")
        plan = frozen._plan
        _validate.one_directional(plan.owner, plan.ways)
        self._batch_size = _validate.size(plan.owner, "batch_size", batch_size)
        elements = sum(math.prod(shape) for shape, _ in plan.parts.values())
        _validate.room(plan.owner, "the state", elements * self._batch_size, plan.dtype)
        self._frozen = frozen
        self._state = [np.zeros((self._batch_size, *shape), plan.dtype) for shape, _ in plan.parts.values()]
        self._in_use = False

    @property
    def batch_size(self) -> int:
        """B."""
        return self._batch_size

    def step(self, x: Any, out: Array | None = None) -> Array:
        """One step.

        Parameters
        ----------
        x : array-like (B, d_model)
        out : ndarray (B, d_model) or None
            Array to write to.

        Returns
        -------
        ndarray (B, d_model)
            This is ``out`` if it was given.

        Raises
        ------
        TypeError, ValueError
            `x` or `out` does not fit.
        RuntimeError
            The stream is in use by another thread.
        """
        plan = self._frozen._plan
        x = _validate.step_input(plan.owner, x, plan.dtype, plan.input_size, self._batch_size)
        if x.ndim != 2:
            raise TypeError(f"{plan.owner}: x has integers; expected floats: embed tokens before the layer")
        shape = (self._batch_size, plan.input_size)
        if out is not None:
            out = _validate.out(plan.owner, "out", out, shape, "(B, d_model)", plan.dtype, [("x", x)], _core.rows_apart)
        if self._in_use:
            raise _validate.in_use("MixerStream")
        self._in_use = True
        try:
            y = self._frozen._layer._step(self._frozen.params, x, self._state)
        finally:
            self._in_use = False
        if out is None:
            return y
        out[...] = y
        return out

    @property
    def state(self) -> tuple[Array, ...]:
        return tuple(part.copy() for part in self._state)

    @state.setter
    def state(self, value: Any) -> None:
        if value is None:
            self.reset()
            return
        plan = self._frozen._plan
        extent = Extent(0, self._batch_size, "batch", None, _core.Schedule(0, self._batch_size))
        for part, given in zip(self._state, plan.read_state(extent, "state", value), strict=True):
            part[...] = given

    def reset(self, rows: Any = None) -> None:
        """Set the state to zeros.

        Parameters
        ----------
        rows : bool (B,) or None
            The rows to reset; None is all.

        Raises
        ------
        TypeError, ValueError
            `rows` is not an array of bools of shape (B,).
        """
        chosen: Any = slice(None)
        if rows is not None:
            chosen = _validate.rows(self._frozen._plan.owner, rows, self._batch_size)
        for part in self._state:
            part[chosen] = 0

    def __repr__(self) -> str:
        return f"<stream of {self._frozen!r}, batch_size={self._batch_size}>"

    def __copy__(self) -> MixerStream:
        return _resume(self._frozen, self._batch_size, self.state)

    def __deepcopy__(self, memo: dict[int, Any]) -> MixerStream:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _resume, (self._frozen, self._batch_size, self.state)


def _resume(frozen: FrozenMixer, batch_size: int, state: tuple[Array, ...]) -> MixerStream:
    """A stream that continues from a state."""
    stream = MixerStream(frozen, batch_size)
    stream.state = state
    return stream


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def product(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x (T, B, I) times weight (O, I), plus a bias."""
    y: Array = (x.reshape(-1, x.shape[2]) @ weight.T).reshape(*x.shape[:2], len(weight))
    if bias is not None:
        y += bias
    return y


def weight_gradient(dy: Array, x: Array) -> Array:
    """The gradient of the weight of a `product`."""
    gradient: Array = dy.reshape(-1, dy.shape[2]).T @ x.reshape(-1, x.shape[2])
    return gradient


def step_bias(rng: np.random.Generator, count: int, low: float, high: float, floor: float) -> Array:
    """The bias for which softplus gives step sizes between `low` and `high`, evenly on a logarithmic scale."""
    steps = np.maximum(np.exp(rng.uniform(math.log(low), math.log(high), count)), floor)
    return np.asarray(steps + np.log(-np.expm1(-steps)))


def last_inputs(
    convolution: Callable[..., Any], x: Array, before: Array, steps: StepsGiven
) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """The last k inputs (B, D, k) after those `before`, and the function that takes their gradient back."""
    k = before.shape[2]
    if not steps.some:
        running = x[::-1] if steps.reverse else x
        T = len(x)
        whole = np.concatenate([before.transpose(2, 0, 1), running[max(0, T - k) :]])[-k:]

        def back(d: Array) -> tuple[Array, Array]:
            dx, dbefore = np.zeros_like(x), np.zeros_like(before)
            n = min(k, T)
            if n:
                (dx[::-1] if steps.reverse else dx)[T - n :] = d[:, :, k - n :].transpose(2, 0, 1)
            dbefore[:, :, n:] = d[:, :, : k - n]
            return dx, dbefore

        return np.ascontiguousarray(whole.transpose(1, 2, 0)), back
    forward, backward = convolution  # type: ignore[misc]
    none = np.zeros((x.shape[2], k + 1), x.dtype)  # only the state matters
    state = np.ascontiguousarray(before.transpose(0, 2, 1))
    _, last, tape = forward(x, none, None, state, **steps._asdict())

    def back_by_kernel(d: Array) -> tuple[Array, Array]:
        grads = backward(tape, None, np.ascontiguousarray(d.transpose(0, 2, 1)))
        return grads.dx, np.ascontiguousarray(grads.dstate.transpose(0, 2, 1))

    return np.ascontiguousarray(last.transpose(0, 2, 1)), back_by_kernel


def total_bytes(arrays: Sequence[Any]) -> int:
    """Bytes of arrays and tapes."""
    return sum(int(a.nbytes) for a in arrays if a is not None)
