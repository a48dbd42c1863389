"""What groups of layers have in common: parameters under prefixed names, saving, comparing, showing; gradients.

A group has members, each under a name: layers, or groups again. It does no arithmetic of its own but what lies between
its members, which are called as anybody would call them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from . import _validate
from ._validate import LoadReport, ParameterSpec
from .parameters import PICKLE_VERSION, same_arrays

Array = NDArray[Any]


class GroupParams(MutableMapping[str, Array]):
    """The parameters of all members as one live mapping: ``"0.weight_ih_l0"`` is ``weight_ih_l0`` of member "0".

    Entries are the members' own arrays, to be updated in place, and may be replaced, but not added or removed.
    """

    __slots__ = ("_members", "_owner")

    def __init__(self, owner: str, members: Mapping[str, Any]) -> None:
        self._owner = owner
        self._members = members

    def _find(self, name: str) -> tuple[MutableMapping[str, Array], str]:
        prefix, _, rest = name.partition(".")
        if prefix not in self._members or rest not in self._members[prefix].params:
            raise KeyError(name)
        return self._members[prefix].params, rest

    def __getitem__(self, name: str) -> Array:
        params, rest = self._find(name)
        return params[rest]

    def __setitem__(self, name: str, array: Array) -> None:
        params, rest = self._find(name)
        params[rest] = array

    def __delitem__(self, name: str) -> None:
        raise _validate.fixed_params(self._owner, name)

    def __iter__(self) -> Iterator[str]:
        for prefix, member in self._members.items():
            for name in member.params:
                yield f"{prefix}.{name}"

    def __len__(self) -> int:
        return sum(len(member.params) for member in self._members.values())

    def __repr__(self) -> str:
        return repr(dict(self))


class LayerGroup:
    """Base of `Stack`, `Bidirectional` and `Ensemble`.

    Attributes
    ----------
    params : mapping of str to ndarray
        Live and writable, as that of a layer, under the members' names: ``"0.weight_ih_l0"``.
    rng : numpy.random.Generator
        Draws what is dropped between members; members have generators of their own.
    """

    _assignable: ClassVar[frozenset[str]] = frozenset({"rng"})

    # Equality is by value and values change: no hash, on purpose.
    __hash__: ClassVar[None]  # type: ignore[assignment]

    _members: dict[str, Any]
    rng: np.random.Generator
    input_size: int
    output_size: int

    def _configure(self, members: dict[str, Any], **values: Any) -> None:
        self.__dict__.update(values, _members=members)

    def _with_params(self, params: dict[str, Array]) -> Self:
        """The same group with other parameters; see `Parameterized._with_params`."""
        own: dict[str, dict[str, Array]] = {prefix: {} for prefix in self._members}
        for name, array in params.items():
            prefix, _, rest = name.partition(".")
            if prefix not in own:
                raise _validate.no_parameter(type(self).__name__, name)
            own[prefix][rest] = array
        other = object.__new__(type(self))
        members = {prefix: member._with_params(own[prefix]) for prefix, member in self._members.items()}
        other.__dict__.update(self.__dict__, _members=members)
        return other

    @property
    def params(self) -> GroupParams:
        return GroupParams(type(self).__name__, self._members)

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of inputs, outputs and states."""
        dtype: np.dtype[Any] = next(iter(self._members.values())).dtype
        return dtype

    @property
    def batch_first(self) -> bool:
        """Whether x and y are (B, T, ...)."""
        return bool(next(iter(self._members.values())).batch_first)

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters, under the members' prefixed names.

        Returns
        -------
        dict of str to ndarray
        """
        return {f"{k}.{n}": array for k, member in self._members.items() for n, array in member.state_dict().items()}

    def load_state_dict(self, d: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Copy values into the parameters of all members.

        Parameters
        ----------
        d : mapping of str to array-like
            Under the names of ``state_dict()``.
        strict : bool
            Whether missing and unexpected names are errors.

        Returns
        -------
        LoadReport
            ``(missing_keys, unexpected_keys)``, both empty if `strict`.

        Raises
        ------
        ValueError, TypeError
            Everything that is wrong, in one message. Nothing is changed then.
        """
        owner = type(self).__name__
        strict = _validate.flag(owner, "strict", strict)
        arrays, report = _validate.state_dict(owner, d, self._parameter_specs(), self.dtype, strict)
        for prefix, member in self._members.items():
            own = {n.removeprefix(f"{prefix}."): a for n, a in arrays.items() if n.startswith(f"{prefix}.")}
            member.load_state_dict(own, strict=False)
        return report

    def _parameter_specs(self) -> tuple[ParameterSpec, ...]:
        return tuple(
            ParameterSpec(f"{prefix}.{spec.name}", spec.shape, spec.formula)
            for prefix, member in self._members.items()
            for spec in parameter_specs(member)
        )

    def _config(self) -> dict[str, object]:
        """Constructor arguments besides the members, by name."""
        return {}

    def __setattr__(self, name: str, value: Any) -> None:
        owner = type(self).__name__
        if name not in self._assignable:
            raise AttributeError(f"{owner}: {name} is fixed when the object is made")
        if name == "rng":
            value = _validate.generator(owner, value)
        elif name == "dropout":
            value = _validate.probability(owner, name, value)
        object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, LayerGroup)
        return self._config() == other._config() and self._members == other._members

    def __getstate__(self) -> dict[str, Any]:
        return {"version": PICKLE_VERSION, **self.__dict__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        version = state.get("version")
        if version != PICKLE_VERSION:
            raise ValueError(f"{type(self).__name__}: pickle has version {version}; expected {PICKLE_VERSION}")
        self.__dict__.update({name: value for name, value in state.items() if name != "version"})


def parameter_specs(member: Any) -> tuple[ParameterSpec, ...]:
    """Names and shapes of the parameters of a layer or a group."""
    specs: tuple[ParameterSpec, ...]
    specs = member._parameter_specs() if isinstance(member, LayerGroup) else member.__dict__["_specs"]
    return specs


def width_of(member: Any) -> int:
    """Width of the output of a layer or a group."""
    width: int = member.output_size if isinstance(member, LayerGroup) else member.__dict__["_plan"].width
    return width


def prefixed(prefix: str, params: Mapping[str, Array]) -> dict[str, Array]:
    """A member's parameters, or their gradients, under the group's names."""
    return {f"{prefix}.{name}": array for name, array in params.items()}


class FrozenGroup:
    """What frozen groups have in common; immutable, picklable, safe to call from many threads.

    Attributes
    ----------
    params : mapping of str to ndarray
        What was packed, read-only, under the group's names.
    precision : str
        "float32" or "float64".
    """

    __hash__: ClassVar[None]  # type: ignore[assignment]
    __slots__ = ("__weakref__", "_description", "_members", "_owner", "precision")

    _description: str
    _members: tuple[Any, ...]
    _owner: str
    precision: str

    def __init__(self, owner: str, description: str, members: tuple[Any, ...], precision: str) -> None:
        put = object.__setattr__
        put(self, "_owner", owner)
        put(self, "_description", description)
        put(self, "_members", members)
        put(self, "precision", precision)

    @property
    def params(self) -> dict[str, Array]:
        names = self._names()
        return {f"{k}.{n}": a for k, member in zip(names, self._members, strict=True) for n, a in member.params.items()}

    def _names(self) -> tuple[str, ...]:
        return tuple(str(k) for k in range(len(self._members)))

    @property
    def isa(self) -> str:
        """The instruction set that the weights are packed for."""
        isa: str = self._members[0].isa
        return isa

    @property
    def nbytes(self) -> int:
        """Bytes of packed weights and parameters."""
        return sum(member.nbytes for member in self._members)

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of inputs, outputs and states."""
        dtype: np.dtype[Any] = self._members[0].dtype
        return dtype

    @property
    def input_size(self) -> int:
        """I."""
        return int(self._members[0].input_size)

    @property
    def batch_first(self) -> bool:
        """Whether x and y are (B, T, ...)."""
        return bool(self._members[0].batch_first)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"frozen {self._owner}: {name} cannot be set; frozen layers do not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"frozen {self._owner}: {name} cannot be deleted; frozen layers do not change")

    def __repr__(self) -> str:
        return f"<frozen {self._description}, {self.precision}, {self.isa}>"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, FrozenGroup)
        mine, theirs = (self._description, self.precision), (other._description, other.precision)
        return mine == theirs and same_arrays(self.params, other.params)

    def __copy__(self) -> FrozenGroup:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenGroup:
        return self
