"""Common base of layers around a scan of states: parameters, calls, tapes, frozen layers and streams.

A subclass says which parameters it has and computes whole sequences, forward and backward; its matrix products are
NumPy's.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _validate
from .calling import Mode, SequenceLayer
from .form import Extent, Outputs
from .frozen_mixer import FrozenMixer
from .kinds import CellKind
from .mixer_form import Grid, MixerForm, StepsGiven
from .parameters import PICKLE_VERSION, Parameterized, count_elements
from .specs import ParameterSpec
from .unroll import Run

Array = NDArray[Any]


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
        return None  # type: ignore[return-value]  # such a layer has no cell

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
    convolution: tuple[Callable[..., Any], Callable[..., Any]], x: Array, before: Array, steps: StepsGiven
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
    forward, backward = convolution
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
