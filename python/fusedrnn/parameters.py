"""Common base of layers and cells: configuration and named parameters; saving, comparing and showing them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _core, _hints, _validate
from .description import Described
from .form import Plan
from .kinds import CELLS, CellKind, kind_of
from .specs import Bias, LoadReport, ParameterSpec

Array = NDArray[Any]

#: Version of the result of __getstate__; increased when old pickles would have to be converted.
PICKLE_VERSION = 1

#: The layers and cells of all families by name; files and bridges look their classes up here.
CLASSES: dict[str, type[Any]] = {}


def direction_specs(kind: CellKind, H: int, inputs: int, inputs_formula: str, suffix: str) -> tuple[ParameterSpec, ...]:
    """Parameters of one cell, or of one layer in one direction, in torch's order; those that torch lacks come last."""
    gates = kind.gates
    if kind.window > 1:
        inputs, inputs_formula = kind.window * inputs, f"window*{inputs_formula}"
    R, columns = (kind.proj_size, "proj_size") if kind.proj_size else (H, "hidden_size")
    rows = "hidden_size" if gates == 1 else f"{gates}*hidden_size"
    of_role = {
        "W_ih": ParameterSpec(f"weight_ih{suffix}", (gates * H, inputs), f"({rows}, {inputs_formula})", "W_ih"),
        "W_hh": ParameterSpec(f"weight_hh{suffix}", (gates * H, R), f"({rows}, {columns})", "W_hh"),
        "b_ih": ParameterSpec(f"bias_ih{suffix}", (gates * H,), f"({rows},)", "b_ih"),
        "b_hh": ParameterSpec(f"bias_hh{suffix}", (gates * H,), f"({rows},)", "b_hh"),
        "W_hr": ParameterSpec(f"weight_hr{suffix}", (R, H), "(proj_size, hidden_size)", "W_hr"),
        "units": units_spec(kind, H, suffix),
        "gain_ih": ParameterSpec(f"weight_ln_ih{suffix}", (gates * H,), f"({rows},)", "gain_ih", 1.0),
        "gain_hh": ParameterSpec(f"weight_ln_hh{suffix}", (gates * H,), f"({rows},)", "gain_hh", 1.0),
        "gain_c": ParameterSpec(f"weight_ln_c{suffix}", (H,), "(hidden_size,)", "gain_c", 1.0),
        "bias_c": ParameterSpec(f"bias_ln_c{suffix}", (H,), "(hidden_size,)", "bias_c", 0.0),
    }
    return tuple([of_role[role] for role in kind.roles])


def units_spec(kind: CellKind, H: int, suffix: str) -> ParameterSpec:
    """The parameters with one element for each unit, or for each pair of units."""
    name = "weight_peephole" if kind.recurrent else "weight_unit"
    sharing = CELLS[kind.name]["sharing"]
    width = "hidden_size" if sharing == 1 else f"hidden_size/{sharing}"
    return ParameterSpec(f"{name}{suffix}", (kind.peepholes, H // sharing), f"({kind.peepholes}, {width})", "units")


def count_elements(specs: Iterable[ParameterSpec]) -> int:
    """The total number of elements of the parameters."""
    return sum(math.prod(spec.shape) for spec in specs)


def layer_specs(plan: Plan) -> tuple[ParameterSpec, ...]:
    """All parameters of a layer in torch's order: by layer, then by direction; an error if memory cannot hold them."""

    def of_layer(layer: int) -> list[ParameterSpec]:
        if layer == 0:
            inputs, formula = plan.input_size, "input_size"
        else:
            inputs = plan.inner_width
            formula = plan.unit_formula if inputs == plan.output_size else f"2*{plan.unit_formula}"
        suffixes = [f"_l{layer}{way}" for way in ("", "_reverse")[: plan.directions]]
        return [spec for s in suffixes for spec in direction_specs(plan.kind, plan.hidden_size, inputs, formula, s)]

    # Checked before the names are created: all layers above the first are alike.
    elements = count_elements(of_layer(0)) + (plan.num_layers - 1) * count_elements(of_layer(1))
    _validate.room(plan.owner, "the parameters", elements, plan.dtype)
    return tuple(spec for layer in range(plan.num_layers) for spec in of_layer(layer))


def learned_specs(plan: Plan) -> tuple[ParameterSpec, ...]:
    """Learned initial states; they come after all weights."""
    if not plan.learned_state:
        return ()
    suffixes = [f"_l{k}{way}" for k in range(plan.num_layers) for way in ("", "_reverse")[: plan.directions]]
    formulas = ["(hidden_size,)" if n == plan.hidden_size else "(proj_size,)" for n in plan.units]
    parts = list(zip(plan.parts, plan.units, formulas, strict=True))
    return tuple(
        ParameterSpec(f"{p}_0{suffix}", (n,), formula, f"{p}_0") for suffix in suffixes for p, n, formula in parts
    )


def arguments_of(constructor: Callable[..., None]) -> tuple[tuple[str, object], ...]:
    """Arguments of a layer's or a cell's constructor after the two sizes, with their defaults; rng is left out."""
    parameters = list(inspect.signature(constructor).parameters.values())[3:]
    defaults = {p.name: np.dtype(np.float32) if p.name == "dtype" else p.default for p in parameters}
    return tuple((name, default) for name, default in defaults.items() if name != "rng")


class Parameterized(Described):
    """Base of layers and cells: configuration plus a dict of named arrays.

    Attributes
    ----------
    params : dict of str to ndarray
        Live and writable. An optimiser updates the arrays in place; an entry may also be replaced by another array,
        whose shape and dtype are checked at the next call and which is never cast. Each parameter is also an attribute,
        and assigning to the attribute replaces the entry.
    rng : numpy.random.Generator
        The generator of the initial parameters and of dropout masks.

    Notes
    -----
    Two objects are equal if their types, configurations and parameter values are; ``rng`` is not compared. They have no
    hash, because they can change. ``copy.copy`` shares parameter arrays and rng; ``copy.deepcopy`` and pickling do not.
    """

    #: `arguments_of` the constructor that defines the configuration, which repr, == and pickling use. A user's subclass
    #: inherits them, whatever arguments its own constructor has.
    _arguments: ClassVar[tuple[tuple[str, object], ...]] = ()

    #: The arguments of the constructor that come first and have no defaults.
    _sizes_of: ClassVar[tuple[str, str]] = ("input_size", "hidden_size")

    #: Attributes that can be assigned after construction.
    _assignable: ClassVar[frozenset[str]] = frozenset({"rng"})

    params: dict[str, Array]
    input_size: int
    hidden_size: int
    bias: Bias
    dtype: np.dtype[Any]
    rng: np.random.Generator
    # Derived from the configuration; written through __dict__, because a configuration cannot be assigned.
    _kind: CellKind
    _specs: tuple[ParameterSpec, ...]

    # Equality is by value and values change, so there is no hash.
    __hash__: ClassVar[None]  # type: ignore[assignment]

    if not TYPE_CHECKING:  # constructors have the arguments that type checkers see

        def __new__(cls, *args: Any, **kwargs: Any) -> Self:
            _hints.check_argument_names(cls, kwargs)
            return object.__new__(cls)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.startswith(f"{__package__}.families."):  # neither a base class nor a user's subclass
            CLASSES[cls.__name__] = cls

    def _configure(self, values: dict[str, Any]) -> None:
        """Store checked constructor arguments and the values derived from them."""
        self.__dict__.update(values)
        self.__dict__["_kind"] = self._choose_kind()
        self.__dict__["_specs"] = self._specify()

    def _specify(self) -> tuple[ParameterSpec, ...]:
        """The parameters of this configuration, in torch's order."""
        raise NotImplementedError

    #: The kernels' name of the cell, in families without options.
    _cell: ClassVar[str]

    def _choose_kind(self) -> CellKind:
        """The cell of this configuration."""
        return kind_of(self._cell, self.bias)

    def _sizes(
        self, input_size: int, hidden_size: int, bias: Bias, dtype: DTypeLike, rng: np.random.Generator | int | None
    ) -> dict[str, Any]:
        """Check the arguments that all layers and cells share."""
        owner = type(self).__name__
        return {
            "input_size": _validate.size(owner, "input_size", input_size),
            "hidden_size": _validate.size(owner, "hidden_size", hidden_size),
            "bias": _validate.bias(owner, bias),
            "dtype": _validate.layer_dtype(owner, dtype),
            "rng": _validate.generator(owner, rng),
        }

    def _initialise(self) -> None:
        """Draw the parameters, unless they exist already or come from another source."""
        if "params" not in self.__dict__:
            self._draw()

    def _draw(self) -> None:
        """Draw the parameters from U(-1/sqrt(H), 1/sqrt(H)), in torch's order, except those of layer norm.

        Numbers are drawn in float64 and rounded, so that layers of both dtypes start from the same numbers.
        """
        bound = 1.0 / math.sqrt(self.hidden_size)
        self.__dict__["params"] = {
            spec.name: self.rng.uniform(-bound, bound, spec.shape).astype(self.dtype, copy=False)
            if spec.initial is None
            else np.full(spec.shape, spec.initial, self.dtype)
            for spec in self._specs
        }

    def _restore(
        self, params: dict[str, Array], first: Any, second: Any, arguments: Mapping[str, Any], rng: Any
    ) -> None:
        """Initialise as the constructor would, but with parameters from another source; none are drawn.

        `first` and `second` are the two sizes with which the constructor begins.
        """
        # A subclass may have other arguments; this is the class that defines them.
        cls: Any = next(cls for cls in type(self).__mro__ if "_arguments" in cls.__dict__)
        others = {name: value for name, value in arguments.items() if name != "dropout"}
        self.__dict__["params"] = params
        cls.__init__(self, first, second, **others, rng=rng)
        if "dropout" in arguments:  # may have been set later, where it has no effect, so there is no warning
            owner = type(self).__name__
            self.__dict__["dropout"] = _validate.probability(owner, "dropout", arguments["dropout"])

    def _with_params(self, params: dict[str, Array]) -> Self:
        """The same object with other parameters; used by bridges, whose arrays belong to another library."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, params=params)
        return other

    def _arrays(self, as_is: Sequence[int] = ()) -> list[Array]:
        """The parameters for the kernels, checked, because they may have changed since the last call.

        Those at the places `as_is` may have any strides.
        """
        return _validate.parameters(type(self).__name__, self.params, self._specs, self.dtype, as_is)

    def _pack(self, training: bool) -> list[_core.Weights]:
        """Packed weights in the order of the specs: by layer, then by direction."""
        return pack(self._kind, self._arrays(), training)

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters, under torch's names.

        Returns
        -------
        dict of str to ndarray
            In torch's order. Parameters that were replaced by arrays that do not fit are an error here, too.

        Examples
        --------
        >>> import fusedrnn
        >>> {name: w.shape for name, w in fusedrnn.GRU(3, 5).state_dict().items()}
        {'weight_ih_l0': (15, 3), 'weight_hh_l0': (15, 5), 'bias_ih_l0': (15,), 'bias_hh_l0': (15,)}
        """
        return {spec.name: array.copy() for spec, array in zip(self._specs, self._arrays(), strict=True)}

    def load_state_dict(self, d: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Copy values into the parameters.

        Parameters
        ----------
        d : mapping of str to array-like
            Arrays, torch tensors or nested lists under torch's names, cast to the dtype of this object.
        strict : bool
            Whether missing or unexpected names are errors.

        Returns
        -------
        LoadReport
            ``(missing_keys, unexpected_keys)``, both empty if `strict`.

        Raises
        ------
        ValueError, TypeError
            One message lists everything that is missing, unexpected, of wrong shape or not a real number. Nothing is
            changed in this case.
        """
        strict = _validate.flag(type(self).__name__, "strict", strict)
        arrays, report = _validate.state_dict(type(self).__name__, d, self._specs, self.dtype, strict)
        for name, array in arrays.items():
            old: Any = self.params.get(name)
            fits = isinstance(old, np.ndarray) and old.shape == array.shape and old.dtype == self.dtype
            if fits and old.flags.writeable:
                old[...] = array  # so that optimisers and views still refer to the parameter
            else:
                self.params[name] = array
        return report

    def __getattr__(self, name: str) -> Any:
        # Only called for names that are not ordinary attributes. Uses __dict__, because unpickling has no params yet.
        params = self.__dict__.get("params", {})
        if name in params:
            return params[name]
        raise _hints.no_attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("params", {}):
            self.params[name] = value
        elif name == "params":
            raise AttributeError(
                f"{type(self).__name__}: params cannot be assigned; update its arrays in place, or call load_state_dict"
            )
        elif name in self._assignable:
            if name == "rng":
                value = _validate.generator(type(self).__name__, value)
            object.__setattr__(self, name, value)
        elif name in self.__dict__ and (name.startswith("_") or name in self._config()):
            raise AttributeError(f"{type(self).__name__}: {name} is fixed when the object is made")
        else:
            object.__setattr__(self, name, value)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.params]

    def _config(self) -> dict[str, object]:
        """Constructor arguments by name, without rng, because it changes."""
        names = [*self._sizes_of, *(name for name, _ in self._arguments)]
        return {name: getattr(self, name) for name in names}

    def _source(self) -> tuple[str, dict[str, Any]] | None:
        """Class and constructor arguments, from which a file can make this object anew; None for a user's subclass."""
        own = CLASSES.get(type(self).__name__) is type(self)
        return (type(self).__name__, self._config()) if own else None

    def __repr__(self) -> str:
        values = self._config()
        shown = [str(values[name]) for name in self._sizes_of]
        for name, default in self._arguments:
            value = values[name]
            if value != default:
                shown.append(f"{name}={value.name if isinstance(value, np.dtype) else value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, Parameterized)
        return self._config() == other._config() and same_arrays(self.params, other.params)

    def __getstate__(self) -> dict[str, Any]:
        derived = ("_kind", "_specs", "_plan")
        return {"version": PICKLE_VERSION} | {k: v for k, v in self.__dict__.items() if k not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        version = state.get("version")
        if version != PICKLE_VERSION:
            raise ValueError(f"{type(self).__name__}: pickle has version {version}; expected {PICKLE_VERSION}")
        owner = type(self).__name__
        for name in ("params", "rng", *self._sizes_of):
            if name not in state:
                raise _validate.no_pickle(owner, f"has no {name}")
        if not isinstance(state["params"], Mapping):
            raise _validate.no_pickle(owner, f"has {_validate.kind(state['params'])} for params")
        self.__dict__.update((name, value) for name, value in state.items() if name != "version")
        params = dict(state["params"])  # a shallow copy shares arrays, not the dict
        arguments = {name: state.get(name, default) for name, default in self._arguments}
        first, second = (state[name] for name in self._sizes_of)
        self._restore(params, first, second, arguments, state["rng"])


def pack(
    kind: CellKind,
    arrays: list[Array],
    training: bool,
    zoneout: tuple[float, float] = (0.0, 0.0),
    first: _core.Weights | None = None,
) -> list[_core.Weights]:
    """Packed weights of consecutive groups of parameters, each in the order of `direction_specs`.

    All use the instruction set of `first`, or of the first of them.
    """
    name = kind.name
    if kind.is_usual and zoneout == (0.0, 0.0):  # fast path
        pack_usual = _core.usual_weights
        first = pack_usual(name, arrays[0], arrays[1], arrays[2], arrays[3], training)
        if len(arrays) == 4:
            return [first]
        rest = [arrays[i : i + 4] for i in range(4, len(arrays), 4)]
        return [first] + [pack_usual(name, W_ih, W_hh, b_ih, b_hh, training, first) for W_ih, W_hh, b_ih, b_hh in rest]
    packed: list[_core.Weights] = []
    for which in range(len(arrays) // kind.each):
        like = packed[0] if packed else first  # whatever another thread chooses meanwhile
        given = kind.named(arrays, which)
        packed.append(_core.Weights(name, given, training, kind.options, zoneout, kind.norm_eps, like))
    return packed


def same_arrays(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    """Whether names and values are equal; NaN equals NaN here, so that a copy always equals its original."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name], equal_nan=True) for name in a)
