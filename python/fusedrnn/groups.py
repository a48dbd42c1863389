"""Common base of groups of layers: parameters under prefixed names, saving, comparing, showing; their form.

A group has members, each under a name: layers or other groups. A group composes its run from the runs of its members
and does only the arithmetic between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from . import _validate
from .calling import Frozen, Mode, SequenceLayer
from .description import Described
from .form import Extent, Form, Outputs
from .parameters import PICKLE_VERSION, same_arrays
from .specs import LoadReport, ParameterSpec
from .tape import Saved
from .unroll import Run

Array = NDArray[Any]


class GroupForm(Form):
    """A group's form: its state is a tuple of its members' states."""

    __slots__ = ("members",)

    def __init__(
        self, owner: str, members: Sequence[Form], widths: tuple[int, ...], lead: tuple[int, ...] = ()
    ) -> None:
        first = members[0]
        self.owner = owner
        self.members = tuple(members)
        self.dtype = first.dtype
        self.input_size = first.input_size
        self.batch_first = first.batch_first
        self.widths = widths
        self.lead = lead
        self.ways = tuple(sorted({way for member in members for way in member.ways}))

    def read_state(self, extent: Extent, argument: str, state: Any, optional: bool = False) -> Any:
        states = _validate.member_states(self.owner, argument, state, len(self.members))
        pairs = zip(self.members, states, strict=True)
        return tuple([member.read_state(extent, argument, own, optional) for member, own in pairs])

    def state_to_caller(self, extent: Extent, state: Any) -> Any:
        pairs = zip(self.members, state, strict=True)
        return tuple([member.state_to_caller(extent, own) for member, own in pairs])

    def state_arrays(self, argument: str, state: Any) -> Iterator[tuple[str, Any]]:
        for k, (member, own) in enumerate(zip(self.members, state or (), strict=False)):
            yield from member.state_arrays(f"{argument}[{k}]", own)


class SavedGroup:
    """The data that a group's run saves for backward: the data of its members' runs, by name, and more."""

    __slots__ = ("members",)

    def __init__(self, members: Mapping[str, Saved]) -> None:
        self.members = members

    @property
    def nbytes(self) -> int:
        return sum(member.nbytes for member in self.members.values())

    @property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """The masks of the run, under the group's names."""
        return prefixed({name: member.masks for name, member in self.members.items()})


class GroupParams(MutableMapping[str, Array]):
    """The parameters of all members as one live mapping: ``"0.weight_ih_l0"`` is ``weight_ih_l0`` of member "0".

    Entries are the members' own arrays. They can be updated in place or replaced, but not added or removed.
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


class LayerGroup(SequenceLayer, Described):
    """Base of `Stack`, `Bidirectional` and `Ensemble`.

    Attributes
    ----------
    params : mapping of str to ndarray
        Live and writable, as the params of a layer, under the members' names: ``"0.weight_ih_l0"``.
    """

    _assignable: ClassVar[frozenset[str]] = frozenset()
    #: Defaults of the entries of `_config`; repr does not show entries that have them.
    _defaults: ClassVar[dict[str, object]] = {}

    # Equality is by value and values change, so there is no hash.
    __hash__: ClassVar[None]  # type: ignore[assignment]

    _members: dict[str, Any]
    _plan: GroupForm
    input_size: int
    output_size: int

    def _configure(self, members: dict[str, Any], **values: Any) -> None:
        self.__dict__.update(values, _members=members)
        self.__dict__["_plan"] = self._form()

    def _form(self) -> GroupForm:
        """The properties of this group that calls need."""
        raise NotImplementedError

    def _with_members(self, members: dict[str, Any]) -> Self:
        """The same group with other members."""
        other = object.__new__(type(self))
        other._configure(members, **{k: v for k, v in self.__dict__.items() if k not in ("_members", "_plan")})
        return other

    def _with_params(self, params: dict[str, Array]) -> Self:
        """The same group with other parameters; see `Parameterized._with_params`."""
        own: dict[str, dict[str, Array]] = {prefix: {} for prefix in self._members}
        for name, array in params.items():
            prefix, _, rest = name.partition(".")
            if prefix not in own:
                raise _validate.no_parameter(type(self).__name__, name)
            own[prefix][rest] = array
        return self._with_members({name: member._with_params(own[name]) for name, member in self._members.items()})

    def _reversed(self) -> Self:
        return self._with_members({name: member._reversed() for name, member in self._members.items()})

    def _directed(self) -> dict[str, Any]:
        """The members in the direction in which they run."""
        return self._members

    def _given_masks(self, masks: Any) -> Mapping[str, Any]:
        owner = type(self).__name__
        if masks is None:
            return {}
        for prefix, own in _validate.member_masks(owner, masks, self._members, self._own_masks()).items():
            self._members[prefix]._given_masks(own)
        return dict(masks)

    def _own_masks(self) -> dict[str, float]:
        """Names and rates of the masks of the group itself."""
        return {}

    def freeze(self, precision: str | None = None) -> FrozenGroup:
        """Pack all parameters once, for inference; later changes of the members have no effect on it.

        Parameters
        ----------
        precision : "float32", "float64" or None
            The members' own dtype, which is also the meaning of None; others are not available yet.

        Returns
        -------
        FrozenGroup

        Raises
        ------
        ValueError
            The precision is not available.
        """
        group = self._with_members({name: member.freeze(precision) for name, member in self._directed().items()})
        group.__dict__.pop("rng", None)  # nothing is drawn
        return FrozenGroup(group, repr(self))

    def _stream(self, frozen: FrozenGroup, batch_size: int) -> Any:
        """One step at a time over the frozen group."""
        raise _validate.no_stream(type(self).__name__)

    @property
    def layers(self) -> tuple[Any, ...]:
        """The members, as they were given."""
        return tuple(self._members.values())

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
        return prefixed({name: member.state_dict() for name, member in self._members.items()})

    def load_state_dict(self, d: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Copy values into the parameters of all members.

        Parameters
        ----------
        d : mapping of str to array-like
            Under the names of ``state_dict()``.
        strict : bool
            Whether missing or unexpected names are errors.

        Returns
        -------
        LoadReport
            ``(missing_keys, unexpected_keys)``, both empty if `strict`.

        Raises
        ------
        ValueError, TypeError
            One message lists everything that is wrong. Nothing is changed in this case.
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
            spec._replace(name=f"{prefix}.{spec.name}")
            for prefix, member in self._members.items()
            for spec in parameter_specs(member)
        )

    def _config(self) -> dict[str, object]:
        """Constructor arguments besides the members, by name."""
        return {}

    def _shown_options(self) -> str:
        """The arguments that differ from their defaults."""
        return "".join(
            [f", {name}={value!r}" for name, value in self._config().items() if value != self._defaults[name]]
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}([{', '.join(map(repr, self.layers))}]{self._shown_options()})"

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
        return {"version": PICKLE_VERSION} | {name: value for name, value in self.__dict__.items() if name != "_plan"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        version = state.get("version")
        if version != PICKLE_VERSION:
            raise ValueError(f"{type(self).__name__}: pickle has version {version}; expected {PICKLE_VERSION}")
        values = {name: value for name, value in state.items() if name not in ("version", "_members")}
        owner = type(self).__name__
        for name in ("input_size", "output_size"):
            _validate.size(owner, name, values.get(name), 2 * _validate.LARGEST_SIZE)
        try:
            self._configure(dict(state["_members"]), **(self._defaults | values))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise _validate.no_pickle(owner, f"has no members that fit: {error!r}") from None


def parameter_specs(member: Any) -> tuple[ParameterSpec, ...]:
    """Names and shapes of the parameters of a layer or a group."""
    specs: tuple[ParameterSpec, ...]
    specs = member._parameter_specs() if isinstance(member, LayerGroup) else member._specs
    return specs


def prefixed(own: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Entries that members have by name, under the group's names."""
    return {f"{prefix}.{name}": value for prefix, values in own.items() for name, value in values.items()}


class FrozenGroup(Frozen):
    """A `Stack`, `Bidirectional` or `Ensemble` for inference only, made by ``freeze()``.

    Attributes
    ----------
    params : mapping of str to ndarray
        The parameters that were packed, read-only, under the group's names.
    precision : str
        "float32" or "float64".
    isa : str
        The instruction set for which the weights are packed: the one that was current when the object was made.
    nbytes : int
        Bytes of packed weights and parameters.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> net = fusedrnn.Stack([fusedrnn.LSTM(3, 8), fusedrnn.GRU(8, 5)])
    >>> frozen = net.freeze()
    >>> x = np.ones((7, 2, 3), np.float32)
    >>> bool((frozen(x)[0] == net(x)[0]).all())
    True
    >>> stream = frozen.stream(batch_size=2)
    >>> bool((np.stack([stream.step(x_t) for x_t in x]) == net(x)[0]).all())
    True
    """

    __slots__ = ("_group",)

    _group: LayerGroup  # whose members are frozen

    def __init__(self, group: LayerGroup, description: str) -> None:
        self._refuse_second_init()
        put = object.__setattr__
        put(self, "_group", group)
        put(self, "_description", description)
        put(self, "precision", group.layers[0].precision)

    @property
    def _plan(self) -> Form:
        return self._group._plan

    def _quick(self, x: Any, state: Any) -> tuple[Any, Any] | None:
        return self._group._quick(x, state)

    def _run(self, x: Array, state: Any, extent: Extent, outputs: Outputs, mode: Mode) -> Run[tuple[Any, Saved | None]]:
        return self._group._run(x, state, extent, outputs, mode)

    @property
    def params(self) -> dict[str, Array]:
        return prefixed({name: member.params for name, member in self._group._members.items()})

    @property
    def isa(self) -> str:
        isa: str = self._group.layers[0].isa
        return isa

    @property
    def nbytes(self) -> int:
        return sum(member.nbytes for member in self._group.layers)

    def stream(self, batch_size: int = 1) -> Any:
        """Process sequences one step at a time.

        Parameters
        ----------
        batch_size : int
            B, the number of sequences that advance together.

        Returns
        -------
        StackStream

        Raises
        ------
        ValueError
            A member runs backwards, the group is no `Stack`, or `batch_size` is less than 1.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> stream = fusedrnn.Stack([fusedrnn.LSTM(3, 8), fusedrnn.GRU(8, 5)]).freeze().stream(batch_size=2)
        >>> stream.step(np.ones((2, 3), np.float32)).shape
        (2, 5)
        """
        _validate.one_directional(self._plan.owner, self._plan.ways)
        return self._group._stream(self, batch_size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrozenGroup):
            return NotImplemented
        mine, theirs = (self._description, self.precision), (other._description, other.precision)
        return mine == theirs and same_arrays(self.params, other.params)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenGroup, (self._group, self._description)
